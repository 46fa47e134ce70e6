//! Carried settings that a connection does not take: nothing is executed without them, and nobody loses the session.

use crate::house::programs::signal;
use crate::house::wire::*;
use crate::house::{Client, Postgres, Proxy, eventually};

fn house(cap: usize, settings: &[(&str, &str)]) -> (String, Proxy) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let setup =
        Proxy::before(postgres, &database, cap).set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "10s");
    let setup = settings
        .iter()
        .fold(setup, |setup, (name, value)| setup.set(name, value));
    (database, setup.start())
}

fn role(name: &str) {
    Postgres::shared().sql(&format!(
        "DROP ROLE IF EXISTS {name}; CREATE ROLE {name}; GRANT {name} TO app"
    ));
}

fn revoke(name: &str) {
    Postgres::shared().sql(&format!("REVOKE {name} FROM app"));
}

/// Whoever has `plpgsql.x` comes to a connection that has loaded the language since, which refuses the name.
#[test]
fn what_one_server_refuses_another_is_given() {
    let (_, proxy) = house(2, &[]);
    let mut admin = proxy.client();
    admin.run("CREATE TABLE t (a text)");
    admin.run("CREATE SEQUENCE s");
    let insert = "INSERT INTO t VALUES (current_setting('plpgsql.x'))";
    let copy = [
        query("COPY t FROM STDIN"),
        copy_data(b"copied\n"),
        copy_done(),
        query(insert),
    ];
    let named = [
        parse("n", insert),
        bind("", "n", &[]),
        execute("", 0),
        sync(),
        bind("", "n", &[]),
        execute("", 0),
        sync(),
    ];
    let begun = [query("BEGIN"), query(insert), query("COMMIT")];
    let function = [function_call(1574, &["s"]), query(insert)];
    // What is pipelined, the ReadyForQuery it brings, and how often it inserts.
    let cases: [(Vec<u8>, usize, usize); 6] = [
        (query(insert), 1, 1),
        ([unnamed(insert, &[]), sync()].concat(), 1, 1),
        (named.concat(), 2, 2),
        (begun.concat(), 3, 1),
        (copy.concat(), 2, 1),
        (function.concat(), 2, 1),
    ];
    for (number, (bytes, readies, inserts)) in cases.into_iter().enumerate() {
        admin.run("TRUNCATE t");
        let (mut loader, mut one, mut holder) = (proxy.client(), proxy.client(), proxy.client());
        loader.run("BEGIN");
        loader.run("DO $$BEGIN NULL; END$$");
        one.run(&format!("SET plpgsql.x = 'value {number}'"));
        holder.run("BEGIN");
        holder.run("SELECT 1");
        loader.run("COMMIT");
        loader.leave();
        one.send(&bytes);
        let answer = one.replies(readies);
        assert_eq!(answer.errors(), [], "{number}: {answer:?}");
        assert_eq!(answer.status(), Some('I'));
        holder.run("COMMIT");
        let found = admin.ask("SELECT a FROM t WHERE a <> 'copied'").column();
        assert_eq!(found, vec![format!("value {number}"); inserts]);
    }
    let metrics = proxy.metrics();
    let closed = "weir_pool_connections_closed_total{";
    let unfit = |line: &&str| line.starts_with(closed) && line.contains("reason=\"unfit\"");
    let line = metrics.lines().find(unfit);
    assert!(line.is_some_and(|line| line.ends_with(" 6")), "{line:?}");
}

