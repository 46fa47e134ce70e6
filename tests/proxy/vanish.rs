//! A client that vanishes, in whatever state, leaves nothing behind.

use std::thread;
use std::time::Duration;

use crate::house::wire::*;
use crate::house::{Client, PATIENCE, Postgres, Proxy, count, eventually};

const CAP: usize = 4;
const AT_ONCE: usize = 8;

/// Brings a client into some state and leaves it there.
type State = fn(&mut Client);

const STATES: &[(&str, State)] = &[
    ("idle", |client| client.run("SELECT 1")),
    ("just asked", |client| client.send(&query("SELECT 1"))),
    ("mid-query", |client| {
        client.send(&query("SELECT pg_sleep(0.2)"))
    }),
    ("mid-transaction", |client| {
        client.run("BEGIN");
        client.run("INSERT INTO t VALUES (1)");
    }),
    ("begun", |client| client.run("BEGIN")),
    ("failed transaction", |client| {
        client.run("BEGIN");
        client.ask("SELECT 1/0");
    }),
    ("mid-pipeline", |client| {
        let unit = [unnamed("SELECT 1", &[]), sync()].concat();
        client.send(&[unit.repeat(50), parse("", "SELECT 2")].concat());
    }),
    ("flushed, not synced", |client| {
        client.send(&[unnamed("SELECT 1", &[]), flush()].concat());
        client.until(b'C');
    }),
    ("written, flushed, not synced", |client| {
        client.send(&[unnamed("INSERT INTO t VALUES (1)", &[]), flush()].concat());
        client.until(b'C');
    }),
    ("written and left, not synced", |client| {
        let goodbye = message(b'X', b"");
        client.send(&[unnamed("INSERT INTO t VALUES (1)", &[]), goodbye].concat());
    }),
    ("copied, not synced", |client| {
        client.send(&[unnamed("COPY t FROM STDIN", &[]), flush()].concat());
        client.until(b'G');
        let done = message(b'c', b"");
        client.send(&[copy_data(b"1\n2\n"), done, flush()].concat());
        client.until(b'C');
    }),
    ("failed, not synced", |client| {
        client.send(&[unnamed("SELECT 1/0", &[]), flush()].concat());
        client.until(b'E');
    }),
    ("mid-message", |client| {
        let message = query("SELECT 'half'");
        client.send(&message[..message.len() / 2]);
    }),
    ("mid-COPY in", |client| {
        client.send(&query("COPY t FROM STDIN"));
        client.until(b'G');
        client.send(&copy_data(b"1\n2\n"));
    }),
    ("mid-COPY out", |client| {
        client.send(&query(
            "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 20000)) TO STDOUT",
        ));
        client.until(b'H');
    }),
    ("mid-result", |client| {
        client.send(&query(
            "SELECT repeat('x', 1000) FROM generate_series(1, 20000)",
        ));
        client.until(b'D');
    }),
    ("pinned", |client| {
        client.run("CREATE TEMP TABLE mine (a int)")
    }),
];

fn house() -> (&'static Postgres, String, Proxy) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let proxy = Proxy::before(postgres, &database, CAP)
        .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "60s")
        .start();
    proxy.client().run("CREATE TABLE t (a int)");
    (postgres, database, proxy)
}

/// `times` clients come into `state` and vanish, some by RST, some by a plain close.
fn vanish_often(proxy: &Proxy, times: usize, state: State) {
    thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            scope.spawn(move || {
                for n in (worker..times).step_by(AT_ONCE) {
                    let mut client = proxy.client();
                    state(&mut client);
                    if n % 3 != 0 {
                        client.vanish();
                    }
                }
            });
        }
    });
}

fn nothing_is_left(postgres: &Postgres, database: &str, proxy: &Proxy, after: &str) {
    eventually(
        &format!("was all given back after {after}"),
        || {
            let kinds = ["leased", "waiting", "pinned"].map(|kind| proxy.pooled(kind));
            (
                proxy.clients(),
                kinds,
                postgres.busy(database),
                proxy.log().len(),
            )
        },
        |(clients, kinds, busy, _)| (*clients, *kinds, *busy) == (0, [0, 0, 0], 0),
    );
    assert!(postgres.connections(database) <= CAP);
    assert_eq!(
        proxy.client().value("SELECT count(*) FROM t"),
        "0",
        "{after}"
    );
}

#[test]
fn in_every_state_nothing_is_left() {
    let (postgres, database, proxy) = house();
    let times = count(40, 1_000);
    // Once round to grow every buffer and thread there will be.
    for (_, state) in STATES {
        vanish_often(&proxy, 2 * AT_ONCE, *state);
    }
    let before = proxy.rss_bytes();
    for (name, state) in STATES {
        vanish_often(&proxy, times, *state);
        nothing_is_left(postgres, &database, &proxy, name);
    }
    let after = proxy.rss_bytes();
    let room = 8 << 20;
    assert!(after < before + room, "grew from {before} to {after} bytes");
}

#[test]
fn while_queued_nothing_is_left() {
    let (postgres, database, proxy) = house();
    let mut holders: Vec<Client> = (0..CAP).map(|_| proxy.client()).collect();
    for holder in &mut holders {
        holder.run("BEGIN");
        holder.run("SELECT 1");
    }
    let waits: State = |client| client.send(&query("SELECT 1"));
    let begun: State = |client| {
        client.run("BEGIN");
        client.send(&query("SELECT 1"));
    };
    for _ in 0..count(40, 1_000).div_ceil(AT_ONCE) {
        let mut queued: Vec<Client> = (0..AT_ONCE).map(|_| proxy.client()).collect();
        for (n, client) in queued.iter_mut().enumerate() {
            if n % 2 == 0 {
                waits(client)
            } else {
                begun(client)
            }
        }
        let all = AT_ONCE as u64;
        eventually("did they wait", || proxy.pooled("waiting"), |n| *n == all);
        queued.into_iter().for_each(Client::vanish);
        eventually(
            "was the queue empty",
            || proxy.pooled("waiting"),
            |n| *n == 0,
        );
    }
    for holder in &mut holders {
        assert_eq!(holder.value("SELECT 'still here'"), "still here");
        holder.run("ROLLBACK");
    }
    drop(holders);
    nothing_is_left(postgres, &database, &proxy, "queued");
}

/// Bytes still under way when the client closes properly are worked off, as PostgreSQL would.
#[test]
fn a_half_closed_client_gets_its_answer() {
    let (_, _, proxy) = house();
    let mut client = proxy.client();
    client.send(&[query("SELECT 'last'"), terminate()].concat());
    client.stop_sending();
    assert_eq!(client.last_words().column(), ["last"]);
    // What was asked before vanishing is done or undone, never half: a COMMIT that arrived counts.
    let mut writer = proxy.client();
    writer.send(&query("BEGIN; INSERT INTO t VALUES (1); COMMIT"));
    thread::sleep(Duration::from_millis(200).min(PATIENCE));
    writer.vanish();
    eventually(
        "was it committed",
        || proxy.client().value("SELECT count(*) FROM t"),
        |rows| rows == "1",
    );
}
