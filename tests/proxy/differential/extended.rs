//! Pipelines of the extended protocol.

use super::each_agrees;
use crate::house::Frame;
use crate::house::sides::{Sides, Step, ask};
use crate::house::wire::*;

#[test]
fn transactions_in_the_extended_protocol() {
    let run = |sql: &str| [unnamed(sql, &[]), sync()].concat();
    let both = |sqls: &[&str]| sqls.iter().flat_map(|sql| run(sql)).collect::<Vec<u8>>();
    each_agrees(&[
        both(&["BEGIN", "SELECT 1", "COMMIT"]),
        both(&["BEGIN", "COMMIT", "ROLLBACK"]),
        both(&["BEGIN", "BEGIN", "SELECT 1/0", "SELECT 1", "COMMIT"]),
        both(&[
            "START TRANSACTION READ ONLY",
            "INSERT INTO t VALUES (1)",
            "ROLLBACK",
        ]),
        [
            unnamed("BEGIN", &[]),
            unnamed("SELECT 1", &[]),
            sync(),
            query("COMMIT"),
        ]
        .concat(),
        [
            unnamed("INSERT INTO t VALUES (1)", &[]),
            unnamed("SELECT 1/0", &[]),
            sync(),
            query("SELECT count(*) FROM t"),
        ]
        .concat(),
        [query("BEGIN"), run("SELECT 1"), query("COMMIT")].concat(),
        [
            parse("b", "BEGIN"),
            bind("", "b", &[]),
            execute("", 0),
            sync(),
            run("SELECT 1"),
            parse("c", "COMMIT"),
            bind("", "c", &[]),
            execute("", 0),
            sync(),
        ]
        .concat(),
        [
            parse("", "BEGIN"),
            flush(),
            bind("", "", &[]),
            execute("", 0),
            flush(),
            sync(),
            query("ROLLBACK"),
        ]
        .concat(),
    ]);
}

#[test]
fn prepared_names() {
    let uses = |name: &str| [bind("", name, &[]), execute("", 0), sync()].concat();
    each_agrees(&[
        // A Parse that fails leaves the name unused.
        [
            parse("a", "SELEC"),
            sync(),
            parse("a", "SELECT 1"),
            sync(),
            uses("a"),
        ]
        .concat(),
        // A live name reused is refused, and the session lives.
        [
            parse("a", "SELECT 1"),
            sync(),
            parse("a", "SELECT 2"),
            sync(),
            uses("a"),
        ]
        .concat(),
        [uses("never")].concat(),
        [
            describe(b'S', "never"),
            sync(),
            describe(b'P', "never"),
            sync(),
            execute("never", 0),
            sync(),
        ]
        .concat(),
        [close(b'S', "never"), close(b'P', "never"), sync()].concat(),
        [
            parse("a", "SELECT 1"),
            sync(),
            close(b'S', "a"),
            sync(),
            uses("a"),
        ]
        .concat(),
        [
            parse("a", "SELECT 1"),
            sync(),
            query("DEALLOCATE a"),
            uses("a"),
        ]
        .concat(),
        [
            parse("a", "SELECT 1"),
            sync(),
            query("DEALLOCATE ALL"),
            uses("a"),
        ]
        .concat(),
        [
            parse("a", "SELECT 1"),
            sync(),
            query("DISCARD ALL"),
            uses("a"),
            parse("a", "SELECT 2"),
            sync(),
            uses("a"),
        ]
        .concat(),
        [
            query("PREPARE a AS SELECT 7"),
            uses("a"),
            query("EXECUTE a"),
            query("DEALLOCATE a"),
            uses("a"),
        ]
        .concat(),
        [
            parse("a", "SELECT 8"),
            sync(),
            query("EXECUTE a"),
            query("PREPARE a AS SELECT 1"),
            uses("a"),
        ]
        .concat(),
        // The unnamed statement lives across transactions, and a simple query ends it.
        [
            parse("", "SELECT 5"),
            sync(),
            uses(""),
            uses(""),
            query("SELECT 6"),
            uses(""),
        ]
        .concat(),
        [parse("", "SELEC"), sync(), uses("")].concat(),
        [
            parse("a", "SELECT $1::int + $2"),
            describe(b'S', "a"),
            bind("", "a", &[Some("1"), Some("2")]),
            execute("", 0),
            sync(),
        ]
        .concat(),
        [
            parse_typed("a", "SELECT $1", &[23]),
            describe(b'S', "a"),
            bind_bytes("", "a", 1, &[Some(&7u32.to_be_bytes())], 1),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]
        .concat(),
        [
            parse("a", "SELECT $1::int"),
            sync(),
            bind("", "a", &[]),
            sync(),
            bind("", "a", &[Some("x")]),
            sync(),
            bind("", "a", &[None]),
            execute("", 0),
            sync(),
        ]
        .concat(),
    ]);
}

