//! A cancel request finds its query wherever it arrives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::fellows::{Berth, SETTLE};
use crate::house::client::send_cancel;
use crate::house::wire::query;
use crate::house::{Client, Proxy, count, eventually};

const CLIENTS: usize = 16;
const TASKS: usize = 4;

/// Show 2: each client cancels itself by a task chosen without regard to where it is connected, between statements that
/// nobody cancels.
#[test]
fn cancels_sent_to_any_task_hit_their_own_query_and_no_other() {
    let berth = Berth::new(40);
    let tasks = berth.launch_all(TASKS);
    // So long it takes until each knows what the others' keys look like.
    thread::sleep(SETTLE);
    let cancels = count(160, 1_000).div_ceil(CLIENTS);
    let hit = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (tasks, berth, hit) = (&tasks, &berth, &hit);
            scope.spawn(move || {
                let minor = if number % 2 == 0 { 0 } else { 2 };
                let login = tasks[number % TASKS].login().version(3, minor);
                let mut client = login.connect();
                assert_eq!(client.secret.len(), if minor == 0 { 4 } else { 32 });
                let mut watcher = berth.postgres.superuser().connect();
                for round in 0..cancels {
                    // Every pair of tasks comes up.
                    let to = &tasks[(number + round * 7 + round / TASKS) % TASKS];
                    cancel_one(&mut client, to, &mut watcher, &format!("q{number}_{round}"));
                    hit.fetch_add(1, Ordering::Relaxed);
                    let bystanding = client.ask("SELECT pg_sleep(0.01)");
                    assert_eq!(bystanding.errors(), [], "hit by another's cancel");
                }
            });
        }
    });
    let sent: u64 = tasks
        .iter()
        .map(|task| counted(task, "weir_fleet_cancels_sent_total"))
        .sum();
    println!(
        "{} cancels, all hit their own query and none another; {sent} of them went by another task",
        hit.into_inner()
    );
    assert!(sent as usize > cancels * CLIENTS / 2);
}

fn cancel_one(client: &mut Client, to: &Proxy, watcher: &mut Client, mark: &str) {
    client.send(&query(&format!("SELECT pg_sleep(60) AS {mark}")));
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60) AS {mark}'"
    );
    eventually(
        "did it run",
        || watcher.value(&running),
        |count| count == "1",
    );
    assert_eq!(send_cancel(to.address, client.pid, &client.secret), b"");
    assert_eq!(client.replies(1).code(), "57014", "{mark}");
}

fn counted(task: &Proxy, metric: &str) -> u64 {
    let metrics = task.metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix(metric));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn a_wrong_key_is_of_no_use_at_another_task() {
    let berth = Berth::new(4);
    let tasks = berth.launch_all(2);
    thread::sleep(SETTLE);
    let mut client = tasks[0].client();
    let mut watcher = berth.postgres.superuser().connect();
    client.send(&query("SELECT pg_sleep(60) AS wrong"));
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60) AS wrong'";
    eventually(
        "did it run",
        || watcher.value(running),
        |count| count == "1",
    );
    let mut wrong = client.secret.clone();
    wrong[3] ^= 1;
    assert_eq!(send_cancel(tasks[1].address, client.pid, &wrong), b"");
    assert_eq!(
        send_cancel(tasks[1].address, client.pid ^ 1, &client.secret),
        b""
    );
    assert_eq!(watcher.value(running), "1");
    assert_eq!(
        send_cancel(tasks[1].address, client.pid, &client.secret),
        b""
    );
    assert_eq!(client.replies(1).code(), "57014");
}
