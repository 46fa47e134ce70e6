//! COPY in both directions, going well and going wrong.

use super::{TABLE, each_agrees};
use crate::house::count;
use crate::house::sides::{Sides, Step, ask};
use crate::house::wire::*;

#[test]
fn copy_out() {
    each_agrees(&[
        query("COPY (SELECT generate_series(1, 1000)) TO STDOUT"),
        query("COPY (SELECT generate_series(1, 3)) TO STDOUT (FORMAT binary)"),
        query("COPY (SELECT 1 / (3 - g) FROM generate_series(1, 5) g) TO STDOUT"),
        query("COPY t TO STDOUT; SELECT 1; COPY (VALUES (1)) TO STDOUT"),
        [
            unnamed("COPY (VALUES (1)) TO STDOUT", &[]),
            sync(),
            query("SELECT 1"),
        ]
        .concat(),
        query("COPY nowhere TO STDOUT"),
    ]);
}

#[test]
fn copy_in() {
    let rows = || [copy_data(b"1\tone\n"), copy_data(b"2\ttwo\n")].concat();
    let start = || query("COPY t FROM STDIN");
    let look = || query("SELECT * FROM t ORDER BY a");
    let extended = || {
        [
            parse("", "COPY t FROM STDIN"),
            bind("", "", &[]),
            execute("", 0),
        ]
        .concat()
    };
    each_agrees(&[
        [start(), rows(), copy_done(), look()].concat(),
        [start(), copy_done(), look()].concat(),
        [
            start(),
            copy_data(b"1\to"),
            copy_data(b"ne\n2\tt"),
            copy_data(b"wo\n"),
            copy_done(),
            look(),
        ]
        .concat(),
        [start(), rows(), copy_fail("changed my mind"), look()].concat(),
        [
            start(),
            copy_data(b"not a number\tx\n"),
            rows(),
            copy_done(),
            look(),
        ]
        .concat(),
        [start(), copy_data(b"1\n"), copy_done(), look()].concat(),
        // Sync and Flush mean nothing inside COPY.
        [
            start(),
            rows(),
            sync(),
            flush(),
            sync(),
            copy_done(),
            look(),
        ]
        .concat(),
        // A Sync behind data that ends the COPY counts again.
        [start(), copy_data(b"bad\tx\n"), sync(), sync(), look()].concat(),
        // A COPY that fails at once: its data is stray, and ignored.
        [
            query("COPY nowhere FROM STDIN"),
            rows(),
            copy_done(),
            look(),
        ]
        .concat(),
        [copy_data(b"stray"), copy_done(), copy_fail("stray"), look()].concat(),
        [extended(), sync(), rows(), copy_done(), sync(), look()].concat(),
        [extended(), rows(), copy_done(), sync(), look()].concat(),
        [
            extended(),
            rows(),
            copy_fail("no"),
            unnamed("SELECT 'skipped'", &[]),
            sync(),
            look(),
        ]
        .concat(),
        [
            extended(),
            copy_data(b"bad\tx\n"),
            copy_done(),
            unnamed("SELECT 'skipped'", &[]),
            sync(),
            look(),
        ]
        .concat(),
        [
            query("BEGIN"),
            start(),
            rows(),
            copy_done(),
            query("SELECT 1/0"),
            query("ROLLBACK"),
            look(),
        ]
        .concat(),
        [
            query("COPY t FROM STDIN; SELECT 'between'; COPY t FROM STDIN"),
            rows(),
            copy_done(),
            rows(),
            copy_done(),
            look(),
        ]
        .concat(),
        // Anything else inside COPY ends the session.
        [start(), copy_data(b"1\tone\n"), query("SELECT 1")].concat(),
        [start(), parse("", "SELECT 1"), sync()].concat(),
    ]);
}

