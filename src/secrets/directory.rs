//! Users who are not listed: looked up in the database, remembered for a while.
//!
//! Knows what is remembered and for how long; how the database is asked, its `Ask` knows.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::credential::Credential;
use super::vault::NotYet;
use crate::config::{self, Secret};
use crate::metrics;
use crate::protocol::scram::Verifier;

/// What the database has for a user: its verifier, if there is such a user and it has one.
pub type Found = Result<Option<Secret<String>>, String>;
pub type Ask = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Found> + Send>> + Send + Sync>;

/// PostgreSQL cuts names there; a longer one is nobody's.
const MAX_NAME_BYTES: usize = 63;

/// So many are looked at to find one that can be forgotten.
const SAMPLE: usize = 16;

pub struct Directory {
    ask: Ask,
    terms: Terms,
    slots: Mutex<HashMap<Box<str>, Arc<Slot>>>,
    at_a_time: Semaphore,
    meters: metrics::Vault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub ttl: Duration,
    pub negative_ttl: Duration,
    pub max: usize,
    pub at_a_time: usize,
}

impl Terms {
    pub fn new(auth: &config::Auth) -> Terms {
        Terms {
            ttl: auth.query_ttl,
            negative_ttl: auth.query_negative_ttl,
            max: auth.max_query_cache,
            at_a_time: auth.max_queries,
        }
    }
}

/// One name. Whoever holds `asking` asks for all who wait.
#[derive(Default)]
struct Slot {
    asking: tokio::sync::Mutex<()>,
    answer: ArcSwapOption<Answer>,
}

struct Answer {
    credential: Option<Arc<Credential>>,
    at: Instant,
    /// A client's proof didn't fit: the password may have been changed.
    doubted: AtomicBool,
}

impl Answer {
    fn holds(&self, terms: &Terms) -> bool {
        let ttl = match &self.credential {
            Some(_) if !self.doubted.load(Ordering::Relaxed) => terms.ttl,
            Some(_) | None => terms.negative_ttl,
        };
        self.at.elapsed() < ttl
    }
}

impl Directory {
    pub fn new(ask: Ask, terms: Terms, meters: metrics::Vault) -> Directory {
        Directory {
            ask,
            terms,
            slots: Mutex::default(),
            at_a_time: Semaphore::new(terms.at_a_time),
            meters,
        }
    }

    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Asks the database unless the answer is known. While it can't be asked, an old answer serves.
    /// Cancel-safe: whoever waits asks instead.
    pub async fn find(&self, user: &str) -> Result<Option<Arc<Credential>>, NotYet> {
        if user.len() > MAX_NAME_BYTES {
            return Ok(None);
        }
        let slot = self.slot(user);
        if let Some(known) = self.known(&slot) {
            return Ok(known);
        }
        let _only = slot.asking.lock().await;
        // Another may have asked meanwhile.
        if let Some(known) = self.known(&slot) {
            return Ok(known);
        }
        let found = match self.at_a_time.acquire().await {
            Ok(_place) => (self.ask)(user.to_owned()).await,
            Err(_) => Err("Weir is ending".to_owned()),
        };
        let old = slot.answer.load_full();
        match found {
            Ok(text) => {
                self.meters
                    .queried(if text.is_some() { "found" } else { "unknown" });
                let before = old.as_ref().and_then(|old| old.credential.as_ref());
                let credential = text.and_then(|text| read(user, &text, before));
                slot.answer.store(Some(Arc::new(Answer {
                    credential: credential.clone(),
                    at: Instant::now(),
                    doubted: AtomicBool::new(false),
                })));
                Ok(credential)
            }
            Err(reason) => {
                self.meters.queried("failed");
                tracing::warn!(%reason, "a user could not be looked up in the database");
                match old.and_then(|old| old.credential.clone()) {
                    Some(credential) => Ok(Some(credential)),
                    None => Err(NotYet(format!("users can't be looked up: {reason}"))),
                }
            }
        }
    }

    /// What is remembered, however old: for the database's side, where a wrong one does no harm.
    pub fn remembered(&self, user: &str) -> Option<Arc<Credential>> {
        let slot = self.slots().get(user).cloned()?;
        slot.answer.load().as_ref()?.credential.clone()
    }

    /// A proof of this user's didn't fit, or the database didn't take what was learnt: it is asked again soon.
    pub fn doubt(&self, user: &str) {
        let slot = self.slots().get(user).cloned();
        if let Some(answer) = slot.and_then(|slot| slot.answer.load_full()) {
            answer.doubted.store(true, Ordering::Relaxed);
        }
    }

    /// The answer, as long as it holds.
    fn known(&self, slot: &Slot) -> Option<Option<Arc<Credential>>> {
        let answer = slot.answer.load_full()?;
        answer.holds(&self.terms).then(|| answer.credential.clone())
    }

    fn slot(&self, user: &str) -> Arc<Slot> {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(user) {
            return Arc::clone(slot);
        }
        while slots.len() >= self.terms.max {
            let Some(forgotten) = self.dispensable(&slots) else {
                break;
            };
            slots.remove(&forgotten);
        }
        let slot = Arc::<Slot>::default();
        slots.insert(user.into(), Arc::clone(&slot));
        slot
    }

    /// Of a few the one whose loss is least: a name that is nobody's before a user, an old answer before a new one.
    /// So guessing names does not drive out those that exist.
    fn dispensable(&self, slots: &HashMap<Box<str>, Arc<Slot>>) -> Option<Box<str>> {
        let worth = |slot: &Slot| {
            let answer = slot.answer.load();
            let is_user = answer
                .as_ref()
                .is_some_and(|answer| answer.credential.is_some());
            (is_user, answer.as_ref().map(|answer| answer.at))
        };
        let few = slots.iter().take(SAMPLE);
        let least = few.min_by_key(|(_, slot)| worth(slot))?;
        Some(least.0.clone())
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same verifier keeps what was learnt for it.
fn read(
    user: &str,
    text: &Secret<String>,
    old: Option<&Arc<Credential>>,
) -> Option<Arc<Credential>> {
    match Verifier::parse(text.expose()) {
        Ok(verifier) => match old {
            Some(old) if *old.verifier() == verifier => Some(Arc::clone(old)),
            Some(_) | None => Some(Arc::new(Credential::of_verifier(user.into(), verifier))),
        },
        Err(error) => {
            tracing::warn!(?user, %error, "what the database has for this user is no SCRAM verifier: it can't come in");
            None
        }
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Directory({:?})", self.terms)
    }
}
