//! The pool's shell: desks, janitors and leases, with connections that are only pretended.
//!
//! Time stands still until everybody waits. Knows nothing of PostgreSQL.

mod cancelling;
mod care;
mod fake;
mod workers;

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::fake::{Fake, Knobs, Trouble};
use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECS: fn(u64) -> Duration = Duration::from_secs;

/// A target with desks for two workers and two pools.
struct House {
    fake: Fake,
    target: Arc<Target<Fake>>,
    desks: [Rc<Desk<Fake>>; 2],
    pools: [PoolId; 2],
}

impl House {
    fn new(cap: usize, policy: Policy) -> House {
        House::with(cap, policy, Tickets::default())
    }

    /// One whose waiters may move to others with the same tickets.
    fn sharing(cap: usize, tickets: &Tickets) -> House {
        House::with(cap, policy::for_tests(), Arc::clone(tickets))
    }

    fn with(cap: usize, policy: Policy, tickets: Tickets) -> House {
        let fake = Fake::default();
        let target = Arc::new(Target::new(fake.clone(), policy, 2, cap, tickets));
        let desks = [0, 1].map(|worker| {
            let (desk, janitor) = Desk::new(Arc::clone(&target), WorkerId(worker));
            tokio::task::spawn_local(janitor.run());
            desk
        });
        let pools = ["one", "two"].map(|key| target.add_pool(key, None));
        House {
            fake,
            target,
            desks,
            pools,
        }
    }

    fn with_cap(cap: usize) -> House {
        House::new(cap, policy::for_tests())
    }

    fn knobs(&self) -> std::sync::MutexGuard<'_, Knobs> {
        self.fake.knobs()
    }

    fn desk(&self) -> &Rc<Desk<Fake>> {
        &self.desks[0]
    }

    fn queue(&self) -> Waiting<Fake> {
        self.desk().borrow(self.pools[0]).expect("queued")
    }

    fn queue_apart(&self) -> Waiting<Fake> {
        self.desk().stand_by(self.pools[0])
    }

    async fn borrow(&self) -> Lease<Fake> {
        match self.desk().try_borrow(self.pools[0]) {
            Some(lease) => lease,
            None => self.queue().await.expect("a connection"),
        }
    }

    async fn refused(&self) -> BorrowError<Trouble> {
        self.queue().await.err().expect("no connection")
    }

    fn counts(&self) -> Counts {
        self.target.counts(self.pools[0])
    }

    /// Once everything has come to rest: what is in use lies idle, and is what there is.
    async fn assert_at_rest(&self) {
        sleep(SECS(20)).await;
        let counts = self.pools.map(|pool| self.target.counts(pool));
        let idle: usize = counts.iter().map(|counts| counts.idle).sum();
        assert_eq!(self.target.usage().1, idle, "{counts:?}");
        assert_eq!(self.fake.open_now(), idle, "{counts:?}");
        assert!(counts.iter().all(|counts| counts.waiting == 0));
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .start_paused(true)
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(test);
}

#[test]
fn what_was_released_is_lent_again() {
    run(async {
        let house = House::with_cap(3);
        let lease = house.borrow().await;
        let number = lease.number;
        assert_eq!(house.target.usage(), (3, 1));
        lease.release();
        assert_eq!(house.borrow().await.number, number);
        house.assert_at_rest().await;
        assert_eq!(house.knobs().opened, 1);
    });
}

