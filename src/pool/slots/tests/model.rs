//! All verbs in any order, against a model that keeps every connection and every waiter by name.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

const POOLS: usize = 3;
const WORKERS: usize = 2;

#[derive(Clone, Debug)]
enum Verb {
    /// As a session does: borrow, or else queue and have a plan made.
    Borrow(usize, usize),
    Abandon(usize),
    Release(usize),
    Discard(usize),
    Opened(usize),
    OpenFailed(usize, FailureKind),
    GivenUp(usize),
    Closed(usize),
    Plan,
    Sweep(usize),
    SetCap(usize),
    Sleep(u64),
    /// Handed over, found dead.
    Rejoin,
    /// A guest comes, and others do what guests do.
    Guest,
    GuestGoes(usize),
    GuestStays(usize),
    GuestFailed(FailureKind),
}

fn verbs() -> impl Strategy<Value = Verb> {
    let any = 0..1000usize;
    let kinds = || {
        prop_oneof![
            3 => Just(FailureKind::Unreachable),
            2 => Just(FailureKind::Full),
            1 => Just(FailureKind::Refused),
        ]
    };
    prop_oneof![
        10 => (0..POOLS, 0..WORKERS).prop_map(|(pool, worker)| Verb::Borrow(pool, worker)),
        2 => any.clone().prop_map(Verb::Abandon),
        6 => any.clone().prop_map(Verb::Release),
        2 => any.clone().prop_map(Verb::Discard),
        6 => any.clone().prop_map(Verb::Opened),
        1 => (any.clone(), kinds()).prop_map(|(nth, kind)| Verb::OpenFailed(nth, kind)),
        1 => any.clone().prop_map(Verb::GivenUp),
        4 => any.clone().prop_map(Verb::Closed),
        4 => Just(Verb::Plan),
        2 => (0..WORKERS).prop_map(Verb::Sweep),
        1 => (1..8usize).prop_map(Verb::SetCap),
        2 => prop_oneof![0..300u64, 0..400_000u64].prop_map(Verb::Sleep),
        1 => Just(Verb::Rejoin),
        3 => Just(Verb::Guest),
        1 => any.clone().prop_map(Verb::GuestGoes),
        2 => any.prop_map(Verb::GuestStays),
        1 => kinds().prop_map(Verb::GuestFailed),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Idle,
    Leased,
    Closing,
}

struct Model {
    slots: Slots<u32, u64, u8, u64>,
    pools: Vec<PoolId>,
    now: Instant,
    cap: usize,
    next: u64,
    connections: BTreeMap<u32, (usize, usize, Place)>,
    opening: Vec<usize>,
    queues: Vec<VecDeque<(u64, Ticket)>>,
    /// Guests in line, and how many are in.
    guests: VecDeque<(u64, Ticket)>,
    inside: usize,
    /// Served last, with the connection got: candidates for a death in the moment of handing over.
    served: Option<(usize, u64, Ticket, u32)>,
    refused: Vec<bool>,
}

impl Model {
    fn new(cap: usize, policy: Policy, limit: Option<usize>) -> Model {
        let mut slots = Slots::new(policy, WORKERS, cap, Tickets::default());
        let pools = (0..POOLS)
            .map(|place| slots.add_pool(limit.filter(|_| place == 0)))
            .collect();
        Model {
            slots,
            pools,
            now: Instant::now(),
            cap,
            next: 0,
            connections: BTreeMap::new(),
            opening: Vec::new(),
            queues: vec![VecDeque::new(); POOLS],
            guests: VecDeque::new(),
            inside: 0,
            served: None,
            refused: vec![false; POOLS],
        }
    }

    fn nth(&self, place: Place, nth: usize) -> Option<u32> {
        let mut there: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, (_, _, at))| *at == place)
            .map(|(connection, _)| *connection)
            .collect();
        (!there.is_empty()).then(|| there.swap_remove(nth % there.len()))
    }

    fn count(&self, pool: usize, place: Place) -> usize {
        let all = self.connections.values();
        all.filter(|(of, _, at)| (*of, *at) == (pool, place))
            .count()
    }

    fn set(&mut self, connection: u32, place: Place) {
        self.connections.get_mut(&connection).unwrap().2 = place;
    }

    fn held(&self, connection: u32) -> Held<u32> {
        Held {
            connection,
            // Every seventh is short-lived.
            generation: Generation::default(),
            expires: self.now
                + Duration::from_secs(if connection.is_multiple_of(7) {
                    0
                } else {
                    3600
                }),
            worker: WorkerId(self.connections[&connection].1),
        }
    }

    fn apply(&mut self, verb: &Verb) {
        match *verb {
            Verb::Borrow(pool, worker) => self.borrow(pool, worker),
            Verb::Abandon(nth) => self.abandon(nth),
            Verb::Release(nth) => {
                if let Some(connection) = self.nth(Place::Leased, nth) {
                    self.release(connection);
                }
            }
            Verb::Discard(nth) => {
                if let Some(connection) = self.nth(Place::Leased, nth) {
                    self.slots
                        .discard(self.pools[self.connections[&connection].0]);
                    self.set(connection, Place::Closing);
                }
            }
            Verb::Opened(nth) => {
                if let Some(pool) = self.take_opening(nth) {
                    self.slots.opened(self.pools[pool]);
                    self.refused[pool] = false;
                    self.next += 1;
                    let connection = self.next as u32;
                    let at = (pool, nth % WORKERS, Place::Leased);
                    self.connections.insert(connection, at);
                    self.release(connection);
                }
            }
            Verb::OpenFailed(nth, kind) => self.open_failed(nth, kind),
            Verb::GivenUp(nth) => {
                if let Some(pool) = self.take_opening(nth) {
                    self.slots.opening_given_up(self.pools[pool]);
                }
            }
            Verb::Closed(nth) => {
                if let Some(connection) = self.nth(Place::Closing, nth) {
                    let (pool, ..) = self.connections.remove(&connection).unwrap();
                    self.slots.closed(self.pools[pool]);
                }
            }
            Verb::Plan => self.plan(),
            Verb::Sweep(worker) => self.sweep(worker),
            Verb::SetCap(cap) => {
                self.cap = cap;
                self.slots.set_cap(cap);
            }
            Verb::Sleep(ms) => self.now += Duration::from_millis(ms),
            Verb::Rejoin => self.rejoin(),
            Verb::Guest | Verb::GuestGoes(_) => self.guest(verb),
            Verb::GuestStays(_) | Verb::GuestFailed(_) => self.guest_inside(verb),
        }
        if !matches!(
            verb,
            Verb::Release(_) | Verb::Opened(_) | Verb::GuestStays(_)
        ) {
            self.served = None;
        }
    }

    fn guest(&mut self, verb: &Verb) {
        match *verb {
            Verb::GuestGoes(nth) if !self.guests.is_empty() => {
                let (_, ticket) = self.guests.remove(nth % self.guests.len()).unwrap();
                self.slots.abandon_guest(ticket);
            }
            Verb::Guest => {
                self.next += 1;
                let ticket = self.slots.enqueue_guest(self.next);
                self.guests.push_back((self.next, ticket));
            }
            _ => {}
        }
        self.plan();
    }

    fn guest_inside(&mut self, verb: &Verb) {
        if self.inside == 0 {
            return;
        }
        self.inside -= 1;
        match *verb {
            Verb::GuestStays(nth) => {
                let pool = nth % POOLS;
                self.slots.guest_stays(self.pools[pool]);
                self.next += 1;
                let connection = self.next as u32;
                let at = (pool, nth % WORKERS, Place::Leased);
                self.connections.insert(connection, at);
                self.release(connection);
            }
            Verb::GuestFailed(FailureKind::Refused) => self.slots.guest_leaves(),
            Verb::GuestFailed(kind) => {
                self.slots.guest_failed(kind, 1, self.now, 0.5);
                assert!(self.slots.plan(self.now).is_empty(), "no pause");
            }
            _ => unreachable!("not of a guest inside"),
        }
    }

    /// Guests to be let in.
    fn guests_wanted(&self) -> usize {
        let room = (self.cap / 2).max(1).saturating_sub(self.inside);
        self.guests.len().min(room)
    }

    fn borrow(&mut self, pool: usize, worker: usize) {
        let expected = self.queues[pool].is_empty() && self.count(pool, Place::Idle) > 0;
        match self.slots.borrow(self.pools[pool], WorkerId(worker)) {
            Some(held) => {
                assert!(expected, "lent out of turn");
                let at = self.connections[&held.connection];
                assert_eq!((at.0, at.2), (pool, Place::Idle));
                let own = |(of, by, at): &(usize, usize, Place)| {
                    (*of, *by, *at) == (pool, worker, Place::Idle)
                };
                let had_own = self.connections.values().any(own);
                assert_eq!(at.1 == worker, had_own, "the own worker's first");
                self.set(held.connection, Place::Leased);
                self.connections.get_mut(&held.connection).unwrap().1 = worker;
            }
            None => {
                assert!(!expected, "an idle connection was withheld");
                self.next += 1;
                let full = self.queues[pool].len() >= self.slots.policy().max_waiting;
                match self.slots.enqueue(self.pools[pool], self.next) {
                    Some(ticket) => self.queues[pool].push_back((self.next, ticket)),
                    None => assert!(full),
                }
                self.plan();
            }
        }
    }

    fn abandon(&mut self, nth: usize) {
        let pool = nth % POOLS;
        let waiting = self.queues[pool].len();
        if waiting > 0 {
            let (_, ticket) = self.queues[pool].remove(nth % waiting).unwrap();
            assert!(self.slots.abandon(self.pools[pool], ticket));
            assert!(!self.slots.abandon(self.pools[pool], ticket));
        }
    }

    fn release(&mut self, connection: u32) {
        let pool = self.connections[&connection].0;
        let held = self.held(connection);
        self.served = None;
        match self.slots.release(self.pools[pool], held, self.now) {
            Released::Idle => {
                assert!(self.queues[pool].is_empty(), "put by while others wait");
                self.set(connection, Place::Idle);
            }
            Released::Hand(waiter, held) => {
                let (first, ticket) = self.queues[pool].pop_front().expect("somebody waits");
                assert_eq!((waiter, held.connection), (first, connection));
                self.served = Some((pool, waiter, ticket, connection));
            }
            Released::Close(held, why) => {
                assert_eq!(held.connection, connection);
                self.set(connection, Place::Closing);
                if why == Leaving::Yielding {
                    let others_wait = (0..POOLS).any(|other| {
                        other != pool && self.queues[other].len() > self.openings(other)
                    });
                    assert!(
                        others_wait || !self.guests.is_empty(),
                        "given up for nobody"
                    );
                }
            }
        }
    }

    fn rejoin(&mut self) {
        let Some((pool, waiter, ticket, connection)) = self.served.take() else {
            return;
        };
        self.slots.discard(self.pools[pool]);
        self.set(connection, Place::Closing);
        match self
            .slots
            .rejoin(self.pools[pool], WorkerId(0), ticket, waiter)
        {
            Some((_, held)) => {
                assert!(self.queues[pool].is_empty());
                self.set(held.connection, Place::Leased);
                self.connections.get_mut(&held.connection).unwrap().1 = 0;
            }
            None => self.queues[pool].push_front((waiter, ticket)),
        }
        self.plan();
    }

    fn take_opening(&mut self, nth: usize) -> Option<usize> {
        let under_way = self.opening.len();
        (under_way > 0).then(|| self.opening.swap_remove(nth % under_way))
    }

    fn openings(&self, pool: usize) -> usize {
        self.opening.iter().filter(|of| **of == pool).count()
    }

    fn open_failed(&mut self, nth: usize, kind: FailureKind) {
        let Some(pool) = self.take_opening(nth) else {
            return;
        };
        let in_vain = self
            .slots
            .open_failed(self.pools[pool], kind, 1, self.now, 0.5);
        if kind == FailureKind::Refused {
            self.refused[pool] = true;
            let queue = std::mem::take(&mut self.queues[pool]);
            assert_eq!(
                in_vain,
                queue.iter().map(|(waiter, _)| *waiter).collect::<Vec<_>>()
            );
        } else {
            assert!(in_vain.is_empty());
            assert!(self.slots.plan(self.now).is_empty(), "no pause");
        }
    }

    /// Openings that a pool's waiters and limit call for.
    fn wanted(&self, pool: usize) -> usize {
        let room = self.slots.pools[pool]
            .limit
            .saturating_sub(self.slots.pools[pool].counts().total());
        self.queues[pool]
            .len()
            .saturating_sub(self.openings(pool))
            .min(room)
    }

    fn plan(&mut self) {
        let pausing = self
            .slots
            .trouble()
            .is_some_and(|trouble| self.now < trouble.retry_at);
        let wanted: Vec<usize> = (0..POOLS).map(|pool| self.wanted(pool)).collect();
        let all_wanted = wanted.iter().sum::<usize>() + self.guests_wanted();
        let guests_wanted = self.guests_wanted();
        let before = self.inside;
        let mut opened = [0; POOLS];
        let min_idle = self.slots.policy().min_idle;
        let spare: Vec<usize> = (0..POOLS)
            .map(|pool| self.slots.pools[pool].spare())
            .collect();
        for order in self.slots.plan(self.now) {
            assert!(!pausing, "no pause after a failure");
            match order {
                Order::Open(pool) => {
                    opened[pool.0] += 1;
                    self.opening.push(pool.0);
                }
                Order::Admit(guest) => {
                    assert_eq!(self.guests.pop_front().unwrap().0, guest, "out of turn");
                    self.inside += 1;
                }
                Order::Close(pool, held) => {
                    assert_eq!(self.connections[&held.connection].0, pool.0);
                    assert_eq!(self.connections[&held.connection].2, Place::Idle);
                    self.set(held.connection, Place::Closing);
                    let closing = self.nth_count(Place::Closing);
                    assert!(closing <= all_wanted, "more closed than is wanted");
                }
            }
        }
        assert!(self.inside - before <= guests_wanted);
        for pool in 0..POOLS {
            let minimum = if self.refused[pool] {
                0
            } else {
                min_idle.saturating_sub(spare[pool])
            };
            assert!(
                opened[pool] <= wanted[pool] + minimum,
                "more opened than is wanted"
            );
        }
        let allowed = match self.slots.trouble() {
            Some(_) => 1,
            None => {
                let served_or_not = self.slots.waiting() + self.inside;
                self.slots.policy().openings_for(served_or_not)
            }
        };
        let under_way = self.opening.len() + self.inside;
        let could = !pausing && under_way < allowed && self.slots.used() < self.cap;
        // With a target that is full, room is made first.
        let making_room = self.slots.trouble().is_some() && self.nth_count(Place::Closing) > 0;
        if could && !making_room {
            assert_eq!(self.guests_wanted(), 0, "a guest waits, and there is room");
            for pool in 0..POOLS {
                assert_eq!(
                    self.wanted(pool),
                    0,
                    "somebody waits, there is room, and nothing is opened"
                );
            }
        }
    }

    fn nth_count(&self, place: Place) -> usize {
        (0..POOLS).map(|pool| self.count(pool, place)).sum()
    }

    fn sweep(&mut self, worker: usize) {
        let dead = |connection: &mut u32| connection.is_multiple_of(11);
        for (pool, held, _) in self.slots.sweep(WorkerId(worker), self.now, dead) {
            let at = self.connections[&held.connection];
            assert_eq!(at, (pool.0, worker, Place::Idle));
            self.set(held.connection, Place::Closing);
        }
        let left = self.connections.iter();
        let mut dead_left = left.filter(|(connection, (_, by, at))| {
            connection.is_multiple_of(11) && (*by, *at) == (worker, Place::Idle)
        });
        assert!(dead_left.next().is_none(), "a dead one was left");
    }

    /// What must hold at any time.
    fn check(&self, used_before: usize) {
        let mut sum = Counts::default();
        for pool in 0..POOLS {
            let counts = self.slots.counts(self.pools[pool]);
            let expected = Counts {
                idle: self.count(pool, Place::Idle),
                leased: self.count(pool, Place::Leased),
                opening: self.openings(pool),
                closing: self.count(pool, Place::Closing),
                waiting: self.queues[pool].len(),
            };
            assert_eq!(counts, expected);
            assert!(
                counts.idle == 0 || counts.waiting == 0,
                "waits beside an idle one"
            );
            sum.idle += counts.idle;
            sum.leased += counts.leased;
            sum.opening += counts.opening;
            sum.closing += counts.closing;
            sum.waiting += counts.waiting;
        }
        let used = self.slots.used();
        assert_eq!(used, sum.total() + self.inside);
        assert_eq!(self.slots.waiting(), sum.waiting + self.guests.len());
        assert!(used <= self.cap.max(used_before), "above the cap");
        assert!(used == 0 || self.slots.needs_watching());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_counted_twice_or_overtaken(
        cap in 1..8usize,
        min_idle in 0..2usize,
        limit in proptest::option::of(1..3usize),
        script in proptest::collection::vec(verbs(), 1..200),
    ) {
        let policy = Policy { max_waiting: 6, min_idle, ..policy::for_tests() };
        let mut model = Model::new(cap, policy, limit);
        for verb in &script {
            let used = model.slots.used();
            model.apply(verb);
            model.check(used);
        }
    }
}
