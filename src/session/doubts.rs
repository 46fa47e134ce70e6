//! Values that some server of a pool has refused, though another had taken them.
//!
//! Shared by the sessions of a pool. Knows which, and for how long that is worth remembering; not what is made of it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::server::Settings;

/// So long a value that was refused once is awaited wherever it is given.
const LASTS: Duration = Duration::from_secs(600);

/// So long what a fresh connection has refused is not tried on another one.
const HOPELESS_LASTS: Duration = Duration::from_secs(5);

/// Values remembered. With more of them all are forgotten: a value more that is refused costs a connection.
const MAX: usize = 1024;

/// Where a value was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// By a connection that others had used before: another may take it.
    Used,
    /// By one that nobody had used.
    Fresh,
}

#[derive(Clone, Copy, Debug)]
struct Doubt {
    until: Instant,
    hopeless_until: Option<Instant>,
}

#[derive(Debug, Default)]
pub struct Doubts {
    /// As many as there are in `known`: as a rule there are none.
    count: AtomicUsize,
    known: Mutex<HashMap<u64, Doubt>>,
    hasher: RandomState,
}

impl Doubts {
    /// Whether one of these values may be refused.
    #[inline]
    pub fn concern(&self, settings: &Settings) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.is_among(settings, Instant::now())
    }

    fn is_among(&self, settings: &Settings, now: Instant) -> bool {
        let known = self.known();
        settings.iter().any(|(name, value)| {
            let doubt = known.get(&self.key(name, Some(value)));
            doubt.is_some_and(|doubt| now < doubt.until)
        })
    }

    pub fn note(&self, name: &str, value: Option<&[u8]>, by: By, now: Instant) {
        let mut known = self.known();
        if known.len() >= MAX {
            known.clear();
        }
        let doubt = Doubt {
            until: now + LASTS,
            hopeless_until: (by == By::Fresh).then(|| now + HOPELESS_LASTS),
        };
        known.insert(self.key(name, value), doubt);
        self.count.store(known.len(), Ordering::Relaxed);
    }

    /// Whether a fresh connection has just refused it: the next one would, too.
    pub fn is_hopeless(&self, name: &str, value: Option<&[u8]>, now: Instant) -> bool {
        let known = self.known();
        let doubt = known.get(&self.key(name, value));
        doubt
            .and_then(|doubt| doubt.hopeless_until)
            .is_some_and(|until| now < until)
    }

    fn key(&self, name: &str, value: Option<&[u8]>) -> u64 {
        self.hasher.hash_one((name, value))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, Doubt>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_is_about_one_value_and_passes() {
        let doubts = Doubts::default();
        let settings = |value: &[u8]| Settings::new([("a.b".into(), value.to_vec())]);
        let now = Instant::now();
        assert!(!doubts.concern(&settings(b"1")));
        doubts.note("a.b", Some(b"1"), By::Used, now);
        assert!(doubts.concern(&settings(b"1")) && !doubts.concern(&settings(b"2")));
        assert!(!doubts.is_hopeless("a.b", Some(b"1"), now));
        assert!(!doubts.is_among(&settings(b"1"), now + LASTS));
        doubts.note("a.b", Some(b"1"), By::Fresh, now);
        assert!(doubts.is_hopeless("a.b", Some(b"1"), now));
        assert!(!doubts.is_hopeless("a.b", Some(b"1"), now + HOPELESS_LASTS));
    }

    #[test]
    fn they_are_bounded() {
        let doubts = Doubts::default();
        let now = Instant::now();
        for number in 0..=MAX {
            doubts.note(&number.to_string(), None, By::Used, now);
        }
        assert!(doubts.known().len() <= MAX);
    }
}
