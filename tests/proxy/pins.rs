//! Explained: what pins a session, since when, and what to do about it; in the log, over HTTP, in figures, and to the client.

use serde_json::Value;

use crate::house::proxy::Setup;
use crate::house::wire::*;
use crate::house::{Client, Postgres, Proxy, eventually};

fn setup(cap: usize) -> Setup {
    let postgres = Postgres::shared();
    // LISTEN pins here as it does where it can not be shared: a reason that is as easily made as undone.
    Proxy::before(postgres, &postgres.database(), cap).set("WEIR__SESSION__LISTEN", "pin")
}

fn pins(proxy: &Proxy) -> Value {
    proxy.get("/pins").unwrap().json()
}

/// Waits until so many pins hold: what pins a session is known only after its transaction.
fn pinned(proxy: &Proxy, count: usize) -> Value {
    eventually(
        "were so many pinned",
        || pins(proxy),
        |page| page["total"] == count,
    )
}

fn logged(proxy: &Proxy, words: &[&str]) -> String {
    let line = |log: &str| {
        let mut lines = log.lines();
        let found = lines.find(|line| words.iter().all(|word| line.contains(word)));
        found.map(str::to_owned)
    };
    let log = eventually(
        &format!("was {words:?} logged"),
        || proxy.log(),
        |log| line(log).is_some(),
    );
    line(&log).unwrap()
}

#[test]
fn a_pin_is_told_while_it_holds_and_counted_afterwards() {
    let proxy = setup(2).set("WEIR_LOG_FORMAT", "json").start();
    let page = proxy.get("/pins").unwrap();
    assert_eq!(
        page.body.trim(),
        r#"{"pins":[],"total":0,"reasons":[],"digests":[]}"#
    );
    let login = proxy.login().with("application_name", "the reports");
    let mut client = login.connect();
    let address = client.socket().local_addr().unwrap().to_string();
    let backend = client.value("SELECT pg_backend_pid()");
    client.run("CREATE TEMP TABLE /* why */ \"Mine\" AS SELECT 'secret' AS a, 4711 AS b");
    let page = pinned(&proxy, 1);
    let pin = &page["pins"][0];
    let digest = "CREATE TEMP TABLE \"Mine\" AS SELECT ? AS a, ? AS b";
    for (name, expected) in [
        ("pid", Value::from(client.pid)),
        ("server_pid", Value::from(backend.parse::<i32>().unwrap())),
        ("reason", "temporary_object".into()),
        ("digest", digest.into()),
        ("client", address.clone().into()),
        ("application_name", "the reports".into()),
        ("database", login.database.clone().into()),
        ("user", "app".into()),
    ] {
        assert_eq!(pin[name], expected, "{name} of {pin}");
    }
    assert!(pin["seconds"].as_f64().is_some_and(|s| s < 30.0), "{pin}");
    let line = logged(&proxy, &["session pinned"]);
    for word in [
        "temporary_object",
        "the reports",
        &address,
        "CREATE TEMP TABLE",
    ] {
        assert!(line.contains(word), "{word} in {line}");
    }

    client.run("DROP TABLE \"Mine\"");
    let page = pinned(&proxy, 0);
    assert_eq!(page["reasons"][0]["reason"], "temporary_object");
    assert_eq!(page["reasons"][0]["count"], 1);
    assert_eq!(page["digests"][0]["digest"], digest);
    let line = logged(&proxy, &["session no longer pinned", "lifted"]);
    assert!(line.contains("temporary_object"), "{line}");
    assert_eq!(proxy.pooled("pinned"), 0);
    let metrics = proxy.metrics();
    let counted = |name: &str| {
        let mut lines = metrics.lines();
        lines.any(|line| {
            line.starts_with(name)
                && line.contains("reason=\"temporary_object\"")
                && line.ends_with(" 1")
        })
    };
    assert!(counted("weir_pool_pins_total{"), "{metrics}");
    assert!(counted("weir_pool_pin_seconds_count{"), "{metrics}");
    assert!(!proxy.log().contains("secret") && !proxy.log().contains("4711"));
}

