//! Pipelines of the extended protocol.

use super::each_agrees;
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
