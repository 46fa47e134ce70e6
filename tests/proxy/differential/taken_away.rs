//! Invisible: what one client has taken away, another still has; what it has given up itself is gone.

use super::redefined::{Turn, agree};
use crate::house::sides::Sides;
use crate::house::wire::*;

fn turn(client: usize, parts: &[Vec<u8>]) -> Turn {
    Turn {
        client,
        bytes: parts.concat(),
    }
}

/// The statement `v` is bound and run.
fn runs(client: usize, name: &str) -> Turn {
    turn(client, &[bind("", name, &[]), execute("", 0), sync()])
}

#[test]
fn a_deallocate_that_is_bound_and_not_run() {
    let bound = [
        parse("d", "DEALLOCATE ALL"),
        parse("s", "SELECT 1"),
        bind("p", "d", &[]),
        bind("", "s", &[]),
        execute("", 0),
        sync(),
    ];
    agree(
        1,
        &[
            turn(1, &[parse("v", "SELECT 41"), sync()]),
            runs(1, "v"),
            turn(0, &bound),
            runs(0, "s"),
            runs(1, "v"),
            turn(0, &[parse("t", "SELECT 41"), sync()]),
            runs(0, "t"),
            runs(1, "v"),
        ],
    );
}

#[test]
fn a_deallocate_whose_portal_is_run_later() {
    let later = [
        query("BEGIN"),
        parse("d", "DEALLOCATE ALL"),
        parse("s", "SELECT 2"),
        bind("p", "d", &[]),
        bind("", "s", &[]),
        execute("", 0),
        sync(),
        execute("p", 0),
        sync(),
        query("COMMIT"),
    ];
    agree(
        1,
        &[
            turn(1, &[parse("v", "SELECT 42"), sync()]),
            turn(0, &later[..1]),
            turn(0, &later[1..7]),
            turn(0, &later[7..9]),
            turn(0, &later[9..]),
            runs(0, "s"),
            runs(1, "v"),
            runs(1, "v"),
        ],
    );
}

#[test]
fn statements_that_anothers_routine_has_taken_away() {
    let wipe = "DO $$BEGIN EXECUTE 'DEALLOCATE ALL'; END$$";
    let unseen = [
        vec![query(wipe)],
        vec![unnamed(wipe, &[]), sync()],
        vec![
            parse("w", wipe),
            bind("p", "w", &[]),
            bind("q", "x", &[]),
            execute("p", 0),
            sync(),
        ],
    ];
    for wipe in unseen {
        agree(
            1,
            &[
                turn(1, &[parse("v", "SELECT 43"), sync()]),
                turn(0, &[parse("x", "SELECT 7"), sync()]),
                runs(1, "v"),
                turn(0, &wipe),
                runs(1, "v"),
                turn(
                    1,
                    &[
                        parse("x", "SELECT 7"),
                        bind("", "x", &[]),
                        execute("", 0),
                        sync(),
                    ],
                ),
                runs(1, "v"),
            ],
        );
    }
}

/// A client reads what the server calls another's statement, and says that name.
#[test]
fn a_servers_names_are_nobodys() {
    let sides = Sides::new(1);
    let (mut mine, mut theirs) = (sides.through.connect(), sides.through.connect());
    let runs = |name: &str| [bind("", name, &[]), execute("", 0), sync()].concat();
    mine.send(&[parse("v", "SELECT 44"), sync()].concat());
    mine.replies(1);
    theirs.send(&query(
        "SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT 44'",
    ));
    let name = theirs.replies(1).rows()[0][0].clone().unwrap();
    let attempts = [
        (runs(&name), "26000"),
        ([describe(b'S', &name), sync()].concat(), "26000"),
        ([close(b'S', &name), sync()].concat(), ""),
        ([parse(&name, "SELECT 45"), sync()].concat(), ""),
        (runs(&name), ""),
        ([close(b'S', &name), sync()].concat(), ""),
        (query(&format!("DEALLOCATE {name}")), "26000"),
        (query(&format!("EXECUTE {name}")), "26000"),
        (query(&format!("DEALLOCATE \"{name}\"; SELECT 1")), "26000"),
        (query(&format!("EXPLAIN EXECUTE {name}")), "26000"),
        (
            [unnamed(&format!("EXECUTE {name}"), &[]), sync()].concat(),
            "26000",
        ),
        (
            [parse("p", &format!("EXECUTE {name}")), sync()].concat(),
            "",
        ),
        (runs("p"), "26000"),
        (
            query(&format!("DO $$BEGIN EXECUTE 'EXECUTE {name}'; END$$")),
            "26000",
        ),
        (query(&format!("SELECT '{name}'")), ""),
        ([parse(&name, "SELECT 45"), sync()].concat(), ""),
        (query("DEALLOCATE ALL; SELECT 1"), ""),
    ];
    for (attempt, code) in attempts {
        theirs.send(&attempt);
        let answer = theirs.replies(1);
        assert_eq!(answer.code(), code, "{}", attempt.escape_ascii());
        mine.send(&runs("v"));
        assert_eq!(mine.replies(1).rows()[0][0].as_deref(), Some("44"));
    }
}

/// The server alone knows how far a text has come that failed.
#[test]
fn texts_that_take_away_and_fail() {
    let texts = [
        "DEALLOCATE s; SELECT 1/0",
        "SELECT 1/0; DEALLOCATE s",
        "DEALLOCATE s; SELEC",
        "DEALLOCATE ALL; SELECT 1/0",
        "DEALLOCATE ALL; SELEC",
        "DEALLOCATE s; SELECT 1",
        "DEALLOCATE s; PREPARE s AS SELECT 7",
        "EXECUTE s; DEALLOCATE s; PREPARE s AS SELECT 7; EXECUTE s",
        "DEALLOCATE s; PREPARE s AS SELECT 7; SELECT 1/0",
        "DEALLOCATE s; SELECT 1/0; PREPARE s AS SELECT 7",
        "DEALLOCATE ALL; PREPARE s AS SELECT 7",
    ];
    for text in texts {
        agree(
            1,
            &[
                turn(0, &[parse("s", "SELECT 3"), parse("o", "SELECT 4"), sync()]),
                turn(0, &[query(text)]),
                runs(0, "s"),
                runs(0, "o"),
                turn(0, &[query("EXECUTE s")]),
                turn(0, &[parse("s", "SELECT 5"), sync()]),
                runs(0, "s"),
                turn(0, &[query("DISCARD ALL")]),
                turn(1, &[parse("v", "SELECT 3"), sync()]),
                runs(1, "v"),
                runs(1, "s"),
            ],
        );
    }
}

/// Nor does such a client keep its server where the answer tells.
#[test]
fn a_text_that_began_with_a_deallocate_leaves_the_server() {
    for text in [
        "DEALLOCATE s; SELECT 1/0",
        "DEALLOCATE ALL; SELECT 1/0",
        "DEALLOCATE ALL; SELEC",
        "SELECT 1/0; DEALLOCATE s",
    ] {
        agree(
            1,
            &[
                turn(1, &[parse("v", "SELECT 44"), sync()]),
                turn(0, &[parse("s", "SELECT 3"), parse("o", "SELECT 4"), sync()]),
                turn(0, &[query(text)]),
                runs(1, "v"),
                runs(0, "s"),
                runs(0, "o"),
                runs(1, "v"),
                runs(1, "s"),
            ],
        );
    }
}