#[test]
fn a_pin_ends_by_discard_and_with_its_session() {
    let proxy = setup(3).start();
    let mut one = proxy.client();
    one.run("LISTEN a");
    pinned(&proxy, 1);
    one.run("DISCARD ALL");
    pinned(&proxy, 0);
    logged(&proxy, &["session no longer pinned", "discarded"]);

    let mut two = proxy.client();
    let lock = unnamed("SELECT pg_advisory_lock($1::int)", &[Some("5")]);
    two.exchange(&[lock, sync()].concat());
    let mut three = proxy.client();
    three.run("PREPARE p AS SELECT 1");
    let page = pinned(&proxy, 2);
    // The longest first.
    assert_eq!(page["pins"][0]["reason"], "advisory_lock", "{page}");
    assert_eq!(
        page["pins"][0]["digest"], "SELECT pg_advisory_lock(?::int)",
        "{page}"
    );
    assert_eq!(page["pins"][1]["digest"], "PREPARE p AS SELECT ?");
    two.leave();
    three.vanish();
    pinned(&proxy, 0);
    logged(&proxy, &["advisory_lock", "session ended"]);
    logged(&proxy, &["sql_prepare", "session ended"]);
}

#[test]
fn a_statement_that_streams_is_to_blame_too() {
    let proxy = setup(1)
        .set("WEIR__SESSION__MAX_UNIT_BYTES", "8KiB")
        .start();
    let mut client = proxy.client();
    let long = format!("LISTEN a; SELECT '{}'", "secret ".repeat(20_000));
    client.run(&long);
    let page = pinned(&proxy, 1);
    assert_eq!(page["pins"][0]["reason"], "listen", "{page}");
    assert_eq!(page["pins"][0]["digest"], "LISTEN a; SELECT…", "{page}");
}

#[test]
fn a_statement_prepared_long_before_is_to_blame_when_it_is_executed() {
    let proxy = setup(1).start();
    let mut client = proxy.client();
    let make = parse("make", "CREATE TEMP TABLE mine AS SELECT 'secret' AS a");
    client.exchange(&[make, sync()].concat());
    client.run("SET work_mem = '5MB'");
    assert_eq!(pins(&proxy)["total"], 0);
    let go = [bind("", "make", &[]), execute("", 0), sync()].concat();
    assert_eq!(client.exchange(&go).error(), None);
    let page = pinned(&proxy, 1);
    assert_eq!(page["pins"][0]["reason"], "temporary_object", "{page}");
    assert_eq!(
        page["pins"][0]["digest"],
        "CREATE TEMP TABLE mine AS SELECT ? AS a"
    );
}

#[test]
fn what_a_routine_does_unseen_is_explained_too() {
    let proxy = setup(1).start();
    let mut client = proxy.client();
    client.run("DO $$BEGIN PERFORM pg_advisory_lock(4711); END$$");
    let page = pinned(&proxy, 1);
    assert_eq!(page["pins"][0]["reason"], "advisory_lock", "{page}");
    assert_eq!(page["pins"][0]["digest"], "DO ?", "{page}");
}

fn notices(client: &mut Client, sql: &str) -> Vec<(String, usize)> {
    let answer = client.ask(sql);
    let frames = answer.frames.iter().enumerate();
    frames
        .filter(|(_, frame)| frame.tag == b'N')
        .map(|(at, frame)| {
            let part = |code| frame.field(code).unwrap_or_default();
            assert_eq!((part(b'V'), part(b'C')), ("NOTICE".into(), "00000".into()));
            let text = format!("{} / {} / {}", part(b'M'), part(b'D'), part(b'H'));
            (text, answer.frames.len() - at)
        })
        .collect()
}

#[test]
fn a_client_is_told_if_that_is_wanted() {
    let proxy = setup(2)
        .set("WEIR__SESSION__PIN_NOTICE", "true")
        .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "20s")
        .start();
    let mut client = proxy.client();
    client.run("LISTEN a");
    pinned(&proxy, 1);
    let told = notices(&mut client, "SELECT 1");
    assert_eq!(told.len(), 1, "{told:?}");
    let (text, from_end) = &told[0];
    // Ahead of ReadyForQuery.
    assert_eq!(*from_end, 2);
    assert!(
        text.starts_with("session is pinned to a database connection: listen / LISTEN a / "),
        "{text}"
    );
    assert!(text.contains("UNLISTEN"), "{text}");
    assert_eq!(notices(&mut client, "SELECT 1"), []);

    // What pins at once is told with the same statement.
    let told = notices(&mut client, "SELECT setseed(0.5)");
    assert!(
        told.len() == 1 && told[0].0.contains("setseed(?)"),
        "{told:?}"
    );

    let mut quiet = proxy
        .login()
        .with("client_min_messages", "warning")
        .connect();
    quiet.run("LISTEN a");
    pinned(&proxy, 3);
    assert_eq!(notices(&mut quiet, "SELECT 1"), []);
}

