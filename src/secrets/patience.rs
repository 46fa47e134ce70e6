//! How long to wait before the next try of something that failed: 1 s to 30 s, twice as long each time, with jitter.
//!
//! Pure: time and chance are arguments. Does not know what is tried.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub struct Patience {
    failures: u32,
    until: Option<Instant>,
}

impl Patience {
    /// How long the pause is that this failure causes. `chance` is in 0..1.
    pub fn lose(&mut self, now: Instant, chance: f64) -> Duration {
        let doubled = FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST);
        self.failures += 1;
        // Between half of it and all, so that many who failed at once don't come back at once.
        let pause = FIRST.max(doubled.mul_f64(0.5 + chance / 2.0));
        self.until = Some(now + pause);
        pause
    }

    pub fn regain(&mut self) {
        *self = Patience::default();
    }

    /// What is left of the pause.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let left = self.until?.checked_duration_since(now)?;
        (!left.is_zero()).then_some(left)
    }
}

/// A number in 0..1 for jitter; nothing depends on its being hard to guess.
pub fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = RandomState::new().hash_one(0u8) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute() {
        let now = Instant::now();
        let mut patience = Patience::default();
        assert_eq!(patience.wait(now), None);
        let pauses: Vec<u64> = (0..8)
            .map(|_| patience.lose(now, 0.99999).as_secs_f64().round() as u64)
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert!(patience.wait(now).is_some());
        assert_eq!(patience.wait(now + LONGEST), None);
        assert!(patience.lose(now, 0.0) >= LONGEST / 2);
        patience.regain();
        assert_eq!(patience.wait(now), None);
        assert_eq!(patience.lose(now, 0.0), FIRST);
    }
}
