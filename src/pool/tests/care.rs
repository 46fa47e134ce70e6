//! Cleaning, closing, and what becomes of connections that lie idle.

use super::fake::Cleaning;
use super::*;

#[test]
fn what_was_dropped_is_cleaned_before_it_is_lent_again() {
    run(async {
        let house = House::with_cap(1);
        let lease = house.borrow().await;
        drop(lease);
        assert!(house.desk().try_borrow(house.pools[0]).is_none());
        let lease = house.borrow().await;
        assert_eq!(house.knobs().cleaned, [1]);
        lease.release();
        assert_eq!(house.knobs().cleaned, [1], "released ones are clean");
        house.assert_at_rest().await;
    });
}

#[test]
fn what_cannot_be_cleaned_is_closed_and_replaced() {
    run(async {
        for cleaning in [Cleaning::Fails, Cleaning::Hangs] {
            let house = House::new(
                1,
                Policy {
                    borrow_timeout: SECS(10),
                    ..policy::for_tests()
                },
            );
            house.knobs().cleaning = cleaning;
            drop(house.borrow().await);
            let since = Instant::now();
            assert_eq!(house.borrow().await.number, 2);
            assert_eq!(house.knobs().closed, [(1, Leaving::Unclean)]);
            let waited = since.elapsed();
            assert_eq!(waited >= SECS(5), cleaning == Cleaning::Hangs, "{waited:?}");
            assert!(waited < MS(5100));
            house.knobs().cleaning = Cleaning::Works;
            house.assert_at_rest().await;
        }
    });
}

#[test]
fn a_slot_is_not_free_before_the_server_has_closed() {
    run(async {
        let house = House::with_cap(1);
        house.knobs().closing_hangs = true;
        house.borrow().await.close();
        sleep(MS(4900)).await;
        assert_eq!(house.target.usage(), (1, 1));
        sleep(SECS(600)).await;
        assert_eq!(house.target.usage(), (1, 1));
        assert_eq!(house.knobs().closed, [(1, Leaving::Broken)]);
    });
}

/// However they come back: what counts as closing is not lent, and frees its slot once.
#[test]
fn no_more_are_given_up_than_are_above_the_cap() {
    run(async {
        let give_back: [fn(Lease<Fake>); 3] = [Lease::release, Lease::close, drop];
        for give_back in give_back {
            let house = House::with_cap(3);
            let mut leases = Vec::new();
            for _ in 0..3 {
                leases.push(house.borrow().await);
            }
            house.target.set_cap(2);
            // All are asked before the first has come back.
            let given_up: Vec<bool> = leases.iter_mut().map(Lease::give_up_excess).collect();
            assert_eq!(given_up, [true, false, false]);
            leases.into_iter().for_each(give_back);
            sleep(MS(50)).await;
            assert_eq!(house.knobs().closed[0], (1, Leaving::Excess));
            assert!(!house.knobs().cleaned.contains(&1));
            house.assert_at_rest().await;
        }
    });
}

#[test]
fn one_that_died_idle_is_not_lent() {
    run(async {
        let house = House::with_cap(5);
        let (first, second) = (house.borrow().await, house.borrow().await);
        first.release();
        second.release();
        house.knobs().dead = vec![2];
        let lease = house.desk().try_borrow(house.pools[0]).unwrap();
        assert_eq!(lease.number, 1);
        sleep(MS(50)).await;
        assert_eq!(house.knobs().closed, [(2, Leaving::Dead)]);
        // Nobody asks for it: it is found all the same.
        lease.release();
        house.knobs().dead = vec![1];
        sleep(MS(400)).await;
        assert_eq!((house.fake.open_now(), house.target.usage().1), (0, 0));
    });
}

