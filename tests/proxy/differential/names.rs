//! Invisible: errors say a statement's name as the client has said it.

use super::each_agrees;
use crate::house::sides::Sides;
use crate::house::wire::*;

/// More values than any of the statements takes: the error says which it is.
fn binds_wrongly(name: &str) -> Vec<u8> {
    [bind("", name, &[Some("1"); 3]), sync()].concat()
}

#[test]
fn of_two_names_for_one_text() {
    let text = "SELECT $1::int";
    let parsed: Vec<u8> = ["a", "b", "c"]
        .iter()
        .flat_map(|name| [parse(name, text), sync()].concat())
        .collect();
    each_agrees(&[
        [parsed.clone(), binds_wrongly("a"), binds_wrongly("b")].concat(),
        [parsed.clone(), binds_wrongly("c"), binds_wrongly("a")].concat(),
        [
            parse("a", text),
            binds_wrongly("a"),
            parse("b", text),
            binds_wrongly("b"),
        ]
        .concat(),
        [parse("a", text), parse("b", text), parse("a", text), sync()].concat(),
        [parse("a", text), parse("b", text), parse("b", text), sync()].concat(),
        [
            parsed,
            close(b'S', "a"),
            sync(),
            binds_wrongly("b"),
            parse("a", "SELECT $1::text"),
            binds_wrongly("a"),
            binds_wrongly("c"),
        ]
        .concat(),
    ]);
}

/// PostgreSQL tells 63 bytes apart, and repeats what it was told.
#[test]
fn longer_than_are_told_apart() {
    let long = "n".repeat(63) + "ever";
    let same = "n".repeat(63) + "theless";
    let exact = "n".repeat(63);
    let text = "SELECT $1::int";
    let parsed = [parse(&long, text), sync()].concat();
    let runs = |name: &str| [bind("", name, &[Some("7")]), execute("", 0), sync()].concat();
    let mut pipelines = vec![[binds_wrongly(&long), parsed.clone(), binds_wrongly(&long)].concat()];
    for name in [&long, &same, &exact] {
        pipelines.extend([
            [parsed.clone(), runs(name), binds_wrongly(name)].concat(),
            [parsed.clone(), parse(name, text), sync(), runs(name)].concat(),
            [parsed.clone(), parse(name, "SELECT 2"), sync(), runs(name)].concat(),
            [parsed.clone(), close(b'S', name), sync(), runs(name)].concat(),
            [parsed.clone(), close(b'S', name), runs(&long)].concat(),
        ]);
    }
    each_agrees(&pipelines);
}

/// A name that SQL has prepared clashes with one of the protocol from then on: also while the server is being asked what
/// has become of it.
#[test]
fn a_name_clashes_while_the_server_is_asked_about_it() {
    let bytes = [
        parse("b", "SET DateStyle = 'SQL'"),
        query("SELECT 1; SELECT 2"),
        parse("", "SELECT 1/0"),
        bind("", "", &[Some("1")]),
        query("LISTEN here"),
        sync(),
        query("PREPARE a AS SELECT 7"),
        parse("a", "SHOW DateStyle"),
        sync(),
    ];
    let sides = Sides::new(1);
    for _ in 0..20 {
        sides.agree_to_the_end("", &bytes.concat());
    }
}
