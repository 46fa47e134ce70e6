//! Those who open a connection themselves, with a credential of their own, and leave it to a pool if it was good.
//!
//! They count like everybody: no more connections than the cap, in the order of arrival. Knows nothing of what they
//! try.

use std::collections::VecDeque;
use std::time::Instant;

use super::{FailureKind, PoolId, Slots, Ticket, Waiter};

#[derive(Debug)]
pub(super) struct Guests<G> {
    waiters: VecDeque<Waiter<G>>,
    /// Admitted, and still opening.
    pub(super) inside: usize,
}

impl<G> Default for Guests<G> {
    fn default() -> Self {
        Guests {
            waiters: VecDeque::new(),
            inside: 0,
        }
    }
}

impl<C, W, E: Clone, G> Slots<C, W, E, G> {
    /// Joins the queue. How many there may be, whoever sends them knows.
    pub fn enqueue_guest(&mut self, handle: G) -> Ticket {
        let ticket = self.ticket();
        self.guests.waiters.push_back(Waiter { ticket, handle });
        self.waiting += 1;
        ticket
    }

    /// Leaves the queue, unless admitted already.
    pub fn abandon_guest(&mut self, ticket: Ticket) {
        let waiters = &mut self.guests.waiters;
        if let Ok(place) = waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket) {
            waiters.remove(place);
            self.waiting -= 1;
        }
    }

    pub(super) fn admit(&mut self) -> Option<G> {
        let first = self.guests.waiters.pop_front()?;
        self.waiting -= 1;
        self.guests.inside += 1;
        self.used += 1;
        self.opening += 1;
        Some(first.handle)
    }

    /// Guests to be admitted. At least half of the cap is left to those whose credential is known to be good.
    pub(super) fn guests_wanted(&self) -> usize {
        let room = (self.cap / 2).max(1).saturating_sub(self.guests.inside);
        self.guests.waiters.len().min(room)
    }

    pub(super) fn first_guest(&self) -> Option<Ticket> {
        self.guests.waiters.front().map(|waiter| waiter.ticket)
    }

    /// A guest's connection becomes one of this pool's, and counts as leased; `release` it.
    pub fn guest_stays(&mut self, pool: PoolId) {
        self.trouble = None;
        self.has_opened = true;
        self.opening -= 1;
        self.guests.inside -= 1;
        self.pools[pool.0].leased += 1;
    }

    /// A guest has no connection, or none any more.
    pub fn guest_leaves(&mut self) {
        self.opening -= 1;
        self.used -= 1;
        self.guests.inside -= 1;
    }

    /// A guest could not open one, and not because of its credential.
    pub fn guest_failed(&mut self, kind: FailureKind, cause: E, now: Instant, jitter: f64) {
        self.guest_leaves();
        self.take_note(kind, cause, now, jitter);
    }
}
