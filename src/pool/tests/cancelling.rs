//! Whoever waits may go away at any moment, and nothing is lost by it.

use std::pin::Pin;
use std::task::{Context, Waker};

use super::*;

/// What happens around the one who goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// A connection is being opened for him.
    Opening,
    /// Somebody gives one back after 30 ms.
    GivenBack,
    /// Somebody drops one after 30 ms, to be cleaned.
    Dropped,
    /// It dies in being handed over.
    Dying,
    /// Openings fail.
    Failing,
}

/// Polls `polls` times, 5 ms apart, then drops.
async fn give_up_after(mut waiting: Waiting<Fake>, polls: usize) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        if let std::task::Poll::Ready(outcome) = Pin::new(&mut waiting).poll(&mut cx) {
            // Served: then it is the lease that is dropped.
            drop(outcome);
            return true;
        }
        sleep(MS(5)).await;
    }
    false
}

async fn play(scene: Scene, polls: usize) {
    let house = House::with_cap(1);
    let lease = match scene {
        Scene::Opening | Scene::Failing => None,
        Scene::GivenBack | Scene::Dropped | Scene::Dying => Some(house.borrow().await),
    };
    if scene == Scene::Failing {
        house.knobs().failure = Some(FailureKind::Unreachable);
    }
    let leaving = house.desks[1].borrow(house.pools[0]).ok().unwrap();
    let staying = house.queue();
    let event = async {
        sleep(MS(30)).await;
        house.knobs().failure = None;
        match (scene, lease) {
            (Scene::Dying, Some(lease)) => {
                house.knobs().dead = vec![lease.number];
                lease.release();
            }
            (Scene::GivenBack, Some(lease)) => lease.release(),
            (_, lease) => drop(lease),
        }
    };
    let (_, served, ()) = tokio::join!(give_up_after(leaving, polls), staying, event);
    let served = served.map_err(|error| format!("{scene:?} after {polls} polls: {error:?}"));
    served.unwrap().release();
    house.assert_at_rest().await;
    assert_eq!(house.fake.open_now(), 1, "{scene:?} after {polls} polls");
}

#[test]
fn nothing_leaks_whenever_somebody_goes_away() {
    run(async {
        for scene in [
            Scene::Opening,
            Scene::GivenBack,
            Scene::Dropped,
            Scene::Dying,
            Scene::Failing,
        ] {
            for polls in 0..30 {
                play(scene, polls).await;
            }
        }
    });
}

#[test]
fn what_was_handed_to_one_who_never_looked_goes_to_the_next() {
    run(async {
        let house = House::with_cap(1);
        let lease = house.borrow().await;
        let (leaving, staying) = (house.queue(), house.queue());
        lease.release();
        assert_eq!(house.counts().waiting, 1);
        drop(leaving);
        assert_eq!(house.counts().waiting, 0);
        staying.await.ok().unwrap().release();
        house.assert_at_rest().await;
    });
}

#[test]
fn a_connection_opened_for_nobody_is_kept_for_the_next() {
    run(async {
        let house = House::with_cap(1);
        drop(house.queue());
        sleep(MS(100)).await;
        assert_eq!(house.counts().idle, 1);
        assert_eq!(house.borrow().await.number, 1);
    });
}

#[test]
fn a_hanging_opening_does_not_keep_others_from_what_comes_back() {
    run(async {
        let house = House::with_cap(2);
        let lease = house.borrow().await;
        house.knobs().opening_hangs = true;
        let waiting = house.queue();
        sleep(MS(100)).await;
        lease.release();
        assert_eq!(waiting.await.ok().unwrap().number, 1);
        assert_eq!(house.counts().opening, 1);
    });
}
