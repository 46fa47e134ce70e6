//! The verbs of `Slots`, one by one; all of them at random, `model` has.

use super::*;
use crate::pool::policy;

mod fairness;
mod model;

/// Connections are numbers, waiters are letters, errors are words.
type Toy = Slots<u32, char, &'static str>;

const ONE: WorkerId = WorkerId(0);
const TWO: WorkerId = WorkerId(1);

fn toy(cap: usize, pools: usize) -> (Toy, Vec<PoolId>, Instant) {
    let mut slots = Toy::new(policy::for_tests(), 2, cap, Tickets::default());
    let ids = (0..pools).map(|_| slots.add_pool(None)).collect();
    (slots, ids, Instant::now())
}

fn held(connection: u32, worker: WorkerId, now: Instant) -> Held<u32> {
    Held {
        connection,
        generation: Generation::default(),
        expires: now + Duration::from_secs(3600),
        worker,
    }
}

/// What was ordered: `o0` opens in the first pool, `c1:7` closes connection 7 of the second.
fn ordered(orders: Vec<Order<u32>>) -> String {
    let words: Vec<String> = orders
        .iter()
        .map(|order| match order {
            Order::Open(pool) => format!("o{}", pool.0),
            Order::Close(pool, held) => format!("c{}:{}", pool.0, held.connection),
            Order::Admit(()) => "g".to_owned(),
        })
        .collect();
    words.join(" ")
}

fn released(released: Released<u32, char>) -> String {
    match released {
        Released::Idle => "idle".into(),
        Released::Hand(to, held) => format!("{} to {to}", held.connection),
        Released::Close(held, why) => format!("{} closed: {}", held.connection, why.as_str()),
    }
}

/// Opens a connection as ordered, and lends it out.
fn open(slots: &mut Toy, pool: PoolId) {
    slots.used += 1;
    slots.opening += 1;
    slots.pools[pool.0].opening += 1;
    slots.opened(pool);
}

/// Opens one and leaves it idle.
fn open_idle(slots: &mut Toy, pool: PoolId, connection: u32, worker: WorkerId, now: Instant) {
    open(slots, pool);
    slots.release(pool, held(connection, worker, now), now);
}

fn left(leaving: Vec<(PoolId, Held<u32>, Leaving)>) -> String {
    let words: Vec<String> = leaving
        .iter()
        .map(|(_, held, why)| format!("{} {}", held.connection, why.as_str()))
        .collect();
    words.join(", ")
}

#[test]
fn the_warmest_of_the_own_worker_is_lent_first() {
    let (mut slots, pools, now) = toy(10, 1);
    for (connection, worker) in [(1, ONE), (2, ONE), (3, TWO)] {
        open_idle(&mut slots, pools[0], connection, worker, now);
    }
    let lent: Vec<u32> = std::iter::from_fn(|| slots.borrow(pools[0], ONE))
        .map(|held| held.connection)
        .collect();
    assert_eq!(lent, [2, 1, 3]);
}

#[test]
fn nobody_overtakes() {
    let (mut slots, pools, now) = toy(10, 1);
    open(&mut slots, pools[0]);
    slots.enqueue(pools[0], 'a');
    slots.enqueue(pools[0], 'b');
    assert!(slots.borrow(pools[0], ONE).is_none());
    let outcome = slots.release(pools[0], held(1, ONE, now), now);
    assert_eq!(released(outcome), "1 to a");
    assert!(slots.borrow(pools[0], ONE).is_none());
    let outcome = slots.release(pools[0], held(1, ONE, now), now);
    assert_eq!(released(outcome), "1 to b");
    let outcome = slots.release(pools[0], held(1, ONE, now), now);
    assert_eq!(released(outcome), "idle");
    assert!(slots.borrow(pools[0], ONE).is_some());
}

#[test]
fn a_full_queue_takes_nobody() {
    let (mut slots, pools, _) = toy(1, 2);
    slots.set_policy(Policy {
        max_waiting: 1,
        ..policy::for_tests()
    });
    assert!(slots.enqueue(pools[0], 'a').is_some());
    assert!(slots.enqueue(pools[0], 'b').is_none());
    assert!(slots.enqueue(pools[1], 'c').is_some());
    assert_eq!(slots.waiting(), 2);
}

