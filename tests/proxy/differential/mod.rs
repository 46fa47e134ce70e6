//! Invisible: the same bytes straight to PostgreSQL and through Weir, the same bytes back.

mod copy;
mod extended;
mod fuzz;
mod names;
mod redefined;
mod taken_away;
mod whole;

use crate::house::sides::{Sides, Step, ask};
use crate::house::wire::*;

/// Table `t (a int, b text)`, as it was in the beginning.
const TABLE: &str = "TRUNCATE t";

/// The whole pipeline in one write, each pipeline on connections of its own.
fn each_agrees(pipelines: &[Vec<u8>]) {
    let sides = Sides::new(2);
    for pipeline in pipelines {
        sides.agree_to_the_end(TABLE, pipeline);
    }
}

#[test]
fn simple_queries_in_one_write() {
    each_agrees(&[
        query("SELECT 1"),
        query(""),
        query(";"),
        query(" -- nothing\n"),
        [query("SELECT 1"), query("SELECT 2"), query("SELECT 3")].concat(),
        query("SELECT 1; SELECT 'two' AS two; SELECT 3.0"),
        query("SELECT 1; SELECT 1/0; SELECT 3"),
        [query("SELEC"), query("SELECT 1")].concat(),
        [query("SELECT * FROM nowhere"), query("SELECT 1")].concat(),
        query("DO $$BEGIN RAISE NOTICE 'first'; RAISE WARNING 'second'; END$$"),
        query("INSERT INTO t VALUES (1, 'x'), (2, NULL) RETURNING *; SELECT * FROM t"),
        query("SELECT * FROM generate_series(1, 2000)"),
        query("SET TimeZone = 'Asia/Tokyo'; SHOW TimeZone"),
        (0..300)
            .flat_map(|n| query(&format!("SELECT {n}")))
            .collect(),
    ]);
}

/// Who ends his own connection is cut off, as by PostgreSQL; a server that others end costs no client its session.
#[test]
fn a_client_that_ends_its_own_server() {
    let end = "SELECT pg_terminate_backend(pg_backend_pid())";
    each_agrees(&[
        query(end),
        [query("BEGIN"), query("SELECT 1"), query(end)].concat(),
        query(&format!("SELECT 1; {end}; SELECT 2")),
        query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = pg_backend_pid()",
        ),
        [parse("", end), bind("", "", &[]), execute("", 0), sync()].concat(),
        [
            parse("named", end),
            sync(),
            bind("", "named", &[]),
            execute("", 0),
            sync(),
        ]
        .concat(),
        [query("SELECT pg_terminate_backend(-1)"), query("SELECT 1")].concat(),
    ]);
}

#[test]
fn transactions() {
    let scripts = [
        "BEGIN|COMMIT",
        "BEGIN|ROLLBACK",
        "BEGIN|SELECT 1|COMMIT",
        "BEGIN|BEGIN|SELECT 1|COMMIT",
        "BEGIN|BEGIN|COMMIT",
        "COMMIT",
        "ROLLBACK",
        "END|ABORT",
        "begin;|select 1|end;",
        "BEGIN WORK|SELECT 1|COMMIT WORK",
        "BEGIN TRANSACTION|SELECT 1|COMMIT TRANSACTION",
        "START TRANSACTION|SHOW transaction_isolation|COMMIT",
        "BEGIN ISOLATION LEVEL SERIALIZABLE|SHOW transaction_isolation|COMMIT|SHOW transaction_isolation",
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY, DEFERRABLE|SHOW transaction_read_only|COMMIT",
        "BEGIN READ ONLY|INSERT INTO t VALUES (1)|SELECT 1|ROLLBACK",
        "BEGIN READ WRITE|INSERT INTO t VALUES (1)|COMMIT|SELECT count(*) FROM t",
        "BEGIN ISOLATION LEVEL NONSENSE|SELECT 1|COMMIT",
        "BEGIN|SELECT 1/0|SELECT 1|COMMIT|SELECT 1",
        "BEGIN|SELEC|ROLLBACK|SELECT 1",
        "BEGIN|SAVEPOINT s|SELECT 1/0|ROLLBACK TO s|SELECT 1|RELEASE s|COMMIT",
        "BEGIN|SAVEPOINT s|COMMIT",
        "SAVEPOINT s|SELECT 1",
        "BEGIN; SELECT 1|SELECT 2; COMMIT",
        "BEGIN; BEGIN; SELECT 1; COMMIT; COMMIT",
        "BEGIN|SET LOCAL DateStyle = German|SHOW DateStyle|COMMIT|SHOW DateStyle",
        "BEGIN|SET DateStyle = German|ROLLBACK|SHOW DateStyle",
        "BEGIN|COMMIT AND CHAIN|SELECT 1|ROLLBACK AND CHAIN|COMMIT",
        "BEGIN||COMMIT",
        "BEGIN|;|ROLLBACK",
        "BEGIN /* a comment */|SELECT 1|COMMIT",
        "-- a comment\nBEGIN|SELECT 1|COMMIT",
        "BEGIN|SET TRANSACTION ISOLATION LEVEL SERIALIZABLE|SELECT 1|COMMIT",
        "BEGIN|SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY|COMMIT|BEGIN|INSERT INTO t VALUES (1)|COMMIT",
        "BEGIN|DECLARE c CURSOR FOR SELECT generate_series(1, 5)|FETCH 2 FROM c|MOVE 1 FROM c|FETCH ALL FROM c|COMMIT|FETCH c",
        "BEGIN|PREPARE TRANSACTION 'x'|ROLLBACK",
    ];
    let sides = Sides::new(2);
    for script in scripts {
        let queries: Vec<&str> = script.split('|').collect();
        let pipeline: Vec<u8> = queries.iter().flat_map(|sql| query(sql)).collect();
        sides.agree_to_the_end(TABLE, &pipeline);
        let steps: Vec<Step> = queries.iter().map(|sql| ask(sql)).collect();
        sides.agree(TABLE, &steps);
    }
}

#[test]
fn function_calls() {
    each_agrees(&[
        function_call(1397, &["-5"]),
        [
            function_call(1397, &["-5"]),
            function_call(1397, &["-6"]),
            query("SELECT 1"),
        ]
        .concat(),
        function_call(1397, &[]),
        function_call(1397, &["none"]),
        function_call(4_000_000, &["1"]),
        [query("BEGIN"), function_call(1397, &["1"]), query("COMMIT")].concat(),
    ]);
}

#[test]
fn notifications() {
    each_agrees(&[
        [
            query("LISTEN here"),
            query("NOTIFY here, 'one'"),
            query("SELECT pg_notify('here', 'two')"),
            query("UNLISTEN here"),
            query("NOTIFY here"),
        ]
        .concat(),
        [
            query("BEGIN"),
            query("LISTEN here"),
            query("NOTIFY here, 'late'"),
            query("COMMIT"),
            query("SELECT 1"),
        ]
        .concat(),
        [
            query("LISTEN here"),
            unnamed("NOTIFY here, 'extended'", &[]),
            sync(),
            query("UNLISTEN *"),
        ]
        .concat(),
    ]);
}
