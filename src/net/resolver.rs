//! Where hosts are: every name that Weir dials goes by here, so that all workers know what one of them has heard.
//!
//! `asker` asks, `cache` has the rules; this has those who want the same name wait for one answer. Knows nothing of who
//! is dialled or why.

mod asker;
mod cache;
mod error;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub use self::asker::{Answer, Asker, Families};
use self::cache::{Addresses, Cache, Notice, Outcome, Standing, Terms};
pub use self::error::ResolveError;
use crate::config::Dns;

/// More than there are instances and issuers of tokens; names come from the configuration and from the cluster.
const MAX_NAMES: usize = 256;

/// One for the whole process; clones are the same one.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    asker: Asker,
    state: Mutex<State>,
}

struct State {
    cache: Cache,
    /// Names that are being asked for. Each task takes its own out again.
    flights: HashMap<Arc<str>, Flight>,
}

/// Closed without an outcome when the runtime that asked has ended.
type Flight = watch::Receiver<Option<Outcome>>;

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolver").field(&self.0.asker).finish()
    }
}

impl Resolver {
    pub fn new(config: &Dns) -> Resolver {
        let terms = Terms {
            max_ttl: config.max_ttl,
            max_stale: config.max_stale,
            max_names: MAX_NAMES,
        };
        Resolver(Arc::new(Inner {
            asker: Asker::new(config.servers.clone(), config.timeout),
            state: Mutex::new(State {
                cache: Cache::new(terms),
                flights: HashMap::new(),
            }),
        }))
    }

    /// With no server but the system's, and short of patience.
    #[cfg(test)]
    pub fn of_system() -> Resolver {
        Resolver::new(&Dns {
            servers: Vec::new(),
            timeout: Duration::from_secs(1),
            max_ttl: Duration::from_secs(60),
            max_stale: Duration::from_secs(60),
        })
    }

    /// For those who want to hear it from DNS itself.
    pub fn asker(&self) -> &Asker {
        &self.0.asker
    }

    /// All addresses of a host, in DNS' order. Cancel-safe: an answer that was asked for is remembered all the same.
    pub async fn resolve(&self, host: &str, deadline: Instant) -> Outcome {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok([address].into());
        }
        // Another time only where it was asked for by another runtime, which has ended meanwhile.
        for _ in 0..2 {
            let (last, mut flight) = match self.look(host) {
                Step::Done(outcome) => return outcome,
                Step::Wait { last, flight } => (last, flight),
            };
            let (last, until) = match last {
                Some((last, patience)) => (Some(last), deadline.min(Instant::now() + patience)),
                None => (None, deadline),
            };
            let landed = timeout_at(until, flight.wait_for(Option::is_some)).await;
            let landed = landed.map(|landed| landed.ok().and_then(|outcome| outcome.clone()));
            match (landed, last) {
                (Ok(Some(outcome)), _) | (Ok(None) | Err(_), Some(outcome)) => return outcome,
                (Ok(None), None) => {}
                (Err(_), None) => break,
            }
        }
        Err(ResolveError::Pending { host: host.into() })
    }

    fn look(&self, host: &str) -> Step {
        let mut state = self.state();
        let last = match state.cache.standing(host, Instant::now().into_std()) {
            Standing::Known(outcome) => return Step::Done(outcome),
            Standing::Due(last) => last,
        };
        let under_way = state.flights.get(host);
        let under_way = under_way.filter(|flight| flight.has_changed().is_ok());
        let flight = match under_way {
            Some(flight) => flight.clone(),
            None => self.set_off(&mut state, host),
        };
        Step::Wait { last, flight }
    }

    /// Asks in a task of its own: whoever asks first may have less time than others.
    fn set_off(&self, state: &mut State, host: &str) -> Flight {
        let (land, flight) = watch::channel(None);
        let host: Arc<str> = host.into();
        state.flights.insert(Arc::clone(&host), flight.clone());
        let resolver = self.clone();
        tokio::spawn(async move {
            let answer = resolver.0.asker.ask(&host, Families::All).await;
            land.send_replace(Some(resolver.land(&host, answer)));
        });
        flight
    }

    fn land(&self, host: &Arc<str>, answer: Result<Answer, ResolveError>) -> Outcome {
        let why = answer.as_ref().err().cloned();
        let answer = answer.map(|answer| (answer.addresses.into(), answer.shortest_ttl));
        let (outcome, notice) = {
            let mut state = self.state();
            state.flights.remove(host);
            let now = Instant::now().into_std();
            state.cache.note(host, answer, now)
        };
        match (notice, why) {
            (Notice::Stale, Some(error)) => {
                tracing::warn!(%error, addresses = %told(&outcome), "a host is dialled where it was last");
            }
            (Notice::Fresh, _) => {
                tracing::info!(%host, addresses = %told(&outcome), "DNS knows a host again");
            }
            (Notice::Stale | Notice::Nothing, _) => {}
        }
        outcome
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Step {
    Done(Outcome),
    Wait {
        /// What would do after so long.
        last: Option<(Outcome, Duration)>,
        flight: Flight,
    },
}

fn told(outcome: &Outcome) -> String {
    let addresses = outcome.iter().flat_map(|all: &Addresses| all.iter());
    let addresses: Vec<String> = addresses.map(IpAddr::to_string).collect();
    addresses.join(", ")
}

#[cfg(test)]
mod tests;
