//! Carried: what RDS Proxy pins a session for, and what Weir does with it: two clients take turns on one connection.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::house::wire::*;
use crate::house::{Client, Postgres, Proxy, count, eventually};

fn over(connections: usize) -> Proxy {
    let postgres = Postgres::shared();
    Proxy::before(postgres, &postgres.database(), connections)
        .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "10s")
        .start()
}

/// One does something, the other must get the only connection all the same and see nothing of it, and the one must find
/// what it did.
struct Turn<'a> {
    does: &'a str,
    looks: &'a str,
    finds: &'a str,
    /// What the other finds.
    other: &'a str,
}

const fn turn<'a>(does: &'a str, looks: &'a str, finds: &'a str, other: &'a str) -> Turn<'a> {
    Turn {
        does,
        looks,
        finds,
        other,
    }
}

#[test]
fn settings_are_carried_and_nobody_is_pinned() {
    let postgres = Postgres::shared();
    postgres.sql(
        "DROP ROLE IF EXISTS carried_role; CREATE ROLE carried_role; GRANT carried_role TO app",
    );
    let turns = [
        turn("SET work_mem = '3MB'", "SHOW work_mem", "3MB", "4MB"),
        turn(
            "SET SESSION work_mem TO 3072",
            "SHOW work_mem",
            "3MB",
            "4MB",
        ),
        turn("RESET work_mem", "SHOW work_mem", "4MB", "4MB"),
        turn(
            "SELECT set_config('work_mem', '5MB', false)",
            "SHOW work_mem",
            "5MB",
            "4MB",
        ),
        turn(
            "SELECT set_config('work_mem', '6MB', true)",
            "SHOW work_mem",
            "5MB",
            "4MB",
        ),
        turn("SET LOCAL work_mem = '7MB'", "SHOW work_mem", "5MB", "4MB"),
        turn(
            "BEGIN; SET work_mem = '7MB'; ROLLBACK",
            "SHOW work_mem",
            "5MB",
            "4MB",
        ),
        turn(
            "BEGIN; SAVEPOINT a; SET work_mem = '7MB'; ROLLBACK TO a; COMMIT",
            "SHOW work_mem",
            "5MB",
            "4MB",
        ),
        turn(
            "BEGIN; SET work_mem = '7MB'; COMMIT",
            "SHOW work_mem",
            "7MB",
            "4MB",
        ),
        turn(
            "DO $$BEGIN PERFORM set_config('work_mem', '8MB', false); END$$",
            "SHOW work_mem",
            "8MB",
            "4MB",
        ),
        turn("RESET ALL", "SHOW work_mem", "4MB", "4MB"),
        turn(
            "SET search_path = pg_catalog, public",
            "SHOW search_path",
            "pg_catalog, public",
            "\"$user\", public",
        ),
        turn(
            "SET search_path TO ''",
            "SHOW search_path",
            "\"\"",
            "\"$user\", public",
        ),
        turn(
            "SET SCHEMA 'pg_catalog'",
            "SHOW search_path",
            "pg_catalog",
            "\"$user\", public",
        ),
        turn(
            "SET TIME ZONE 'Asia/Tokyo'",
            "SHOW TimeZone",
            "Asia/Tokyo",
            "Etc/UTC",
        ),
        turn(
            "SET TIME ZONE INTERVAL '+03:00' HOUR TO MINUTE",
            "SHOW TimeZone",
            "<+03>-03",
            "Etc/UTC",
        ),
        turn(
            "SET NAMES 'LATIN1'",
            "SHOW client_encoding",
            "LATIN1",
            "UTF8",
        ),
        turn(
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SHOW default_transaction_isolation",
            "serializable",
            "read committed",
        ),
        turn(
            "SET app.tenant = 'it''s \\ é'",
            "SELECT current_setting('app.tenant')",
            "it's \\ é",
            "",
        ),
        turn(
            "SET application_name = 'one'",
            "SHOW application_name",
            "one",
            "",
        ),
        turn(
            "SET DateStyle = German",
            "SELECT date '2000-12-31'",
            "31.12.2000",
            "2000-12-31",
        ),
        turn(
            "SET ROLE carried_role",
            "SELECT current_user",
            "carried_role",
            "app",
        ),
        turn("RESET ROLE", "SELECT current_user", "app", "app"),
        turn("DISCARD ALL", "SHOW DateStyle", "ISO, MDY", "ISO, MDY"),
    ];
    let proxy = over(1);
    let (mut one, mut other) = (proxy.client(), proxy.client());
    other.run("SELECT set_config('app.tenant', '', false)");
    other.run("SET TimeZone = 'Etc/UTC'");
    for Turn {
        does,
        looks,
        finds,
        other: others,
    } in turns
    {
        let statements: Vec<&str> = match does.starts_with("BEGIN; ") {
            true => does.split("; ").collect(),
            false => vec![does],
        };
        for statement in statements {
            assert_eq!(one.ask(statement).errors(), [], "{does}");
        }
        assert_eq!(other.value(looks), others, "the other, after {does}");
        if does.contains("LATIN1") {
            assert_eq!(one.value(looks), finds, "{does}");
            one.run("RESET client_encoding");
        } else {
            assert_eq!(one.value(looks), finds, "{does}");
        }
        assert_eq!(other.value(looks), others, "the other, after {does}");
    }
    no_pins(&proxy);
}

