//! A connection in a session's hands, and the wait for one.
//!
//! Knows that what was lent comes back, whatever becomes of the borrower; not what is done with it.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::slots::{Held, PoolId, Ticket};
use super::{Desk, Job, Leaving, Manage, Target, now};
use std::sync::Arc;

/// A borrowed connection. Dropped, it goes to the janitor to be cleaned; only `release` says that
/// it is clean already.
pub struct Lease<M: Manage> {
    desk: Rc<Desk<M>>,
    pool: PoolId,
    /// `None` only once it was given back.
    held: Option<Held<M::Connection>>,
    /// It counts as closing already.
    given_up: bool,
}

impl<M: Manage> Lease<M> {
    pub(super) fn new(desk: Rc<Desk<M>>, pool: PoolId, held: Held<M::Connection>) -> Lease<M> {
        Lease {
            desk,
            pool,
            held: Some(held),
            given_up: false,
        }
    }

    /// Gives back a connection that is as clean as it was lent.
    pub fn release(self) {
        self.release_at(now());
    }

    /// The same for whoever knows what time it is.
    #[inline]
    pub fn release_at(mut self, now: Instant) {
        if !self.given_up
            && let Some(held) = self.held.take()
        {
            self.desk.put_back(self.pool, held, now);
        }
    }

    /// Whether there are more connections than there may be, and this is one that goes: from here on it can only be
    /// closed. Asked and done in one step, so that of several who ask no more go than have to.
    pub fn give_up_excess(&mut self) -> bool {
        self.given_up = self.given_up || self.desk.target.slots().discard_excess(self.pool);
        self.given_up
    }

    /// What was lent, and by which pool.
    pub(super) fn into_parts(mut self) -> (PoolId, Held<M::Connection>) {
        let held = self.held.take().expect("held until given back");
        (self.pool, held)
    }

    /// Gives back a connection that must not be used again.
    pub fn close(mut self) {
        if !self.given_up
            && let Some(held) = self.held.take()
        {
            let why = match self.desk.target.is_severed(held.generation) {
                true => Leaving::Severed,
                false => Leaving::Broken,
            };
            self.desk.discard(self.pool, held, why);
        }
    }

    /// Whether the target has turned out to be gone, or not to be used, since this was lent.
    pub fn is_severed(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| self.desk.target.is_severed(held.generation))
    }

    /// The target's when this was opened.
    pub fn generation(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.generation.0)
    }

    pub fn desk(&self) -> &Rc<Desk<M>> {
        &self.desk
    }

    pub fn target(&self) -> &Arc<Target<M>> {
        &self.desk.target
    }
}

impl<M: Manage> Drop for Lease<M> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        self.desk.send(match self.given_up {
            true => Job::Close(self.pool, held, Leaving::Excess),
            false => Job::Clean(self.pool, held),
        });
    }
}

impl<M: Manage> Deref for Lease<M> {
    type Target = M::Connection;

    fn deref(&self) -> &M::Connection {
        &self
            .held
            .as_ref()
            .expect("held until given back")
            .connection
    }
}

impl<M: Manage> DerefMut for Lease<M> {
    fn deref_mut(&mut self) -> &mut M::Connection {
        &mut self
            .held
            .as_mut()
            .expect("held until given back")
            .connection
    }
}

/// Why no connection was lent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BorrowError<E> {
    /// All were in use for as long as one may wait.
    Busy {
        used: usize,
        cap: usize,
        waiting: usize,
        waited: Duration,
    },
    /// The target could not be reached for as long as one may wait.
    Unreachable {
        cause: E,
        waited: Duration,
    },
    /// The server refused this database or user.
    Refused(E),
    QueueFull {
        waiting: usize,
    },
    /// There was no target to wait at for as long as one may wait.
    NoTarget {
        waited: Duration,
    },
}

type Outcome<M> = Result<Held<<M as Manage>::Connection>, <M as Manage>::Error>;

/// A place in the queue; dropped, it is given up.
pub struct Waiting<M: Manage> {
    desk: Rc<Desk<M>>,
    pool: PoolId,
    ticket: Ticket,
    outcome: oneshot::Receiver<Outcome<M>>,
    /// The other end of `outcome`, of one that stands in no queue.
    apart: Option<oneshot::Sender<Outcome<M>>>,
    since: Instant,
    /// Longest wait, whatever the pool's own limits are.
    limit: Duration,
    timer: Pin<Box<Sleep>>,
}

impl<M: Manage> Waiting<M> {
    pub(super) fn new(
        desk: Rc<Desk<M>>,
        pool: PoolId,
        ticket: Ticket,
        outcome: oneshot::Receiver<Outcome<M>>,
    ) -> Waiting<M> {
        let wait = desk.patience();
        Waiting {
            desk,
            pool,
            ticket,
            outcome,
            apart: None,
            since: now(),
            limit: Duration::MAX,
            timer: Box::pin(tokio::time::sleep(wait)),
        }
    }

