//! Named statements: what goes to a server in place of what the client says.
//!
//! A server's name for a statement is shown as `w`.

use super::*;
use crate::protocol::names::NameAt;

fn describe(name: &str) -> Vec<u8> {
    frame(b'D', &[b"S", name.as_bytes(), b"\0"].concat())
}

fn close(name: &str) -> Vec<u8> {
    frame(b'C', &[b"S", name.as_bytes(), b"\0"].concat())
}

/// Frames by their tags, those that name a statement with the name.
fn names(mut bytes: &[u8]) -> String {
    let mut words = Vec::new();
    while let Some(Ok(head)) = Head::parse(bytes) {
        let (frame, rest) = bytes.split_at(head.frame_bytes());
        let name = NameAt::find(head.tag, frame).map(|at| at.of(frame));
        words.push(match name {
            None | Some(b"") => (head.tag as char).to_string(),
            Some(name) if name.starts_with(b"weir_") => format!("{}:w", head.tag as char),
            Some(name) => format!("{}:{}", head.tag as char, String::from_utf8_lossy(name)),
        });
        bytes = rest;
    }
    assert!(bytes.is_empty(), "whole frames");
    words.join(" ")
}

impl Talk {
    /// What went to the server since this was last asked.
    fn went(&mut self) -> String {
        self.log.clear();
        names(&std::mem::take(&mut self.sent))
    }

    /// The server refuses a message that uses a statement. Whether the unit is tried again.
    fn fails(&mut self, sqlstate: &[u8], routine: &[u8]) -> bool {
        let ledger = self.ledger.as_mut().expect("a server");
        ledger.error();
        let failed = ledger.failed_use().expect("a use");
        let (core, statements) = (&mut self.core, &mut self.statements);
        core.note_outcomes(ledger, statements);
        core.use_failed(failed.uses, sqlstate, routine, statements);
        let unit = core.try_again(failed, Sent::All, ledger, &mut self.sent);
        let tried = unit.is_some();
        self.pending.splice(..0, unit.unwrap_or_default());
        self.drive();
        tried
    }

    /// What the pump does not keep: another server, which has nothing prepared.
    fn elsewhere(&mut self) -> &mut Self {
        assert!(self.ledger.is_none(), "a server is in use: {}", self.log);
        self.statements = Statements::new(3);
        self
    }
}

/// A client that has parsed `a` and `b`.
fn prepared() -> Talk {
    let mut talk = talk();
    talk.client(&[parse("a", "SELECT 1"), parse("b", "SELECT 2"), sync()].concat());
    talk.server("311Z");
    assert!(talk.ledger.is_none() && talk.reasons().is_empty());
    talk.went();
    talk
}

#[test]
fn what_goes_to_a_server_that_has_them() {
    // The unnamed statement of a stranger is closed first.
    let cases: [(Vec<u8>, &str); 10] = [
        ([bind("a"), execute(), sync()].concat(), "C B:w E S"),
        ([describe("b"), sync()].concat(), "C D:w S"),
        ([close("a"), bind("a"), sync()].concat(), "C C:a B:a S"),
        ([bind("c"), describe("c"), sync()].concat(), "C B:c D:c S"),
        ([parse("c", "SELECT 1"), sync()].concat(), "C D:w S"),
        (
            [parse("c", "SELECT 1"), bind("c"), execute(), sync()].concat(),
            "C D:w B:w E S",
        ),
        ([parse("a", "SELECT 3"), sync()].concat(), "C P:w S"),
        ([query("DEALLOCATE a")].concat(), "C:a P:a Q"),
        ([query("DEALLOCATE \"c\"")].concat(), "Q"),
        ([query("EXECUTE b")].concat(), "C:b P:b Q"),
    ];
    for (client, server) in cases {
        let mut talk = prepared();
        talk.client(&client);
        assert_eq!(talk.went(), server, "{}", names(&client));
    }
}

#[test]
fn what_goes_to_a_server_that_lacks_them() {
    let cases: [(Vec<u8>, &str); 4] = [
        ([bind("a"), execute(), sync()].concat(), "C P:w B:w E S"),
        (
            [describe("a"), bind("a"), bind("b"), sync()].concat(),
            "C P:w D:w B:w P:w B:w S",
        ),
        ([parse("c", "SELECT 1"), sync()].concat(), "C P:w S"),
        ([close("a"), sync()].concat(), "C C:a S"),
    ];
    for (client, server) in cases {
        let mut talk = prepared();
        talk.elsewhere().client(&client);
        assert_eq!(talk.went(), server, "{}", names(&client));
    }
}