#[test]
fn a_plan_whose_result_changes() {
    let uses = || [bind("", "a", &[]), execute("", 0), sync()].concat();
    let alter = || query("ALTER TABLE t ALTER a TYPE bigint");
    let sides = Sides::new(1);
    let prepare = "ALTER TABLE t ALTER a TYPE int";
    let named = [parse("a", "SELECT a FROM t"), sync()].concat();
    let twice = [named.clone(), uses(), alter(), uses(), uses()].concat();
    sides.agree_to_the_end(prepare, &twice);
    let inside = [
        named,
        query("BEGIN"),
        uses(),
        alter(),
        uses(),
        query("ROLLBACK"),
    ]
    .concat();
    sides.agree_to_the_end(prepare, &inside);
}

#[test]
fn errors_in_a_pipeline_skip_to_sync() {
    let good = |n: u32| unnamed(&format!("SELECT {n}"), &[]);
    let bad = || unnamed("SELECT 1/0", &[]);
    each_agrees(&[
        [good(1), bad(), good(2), sync(), good(3), sync()].concat(),
        [
            bad(),
            query("SELECT 'skipped'"),
            sync(),
            query("SELECT 'seen'"),
        ]
        .concat(),
        [bad(), flush(), good(2), flush(), sync()].concat(),
        [bad(), sync(), sync(), sync(), good(1), sync()].concat(),
        [
            bad(),
            close(b'S', "x"),
            describe(b'S', "x"),
            function_call(1397, &["-1"]),
            sync(),
        ]
        .concat(),
        [
            query("BEGIN"),
            bad(),
            sync(),
            good(1),
            sync(),
            query("ROLLBACK"),
            good(2),
            sync(),
        ]
        .concat(),
        [sync(), sync(), flush(), sync()].concat(),
        [
            parse("a", "SELECT 1"),
            copy_done(),
            bind("", "", &[]),
            sync(),
        ]
        .concat(),
        [
            parse("a", "SELECT 1"),
            bind("", "", &[]),
            sync(),
            describe(b'S', "a"),
            sync(),
        ]
        .concat(),
        [good(1), good(2), good(3), sync()].concat(),
        (0..200).flat_map(|n| [good(n), sync()].concat()).collect(),
        (0..200)
            .flat_map(|n| {
                if n % 7 == 0 {
                    [bad(), sync()].concat()
                } else {
                    [good(n), sync()].concat()
                }
            })
            .collect(),
    ]);
}

#[test]
fn flush_without_sync() {
    let sides = Sides::new(1);
    let step = |bytes: Vec<u8>, tag| Step::then_tag([bytes, flush()].concat(), tag);
    sides.agree(
        "",
        &[
            step(parse("a", "SELECT generate_series(1, 10)"), b'1'),
            step(describe(b'S', "a"), b'T'),
            step(bind("p", "a", &[]), b'2'),
            step(describe(b'P', "p"), b'T'),
            step(execute("p", 3), b's'),
            step(execute("p", 3), b's'),
            step(execute("p", 0), b'C'),
            step(execute("p", 0), b'C'),
            step(close(b'P', "p"), b'3'),
            step(execute("p", 0), b'E'),
            Step::then_ready(sync(), 1),
            ask("SELECT 'after'"),
        ],
    );
    // Portals live until the transaction ends, not longer.
    sides.agree(
        "",
        &[
            ask("BEGIN"),
            Step::then_ready(
                [
                    parse("", "SELECT generate_series(1, 9)"),
                    bind("p", "", &[]),
                    execute("p", 2),
                    sync(),
                ]
                .concat(),
                1,
            ),
            Step::then_ready([execute("p", 2), sync()].concat(), 1),
            ask("COMMIT"),
            Step::then_ready([execute("p", 2), sync()].concat(), 1),
        ],
    );
}

