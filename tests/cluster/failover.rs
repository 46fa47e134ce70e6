//! Writers that are lost under load, and what the clients see of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::house::cluster::{Cluster, served_by};
use crate::house::{Answer, Client, Proxy, count, proving};

/// How a writer is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// kill -9 of all its processes.
    Kill,
    /// As `pg_ctl stop -m fast`: everybody is told.
    Orderly,
    /// Its processes stop; the kernel goes on accepting and acknowledging. Nobody is told anything.
    Freeze,
}

/// What all clients together saw.
#[derive(Default)]
struct Seen {
    /// Rows whose COMMIT was answered: of which client, its number, and the server's port.
    acknowledged: Mutex<Vec<(usize, u64, u16)>>,
    unknown: AtomicU64,
    failed: AtomicU64,
    disconnected: AtomicU64,
    codes: Mutex<HashMap<String, u64>>,
    /// The first commit since `watch_port` was set that this server answered.
    watch_port: AtomicU16,
    first_commit: Mutex<Option<Instant>>,
    wrong_host: AtomicU64,
    stop: AtomicBool,
}

impl Seen {
    fn note(&self, answer: &Answer) {
        if answer.closed {
            self.disconnected.fetch_add(1, Ordering::Relaxed);
        }
        let code = answer.code();
        if !code.is_empty() {
            *self.codes.lock().unwrap().entry(code).or_default() += 1;
        }
    }

    fn committed(&self, client: usize, number: u64, port: u16) {
        self.acknowledged
            .lock()
            .unwrap()
            .push((client, number, port));
        let watched = self.watch_port.load(Ordering::Acquire);
        if port == watched {
            self.first_commit
                .lock()
                .unwrap()
                .get_or_insert_with(Instant::now);
        } else if watched != 0 {
            self.wrong_host.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes one row after the other, each in a transaction of two statements, and reads in between.
fn work(mut client: Client, me: usize, seen: &Seen) {
    let mut number = 0;
    while !seen.stop.load(Ordering::Relaxed) {
        number += 1;
        let begun = client.ask("BEGIN");
        let insert = client.ask(&format!(
            "INSERT INTO work VALUES ({me}, {number}) RETURNING inet_server_port()"
        ));
        let port = insert.column().first().and_then(|port| port.parse().ok());
        let end = client.ask("COMMIT");
        let done = end.completed() == ["COMMIT"];
        if let (true, Some(port)) = (done, port) {
            seen.committed(me, number, port);
        }
        let read = client.ask("SELECT count(*) FROM work WHERE client = -1");
        for answer in [&begun, &insert, &end, &read] {
            seen.note(answer);
            if answer.closed {
                return;
            }
        }
        match &*end.code() {
            "08007" => _ = seen.unknown.fetch_add(1, Ordering::Relaxed),
            _ if !done => _ = seen.failed.fetch_add(1, Ordering::Relaxed),
            _ => {}
        }
        thread::sleep(Duration::from_millis(20));
    }
}

struct Load {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(proxy: &Proxy, clients: usize) -> Load {
        let seen = Arc::<Seen>::default();
        let threads = (0..clients).map(|me| {
            let (client, seen) = (proxy.client(), Arc::clone(&seen));
            thread::spawn(move || work(client, me, &seen))
        });
        Load {
            threads: threads.collect(),
            seen,
        }
    }

    fn end(self) -> Arc<Seen> {
        self.seen.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.seen
    }
}

/// One failover after the other, under load; what is printed is the table of `make prove`.
fn lose_writers(loss: Loss, times: usize, clients: usize) {
    let mut cluster = Cluster::start(2);
    let proxy = cluster.proxy(20).start();
    proxy
        .client()
        .run("CREATE TABLE work (client int, number bigint)");
    let mut idle: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    let mut waits = Vec::new();
    let mut lost = 0;
    let mut codes: HashMap<String, u64> = HashMap::new();
    let (mut acknowledged, mut unknown, mut failed, mut wrong, mut disconnected) = (0, 0, 0, 0, 0);
    for _ in 0..times {
        let load = Load::start(&proxy, clients);
        thread::sleep(Duration::from_millis(700));
        let old = cluster.writer;
        match loss {
            Loss::Kill => cluster.writer().kill(),
            Loss::Orderly => cluster.writer().stop(),
            Loss::Freeze => cluster.writer().signal_all("STOP"),
        }
        thread::sleep(Duration::from_millis(300));
        let promoted = cluster.fail_over();
        load.seen
            .watch_port
            .store(cluster.writer().address.port(), Ordering::Release);
        let deadline = Instant::now() + Duration::from_secs(20);
        let first = loop {
            if let Some(first) = *load.seen.first_commit.lock().unwrap() {
                break first;
            }
            assert!(
                Instant::now() < deadline,
                "no commit after {loss:?}\n{}",
                proxy.log()
            );
            thread::sleep(Duration::from_millis(1));
        };
        waits.push(first.saturating_duration_since(promoted));
        thread::sleep(Duration::from_millis(300));
        let seen = load.end();
        for client in &mut idle {
            assert_eq!(client.value("SELECT 'here'"), "here");
        }
        if matches!(loss, Loss::Freeze) {
            // It wakes up and believes that it is the writer still.
            cluster.nodes[old].signal_all("CONT");
            thread::sleep(Duration::from_millis(200));
            served_by(&proxy, cluster.writer());
        }
        let rows = cluster.writer().sql_in(
            &cluster.database,
            "SELECT client || ' ' || number FROM work",
        );
        let rows: std::collections::HashSet<String> = rows.into_iter().collect();
        let confirmed = seen.acknowledged.lock().unwrap();
        lost += confirmed
            .iter()
            .filter(|(client, number, _)| !rows.contains(&format!("{client} {number}")))
            .count();
        acknowledged += confirmed.len();
        unknown += seen.unknown.load(Ordering::Relaxed);
        failed += seen.failed.load(Ordering::Relaxed);
        wrong += seen.wrong_host.load(Ordering::Relaxed);
        disconnected += seen.disconnected.load(Ordering::Relaxed);
        for (code, times) in seen.codes.lock().unwrap().iter() {
            *codes.entry(code.clone()).or_default() += times;
        }
        cluster.rejoin(old);
        cluster.writer().sql_in(&cluster.database, "TRUNCATE work");
    }
    waits.sort();
    println!(
        "{loss:?}: {times} failovers, {clients} clients: first commit after the promotion p50 {:?}, max {:?}; \
         {disconnected} disconnected, {acknowledged} commits acknowledged, {lost} of them lost, {unknown} of unknown \
         outcome, {wrong} on a wrong host, {failed} transactions failed ({codes:?})",
        waits[waits.len() / 2],
        waits[waits.len() - 1],
    );
    assert_eq!((disconnected, lost, wrong), (0, 0, 0), "{}", proxy.log());
    assert!(acknowledged > 0);
    let limit = match (loss, proving()) {
        (Loss::Kill | Loss::Orderly, true) => Duration::from_millis(300),
        (Loss::Freeze, true) => Duration::from_secs(1),
        // On a machine that does other things beside.
        (_, false) => Duration::from_secs(5),
    };
    assert!(waits[waits.len() - 1] < limit, "{waits:?}\n{}", proxy.log());
}

#[test]
fn writers_that_are_killed() {
    lose_writers(Loss::Kill, count(1, 20), count(16, 64));
}

#[test]
fn writers_that_are_stopped() {
    lose_writers(Loss::Orderly, count(1, 20), count(16, 64));
}

#[test]
fn writers_that_freeze_and_wake_up() {
    lose_writers(Loss::Freeze, count(1, 20), count(16, 64));
}
