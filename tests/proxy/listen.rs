//! LISTEN without a pin: channels move to one shared connection and back, and no client can tell.

use std::time::Duration;

use crate::house::client::{Next, Refusal};
use crate::house::wire::*;
use crate::house::{Client, Postgres, Proxy, count, eventually};

/// A Weir with three server connections: one listens, two work.
fn house() -> (&'static Postgres, String, Proxy) {
    house_of(3, 1)
}

fn house_of(cap: usize, workers: usize) -> (&'static Postgres, String, Proxy) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let proxy = Proxy::before(postgres, &database, cap)
        .set("WEIR_WORKERS", &workers.to_string())
        .start();
    (postgres, database, proxy)
}

/// A notification, as far as it is not about processes.
fn said(frame: &Frame) -> (String, String) {
    let mut texts = frame.body[4..].split(|&byte| byte == 0);
    let mut text = || String::from_utf8_lossy(texts.next().unwrap()).into_owned();
    (text(), text())
}

fn pid(frame: &Frame) -> i32 {
    i32::from_be_bytes(frame.body[..4].try_into().unwrap())
}

fn heard(client: &mut Client) -> (String, String) {
    let frame = client.frame();
    assert_eq!(frame.tag, b'A', "{frame:?}");
    said(&frame)
}

fn pair(channel: &str, payload: &str) -> (String, String) {
    (channel.into(), payload.into())
}

/// Waits until nobody holds a connection but the listener.
fn moved(proxy: &Proxy) {
    eventually(
        "were all channels with the shared listener",
        || (proxy.pooled("leased"), proxy.pooled("pinned")),
        |seen| *seen == (1, 0),
    );
}

fn counted(proxy: &Proxy, name: &str) -> u64 {
    let metrics = proxy.metrics();
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

fn moves(proxy: &Proxy) -> u64 {
    counted(proxy, "weir_pool_listen_moves_total")
}

fn is_silent(client: &mut Client) {
    assert_eq!(
        client.next_within(Duration::from_millis(200)),
        Next::Silence
    );
}

fn closed_with(client: &mut Client) -> Refusal {
    let words = client.last_words();
    words.errors().pop().unwrap_or_else(|| panic!("{words:?}"))
}

#[test]
fn two_listen_and_neither_is_pinned() {
    let (postgres, database, proxy) = house();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    one.run("LISTEN common");
    one.run("LISTEN ones");
    other.run("LISTEN common");
    other.run("LISTEN others");
    moved(&proxy);
    let mut outside = postgres.client(&database);
    outside.run("NOTIFY common, 'to both'; NOTIFY ones, '1'; NOTIFY others, '2'; NOTIFY none");
    assert_eq!(heard(&mut one), pair("common", "to both"));
    assert_eq!(heard(&mut one), pair("ones", "1"));
    assert_eq!(heard(&mut other), pair("common", "to both"));
    assert_eq!(heard(&mut other), pair("others", "2"));
    // From another client of Weir's, which listens to nothing.
    let mut third = proxy.client();
    assert!(
        !third
            .ask("SELECT pg_notify('common', 'again')")
            .tags()
            .contains('A')
    );
    assert_eq!(heard(&mut one), pair("common", "again"));
    assert_eq!(heard(&mut other), pair("common", "again"));
    // From one of both.
    other.send(&query("NOTIFY ones"));
    assert_eq!(other.replies(1).tags(), "CZ");
    assert_eq!(heard(&mut one), pair("ones", ""));
    for client in [&mut one, &mut other, &mut third] {
        is_silent(client);
    }
    moved(&proxy);
    // Nobody listens: nothing is left that does.
    one.leave();
    other.leave();
    eventually("was it over", || proxy.pooled("leased"), |n| *n == 0);
    let listening = "SELECT count(*) FROM pg_listening_channels()";
    assert_eq!(third.value(listening), "0");
}

#[test]
fn over_several_workers() {
    let (postgres, database, proxy) = house_of(8, 2);
    let mut clients: Vec<_> = (0..8).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.run("LISTEN news");
    }
    eventually("was none pinned", || proxy.pooled("leased"), |n| *n <= 2);
    assert_eq!(proxy.pooled("pinned"), 0);
    postgres.client(&database).run("NOTIFY news, 'x'");
    for client in &mut clients {
        assert_eq!(heard(client), pair("news", "x"));
        is_silent(client);
    }
}

