//! Invisible: a text parsed after a change to what it names means what it has come to mean, whoever parsed it before.

use crate::house::sides::Sides;
use crate::house::wire::*;
use crate::house::{Answer, Client, Login};

/// One of two clients, and what it sends in one go.
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

/// What two clients hear who take turns.
fn heard(login: &Login, turns: &[Turn]) -> Vec<String> {
    let mut clients: [Client; 2] = [login.connect(), login.connect()];
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
    let expected = heard(&sides.direct, turns);
    let seen = heard(&sides.through, turns);
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