    pub(super) fn apart(desk: Rc<Desk<M>>, pool: PoolId) -> Waiting<M> {
        let ticket = desk.target.slots().ticket();
        let (never, outcome) = oneshot::channel();
        let mut waiting = Waiting::new(desk, pool, ticket, outcome);
        waiting.apart = Some(never);
        waiting
    }

    /// Goes on waiting at another target, behind all who came before and ahead of all who came after; the clock
    /// runs on.
    pub fn move_to(&mut self, desk: &Rc<Desk<M>>) {
        self.leave();
        self.desk = Rc::clone(desk);
        self.apart = None;
        self.rejoin();
        self.desk.send(Job::Watch);
    }

    /// Goes on waiting at no target for the time being.
    pub fn step_aside(&mut self) {
        self.leave();
        let (never, outcome) = oneshot::channel();
        (self.apart, self.outcome) = (Some(never), outcome);
    }

    pub fn desk(&self) -> &Rc<Desk<M>> {
        &self.desk
    }

    /// Gives up the place in the queue, and whatever was handed over already.
    fn leave(&mut self) {
        if self.apart.is_some() || self.desk.target.slots().abandon(self.pool, self.ticket) {
            return;
        }
        // Served already: what lies in the channel must not be lost.
        self.outcome.close();
        if let Ok(Ok(held)) = self.outcome.try_recv() {
            self.desk.put_back(self.pool, held, now());
        }
    }

    /// Waits no longer than this, if the pool would have it wait longer.
    pub fn no_longer_than(&mut self, limit: Duration) {
        self.limit = limit;
        if let Some(due) = tokio::time::Instant::now().checked_add(limit)
            && due < self.timer.deadline()
        {
            self.timer.as_mut().reset(due);
        }
    }

    /// How long this has waited.
    pub fn waited(&self) -> Duration {
        now().duration_since(self.since)
    }

    /// The error that is due by now, by whichever clock runs: busy, or out of reach.
    fn overdue(&self) -> Option<BorrowError<M::Error>> {
        let waited = self.waited();
        let slots = self.desk.target.slots();
        if self.apart.is_some() {
            let over = waited >= slots.policy().unavailable_timeout.min(self.limit);
            return over.then_some(BorrowError::NoTarget { waited });
        }
        match slots.down() {
            Some(trouble) if waited >= slots.policy().unavailable_timeout.min(self.limit) => {
                Some(BorrowError::Unreachable {
                    cause: trouble.cause.clone(),
                    waited,
                })
            }
            None if waited >= slots.policy().borrow_timeout.min(self.limit) => {
                Some(BorrowError::Busy {
                    used: slots.used(),
                    cap: slots.cap(),
                    waiting: slots.counts(self.pool).waiting,
                    waited,
                })
            }
            _ => None,
        }
    }

    /// What was handed over has died: the wait goes on where it was, and its clock runs on.
    fn rejoin(&mut self) {
        let (handover, outcome) = oneshot::channel();
        self.outcome = outcome;
        let desk = &self.desk;
        let found = desk
            .target
            .slots()
            .rejoin(self.pool, desk.worker, self.ticket, handover);
        match found {
            Some((handover, held)) => {
                let _ = handover.send(Ok(held));
            }
            None => desk.carry_out_plan(),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<BorrowError<M::Error>> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if let Some(error) = self.overdue() {
                return Poll::Ready(error);
            }
            // One clock has run out while the other applies: look again soon, it may change.
            self.timer.set(tokio::time::sleep(CLOCK_CHECK));
        }
    }
}

/// How exactly the two clocks are kept once the shorter one has run out.
const CLOCK_CHECK: Duration = Duration::from_millis(100);

impl<M: Manage> Desk<M> {
    /// How long a connection may take to answer what nobody but its keeper asks.
    pub fn reset_timeout(&self) -> Duration {
        self.target.slots().policy().reset_timeout
    }

    fn patience(&self) -> Duration {
        let slots = self.target.slots();
        let policy = slots.policy();
        policy.borrow_timeout.min(policy.unavailable_timeout)
    }
}

impl<M: Manage> Future for Waiting<M> {
    type Output = Result<Lease<M>, BorrowError<M::Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(outcome) = Pin::new(&mut self.outcome).poll(cx) {
            return Poll::Ready(match outcome {
                Ok(Ok(held)) => match self.desk.lend(self.pool, held) {
                    Some(lease) => Ok(lease),
                    None => {
                        self.rejoin();
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                },
                Ok(Err(cause)) => Err(BorrowError::Refused(cause)),
                Err(_) => unreachable!("a queue place is left by its owner or with an outcome"),
            });
        }
        self.poll_timer(cx).map(Err)
    }
}

impl<M: Manage> Drop for Waiting<M> {
    fn drop(&mut self) {
        self.leave();
    }
}