/// What a client hears of itself: the tags of all that comes, and whose number it says.
fn notifies_itself(client: &mut Client, settle: &dyn Fn()) -> Vec<(String, Vec<bool>)> {
    let mut seen = Vec::new();
    let me = client.pid;
    let mut see = |answer: crate::house::Answer| {
        let notified = answer.frames.iter().filter(|frame| frame.tag == b'A');
        let own = notified.map(|frame| pid(frame) == me).collect();
        seen.push((answer.tags(), own));
        settle();
    };
    see(client.ask("LISTEN a"));
    see(client.ask("NOTIFY a, 'own'"));
    see(client.exchange(&[unnamed("SELECT pg_notify('a', 'x')", &[]), sync()].concat()));
    see(client.exchange(
        &[
            unnamed("SELECT 1", &[]),
            unnamed("NOTIFY a, 'later'", &[]),
            sync(),
        ]
        .concat(),
    ));
    client.send(&[query("BEGIN"), query("NOTIFY a, 'in'"), query("COMMIT")].concat());
    see(client.replies(3));
    see(client.ask("BEGIN"));
    see(client.ask("SELECT 1"));
    see(client.ask("NOTIFY a, 'in'; NOTIFY a, 'twice'"));
    see(client.ask("SAVEPOINT s"));
    see(client.ask("NOTIFY a, 'undone'"));
    see(client.ask("ROLLBACK TO s"));
    see(client.ask("NOTIFY a, 'last'"));
    see(client.ask("COMMIT"));
    see(client.ask("BEGIN; SELECT 1"));
    see(client.ask("SAVEPOINT s; NOTIFY a, 'undone'; ROLLBACK TO s; NOTIFY a, 'done'"));
    see(client.ask("COMMIT"));
    see(client.ask("BEGIN; SELECT 1"));
    see(client.ask("NOTIFY a, 'never'"));
    see(client.ask("ROLLBACK"));
    see(client.ask("SELECT channel FROM pg_listening_channels() AS x(channel)"));
    see(client.ask("DO $$BEGIN PERFORM pg_notify('a', 'hidden'); END$$"));
    see(client.ask("BEGIN; LISTEN b"));
    see(client.ask("NOTIFY b"));
    see(client.ask("ROLLBACK"));
    see(client.ask("NOTIFY b"));
    see(client.ask("BEGIN; LISTEN b; COMMIT"));
    see(client.ask("NOTIFY b; NOTIFY a"));
    see(client.ask("BEGIN; UNLISTEN a; ROLLBACK"));
    see(client.ask("NOTIFY a"));
    see(client.ask("BEGIN; SELECT 1"));
    see(client.ask("UNLISTEN a"));
    see(client.ask("COMMIT"));
    see(client.ask("NOTIFY a; NOTIFY b"));
    see(client.ask("UNLISTEN *"));
    see(client.ask("NOTIFY b"));
    see(client.ask("LISTEN a; LISTEN b"));
    see(client.ask("DISCARD ALL"));
    see(client.ask("NOTIFY a; NOTIFY b"));
    see(client.ask("LISTEN a; SELECT 1/0"));
    see(client.ask("NOTIFY a"));
    see(client.exchange(&[unnamed("LISTEN a", &[]), sync()].concat()));
    see(client.ask("NOTIFY a"));
    seen
}

/// The same conversation with PostgreSQL, with Weir at full speed, and with Weir when all has moved at every step.
#[test]
fn a_client_that_notifies_itself_sees_what_postgresql_would_show() {
    let (postgres, database, proxy) = house();
    let expected = notifies_itself(&mut postgres.client(&database), &|| {});
    let all_own = |(_, own): &(String, Vec<bool>)| own.iter().all(|own| *own);
    assert!(expected.iter().all(all_own));
    let quick = notifies_itself(&mut proxy.client(), &|| {});
    assert_eq!(quick, expected);
    // Time enough for all that a step may set off.
    let slow = notifies_itself(&mut proxy.client(), &|| {
        std::thread::sleep(Duration::from_millis(15));
    });
    assert_eq!(slow, expected);
    assert!(moves(&proxy) > 5, "nothing moved");
}

#[test]
fn the_end_of_a_transaction_brings_what_came_meanwhile() {
    let (postgres, database, proxy) = house();
    let mut client = proxy.client();
    client.run("LISTEN a");
    moved(&proxy);
    let mut outside = postgres.client(&database);
    for begin in ["BEGIN", "BEGIN; SELECT 1"] {
        client.run(begin);
        outside.run("NOTIFY a, 'meanwhile'");
        is_silent(&mut client);
        assert_eq!(client.ask("SELECT 1").tags(), "TDCZ");
        assert_eq!(client.ask("COMMIT").tags(), "CAZ");
    }
    // Begun and ended without a server.
    client.run("BEGIN");
    outside.run("NOTIFY a, 'meanwhile'");
    is_silent(&mut client);
    // Ahead of ReadyForQuery where a server was there, else behind it.
    match client.ask("COMMIT").tags().as_str() {
        "CAZ" => {}
        "CZ" => assert_eq!(heard(&mut client), pair("a", "meanwhile")),
        other => panic!("{other}"),
    }
    is_silent(&mut client);
}

