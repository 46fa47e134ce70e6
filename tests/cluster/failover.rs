//! Writers that are lost under load, and what the clients see of it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::house::cluster::{Cluster, served_by};
use crate::house::{Answer, Client, Proxy, count, proving};

/// How a writer is lost.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// kill -9 of all its processes.
    Kill,
    /// As `pg_ctl stop -m fast`: everybody is told.
    Orderly,
    /// Its processes stop; the kernel goes on accepting and acknowledging. Nobody is told anything.
    Freeze,
    /// Its cable is pulled, and plugged in again when it has been replaced. Not even the kernel answers.
    Vanish,
}

/// What all clients together saw.
#[derive(Default)]
pub struct Seen {
    /// Rows whose COMMIT was answered: of which client, and its number.
    pub acknowledged: Mutex<Vec<(usize, u64)>>,
    unknown: AtomicU64,
    failed: AtomicU64,
    pub disconnected: AtomicU64,
    pub codes: Mutex<HashMap<String, u64>>,
    /// The first commit since `watched` was set that this server answered.
    pub watched: Mutex<Option<String>>,
    first_commit: Mutex<Option<Instant>>,
    pub wrong_host: AtomicU64,
    stop: AtomicBool,
}

impl Seen {
    /// Rows whose COMMIT was answered, and that are not there.
    pub fn lost(&self, rows: &HashSet<String>) -> usize {
        let is_lost =
            |(client, number): &&(usize, u64)| !rows.contains(&format!("{client} {number}"));
        let acknowledged = self.acknowledged.lock().unwrap();
        acknowledged.iter().filter(is_lost).count()
    }

    fn note(&self, answer: &Answer) {
        if answer.closed {
            self.disconnected.fetch_add(1, Ordering::Relaxed);
        }
        let code = answer.code();
        if !code.is_empty() {
            *self.codes.lock().unwrap().entry(code).or_default() += 1;
        }
    }

