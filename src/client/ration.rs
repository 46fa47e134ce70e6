//! So many log lines a second: whoever is refused again and again must not fill the disk.
//!
//! Pure: time is an argument. Knows nothing of what the lines say.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Ration {
    /// `None`: all.
    per_second: Option<u32>,
    second: Mutex<Second>,
}

#[derive(Debug, Default)]
struct Second {
    began: Option<Instant>,
    written: u32,
    left_out: u64,
}

/// Whether a line is to be written.
#[derive(Debug, PartialEq, Eq)]
pub enum Leave {
    Given {
        /// Lines left out since the last one.
        left_out: u64,
    },
    Denied,
}

impl Ration {
    pub fn new(per_second: Option<u32>) -> Ration {
        Ration {
            per_second,
            second: Mutex::default(),
        }
    }

    pub fn ask(&self, now: Instant) -> Leave {
        let Some(most) = self.per_second else {
            return Leave::Given { left_out: 0 };
        };
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over =
            |began: Instant| now.saturating_duration_since(began) >= Duration::from_secs(1);
        if second.began.is_none_or(is_over) {
            (second.began, second.written) = (Some(now), 0);
        }
        if second.written >= most {
            second.left_out += 1;
            return Leave::Denied;
        }
        second.written += 1;
        Leave::Given {
            left_out: std::mem::take(&mut second.left_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second_and_the_rest_is_counted() {
        let (ration, start) = (Ration::new(Some(2)), Instant::now());
        let given = |left_out| Leave::Given { left_out };
        let at = |ms| ration.ask(start + Duration::from_millis(ms));
        assert_eq!(
            [at(0), at(1), at(2), at(999)],
            [given(0), given(0), Leave::Denied, Leave::Denied]
        );
        assert_eq!(
            [at(1_000), at(1_001), at(1_500)],
            [given(2), given(0), Leave::Denied]
        );
        assert_eq!(at(60_000), given(1));
        let all = Ration::new(None);
        assert!((0..1_000).all(|_| all.ask(start) == given(0)));
    }
}
