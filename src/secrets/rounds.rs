//! When a secret is fetched: when what is known has its age, and when somebody doubts it.
//!
//! Knows times and what a failure leads to; what a round does, its owner knows.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::patience::{self, chance};
use crate::config::{SecretArn, Secrets};
use crate::metrics;

/// Why a round is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Age,
    /// A login failed: all there is is wanted.
    Failure,
}

/// How the last round ended.
#[derive(Clone, Debug, Default)]
struct Report {
    /// When it began; `None`: there has been none.
    began: Option<Instant>,
    trouble: Option<Arc<str>>,
}

/// Of one secret; shared by all who need it. `keep` runs once.
#[derive(Default)]
pub struct Rounds {
    report: watch::Sender<Report>,
    wanted: Notify,
    /// When the last round began, whether or not it is over.
    latest: Mutex<Option<Instant>>,
}

/// How long somebody waits for what he doubts to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Until there is a round that began after he came.
    Full,
    /// For a round that is under way, or may begin at once; for no other.
    Little,
}

impl Rounds {
    /// Why there is nothing yet, for a secret that has never been fetched.
    pub fn lacks(&self, arn: &SecretArn) -> String {
        let report = self.report.borrow();
        let why = report.trouble.as_deref().unwrap_or("it is being fetched");
        format!("secret {arn}: {why}")
    }

    /// Waits until it has been tried to fetch it at all. Cancel-safe.
    pub async fn tried(&self) {
        let mut report = self.report.subscribe();
        // The sender is ours: it can't be gone.
        let _ = report.wait_for(|report| report.began.is_some()).await;
    }

    /// Has a round begin at once, or as soon as may be.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// The same, and waits for that round: whatever was changed before this call is then known. All who call meanwhile
    /// share one. Cancel-safe.
    pub async fn refetch(&self, terms: &Secrets, patience: Patience) {
        let asked = Instant::now();
        let mut report = self.report.subscribe();
        self.want();
        let latest = *self.latest();
        let ended = report.borrow().began;
        let since = match (patience, latest) {
            (Patience::Full, _) | (Patience::Little, None) => asked,
            (Patience::Little, Some(began)) if latest != ended => began,
            (Patience::Little, Some(began)) if began.elapsed() >= terms.refetch_pause => asked,
            (Patience::Little, Some(_)) => return,
        };
        let done = report.wait_for(|report| report.began.is_some_and(|began| began >= since));
        // As much as a round takes at most; then whoever asked goes on with what there is.
        let most = terms.refetch_pause + terms.timeout * 3 + Duration::from_secs(1);
        let _ = tokio::time::timeout(most, done).await;
    }

    /// Has a round made whenever it is time. `serves`: whether something older is there. Never ends.
    pub async fn keep<R, E>(
        &self,
        arn: &SecretArn,
        terms: &Secrets,
        meters: &metrics::Vault,
        round: impl Fn(Why) -> R,
        serves: impl Fn() -> bool,
    ) where
        R: Future<Output = Result<(), E>>,
        E: Display,
    {
        let mut fetching = patience::Patience::default();
        let mut due = Instant::now();
        let mut began: Option<Instant> = None;
        loop {
            let why = tokio::select! {
                () = tokio::time::sleep_until(due) => Why::Age,
                () = self.wanted.notified() => Why::Failure,
            };
            if let (Why::Failure, Some(began)) = (why, began) {
                tokio::time::sleep_until(began + terms.refetch_pause).await;
            }
            let now = Instant::now();
            began = Some(now);
            *self.latest() = began;
            let outcome = round(why).await;
            due = match &outcome {
                Ok(()) => {
                    fetching.regain();
                    Instant::now() + terms.ttl.mul_f64(0.8 + 0.4 * chance())
                }
                Err(_) => Instant::now() + fetching.lose(now.into_std(), chance()),
            };
            meters.fetched(match &outcome {
                Ok(()) => "ok",
                Err(_) => "failed",
            });
            let trouble = outcome.err().map(|error| Arc::from(error.to_string()));
            self.tell(arn, now, trouble, serves());
        }
    }

    fn latest(&self) -> MutexGuard<'_, Option<Instant>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, arn: &SecretArn, began: Instant, trouble: Option<Arc<str>>, serves: bool) {
        let before = self.report.borrow().trouble.clone();
        match &trouble {
            Some(reason) if before != trouble => {
                tracing::warn!(%arn, %reason, old_value_serves = serves, "a secret could not be fetched");
            }
            None if before.is_some() => tracing::info!(%arn, "the secret is fetched again"),
            Some(_) | None => {}
        }
        self.report.send_replace(Report {
            began: Some(began),
            trouble,
        });
    }
}