#[test]
fn names_of_all_kinds() {
    let (postgres, database, proxy) = house();
    let names = ["\"Up \"\"and\"\" down\"", "größe", "\"日本;--\"", "select_"];
    let mut client = proxy.client();
    for name in names {
        client.run(&format!("LISTEN {name}"));
    }
    moved(&proxy);
    let mut direct = postgres.client(&database);
    for name in names {
        direct.run(&format!("LISTEN {name}"));
    }
    let mut outside = postgres.client(&database);
    for round in 0..3 {
        for name in names {
            outside.run(&format!("NOTIFY {name}, 'é{round}'"));
            assert_eq!(heard(&mut client), heard(&mut direct));
        }
        // To and fro.
        client.run("LISTEN another");
        moved(&proxy);
    }
    let list = "SELECT c FROM pg_listening_channels() AS x(c) WHERE c <> 'another' ORDER BY 1";
    assert_eq!(client.ask(list).column(), direct.ask(list).column());
}

#[test]
fn another_encoding_is_told_rightly() {
    let (postgres, database, proxy) = house();
    let mut utf = proxy.client();
    utf.run("LISTEN a");
    moved(&proxy);
    let mut latin = proxy.login().with("client_encoding", "LATIN1").connect();
    latin.run("LISTEN a");
    let mut turned = proxy.client();
    turned.run("LISTEN a");
    eventually("was one pinned", || proxy.pooled("pinned"), |n| *n == 1);
    let mut outside = postgres.client(&database);
    outside.run("NOTIFY a, 'é'");
    assert_eq!(heard(&mut utf), pair("a", "é"));
    assert_eq!(latin.frame().body[4..], *b"a\0\xe9\0");
    assert_eq!(heard(&mut turned), pair("a", "é"));
    turned.run("SET client_encoding = 'LATIN1'");
    eventually("were two pinned", || proxy.pooled("pinned"), |n| *n == 2);
    outside.run("NOTIFY a, 'ü'");
    assert_eq!(turned.frame().body[4..], *b"a\0\xfc\0");
}

/// Sequence numbers from outside, while the client does all that moves its channels to and fro.
#[test]
fn none_is_lost_and_none_comes_twice() {
    let (postgres, database, proxy) = house_of(4, 1);
    let total = count(10_000, 30_000);
    let mut client = proxy.client();
    client.run("LISTEN numbers");
    let mut outside = postgres.client(&database);
    let sender = std::thread::spawn(move || {
        let mut next = 0;
        while next < total {
            // Of all sizes: one by one, and many in one commit.
            let upto = total.min(next + 1 + next % 37);
            outside.run(&format!(
                "SELECT pg_notify('numbers', n::text) FROM generate_series({next}, {}) n",
                upto - 1
            ));
            next = upto;
            std::thread::sleep(Duration::from_millis(3));
        }
    });
    let mut got = Vec::new();
    let mut own = 0;
    let acts = [
        "SELECT 1",
        "NOTIFY numbers, 'own'",
        "LISTEN other",
        "BEGIN; SELECT 1",
        "NOTIFY numbers, 'own'",
        "COMMIT",
        "UNLISTEN other",
        "BEGIN; NOTIFY numbers, 'never'",
        "ROLLBACK",
        "BEGIN; SELECT 1",
        "NOTIFY numbers, 'never'",
        "ROLLBACK",
    ];
    let mut take = |frames: Vec<Frame>| {
        for frame in frames.iter().filter(|frame| frame.tag == b'A') {
            match said(frame).1.as_str() {
                "own" => own += 1,
                number => got.push(number.parse::<usize>().unwrap()),
            }
        }
        got.len()
    };
    let mut turn = 0;
    let mut wanted_own = 0;
    loop {
        let act = acts[turn % acts.len()];
        wanted_own += usize::from(act == "NOTIFY numbers, 'own'");
        let answer = client.ask(act);
        assert_eq!(answer.errors(), [], "{act}");
        let mut seen = take(answer.frames);
        turn += 1;
        // Time to move, sometimes.
        let pause = Duration::from_millis([0, 0, 3, 0, 7][turn % 5]);
        // Not all that there is: the rest comes with what is asked next.
        for _ in 0..40 {
            match client.next_within(pause.max(Duration::from_millis(1))) {
                Next::Frame(frame) => seen = take(vec![frame]),
                _ => break,
            }
        }
        if seen >= total && turn % acts.len() == 0 {
            break;
        }
    }
    sender.join().unwrap();
    is_silent(&mut client);
    assert_eq!(own, wanted_own);
    assert_eq!(got, (0..total).collect::<Vec<_>>());
    println!("{turn} acts, {} moves", moves(&proxy));
    assert!(moves(&proxy) > 20, "hardly anything moved");
}