#[test]
fn one_that_dies_in_handing_over_costs_nobody_his_place() {
    run(async {
        let house = House::with_cap(1);
        let lease = house.borrow().await;
        let (mut first, mut second) = (house.queue(), house.queue());
        house.knobs().dead = vec![1];
        lease.release();
        let since = Instant::now();
        let lease = tokio::select! {
            biased;
            _ = &mut second => panic!("overtaken"),
            lease = &mut first => lease.ok().unwrap(),
        };
        assert_eq!(lease.number, 2);
        assert!(since.elapsed() < MS(100));
        lease.release();
        assert_eq!(second.await.ok().unwrap().number, 2);
    });
}

#[test]
fn the_unused_go_after_a_while() {
    run(async {
        let house = House::with_cap(3);
        let leases = [
            house.borrow().await,
            house.borrow().await,
            house.borrow().await,
        ];
        leases.into_iter().for_each(Lease::release);
        sleep(SECS(299)).await;
        assert_eq!(house.counts().idle, 3);
        house.borrow().await.release();
        sleep(SECS(2)).await;
        assert_eq!(house.counts().idle, 1, "the one used last stays");
        sleep(SECS(300)).await;
        assert_eq!((house.target.usage().1, house.fake.open_now()), (0, 0));
        let closed = &house.knobs().closed;
        assert!(closed.iter().all(|(_, why)| *why == Leaving::Unused));
    });
}

#[test]
fn the_minimum_is_there_before_anybody_asks_and_stays() {
    run(async {
        let house = House::new(
            9,
            Policy {
                min_idle: 2,
                ..policy::for_tests()
            },
        );
        sleep(SECS(1)).await;
        let idle = || house.pools.map(|pool| house.target.counts(pool).idle);
        assert_eq!(idle(), [2, 2]);
        let lease = house.borrow().await;
        sleep(SECS(1)).await;
        assert_eq!(idle(), [2, 2]);
        lease.release();
        sleep(SECS(400)).await;
        assert_eq!(idle(), [2, 2]);
    });
}

#[test]
fn the_old_are_replaced() {
    run(async {
        let house = House::new(
            1,
            Policy {
                lifetime: SECS(100),
                ..policy::for_tests()
            },
        );
        house.borrow().await.release();
        sleep(SECS(89)).await;
        let lease = house.borrow().await;
        assert_eq!(lease.number, 1);
        sleep(SECS(12)).await;
        lease.release();
        assert_eq!(house.borrow().await.number, 2);
        assert_eq!(house.knobs().closed, [(1, Leaving::Worn)]);
    });
}

#[test]
fn a_pool_gets_what_another_does_not_use() {
    run(async {
        let house = House::with_cap(1);
        house.borrow().await.release();
        let other = house.desk().borrow(house.pools[1]).ok().unwrap();
        assert_eq!(other.await.ok().unwrap().number, 2);
        assert_eq!(house.knobs().closed, [(1, Leaving::Yielding)]);
    });
}

#[test]
fn one_that_will_not_do_is_renewed_in_its_place() {
    run(async {
        let house = House::with_cap(1);
        let lease = house.borrow().await;
        let mut waiter = house.queue();
        let renewed = house.desk().renew(lease);
        assert_eq!((house.counts().closing, house.target.usage().1), (1, 1));
        let lease = tokio::select! {
            biased;
            _ = &mut waiter => panic!("it was for another"),
            lease = renewed => lease.ok().unwrap(),
        };
        assert_eq!((lease.number, house.fake.open_now()), (2, 1));
        assert_eq!(house.knobs().closed, [(1, Leaving::Unfit)]);
        // Whoever goes meanwhile leaves it to the next in line.
        drop(house.desk().renew(lease));
        assert_eq!(waiter.await.ok().unwrap().number, 3);
        sleep(MS(50)).await;
        assert_eq!((house.counts().total(), house.fake.open_now()), (1, 1));
    });
}

#[test]
fn one_that_can_not_be_renewed_is_gone() {
    run(async {
        let house = House::with_cap(1);
        let lease = house.borrow().await;
        house.knobs().failure = Some(FailureKind::Refused);
        let refused = house.desk().renew(lease).await;
        assert!(matches!(refused, Err(BorrowError::Refused(_))));
        assert_eq!((house.target.usage().1, house.fake.open_now()), (0, 0));
    });
}

