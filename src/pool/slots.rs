//! Which connections of one target exist, who has them and who waits.
//!
//! Pure: time and chance are arguments, connections and waiters are whatever the caller says.
//! Knows nothing of sockets, of SQL or of what a connection is good for.
//!
//! A connection is in exactly one state, and these are the ways out of each:
//!
//! - *opening* -> leased or idle (`opened`), gone (`open_failed`)
//! - *idle* -> leased (`borrow`), closing (`plan`, `sweep`, `evict`)
//! - *leased* -> idle, leased by the next in line, closing (`release`), closing (`discard`)
//! - *closing* -> gone (`closed`), opening in its place (`reopening`)
//!
//! Of those that are being opened, some have no pool yet: `guests`.
//!
//! Their sum never grows beyond the cap; it may stand above it for a while after the cap was lowered.
//!
//! Each belongs to the generation that it was opened in. When the target turns out to be another than it was, a new
//! one begins (`renew`): nothing of an older one is lent again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::policy::Policy;
use super::portion::{Growth, Portion};

mod guests;
mod plan;
#[cfg(test)]
mod tests;

use guests::Guests;

/// One (database, user) of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub(super) usize);

/// A worker thread, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId(pub usize);

/// A place in a queue; later ones are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Where tickets come from; targets that share it have one order of arrival.
pub type Tickets = Arc<AtomicU64>;

/// What a target was when a connection to it was opened; later ones are larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub(super) u64);

/// A connection and when it is to be replaced.
#[derive(Debug)]
pub struct Held<C> {
    pub connection: C,
    pub generation: Generation,
    pub expires: Instant,
    /// The worker whose reactor it is registered with.
    pub worker: WorkerId,
}

#[derive(Debug)]
struct Idle<C> {
    held: Held<C>,
    since: Instant,
}

#[derive(Debug)]
struct Waiter<W> {
    ticket: Ticket,
    handle: W,
}

#[derive(Debug)]
struct Pool<C, W, E> {
    /// Its own limit within the target's cap.
    limit: usize,
    /// One stack a worker: the last one in is the warmest.
    idle: Vec<Vec<Idle<C>>>,
    waiters: VecDeque<Waiter<W>>,
    leased: usize,
    opening: usize,
    closing: usize,
    /// The server's refusal of this (database, user), told to all who ask until it is tried again.
    refusal: Option<(E, Instant)>,
}

/// Why no connection could be opened lately.
#[derive(Clone, Debug)]
pub struct Trouble<E> {
    pub cause: E,
    pub since: Instant,
    pub failures: u32,
    pub retry_at: Instant,
    pub kind: FailureKind,
    /// Connections to the target at that moment: all that it had for us, if it was full.
    used: usize,
}

/// What a failed opening says, and of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The target can't be reached: pause, then try again.
    Unreachable,
    /// The target has no connection left for us: pause, then try again.
    Full,
    /// This database or user is refused: no pause will help those who wait.
    Refused,
}

/// What a released connection turned out to be for.
#[derive(Debug)]
pub enum Released<C, W> {
    Idle,
    Hand(W, Held<C>),
    Close(Held<C>, Leaving),
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It has reached its lifetime.
    Worn,
    /// Nobody has needed it for long.
    Unused,
    /// More lie idle than should.
    Surplus,
    /// Its database must have nobody connected.
    Evicted,
    /// The cap, or the pool's own limit, was lowered.
    Excess,
    /// Another pool needs the room.
    Yielding,
    /// It was found dead while nobody used it.
    Dead,
    /// It broke, or made no sense, in the hands of whoever had it.
    Broken,
    /// It would not do for whoever had it, who gets a fresh one in its place.
    Unfit,
    /// What was left on it could not be cleaned.
    Unclean,
    /// The target is another than when it was opened: restarted, promoted or demoted.
    Superseded,
    /// The target is gone, or must not be used: there is nobody to say goodbye to.
    Severed,
}

impl Leaving {
    pub const fn as_str(self) -> &'static str {
        match self {
            Leaving::Worn => "lifetime",
            Leaving::Unused => "idle_timeout",
            Leaving::Surplus => "surplus",
            Leaving::Evicted => "evicted",
            Leaving::Excess => "over_cap",
            Leaving::Yielding => "for_another_pool",
            Leaving::Dead => "found_dead",
            Leaving::Broken => "broken",
            Leaving::Unfit => "unfit",
            Leaving::Unclean => "not_cleaned",
            Leaving::Superseded => "superseded",
            Leaving::Severed => "severed",
        }
    }
}