#[test]
fn leaving_the_queue_twice_changes_nothing() {
    let (mut slots, pools, _) = toy(1, 1);
    let tickets = ['a', 'b', 'c'].map(|name| slots.enqueue(pools[0], name).unwrap());
    assert!(slots.abandon(pools[0], tickets[1]));
    assert!(!slots.abandon(pools[0], tickets[1]));
    assert_eq!(slots.waiting(), 2);
    let stranger = slots.ticket();
    assert!(!slots.abandon(pools[0], stranger));
}

#[test]
fn whoever_got_a_dead_connection_stands_where_he_stood() {
    let (mut slots, pools, now) = toy(2, 1);
    open(&mut slots, pools[0]);
    open(&mut slots, pools[0]);
    let first = slots.enqueue(pools[0], 'a').unwrap();
    slots.enqueue(pools[0], 'b');
    slots.release(pools[0], held(1, ONE, now), now);
    slots.discard(pools[0]);
    assert!(slots.rejoin(pools[0], ONE, first, 'a').is_none());
    let outcome = slots.release(pools[0], held(2, ONE, now), now);
    assert_eq!(released(outcome), "2 to a");

    // Nobody waits any more, and one has been put by.
    let outcome = slots.release(pools[0], held(2, ONE, now), now);
    assert_eq!(released(outcome), "2 to b");
    slots.release(pools[0], held(2, ONE, now), now);
    let (name, found) = slots.rejoin(pools[0], TWO, first, 'a').unwrap();
    assert_eq!((name, found.connection), ('a', 2));
}

#[test]
fn why_a_returned_connection_is_closed() {
    let (mut slots, pools, now) = toy(2, 1);
    open(&mut slots, pools[0]);
    open(&mut slots, pools[0]);
    let later = now + Duration::from_secs(3600);
    let outcome = slots.release(pools[0], held(1, ONE, now), later);
    assert_eq!(released(outcome), "1 closed: lifetime");
    slots.closed(pools[0]);

    open(&mut slots, pools[0]);
    slots.set_cap(1);
    let outcome = slots.release(pools[0], held(2, ONE, now), now);
    assert_eq!(released(outcome), "2 closed: over_cap");
    // The one above the cap is leaving: the other may stay.
    let outcome = slots.release(pools[0], held(3, ONE, now), now);
    assert_eq!(released(outcome), "idle");

    let (mut slots, pools, now) = toy(9, 1);
    open(&mut slots, pools[0]);
    open(&mut slots, pools[0]);
    slots.set_limit(pools[0], Some(1));
    let outcome = slots.release(pools[0], held(4, ONE, now), now);
    assert_eq!(released(outcome), "4 closed: over_cap");
    let outcome = slots.release(pools[0], held(5, ONE, now), now);
    assert_eq!(released(outcome), "idle");
}

#[test]
fn openings_follow_the_waiters_and_stop_at_the_cap() {
    let (mut slots, pools, now) = toy(3, 1);
    for name in ['a', 'b', 'c', 'd', 'e'] {
        slots.enqueue(pools[0], name);
    }
    assert_eq!(ordered(slots.plan(now)), "o0 o0 o0");
    assert_eq!(ordered(slots.plan(now)), "");
    let counts = slots.counts(pools[0]);
    assert_eq!((counts.opening, counts.waiting, slots.used()), (3, 5, 3));
}

#[test]
fn a_pool_stays_within_its_own_limit() {
    let (mut slots, pools, now) = toy(10, 1);
    slots.set_limit(pools[0], Some(2));
    for name in ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'] {
        slots.enqueue(pools[0], name);
    }
    assert_eq!(ordered(slots.plan(now)), "o0 o0");
}

#[test]
fn the_longest_waiting_pool_is_served_first() {
    let (mut slots, pools, now) = toy(1, 3);
    slots.enqueue(pools[2], 'a');
    slots.enqueue(pools[0], 'b');
    assert_eq!(ordered(slots.plan(now)), "o2");
}

