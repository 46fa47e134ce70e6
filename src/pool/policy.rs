//! Every knob of a pool, in one place. Knows the numbers; does not know where they were configured.

use std::time::Duration;

/// How one target's connections are opened, kept and waited for.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Longest wait for a connection while the target is reachable. Zero: nobody waits at all. What such
    /// a client asked for in vain is opened all the same, if there is room, for the next one.
    pub borrow_timeout: Duration,
    /// Longest wait while it is not.
    pub unavailable_timeout: Duration,
    /// Clients that may wait in one pool.
    pub max_waiting: usize,
    /// Connections of the process's own to the target, outside the pools: they count in its part of the cap.
    pub kept_aside: usize,
    /// Connections being opened at the same time, all pools of the target together.
    pub max_opening: usize,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Connections that each pool keeps ready.
    pub min_idle: usize,
    /// Share of the cap that may lie idle for longer than a moment.
    pub max_idle_percent: u32,
    pub idle_timeout: Duration,
    /// Age at which a connection is replaced; each gets up to a tenth less, at random.
    pub lifetime: Duration,
    /// How long cleaning or closing one connection may take.
    pub reset_timeout: Duration,
}

impl Policy {
    /// Idle for this long, a connection beyond `max_idle_percent` is surplus.
    pub fn surplus_after(&self) -> Duration {
        self.idle_timeout / 10
    }

    /// How many openings may run at once for so many waiters.
    pub fn openings_for(&self, waiting: usize) -> usize {
        waiting.div_ceil(2).clamp(1, self.max_opening)
    }

    /// Pause after the given number of failures in a row; `jitter` is in 0..1.
    pub fn backoff(&self, failures: u32, jitter: f64) -> Duration {
        let doubled = self
            .backoff_min
            .saturating_mul(1 << failures.saturating_sub(1).min(20));
        doubled.min(self.backoff_max).mul_f64(1.0 - jitter / 2.0)
    }

    /// Lifetime of one connection; `jitter` is in 0..1.
    pub fn lifetime_with(&self, jitter: f64) -> Duration {
        self.lifetime.mul_f64(1.0 - jitter / 10.0)
    }
}

#[cfg(test)]
pub(super) fn for_tests() -> Policy {
    Policy {
        borrow_timeout: Duration::from_secs(2),
        unavailable_timeout: Duration::from_secs(1),
        max_waiting: 100,
        kept_aside: 0,
        max_opening: 4,
        backoff_min: Duration::from_millis(50),
        backoff_max: Duration::from_secs(1),
        min_idle: 0,
        max_idle_percent: 100,
        idle_timeout: Duration::from_secs(300),
        lifetime: Duration::from_secs(3600),
        reset_timeout: Duration::from_secs(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_the_least_to_the_most() {
        let policy = for_tests();
        let pauses: Vec<u128> = [1, 2, 3, 6, 60]
            .map(|failures| policy.backoff(failures, 0.0).as_millis())
            .into();
        assert_eq!(pauses, [50, 100, 200, 1000, 1000]);
        assert_eq!(policy.backoff(1, 1.0).as_millis(), 25);
    }

    #[test]
    fn openings_follow_the_waiters() {
        let policy = for_tests();
        assert_eq!(
            [0, 1, 2, 3, 100].map(|n| policy.openings_for(n)),
            [1, 1, 1, 2, 4]
        );
    }
}
