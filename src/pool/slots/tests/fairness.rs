//! Pools that share too few connections: each gets its turn, and none is closed for nothing.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// Clients that ask again as soon as they are served; every order is carried out at once.
struct Crowd {
    slots: Slots<u32, usize, ()>,
    pools: Vec<PoolId>,
    now: Instant,
    /// Borrowed, the one first to come back in front.
    out: VecDeque<(usize, Held<u32>)>,
    opened: u32,
    /// Releases that each pool has seen since it was served last.
    since: Vec<usize>,
    longest: usize,
}

impl Crowd {
    fn new(cap: usize, clients: &[usize]) -> Crowd {
        let mut slots = Slots::new(policy::for_tests(), 1, cap, Tickets::default());
        let pools: Vec<PoolId> = clients.iter().map(|_| slots.add_pool(None)).collect();
        let mut crowd = Crowd {
            slots,
            pools,
            now: Instant::now(),
            out: VecDeque::new(),
            opened: 0,
            since: vec![0; clients.len()],
            longest: 0,
        };
        for (pool, count) in clients.iter().enumerate() {
            for _ in 0..*count {
                crowd.ask(pool);
            }
        }
        crowd
    }

    fn ask(&mut self, pool: usize) {
        if let Some(held) = self.slots.borrow(self.pools[pool], ONE) {
            self.served(pool, held);
        } else {
            self.slots.enqueue(self.pools[pool], pool);
            self.carry_out();
        }
    }

    fn served(&mut self, pool: usize, held: Held<u32>) {
        self.since[pool] = 0;
        self.out.push_back((pool, held));
    }

    fn carry_out(&mut self) {
        loop {
            let orders = self.slots.plan(self.now);
            if orders.is_empty() {
                return;
            }
            for order in orders {
                match order {
                    Order::Open(pool) => {
                        self.slots.opened(pool);
                        self.opened += 1;
                        let fresh = super::held(self.opened, ONE, self.now);
                        self.put_back(pool.0, fresh);
                    }
                    Order::Close(pool, _) => self.slots.closed(pool),
                    Order::Admit(()) => unreachable!("there are no guests"),
                }
            }
        }
    }

    fn put_back(&mut self, pool: usize, held: Held<u32>) {
        match self.slots.release(self.pools[pool], held, self.now) {
            Released::Idle => {}
            Released::Hand(_, held) => self.served(pool, held),
            Released::Close(..) => self.slots.closed(self.pools[pool]),
        }
        self.carry_out();
    }

    /// The client that has had its connection longest gives it back, and queues again.
    fn step(&mut self) {
        let (pool, held) = self.out.pop_front().expect("somebody is always served");
        for since in &mut self.since {
            *since += 1;
        }
        self.put_back(pool, held);
        self.ask(pool);
        self.longest = self
            .longest
            .max(self.since.iter().copied().max().unwrap_or(0));
    }
}

#[test]
fn two_pools_with_room_for_both_stop_trading_connections() {
    let mut crowd = Crowd::new(4, &[20, 20]);
    for _ in 0..200 {
        crowd.step();
    }
    let opened = crowd.opened;
    for _ in 0..1000 {
        crowd.step();
    }
    assert_eq!(
        crowd.opened, opened,
        "connections are closed and opened in turn"
    );
    let totals = [0, 1].map(|pool| crowd.slots.counts(crowd.pools[pool]).total());
    assert_eq!(totals, [2, 2]);
}

#[test]
fn a_late_pool_gets_its_share_from_one_that_has_all() {
    let mut crowd = Crowd::new(4, &[50, 0]);
    for _ in 0..10 {
        crowd.step();
    }
    for _ in 0..9 {
        crowd.ask(1);
    }
    for _ in 0..200 {
        crowd.step();
    }
    assert_eq!(crowd.slots.counts(crowd.pools[1]).total(), 2);
}

#[test]
fn a_pool_that_holds_on_does_not_keep_others_from_their_turn() {
    // The first two connections are never given back.
    let mut crowd = Crowd::new(3, &[2, 6, 6]);
    let pinned: Vec<_> = (0..2).filter_map(|_| crowd.out.pop_front()).collect();
    assert!(pinned.iter().all(|(pool, _)| *pool == 0));
    let mut turns = [0; 3];
    for _ in 0..400 {
        turns[crowd.out.front().expect("one is in turn").0] += 1;
        crowd.step();
    }
    assert!(turns[1] >= 100 && turns[2] >= 100, "{turns:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Also when there are more busy pools than connections.
    #[test]
    fn every_pool_has_its_turn(
        cap in 1..6usize,
        clients in proptest::collection::vec(1..12usize, 2..8),
    ) {
        let mut crowd = Crowd::new(cap, &clients);
        for _ in 0..300 {
            crowd.step();
        }
        let everybody: usize = clients.iter().sum();
        prop_assert!(crowd.longest <= 2 * everybody + 2 * cap,
            "a pool waited for {} releases with {everybody} clients", crowd.longest);
    }
}