#[test]
fn the_coldest_of_another_pool_makes_room() {
    let (mut slots, pools, now) = toy(2, 2);
    open_idle(&mut slots, pools[0], 1, TWO, now);
    open_idle(&mut slots, pools[0], 2, ONE, now + Duration::from_secs(1));
    slots.enqueue(pools[1], 'a');
    assert_eq!(ordered(slots.plan(now)), "c0:1");
    assert_eq!(ordered(slots.plan(now)), "", "one is enough for one");
    slots.closed(pools[0]);
    assert_eq!(ordered(slots.plan(now)), "o1");
}

#[test]
fn no_more_room_is_made_than_can_be_used() {
    let (mut slots, pools, now) = toy(5, 3);
    for connection in 0..4 {
        open_idle(&mut slots, pools[0], connection, ONE, now);
    }
    slots.set_limit(pools[1], Some(1));
    open(&mut slots, pools[1]);
    for name in ['a', 'b', 'c', 'd', 'e', 'f'] {
        slots.enqueue(pools[1], name);
    }
    slots.enqueue(pools[2], 'z');
    assert_eq!(ordered(slots.plan(now)), "c0:0");
}

#[test]
fn after_a_failure_one_attempt_at_a_time_and_not_at_once() {
    let (mut slots, pools, now) = toy(9, 1);
    for name in ['a', 'b', 'c', 'd'] {
        slots.enqueue(pools[0], name);
    }
    assert_eq!(ordered(slots.plan(now)), "o0 o0");
    for _ in 0..2 {
        let kind = FailureKind::Unreachable;
        let in_vain = slots.open_failed(pools[0], kind, "down", now, 0.0);
        assert!(in_vain.is_empty());
    }
    assert_eq!(slots.down().unwrap().failures, 2);
    let soon = now + Duration::from_millis(99);
    assert_eq!(ordered(slots.plan(soon)), "");
    let due = now + Duration::from_millis(100);
    assert_eq!(ordered(slots.plan(due)), "o0");
    slots.opened(pools[0]);
    assert!(slots.trouble().is_none());
    assert_eq!(ordered(slots.plan(due)), "o0 o0");
}

#[test]
fn a_target_with_working_connections_is_not_down() {
    let (mut slots, pools, now) = toy(9, 1);
    open(&mut slots, pools[0]);
    slots.enqueue(pools[0], 'a');
    slots.plan(now);
    slots.open_failed(pools[0], FailureKind::Unreachable, "down", now, 0.0);
    assert!(slots.trouble().is_some() && slots.down().is_none());
    slots.discard(pools[0]);
    assert!(slots.down().is_some());
}

#[test]
fn a_refusal_ends_the_wait_of_that_pool_alone() {
    let (mut slots, pools, now) = toy(9, 2);
    for (pool, name) in [(0, 'a'), (0, 'b'), (1, 'c')] {
        slots.enqueue(pools[pool], name);
    }
    slots.plan(now);
    let in_vain = slots.open_failed(pools[0], FailureKind::Refused, "no", now, 0.0);
    assert_eq!(in_vain, ['a', 'b']);
    assert_eq!(slots.refusal(pools[0], now), Some("no"));
    assert_eq!(slots.refusal(pools[1], now), None);
    assert_eq!(slots.waiting(), 1);
    assert!(slots.trouble().is_none());
    assert_eq!(slots.refusal(pools[0], now + REFUSAL_LASTS), None);
}

#[test]
fn a_refused_pool_is_not_filled_up_in_vain() {
    let (mut slots, pools, now) = toy(9, 1);
    slots.set_policy(Policy {
        min_idle: 1,
        ..policy::for_tests()
    });
    assert_eq!(ordered(slots.plan(now)), "o0");
    slots.open_failed(pools[0], FailureKind::Refused, "no", now, 0.0);
    assert_eq!(ordered(slots.plan(now + REFUSAL_LASTS)), "");
    slots.enqueue(pools[0], 'a');
    assert_eq!(ordered(slots.plan(now)), "o0");
    slots.opened(pools[0]);
    slots.release(pools[0], held(1, ONE, now), now);
    assert_eq!(ordered(slots.plan(now)), "o0");
}