/// They are listed nowhere: their names are looked for in the text, in its strings too.
#[test]
fn custom_settings_that_a_texts_strings_set() {
    let proxy = over(1);
    let (mut one, mut other) = (proxy.client(), proxy.client());
    let texts = [
        "DO $$BEGIN SET mine.a = 'x'; END$$",
        "DO $$BEGIN IF true THEN SET SESSION mine.a TO x; END IF; END$$",
        "DO $$BEGIN PERFORM set_config('mine.a', 'x', false); END$$",
        "DO 'BEGIN EXECUTE ''SET mine.a = x''; END'",
        "SELECT query_to_xml('SELECT set_config(''mine.a'', ''x'', false)', true, true, '')",
        "SELECT U&\"set_confi\\0067\"('mine.a', 'x', false)",
    ];
    for (number, text) in texts.iter().enumerate() {
        let name = format!("mine.a{number}");
        let looks = format!("SELECT coalesce(current_setting('{name}', true), '')");
        let ran = one.ask(&text.replace("mine.a", &name));
        assert_eq!(ran.errors(), [], "{text}");
        for _ in 0..2 {
            assert_eq!(other.value(&looks), "", "{text}");
            assert_eq!(one.value(&looks), "x", "{text}");
        }
    }
    no_pins(&proxy);
}

fn no_pins(proxy: &Proxy) {
    assert_eq!(proxy.pooled("pinned"), 0);
    let metrics = proxy.metrics();
    let pins: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("weir_pool_pins_total"))
        .collect();
    assert!(pins.is_empty(), "{pins:?}");
}

/// What came with the startup packet is what RESET goes back to, and what a pool's reset query leaves.
#[test]
fn reset_means_what_the_client_came_with() {
    let proxy = over(1);
    let login = proxy
        .login()
        .with("options", "-c work_mem=2MB -c app.mine=x");
    let (mut one, mut other) = (login.connect(), proxy.client());
    for reset in [
        "RESET work_mem",
        "SET work_mem TO DEFAULT",
        "RESET ALL",
        "DISCARD ALL",
        "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
        "DO $$BEGIN EXECUTE 'RESET work_mem'; END$$",
    ] {
        one.run("SET work_mem = '3MB'");
        assert_eq!(one.value("SHOW work_mem"), "3MB");
        assert_eq!(other.value("SHOW work_mem"), "4MB");
        one.run(reset);
        assert_eq!(one.value("SHOW work_mem"), "2MB", "{reset}");
        assert_eq!(one.value("SHOW app.mine"), "x", "{reset}");
        assert_eq!(other.value("SHOW work_mem"), "4MB");
    }
    no_pins(&proxy);
}

