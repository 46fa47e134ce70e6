//! One secret of Secrets Manager: what is known of it, and when it is fetched again.
//!
//! Knows times and what a failure leads to; how a value is fetched, its `Fetch` knows.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::pair::{Pair, PairError};
use super::patience::{Patience, chance};
use super::ring::{Fetched, Ring, Version};
use super::vault::{VaultError, random};
use crate::config::{Secret, SecretArn, Secrets};
use crate::metrics;

/// Secrets Manager's label for one of a secret's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Current,
    Pending,
    Previous,
}

impl Stage {
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Current => "AWSCURRENT",
            Stage::Pending => "AWSPENDING",
            Stage::Previous => "AWSPREVIOUS",
        }
    }
}

/// A value, and how long it has been there.
pub struct Value {
    pub text: Secret<String>,
    pub age: Option<Duration>,
}

/// Why there is no value.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// Nothing has this label.
    #[error("there is no such secret, or it has no value")]
    NoValue,
    /// In the words of the SDK or the service, which quote no value.
    #[error("{0}")]
    Failed(String),
}

pub type Fetch = dyn Fn(SecretArn, Stage) -> Pin<Box<dyn Future<Output = Result<Value, FetchError>> + Send>>
    + Send
    + Sync;

#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("{0}")]
    Fetch(#[from] FetchError),
    #[error("it can't be used: {0}")]
    Pair(#[from] PairError),
    #[error("Weir is ending")]
    Ending,
}

/// How the last round ended.
#[derive(Clone, Debug, Default)]
struct Report {
    /// When it began; `None`: there has been none.
    began: Option<Instant>,
    trouble: Option<Arc<str>>,
}

/// Shared by all who need it; `keep` runs once.
pub struct Rotating {
    pub arn: SecretArn,
    /// The name that clients have to use, where one is configured.
    name: Option<Arc<str>>,
    salt: [u8; super::vault::SALT_BYTES],
    ring: ArcSwapOption<Ring>,
    report: watch::Sender<Report>,
    wanted: Notify,
    /// With the database, which refused everything that was known.
    patience: Mutex<Patience>,
}

impl Rotating {
    pub fn new(arn: SecretArn, name: Option<&str>) -> Result<Rotating, VaultError> {
        Ok(Rotating {
            arn,
            name: name.map(Arc::from),
            salt: random()?,
            ring: ArcSwapOption::empty(),
            report: watch::channel(Report::default()).0,
            wanted: Notify::new(),
            patience: Mutex::default(),
        })
    }

    pub fn is_of(&self, arn: &SecretArn, name: Option<&str>) -> bool {
        self.arn == *arn && self.name.as_deref() == name
    }

    /// What is known; `None` until it has been fetched for the first time.
    pub fn ring(&self) -> Option<Arc<Ring>> {
        self.ring.load_full()
    }

    /// The user that clients know.
    pub fn name(&self) -> Option<Arc<str>> {
        let of_ring = || self.ring().map(|ring| Arc::from(ring.name()));
        self.name.clone().or_else(of_ring)
    }

    /// Whether clients of this name are meant.
    pub fn is_for(&self, user: &str) -> bool {
        self.name.as_deref() == Some(user)
            || self
                .ring
                .load()
                .as_ref()
                .is_some_and(|ring| ring.name() == user || ring.has_role(user))
    }

    /// Why it has no value yet.
    pub fn lacks(&self) -> Option<String> {
        if self.ring.load().is_some() {
            return None;
        }
        let report = self.report.borrow();
        let why = report.trouble.as_deref().unwrap_or("it is being fetched");
        Some(format!("secret {}: {why}", self.arn))
    }

    /// Waits until it has been tried to fetch it at all. Cancel-safe.
    pub async fn tried(&self) {
        let mut report = self.report.subscribe();
        // The sender is ours: it can't be gone.
        let _ = report.wait_for(|report| report.began.is_some()).await;
    }

    /// Has it fetched at once, or as soon as may be, and waits for that: whatever was changed before this call is
    /// then known. All who call meanwhile share one round. Cancel-safe.
    pub async fn refetch(&self, terms: &Secrets) {
        let asked = Instant::now();
        let mut report = self.report.subscribe();
        self.wanted.notify_one();
        let done = report.wait_for(|report| report.began.is_some_and(|began| began >= asked));
        // As many as a round takes at most; then whoever asked goes on with what there is.
        let patience = terms.refetch_pause + terms.timeout * 3 + Duration::from_secs(1);
        let _ = tokio::time::timeout(patience, done).await;
    }

    /// The database has taken this one.
    pub fn taken(&self, version: &Arc<Version>) {
        self.patience().regain();
        let is_first = |ring: &Arc<Ring>| Arc::ptr_eq(ring.first(), version);
        if self.ring.load().as_ref().is_some_and(is_first) {
            return;
        }
        self.ring
            .rcu(|ring| ring.as_ref().map(|ring| Arc::new(ring.taken(version))));
        tracing::info!(arn = %self.arn, "the database takes another value of the secret than the last one did: it is being rotated");
    }

    /// The database has refused all there is: how long it is left alone.
    pub fn refused(&self) -> Duration {
        self.patience().lose(Instant::now().into_std(), chance())
    }

    pub fn pause(&self) -> Option<Duration> {
        self.patience().wait(Instant::now().into_std())
    }

    fn patience(&self) -> MutexGuard<'_, Patience> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches it whenever it is time. Never ends.
    pub async fn keep(&self, fetch: &Fetch, terms: &Secrets, meters: &metrics::Vault) {
        let mut fetching = Patience::default();
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
            let outcome = self.round(fetch, terms, why).await;
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
            self.tell(now, outcome);
        }
    }

    fn tell(&self, began: Instant, outcome: Result<(), RoundError>) {
        let trouble = outcome.err().map(|error| Arc::from(error.to_string()));
        let before = self.report.borrow().trouble.clone();
        match &trouble {
            Some(reason) if before != trouble => {
                let serves = self.ring.load().is_some();
                tracing::warn!(arn = %self.arn, %reason, old_value_serves = serves, "a secret could not be fetched");
            }
            None if before.is_some() => {
                tracing::info!(arn = %self.arn, "the secret is fetched again")
            }
            Some(_) | None => {}
        }
        self.report.send_replace(Report {
            began: Some(began),
            trouble,
        });
    }

    async fn round(&self, fetch: &Fetch, terms: &Secrets, why: Why) -> Result<(), RoundError> {
        let value = fetch(self.arn.clone(), Stage::Current).await?;
        let current = Pair::parse(value.text.expose())?;
        let is_new = value.age.is_some_and(|age| age < terms.old_password_ttl);
        let fetched = Fetched {
            current,
            age: value.age,
            pending: match why {
                Why::Failure => self.other(fetch, Stage::Pending).await,
                Why::Age => None,
            },
            previous: match why {
                Why::Age if !is_new => None,
                Why::Age | Why::Failure => self.other(fetch, Stage::Previous).await,
            },
        };
        let (old, salt, keep) = (self.ring(), self.salt, terms.old_password_ttl);
        let now = Instant::now().into_std();
        // Each new password takes milliseconds, in which clients would wait.
        let renew = move || Ring::renew(old.as_deref(), fetched, salt, now, keep);
        let ring = tokio::task::spawn_blocking(renew);
        let ring = Arc::new(ring.await.map_err(|_| RoundError::Ending)?);
        // What the database has taken in the meantime will be found out again.
        if self
            .ring()
            .is_none_or(|old| !Arc::ptr_eq(old.first(), ring.first()))
        {
            self.patience().regain();
        }
        self.ring.store(Some(ring));
        Ok(())
    }

    /// A value without which a round is a round all the same.
    async fn other(&self, fetch: &Fetch, stage: Stage) -> Option<Pair> {
        let value = match fetch(self.arn.clone(), stage).await {
            Ok(value) => value,
            Err(FetchError::NoValue) => return None,
            Err(error @ FetchError::Failed(_)) => {
                tracing::debug!(arn = %self.arn, stage = stage.name(), %error, "no value");
                return None;
            }
        };
        // Half-made by a rotation, perhaps.
        Pair::parse(value.text.expose()).ok()
    }
}

/// Why a round is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Age,
    /// A login failed: all there is is wanted.
    Failure,
}

impl std::fmt::Debug for Rotating {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rotating({})", self.arn)
    }
}
