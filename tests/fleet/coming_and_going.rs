//! Show 2: tasks come and go under load, and PostgreSQL never sees more connections than the cap.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::fellows::{Berth, SETTLE, cap};
use crate::house::{Login, Proxy, count, eventually};

const CAP: usize = 40;
const TASKS: usize = 4;
const CLIENTS: usize = 16;

/// The tasks of the moment; a client finds its own by its place.
struct Fleet<'a> {
    berth: &'a Berth,
    tasks: Mutex<Vec<Option<Proxy>>>,
}

impl Fleet<'_> {
    fn tasks(&self) -> std::sync::MutexGuard<'_, Vec<Option<Proxy>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn login(&self, place: usize) -> Option<Login> {
        self.tasks()[place].as_ref().map(Proxy::login)
    }

    fn join(&self, place: usize) {
        let task = self.berth.launch(place);
        self.tasks()[place] = Some(task);
    }

    /// As a deploy does it: out of DNS, then SIGTERM.
    fn leave(&self, place: usize) {
        self.berth.names.strike(self.berth.address(place));
        let task = self.tasks()[place].take().unwrap();
        task.signal("TERM");
        task.wait_end();
    }

    /// As the kernel does it; the registry notices later.
    fn crash(&self, place: usize) {
        let task = self.tasks()[place].take().unwrap();
        task.signal("KILL");
        task.wait_end();
        thread::sleep(SETTLE / 4);
        self.berth.names.strike(self.berth.address(place));
    }
}

#[test]
fn the_cap_holds_while_tasks_come_and_go() {
    let berth = Berth::new(CAP);
    // What is looked at now and then may miss one too many; PostgreSQL itself does not.
    berth.postgres.sql(&format!(
        "ALTER DATABASE {} CONNECTION LIMIT {CAP}",
        berth.database
    ));
    let fleet = Fleet {
        berth: &berth,
        tasks: Mutex::new((0..TASKS).map(|_| None).collect()),
    };
    let over = AtomicBool::new(false);
    let (most, samples, done) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    thread::scope(|scope| {
        scope.spawn(|| watch(&berth, &over, &most, &samples));
        for number in 0..TASKS * CLIENTS {
            let (fleet, over, done) = (&fleet, &over, &done);
            scope.spawn(move || work(fleet, number, over, done));
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..TASKS).for_each(|place| fleet.join(place));
            for round in 0..count(1, 8) {
                thread::sleep(SETTLE);
                come_and_go(&fleet, round);
            }
            settle(&fleet);
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    let (most, samples, done) = (most.into_inner(), samples.into_inner(), done.into_inner());
    println!("at most {most} of {CAP} connections in {samples} looks, {done} transactions");
    assert!(most <= CAP, "PostgreSQL saw {most} connections");
    let refusal = format!("too many connections for database \"{}\"", berth.database);
    let refused = berth.postgres.log().matches(&refusal).count();
    assert_eq!(refused, 0, "connections above the cap");
    assert!(
        most > CAP * 3 / 4,
        "{most} connections are no test of the cap"
    );
    assert!(done > 0);
}

fn come_and_go(fleet: &Fleet<'_>, round: usize) {
    let place = |step: usize| (round + step) % TASKS;
    fleet.crash(place(0));
    fleet.join(place(0));
    fleet.leave(place(1));
    thread::sleep(SETTLE * 2);
    fleet.crash(place(2));
    fleet.join(place(1));
    fleet.join(place(2));
}

/// When all is quiet, everything has been given out again.
fn settle(fleet: &Fleet<'_>) {
    let caps = || {
        let tasks = fleet.tasks();
        tasks.iter().flatten().map(cap).collect::<Vec<u64>>()
    };
    eventually("was the cap divided", caps, |caps| {
        *caps == [10, 10, 10, 10]
    });
}

/// Looks as often as it can.
fn watch(berth: &Berth, over: &AtomicBool, most: &AtomicUsize, samples: &AtomicUsize) {
    let mut watcher = berth.postgres.superuser().connect();
    let count = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND backend_type = 'client backend'",
        berth.database
    );
    while !over.load(Ordering::Relaxed) {
        let seen: usize = watcher.value(&count).parse().unwrap();
        most.fetch_max(seen, Ordering::Relaxed);
        samples.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(2));
    }
}

/// A client that comes again whenever its task has gone. Every fourth has long transactions.
fn work(fleet: &Fleet<'_>, number: usize, over: &AtomicBool, done: &AtomicUsize) {
    let sleep = if number.is_multiple_of(4) { 1.0 } else { 0.02 };
    while !over.load(Ordering::Relaxed) {
        let client = fleet.login(number % TASKS).map(|login| login.try_connect());
        let Some(Ok(mut client)) = client else {
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        let since = Instant::now();
        while !over.load(Ordering::Relaxed) && since.elapsed() < Duration::from_secs(5) {
            let answer = client.ask(&format!("BEGIN; SELECT pg_sleep({sleep}); COMMIT"));
            for error in answer.errors() {
                assert!(
                    ["57P01", "08006"].contains(&&*error.code),
                    "a client was told: {error:?}"
                );
            }
            if answer.closed {
                break;
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}