/// A text of any length is no reason (RDS Proxy pins from 16 KiB on).
#[test]
fn long_texts_do_not_pin() {
    let proxy = over(1);
    let (mut one, mut other) = (proxy.client(), proxy.client());
    let long = format!("SELECT length('{}')", "x".repeat(100_000));
    assert_eq!(one.value(&long), "100000");
    let answer = one.exchange(&[unnamed(&long, &[]), sync()].concat());
    assert_eq!(answer.column(), ["100000"]);
    assert_eq!(other.value("SELECT 1"), "1");
}

/// What must stay with the connection stays as long as it is there, and no longer; the connection is used again.
#[test]
fn pins_last_as_long_as_their_reason() {
    let cases = [
        (
            "SELECT pg_advisory_lock(11)",
            "SELECT pg_advisory_unlock(11)",
        ),
        ("CREATE TEMP TABLE pinned (a int)", "DROP TABLE pinned"),
        ("SELECT 1 AS a INTO TEMP pinned", "DROP TABLE pinned"),
        ("CREATE TEMP VIEW pinned AS SELECT 1", "DROP VIEW pinned"),
        ("CREATE TEMP SEQUENCE pinned", "DROP SEQUENCE pinned"),
        ("DECLARE held CURSOR WITH HOLD FOR SELECT 1", "CLOSE held"),
        ("PREPARE pinned AS SELECT 1", "DEALLOCATE pinned"),
        ("CREATE TEMP TABLE pinned (a int)", "DISCARD TEMP"),
        ("CREATE TEMP TABLE pinned (a int)", "DISCARD ALL"),
        (
            "DO $$BEGIN PERFORM pg_advisory_lock(12); END$$",
            "SELECT pg_advisory_unlock_all()",
        ),
    ];
    let proxy = over(1);
    let mut one = proxy.client();
    let server = one.value("SELECT pg_backend_pid()");
    for (does, frees) in cases {
        one.run(does);
        eventually("pinned", || proxy.pooled("pinned"), |pinned| *pinned == 1);
        one.run(frees);
        let mut other = proxy.client();
        assert_eq!(other.value("SELECT pg_backend_pid()"), server, "{does}");
        assert_eq!(proxy.pooled("pinned"), 0, "{does}");
    }
}

/// What is gone by the end of its transaction never pins.
#[test]
fn what_ends_with_its_transaction_does_not_pin() {
    let proxy = over(1);
    let (mut one, mut other) = (proxy.client(), proxy.client());
    for transaction in [
        &[
            "BEGIN",
            "CREATE TEMP TABLE t (a int) ON COMMIT DROP",
            "COMMIT",
        ][..],
        &["BEGIN", "CREATE TEMP TABLE t (a int)", "ROLLBACK"],
        &[
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT 1",
            "FETCH c",
            "COMMIT",
        ],
        &[
            "BEGIN",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "ROLLBACK",
        ],
        &["SELECT pg_advisory_xact_lock(5)"],
        &["BEGIN", "LISTEN a", "ROLLBACK"],
        &["LISTEN a; UNLISTEN a"],
        &[
            "CREATE SEQUENCE IF NOT EXISTS s",
            "SELECT nextval('s')",
            "SELECT setval('s', 9)",
        ],
        &["DO $$BEGIN NULL; END$$"],
    ] {
        for statement in transaction {
            assert_eq!(one.ask(statement).errors(), [], "{statement}");
        }
        assert_eq!(other.value("SELECT 1"), "1", "{transaction:?}");
    }
    no_pins(&proxy);
}

/// A pinned session whose reason goes away by itself is found out, without a statement that says so.
#[test]
fn a_pin_is_looked_after_unprompted() {
    let proxy = over(1);
    let mut one = proxy.client();
    one.run(
        "CREATE FUNCTION tidy() RETURNS void LANGUAGE sql AS 'DROP TABLE IF EXISTS pg_temp.pinned'",
    );
    one.run("CREATE TEMP TABLE pinned (a int)");
    eventually("pinned", || proxy.pooled("pinned"), |pinned| *pinned == 1);
    one.run("SELECT tidy()");
    std::thread::sleep(Duration::from_millis(1100));
    one.run("SELECT 1");
    // It is asked once the client has its answer.
    eventually(
        "free again",
        || proxy.pooled("pinned"),
        |pinned| *pinned == 0,
    );
}

