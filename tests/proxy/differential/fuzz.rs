//! Invisible, at random: any sequence of messages gets the answers PostgreSQL gives.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::house::count;
use crate::house::sides::Sides;
use crate::house::wire::*;

const SIMPLE: &[&str] = &[
    "",
    ";",
    "SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1/0",
    "SELECT 1; SELECT 1/0; SELECT 3",
    "SELEC",
    "BEGIN",
    "BEGIN",
    "begin; select 1",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "BEGIN ISOLATION LEVEL SERIALIZABLE",
    "BEGIN READ ONLY",
    "START TRANSACTION",
    "ROLLBACK AND CHAIN",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE s",
    "INSERT INTO t VALUES (1, 'x')",
    "INSERT INTO t VALUES (2, 'y') RETURNING *",
    "SELECT count(*) FROM t",
    "SELECT * FROM generate_series(1, 5)",
    "COPY (SELECT generate_series(1, 3)) TO STDOUT",
    "COPY nowhere FROM STDIN",
    "DO $$BEGIN RAISE NOTICE 'hello'; END$$",
    "SET DateStyle = 'German'",
    "SHOW DateStyle",
    "SET LOCAL work_mem = '1MB'",
    "SET work_mem = '2MB'",
    "SHOW work_mem",
    "SET application_name = 'fuzz'",
    "SELECT set_config('search_path', 'pg_catalog, public', false)",
    "SHOW search_path",
    "RESET ALL",
    "LISTEN here",
    "NOTIFY here, 'payload'",
    "UNLISTEN *",
    "PREPARE a AS SELECT 7",
    "EXECUTE a",
    "EXECUTE b",
    "EXPLAIN EXECUTE b",
    "SELECT 1; EXECUTE a; DEALLOCATE b",
    "DEALLOCATE a",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "DECLARE c CURSOR FOR SELECT generate_series(1, 4)",
    "DECLARE h CURSOR WITH HOLD FOR SELECT generate_series(1, 4)",
    "FETCH 2 FROM c",
    "FETCH 2 FROM h",
    "CLOSE c",
    "CLOSE ALL",
    "CREATE TEMP TABLE mine (a int)",
    "INSERT INTO mine VALUES (1)",
    "DROP TABLE mine",
    "SELECT pg_try_advisory_lock(7)",
    "SELECT pg_advisory_unlock(7)",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SHOW transaction_read_only",
    "SET nonsense = 1",
    "SET mine.own = 'value'",
];

const PREPARED: &[&str] = &[
    "SELECT 1",
    "SELECT generate_series(1, 7)",
    "SELECT $1::int",
    "SELECT $1::text, $2::int",
    "INSERT INTO t VALUES ($1, 'p')",
    "SELECT 1/0",
    "SELEC",
    "",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "COPY (SELECT 1) TO STDOUT",
    "SELECT 1; SELECT 2",
    "SHOW DateStyle",
    "SET DateStyle = 'SQL'",
];

fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(""), 1 => Just("a"), 1 => Just("b")]
}

fn values() -> impl Strategy<Value = Vec<Option<&'static str>>> {
    let value = prop_oneof![Just(Some("1")), Just(Some("x")), Just(None)];
    prop::collection::vec(value, 0..3)
}

fn kind() -> impl Strategy<Value = u8> {
    prop_oneof![Just(b'S'), Just(b'P')]
}

/// COPY from the client, with an end or without one.
fn copy() -> impl Strategy<Value = Vec<u8>> {
    let row = prop_oneof![
        Just(copy_data(b"1\tx\n")),
        Just(copy_data(b"2\t")),
        Just(copy_data(b"y\n")),
        Just(sync()),
        Just(flush()),
    ];
    let end =
        prop_oneof![3 => Just(copy_done()), 1 => Just(copy_fail("no")), 1 => Just(Vec::new())];
    (any::<bool>(), prop::collection::vec(row, 0..4), end).prop_map(|(extended, rows, end)| {
        let start = match extended {
            true => [
                parse("", "COPY t FROM STDIN"),
                bind("", "", &[]),
                execute("", 0),
            ]
            .concat(),
            false => query("COPY t FROM STDIN"),
        };
        [start, rows.concat(), end].concat()
    })
}

fn messages() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        10 => prop::sample::select(SIMPLE).prop_map(query),
        5 => (name(), prop::sample::select(PREPARED)).prop_map(|(name, sql)| parse(name, sql)),
        5 => (name(), name(), values()).prop_map(|(portal, name, values)| bind(portal, name, &values)),
        4 => prop::sample::select(PREPARED).prop_map(|sql| unnamed(sql, &[])),
        4 => (name(), prop::sample::select(vec![0u32, 1, 3])).prop_map(|(portal, rows)| execute(portal, rows)),
        2 => (kind(), name()).prop_map(|(kind, name)| describe(kind, name)),
        2 => (kind(), name()).prop_map(|(kind, name)| close(kind, name)),
        7 => Just(sync()),
        2 => Just(flush()),
        1 => prop::sample::select(vec!["-5", "x"]).prop_map(|value| function_call(1397, &[value])),
        2 => copy(),
        1 => Just(copy_data(b"stray")),
        1 => Just(copy_done()),
    ]
}

#[test]
fn any_conversation_is_postgresqls_own() {
    let sides = Sides::new(1);
    let config = Config {
        cases: u32::try_from(count(150, 5_000)).unwrap(),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let conversation = prop::collection::vec(messages(), 1..14).prop_map(|all| all.concat());
    TestRunner::new(config)
        .run(&conversation, |bytes| {
            // The last Sync leaves nothing unsaid.
            sides.agree_to_the_end("TRUNCATE t", &[&bytes[..], &sync()].concat());
            Ok(())
        })
        .unwrap();
}
