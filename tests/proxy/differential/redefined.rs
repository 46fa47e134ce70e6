//! Invisible: a text parsed after a change to what it names means what it has come to mean, whoever parsed it before.

use crate::house::sides::Sides;
use crate::house::wire::*;
use crate::house::{Answer, Client, Login};

/// The client that knows nothing of Weir.
const OUTSIDE: usize = 2;

/// One of the clients, and what it sends in one go.
pub struct Turn {
    pub client: usize,
    pub bytes: Vec<u8>,
}

/// A whole unit that parses a text under this name, has it described and run.
fn uses(client: usize, name: &str, text: &str) -> Turn {
    let bytes = [
        parse(name, text),
        describe(b'S', name),
        bind("", name, &[]),
        execute("", 0),
        sync(),
    ];
    Turn {
        client,
        bytes: bytes.concat(),
    }
}

fn says(client: usize, text: &str) -> Turn {
    Turn {
        client,
        bytes: query(text),
    }
}

/// Types of the columns that are described; those that a user has made have other numbers each time.
fn types(answer: &Answer) -> Vec<u32> {
    let described = answer.frames.iter().filter(|frame| frame.tag == b'T');
    let mut types = Vec::new();
    for frame in described {
        let mut rest = &frame.body[2..];
        while let Some(end) = rest.iter().position(|&byte| byte == 0) {
            let fields = &rest[end + 1..];
            let oid = u32::from_be_bytes(fields[6..10].try_into().unwrap());
            types.push(oid.min(16_384));
            rest = &fields[18..];
        }
    }
    types
}

/// What clients hear who take turns.
fn heard(sides: &Sides, login: &Login, turns: &[Turn]) -> Vec<String> {
    let logins = [login, login, &sides.direct];
    let mut clients: [Client; 3] = logins.map(Login::connect);
    let mut heard = Vec::new();
    for Turn { client, bytes } in turns {
        let readies = bytes.windows(5).filter(|part| part == b"S\0\0\0\x04");
        let queries = usize::from(bytes[0] == b'Q');
        let count = readies.count() + queries;
        clients[*client].send(bytes);
        let answer = clients[*client].replies(count);
        let (rows, code) = (answer.rows(), answer.code());
        let told = (answer.tags(), types(&answer), rows, code);
        heard.push(format!("{told:?} after {}", bytes.escape_ascii()));
    }
    heard
}

pub fn agree(cap: usize, turns: &[Turn]) {
    let sides = Sides::new(cap);
    let grant = "GRANT CREATE ON SCHEMA public TO app";
    sides.postgres.sql_in(&sides.database, grant);
    let expected = heard(&sides, &sides.direct, turns);
    let seen = heard(&sides, &sides.through, turns);
    for (expected, seen) in expected.iter().zip(&seen) {
        assert_eq!(seen, expected);
    }
}

const ALL: &str = "SELECT * FROM changing";

fn around(change: &[&str]) -> Vec<Turn> {
    let mut turns = vec![
        says(
            0,
            "CREATE TABLE changing (a int); INSERT INTO changing VALUES (1)",
        ),
        uses(0, "a", ALL),
        uses(1, "b", ALL),
    ];
    turns.extend(change.iter().map(|text| says(0, text)));
    turns.extend([
        uses(1, "c", ALL),
        uses(0, "d", ALL),
        uses(1, "e", ALL),
        says(0, "DROP TABLE changing"),
    ]);
    turns
}

#[test]
fn tables_that_were_altered() {
    let changes: [&[&str]; 5] = [
        &["ALTER TABLE changing ALTER a TYPE text"],
        &[
            "DROP TABLE changing",
            "CREATE TABLE changing (b bigint, c date)",
        ],
        &["BEGIN", "ALTER TABLE changing ADD b int", "COMMIT"],
        &["BEGIN; ALTER TABLE changing ADD b int; COMMIT"],
        &["DO $$BEGIN EXECUTE 'ALTER TABLE changing ADD b int'; END$$"],
    ];
    for cap in [1, 2] {
        for change in changes {
            agree(cap, &around(change));
        }
    }
}

#[test]
fn types_that_were_replaced() {
    const VALUE: &str = "SELECT NULL::kind AS a";
    agree(
        1,
        &[
            says(0, "CREATE TYPE kind AS ENUM ('a')"),
            uses(0, "a", VALUE),
            says(0, "DROP TYPE kind"),
            uses(1, "gone", VALUE),
            says(1, "CREATE DOMAIN kind AS text"),
            uses(0, "b", VALUE),
            uses(1, "c", VALUE),
            says(0, "DROP DOMAIN kind"),
        ],
    );
}

