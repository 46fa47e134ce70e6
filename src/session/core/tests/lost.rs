//! A server that is lost, in each state that a conversation can be in.

use super::*;
use crate::protocol::frame::put_cstr;

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, tag, |to| to.extend_from_slice(body));
    out
}

fn query(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, b'Q', |body| put_cstr(body, text.as_bytes()));
    out
}

/// Parse, Bind, Execute; no Sync.
fn unsynced(text: &str) -> Vec<u8> {
    let parse = [&b"\0"[..], text.as_bytes(), b"\0\0\0"].concat();
    [
        frame(b'P', &parse),
        frame(b'B', &[0; 8]),
        frame(b'E', &[0; 5]),
    ]
    .concat()
}

fn synced(text: &str) -> Vec<u8> {
    [unsynced(text), frame(b'S', b"")].concat()
}

fn words() -> Words {
    let reply = |sqlstate| ErrorReply {
        severity: Severity::Error,
        sqlstate,
        message: String::new(),
        detail: None,
        hint: None,
    };
    Words {
        undone: reply(SqlState::CONNECTION_FAILURE),
        unknown: reply(SqlState::TRANSACTION_RESOLUTION_UNKNOWN),
        alone: reply(SqlState::ADMIN_SHUTDOWN),
    }
}

/// The server is lost: what the client is told at once.
fn lose(talk: &mut Talk) -> Loss {
    let mut ledger = talk.ledger.take().expect("a server");
    let mut answer = Vec::new();
    let loss = talk
        .core
        .lost(&mut ledger, &mut talk.statements, &words(), &mut answer);
    talk.told.extend_from_slice(&answer);
    loss
}

#[test]
fn what_is_owed_is_answered() {
    // What was sent, what the server said of it (after which the log is dropped), what becomes of it, and what the client
    // is told.
    let begun = query("BEGIN");
    type Case = (&'static str, Vec<Vec<u8>>, &'static str, Loss, &'static str);
    let cases: Vec<Case> = vec![
        ("alone", vec![query("INSERT")], "", Loss::Unknown, "<EZi"),
        (
            "alone, rows came",
            vec![query("SELECT")],
            "TD",
            Loss::Unknown,
            "<EZi",
        ),
        (
            "alone, refused",
            vec![query("SELECT")],
            "E",
            Loss::Undone,
            "<Zi",
        ),
        (
            "first of a transaction",
            vec![begun.clone(), query("INSERT")],
            "",
            Loss::Undone,
            "<EZe",
        ),
        (
            "a later one",
            vec![begun.clone(), query("INSERT"), query("SELECT")],
            "CzCz",
            Loss::Undone,
            "<EZe",
        ),
        (
            "COMMIT",
            vec![begun.clone(), query("INSERT"), query("COMMIT")],
            "CzCz",
            Loss::Unknown,
            "<EZi",
        ),
        (
            "COMMIT, extended",
            vec![begun.clone(), query("INSERT"), synced("COMMIT")],
            "CzCz",
            Loss::Unknown,
            "<EZi",
        ),
        (
            "ROLLBACK",
            vec![begun.clone(), query("INSERT"), query("ROLLBACK")],
            "CzCz",
            Loss::Undone,
            "<EZi",
        ),
        (
            "no Sync yet",
            vec![[unsynced("INSERT"), frame(b'H', b"")].concat()],
            "12C",
            Loss::Undone,
            "<E",
        ),
        (
            "synced",
            vec![synced("INSERT")],
            "12",
            Loss::Unknown,
            "<EZi",
        ),
        (
            "two Syncs",
            vec![synced("INSERT").repeat(2)],
            "",
            Loss::Unknown,
            "<EZiEZi",
        ),
        (
            "two, in a transaction",
            vec![begun.clone(), query("INSERT"), synced("INSERT").repeat(2)],
            "CzCz",
            Loss::Undone,
            "<EZeEZe",
        ),
        (
            "COPY",
            vec![query("COPY t FROM STDIN")],
            "G",
            Loss::Unknown,
            "<EZi",
        ),
    ];
    for (what, sent, replies, loss, told) in cases {
        let mut talk = talk();
        let mut replies = replies;
        for (number, message) in sent.iter().enumerate() {
            talk.client(message);
            // In a transaction each is answered before the next is sent.
            if number > 0 && number + 1 < sent.len() && replies.len() >= 4 {
                talk.server(&replies[..4]);
                replies = &replies[4..];
            }
        }
        talk.server(replies);
        talk.done();
        assert_eq!(lose(&mut talk), loss, "{what}");
        assert_eq!(talk.done(), told, "{what}");
        assert!(!talk.core.is_mid_frame(), "{what}");
    }
}

#[test]
fn one_who_asked_for_nothing_hears_of_it_later_or_never() {
    let lost_in_transaction = || {
        let mut talk = talk();
        talk.client(&query("BEGIN"))
            .client(&query("INSERT"))
            .server("CzCz");
        talk.done();
        assert_eq!(lose(&mut talk), Loss::Undone);
        assert_eq!(talk.done(), "");
        talk
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (query("B"), "<EZe"),
        (query("COMMIT"), "<EZi"),
        (query("ROLLBACK"), "<CZi"),
        (frame(b'S', b""), "<Ze"),
        (synced("B"), "<EZe"),
        (synced("COMMIT"), "<EZi"),
        (synced("ROLLBACK"), "<12CZi"),
        ([query("B"), query("C")].concat(), "<EZeEZe"),
        ([query("B"), query("COMMIT")].concat(), "<EZeCZi"),
    ];
    for (sent, told) in cases {
        let mut talk = lost_in_transaction();
        talk.client(&sent);
        assert_eq!(talk.done(), told, "{}", String::from_utf8_lossy(&sent));
    }
}

#[test]
fn what_can_not_be_had_elsewhere_ends_the_session() {
    let mut talk = talk();
    talk.client(&query("BEGIN"))
        .client(&query("SELECT pg_advisory_lock(1)"));
    talk.server("CzCz").finds("a");
    talk.client(&query("COMMIT")).server("CZ");
    if !talk.core.pins().any() {
        // Whatever this catalogue calls it: a pin is a pin.
        talk.core.pin(Reason::AdvisoryLock);
    }
    talk.client(&query("SELECT 1"));
    assert_eq!(lose(&mut talk), Loss::Session("advisory_lock"));
}