/// No server takes it: an error for each unit, in PostgreSQL's words, and RESET gets through.
#[test]
fn what_no_server_takes_is_an_error_until_it_is_reset() {
    role("refused_role");
    let (database, proxy) = house(1, &[]);
    proxy.client().run("CREATE TABLE t (a int)");
    proxy.client().run("GRANT ALL ON t TO refused_role");
    let resets: [Vec<u8>; 4] = [
        query("RESET ROLE"),
        [unnamed("RESET ROLE", &[]), sync()].concat(),
        query("DISCARD ALL"),
        [query("BEGIN"), query("RESET ROLE"), query("COMMIT")].concat(),
    ];
    for reset in resets {
        Postgres::shared().sql("GRANT refused_role TO app");
        let mut one = proxy.client();
        one.run("SET ROLE refused_role");
        one.run("SET work_mem = '3MB'");
        assert_eq!(one.value("SELECT current_user"), "refused_role");
        proxy.client().run("SELECT 1");
        revoke("refused_role");

        let refused = one.ask("INSERT INTO t VALUES (1)");
        let error = refused.error().unwrap();
        assert_eq!((&*error.severity, refused.status()), ("ERROR", Some('I')));
        assert_eq!(error.code, "42501", "{error:?}");
        assert_eq!(
            error.message,
            "permission denied to set role \"refused_role\""
        );
        assert!(error.detail.contains("carries role"), "{error:?}");
        assert!(error.hint.contains("RESET role"), "{error:?}");

        one.send(&[query("BEGIN"), query("INSERT INTO t VALUES (2)")].concat());
        assert_eq!(one.replies(2).status(), Some('E'));
        assert_eq!(one.ask("ROLLBACK").status(), Some('I'));
        let unit = [unnamed("INSERT INTO t VALUES (3)", &[]), sync()].concat();
        assert_eq!(one.exchange(&unit).code(), "42501");
        // Neither a text that does more than reset nor one that may fail to gets through.
        for text in [
            "RESET ROLE; INSERT INTO t VALUES (4)",
            "SET ROLE NONE",
            "RESET work_mem",
        ] {
            assert_eq!(one.ask(text).code(), "42501", "{text}");
        }
        assert_eq!(proxy.client().value("SELECT current_user"), "app");

        let readies = 1 + reset.windows(5).filter(|part| *part == b"BEGIN").count() * 2;
        one.send(&reset);
        assert_eq!(one.replies(readies).errors(), []);
        assert_eq!(one.value("SELECT current_user"), "app");
        assert_eq!(one.value("SELECT count(*) FROM t"), "0");
        proxy.client().run("SELECT 1");
        one.run("INSERT INTO t VALUES (5)");
        one.run("TRUNCATE t");
    }
    assert_eq!(proxy.pooled("pinned"), 0);
    assert!(Postgres::shared().connections(&database) <= 1);
}

/// It is tried again with each unit: what has become possible again is done.
#[test]
fn what_is_taken_again_needs_no_reset() {
    role("regranted_role");
    let (_, proxy) = house(1, &[]);
    let mut one = proxy.client();
    one.run("SET ROLE regranted_role");
    proxy.client().run("SELECT 1");
    revoke("regranted_role");
    assert_eq!(one.ask("SELECT 1").code(), "42501");
    let before = connections_opened(&proxy);
    for _ in 0..20 {
        assert_eq!(one.ask("SELECT 1").code(), "42501");
    }
    assert_eq!(connections_opened(&proxy), before, "a fresh one for each");
    Postgres::shared().sql("GRANT regranted_role TO app");
    assert_eq!(one.value("SELECT current_user"), "regranted_role");
}

fn connections_opened(proxy: &Proxy) -> String {
    let metrics = proxy.metrics();
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with("weir_pool_connections_opened_total{"));
    line.unwrap().to_owned()
}

/// A unit that is too long to be kept, and a long pipeline, wait for the settings to be answered.
#[test]
fn long_units_are_not_executed_without_settings_either() {
    role("long_role");
    let (_, proxy) = house(1, &[]);
    let mut one = proxy.client();
    one.run("CREATE TABLE t (a text)");
    one.run("GRANT ALL ON t TO long_role");
    one.run("SET ROLE long_role");
    proxy.client().run("SELECT 1");
    revoke("long_role");
    let long = format!("INSERT INTO t VALUES ('{}')", "x".repeat(300_000));
    assert_eq!(one.ask(&long).code(), "42501");
    let many: Vec<u8> = (0..5_000)
        .flat_map(|n| query(&format!("INSERT INTO t VALUES ('{n} and some more of it')")))
        .collect();
    let mut writer = one.socket().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut writer, &many));
        let answer = one.replies(5_000);
        assert_eq!(answer.errors().len(), 5_000);
    });
    one.run("RESET ROLE");
    assert_eq!(one.value("SELECT count(*) FROM t"), "0");
    one.run("SET work_mem = '3MB'");
    proxy.client().run("SELECT 1");
    assert_eq!(one.ask(&long).errors(), []);
}