#[test]
fn none_is_renewed_above_a_cap_that_was_lowered_meanwhile() {
    run(async {
        let house = House::with_cap(2);
        let (kept, unfit) = (house.borrow().await, house.borrow().await);
        let renewed = house.desk().renew(unfit);
        house.target.set_cap(1);
        sleep(MS(100)).await;
        assert_eq!((house.fake.open_now(), house.counts().waiting), (1, 1));
        kept.release();
        assert_eq!(renewed.await.ok().unwrap().number, 1);
        assert_eq!(house.fake.knobs().attempts, 2);
        house.assert_at_rest().await;
    });
}

#[test]
fn one_that_can_not_be_renewed_for_the_targets_trouble_waits_like_everybody() {
    run(async {
        let house = House::with_cap(1);
        let lease = house.borrow().await;
        house.knobs().failure = Some(FailureKind::Unreachable);
        let renewed = house.desk().renew(lease);
        sleep(MS(100)).await;
        assert_eq!((house.fake.open_now(), house.counts().waiting), (0, 1));
        house.knobs().failure = None;
        assert_eq!(renewed.await.ok().unwrap().number, 2);
        house.assert_at_rest().await;
        // Whoever goes meanwhile leaves no place behind.
        let lease = house.borrow().await;
        house.knobs().failure = Some(FailureKind::Unreachable);
        drop(house.desk().renew(lease));
        sleep(MS(100)).await;
        assert_eq!(house.counts().waiting, 0);
    });
}

#[test]
fn nothing_of_an_older_generation_is_lent() {
    run(async {
        let house = House::with_cap(4);
        let (kept, idle) = (house.borrow().await, house.borrow().await);
        let old = [kept.number, idle.number];
        idle.release();
        house.target.renew(Lent::Keep);
        assert!(!kept.is_severed());
        let fresh = house.borrow().await;
        assert!(!old.contains(&fresh.number));
        // What comes back late is closed, not put by.
        kept.release();
        fresh.release();
        sleep(MS(100)).await;
        let closed: Vec<_> = house.knobs().closed.clone();
        assert_eq!(closed.len(), 2, "{closed:?}");
        assert!(
            closed
                .iter()
                .all(|(number, why)| old.contains(number) && *why == Leaving::Superseded)
        );
        let again = house.borrow().await;
        house.target.renew(Lent::Sever);
        assert!(again.is_severed());
        again.close();
        sleep(MS(100)).await;
        assert_eq!(
            house.knobs().closed.last().map(|(_, why)| *why),
            Some(Leaving::Severed)
        );
        house.assert_at_rest().await;
    });
}

/// Whoever waits goes on waiting elsewhere, in the order of arrival, and no longer than he would have.
#[test]
fn waiters_move_in_order() {
    run(async {
        let tickets = Tickets::default();
        let (one, other) = (House::sharing(1, &tickets), House::sharing(1, &tickets));
        let (busy, taken) = (one.borrow().await, other.borrow().await);
        let mut first = one.queue();
        sleep(MS(100)).await;
        let second = other.queue();
        let mut third = one.queue();
        third.move_to(other.desk());
        first.step_aside();
        first.move_to(other.desk());
        taken.release();
        let lease = first.await.ok().unwrap();
        lease.release();
        let lease = second.await.ok().unwrap();
        lease.release();
        third.await.ok().unwrap().release();
        busy.release();
        let mut nowhere = one.queue_apart();
        let since = Instant::now();
        let error = (&mut nowhere).await.err().unwrap();
        assert!(matches!(error, BorrowError::NoTarget { .. }), "{error:?}");
        assert_eq!(since.elapsed().as_secs(), 1);
        one.assert_at_rest().await;
        other.assert_at_rest().await;
    });
}
