//! Any size, any start and any split of the stream.

use std::thread::sleep;
use std::time::Duration;

use super::TABLE;
use crate::house::sides::{Sides, Step, ask, assert_same, converse, normal};
use crate::house::wire::*;
use crate::house::{Frame, proving};

#[test]
fn messages_of_any_size() {
    let sides = Sides::new(1);
    let big = |megabytes: usize| format!("SELECT repeat('x', {megabytes} * 1000 * 1000)");
    sides.agree(
        "",
        &[
            ask(&big(1)),
            ask("SELECT 1"),
            ask(&big(20)),
            ask("SELECT 2"),
        ],
    );
    let text = format!("SELECT length('{}')", "y".repeat(2_000_000));
    sides.agree("", &[ask(&text), ask("SELECT 3")]);
    let value = "z".repeat(5_000_000);
    let bound = [
        parse("", "SELECT $1::text, length($1)"),
        bind("", "", &[Some(&value)]),
        execute("", 0),
        sync(),
    ]
    .concat();
    sides.agree("", &[Step::then_ready(bound, 1), ask("SELECT 4")]);
    let row = format!("1\t{}\n", "c".repeat(3_000_000));
    let copied = [
        query("COPY t FROM STDIN"),
        copy_data(row.as_bytes()),
        copy_done(),
    ]
    .concat();
    sides.agree(
        TABLE,
        &[
            Step::then_ready(copied, 1),
            ask("TABLE t"),
            ask("COPY t TO STDOUT"),
        ],
    );
    let rows = "SELECT g, repeat('r', 1000) FROM generate_series(1, 20000) g";
    sides.agree(
        "",
        &[
            ask(rows),
            Step::then_ready([query(rows), query("SELECT 5")].concat(), 2),
        ],
    );
}

#[test]
fn startup_parameters() {
    let sides = Sides::new(4);
    let parameters: &[&[(&str, &str)]] = &[
        &[],
        &[("application_name", "a test")],
        &[("DateStyle", "German"), ("TimeZone", "Asia/Tokyo")],
        &[("datestyle", "ISO, DMY"), ("client_encoding", "LATIN1")],
        &[("options", "-c search_path=pg_catalog -c work_mem=2MB")],
        &[(
            "options",
            "--statement-timeout=5000 -c extra_float_digits=0",
        )],
        &[("options", "-c application_name=in\\ options")],
        &[
            ("search_path", "pg_catalog"),
            ("default_transaction_read_only", "on"),
        ],
        &[("application_name", "naïve ✓")],
        &[("nonsense", "1")],
        &[("DateStyle", "Nonsense")],
        &[("TimeZone", "Nowhere/Land")],
        &[("client_encoding", "KLINGON")],
        &[("work_mem", "lots")],
        &[("options", "-c nonsense=1")],
        &[("options", "-c work_mem=lots")],
        &[("options", "--nonsense")],
        &[("log_statement", "all")],
        &[("max_connections", "5")],
    ];
    for parameters in parameters {
        let with = |login: crate::house::Login| {
            let each = parameters.iter();
            each.fold(login, |login, (name, value)| login.with(name, value))
        };
        sides.agree_on_login(with);
        let show = [
            "application_name",
            "DateStyle",
            "TimeZone",
            "client_encoding",
            "search_path",
            "work_mem",
            "statement_timeout",
            "extra_float_digits",
            "default_transaction_read_only",
        ];
        let questions: Vec<u8> = show
            .iter()
            .flat_map(|name| query(&format!("SHOW {name}")))
            .collect();
        let (direct, through) = (with(sides.direct.clone()), with(sides.through.clone()));
        if let (Ok(mut direct), Ok(mut through)) = (direct.try_connect(), through.try_connect()) {
            let steps = [Step::then_ready(questions, show.len())];
            let expected = converse(&mut direct, &steps);
            assert_same(&expected, &converse(&mut through, &steps), || {
                format!("{parameters:?}")
            });
        }
    }
}

/// A mixed pipeline, cut in two at every byte boundary with a pause between.
#[test]
fn split_at_every_byte() {
    let sides = Sides::new(1);
    let mixed = [
        query("SELECT 1; SELECT 2"),
        parse("", "SELECT $1::int"),
        bind("", "", &[Some("5")]),
        execute("", 0),
        sync(),
        query("BEGIN"),
        query("SELECT 1/0"),
        query("ROLLBACK"),
    ]
    .concat();
    cut_everywhere(&sides, &mixed, 5);
    let copies = [
        query("COPY t FROM STDIN"),
        copy_data(b"1\tx\n"),
        sync(),
        copy_done(),
        query("TRUNCATE t"),
    ]
    .concat();
    cut_everywhere(&sides, &copies, 2);
    let prepared = [
        parse("a", "SELECT $1::int"),
        sync(),
        bind("", "a", &[Some("5")]),
        execute("", 0),
        parse("a", "SELECT 2"),
        sync(),
        describe(b'S', "a"),
        close(b'S', "a"),
        bind("", "a", &[]),
        sync(),
    ]
    .concat();
    cut_everywhere(&sides, &prepared, 3);
    let deallocated = [
        parse("b", "SELECT 1"),
        sync(),
        query("DEALLOCATE b"),
        bind("", "b", &[]),
        sync(),
        parse("b", "SELECT 2"),
        sync(),
        query("DISCARD ALL"),
        describe(b'S', "b"),
        sync(),
    ]
    .concat();
    cut_everywhere(&sides, &deallocated, 6);
    if proving() {
        let flushed = [
            unnamed("SELECT 1", &[]),
            flush(),
            unnamed("SELECT 1/0", &[]),
            flush(),
            sync(),
            query("BEGIN"),
            function_call(1397, &["-1"]),
            query("COMMIT"),
            parse("n", "SELECT 1"),
            sync(),
            close(b'S', "n"),
            sync(),
        ]
        .concat();
        cut_everywhere(&sides, &flushed, 6);
        let empty = [
            query(""),
            query("BEGIN"),
            query(""),
            query("COMMIT"),
            sync(),
            query("DO $$BEGIN RAISE NOTICE 'n'; END$$"),
        ]
        .concat();
        cut_everywhere(&sides, &empty, 6);
    }
}

fn cut_everywhere(sides: &Sides, pipeline: &[u8], ready: usize) {
    let whole = [Step::then_ready(pipeline, ready)];
    let expected = converse(&mut sides.direct.connect(), &whole);
    let mut client = sides.through.connect();
    for boundary in 1..pipeline.len() {
        let (first, second) = pipeline.split_at(boundary);
        client.send(first);
        sleep(Duration::from_micros(500));
        client.send(second);
        let seen = normal(client.replies(ready).frames);
        assert_same(&expected, &seen, || format!("cut before byte {boundary}"));
    }
    // And a byte at a time.
    for byte in pipeline {
        client.send(&[*byte]);
    }
    let seen: Vec<Frame> = normal(client.replies(ready).frames);
    assert_same(&expected, &seen, || "a byte at a time".into());
}