/// Work for the shell.
#[derive(Debug)]
pub enum Order<C, G = ()> {
    Open(PoolId),
    Close(PoolId, Held<C>),
    /// This guest may open a connection.
    Admit(G),
}

/// Counts of one pool, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub idle: usize,
    pub leased: usize,
    pub opening: usize,
    pub closing: usize,
    pub waiting: usize,
}

impl Counts {
    pub fn total(self) -> usize {
        self.idle + self.leased + self.opening + self.closing
    }
}

#[derive(Debug)]
pub struct Slots<C, W, E, G = ()> {
    policy: Policy,
    workers: usize,
    cap: usize,
    /// What the target allows all of us, the other processes included; the cap is a portion of it.
    whole: usize,
    /// Whether the target itself has said so.
    learnt: bool,
    portion: Portion,
    /// More than these there may not be while nothing may grow.
    frozen_at: Option<usize>,
    used: usize,
    opening: usize,
    closing: usize,
    waiting: usize,
    tickets: Tickets,
    generation: Generation,
    pools: Vec<Pool<C, W, E>>,
    guests: Guests<G>,
    trouble: Option<Trouble<E>>,
    has_opened: bool,
}

/// How long a refusal is repeated without asking the server again.
const REFUSAL_LASTS: Duration = Duration::from_millis(500);

impl<C, W, E: Clone, G> Slots<C, W, E, G> {
    pub fn new(policy: Policy, workers: usize, cap: usize, tickets: Tickets) -> Self {
        Slots {
            policy,
            workers,
            cap,
            whole: cap,
            learnt: false,
            portion: Portion::WHOLE,
            frozen_at: None,
            used: 0,
            opening: 0,
            closing: 0,
            waiting: 0,
            tickets,
            generation: Generation::default(),
            pools: Vec::new(),
            guests: Guests::default(),
            trouble: None,
            has_opened: false,
        }
    }

    pub fn add_pool(&mut self, limit: Option<usize>) -> PoolId {
        self.pools.push(Pool {
            limit: limit.unwrap_or(usize::MAX),
            idle: (0..self.workers).map(|_| Vec::new()).collect(),
            waiters: VecDeque::new(),
            leased: 0,
            opening: 0,
            closing: 0,
            refusal: None,
        });
        PoolId(self.pools.len() - 1)
    }

    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    pub fn set_limit(&mut self, pool: PoolId, limit: Option<usize>) {
        self.pools[pool.0].limit = limit.unwrap_or(usize::MAX);
    }

    pub fn limit(&self, pool: PoolId) -> usize {
        self.pools[pool.0].limit
    }

    /// What the target allows, our own portion or not.
    pub fn set_cap(&mut self, whole: usize) {
        self.whole = whole;
        self.learnt = true;
        self.divide();
    }

    /// Which part of what the target allows is ours.
    pub fn set_portion(&mut self, portion: Portion, growth: Growth) {
        self.portion = portion;
        self.frozen_at = match growth {
            Growth::Free => None,
            Growth::Frozen => self.frozen_at.or(Some(self.used - self.closing)),
        };
        self.divide();
    }

    fn divide(&mut self) {
        let share = match self.portion {
            // Whoever has a part may have one connection to ask with how much that is.
            Portion::Part { .. } if !self.learnt => self.whole.min(1),
            // One that shares with nobody can be of use only if it has at least one.
            Portion::WHOLE => self.whole.saturating_sub(self.policy.kept_aside).max(1),
            part => part.of(self.whole).saturating_sub(self.policy.kept_aside),
        };
        self.cap = self.frozen_at.map_or(share, |frozen| share.min(frozen));
    }

    pub fn cap(&self) -> usize {
        self.cap
    }

    pub fn used(&self) -> usize {
        self.used
    }

