//! One host alone: it is asked what it is as long as it is used, on connections that are there anyway; and a writer that
//! will not write is asked at once.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::house::cluster::Cluster;
use crate::house::{Client, Postgres, Proxy, eventually};

fn target(proxy: &Proxy) -> (String, String, String) {
    let targets = proxy.get("/targets").unwrap().json();
    let word = |key: &str| targets[0][key].as_str().unwrap_or_default().to_owned();
    (word("role"), word("state"), word("reason"))
}

#[test]
fn its_role_is_told_and_whatever_it_is_it_serves() {
    let cluster = Cluster::start(1);
    let reader = &cluster.nodes[1];
    let proxy = Proxy::before(reader, &cluster.database, 3).start();
    let told = |proxy: &Proxy| {
        let (role, state, _) = target(proxy);
        format!("{role} {state}")
    };
    eventually(
        "was it told",
        || told(&proxy),
        |told| told == "reader AVAILABLE",
    );
    assert_eq!(proxy.client().value("SELECT pg_is_in_recovery()"), "t");
    let proxy = Proxy::before(cluster.writer(), &cluster.database, 3).start();
    eventually(
        "was it told",
        || told(&proxy),
        |told| told == "writer AVAILABLE",
    );
}

#[test]
fn its_silence_is_told_and_its_coming_back() {
    let postgres = Postgres::start(&[]);
    let database = postgres.database();
    let proxy = Proxy::before(&postgres, &database, 4)
        .set("WEIR__DATABASE__CONNECT_TIMEOUT", "500ms")
        .set("WEIR__CLUSTER__PROBE_TIMEOUT", "500ms")
        .set("WEIR__CLUSTER__PROBE_INTERVAL", "100ms")
        .start();
    let mut clients: Vec<Client> = (0..2).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.run("BEGIN");
        client.run("SELECT 1");
    }
    clients[1].run("COMMIT");
    postgres.signal_all("STOP");
    let silent = eventually(
        "was it told",
        || target(&proxy),
        |(_, state, _)| state == "UNAVAILABLE",
    );
    assert!(silent.2.contains("no answer within 500ms"), "{silent:?}");
    postgres.signal_all("CONT");
    eventually(
        "was it told",
        || target(&proxy),
        |(_, state, _)| state == "AVAILABLE",
    );
    clients[0].run("COMMIT");
    assert_eq!(clients[1].value("SELECT 'on'"), "on");
}

#[test]
fn unused_it_can_sleep() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let proxy = Proxy::before(postgres, &database, 3)
        .set("WEIR__POOL__IDLE_TIMEOUT", "1s")
        .set("WEIR__CLUSTER__PROBE_INTERVAL", "100ms")
        .start();
    let mut client = proxy.client();
    client.value("SELECT 1");
    eventually(
        "were all closed",
        || postgres.connections(&database),
        |count| *count == 0,
    );
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(2) {
        assert_eq!(postgres.connections(&database), 0);
        sleep(Duration::from_millis(20));
    }
    assert_eq!(client.value("SELECT 'woken'"), "woken");
}

/// When Weir asked the writer last.
fn asked(cluster: &Cluster) -> String {
    let sql = "SELECT max(query_start)::text FROM pg_stat_activity WHERE query LIKE '%pg_postmaster_start_time%' AND usename = 'app'";
    cluster.writer().sql(sql).remove(0)
}

#[test]
fn a_writer_that_will_not_write_is_asked_at_once_but_only_so_often() {
    let cluster = Cluster::start(1);
    let proxy = cluster
        .proxy(5)
        .set("WEIR__CLUSTER__PROBE_INTERVAL", "60s")
        .start();
    let mut client = proxy.client();
    client.run("CREATE TABLE t (a int)");
    sleep(Duration::from_millis(300));
    let before = asked(&cluster);
    // That is what the client wanted, in each of the ways to want it.
    let insert = "INSERT INTO t VALUES (1)";
    client.run("BEGIN READ ONLY");
    assert_eq!(client.ask(insert).code(), "25006");
    client.run("ROLLBACK");
    client.run("SET default_transaction_read_only = on");
    assert_eq!(client.ask(insert).code(), "25006");
    client.run("RESET default_transaction_read_only");
    sleep(Duration::from_millis(300));
    assert_eq!(asked(&cluster), before);
    // And that is what it did not want.
    cluster
        .writer()
        .sql("ALTER SYSTEM SET default_transaction_read_only = on");
    cluster.writer().sql("SELECT pg_reload_conf()");
    eventually(
        "did it refuse",
        || client.ask(insert).code(),
        |code| code == "25006",
    );
    eventually("was it asked", || asked(&cluster), |now| *now != before);
    let (since, mut times, mut last) = (Instant::now(), 0, asked(&cluster));
    while since.elapsed() < Duration::from_secs(1) {
        assert_eq!(client.ask(insert).code(), "25006");
        let now = asked(&cluster);
        times += usize::from(now != last);
        last = now;
    }
    assert!((1..=12).contains(&times), "{times} questions in a second");
    // It says that it is the writer, and stays it.
    assert!(
        client.value("SELECT inet_server_port()") == cluster.writer().address.port().to_string()
    );
}