#[test]
fn nobody_is_told_by_default() {
    let proxy = setup(1).start();
    let mut client = proxy.client();
    client.run("LISTEN a");
    pinned(&proxy, 1);
    assert_eq!(notices(&mut client, "SELECT 1"), []);
}

#[test]
fn what_is_filtered_does_not_pin() {
    let proxy = setup(1)
        .set(
            "WEIR__SESSION__SESSION_PINNING_FILTERS",
            "temporary_object, listen",
        )
        .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "20s")
        .start();
    let mut one = proxy.client();
    one.run("CREATE TEMP TABLE mine (a int)");
    let mut two = proxy.client();
    // As the README says: it is there for whoever comes next.
    assert_eq!(two.value("SELECT count(*) FROM mine"), "0");
    assert_eq!(pins(&proxy)["total"], 0);
    // Everything else pins as ever.
    two.run("SELECT pg_advisory_lock(1)");
    pinned(&proxy, 1);
    two.run("SELECT pg_advisory_unlock(1)");
    pinned(&proxy, 0);
    one.run("SELECT 1");
}

#[test]
fn filters_that_can_not_be_are_refused_at_start() {
    for word in [
        "load",
        "not_understood",
        "named_statement",
        "EXCLUDE_VARIABLE_SETS",
    ] {
        let setup = setup(1).set("WEIR__SESSION__SESSION_PINNING_FILTERS", word);
        let output = setup.command().arg("check").output().unwrap();
        assert!(!output.status.success(), "{word}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        for part in ["session.session_pinning_filters", word, "temporary_object"] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}

#[test]
fn beyond_the_limit_a_session_is_closed_and_the_others_live() {
    let proxy = setup(4)
        .set("WEIR__POOL__PIN_LIMIT", "1")
        .set("WEIR_LOG_FORMAT", "json")
        .start();
    let mut first = proxy.client();
    first.run("LISTEN a");
    pinned(&proxy, 1);
    let mut free = proxy.client();
    let mut second = proxy.client();
    // It gets its answer, and then the end.
    second.send(&query("CREATE TEMP TABLE mine AS SELECT 'secret' AS a"));
    let last = second.last_words();
    assert_eq!(last.completed(), ["SELECT 1"]);
    let error = last.error().unwrap();
    assert_eq!((&*error.severity, &*error.code), ("FATAL", "53400"));
    for part in [
        "1 sessions",
        "pool.pin_limit",
        "temporary_object",
        "SELECT ? AS a",
    ] {
        assert!(error.detail.contains(part), "{part} in {error:?}");
    }
    assert!(error.hint.contains("ON COMMIT DROP"), "{error:?}");
    // A second reason for one that is pinned already takes no place.
    first.run("CREATE TEMP TABLE mine (a int)");
    pinned(&proxy, 2);
    first.run("SELECT 1");

    // What pins at once: not before the transaction has ended.
    let mut third = proxy.client();
    third.run("BEGIN");
    third.run("SELECT setseed(0.5)");
    third.run("SELECT 1");
    third.send(&query("COMMIT"));
    let last = third.last_words();
    assert_eq!(last.completed(), ["COMMIT"]);
    assert_eq!(last.code(), "53400");
    let line = logged(&proxy, &["pool.pin_limit", "setseed"]);
    assert!(line.contains("WARN"), "{line}");

    free.run("SELECT 1");
    assert_eq!(pins(&proxy)["total"], 2);
    assert_eq!(proxy.pooled("pinned"), 1);
    let metrics = proxy.metrics();
    let refused = metrics
        .lines()
        .filter(|line| line.starts_with("weir_pool_pins_refused_total{") && line.ends_with(" 1"));
    assert_eq!(refused.count(), 2, "{metrics}");

    // The place is free again, and the connections of those who went are clean.
    first.leave();
    pinned(&proxy, 0);
    for _ in 0..4 {
        assert_eq!(
            free.value("SELECT to_regclass('pg_temp.mine') IS NULL"),
            "t"
        );
    }
    free.run("LISTEN a");
    pinned(&proxy, 1);
}

#[test]
fn many_sessions_pin_and_leave_at_once_and_nothing_is_left_on_the_board() {
    let proxy = setup(8).set("WEIR_WORKERS", "2").start();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let proxy = &proxy;
            scope.spawn(move || {
                for round in 0..10 {
                    let mut client = proxy.client();
                    client.run(&format!("LISTEN c{n}"));
                    client.run(&format!("PREPARE p{round} AS SELECT {round}"));
                    if round % 2 == 0 {
                        client.leave();
                    } else {
                        client.vanish();
                    }
                }
            });
        }
    });
    let page = pinned(&proxy, 0);
    assert_eq!(page["pins"], Value::Array(Vec::new()));
    assert!(page["digests"].as_array().unwrap().len() <= 100);
    eventually("was nobody pinned", || proxy.pooled("pinned"), |&n| n == 0);
}