    /// Connections lent, and clients that wait for one.
    pub fn outstanding(&self) -> usize {
        let leased: usize = self.pools.iter().map(|pool| pool.leased).sum();
        leased + self.waiting
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub fn has_opened(&self) -> bool {
        self.has_opened
    }

    pub fn trouble(&self) -> Option<&Trouble<E>> {
        self.trouble.as_ref()
    }

    /// The trouble, when it leaves not a single working connection.
    pub fn down(&self) -> Option<&Trouble<E>> {
        let working = self.used - self.opening - self.closing;
        self.trouble
            .as_ref()
            .filter(|trouble| trouble.kind == FailureKind::Unreachable && working == 0)
    }

    pub fn counts(&self, pool: PoolId) -> Counts {
        self.pools[pool.0].counts()
    }

    /// The warmest idle connection, this worker's own if it has one. `None` when there is none,
    /// or when others wait already: nobody overtakes.
    #[inline]
    pub fn borrow(&mut self, pool: PoolId, worker: WorkerId) -> Option<Held<C>> {
        let pool = &mut self.pools[pool.0];
        if !pool.waiters.is_empty() {
            return None;
        }
        let idle = match pool.idle[worker.0].pop() {
            Some(own) => own,
            None => pool.idle.iter_mut().find_map(Vec::pop)?,
        };
        debug_assert!(idle.held.generation == self.generation);
        pool.leased += 1;
        Some(idle.held)
    }

    /// The refusal that holds for this pool at the moment.
    pub fn refusal(&self, pool: PoolId, now: Instant) -> Option<E> {
        let (cause, until) = self.pools[pool.0].refusal.as_ref()?;
        (now < *until).then(|| cause.clone())
    }

    /// Joins the queue; `None` when it is full.
    pub fn enqueue(&mut self, pool: PoolId, handle: W) -> Option<Ticket> {
        if self.pools[pool.0].waiters.len() >= self.policy.max_waiting {
            return None;
        }
        let ticket = self.ticket();
        let pool = &mut self.pools[pool.0];
        pool.waiters.push_back(Waiter { ticket, handle });
        self.waiting += 1;
        Some(ticket)
    }

    /// A ticket for somebody who does not queue here, or not yet.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.tickets.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Whoever was handed a connection that proved unfit stands where he stood before, unless an idle
    /// one is there for him by now; and whoever comes from another target stands where his ticket says.
    pub fn rejoin(
        &mut self,
        pool: PoolId,
        worker: WorkerId,
        ticket: Ticket,
        handle: W,
    ) -> Option<(W, Held<C>)> {
        if let Some(held) = self.borrow(pool, worker) {
            return Some((handle, held));
        }
        let waiters = &mut self.pools[pool.0].waiters;
        let place = waiters.partition_point(|waiter| waiter.ticket < ticket);
        waiters.insert(place, Waiter { ticket, handle });
        self.waiting += 1;
        None
    }

    /// Leaves the queue; false when the ticket was not there any more, that is: was served.
    pub fn abandon(&mut self, pool: PoolId, ticket: Ticket) -> bool {
        let waiters = &mut self.pools[pool.0].waiters;
        let Ok(place) = waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket) else {
            return false;
        };
        waiters.remove(place);
        self.waiting -= 1;
        true
    }

    /// A clean connection comes back.
    #[inline]
    pub fn release(&mut self, pool: PoolId, held: Held<C>, now: Instant) -> Released<C, W> {
        if let Some(why) = self.unwelcome(pool, &held, now) {
            self.discard(pool);
            return Released::Close(held, why);
        }
        let pool = &mut self.pools[pool.0];
        if let Some(next) = pool.waiters.pop_front() {
            self.waiting -= 1;
            return Released::Hand(next.handle, held);
        }
        pool.leased -= 1;
        pool.idle[held.worker.0].push(Idle { held, since: now });
        Released::Idle
    }

    fn unwelcome(&self, id: PoolId, held: &Held<C>, now: Instant) -> Option<Leaving> {
        let pool = &self.pools[id.0];
        if held.generation < self.generation {
            return Some(Leaving::Superseded);
        }
        if now >= held.expires {
            return Some(Leaving::Worn);
        }
        if self.excess() > 0 || pool.excess() > 0 {
            return Some(Leaving::Excess);
        }
        let others_wait = self.waiting > pool.waiters.len();
        (others_wait && self.must_yield(id)).then_some(Leaving::Yielding)
    }

    /// Connections above the cap, those not counted that are leaving already.
    pub fn excess(&self) -> usize {
        (self.used - self.closing).saturating_sub(self.cap)
    }

    /// The same for one of those above the cap, if there are any.
    pub fn discard_excess(&mut self, pool: PoolId) -> bool {
        let excess = self.excess() > 0;
        if excess {
            self.discard(pool);
        }
        excess
    }

    /// A leased connection is not fit to come back: it counts as closing from here on.
    pub fn discard(&mut self, pool: PoolId) {
        let pool = &mut self.pools[pool.0];
        pool.leased -= 1;
        pool.closing += 1;
        self.closing += 1;
    }

    /// An order to open was carried out. The connection counts as leased; `release` it.
    pub fn opened(&mut self, pool: PoolId) {
        self.trouble = None;
        self.has_opened = true;
        self.opening -= 1;
        let pool = &mut self.pools[pool.0];
        pool.refusal = None;
        pool.opening -= 1;
        pool.leased += 1;
    }

