//! Isolated: two clients take turns on the one server connection and never notice each other.

use crate::house::wire::*;
use crate::house::{Client, Postgres, Proxy};

/// A Weir with a single server connection.
fn one_connection() -> Proxy {
    let postgres = Postgres::shared();
    Proxy::before(postgres, &postgres.database(), 1).start()
}

/// Clients of a cap of 1 that must both get on; a pinned one keeps the connection until it leaves.
fn short_wait() -> Proxy {
    let postgres = Postgres::shared();
    Proxy::before(postgres, &postgres.database(), 1)
        .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "20s")
        .start()
}

/// What one does must leave no trace for the next to borrow the connection, once the one has left.
fn leaves_no_trace(act: &str, look: &str) {
    let proxy = short_wait();
    let untouched = proxy.client().ask(look);
    let mut one = proxy.client();
    assert_eq!(one.ask(act).errors(), [], "{act}");
    one.leave();
    assert_eq!(proxy.client().ask(look), untouched, "{act}, then {look}");
    let mut vanishing = proxy.client();
    assert_eq!(vanishing.ask(act).errors(), [], "{act}");
    vanishing.vanish();
    assert_eq!(
        proxy.client().ask(look),
        untouched,
        "{act}, vanished, then {look}"
    );
}

#[test]
fn settings_leave_no_trace() {
    leaves_no_trace("SET work_mem = '3MB'", "SHOW work_mem");
    leaves_no_trace("SET TimeZone = 'Asia/Tokyo'", "SHOW TimeZone");
    leaves_no_trace("SET search_path = pg_catalog", "SHOW search_path");
    leaves_no_trace("SET client_encoding = 'LATIN1'", "SHOW client_encoding");
    leaves_no_trace(
        "SELECT set_config('work_mem', '3MB', false)",
        "SHOW work_mem",
    );
    leaves_no_trace(
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SHOW default_transaction_read_only",
    );
    leaves_no_trace(
        "DO $$BEGIN PERFORM set_config('work_mem', '3MB', false); END$$",
        "SHOW work_mem",
    );
    leaves_no_trace(
        "DO $$BEGIN EXECUTE 'SET wo' || 'rk_mem = ''3MB'''; END$$",
        "SHOW work_mem",
    );
    leaves_no_trace(
        "UPDATE pg_settings SET setting = '3072' WHERE name = 'work_mem'",
        "SHOW work_mem",
    );
}

#[test]
fn objects_of_a_session_leave_no_trace() {
    leaves_no_trace(
        "CREATE TEMP TABLE mine (a int)",
        "SELECT to_regclass('pg_temp.mine')",
    );
    leaves_no_trace(
        "SELECT 1 AS a INTO TEMP mine",
        "SELECT to_regclass('pg_temp.mine')",
    );
    leaves_no_trace(
        "PREPARE mine AS SELECT 1",
        "SELECT count(*) FROM pg_prepared_statements",
    );
    leaves_no_trace(
        "LISTEN mine",
        "SELECT count(*) FROM pg_listening_channels()",
    );
    leaves_no_trace(
        "SELECT pg_advisory_lock(1)",
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = 'advisory' AND datname = current_database()",
    );
    leaves_no_trace(
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*) FROM pg_cursors",
    );
    leaves_no_trace(
        "BEGIN; CREATE TEMP TABLE mine (a int); COMMIT",
        "SELECT to_regclass('pg_temp.mine')",
    );
}

#[test]
fn a_role_leaves_no_trace() {
    let postgres = Postgres::shared();
    postgres.sql("DROP ROLE IF EXISTS other_role; CREATE ROLE other_role; GRANT other_role TO app");
    leaves_no_trace("SET ROLE other_role", "SELECT current_user");
    leaves_no_trace(
        "SET SESSION AUTHORIZATION app",
        "SELECT session_user, current_user",
    );
}

#[test]
fn an_open_transaction_leaves_no_trace() {
    let proxy = short_wait();
    let mut one = proxy.client();
    one.run("CREATE TABLE kept (a int)");
    one.run("BEGIN");
    one.run("INSERT INTO kept VALUES (1)");
    one.leave();
    let mut other = proxy.client();
    assert_eq!(other.value("SELECT count(*) FROM kept"), "0");
}

/// Each keeps its own startup settings on the connection that both use in turn.
#[test]
fn startup_settings_go_with_their_client() {
    let proxy = one_connection();
    let mut german = proxy
        .login()
        .with("DateStyle", "German")
        .with("options", "-c work_mem=3MB")
        .with("application_name", "der eine")
        .connect();
    let mut plain = proxy
        .login()
        .with("application_name", "the other")
        .connect();
    for _ in 0..3 {
        assert_eq!(german.value("SELECT date '2000-12-31'"), "31.12.2000");
        assert_eq!(plain.value("SELECT date '2000-12-31'"), "2000-12-31");
        assert_eq!(german.value("SHOW work_mem"), "3MB");
        assert_eq!(plain.value("SHOW work_mem"), "4MB");
        assert_eq!(german.value("SHOW application_name"), "der eine");
        assert_eq!(plain.value("SHOW application_name"), "the other");
    }
}

/// Two clients over two connections: none ever sees the other's SET, wherever it lands.
#[test]
fn interleaved_settings_stay_apart() {
    let postgres = Postgres::shared();
    let proxy = Proxy::before(postgres, &postgres.database(), 2).start();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    one.run("SET work_mem = '3MB'");
    other.run("SET work_mem = '5MB'");
    for _ in 0..5 {
        assert_eq!(one.value("SHOW work_mem"), "3MB");
        assert_eq!(other.value("SHOW work_mem"), "5MB");
    }
    one.run("RESET work_mem");
    assert_eq!(one.value("SHOW work_mem"), "4MB");
    assert_eq!(other.value("SHOW work_mem"), "5MB");
}

