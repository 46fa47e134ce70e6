//! How many questions there are at a time, and how many a second.
//!
//! First come, first served. Knows nothing of what is asked.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// Shared by all workers.
#[derive(Debug)]
pub struct Pace {
    at_a_time: Semaphore,
    /// Whoever has it is the next to go.
    head: Semaphore,
    /// When the next one may go.
    next: Mutex<Option<Instant>>,
    apart: Duration,
}

/// Leave to ask; given up when dropped.
pub struct Leave<'p>(#[expect(dead_code, reason = "held, not read")] SemaphorePermit<'p>);

impl Pace {
    pub fn new(at_a_time: usize, a_second: u32) -> Pace {
        Pace {
            at_a_time: Semaphore::new(at_a_time),
            head: Semaphore::new(1),
            next: Mutex::new(None),
            apart: Duration::from_secs(1) / a_second.max(1),
        }
    }

    /// Waits for its turn. Cancel-safe: whoever goes away takes nobody's turn.
    pub async fn leave(&self) -> Leave<'_> {
        let place = acquire(&self.at_a_time).await;
        let _head = acquire(&self.head).await;
        let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(next) = next {
            sleep_until(next).await;
        }
        let after = Instant::now() + self.apart;
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(after);
        Leave(place)
    }
}

async fn acquire(semaphore: &Semaphore) -> SemaphorePermit<'_> {
    semaphore.acquire().await.expect("it is never closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_at_a_time_and_no_more_a_second() {
        let pace = Pace::new(2, 100);
        let start = Instant::now();
        let (first, second) = (pace.leave().await, pace.leave().await);
        let third = tokio::time::timeout(Duration::from_secs(9), pace.leave()).await;
        assert!(third.is_err(), "two are out");
        drop((first, second));
        for _ in 0..98 {
            drop(pace.leave().await);
        }
        let took = start.elapsed() - Duration::from_secs(9);
        assert!(took > Duration::from_millis(900), "{took:?} for a hundred");
        assert!(
            took < Duration::from_millis(1_200),
            "{took:?} for a hundred"
        );
    }
}