    /// An order to open failed. Returned: those whose waiting is in vain.
    pub fn open_failed(
        &mut self,
        id: PoolId,
        kind: FailureKind,
        cause: E,
        now: Instant,
        jitter: f64,
    ) -> Vec<W> {
        self.opening -= 1;
        self.used -= 1;
        let pool = &mut self.pools[id.0];
        pool.opening -= 1;
        if kind == FailureKind::Refused {
            // The server answered, so it is not out of reach.
            self.trouble = None;
            pool.refusal = Some((cause, now + REFUSAL_LASTS));
            self.waiting -= pool.waiters.len();
            return pool.waiters.drain(..).map(|waiter| waiter.handle).collect();
        }
        self.take_note(kind, cause, now, jitter);
        Vec::new()
    }

    /// The target has no connection for us at the moment.
    fn take_note(&mut self, kind: FailureKind, cause: E, now: Instant, jitter: f64) {
        let before = self.trouble.take().filter(|trouble| trouble.kind == kind);
        let failures = before.as_ref().map_or(1, |trouble| trouble.failures + 1);
        self.trouble = Some(Trouble {
            cause,
            since: before.map_or(now, |trouble| trouble.since),
            failures,
            retry_at: now + self.policy.backoff(failures, jitter),
            kind,
            used: self.used,
        });
    }

    /// An order to open was not carried out.
    pub fn opening_given_up(&mut self, pool: PoolId) {
        self.opening -= 1;
        self.used -= 1;
        self.pools[pool.0].opening -= 1;
    }

    /// A closing connection is gone: the server has let go of it.
    pub fn closed(&mut self, pool: PoolId) {
        self.pools[pool.0].closing -= 1;
        self.closing -= 1;
        self.used -= 1;
    }

    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The target is another than it was: a new generation begins. Returned: what lay idle, now closing. What is lent,
    /// or being opened, is closed when it comes back.
    pub fn renew(&mut self) -> Vec<(PoolId, Held<C>)> {
        self.generation.0 += 1;
        // Whatever was wrong with it before says nothing of what it is now.
        self.trouble = None;
        let mut leaving = Vec::new();
        for place in 0..self.pools.len() {
            self.pools[place].refusal = None;
            let id = PoolId(place);
            leaving.extend(self.evict(id).into_iter().map(|held| (id, held)));
        }
        leaving
    }

    /// A closing connection is gone. Whether another is to be opened in its place: not if the cap was lowered meanwhile.
    pub fn reopening(&mut self, id: PoolId) -> bool {
        self.closed(id);
        let room = self.used < self.cap;
        if room {
            self.used += 1;
            self.opening += 1;
            self.pools[id.0].opening += 1;
        }
        room
    }

    /// Whether time alone can bring work: a pause that ends, an idle connection that ages.
    pub fn needs_watching(&self) -> bool {
        self.waiting > 0 || self.used > 0 || self.policy.min_idle > 0
    }
}

impl<C, W, E> Pool<C, W, E> {
    fn counts(&self) -> Counts {
        Counts {
            idle: self.idle.iter().map(Vec::len).sum(),
            leased: self.leased,
            opening: self.opening,
            closing: self.closing,
            waiting: self.waiters.len(),
        }
    }

    /// Waiters that no opening is under way for.
    fn unserved(&self) -> usize {
        self.waiters.len().saturating_sub(self.opening)
    }

    /// Openings that its waiters and its limit call for.
    fn wanted(&self) -> usize {
        self.unserved()
            .min(self.limit.saturating_sub(self.counts().total()))
    }

    fn may_grow(&self) -> bool {
        self.counts().total() < self.limit
    }

    /// Connections above its own limit, those not counted that are leaving already.
    #[inline]
    fn excess(&self) -> usize {
        match self.limit {
            usize::MAX => 0,
            limit => self.above(limit),
        }
    }

    #[inline(never)]
    fn above(&self, limit: usize) -> usize {
        (self.counts().total() - self.closing).saturating_sub(limit)
    }

    /// Idle ones, and those that will be when nobody waits for them.
    fn spare(&self) -> usize {
        (self.counts().idle + self.opening).saturating_sub(self.waiters.len())
    }

    fn wants_any(&self) -> bool {
        self.leased > 0 || !self.waiters.is_empty()
    }

    fn first_ticket(&self) -> Option<Ticket> {
        self.waiters.front().map(|waiter| waiter.ticket)
    }
}