/// What a function, a trigger, a view or a default does unseen is seen: they are looked for in the catalogue.
#[test]
fn state_hidden_in_functions_is_found() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    postgres.sql_in(
        &database,
        "CREATE FUNCTION sets_tenant(t text) RETURNS void LANGUAGE plpgsql AS \
           $$BEGIN PERFORM set_config('work_mem', t, false); END$$; \
         CREATE FUNCTION locks() RETURNS trigger LANGUAGE plpgsql AS \
           $$BEGIN PERFORM pg_advisory_lock(77); RETURN NEW; END$$; \
         CREATE TABLE watched (a int); \
         CREATE TRIGGER w BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION locks(); \
         CREATE VIEW tenant_view AS SELECT sets_tenant('7MB')::text; \
         CREATE FUNCTION calls() RETURNS void LANGUAGE sql AS 'SELECT sets_tenant(''9MB'')'; \
         CREATE FUNCTION atomic() RETURNS text LANGUAGE sql BEGIN ATOMIC \
           SELECT set_config('work_mem', '10MB', false); END; \
         CREATE TABLE with_default (a int, b text DEFAULT set_config('work_mem', '11MB', false)); \
         CREATE VIEW plain_view AS SELECT set_config('work_mem', '12MB', false); \
         GRANT ALL ON watched, tenant_view, with_default, plain_view TO app",
    );
    let proxy = Proxy::before(postgres, &database, 1)
        .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "10s")
        .start();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    one.run("SELECT sets_tenant('6MB')");
    assert_eq!(other.value("SHOW work_mem"), "4MB");
    assert_eq!(one.value("SHOW work_mem"), "6MB");
    one.run("SELECT * FROM tenant_view");
    assert_eq!(other.value("SHOW work_mem"), "4MB");
    assert_eq!(one.value("SHOW work_mem"), "7MB");
    let named = [parse("s", "SELECT sets_tenant('8MB')"), sync()].concat();
    assert_eq!(one.exchange(&named).errors(), []);
    assert_eq!(other.value("SHOW work_mem"), "4MB");
    let runs = [bind("", "s", &[]), execute("", 0), sync()].concat();
    assert_eq!(one.exchange(&runs).errors(), []);
    assert_eq!(other.value("SHOW work_mem"), "4MB");
    assert_eq!(one.value("SHOW work_mem"), "8MB");
    for (does, finds) in [
        ("SELECT calls()", "9MB"),
        ("SELECT atomic()", "10MB"),
        ("INSERT INTO with_default (a) VALUES (1)", "11MB"),
        ("SELECT * FROM plain_view", "12MB"),
    ] {
        one.run(does);
        assert_eq!(other.value("SHOW work_mem"), "4MB", "{does}");
        assert_eq!(one.value("SHOW work_mem"), finds, "{does}");
    }
    no_pins(&proxy);
    one.run("INSERT INTO watched VALUES (1)");
    eventually("pinned", || proxy.pooled("pinned"), |pinned| *pinned == 1);
    one.run("SELECT pg_advisory_unlock(77)");
    assert_eq!(other.value("SELECT 1"), "1");
}

/// What one has set for its own transactions neither cuts another's short nor makes it wait.
#[test]
fn hasty_settings_harm_nobody_else() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let proxy = Proxy::before(postgres, &database, 1)
        .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "10s")
        .start();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    other.run("SET app.large = 'x'");
    let mut outside = postgres.client(&database);
    outside.run("CREATE TABLE t (a int)");
    outside.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    outside.run("INSERT INTO t VALUES (1)");
    one.run("SET default_transaction_deferrable = on");
    one.run("SET default_transaction_read_only = on");
    one.run("SET default_transaction_isolation = 'serializable'");
    // It would wait for a safe snapshot, and so would any query of ours under its settings.
    assert_eq!(other.value("SELECT 1"), "1");
    assert_eq!(other.value("SHOW default_transaction_deferrable"), "off");
    outside.run("COMMIT");
    assert_eq!(one.value("SHOW default_transaction_deferrable"), "on");
    one.run("RESET ALL");

    one.run("SET statement_timeout = 1");
    for _ in 0..50 {
        assert_eq!(other.value("SELECT current_setting('app.large')"), "x");
        one.ask("SELECT 1");
    }
    one.run("RESET ALL");
    one.run("SET idle_session_timeout = '20ms'");
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(other.value("SHOW idle_session_timeout"), "0");
    }
    no_pins(&proxy);
}

