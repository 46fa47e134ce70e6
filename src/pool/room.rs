//! Room under the cap for one connection that its owner opens himself, as a trial of a credential.
//!
//! Knows that room which is taken is given back, whatever becomes of the owner; not what he tries.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::janitor::chance;
use super::slots::{Generation, Held, Ticket};
use super::{Desk, Failure, FailureKind, Job, Manage, Opened, PoolId, Target, now};

/// The right to have one connection more. Dropped, it is given up: whatever was opened must be gone by then.
pub struct Room<M: Manage> {
    /// `None` only once it has been accounted for otherwise.
    target: Option<Arc<Target<M>>>,
    generation: Generation,
}

impl<M: Manage> Room<M> {
    pub(super) fn new(target: &Arc<Target<M>>) -> Room<M> {
        Room {
            generation: target.slots().generation(),
            target: Some(Arc::clone(target)),
        }
    }

    /// What was tried has failed.
    pub fn failed(mut self, cause: M::Error) {
        let kind = cause.kind();
        // Refused, the target is well: it is the credential that is not.
        if kind != FailureKind::Refused
            && let Some(target) = self
                .target
                .take_if(|target| target.is_current(self.generation))
        {
            let mut slots = target.slots();
            slots.guest_failed(kind, cause, now(), chance());
            drop(slots);
            target.have_planned();
        }
    }
}

impl<M: Manage> Drop for Room<M> {
    fn drop(&mut self) {
        if let Some(target) = self.target.take() {
            target.slots().guest_leaves();
            target.have_planned();
        }
    }
}

/// A place in the queue; dropped, it is given up.
struct Place<'t, M: Manage> {
    target: &'t Target<M>,
    ticket: Ticket,
}

impl<M: Manage> Drop for Place<'_, M> {
    fn drop(&mut self) {
        self.target.slots().abandon_guest(self.ticket);
    }
}

impl<M: Manage> Desk<M> {
    /// Waits for room, in line with those who wait for connections. Cancel-safe: who goes leaves the line.
    pub async fn room(self: &Rc<Self>) -> Room<M> {
        let (guest, admitted) = oneshot::channel();
        let ticket = self.target.slots().enqueue_guest(guest);
        let _place = Place {
            target: &self.target,
            ticket,
        };
        self.carry_out_plan();
        self.send(Job::Watch);
        admitted
            .await
            .expect("a guest stays in line until admitted")
    }

    /// What was opened becomes one of this pool's connections: for the next in its line, or for later.
    pub fn take_in(&self, mut room: Room<M>, pool: PoolId, opened: Opened<M::Connection>) {
        let expires = {
            room.target = None;
            let mut slots = self.target.slots();
            if let Some(cap) = opened.cap {
                slots.set_cap(cap);
            }
            slots.guest_stays(pool);
            now() + slots.policy().lifetime_with(chance())
        };
        let held = Held {
            connection: opened.connection,
            generation: room.generation,
            expires,
            worker: self.worker,
        };
        self.put_back(pool, held, now());
        self.carry_out_plan();
    }
}