#[test]
fn a_lost_listener_is_told() {
    let (postgres, database, proxy) = house();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    one.run("LISTEN a");
    other.run("LISTEN b");
    moved(&proxy);
    postgres.kill_backends(&database);
    // Not all gone for long: who has lost one looks at the server, over another.
    for client in [&mut one, &mut other] {
        let refusal = closed_with(client);
        assert_eq!(
            (&*refusal.severity, &*refusal.code),
            ("FATAL", "57P01"),
            "{refusal:?}"
        );
        assert!(refusal.detail.contains("57P01"), "{refusal:?}");
        assert!(refusal.hint.contains("LISTEN again"), "{refusal:?}");
    }
    let mut again = proxy.client();
    again.run("LISTEN a");
    moved(&proxy);
    postgres.client(&database).run("NOTIFY a");
    assert_eq!(heard(&mut again), pair("a", ""));
}

#[test]
fn a_client_that_does_not_read_is_closed() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let proxy = Proxy::before(postgres, &database, 3)
        .set("WEIR_WORKERS", "1")
        .set("WEIR__SESSION__LISTEN_QUEUE_BYTES", "64KiB")
        .set("WEIR_WORKERS", "1")
        .start();
    let (mut deaf, mut busy) = (proxy.client(), proxy.client());
    deaf.run("LISTEN a");
    busy.run("LISTEN a");
    moved(&proxy);
    // One does not take what it is sent, the other can't be sent anything.
    busy.run("BEGIN; SELECT 1");
    let before = proxy.rss_bytes();
    let mut outside = postgres.client(&database);
    for _ in 0..40 {
        outside.run("SELECT pg_notify('a', repeat('x', 7900) || n) FROM generate_series(1, 100) n");
    }
    let refusal = closed_with(&mut busy);
    assert_eq!(
        (&*refusal.severity, &*refusal.code),
        ("FATAL", "57P01"),
        "{refusal:?}"
    );
    assert!(
        refusal.hint.contains("session.listen_queue_bytes"),
        "{refusal:?}"
    );
    eventually("were both gone", || proxy.clients(), |n| *n == 0);
    assert!(proxy.rss_bytes() < before + 32 * 1024 * 1024);
    let heard = deaf.last_words();
    assert!(heard.frames.iter().all(|frame| frame.tag == b'A'));
    assert_eq!(counted(&proxy, "weir_pool_listen_overflows_total"), 2);
}

/// With no connection to spare, or told so, it is as it was: the client keeps its own.
#[test]
fn without_a_connection_to_spare_clients_are_pinned() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let alone = Proxy::before(postgres, &database, 1).start();
    let told = Proxy::before(postgres, &database, 4)
        .set("WEIR__SESSION__LISTEN", "pin")
        .start();
    for proxy in [alone, told] {
        let mut client = proxy.client();
        client.run("LISTEN a");
        eventually("was it pinned", || proxy.pooled("pinned"), |n| *n == 1);
        postgres.client(&database).run("NOTIFY a, '1'");
        assert_eq!(heard(&mut client), pair("a", "1"));
        assert_eq!(client.ask("NOTIFY a, '2'").tags(), "CAZ");
        client.run("UNLISTEN *");
        eventually("was it free", || proxy.pooled("leased"), |n| *n == 0);
    }
}

/// Whoever leaves at any point of a move leaves nothing behind.
#[test]
fn who_leaves_in_between_leaves_nothing() {
    let (postgres, database, proxy) = house();
    for turn in 0..30u64 {
        let mut client = proxy.client();
        client.send(&[query("LISTEN a"), query("SELECT 1")].concat());
        client.replies(2);
        std::thread::sleep(Duration::from_micros(turn * 150));
        if turn % 3 == 0 {
            client.send(&query("NOTIFY a"));
        }
        match turn % 2 {
            0 => client.vanish(),
            _ => client.leave(),
        }
    }
    eventually("was all given back", || proxy.pooled("leased"), |n| *n == 0);
    let mut client = proxy.client();
    assert_eq!(
        client.value("SELECT count(*) FROM pg_listening_channels()"),
        "0"
    );
    postgres.client(&database).run("NOTIFY a");
    is_silent(&mut client);
}

/// All others are busy when a client begins to listen: it keeps its own, and gives it up when there is one to spare.
#[test]
fn a_connection_to_spare_is_found_later() {
    let (postgres, database, proxy) = house_of(2, 1);
    let (mut listener, mut busy) = (proxy.client(), proxy.client());
    busy.run("BEGIN; SELECT 1");
    listener.run("LISTEN a");
    eventually("was it pinned", || proxy.pooled("pinned"), |n| *n == 1);
    busy.run("COMMIT");
    moved(&proxy);
    postgres.client(&database).run("NOTIFY a, 'x'");
    assert_eq!(heard(&mut listener), pair("a", "x"));
}