/// A COPY behind one that fails, in the same write: the end is the second one's, and Syncs belong to either.
#[test]
fn copy_in_behind_one_that_fails() {
    let start = || query("COPY t FROM STDIN");
    let bad = || copy_data(b"bad\tx\n");
    let good = || copy_data(b"1\tone\n");
    let look = || query("TABLE t");
    let extended = || {
        [
            parse("", "COPY t FROM STDIN"),
            bind("", "", &[]),
            execute("", 0),
        ]
        .concat()
    };
    let pipelines: [Vec<Vec<u8>>; 16] = [
        vec![start(), bad(), start(), copy_done(), sync()],
        vec![start(), bad(), start(), copy_fail("no"), sync()],
        vec![start(), bad(), start(), good(), copy_done(), sync(), look()],
        vec![start(), bad(), copy_done(), start(), copy_done(), look()],
        vec![start(), bad(), bad(), start(), bad(), start(), copy_done()],
        vec![start(), bad(), sync(), start(), good(), copy_done(), look()],
        vec![start(), bad(), start(), sync(), good(), copy_done(), look()],
        vec![start(), bad(), unnamed("SELECT 1", &[]), sync(), look()],
        vec![start(), bad(), extended(), copy_done(), sync(), look()],
        vec![
            extended(),
            bad(),
            sync(),
            extended(),
            good(),
            copy_done(),
            sync(),
            look(),
        ],
        vec![extended(), bad(), start(), copy_done(), sync(), look()],
        vec![extended(), bad(), extended(), copy_done(), sync(), look()],
        vec![
            extended(),
            good(),
            copy_done(),
            start(),
            copy_done(),
            sync(),
            look(),
        ],
        vec![extended(), sync(), good(), copy_done(), look()],
        vec![
            query("BEGIN"),
            start(),
            bad(),
            start(),
            copy_done(),
            query("ROLLBACK"),
            look(),
        ],
        // The first goes on when the second comes: that ends the session.
        vec![start(), good(), start(), copy_done(), sync()],
    ];
    let sides = Sides::new(2);
    for pipeline in &pipelines {
        let bytes = pipeline.concat();
        sides.agree_to_the_end(TABLE, &bytes);
        sides.agree_in_parts(TABLE, &bytes, count(7, 1));
    }
}

#[test]
fn copy_in_step_by_step() {
    let sides = Sides::new(1);
    let error_before_done = [
        Step::then_tag(query("COPY t FROM STDIN"), b'G'),
        Step::then_tag(copy_data(b"x\ty\n"), b'Z'),
        Step::then_ready(
            [copy_data(b"1\tone\n"), copy_done(), query("SELECT 1")].concat(),
            1,
        ),
    ];
    sides.agree(TABLE, &error_before_done);
    let extended = [
        parse("", "COPY t FROM STDIN"),
        bind("", "", &[]),
        execute("", 0),
        flush(),
    ]
    .concat();
    sides.agree(
        TABLE,
        &[
            Step::then_tag(extended, b'G'),
            Step::then_tag(
                [copy_data(b"1\tone\n"), copy_done(), flush()].concat(),
                b'C',
            ),
            Step::then_ready(sync(), 1),
            ask("TABLE t"),
        ],
    );
}

/// Whether its Sync came before the error or after, nobody can tell; nor then whose an answer is.
#[test]
fn what_weir_would_say_behind_a_copy_that_may_fail() {
    let starts = [
        parse("", "COPY t FROM STDIN"),
        bind("", "", &[]),
        execute("", 0),
        copy_data(b"y\n"),
        sync(),
        copy_fail("no"),
        copy_done(),
    ]
    .concat();
    let good = [
        parse("", "COPY t FROM STDIN"),
        bind("", "", &[]),
        execute("", 0),
        copy_data(b"1\tx\n"),
        copy_done(),
    ]
    .concat();
    let behind = [
        parse("b", ""),
        parse("", "EXECUTE b"),
        sync(),
        bind("", "b", &[]),
        sync(),
        query("EXECUTE b"),
        query("SELECT count(*) FROM t"),
    ]
    .concat();
    let within = [parse("c", "SELECT 1"), bind("", "c", &[]), execute("", 0)].concat();
    each_agrees(&[
        [starts, behind.clone()].concat(),
        [good.clone(), behind.clone()].concat(),
        [good.clone(), within, sync(), behind.clone()].concat(),
        [good, sync(), behind].concat(),
    ]);
}

/// Nor are answers to messages of Weir's own told from the client's: another's unnamed statement is not closed then.
#[test]
fn behind_a_copy_in_doubt_nothing_of_weirs_is_sent() {
    let sides = Sides::new(1);
    let fails = [
        query("COPY t FROM STDIN"),
        copy_data(b"y\n"),
        sync(),
        copy_done(),
    ];
    for behind in [sync(), [bind("", "", &[]), execute("", 0), sync()].concat()] {
        let another = [unnamed("SELECT 'another'", &[]), sync()].concat();
        assert_eq!(sides.proxy.client().exchange(&another).errors(), []);
        sides.agree(
            TABLE,
            &[
                Step::then_ready(fails.concat(), 1),
                Step::then_pause(sync()),
                Step::then_end([behind, terminate()].concat()),
            ],
        );
    }
}