fn bind_unnamed(client: &mut Client) -> String {
    let answer = client.exchange(&[bind("", "", &[]), execute("", 0), sync()].concat());
    match answer.error() {
        Some(error) => error.code,
        None => answer.column().concat(),
    }
}

#[test]
fn the_unnamed_statement_is_each_clients_own() {
    let proxy = one_connection();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    assert_eq!(
        one.exchange(&[parse("", "SELECT 'one'"), sync()].concat())
            .errors(),
        []
    );
    // Never parsed here, though the connection may hold another's.
    assert_eq!(bind_unnamed(&mut other), "26000");
    assert_eq!(bind_unnamed(&mut one), "one");
    assert_eq!(
        other
            .exchange(&[parse("", "SELECT 'other'"), sync()].concat())
            .errors(),
        []
    );
    for _ in 0..3 {
        assert_eq!(bind_unnamed(&mut one), "one");
        assert_eq!(bind_unnamed(&mut other), "other");
    }
    // A simple query ends the asker's, and only the asker's.
    one.run("SELECT 1");
    assert_eq!(bind_unnamed(&mut one), "26000");
    assert_eq!(bind_unnamed(&mut other), "other");
}

/// After an error PostgreSQL skips to Sync: what stands in between never happened.
#[test]
fn skipped_messages_leave_the_unnamed_statement_as_it_was() {
    let skips: [Vec<u8>; 3] = [
        [execute("none", 0), parse("", "SELECT 'skipped'"), sync()].concat(),
        [execute("none", 0), query("SELECT 1"), sync()].concat(),
        [
            execute("none", 0),
            parse("", "SELECT 'skipped'"),
            query(""),
            sync(),
        ]
        .concat(),
    ];
    let uses = [bind("", "", &[]), execute("", 0), sync()].concat();
    for skipped in &skips {
        let proxy = one_connection();
        let (mut one, mut other) = (proxy.client(), proxy.client());
        let parsed = one.exchange(&[parse("", "SELECT 'one'"), sync()].concat());
        assert_eq!(parsed.errors(), []);
        other.send(&[&skipped[..], &uses].concat());
        let answer = other.replies(2);
        let codes: Vec<String> = answer
            .errors()
            .into_iter()
            .map(|error| error.code)
            .collect();
        assert_eq!(
            codes,
            ["34000", "26000"],
            "and surely not one's: {answer:?}"
        );
        assert_eq!(other.exchange(skipped).code(), "34000");
        assert_eq!(bind_unnamed(&mut other), "26000", "and surely not one's");
        assert_eq!(one.exchange(skipped).code(), "34000");
        assert_eq!(bind_unnamed(&mut one), "one");
    }
}

#[test]
fn named_statements_are_each_clients_own() {
    let postgres = Postgres::shared();
    let proxy = Proxy::before(postgres, &postgres.database(), 2).start();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    let uses = || [bind("", "s", &[]), execute("", 0), sync()].concat();
    assert_eq!(
        one.exchange(&[parse("s", "SELECT 'one'"), sync()].concat())
            .errors(),
        []
    );
    assert_eq!(other.exchange(&uses()).code(), "26000");
    assert_eq!(
        other
            .exchange(&[parse("s", "SELECT 'other'"), sync()].concat())
            .errors(),
        []
    );
    for _ in 0..3 {
        assert_eq!(one.exchange(&uses()).column(), ["one"]);
        assert_eq!(other.exchange(&uses()).column(), ["other"]);
    }
}

#[test]
fn notifications_reach_only_their_listener() {
    let postgres = Postgres::shared();
    let proxy = Proxy::before(postgres, &postgres.database(), 2).start();
    let (mut listener, mut other) = (proxy.client(), proxy.client());
    listener.run("LISTEN news");
    assert!(!other.ask("NOTIFY news, 'extra'").tags().contains('A'));
    let heard = listener.until(b'A');
    assert!(
        heard
            .last()
            .unwrap()
            .body
            .windows(5)
            .any(|five| five == b"extra")
    );
    assert!(!other.ask("SELECT 1").tags().contains('A'));
}

#[test]
fn session_locks_hold_while_their_client_lives() {
    let postgres = Postgres::shared();
    let proxy = Proxy::before(postgres, &postgres.database(), 2).start();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    assert_eq!(one.value("SELECT pg_try_advisory_lock(9)"), "t");
    for _ in 0..3 {
        assert_eq!(other.value("SELECT pg_try_advisory_lock(9)"), "f");
        one.run("SELECT 1");
    }
    one.leave();
    crate::house::eventually(
        "was the lock free",
        || other.value("SELECT pg_try_advisory_lock(9)"),
        |got| got == "t",
    );
}

#[test]
fn a_name_parsed_behind_discard_all_leaves_no_trace() {
    let proxy = short_wait();
    let mut one = proxy.client();
    let named = [parse("s", "SELECT 1"), sync()].concat();
    one.send(&[&named[..], &query("DISCARD ALL"), &named, &terminate()].concat());
    one.last_words();
    let mut other = proxy.client();
    assert_eq!(
        other.value("SELECT count(*) FROM pg_prepared_statements WHERE name NOT LIKE 'weir\\_%'"),
        "0"
    );
    let mut patient = proxy.client();
    for unit in [named.clone(), query("DISCARD ALL"), named.clone()] {
        assert_eq!(patient.exchange(&unit).errors(), []);
    }
    patient.leave();
    assert_eq!(
        other.value("SELECT count(*) FROM pg_prepared_statements WHERE name NOT LIKE 'weir\\_%'"),
        "0"
    );
    assert_eq!(other.exchange(&named).errors(), []);
}