/// A function called by number shows no name of what it sets: the session is pinned, and what it has set carried once it
/// is free.
#[test]
fn a_setting_made_by_function_call_stays_and_is_carried() {
    let proxy = setup(2).start();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    let set_config = 2078;
    assert_eq!(
        one.exchange(&function_call(set_config, &["app.unseen", "mine", "f"]))
            .errors(),
        []
    );
    let page = pinned(&proxy, 1);
    assert_eq!(page["pins"][0]["reason"], "setting");
    let unseen = "SELECT coalesce(current_setting('app.unseen', true), '')";
    assert_eq!(other.value(unseen), "");
    assert_eq!(one.value(unseen), "mine");
    let work_mem = function_call(set_config, &["work_mem", "5MB", "f"]);
    assert_eq!(one.exchange(&work_mem).errors(), []);
    assert_eq!(other.value("SHOW work_mem"), "4MB");
    assert_eq!(one.value("SHOW work_mem"), "5MB");
    // It need not be set to be set: rolled back, it is what it was.
    one.run("BEGIN");
    let rolled_back = function_call(set_config, &["work_mem", "6MB", "f"]);
    assert_eq!(one.exchange(&rolled_back).errors(), []);
    one.run("ROLLBACK");
    assert_eq!(one.value("SHOW work_mem"), "5MB");
    one.run("RESET ALL");
    pinned(&proxy, 0);
    assert_eq!(one.value("SHOW work_mem"), "4MB");
    assert_eq!(one.value(unseen), "");
}

/// A connection that has used temporary tables takes no other value: it can't be given to one that has.
#[test]
fn temp_buffers_pins() {
    let proxy = setup(1).start();
    let mut one = proxy.client();
    one.run("CREATE TEMP TABLE used (a int)");
    one.run("INSERT INTO used VALUES (1)");
    one.run("DROP TABLE used");
    pinned(&proxy, 0);
    // This server has used its temporary buffers, and says no by itself.
    assert_eq!(one.ask("SET temp_buffers = '9MB'").code(), "22023");
    // Behind it comes the answer to what it has left: nothing.
    assert_eq!(one.value("SHOW temp_buffers"), "8MB");
    assert_eq!(one.value("SHOW temp_buffers"), "8MB");
    let reasons = pinned(&proxy, 0)["reasons"].to_string();
    assert!(!reasons.contains("setting"), "{reasons}");
    drop(one);

    let proxy = setup(2).start();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    one.run("SET temp_buffers = '9MB'");
    let page = pinned(&proxy, 1);
    assert_eq!(page["pins"][0]["reason"], "setting");
    assert_eq!(other.value("SHOW temp_buffers"), "8MB");
    assert_eq!(one.value("SHOW temp_buffers"), "9MB");
    one.run("DISCARD ALL");
    pinned(&proxy, 0);
    assert_eq!(one.value("SHOW temp_buffers"), "8MB");
}

/// What a session has that it may not set by itself no other connection could be given: it keeps the one that has it, and
/// says so.
#[test]
fn a_setting_that_needs_a_privilege_pins() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    postgres.sql_in(
        &database,
        "CREATE FUNCTION quiet() RETURNS text LANGUAGE sql SECURITY DEFINER AS \
           $$SELECT set_config('log_min_messages', 'panic', false)$$; \
         GRANT EXECUTE ON FUNCTION quiet() TO app",
    );
    let proxy = Proxy::before(postgres, &database, 2).start();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    assert_eq!(one.value("SELECT quiet()"), "panic");
    let page = pinned(&proxy, 1);
    assert_eq!(page["pins"][0]["reason"], "setting");
    assert_eq!(page["pins"][0]["digest"], "SELECT quiet()");
    logged(&proxy, &["session pinned", "setting", "SELECT quiet()"]);
    assert_eq!(other.value("SHOW log_min_messages"), "warning");
    assert_eq!(one.value("SHOW log_min_messages"), "panic");
    one.run("DISCARD ALL");
    pinned(&proxy, 0);
    assert_eq!(one.value("SHOW log_min_messages"), "warning");
}