#[test]
fn a_busy_pool_says_so_in_figures() {
    run(async {
        let house = House::with_cap(1);
        let _lease = house.borrow().await;
        let _second = house.queue();
        let since = Instant::now();
        match house.refused().await {
            BorrowError::Busy {
                used,
                cap,
                waiting,
                waited,
            } => {
                assert_eq!((used, cap, waiting), (1, 1, 2));
                assert_eq!((waited.as_secs(), since.elapsed().as_secs()), (2, 2));
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn an_unreachable_target_is_told_from_a_busy_one() {
    run(async {
        let house = House::with_cap(5);
        house.knobs().failure = Some(FailureKind::Unreachable);
        match house.refused().await {
            BorrowError::Unreachable { cause, waited } => {
                assert_eq!((cause.0, waited.as_secs()), (FailureKind::Unreachable, 1));
            }
            other => panic!("{other:?}"),
        }
        assert!(house.target.down().is_some());
        house.assert_at_rest().await;
    });
}

#[test]
fn a_full_target_is_busy_not_down() {
    run(async {
        let house = House::with_cap(5);
        house.knobs().failure = Some(FailureKind::Full);
        assert!(matches!(house.refused().await, BorrowError::Busy { .. }));
        assert!(house.target.down().is_none() && house.target.trouble().is_some());
    });
}

#[test]
fn a_busy_pool_that_loses_its_target_is_out_of_reach() {
    run(async {
        let house = House::with_cap(1);
        let lease = house.borrow().await;
        let since = Instant::now();
        let waiting = house.queue();
        tokio::task::spawn_local({
            let fake = house.fake.clone();
            async move {
                sleep(MS(1500)).await;
                fake.knobs().failure = Some(FailureKind::Unreachable);
                lease.close();
            }
        });
        let error = waiting.await.err().unwrap();
        assert!(matches!(error, BorrowError::Unreachable { .. }));
        assert!((MS(1500)..MS(1700)).contains(&since.elapsed()));
    });
}

#[test]
fn a_target_that_comes_back_leaves_the_longer_clock() {
    run(async {
        let house = House::with_cap(1);
        house.knobs().failure = Some(FailureKind::Unreachable);
        let since = Instant::now();
        let (first, second) = (house.queue(), house.queue());
        // Soon enough that the pause before the next try ends within the shorter clock, whatever the jitter.
        let back = async {
            sleep(MS(300)).await;
            house.knobs().failure = None;
        };
        let (lease, ()) = tokio::join!(first, back);
        let _kept = lease.ok().unwrap();
        assert!(since.elapsed() < MS(1000), "{:?}", since.elapsed());
        let error = second.await.err().unwrap();
        assert!(matches!(error, BorrowError::Busy { .. }));
        assert!((MS(2000)..MS(2100)).contains(&since.elapsed()));
    });
}

#[test]
fn the_queue_has_an_end() {
    run(async {
        let house = House::new(
            1,
            Policy {
                max_waiting: 2,
                ..policy::for_tests()
            },
        );
        let _lease = house.borrow().await;
        let _waiting = (house.queue(), house.queue());
        let error = house.desk().borrow(house.pools[0]).err().unwrap();
        assert_eq!(error, BorrowError::QueueFull { waiting: 2 });
    });
}

#[test]
fn a_refusal_reaches_all_who_wait_and_is_not_asked_for_again_at_once() {
    run(async {
        let house = House::with_cap(5);
        house.knobs().failure = Some(FailureKind::Refused);
        let (first, second) = tokio::join!(house.queue(), house.queue());
        for outcome in [first, second] {
            assert!(matches!(outcome, Err(BorrowError::Refused(_))));
        }
        let asked = house.knobs().attempts;
        let again = house.desk().borrow(house.pools[0]).err().unwrap();
        assert!(matches!(again, BorrowError::Refused(_)));
        assert_eq!(house.knobs().attempts, asked);
        house.knobs().failure = None;
        sleep(MS(500)).await;
        house.borrow().await.release();
    });
}

#[test]
fn attempts_become_rarer_while_a_target_is_out_of_reach() {
    run(async {
        let house = House::new(
            5,
            Policy {
                unavailable_timeout: SECS(10),
                ..policy::for_tests()
            },
        );
        house.knobs().failure = Some(FailureKind::Unreachable);
        let (_, _) = tokio::join!(house.refused(), house.refused());
        // 50, 100, 200, 400, 800 ms, then every second, each up to a half shorter.
        let attempts = house.knobs().attempts;
        assert!((12..28).contains(&attempts), "{attempts}");
        assert_eq!(house.knobs().most_at_once, 1);
    });
}

#[test]
fn openings_run_at_the_same_time_but_not_too_many() {
    run(async {
        let house = House::with_cap(20);
        let since = Instant::now();
        let waiting: Vec<_> = (0..16).map(|_| house.queue()).collect();
        let mut leases = Vec::new();
        for place in waiting {
            leases.push(place.await.ok().unwrap());
        }
        assert_eq!(house.knobs().most_at_once, 4);
        assert!(since.elapsed() < 9 * fake::OPENING, "{:?}", since.elapsed());
        assert_eq!(house.fake.open_now(), 16);
    });
}

#[test]
fn who_may_not_wait_is_told_at_once_and_still_brings_a_connection() {
    run(async {
        let house = House::new(
            5,
            Policy {
                borrow_timeout: Duration::ZERO,
                ..policy::for_tests()
            },
        );
        let since = Instant::now();
        assert!(matches!(house.refused().await, BorrowError::Busy { .. }));
        assert!(since.elapsed() <= MS(1), "{:?}", since.elapsed());
        sleep(2 * fake::OPENING).await;
        assert_eq!(house.counts().idle, 1);
        let lease = house.desk().try_borrow(house.pools[0]);
        lease.expect("the next one is served").release();
        house.assert_at_rest().await;
    });
}