#[test]
fn changes_that_are_taken_back() {
    agree(
        1,
        &[
            says(0, "CREATE TABLE changing (a int)"),
            uses(1, "a", ALL),
            says(0, "BEGIN"),
            uses(0, "a", ALL),
            says(0, "ALTER TABLE changing ADD b text"),
            uses(0, "b", ALL),
            says(0, "SAVEPOINT s"),
            says(0, "ALTER TABLE changing ADD c text"),
            uses(0, "c", ALL),
            says(0, "ROLLBACK TO s"),
            uses(0, "d", ALL),
            says(0, "ROLLBACK"),
            uses(0, "e", ALL),
            uses(1, "f", ALL),
            says(0, "DROP TABLE changing"),
        ],
    );
}

/// The text is parsed anew before the answer to the change is there.
#[test]
fn changes_on_their_way() {
    let change = "ALTER TABLE changing ADD b text";
    let simple = [query(change), uses(0, "b", ALL).bytes].concat();
    let extended = [unnamed(change, &[]), sync(), uses(0, "b", ALL).bytes].concat();
    let one_unit = [unnamed(change, &[]), uses(0, "b", ALL).bytes].concat();
    for bytes in [simple, extended, one_unit] {
        agree(
            1,
            &[
                says(1, "CREATE TABLE changing (a int)"),
                uses(0, "a", ALL),
                uses(1, "a", ALL),
                Turn { client: 0, bytes },
                uses(1, "b", ALL),
                says(1, "DROP TABLE changing"),
            ],
        );
    }
}

/// Weir hears nothing of the change. What was parsed before it is on some servers, and stands for nothing that is parsed
/// after it.
#[test]
fn changes_by_somebody_else() {
    let changes = [
        "ALTER TABLE changing ALTER a TYPE text",
        "ALTER TABLE changing ADD b int",
        "DROP TABLE changing; CREATE TABLE changing (b bigint, c date)",
        "DROP TABLE changing; CREATE VIEW changing AS SELECT 1 AS one",
    ];
    for cap in [1, 2] {
        for change in changes {
            let kind = if change.contains("VIEW") {
                "VIEW"
            } else {
                "TABLE"
            };
            agree(cap, &changed_outside(cap, change, kind));
        }
    }
}

fn changed_outside(cap: usize, change: &str, kind: &str) -> Vec<Turn> {
    let mut turns = vec![
        says(OUTSIDE, "CREATE TABLE changing (a int)"),
        uses(0, "a", ALL),
        uses(1, "b", ALL),
        says(OUTSIDE, change),
    ];
    if cap > 1 {
        // On a server each.
        turns.extend([says(1, "BEGIN"), says(1, "SELECT 1")]);
    }
    turns.push(uses(0, "c", ALL));
    if cap > 1 {
        turns.push(says(1, "COMMIT"));
    }
    let begun = [parse("d", ALL), describe(b'S', "d"), flush()].concat();
    let rest = [bind("", "d", &[]), execute("", 0), sync()].concat();
    turns.extend([
        Turn {
            client: 1,
            bytes: begun,
        },
        Turn {
            client: 1,
            bytes: rest,
        },
        uses(0, "e", ALL),
        says(OUTSIDE, &format!("DROP {kind} changing")),
        uses(1, "gone", ALL),
    ]);
    turns
}

/// The Parse stands behind others, and before units that must not overtake it.
#[test]
fn changes_by_somebody_else_within_pipelines() {
    let insert = "INSERT INTO t SELECT 1";
    let runs = |name: &str| [bind("", name, &[]), execute("", 0)].concat();
    let pipelines = [
        [
            parse("b", insert),
            parse("c", ALL),
            runs("b"),
            runs("c"),
            sync(),
            query("SELECT count(*) FROM t"),
        ],
        [
            parse("b", ALL),
            parse("c", ALL),
            describe(b'S', "c"),
            runs("c"),
            sync(),
            [runs("b"), sync()].concat(),
        ],
        [
            parse("b", ALL),
            sync(),
            [parse("c", insert), runs("c"), sync()].concat(),
            parse("d", "SELECT count(*) FROM t"),
            runs("d"),
            [sync(), runs("b"), sync()].concat(),
        ],
        [
            parse("b", "SELECT 1/0, * FROM changing"),
            runs("b"),
            sync(),
            parse("b", ALL),
            runs("b"),
            sync(),
        ],
    ];
    for pipeline in pipelines {
        let bytes = pipeline.concat();
        agree(
            1,
            &[
                says(OUTSIDE, "TRUNCATE t; CREATE TABLE changing (a int)"),
                uses(0, "a", ALL),
                uses(0, "zero", "SELECT 1/0, * FROM changing"),
                uses(0, "insert", insert),
                says(OUTSIDE, "ALTER TABLE changing ADD b text"),
                Turn { client: 1, bytes },
                uses(1, "e", ALL),
                says(OUTSIDE, "DROP TABLE changing"),
            ],
        );
    }
}