/// What the server made of it, and what a Bind of the name means then.
#[test]
fn names_follow_the_outcomes() {
    let parse_c = [parse("c", "SELECT 3"), sync()].concat();
    let cases: [(Vec<u8>, &str, &str, &str); 8] = [
        (parse_c.clone(), "31Z", "c", "C B:w S"),
        (parse_c.clone(), "3EZ", "c", "C B:c S"),
        ([bind("none"), parse_c].concat(), "3EZ", "c", "C B:c S"),
        ([close("a"), sync()].concat(), "33Z", "a", "C B:a S"),
        (
            [bind("none"), close("a"), sync()].concat(),
            "3EZ",
            "a",
            "C B:w S",
        ),
        (query("DEALLOCATE a"), "31CZ 3Z", "a", "C B:a S"),
        (query("DEALLOCATE a"), "31EZ 3Z", "a", "C B:w S"),
        (query("DEALLOCATE ALL"), "CZ", "a", "B:a S"),
    ];
    for (client, replies, name, bound) in cases {
        let mut talk = prepared();
        talk.client(&client);
        for replies in replies.split(' ') {
            talk.server(replies);
        }
        assert!(talk.ledger.is_none(), "{} is over", names(&client));
        talk.went();
        talk.client(&[bind(name), sync()].concat());
        let went = talk.went();
        let went = if bound.starts_with('C') {
            &*went
        } else {
            went.trim_start_matches("C ")
        };
        assert_eq!(went, bound, "{} {replies}", names(&client));
    }
}

#[test]
fn a_later_sequence_waits_for_what_an_earlier_one_changes() {
    let mut talk = talk();
    let uses = [bind("a"), execute(), sync()].concat();
    talk.client(&[parse("a", "SELECT 1"), sync(), uses].concat());
    assert_eq!(talk.went(), "C P:w S");
    talk.server("31");
    assert_eq!(talk.went(), "B:w E S");
    talk.server("Z2CZ");
    assert!(talk.ledger.is_none());
}

#[test]
fn in_a_failed_transaction_a_parse_is_postgresqls_to_refuse() {
    let mut talk = prepared();
    talk.client(&query("BEGIN; SELECT 1/0")).server("CEf");
    talk.went();
    talk.client(&[parse("c", "SELECT 1"), sync()].concat());
    assert_eq!(talk.went(), "C P:w S");
    talk.server("3Ef");
    // Nobody has lost the statement over that.
    talk.client(&query("ROLLBACK")).server("CZ");
    talk.went();
    talk.client(&[bind("a"), bind("c"), sync()].concat());
    assert_eq!(talk.went(), "C B:w B:c S");
}

#[test]
fn in_one_that_may_have_failed_by_then_too() {
    let mut talk = prepared();
    talk.client(&[bind("a"), sync()].concat());
    talk.went();
    talk.client(&[parse("c", "SELECT 1"), sync()].concat());
    assert_eq!(talk.went(), "P:w S");
}

#[test]
fn what_was_used_longest_ago_makes_room() {
    let mut talk = prepared();
    talk.client(&[bind("a"), parse("c", "SELECT 3"), sync()].concat());
    assert_eq!(talk.went(), "C B:w P:w S");
    talk.server("321Z");
    talk.client(&[parse("d", "SELECT 4"), sync()].concat());
    assert_eq!(talk.went(), "C C:w P:w S");
    talk.server("331Z");
    // `b` is gone, `a` is not.
    talk.client(&[bind("a"), sync()].concat());
    assert_eq!(talk.went(), "C B:w S");
    talk.server("32Z");
    talk.client(&[bind("b"), sync()].concat());
    assert_eq!(talk.went(), "C C:w P:w B:w S");
}

#[test]
fn no_room_in_the_table_pins() {
    let table = Arc::new(Table::new(
        Terms {
            max: 1,
            limit_bytes: 1 << 20,
        },
        Edition::default(),
    ));
    let mut talk = talk_with(&table);
    talk.client(&[parse("a", "SELECT 1"), parse("b", "SELECT 2"), sync()].concat());
    assert_eq!(talk.went(), "C P:w P:b S");
    assert_eq!(talk.reasons(), ["named_statement"]);
    talk.server("311Z");
    talk.client(&[bind("a"), bind("b"), sync()].concat());
    assert_eq!(talk.went(), "B:w B:b S");
}

#[test]
fn a_broken_copy_is_parsed_anew() {
    let mut talk = prepared();
    let id = talk
        .core
        .named
        .live()
        .find(|(name, _)| *name == b"a")
        .unwrap()
        .1
        .id;
    assert_eq!(talk.core.name_of(0, id), Some(&b"a"[..]));
    let routine = b"RevalidateCachedQuery";
    talk.core
        .use_failed(id, b"0A000", routine, &mut talk.statements);
    talk.client(&[bind("a"), sync()].concat());
    assert_eq!(talk.went(), "C C:w P:w B:w S");
    talk.server("3312Z");
    // Whoever parses it from here on has another.
    talk.client(&[parse("c", "SELECT 1"), sync()].concat());
    assert!(talk.went().ends_with("P:w S"));
}

