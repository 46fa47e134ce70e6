//! Which pool gets the next connection, and which one has to let go of one.
//!
//! Knows fairness between the pools of a target; order within a pool is the queue's own.

use std::time::Instant;

use super::{FailureKind, Held, Leaving, Order, Pool, PoolId, Slots, Ticket, WorkerId};

/// Who gets the next connection.
#[derive(Clone, Copy)]
enum Next {
    Pool(PoolId),
    Guest,
}

impl<C, W, E: Clone, G> Slots<C, W, E, G> {
    /// What to open, and what to close so that another pool can open.
    pub fn plan(&mut self, now: Instant) -> Vec<Order<C, G>> {
        let mut orders = Vec::new();
        if self
            .trouble
            .as_ref()
            .is_some_and(|trouble| now < trouble.retry_at)
        {
            return orders;
        }
        while let Some(next) = self.hungriest() {
            if self.opening >= self.openings_allowed() {
                break;
            }
            if self.used < self.ceiling() {
                self.serve(next, &mut orders);
                continue;
            }
            // Each closing makes room for one opening: no more of them than are wanted.
            let victim = if self.closing < self.closings_wanted() {
                self.take_coldest(next)
            } else {
                None
            };
            if let Some((owner, held)) = victim {
                orders.push(Order::Close(owner, held));
            } else if self.used < self.cap && self.closing == 0 {
                // It was full, and nothing of ours can make room: others may have.
                self.serve(next, &mut orders);
            } else {
                break;
            }
        }
        self.plan_minimum(&mut orders);
        orders
    }

    fn plan_minimum(&mut self, orders: &mut Vec<Order<C, G>>) {
        for place in 0..self.pools.len() {
            // One that was refused is tried again when a client asks for it.
            while self.pools[place].refusal.is_none()
                && self.policy.min_idle > self.pools[place].spare()
                && self.pools[place].may_grow()
                && self.used < self.ceiling()
                && self.opening < self.openings_allowed()
            {
                self.start_opening(PoolId(place), orders);
            }
        }
    }

    /// The cap; or less, when the target has just said that it has no more.
    fn ceiling(&self) -> usize {
        match &self.trouble {
            Some(trouble) if trouble.kind == FailureKind::Full => self.cap.min(trouble.used),
            Some(_) | None => self.cap,
        }
    }

    fn openings_allowed(&self) -> usize {
        match self.trouble {
            // One attempt tells as much as many while the target is in trouble.
            Some(_) => 1,
            // Guests that were admitted wait no more, and are being served like those that do.
            None => self.policy.openings_for(self.waiting + self.guests.inside),
        }
    }

    fn closings_wanted(&self) -> usize {
        let wanted = self.pools.iter().map(Pool::wanted).sum::<usize>() + self.guests_wanted();
        match self.trouble {
            Some(_) => 1.min(wanted),
            None => wanted,
        }
    }

    fn serve(&mut self, next: Next, orders: &mut Vec<Order<C, G>>) {
        match next {
            Next::Pool(id) => self.start_opening(id, orders),
            Next::Guest => orders.extend(self.admit().map(Order::Admit)),
        }
    }

    fn start_opening(&mut self, id: PoolId, orders: &mut Vec<Order<C, G>>) {
        self.used += 1;
        self.opening += 1;
        self.pools[id.0].opening += 1;
        orders.push(Order::Open(id));
    }

    /// Of the pools that want a connection more, and the guests, the one whose first in line came first.
    fn hungriest(&self) -> Option<Next> {
        let pools = self.pools.iter().enumerate();
        let pools = pools.filter(|(_, pool)| pool.wanted() > 0);
        let pools = pools.map(|(place, pool)| (pool.first_ticket(), Next::Pool(PoolId(place))));
        let guest = (self.guests_wanted() > 0).then(|| (self.first_guest(), Next::Guest));
        let first = pools.chain(guest).min_by_key(|(ticket, _)| *ticket);
        first.map(|(_, next)| next)
    }

