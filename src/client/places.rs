//! Places for logins that are going on: so many in all, and so many of them for one address.
//!
//! Knows who holds one; does not know what a login is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::origin::Origin;

/// Whoever waits, waits for a place of his own address first: one that floods us fills its own share and no more,
/// and of its waiters none is in front of anyone else.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    per_address: usize,
    /// Of addresses that hold a place or wait for one; bounded by the connections there may be.
    shares: Mutex<HashMap<Origin, Share>>,
}

#[derive(Debug)]
struct Share {
    places: Arc<Semaphore>,
    /// Who holds one or waits.
    present: usize,
}

/// One login's; given up when dropped.
#[derive(Debug)]
pub struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_share: OwnedSemaphorePermit,
    // Last: when the permits are back, the share may go.
    _presence: Presence,
}

/// Counts in its address' share.
#[derive(Debug)]
struct Presence {
    places: Arc<Places>,
    origin: Origin,
}

impl Places {
    pub fn new(max: usize, per_address: usize) -> Arc<Places> {
        Arc::new(Places {
            all: Arc::new(Semaphore::new(max)),
            per_address,
            shares: Mutex::default(),
        })
    }

    /// Waits for a place, first come, first served. Cancel-safe.
    pub async fn take(self: &Arc<Places>, origin: Origin) -> Place {
        let (presence, share) = self.arrive(origin);
        let of_share = share.acquire_owned().await;
        let of_all = Arc::clone(&self.all).acquire_owned().await;
        Place {
            _of_all: of_all.expect("never closed"),
            _of_share: of_share.expect("never closed"),
            _presence: presence,
        }
    }

    fn arrive(self: &Arc<Places>, origin: Origin) -> (Presence, Arc<Semaphore>) {
        let mut shares = self.shares();
        let share = shares.entry(origin).or_insert_with(|| Share {
            places: Arc::new(Semaphore::new(self.per_address)),
            present: 0,
        });
        share.present += 1;
        let presence = Presence {
            places: Arc::clone(self),
            origin,
        };
        (presence, Arc::clone(&share.places))
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<Origin, Share>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut shares = self.places.shares();
        if let Some(share) = shares.get_mut(&self.origin) {
            share.present -= 1;
            if share.present == 0 {
                shares.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn origin(number: u8) -> Origin {
        Origin::of(([10, 0, 0, number], 1).into())
    }

    #[test]
    fn one_address_leaves_places_for_others() {
        let places = Places::new(4, 3);
        let mut held = Vec::new();
        for _ in 0..3 {
            let Poll::Ready(place) = poll(pin!(places.take(origin(1)))) else {
                panic!("there was room");
            };
            held.push(place);
        }
        let mut fourth = pin!(places.take(origin(1)));
        assert!(poll(fourth.as_mut()).is_pending());
        let other = poll(pin!(places.take(origin(2))));
        assert!(other.is_ready(), "its waiter stands in nobody's way");
        assert!(poll(fourth.as_mut()).is_pending());
        held.pop();
        assert!(poll(fourth.as_mut()).is_ready());
    }

    #[test]
    fn nothing_is_kept_of_who_has_left() {
        let places = Places::new(1, 1);
        let first = poll(pin!(places.take(origin(1))));
        for number in 1..100 {
            // Given up while it waits.
            assert!(poll(pin!(places.take(origin(number)))).is_pending());
        }
        assert_eq!(places.shares().len(), 1);
        drop(first);
        assert_eq!(places.shares().len(), 0);
        assert!(poll(pin!(places.take(origin(1)))).is_ready());
    }
}
