//! What is known of names, and whether it may still be used.
//!
//! Pure: time is an argument, answers come in as values. Asks nobody, and does not know who does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::ResolveError;

pub type Addresses = Arc<[IpAddr]>;
pub type Outcome = Result<Addresses, ResolveError>;

/// Whatever the TTL, a name is asked for no more often: many servers say 0, and storms of connections ask for one name.
pub const MIN_TTL: Duration = Duration::from_secs(1);

/// How long the last addresses serve, at most, while DNS says that there are none. That happens when records are
/// replaced by deleting and making them; if it lasts, the host is gone, and its address may become somebody else's.
pub const MAX_DENIED: Duration = Duration::from_secs(60);

/// How long a dial waits for an answer when the last one, or the last error, would do.
pub const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// An answer is asked for anew after this, if its TTL is longer.
    pub max_ttl: Duration,
    /// How long addresses serve beyond their time, at most, while DNS fails.
    pub max_stale: Duration,
    /// Names remembered.
    pub max_names: usize,
}

/// What to do about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This will do.
    Known(Outcome),
    /// To be asked for. After so long this will do, if there is anything.
    Due(Option<(Outcome, Duration)>),
}

/// What has changed with an answer that somebody should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Nothing,
    /// From here on, old addresses are used.
    Stale,
    /// Not any more.
    Fresh,
}

#[derive(Debug)]
struct Known {
    good: Option<Good>,
    /// Why there is no better answer.
    failed: Option<ResolveError>,
    /// Until when no other answer is asked for.
    settled_until: Instant,
    used_at: Instant,
}

#[derive(Debug)]
struct Good {
    addresses: Addresses,
    /// End of their TTL.
    until: Instant,
}

/// Names and what DNS last said of them.
#[derive(Debug)]
pub struct Cache {
    terms: Terms,
    known: HashMap<Arc<str>, Known>,
}

impl Cache {
    pub fn new(terms: Terms) -> Cache {
        Cache {
            terms,
            known: HashMap::new(),
        }
    }

    pub fn standing(&mut self, host: &str, now: Instant) -> Standing {
        let Some(known) = self.known.get_mut(host) else {
            return Standing::Due(None);
        };
        known.used_at = now;
        let Some(outcome) = known.outcome(self.terms, now) else {
            return Standing::Due(None);
        };
        if now < known.settled_until {
            return Standing::Known(outcome);
        }
        let patience = match (&outcome, &known.failed) {
            // DNS fails: no dial need wait to see that again.
            (Ok(_), Some(_)) => Duration::ZERO,
            (Ok(_), None) | (Err(_), _) => PATIENCE,
        };
        Standing::Due(Some((outcome, patience)))
    }

    /// DNS has spoken of a name, or could not be asked. What follows for whoever asked.
    pub fn note(
        &mut self,
        host: &Arc<str>,
        answer: Result<(Addresses, Duration), ResolveError>,
        now: Instant,
    ) -> (Outcome, Notice) {
        self.make_room(host);
        let known = self.known.entry(Arc::clone(host)).or_insert(Known {
            good: None,
            failed: None,
            settled_until: now,
            used_at: now,
        });
        let was_stale = known.is_stale(self.terms, now);
        let outcome = match answer {
            Ok((addresses, ttl)) => {
                let until = now + ttl.min(self.terms.max_ttl).max(MIN_TTL);
                known.settled_until = until;
                known.failed = None;
                known.good = Some(Good {
                    addresses: Arc::clone(&addresses),
                    until,
                });
                Ok(addresses)
            }
            Err(error) => {
                known.settled_until = now + MIN_TTL;
                known.failed = Some(error.clone());
                let outcome = known.outcome(self.terms, now).unwrap_or(Err(error));
                if outcome.is_err() {
                    known.good = None;
                }
                outcome
            }
        };
        let notice = match (was_stale, known.is_stale(self.terms, now)) {
            (false, true) => Notice::Stale,
            (true, false) if outcome.is_ok() => Notice::Fresh,
            (true, _) | (false, false) => Notice::Nothing,
        };
        (outcome, notice)
    }

    /// Whoever was not asked about for the longest time is forgotten.
    fn make_room(&mut self, newcomer: &Arc<str>) {
        if self.known.contains_key(newcomer) || self.known.len() < self.terms.max_names {
            return;
        }
        let oldest = self.known.iter().min_by_key(|(_, known)| known.used_at);
        if let Some(host) = oldest.map(|(host, _)| Arc::clone(host)) {
            self.known.remove(&host);
        }
    }
}

impl Known {
    /// `None`: what was known is too old.
    fn outcome(&self, terms: Terms, now: Instant) -> Option<Outcome> {
        let max_stale = match &self.failed {
            Some(error) if error.is_denial() => terms.max_stale.min(MAX_DENIED),
            Some(_) | None => terms.max_stale,
        };
        match &self.good {
            Some(good) if now < good.until + max_stale => Some(Ok(Arc::clone(&good.addresses))),
            Some(_) | None => self.failed.clone().map(Err),
        }
    }

    fn is_stale(&self, terms: Terms, now: Instant) -> bool {
        self.failed.is_some() && matches!(self.outcome(terms, now), Some(Ok(_)))
    }
}

#[cfg(test)]
mod tests;