    fn committed(&self, client: usize, number: u64, address: &str) {
        self.acknowledged.lock().unwrap().push((client, number));
        match self.watched.lock().unwrap().as_deref() {
            None => {}
            Some(watched) if watched == address => {
                let mut first = self.first_commit.lock().unwrap();
                first.get_or_insert_with(Instant::now);
            }
            Some(_) => _ = self.wrong_host.fetch_add(1, Ordering::Relaxed),
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
            "INSERT INTO work VALUES ({me}, {number}) \
             RETURNING host(inet_server_addr()) || ':' || inet_server_port()"
        ));
        let address = insert.column().into_iter().next();
        let end = client.ask("COMMIT");
        let done = end.completed() == ["COMMIT"];
        if let (true, Some(address)) = (done, address) {
            seen.committed(me, number, &address);
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

pub struct Load {
    pub seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(proxy: &Proxy, clients: usize) -> Load {
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

    pub fn end(self) -> Arc<Seen> {
        self.seen.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.seen
    }
}

/// All failovers of one kind together.
#[derive(Default)]
struct Totals {
    waits: Vec<Duration>,
    acknowledged: usize,
    lost: usize,
    unknown: u64,
    failed: u64,
    wrong: u64,
    disconnected: u64,
    codes: HashMap<String, u64>,
}

impl Totals {
    /// What one load saw, held against the rows that are there.
    fn add(&mut self, seen: &Seen, rows: &HashSet<String>) {
        self.lost += seen.lost(rows);
        self.acknowledged += seen.acknowledged.lock().unwrap().len();
        self.unknown += seen.unknown.load(Ordering::Relaxed);
        self.failed += seen.failed.load(Ordering::Relaxed);
        self.wrong += seen.wrong_host.load(Ordering::Relaxed);
        self.disconnected += seen.disconnected.load(Ordering::Relaxed);
        for (code, times) in seen.codes.lock().unwrap().iter() {
            *self.codes.entry(code.clone()).or_default() += times;
        }
    }

    fn tell(&mut self, loss: Loss, clients: usize) {
        let each = format!("{:?}", self.waits);
        self.waits.sort();
        let Totals {
            waits,
            acknowledged,
            lost,
            unknown,
            failed,
            wrong,
            disconnected,
            codes,
        } = self;
        println!(
            "{loss:?}: {} failovers, {clients} clients: first commit after the promotion p50 {:?}, max {:?}; \
             {disconnected} disconnected, {acknowledged} commits acknowledged, {lost} of them lost, {unknown} of \
             unknown outcome, {wrong} on a wrong host, {failed} transactions failed ({codes:?})\n    {each}",
            waits.len(),
            waits[waits.len() / 2],
            waits[waits.len() - 1],
        );
    }
}

/// One failover after the other, under load; what is printed is the table of `make prove`.
fn lose_writers(mut cluster: Cluster, loss: Loss, times: usize, clients: usize) {
    let proxy = cluster.proxy(20).start();
    proxy
        .client()
        .run("CREATE TABLE work (client int, number bigint)");
    let mut idle: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    let mut totals = Totals::default();
    for _ in 0..times {
        let load = Load::start(&proxy, clients);
        thread::sleep(Duration::from_millis(700));
        let old = cluster.writer;
        match loss {
            Loss::Kill => cluster.writer().kill(),
            Loss::Orderly => cluster.writer().stop(),
            Loss::Freeze => cluster.writer().signal_all("STOP"),
            Loss::Vanish => cluster.writer().host.as_ref().unwrap().pull_cable(),
        }
        thread::sleep(Duration::from_millis(300));
        let promoted = cluster.fail_over();
        *load.seen.watched.lock().unwrap() = Some(cluster.writer().address.to_string());
        let first = first_commit(&load.seen, loss, &proxy);
        totals.waits.push(first.saturating_duration_since(promoted));
        thread::sleep(Duration::from_millis(300));
        let seen = load.end();
        for client in &mut idle {
            assert_eq!(client.value("SELECT 'here'"), "here");
        }
        // It wakes up and believes that it is the writer still.
        match loss {
            Loss::Freeze => cluster.nodes[old].signal_all("CONT"),
            Loss::Vanish => cluster.nodes[old].host.as_ref().unwrap().plug_in(),
            Loss::Kill | Loss::Orderly => {}
        }
        if matches!(loss, Loss::Freeze | Loss::Vanish) {
            thread::sleep(Duration::from_millis(200));
            served_by(&proxy, cluster.writer());
        }
        let rows = "SELECT client || ' ' || number FROM work";
        let rows = cluster.writer().sql_in(&cluster.database, rows);
        totals.add(&seen, &rows.into_iter().collect());
        cluster.rejoin(old);
        cluster.writer().sql_in(&cluster.database, "TRUNCATE work");
    }
    totals.tell(loss, clients);
    let Totals {
        disconnected,
        lost,
        wrong,
        acknowledged,
        waits,
        ..
    } = totals;
    assert_eq!((disconnected, lost, wrong), (0, 0, 0), "{}", proxy.log());
    assert!(acknowledged > 0);
    let limit = match (loss, proving()) {
        (Loss::Kill | Loss::Orderly, true) => Duration::from_millis(300),
        (Loss::Freeze | Loss::Vanish, true) => Duration::from_secs(1),
        // On a machine that does other things beside.
        (_, false) => Duration::from_secs(5),
    };
    assert!(waits[waits.len() - 1] < limit, "{waits:?}\n{}", proxy.log());
}

pub fn first_commit(seen: &Seen, loss: Loss, proxy: &Proxy) -> Instant {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(first) = *seen.first_commit.lock().unwrap() {
            return first;
        }
        let log = || proxy.log();
        assert!(
            Instant::now() < deadline,
            "no commit after {loss:?}\n{}",
            log()
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Failovers of each kind; or as many as WEIR_FAILOVERS says.
fn times() -> usize {
    let asked = std::env::var("WEIR_FAILOVERS").ok();
    asked.map_or(count(1, 20), |times| times.parse().unwrap())
}

#[test]
fn writers_that_are_killed() {
    lose_writers(Cluster::start(2), Loss::Kill, times(), count(16, 64));
}

#[test]
fn writers_that_are_stopped() {
    lose_writers(Cluster::start(2), Loss::Orderly, times(), count(16, 64));
}

#[test]
fn writers_that_freeze_and_wake_up() {
    lose_writers(Cluster::start(2), Loss::Freeze, count(1, 5), count(16, 64));
}

/// Needs namespaces; where there can be none, that is said, and the frozen ones stand for it.
#[test]
fn writers_that_vanish_and_come_back() {
    if let Some(cluster) = Cluster::apart(2) {
        lose_writers(cluster, Loss::Vanish, times(), count(16, 64));
    }
}