#[test]
fn a_full_target_gives_to_one_pool_what_another_lets_go() {
    let (mut slots, pools, now) = toy(9, 2);
    open_idle(&mut slots, pools[0], 1, ONE, now);
    slots.enqueue(pools[1], 'a');
    assert_eq!(ordered(slots.plan(now)), "o1");
    slots.open_failed(pools[1], FailureKind::Full, "full", now, 0.0);
    assert_eq!(ordered(slots.plan(now)), "");
    let due = now + Duration::from_millis(50);
    assert_eq!(ordered(slots.plan(due)), "c0:1");
    slots.closed(pools[0]);
    assert_eq!(ordered(slots.plan(due)), "o1");
    slots.open_failed(pools[1], FailureKind::Full, "full", due, 0.0);
    // Nothing of ours is left to let go: somebody else may have.
    let due = due + Duration::from_millis(100);
    assert_eq!(ordered(slots.plan(due)), "o1");
}

#[test]
fn working_connections_are_not_given_up_while_none_can_be_had() {
    let (mut slots, pools, now) = toy(2, 2);
    open(&mut slots, pools[0]);
    open(&mut slots, pools[0]);
    slots.enqueue(pools[1], 'z');
    slots.enqueue(pools[0], 'a');
    slots.set_cap(3);
    slots.plan(now);
    slots.open_failed(pools[1], FailureKind::Unreachable, "down", now, 0.0);
    slots.set_cap(2);
    let outcome = slots.release(pools[0], held(1, ONE, now), now);
    assert_eq!(released(outcome), "1 to a");
}

#[test]
fn nothing_is_given_up_while_there_is_room() {
    let (mut slots, pools, now) = toy(9, 2);
    for _ in 0..6 {
        open(&mut slots, pools[0]);
    }
    for name in ['v', 'w', 'x', 'y', 'z'] {
        slots.enqueue(pools[1], name);
    }
    slots.plan(now);
    slots.enqueue(pools[0], 'a');
    slots.abandon(pools[0], Ticket(6));
    slots.set_cap(20);
    let outcome = slots.release(pools[0], held(1, ONE, now), now);
    assert_eq!(released(outcome), "idle");
}

#[test]
fn sweeping_finds_the_dead_the_old_and_the_unused() {
    let (mut slots, pools, now) = toy(10, 1);
    for connection in 1..=4 {
        open_idle(&mut slots, pools[0], connection, ONE, now);
    }
    open_idle(&mut slots, pools[0], 5, TWO, now);
    assert_eq!(left(slots.sweep(ONE, now, |&mut c| c == 2)), "2 found_dead");
    let idle = now + Duration::from_secs(300);
    assert_eq!(
        left(slots.sweep(TWO, idle, |_| false)),
        "5 idle_timeout",
        "a worker sweeps before its own door"
    );
    let old = now + Duration::from_secs(3600);
    slots.set_policy(Policy {
        min_idle: 9,
        ..policy::for_tests()
    });
    assert_eq!(left(slots.sweep(ONE, idle, |_| false)), "");
    assert_eq!(
        left(slots.sweep(ONE, old, |_| false)),
        "1 lifetime, 3 lifetime, 4 lifetime"
    );
    assert_eq!((slots.closing, slots.used()), (5, 5));
}

#[test]
fn sweeping_keeps_the_warmest_of_the_minimum_over_all_workers() {
    let (mut slots, pools, now) = toy(10, 1);
    slots.set_policy(Policy {
        min_idle: 2,
        ..policy::for_tests()
    });
    for (connection, worker) in [(1, ONE), (2, ONE), (3, TWO), (4, TWO)] {
        open_idle(&mut slots, pools[0], connection, worker, now);
    }
    let idle = now + Duration::from_secs(300);
    assert_eq!(
        left(slots.sweep(ONE, idle, |_| false)),
        "1 idle_timeout, 2 idle_timeout"
    );
    assert_eq!(left(slots.sweep(TWO, idle, |_| false)), "");
}

