//! How far an instance has come in what others wrote, as those have heard who asked it.
//!
//! Knows that an instance may be replaced by another with less, and what was heard of the one says nothing of the other.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The last that was heard, of the generation of connections that it was heard on.
#[derive(Debug, Default)]
pub struct Replayed(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    generation: u64,
    position: u64,
    when: Option<Instant>,
}

impl Replayed {
    /// It has replayed this much at least.
    pub fn note(&self, generation: u64, position: u64, when: Instant) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if generation < heard.generation {
            return;
        }
        if generation > heard.generation {
            *heard = Heard::default();
        }
        heard.generation = generation;
        heard.position = heard.position.max(position);
        heard.when = Some(when);
    }

    /// What this generation has replayed at least; 0: that is not known.
    pub fn position(&self, generation: u64) -> u64 {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match heard.generation == generation {
            true => heard.position,
            false => 0,
        }
    }

    /// Whether it was asked within this time.
    pub fn is_fresh(&self, generation: u64, now: Instant, within: Duration) -> bool {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |when| now.saturating_duration_since(when);
        heard.generation == generation && heard.when.is_some_and(|when| since(when) < within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_of_one_says_nothing_of_the_next() {
        let now = Instant::now();
        let replayed = Replayed::default();
        assert_eq!(replayed.position(0), 0);
        replayed.note(1, 100, now);
        replayed.note(1, 90, now);
        assert_eq!((replayed.position(1), replayed.position(2)), (100, 0));
        replayed.note(2, 50, now);
        // Heard on a connection of before.
        replayed.note(1, 120, now);
        assert_eq!((replayed.position(2), replayed.position(1)), (50, 0));
        let soon = Duration::from_millis(10);
        assert!(replayed.is_fresh(2, now, soon) && !replayed.is_fresh(1, now, soon));
        assert!(!replayed.is_fresh(2, now + soon, soon));
    }
}