/// A portal's DEALLOCATE counts when that portal is executed.
#[test]
fn a_change_waits_for_its_portal() {
    let bind_to = |portal: &str, name: &str| {
        let body = [portal.as_bytes(), b"\0", name.as_bytes(), &[0; 7]].concat();
        frame(b'B', &body)
    };
    let run = |portal: &str| frame(b'E', &[portal.as_bytes(), &[0; 5]].concat());
    let ahead = [parse("d", "DEALLOCATE ALL"), bind_to("p", "d"), bind("a")].concat();
    let cases: [(Vec<u8>, &str, &str); 3] = [
        (run(""), "3122CZ", "C B:w S"),
        (run("p"), "3122CZ", "C B:a S"),
        // Bound anew.
        ([bind_to("p", "b"), run("p")].concat(), "31222CZ", "C B:w S"),
    ];
    for (executed, replies, bound) in cases {
        let mut talk = prepared();
        talk.client(&[ahead.clone(), executed, sync()].concat());
        talk.server(replies);
        talk.went();
        talk.client(&[bind("a"), sync()].concat());
        assert_eq!(talk.went(), bound, "{replies}");
    }
}

/// A server is told to drop what it was thought to have lost, and one that has lost it is made as new.
#[test]
fn what_may_be_gone_is_closed_first() {
    let mut talk = prepared();
    talk.client(&query("DEALLOCATE ALL")).server("CZ");
    talk.went();
    talk.client(&[parse("a", "SELECT 1"), bind("a"), sync()].concat());
    assert_eq!(talk.went(), "C C:w P:w B:w S");
}

#[test]
fn a_server_that_was_misjudged_is_not_trusted() {
    for (has, sqlstate, trust) in [
        (true, b"26000", Trust::Lost),
        (true, b"42P05", Trust::Kept),
        (false, b"42P05", Trust::Lost),
        (true, b"22012", Trust::Kept),
    ] {
        let mut talk = prepared();
        let id = {
            let mut live = talk.core.named.live();
            live.find(|(name, _)| *name == b"a").unwrap().1.id
        };
        if !has {
            talk.elsewhere();
        }
        let told = talk
            .core
            .use_failed(id, sqlstate, b"", &mut talk.statements);
        assert_eq!(told, trust);
        if trust == Trust::Lost {
            talk.client(&[bind("a"), sync()].concat());
            assert_eq!(talk.went(), "C C:w P:w B:w S");
        }
    }
}

#[test]
fn a_name_is_closed_without_a_server() {
    for (ahead, bound) in [(vec![], "C B:a S"), (bind("b"), "C B:w S")] {
        let mut talk = prepared();
        talk.client(&query("BEGIN"));
        super::refusing::refused(&mut talk, &query("SELECT 1"));
        talk.client(&[ahead, close("a"), sync(), query("ROLLBACK")].concat());
        assert!(talk.ledger.is_none());
        talk.went();
        talk.client(&[bind("a"), sync()].concat());
        assert_eq!(talk.went(), bound);
    }
}

/// What was sent from a Parse on that the server's older statement stood for is sent again.
#[test]
fn a_unit_is_tried_twice_over_an_outdated_copy() {
    let unit = [parse("c", "SELECT 1"), bind("c"), execute(), sync()].concat();
    let flushed = [parse("c", "SELECT 1"), describe("c"), frame(b'H', b"")].concat();
    let cases = [
        (vec![], &unit, "C D:w B:w E S", "3", "P:w B:w E S"),
        (
            [close("x"), describe("b")].concat(),
            &unit,
            "C C:x D:w D:w B:w E S",
            "33tT",
            "P:w B:w E S",
        ),
        (vec![], &flushed, "C D:w D:w H", "3", "S P:w D:w H"),
        // That portal would be gone, and that transaction.
        (bind("a"), &unit, "C B:w D:w B:w E S", "32", ""),
        (query("BEGIN"), &unit, "Q C D:w B:w E S", "Cz3", ""),
    ];
    for (ahead, unit, went, answered, again) in cases {
        let mut talk = prepared();
        talk.client(&[&*ahead, unit].concat());
        assert_eq!(talk.went(), went);
        talk.server(answered);
        let tried = talk.fails(b"0A000", b"RevalidateCachedQuery");
        assert_eq!(tried, !again.is_empty(), "{went}");
        assert_eq!(talk.went(), again);
    }
}

#[test]
fn cuts_change_nothing() {
    let conversation = [
        parse("a", "SELECT 1"),
        describe("a"),
        bind("a"),
        execute(),
        sync(),
        bind("a"),
        close("a"),
        sync(),
        query("DEALLOCATE b"),
    ]
    .concat();
    let mut whole = prepared();
    whole.client(&conversation);
    for cut in 0..conversation.len() {
        let mut talk = prepared();
        talk.client(&conversation[..cut])
            .client(&conversation[cut..]);
        let _ = talk.went();
    }
    let mut slowly = prepared();
    slowly.client(&[close("a"), sync()].concat()).server("33Z");
    slowly.went();
    slowly.client_slowly(&conversation[..conversation.len() - query("DEALLOCATE b").len()]);
    assert_eq!(slowly.went(), "C D:w D:w B:w E S");
}
