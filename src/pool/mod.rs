//! A bounded set of connections to one target, lent one at a time, first come first served.
//!
//! Knows lending, waiting, opening, cleaning and closing; nothing of SQL, of PostgreSQL or of TLS:
//! what a connection is, `Manage` says.
//!
//! `slots` decides (pure), `Target` shares the decision among the workers under one lock, a `Desk` is
//! one worker's counter where sessions borrow, and its janitor carries out what takes time.
//! The lock is taken twice a transaction; for that price FIFO and the cap hold exactly, across all workers.

mod janitor;
mod lease;
pub mod policy;
pub mod portion;
mod room;
pub mod slots;

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

pub use janitor::Janitor;
pub use lease::{BorrowError, Lease, Waiting};
pub use policy::Policy;
use portion::{Growth, Portion};
pub use room::Room;
pub use slots::{Counts, FailureKind, Generation, Leaving, PoolId, Tickets, WorkerId};
use slots::{Held, Order, Released, Slots, Ticket};

/// What the pool must be told of its connections.
pub trait Manage: Send + Sync + 'static {
    /// Names a pool within the target.
    type Key: Clone + Send + Sync + 'static;
    type Connection: Send + 'static;
    type Error: Failure + Clone + Send + Sync + 'static;

    fn open(
        &self,
        key: &Self::Key,
    ) -> impl Future<Output = Result<Opened<Self::Connection>, Self::Error>>;

    /// Makes a connection that was left in any state as good as new; false when it can't be.
    fn clean(
        &self,
        key: &Self::Key,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = bool>;

    /// Says goodbye and waits until the server has let go.
    fn close(
        &self,
        key: &Self::Key,
        connection: Self::Connection,
        why: Leaving,
    ) -> impl Future<Output = ()>;

    /// Whether an idle connection has died; must not block.
    fn is_dead(&self, connection: &mut Self::Connection) -> bool;

    /// Moves a connection to the reactor of the calling worker.
    fn rehome(&self, connection: &mut Self::Connection) -> io::Result<()>;
}

/// A fresh connection, and the cap if the server's own limit was learnt with it.
pub struct Opened<C> {
    pub connection: C,
    pub cap: Option<usize>,
}

/// An error that says what to do after it.
pub trait Failure {
    fn kind(&self) -> FailureKind;
}

type Handover<M> = oneshot::Sender<Result<Held<<M as Manage>::Connection>, <M as Manage>::Error>>;
type Guest<M> = oneshot::Sender<Room<M>>;
type TargetSlots<M> = Slots<<M as Manage>::Connection, Handover<M>, <M as Manage>::Error, Guest<M>>;

/// One PostgreSQL instance as all workers see it.
pub struct Target<M: Manage> {
    pub manage: M,
    slots: Mutex<TargetSlots<M>>,
    keys: Mutex<Vec<M::Key>>,
    /// The generation of `slots`, to be read without its lock.
    generation: AtomicU64,
    /// Connections of generations before this are not to be used any more, not even by those who have them.
    severed_before: AtomicU64,
    /// The janitors of all workers.
    janitors: Mutex<Vec<mpsc::UnboundedSender<Job<M>>>>,
}

impl<M: Manage> Target<M> {
    /// `tickets`: shared with the targets that waiters may move to.
    pub fn new(
        manage: M,
        policy: Policy,
        workers: usize,
        cap: usize,
        tickets: Tickets,
    ) -> Target<M> {
        Target {
            manage,
            slots: Mutex::new(Slots::new(policy, workers, cap, tickets)),
            keys: Mutex::new(Vec::new()),
            generation: AtomicU64::new(0),
            severed_before: AtomicU64::new(0),
            janitors: Mutex::default(),
        }
    }

    /// The target is another than it was: no connection that there is now is lent again. With `Lent::Sever`, those
    /// that are lent are not to be used any more either: whoever has one is to look at `Lease::is_severed`.
    pub fn renew(&self, lent: Lent) {
        let why = match lent {
            Lent::Keep => Leaving::Superseded,
            Lent::Sever => Leaving::Severed,
        };
        let leaving = {
            let mut slots = self.slots();
            let leaving = slots.renew();
            let generation = slots.generation().0;
            self.generation.store(generation, Ordering::Release);
            if lent == Lent::Sever {
                self.severed_before.store(generation, Ordering::Release);
            }
            leaving
        };
        let janitors = self.janitors.lock().unwrap_or_else(PoisonError::into_inner);
        for (pool, held) in leaving {
            if let Some(janitor) = janitors.get(held.worker.0).or(janitors.first()) {
                let _ = janitor.send(Job::Close(pool, held, why));
            }
        }
        drop(janitors);
        // Whoever waits may have a connection opened at once.
        self.have_planned();
    }

    fn have_planned(&self) {
        let janitors = self.janitors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(janitor) = janitors.first() {
            let _ = janitor.send(Job::Plan);
        }
    }

