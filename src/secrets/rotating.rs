//! One secret of Secrets Manager: what is known of it, and when it is fetched again.
//!
//! Knows what a round fetches; how a value is fetched, its `Fetch` knows.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::pair::{Pair, PairError};
use super::patience::{Patience, chance};
use super::ring::{Fetched, Ring, Version};
use super::rounds::{Rounds, Why};
use super::vault::{VaultError, random};
use crate::config::{Secret, SecretArn, Secrets};
use crate::metrics;
use crate::protocol::scram::SALT_BYTES;

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

/// Shared by all who need it; `keep` runs once.
pub struct Rotating {
    pub arn: SecretArn,
    /// The name that clients have to use, where one is configured.
    name: Option<Arc<str>>,
    salt: [u8; SALT_BYTES],
    ring: ArcSwapOption<Ring>,
    rounds: Rounds,
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
            rounds: Rounds::default(),
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
        let is_known = self.ring.load().is_some();
        (!is_known).then(|| self.rounds.lacks(&self.arn))
    }

    pub fn rounds(&self) -> &Rounds {
        &self.rounds
    }

    /// Of those that one login has tried, the database has taken the last.
    pub fn taken(&self, tried: &[Arc<Version>]) {
        self.patience().regain();
        // That it takes what is tried first is no news; a login that began before a rotation may even end after it.
        let [_, .., version] = tried else {
            return;
        };
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
        let round = |why| self.round(fetch, terms, why);
        let serves = || self.ring.load().is_some();
        let kept = self.rounds.keep(&self.arn, terms, meters, round, serves);
        kept.await;
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

impl std::fmt::Debug for Rotating {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rotating({})", self.arn)
    }
}
