//! The reader listener: who is served where, and what happens when a reader is lost or falls behind.

use std::time::{Duration, Instant};

use crate::house::cluster::Cluster;
use crate::house::{Client, Proxy, count, eventually};

const PORT: &str = "SELECT inet_server_port()";

fn readers(cluster: &Cluster) -> Vec<String> {
    let ports = cluster.others().into_iter();
    ports
        .map(|node| cluster.nodes[node].address.port().to_string())
        .collect()
}

fn health(proxy: &Proxy) -> Vec<(String, String)> {
    let targets = proxy.get("/targets").unwrap().json();
    let targets = targets.as_array().unwrap();
    let word = |target: &serde_json::Value, key: &str| target[key].as_str().unwrap().to_owned();
    targets
        .iter()
        .map(|target| (word(target, "role"), word(target, "state")))
        .collect()
}

fn all_available(proxy: &Proxy) {
    eventually(
        "were all available",
        || health(proxy),
        |all| all.iter().all(|(_, state)| state == "AVAILABLE"),
    );
}

#[test]
fn readers_share_the_work_and_refuse_to_write() {
    let cluster = Cluster::start(2);
    let proxy = cluster.proxy(10).start();
    all_available(&proxy);
    let roles: Vec<String> = health(&proxy).into_iter().map(|(role, _)| role).collect();
    assert_eq!(roles, ["writer", "reader", "reader"]);
    let ports = readers(&cluster);
    let mut clients: Vec<Client> = (0..8).map(|_| proxy.reader_login().connect()).collect();
    let mut served = Vec::new();
    for client in &mut clients {
        client.run("BEGIN");
        served.push(client.value(PORT));
    }
    for port in &ports {
        let share = served.iter().filter(|own| *own == port).count();
        assert_eq!(share, 4, "{served:?}");
    }
    let answer = clients[0].ask("CREATE TABLE nowhere (a int)");
    assert_eq!(answer.code(), "25006");
}

#[test]
fn a_lost_reader_costs_no_idle_client() {
    let cluster = Cluster::start(2);
    let proxy = cluster.proxy(30).start();
    all_available(&proxy);
    let clients = (0..count(20, 100)).map(|_| proxy.reader_login().connect());
    let mut clients: Vec<Client> = clients.collect();
    for client in &mut clients {
        client.value(PORT);
    }
    let lost = cluster.others()[0];
    let left = cluster.nodes[cluster.others()[1]]
        .address
        .port()
        .to_string();
    cluster.nodes[lost].kill();
    let since = Instant::now();
    let mut first = None;
    for client in &mut clients {
        assert_eq!(client.value(PORT), left);
        first.get_or_insert(since.elapsed());
    }
    let took = since.elapsed();
    println!(
        "the first idle client was served by the other reader {:?} after one was killed, all {}, one after the other, within {took:?}; none was lost",
        first.unwrap_or_default(),
        clients.len(),
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
    eventually(
        "was it told",
        || health(&proxy),
        |all| all[lost].1 == "UNAVAILABLE",
    );
    // It comes back, and is used again. No more at a time than one reader's cap: all of them hold a transaction.
    clients.truncate(20);
    cluster.rejoin(lost);
    all_available(&proxy);
    let back = cluster.nodes[lost].address.port().to_string();
    eventually(
        "was it used again",
        || {
            for client in &mut clients {
                client.run("BEGIN");
            }
            let ports: Vec<String> = clients
                .iter_mut()
                .map(|client| client.value(PORT))
                .collect();
            for client in &mut clients {
                client.run("COMMIT");
            }
            ports
        },
        |ports| ports.contains(&back),
    );
}

#[test]
fn without_readers_clients_are_told_at_once_or_go_to_the_writer() {
    let cluster = Cluster::with(1, &[]);
    let only_writer = cluster.writer().address.to_string();
    let setup = cluster
        .proxy(5)
        .set("AURORA_HOST", &only_writer)
        .set("AURORA_READER_HOST", &only_writer);
    let proxy = setup.clone().start();
    let since = Instant::now();
    let refusal = proxy.reader_login().try_connect().err().unwrap();
    assert_eq!(
        (&*refusal.severity, &*refusal.code),
        ("FATAL", "08001"),
        "{refusal:?}"
    );
    assert!(refusal.message.contains("no reader"), "{refusal:?}");
    assert!(refusal.hint.contains("reader_fallback"), "{refusal:?}");
    assert!(since.elapsed() < Duration::from_secs(5));
    let proxy = setup
        .set("WEIR__CLUSTER__READER_FALLBACK", "writer")
        .start();
    let mut client = proxy.reader_login().connect();
    assert_eq!(
        client.value(PORT),
        cluster.writer().address.port().to_string()
    );
}

#[test]
fn a_reader_that_falls_behind_gets_nobody() {
    let cluster = Cluster::start(2);
    let proxy = cluster
        .proxy(5)
        .set("WEIR__CLUSTER__MAX_REPLICA_LAG", "500ms")
        .set("WEIR__CLUSTER__PROBE_INTERVAL", "100ms")
        .start();
    all_available(&proxy);
    let slow = cluster.others()[0];
    cluster.nodes[slow].sql("SELECT pg_wal_replay_pause()");
    let mut writer = proxy.client();
    writer.run("CREATE TABLE t (a int)");
    let state = |proxy: &Proxy| health(proxy)[slow].1.clone();
    eventually(
        "was it left out",
        || {
            writer.run("INSERT INTO t VALUES (1)");
            state(&proxy)
        },
        |state| state == "UNAVAILABLE",
    );
    let reason = proxy.get("/targets").unwrap().body;
    assert!(reason.contains("INVALID_REPLICATION_STATE"), "{reason}");
    let other = cluster.nodes[cluster.others()[1]]
        .address
        .port()
        .to_string();
    for _ in 0..5 {
        assert_eq!(proxy.reader_login().connect().value(PORT), other);
    }
    cluster.nodes[slow].sql("SELECT pg_wal_replay_resume()");
    eventually(
        "was it back",
        || state(&proxy),
        |state| state == "AVAILABLE",
    );
}