    /// Tells the connections that may be lent from those of before.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn is_current(&self, generation: Generation) -> bool {
        generation.0 >= self.generation.load(Ordering::Acquire)
    }

    fn is_severed(&self, generation: Generation) -> bool {
        generation.0 < self.severed_before.load(Ordering::Acquire)
    }

    pub fn add_pool(&self, key: M::Key, limit: Option<usize>) -> PoolId {
        let mut slots = self.slots();
        self.keys().push(key);
        slots.add_pool(limit)
    }

    pub fn set_policy(&self, policy: Policy) {
        self.slots().set_policy(policy);
    }

    pub fn set_limit(&self, pool: PoolId, limit: Option<usize>) {
        self.slots().set_limit(pool, limit);
    }

    /// A pool's own limit; `usize::MAX` if it has none.
    pub fn limit(&self, pool: PoolId) -> usize {
        self.slots().limit(pool)
    }

    pub fn counts(&self, pool: PoolId) -> Counts {
        self.slots().counts(pool)
    }

    /// Cap, and connections in use of it.
    pub fn usage(&self) -> (usize, usize) {
        let slots = self.slots();
        (slots.cap(), slots.used())
    }

    /// How many are served or wait here, for each connection that there may be.
    pub fn load(&self) -> f64 {
        let slots = self.slots();
        slots.outstanding() as f64 / slots.cap().max(1) as f64
    }

    /// What the target allows all processes that share it.
    pub fn set_cap(&self, whole: usize) {
        self.slots().set_cap(whole);
    }

    /// This process's portion of that.
    pub fn set_portion(&self, portion: Portion, growth: Growth) {
        self.slots().set_portion(portion, growth);
    }

    /// Connections above the cap that are not leaving yet.
    pub fn excess(&self) -> usize {
        self.slots().excess()
    }

    /// Whether a connection has ever been opened.
    pub fn has_answered(&self) -> bool {
        self.slots().has_opened()
    }

    /// Why there is no connection at all, when there is none.
    pub fn down(&self) -> Option<M::Error> {
        self.slots().down().map(|trouble| trouble.cause.clone())
    }

    /// The last failure to open, until an opening succeeds.
    pub fn trouble(&self) -> Option<M::Error> {
        self.slots().trouble().map(|trouble| trouble.cause.clone())
    }

    fn slots(&self) -> MutexGuard<'_, TargetSlots<M>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> MutexGuard<'_, Vec<M::Key>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn key(&self, pool: PoolId) -> M::Key {
        self.keys()[pool.0].clone()
    }
}

/// What becomes of connections that are lent when their target turns out to be another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lent {
    /// They may be used to the end of what they are lent for.
    Keep,
    /// They are of no more use.
    Sever,
}

/// What the janitor of a worker is asked to do: at most one job a connection, and one `Watch` a queued client,
/// so that the cap and `max_waiting` bound them.
enum Job<M: Manage> {
    Open(PoolId),
    Clean(PoolId, Held<M::Connection>),
    Close(PoolId, Held<M::Connection>, Leaving),
    /// Close it, and open another in its place for whoever had it.
    Renew(PoolId, Held<M::Connection>, Whose<M>),
    /// Something began to need watching.
    Watch,
    /// More may be opened than before.
    Plan,
}

/// Somebody who waits, though in no queue yet.
struct Whose<M: Manage> {
    ticket: Ticket,
    handover: Handover<M>,
}

/// One worker's counter: sessions borrow here.
pub struct Desk<M: Manage> {
    target: Arc<Target<M>>,
    worker: WorkerId,
    jobs: mpsc::UnboundedSender<Job<M>>,
}

impl<M: Manage> Desk<M> {
    /// The desk, and the janitor that its worker has to run.
    pub fn new(target: Arc<Target<M>>, worker: WorkerId) -> (Rc<Desk<M>>, Janitor<M>) {
        let (jobs, inbox) = mpsc::unbounded_channel();
        target
            .janitors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(jobs.clone());
        let desk = Rc::new(Desk {
            target,
            worker,
            jobs,
        });
        (Rc::clone(&desk), Janitor::new(desk, inbox))
    }

    pub fn target(&self) -> &Arc<Target<M>> {
        &self.target
    }

    /// An idle connection, if there is one and nobody waits.
    #[inline]
    pub fn try_borrow(self: &Rc<Self>, pool: PoolId) -> Option<Lease<M>> {
        loop {
            let held = self.target.slots().borrow(pool, self.worker)?;
            if let Some(lease) = self.lend(pool, held) {
                return Some(lease);
            }
        }
    }

    /// Queues for a connection; one is opened if the cap allows.
    pub fn borrow(self: &Rc<Self>, pool: PoolId) -> Result<Waiting<M>, BorrowError<M::Error>> {
        let (handover, outcome) = oneshot::channel();
        let ticket = {
            let mut slots = self.target.slots();
            // Another worker may have put one by since the caller looked; it would wake nobody.
            if let Some(held) = slots.borrow(pool, self.worker) {
                let _ = handover.send(Ok(held));
                slots.ticket()
            } else if let Some(cause) = slots.refusal(pool, now()) {
                return Err(BorrowError::Refused(cause));
            } else {
                slots
                    .enqueue(pool, handover)
                    .ok_or(BorrowError::QueueFull {
                        waiting: slots.counts(pool).waiting,
                    })?
            }
        };
        self.carry_out_plan();
        self.send(Job::Watch);
        Ok(Waiting::new(Rc::clone(self), pool, ticket, outcome))
    }

