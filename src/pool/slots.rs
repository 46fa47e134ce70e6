//! Which connections of one target exist, who has them and who waits.
//!
//! Pure: time and chance are arguments, connections and waiters are whatever the caller says.
//! Knows nothing of sockets, of SQL or of what a connection is good for.
//!
//! A connection is in exactly one state, and these are the ways out of each:
//!
//! - *opening* -> leased or idle (`opened`), gone (`open_failed`)
//! - *idle* -> leased (`borrow`), closing (`plan`, `sweep`)
//! - *leased* -> idle, leased by the next in line, closing (`release`), closing (`discard`)
//! - *closing* -> gone (`closed`)
//!
//! Their sum never grows beyond the cap; it may stand above it for a while after the cap was lowered.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::policy::Policy;

/// One (database, user) of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub(super) usize);

/// A worker thread, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId(pub usize);

/// A place in a queue; later ones are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A connection and when it is to be replaced.
#[derive(Debug)]
pub struct Held<C> {
    pub connection: C,
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
    Close(Held<C>),
}

/// Work for the shell.
#[derive(Debug)]
pub enum Order<C> {
    Open(PoolId),
    Close(PoolId, Held<C>),
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
pub struct Slots<C, W, E> {
    policy: Policy,
    workers: usize,
    cap: usize,
    used: usize,
    opening: usize,
    closing: usize,
    waiting: usize,
    next_ticket: u64,
    pools: Vec<Pool<C, W, E>>,
    trouble: Option<Trouble<E>>,
    has_opened: bool,
}

/// How long a refusal is repeated without asking the server again.
const REFUSAL_LASTS: Duration = Duration::from_millis(500);

impl<C, W, E: Clone> Slots<C, W, E> {
    pub fn new(policy: Policy, workers: usize, cap: usize) -> Self {
        Slots {
            policy,
            workers,
            cap,
            used: 0,
            opening: 0,
            closing: 0,
            waiting: 0,
            next_ticket: 0,
            pools: Vec::new(),
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

    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
    }

    pub fn cap(&self) -> usize {
        self.cap
    }

    pub fn used(&self) -> usize {
        self.used
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
        let max_waiting = self.policy.max_waiting;
        let pool = &mut self.pools[pool.0];
        if pool.waiters.len() >= max_waiting {
            return None;
        }
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        pool.waiters.push_back(Waiter { ticket, handle });
        self.waiting += 1;
        Some(ticket)
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
        let worn = now >= held.expires || self.used - self.closing > self.cap;
        let others_wait = self.waiting > self.pools[pool.0].waiters.len();
        if worn || (others_wait && self.must_yield(pool)) {
            self.discard(pool);
            return Released::Close(held);
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
        let before = self.trouble.take().filter(|trouble| trouble.kind == kind);
        let failures = before.as_ref().map_or(1, |trouble| trouble.failures + 1);
        self.trouble = Some(Trouble {
            cause,
            since: before.map_or(now, |trouble| trouble.since),
            failures,
            retry_at: now + self.policy.backoff(failures, jitter),
            kind,
        });
        Vec::new()
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

    /// What to open, and what to close so that another pool can open.
    pub fn plan(&mut self, now: Instant) -> Vec<Order<C>> {
        let mut orders = Vec::new();
        if self
            .trouble
            .as_ref()
            .is_some_and(|trouble| now < trouble.retry_at)
        {
            return orders;
        }
        while let Some(id) = self.hungriest() {
            if self.opening >= self.openings_allowed() {
                break;
            }
            if self.used < self.cap {
                self.start_opening(id, &mut orders);
                continue;
            }
            // Each closing makes room for one opening: no more of them than are wanted.
            let unserved = self.pools.iter().map(Pool::unserved).sum();
            let victim = if self.closing < unserved {
                self.take_coldest(id)
            } else {
                None
            };
            let Some((owner, held)) = victim else { break };
            orders.push(Order::Close(owner, held));
        }
        self.plan_minimum(&mut orders);
        orders
    }

    fn plan_minimum(&mut self, orders: &mut Vec<Order<C>>) {
        for place in 0..self.pools.len() {
            while self.policy.min_idle > self.pools[place].spare()
                && self.pools[place].may_grow()
                && self.used < self.cap
                && self.opening < self.openings_allowed()
            {
                self.start_opening(PoolId(place), orders);
            }
        }
    }

    fn openings_allowed(&self) -> usize {
        match self.trouble {
            // One attempt tells as much as many while the target is in trouble.
            Some(_) => 1,
            None => self.policy.openings_for(self.waiting),
        }
    }

    fn start_opening(&mut self, id: PoolId, orders: &mut Vec<Order<C>>) {
        self.used += 1;
        self.opening += 1;
        self.pools[id.0].opening += 1;
        orders.push(Order::Open(id));
    }

    /// Of the pools that want a connection more, the one whose first in line came first.
    fn hungriest(&self) -> Option<PoolId> {
        let wanting = self.pools.iter().enumerate();
        wanting
            .filter(|(_, pool)| pool.unserved() > 0 && pool.may_grow())
            .min_by_key(|(_, pool)| pool.first_ticket())
            .map(|(place, _)| PoolId(place))
    }

    /// Whether a pool with waiters of its own should give up a connection for another that has
    /// less than its share and has waited longer. The share keeps two busy pools from
    /// closing each other's connections in turn.
    fn must_yield(&self, id: PoolId) -> bool {
        if self.closing > 0 {
            return false;
        }
        let busy = self.pools.iter().filter(|pool| pool.wants_any()).count();
        // 0 when there are more busy pools than connections: then they take turns.
        let share = self.cap / busy.max(1);
        let own = &self.pools[id.0];
        own.counts().total() > share
            && self.pools.iter().any(|other| {
                other.unserved() > 0
                    && other.may_grow()
                    && other.counts().total() < share.max(1)
                    && other.first_ticket() < own.first_ticket().or(Some(Ticket(u64::MAX)))
            })
    }

    /// The connection of another pool that has been idle for longest, now closing.
    fn take_coldest(&mut self, but: PoolId) -> Option<(PoolId, Held<C>)> {
        let others = self
            .pools
            .iter()
            .enumerate()
            .filter(|(place, _)| *place != but.0);
        let coldest = others
            .flat_map(|(place, pool)| {
                let firsts = pool.idle.iter().enumerate();
                firsts.filter_map(move |(worker, idle)| Some((idle.first()?.since, place, worker)))
            })
            .min()?;
        let (_, place, worker) = coldest;
        let held = self.pools[place].idle[worker].remove(0).held;
        self.pools[place].closing += 1;
        self.closing += 1;
        Some((PoolId(place), held))
    }

    /// This worker's idle connections that are not to be kept: dead, worn or surplus.
    pub fn sweep(
        &mut self,
        worker: WorkerId,
        now: Instant,
        mut dead: impl FnMut(&mut C) -> bool,
    ) -> Vec<(PoolId, Held<C>)> {
        let mut leaving = Vec::new();
        let idle_everywhere: usize = self.pools.iter().map(|pool| pool.counts().idle).sum();
        let ceiling = self.cap * self.policy.max_idle_percent as usize / 100;
        let mut surplus = idle_everywhere.saturating_sub(ceiling)
            + (self.used - self.closing).saturating_sub(self.cap);
        for (place, pool) in self.pools.iter_mut().enumerate() {
            let mut keep = self.policy.min_idle;
            // From the warmest down, so that the minimum is kept of those.
            for at in (0..pool.idle[worker.0].len()).rev() {
                let idle = &mut pool.idle[worker.0][at];
                let unused = now.saturating_duration_since(idle.since);
                let broken = dead(&mut idle.held.connection) || now >= idle.held.expires;
                let unwanted = unused >= self.policy.idle_timeout
                    || (surplus > 0 && unused >= self.policy.surplus_after());
                if !broken && (!unwanted || keep > 0) {
                    keep = keep.saturating_sub(1);
                    continue;
                }
                surplus = surplus.saturating_sub(1);
                leaving.push((PoolId(place), pool.idle[worker.0].remove(at).held));
                pool.closing += 1;
                self.closing += 1;
            }
        }
        leaving
    }

    /// Takes all idle connections out, for closing.
    pub fn drain_idle(&mut self) -> Vec<(PoolId, Held<C>)> {
        let mut leaving = Vec::new();
        for (place, pool) in self.pools.iter_mut().enumerate() {
            for idle in pool.idle.iter_mut().flat_map(|stack| stack.drain(..)) {
                leaving.push((PoolId(place), idle.held));
                pool.closing += 1;
                self.closing += 1;
            }
        }
        leaving
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

    fn may_grow(&self) -> bool {
        self.counts().total() < self.limit
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