#[test]
fn sweeping_trims_what_is_surplus_or_above_the_cap() {
    let (mut slots, pools, now) = toy(4, 1);
    slots.set_policy(Policy {
        max_idle_percent: 50,
        ..policy::for_tests()
    });
    for connection in 1..=4 {
        open_idle(&mut slots, pools[0], connection, ONE, now);
    }
    assert_eq!(left(slots.sweep(ONE, now, |_| false)), "");
    let moment = now + Duration::from_secs(30);
    assert_eq!(
        left(slots.sweep(ONE, moment, |_| false)),
        "1 surplus, 2 surplus"
    );
    slots.set_cap(1);
    assert_eq!(left(slots.sweep(ONE, now, |_| false)), "3 over_cap");
}

#[test]
fn an_opening_given_up_leaves_no_trace() {
    let (mut slots, pools, now) = toy(1, 1);
    let ticket = slots.enqueue(pools[0], 'a').unwrap();
    slots.plan(now);
    assert_eq!(slots.used(), 1);
    slots.opening_given_up(pools[0]);
    slots.abandon(pools[0], ticket);
    assert_eq!(slots.used(), 0);
    assert_eq!(slots.counts(pools[0]), Counts::default());
    assert!(!slots.needs_watching());
}

#[test]
fn the_cap_is_a_portion_of_what_the_target_allows() {
    let third = |rank| Portion::Part { rank, of: 3 };
    let (mut slots, pools, _) = toy(1, 1);
    for (portion, cap) in [(Portion::Nothing, 0), (third(0), 1), (third(2), 1)] {
        slots.set_portion(portion, Growth::Free);
        assert_eq!(slots.cap(), cap, "enough to ask with, of {portion:?}");
    }
    slots.set_cap(10);
    for (portion, cap) in [(third(0), 4), (third(2), 3), (Portion::Nothing, 0)] {
        slots.set_portion(portion, Growth::Free);
        assert_eq!(slots.cap(), cap, "{portion:?}");
    }
    // No more than there were when growing stopped, though some have gone since.
    slots.set_portion(third(0), Growth::Free);
    open(&mut slots, pools[0]);
    open(&mut slots, pools[0]);
    slots.set_portion(third(0), Growth::Frozen);
    slots.discard(pools[0]);
    slots.closed(pools[0]);
    slots.set_portion(third(0), Growth::Frozen);
    assert_eq!(slots.cap(), 2);
    slots.set_portion(third(0), Growth::Free);
    assert_eq!(slots.cap(), 4);
}

#[test]
fn guests_come_in_their_turn_and_leave_half_of_the_cap_to_others() {
    let (mut slots, pools, now) = toy(4, 1);
    open_idle(&mut slots, pools[0], 1, ONE, now);
    for _ in 0..4 {
        slots.enqueue_guest(());
    }
    assert_eq!(ordered(slots.plan(now)), "g g");
    assert_eq!((slots.used(), slots.waiting()), (3, 2));
    assert_eq!(ordered(slots.plan(now)), "");
    // One was let in by the database: its connection is the pool's.
    slots.guest_stays(pools[0]);
    slots.release(pools[0], held(2, ONE, now), now);
    assert_eq!(slots.counts(pools[0]).idle, 2);
    slots.guest_leaves();
    assert_eq!(ordered(slots.plan(now)), "g");
    slots.guest_stays(pools[0]);
    slots.release(pools[0], held(3, ONE, now), now);
    assert_eq!(ordered(slots.plan(now)), "g");
    slots.guest_leaves();
    open_idle(&mut slots, pools[0], 4, ONE, now);
    assert_eq!(slots.used(), 4);
    // The cap is full of idle ones: the coldest makes room.
    slots.enqueue_guest(());
    assert_eq!(ordered(slots.plan(now)), "c0:1");
    slots.closed(pools[0]);
    assert_eq!(ordered(slots.plan(now)), "g");
}