    /// A place apart from any queue, for somebody who can't wait at this target now; the clock of a target out of
    /// reach runs.
    pub fn stand_by(self: &Rc<Self>, pool: PoolId) -> Waiting<M> {
        Waiting::apart(Rc::clone(self), pool)
    }

    /// A fresh connection in place of one that will not do. Nobody is overtaken: it takes up the room of the old one, once
    /// the server has let go of that. One attempt, whatever pauses others have to keep; if that fails, or there may not be
    /// as many any more, it stands in line where it would if it had just come.
    pub fn renew(self: &Rc<Self>, lease: Lease<M>) -> Waiting<M> {
        let (handover, outcome) = oneshot::channel();
        let (pool, held) = lease.into_parts();
        let ticket = {
            let mut slots = self.target.slots();
            slots.discard(pool);
            slots.ticket()
        };
        self.send(Job::Renew(pool, held, Whose { ticket, handover }));
        Waiting::new(Rc::clone(self), pool, ticket, outcome)
    }

    /// Closes what lies idle in these pools; returns when the server has let go of it, or after `patience`.
    /// Cancel-safe: the closing goes on.
    pub async fn evict(&self, pools: &[PoolId], patience: Duration) {
        self.close_idle(pools);
        let deadline = now() + patience;
        let closing = || {
            let slots = self.target.slots();
            pools.iter().any(|&pool| slots.counts(pool).closing > 0)
        };
        while closing() && now() < deadline {
            tokio::time::sleep(EVICTION_CHECK).await;
        }
    }

    /// Closes what lies idle in these pools just now.
    pub fn close_idle(&self, pools: &[PoolId]) {
        for &pool in pools {
            let evicted = self.target.slots().evict(pool);
            for held in evicted {
                self.send(Job::Close(pool, held, Leaving::Evicted));
            }
        }
    }

    /// Wraps a connection that this worker is to have; discards it when it proves unfit.
    #[inline]
    fn lend(self: &Rc<Self>, pool: PoolId, mut held: Held<M::Connection>) -> Option<Lease<M>> {
        if held.worker != self.worker && self.rehome(&mut held).is_err() {
            self.discard(pool, held, Leaving::Broken);
            return None;
        }
        if !self.target.is_current(held.generation) {
            self.discard(pool, held, Leaving::Superseded);
            return None;
        }
        if self.target.manage.is_dead(&mut held.connection) {
            self.discard(pool, held, Leaving::Dead);
            return None;
        }
        Some(Lease::new(Rc::clone(self), pool, held))
    }

    /// Fetches a connection from another worker.
    #[inline(never)]
    fn rehome(&self, held: &mut Held<M::Connection>) -> io::Result<()> {
        held.worker = self.worker;
        self.target.manage.rehome(&mut held.connection)?;
        // It will lie idle here, where there may have been nothing to look after.
        self.send(Job::Watch);
        Ok(())
    }

    #[inline(never)]
    fn discard(&self, pool: PoolId, held: Held<M::Connection>, why: Leaving) {
        self.target.slots().discard(pool);
        self.send(Job::Close(pool, held, why));
    }

    /// Gives a clean connection to the next in line, or puts it by.
    #[inline]
    fn put_back(&self, pool: PoolId, mut held: Held<M::Connection>, now: Instant) {
        loop {
            let mut slots = self.target.slots();
            let released = slots.release(pool, held, now);
            let others_wait = slots.waiting() > 0;
            drop(slots);
            match released {
                Released::Idle if others_wait => return self.carry_out_plan(),
                Released::Idle => return,
                Released::Close(held, why) => return self.send(Job::Close(pool, held, why)),
                Released::Hand(handover, connection) => match handover.send(Ok(connection)) {
                    Ok(()) => return,
                    // That one has just gone away: the one behind is next.
                    Err(Ok(back)) => held = back,
                    Err(Err(_)) => return,
                },
            }
        }
    }

    #[inline(never)]
    fn carry_out_plan(&self) {
        let orders = self.target.slots().plan(now());
        for order in orders {
            match order {
                Order::Open(pool) => self.send(Job::Open(pool)),
                Order::Close(pool, held) => self.send(Job::Close(pool, held, Leaving::Yielding)),
                // One that has just gone away gives the room back.
                Order::Admit(guest) => drop(guest.send(Room::new(&self.target))),
            }
        }
    }

    #[inline(never)]
    fn send(&self, job: Job<M>) {
        // The janitor goes only with its worker; a job lost then is a socket closed, which is what is due.
        let _ = self.jobs.send(job);
    }
}

/// How often it is looked whether the last evicted connection is gone.
const EVICTION_CHECK: Duration = Duration::from_millis(2);

/// The time that timers go by.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
