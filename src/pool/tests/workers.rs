//! Two workers at one target.

use super::*;

#[test]
fn a_connection_changes_hands_across_workers() {
    run(async {
        let house = House::with_cap(1);
        let lease = house.borrow().await;
        let waiting = house.desks[1].borrow(house.pools[0]).ok().unwrap();
        lease.release();
        let lease = waiting.await.ok().unwrap();
        assert_eq!((lease.number, house.knobs().rehomed.clone()), (1, vec![1]));
        lease.release();
        // It lies at the second desk now; the first one takes it back.
        let lease = house.desk().try_borrow(house.pools[0]).unwrap();
        assert_eq!(house.knobs().rehomed, [1, 1]);
        lease.release();
        assert!(house.desk().try_borrow(house.pools[0]).is_some());
        assert_eq!(house.knobs().rehomed, [1, 1]);
    });
}

#[test]
fn one_that_cannot_change_hands_is_replaced() {
    run(async {
        let house = House::with_cap(1);
        house.borrow().await.release();
        house.knobs().rehoming_fails = true;
        assert!(house.desks[1].try_borrow(house.pools[0]).is_none());
        let lease = house.desks[1].borrow(house.pools[0]).ok().unwrap().await;
        assert_eq!(lease.ok().unwrap().number, 2);
        house.assert_at_rest().await;
    });
}

#[test]
fn the_first_to_come_is_the_first_to_be_served_at_any_desk() {
    run(async {
        let house = House::with_cap(1);
        let lease = house.borrow().await;
        let served = Rc::new(std::cell::RefCell::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for place in 0..20 {
            let waiting = house.desks[place % 3 % 2].borrow(house.pools[0]);
            let served = Rc::clone(&served);
            tasks.spawn_local(async move {
                let lease = waiting.ok().unwrap().await.ok().unwrap();
                served.borrow_mut().push(place);
                sleep(MS(10)).await;
                match place % 2 {
                    0 => lease.release(),
                    _ => drop(lease),
                }
            });
        }
        lease.release();
        while tasks.join_next().await.is_some() {}
        assert_eq!(*served.borrow(), (0..20).collect::<Vec<_>>());
        house.assert_at_rest().await;
    });
}

#[test]
fn whoever_comes_just_after_a_release_does_not_queue_beside_it() {
    run(async {
        let house = House::with_cap(1);
        let lease = house.borrow().await;
        assert!(house.desks[1].try_borrow(house.pools[0]).is_none());
        lease.release();
        let waiting = house.desks[1].borrow(house.pools[0]).ok().unwrap();
        assert_eq!(house.counts().waiting, 0);
        assert_eq!(waiting.await.ok().unwrap().number, 1);
        house.assert_at_rest().await;
    });
}

#[test]
fn what_a_worker_took_over_it_looks_after() {
    run(async {
        let house = House::with_cap(1);
        sleep(SECS(1)).await;
        house.borrow().await.release();
        house.desks[1].try_borrow(house.pools[0]).unwrap().release();
        sleep(SECS(301)).await;
        assert_eq!((house.target.usage().1, house.fake.open_now()), (0, 0));
    });
}