#[test]
fn row_limits() {
    let limited = |rows| {
        let open = [
            parse("", "SELECT generate_series(1, 6)"),
            bind("p", "", &[]),
        ]
        .concat();
        [
            open,
            execute("p", rows),
            execute("p", rows),
            execute("p", rows),
            execute("p", 0),
            sync(),
            execute("p", 0),
            sync(),
        ]
        .concat()
    };
    each_agrees(&[
        limited(1),
        limited(2),
        limited(3),
        limited(6),
        limited(7),
        [
            parse("", "INSERT INTO t VALUES (1), (2) RETURNING a"),
            bind("", "", &[]),
            execute("", 1),
            execute("", 0),
            sync(),
        ]
        .concat(),
        [
            parse("", ""),
            bind("", "", &[]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]
        .concat(),
        [parse("", "SELECT 1; SELECT 2"), sync()].concat(),
    ]);
}

/// Nothing in these pins: each unit may get another server.
#[test]
fn names_follow_their_client() {
    let uses = |name: &str| [bind("", name, &[]), execute("", 0), sync()].concat();
    let made = |name: &str, sql: &str| [parse(name, sql), sync()].concat();
    let conversations: Vec<Vec<u8>> = vec![
        // Over several Syncs, in one write.
        [made("a", "SELECT 1"), uses("a"), uses("a"), uses("a")].concat(),
        [
            made("a", "SELECT 1"),
            made("b", "SELECT 1"),
            uses("a"),
            uses("b"),
        ]
        .concat(),
        // Closed and made anew, in one sequence and in several.
        [
            made("a", "SELECT 1"),
            close(b'S', "a"),
            parse("a", "SELECT 2"),
            bind("", "a", &[]),
            execute("", 0),
            close(b'S', "a"),
            bind("", "a", &[]),
            sync(),
            made("a", "SELECT 3"),
            uses("a"),
        ]
        .concat(),
        [
            made("a", "SELECT 1"),
            close(b'S', "a"),
            sync(),
            uses("a"),
            made("a", "SELECT 2"),
            uses("a"),
        ]
        .concat(),
        // An error in the middle: what is behind it never happened.
        [
            made("a", "SELECT 1"),
            unnamed("SELECT 1/0", &[]),
            close(b'S', "a"),
            parse("b", "SELECT 2"),
            sync(),
            uses("a"),
            uses("b"),
        ]
        .concat(),
        [
            made("a", "SELEC"),
            made("a", "SELECT * FROM nowhere"),
            uses("a"),
            made("a", "SELECT 4"),
            made("a", "SELEC"),
            uses("a"),
        ]
        .concat(),
        // In a transaction that has failed.
        [
            made("a", "SELECT 1"),
            made("r", "ROLLBACK"),
            query("BEGIN"),
            query("SELECT 1/0"),
            made("b", "SELECT 1"),
            uses("a"),
            describe(b'S', "a"),
            sync(),
            made("c", "ROLLBACK"),
            uses("r"),
            uses("a"),
            uses("b"),
            uses("c"),
        ]
        .concat(),
        [
            made("a", "SELECT 1"),
            query("BEGIN"),
            made("b", "SELECT 1"),
            query("SELECT 1/0"),
            close(b'S', "b"),
            sync(),
            query("ROLLBACK"),
            uses("b"),
            made("b", "SELECT 5"),
            uses("b"),
        ]
        .concat(),
        // Words that name the statement.
        [
            made("a statement", "SELECT $1::int"),
            uses("a statement"),
            bind("p", "a statement", &[Some("1"), Some("2")]),
            sync(),
            made("a statement", "SELECT 2"),
        ]
        .concat(),
        [
            parse("a", "SELECT 1"),
            parse("a", "SELECT 1"),
            close(b'S', "a"),
            sync(),
            made("a", "SELECT 2"),
        ]
        .concat(),
        // As long as PostgreSQL tells names apart, and longer.
        [
            made(&"n".repeat(70), "SELECT 1"),
            uses(&"n".repeat(63)),
            uses(&"n".repeat(62)),
            close(b'S', &"n".repeat(65)),
            sync(),
            uses(&"n".repeat(63)),
        ]
        .concat(),
        [
            made("weir_00000000_1", "SELECT 1"),
            uses("weir_00000000_1"),
            uses("weir_00000000_2"),
        ]
        .concat(),
        // Described, with and without parameters and rows.
        [
            parse("a", "SELECT $1::int AS one, $2::text AS two"),
            describe(b'S', "a"),
            sync(),
            describe(b'S', "a"),
            bind("p", "a", &[Some("1"), Some("x")]),
            describe(b'P', "p"),
            execute("p", 0),
            sync(),
            made("b", "INSERT INTO t VALUES ($1, 'b')"),
            describe(b'S', "b"),
            describe(b'S', "c"),
            sync(),
        ]
        .concat(),
        [
            made("a", ""),
            uses("a"),
            made("b", "SELECT 1; SELECT 2"),
            uses("b"),
        ]
        .concat(),
        // A portal outlives its statement.
        [
            query("BEGIN"),
            parse("a", "SELECT generate_series(1, 5)"),
            bind("p", "a", &[]),
            execute("p", 2),
            sync(),
            close(b'S', "a"),
            execute("p", 2),
            sync(),
            query("COMMIT"),
            uses("a"),
        ]
        .concat(),
    ];
    each_agrees(&conversations);
    // Pieces, so that the server is released in between.
    let sides = Sides::new(2);
    for conversation in &conversations {
        sides.agree(super::TABLE, &units(conversation));
    }
    assert_eq!(sides.pins(), "", "nothing of all that pins");
}

/// The rows of a portal that is open already are the first that its Execute is answered with.
#[test]
fn an_open_portals_rows_behind_messages_of_weirs() {
    let text = "SELECT generate_series(1, 9)";
    let more = [execute("p", 2), sync()].concat();
    let opened = [
        parse("b", "SELECT 2"),
        sync(),
        query("BEGIN"),
        parse("a", text),
        bind("p", "a", &[]),
        more.clone(),
    ]
    .concat();
    let between = [
        [parse("s", text), sync()].concat(),
        parse("s", text),
        [parse("s", text), parse("s2", text)].concat(),
        query("EXECUTE b"),
        query("DEALLOCATE b"),
        [describe(b'S', "b"), describe(b'S', "a")].concat(),
        [close(b'S', "b"), close(b'S', "a")].concat(),
        query("SET DateStyle = German"),
    ];
    let mut conversations: Vec<Vec<u8>> = between
        .iter()
        .map(|what| [&*opened, what, &*more, &*more, &*query("COMMIT")].concat())
        .collect();
    let held = [
        query(&format!("DECLARE c CURSOR WITH HOLD FOR {text}")),
        [execute("c", 2), sync()].concat(),
        query("SELECT pg_advisory_unlock_all()"),
        [execute("c", 2), sync()].concat(),
        query("CLOSE c"),
    ];
    conversations.push(held.concat());
    each_agrees(&conversations);
    let sides = Sides::new(2);
    for conversation in &conversations {
        sides.agree(super::TABLE, &units(conversation));
    }
}

/// Cut behind every Sync and Query: each answer is awaited.
fn units(conversation: &[u8]) -> Vec<Step> {
    let mut rest = conversation.to_vec();
    let (mut steps, mut unit) = (Vec::new(), Vec::new());
    while let Some(frame) = Frame::cut(&mut rest) {
        unit.extend(message(frame.tag, &frame.body));
        if matches!(frame.tag, b'S' | b'Q') {
            steps.push(Step::then_ready(std::mem::take(&mut unit), 1));
        }
    }
    steps
}

#[test]
fn deallocate_means_the_clients_own_names() {
    let uses = |name: &str| [bind("", name, &[]), execute("", 0), sync()].concat();
    let made = |name: &str, sql: &str| [parse(name, sql), sync()].concat();
    let run = |sql: &str| [unnamed(sql, &[]), sync()].concat();
    let prepared = [made("a", "SELECT 1"), made("B c", "SELECT 2")].concat();
    let mut conversations = Vec::new();
    for sql in [
        "DEALLOCATE a",
        "deallocate prepare A;",
        "DEALLOCATE \"B c\"",
        "DEALLOCATE nothing",
        "DEALLOCATE ALL",
        "DEALLOCATE PREPARE ALL",
        "DISCARD ALL",
        "DISCARD PLANS",
        "DEALLOCATE a; SELECT 1",
        "SELECT 1; DEALLOCATE ALL",
        "EXECUTE a",
        "EXECUTE \"B c\"",
        "EXECUTE a; EXECUTE nothing",
        "EXPLAIN (COSTS OFF) EXECUTE a",
        "PREPARE a AS SELECT 9",
    ] {
        for way in [query(sql), run(sql)] {
            conversations.push(
                [
                    &prepared[..],
                    &way,
                    &uses("a"),
                    &uses("B c"),
                    &made("a", "SELECT 3"),
                    &uses("a"),
                ]
                .concat(),
            );
        }
    }
    conversations.extend([
        [
            &prepared[..],
            &query("BEGIN"),
            &query("SELECT 1/0"),
            &query("DEALLOCATE a"),
            &query("ROLLBACK"),
            &uses("a"),
        ]
        .concat(),
        [
            &prepared[..],
            &query("BEGIN"),
            &query("DEALLOCATE a"),
            &query("ROLLBACK"),
            &uses("a"),
        ]
        .concat(),
        // A statement that deallocates, run later and twice.
        [
            &prepared[..],
            &made("d", "DEALLOCATE a"),
            &uses("a"),
            &uses("d"),
            &uses("a"),
            &uses("d"),
        ]
        .concat(),
        [
            &prepared[..],
            &made("d", "DEALLOCATE ALL"),
            &uses("d"),
            &uses("a"),
            &uses("d"),
        ]
        .concat(),
    ]);
    let sides = Sides::new(2);
    for conversation in &conversations {
        sides.agree(super::TABLE, &units(conversation));
    }
    // A text that was skipped has deallocated nothing.
    conversations.push(
        [
            &prepared[..],
            &unnamed("SELECT 1/0", &[]),
            &query("DEALLOCATE a"),
            &unnamed("DEALLOCATE ALL", &[]),
            &sync(),
            &uses("a"),
        ]
        .concat(),
    );
    each_agrees(&conversations);
}

/// Two statements for each connection: what makes room is parsed again when it is used.
#[test]
fn what_was_evicted_comes_back() {
    let sides = Sides::with(1, |setup| {
        setup.set("WEIR__POOL__MAX_STATEMENTS_PER_CONNECTION", "2")
    });
    let names = ["a", "b", "c", "d"];
    let all = |each: &dyn Fn(&str) -> Vec<u8>| names.map(each).concat();
    let made = all(&|name| parse(name, &format!("SELECT '{name}'")));
    let used = all(&|name| [bind(name, name, &[]), execute(name, 0)].concat());
    let bound = all(&|name| bind(name, name, &[]));
    let executed = all(&|name| execute(name, 0));
    let conversations = [
        [&made[..], &sync(), &used, &sync(), &used, &sync()].concat(),
        [&made[..], &used, &sync(), &bound, &executed, &sync()].concat(),
        [
            &made[..],
            &sync(),
            &query("BEGIN"),
            &bound,
            &sync(),
            &executed,
            &sync(),
            &query("COMMIT"),
            &bound,
            &unnamed("SELECT 1/0", &[]),
            &bound,
            &sync(),
            &used,
            &sync(),
        ]
        .concat(),
    ];
    for conversation in &conversations {
        sides.agree_to_the_end("", conversation);
        sides.agree("", &units(conversation));
    }
    let mut client = sides.through.connect();
    let unit = [parse("a", "SELECT 'a'"), bind("", "a", &[]), sync()].concat();
    assert_eq!(client.exchange(&unit).errors(), []);
    let count = client.value("SELECT count(*) FROM pg_prepared_statements");
    assert_eq!(count, "2");
}

/// The same name for different statements, and different names for the same one, over one connection.
#[test]
fn clients_share_a_connection_and_no_names() {
    let sides = Sides::new(1);
    let mut clients: Vec<_> = (0..3).map(|_| sides.through.connect()).collect();
    let texts = ["SELECT 'one'", "SELECT 'other'", "SELECT 'one'"];
    for (client, text) in clients.iter_mut().zip(texts) {
        let parsed = client.exchange(&[parse("s", text), sync()].concat());
        assert_eq!(parsed.tags(), "1Z");
    }
    for _ in 0..3 {
        for (client, value) in clients.iter_mut().zip(["one", "other", "one"]) {
            let used = client.exchange(&[bind("", "s", &[]), execute("", 0), sync()].concat());
            assert_eq!(used.column(), [value]);
        }
    }
    let [one, other, third] = &mut clients[..] else {
        unreachable!("three clients");
    };
    assert_eq!(one.ask("DEALLOCATE ALL").errors(), []);
    let uses = [bind("", "s", &[]), execute("", 0), sync()].concat();
    assert_eq!(one.exchange(&uses).code(), "26000");
    assert_eq!(other.exchange(&uses).column(), ["other"]);
    assert_eq!(third.exchange(&uses).column(), ["one"]);
    assert_eq!(sides.pins(), "");
}

/// What a statement does to its session, it does when it is run: on whatever connection that is.
#[test]
fn a_statement_that_sets_something_pins_where_it_is_run() {
    let sides = Sides::new(2);
    for name in ["", "s"] {
        let mut one = sides.through.connect();
        let mut other = sides.through.connect();
        let set = "SET application_name = 'set by statement'";
        assert_eq!(
            one.exchange(&[parse(name, set), sync()].concat()).errors(),
            []
        );
        // Has the connection meanwhile.
        assert_eq!(other.value("SELECT 1"), "1");
        let run = [bind("", name, &[]), execute("", 0), sync()].concat();
        assert_eq!(one.exchange(&run).errors(), []);
        for _ in 0..3 {
            assert_eq!(one.value("SHOW application_name"), "set by statement");
            assert_ne!(other.value("SHOW application_name"), "set by statement");
        }
    }
}

/// SQL's EXECUTE runs what the protocol has prepared: with all that it does.
#[test]
fn what_execute_runs_is_carried_as_well() {
    let sides = Sides::new(1);
    for run in [
        query("EXECUTE s"),
        [unnamed("EXECUTE s", &[]), sync()].concat(),
    ] {
        let mut one = sides.through.connect();
        let mut other = sides.through.connect();
        let set = "SET DateStyle = 'SQL'";
        let parsed = one.exchange(&[parse("s", set), sync()].concat());
        assert_eq!(parsed.errors(), []);
        assert_eq!(other.value("SHOW DateStyle"), "ISO, MDY");
        assert_eq!(one.exchange(&run).errors(), []);
        for _ in 0..3 {
            assert_eq!(one.value("SHOW DateStyle"), "SQL, MDY");
            assert_eq!(other.value("SHOW DateStyle"), "ISO, MDY");
        }
    }
}

/// PostgreSQL answers them when it comes to the Sync.
#[test]
fn large_texts_ahead_of_their_sync() {
    let sides = Sides::new(1);
    let text = |bytes: usize| format!("SELECT 1 /* {} */", "x".repeat(bytes));
    let one = parse("", &text(300_000));
    let many: Vec<u8> = (0..100).flat_map(|_| parse("", &text(4000))).collect();
    for parses in [one, many] {
        let rest = [bind("", "", &[]), execute("", 0), sync()].concat();
        sides.agree_to_the_end("", &[parses, rest, query("SELECT 2")].concat());
    }
}

/// A Query that is skipped behind a client's own error brings no ReadyForQuery.
#[test]
fn a_query_behind_an_error_in_a_failed_transaction() {
    each_agrees(&[[
        parse("A", "SET search_path = nope"),
        query("BEGIN; SET work_mem = '9MB'"),
        execute("", 0),
        sync(),
        bind("", "a", &[]),
        execute("", 0),
        sync(),
        bind("", "A", &[]),
        sync(),
        parse("b", "EXPLAIN EXECUTE a"),
        query("SELECT 1"),
        parse("A", "SELECT 2"),
        sync(),
        sync(),
    ]
    .concat()]);
}