    /// Whether a pool with waiters of its own should give up a connection for another that has
    /// less than its share and has waited longer. The share keeps two busy pools from
    /// closing each other's connections in turn.
    #[inline(never)]
    pub(super) fn must_yield(&self, id: PoolId) -> bool {
        let out_of_reach = self
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.kind == FailureKind::Unreachable);
        // A connection that works is not given up for one that can't be had, or that there is room for.
        if self.closing > 0 || out_of_reach || self.used < self.ceiling() {
            return false;
        }
        let busy = self.pools.iter().filter(|pool| pool.wants_any()).count();
        let busy = busy + usize::from(self.guests_wanted() > 0);
        let share = self.cap / busy.max(1);
        let own = &self.pools[id.0];
        let own_first = own.first_ticket().unwrap_or(Ticket(u64::MAX));
        let above_share = own.counts().total() > share;
        if self.guests_wanted() > 0 && self.first_guest().is_some_and(|first| first < own_first) {
            return true;
        }
        self.pools.iter().any(|other| {
            let has = other.counts().total();
            // Whoever has none takes turns: there may be more busy pools than connections, or some of
            // these are never given back.
            other.wanted() > 0
                && (has == 0 || above_share && has < share)
                && other.first_ticket().is_some_and(|first| first < own_first)
        })
    }

    /// The connection that has been idle for longest, of a pool that is not to have it itself; now closing.
    fn take_coldest(&mut self, next: Next) -> Option<(PoolId, Held<C>)> {
        let is_other = |place: usize| !matches!(next, Next::Pool(PoolId(own)) if own == place);
        let pools = self.pools.iter().enumerate();
        let others = pools.filter(|(place, _)| is_other(*place));
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

    /// All idle connections of a pool, now closing.
    pub fn evict(&mut self, id: PoolId) -> Vec<Held<C>> {
        let pool = &mut self.pools[id.0];
        let stacks = pool.idle.iter_mut().flat_map(std::mem::take);
        let evicted: Vec<Held<C>> = stacks.map(|idle| idle.held).collect();
        pool.closing += evicted.len();
        self.closing += evicted.len();
        evicted
    }

    /// This worker's idle connections that are not to be kept, the coldest first.
    pub fn sweep(
        &mut self,
        worker: WorkerId,
        now: Instant,
        mut dead: impl FnMut(&mut C) -> bool,
    ) -> Vec<(PoolId, Held<C>, Leaving)> {
        let mut leaving = Vec::new();
        let idle_everywhere: usize = self.pools.iter().map(|pool| pool.counts().idle).sum();
        let kept = self.cap * self.policy.max_idle_percent as usize / 100;
        let mut surplus = idle_everywhere.saturating_sub(kept);
        let mut excess = self.excess();
        for (place, pool) in self.pools.iter_mut().enumerate() {
            let mut spare = pool.counts().idle.saturating_sub(self.policy.min_idle);
            let mut at = 0;
            while at < pool.idle[worker.0].len() {
                let too_many = excess > 0 || pool.excess() > 0;
                let idle = &mut pool.idle[worker.0][at];
                let unused = now.saturating_duration_since(idle.since);
                let why = if dead(&mut idle.held.connection) {
                    Leaving::Dead
                } else if now >= idle.held.expires {
                    Leaving::Worn
                } else if too_many {
                    Leaving::Excess
                } else if spare > 0 && unused >= self.policy.idle_timeout {
                    Leaving::Unused
                } else if spare > 0 && surplus > 0 && unused >= self.policy.surplus_after() {
                    Leaving::Surplus
                } else {
                    at += 1;
                    continue;
                };
                spare = spare.saturating_sub(1);
                surplus = surplus.saturating_sub(1);
                excess = excess.saturating_sub(1);
                leaving.push((PoolId(place), pool.idle[worker.0].remove(at).held, why));
                pool.closing += 1;
                self.closing += 1;
            }
        }
        leaving
    }
}