/// nextval does not pin; who needs its value in later transactions can have it.
#[test]
fn sequences_pin_only_where_that_is_wanted() {
    let postgres = Postgres::shared();
    let setup = Proxy::before(postgres, &postgres.database(), 1);
    let (free, pinning) = (
        setup.clone().start(),
        setup.set("WEIR__SESSION__PIN_SEQUENCES", "true").start(),
    );
    let mut one = free.client();
    one.run("CREATE SEQUENCE s");
    let mut other = free.client();
    assert_eq!(one.value("SELECT nextval('s')"), "1");
    assert_eq!(other.value("SELECT nextval('s')"), "2");
    // Never another's value: none, that is, but in the transaction itself.
    assert_eq!(one.ask("SELECT currval('s')").code(), "55000");
    assert_eq!(one.ask("SELECT lastval()").code(), "55000");
    assert_eq!(
        one.ask("SELECT nextval('s'); SELECT lastval()").column(),
        ["3", "3"]
    );
    no_pins(&free);
    drop((one, other));

    let mut one = pinning.client();
    assert_eq!(one.value("SELECT nextval('s')"), "4");
    assert_eq!(one.value("SELECT currval('s')"), "4");
    assert_eq!(pinning.pooled("pinned"), 1);
    one.run("DISCARD ALL");
    assert_eq!(pinning.client().value("SELECT nextval('s')"), "5");
}

/// Many clients, many combinations, few servers: each finds all of its settings in every transaction; for a minute, in
/// full.
#[test]
fn many_combinations_over_few_servers() {
    const SERVERS: usize = 5;
    let proxy = over(SERVERS);
    let (clients, rounds) = (count(40, 200), count(30, usize::MAX));
    let together = Barrier::new(clients);
    let end = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        for number in 0..clients {
            let (proxy, together) = (&proxy, &together);
            scope.spawn(move || {
                let mut client = proxy.client();
                together.wait();
                let combination = number % 50;
                let expected = set_up(&mut client, combination);
                for round in (0..rounds).take_while(|_| Instant::now() < end) {
                    let found = client.value(COMBINATION);
                    assert_eq!(found, expected, "client {number}, round {round}");
                    if round % 10 == 9 {
                        client.run(&format!("SET work_mem = '{}kB'", 1024 + combination));
                    }
                }
            });
        }
    });
    no_pins(&proxy);
}

const COMBINATION: &str = "SELECT concat_ws('|', current_setting('work_mem'), current_setting('search_path'), current_setting('TimeZone'), \
    current_setting('app.number', true), current_setting('statement_timeout'), current_setting('application_name'))";

fn set_up(client: &mut Client, number: usize) -> String {
    let zone = ["UTC", "Asia/Tokyo", "Europe/Berlin"][number % 3];
    client.run(&format!("SET work_mem = '{}kB'", 1024 + number));
    client.run(&format!("SET search_path = s{number}, public"));
    client.run(&format!("SET TIME ZONE '{zone}'"));
    client.run(&format!(
        "SELECT set_config('app.number', 'n{number}', false)"
    ));
    client.run(&format!("SET statement_timeout = {}", 60_001 + number));
    client.run(&format!("SET application_name = 'client {number}'"));
    let work_mem = 1024 + number;
    let shown = match work_mem % 1024 {
        0 => format!("{}MB", work_mem / 1024),
        _ => format!("{work_mem}kB"),
    };
    format!(
        "{shown}|s{number}, public|{zone}|n{number}|{}ms|client {number}",
        60_001 + number
    )
}