fn stopped(pid: &str) -> Stopped {
    let pid = pid.parse().unwrap();
    signal(pid, "STOP");
    Stopped(pid)
}

/// A process that stands still until dropped.
struct Stopped(u32);

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, "CONT");
    }
}

/// Settings that are awaited from a server that hangs: another is asked.
#[test]
fn a_server_that_hangs_while_it_is_given_settings_is_left() {
    role("hanging_role");
    let (_, proxy) = house(2, &[("WEIR__POOL__RESET_TIMEOUT", "300ms")]);
    let mut one = proxy.client();
    one.run("SET ROLE hanging_role");
    // Another gets its server only once that has been asked what the role has made of the session.
    eventually("let go", || proxy.pooled("leased"), |n| *n == 0);
    proxy.client().run("SELECT 1");
    revoke("hanging_role");
    // From here on it is awaited.
    assert_eq!(one.ask("SELECT 1").code(), "42501");
    Postgres::shared().sql("GRANT hanging_role TO app");
    let backend = proxy.client().value("SELECT pg_backend_pid()");
    let _stopped = stopped(&backend);
    assert_eq!(one.value("SELECT current_user"), "hanging_role");
    assert_ne!(one.value("SELECT pg_backend_pid()"), backend);
}

/// What the session has left behind can't be known of a server that does not say: the client is told.
#[test]
fn a_server_that_does_not_answer_our_question_ends_the_session_and_frees_the_slot() {
    let postgres = Postgres::shared();
    let (database, proxy) = house(1, &[("WEIR__POOL__RESET_TIMEOUT", "300ms")]);
    let mut one = proxy.client();
    one.run("SELECT 1");
    let mut locker = postgres.superuser().database(&database).connect();
    locker.run("BEGIN");
    locker.run("LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE");
    // The question behind it looks there for temporary objects.
    one.run("DO $$BEGIN NULL; END$$");
    let words = one.last_words();
    let error = words.error().unwrap();
    assert_eq!((&*error.code, &*error.severity), ("08006", "FATAL"));
    assert!(error.detail.contains("reset_timeout"), "{error:?}");
    let mut other: Client = proxy.client();
    assert_eq!(other.value("SELECT 'free'"), "free");
    locker.run("ROLLBACK");
    eventually("closed", || postgres.connections(&database), |n| *n <= 2);
}

/// A login has its settings tried: by a server that answers.
#[test]
fn a_server_that_hangs_does_not_hang_a_login() {
    let (_, proxy) = house(2, &[("WEIR__POOL__RESET_TIMEOUT", "300ms")]);
    let backend = proxy.client().value("SELECT pg_backend_pid()");
    let _stopped = stopped(&backend);
    let login = proxy.login().with("options", "-c work_mem=3MB");
    // Another server is asked in its place: who logs in notices nothing but the wait.
    let mut client = login.connect();
    assert_eq!(client.value("SHOW work_mem"), "3MB");
    assert_ne!(client.value("SELECT pg_backend_pid()"), backend);
    assert_eq!(login.connect().value("SHOW work_mem"), "3MB");
}

/// The connection that listens for all is replaced when it does not take a new channel; who may have missed something
/// is told.
#[test]
fn a_listener_that_hangs_is_replaced() {
    // One worker, one listener.
    let settings = [
        ("WEIR__POOL__RESET_TIMEOUT", "300ms"),
        ("WEIR_WORKERS", "1"),
    ];
    let (database, proxy) = house(4, &settings);
    let mut one = proxy.client();
    one.run("LISTEN here");
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND query = 'LISTEN \"here\";'"
    );
    let listener = eventually(
        "did it move",
        || (Postgres::shared().sql(&sql), proxy.pooled("pinned")),
        |(listener, pinned)| listener.len() == 1 && *pinned == 0,
    );
    let _stopped: Vec<Stopped> = listener.0.iter().map(|pid| stopped(pid)).collect();
    let mut two = proxy.client();
    two.send(&query("LISTEN there"));
    assert_eq!(one.last_words().code(), "57P01");
    let mut three = proxy.client();
    eventually(
        "does another listen",
        || three.ask("LISTEN anew").errors(),
        Vec::is_empty,
    );
    three.run("NOTIFY anew");
    assert_eq!(three.value("SELECT 'lives'"), "lives");
}
