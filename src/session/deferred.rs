//! A transaction that the client has begun and no server knows of yet.
//!
//! Pure. A plain BEGIN is answered at once and sent with the first statement, so that a client that only
//! begins holds no server. Should that statement get no server, the transaction has failed, until the client
//! leaves it. Knows how PostgreSQL answers in those states; not how servers are had.

use crate::protocol::SqlState;
use crate::protocol::frame::{HEADER_BYTES, Head, put, split_cstr};
use crate::protocol::reply::{
    ErrorReply, Severity, TxStatus, put_command_complete, put_ready_for_query,
};
use crate::protocol::tag::{backend, frontend};
use crate::sql::{self, Boundary, Ends, boundary, may_be_boundary};

/// Where the client is, as far as no server is concerned.
#[derive(Debug, Default)]
pub enum Deferred {
    #[default]
    Outside,
    /// Begun; the Query message that says so, to be sent ahead of the first statement.
    Begun(Vec<u8>),
    /// Its first statement got no server, or its server was lost.
    Failed(Aftermath),
    /// Its server was lost, and the client is to be told so when it asks for something.
    Lost(Box<ErrorReply>),
}

/// How far an extended-protocol sequence has come in a failed transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aftermath {
    #[default]
    Settled,
    /// An error was answered; the rest up to Sync is passed over.
    Skipping,
    /// ROLLBACK or COMMIT was parsed.
    Leaving,
    /// The client was told that its COMMIT came too late: that ends it as well.
    Left,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered (or needs no answer).
    Done,
    NeedsServer,
}

impl Deferred {
    pub fn tx(&self) -> TxStatus {
        match self {
            Deferred::Outside => TxStatus::Idle,
            Deferred::Begun(_) => TxStatus::InTransaction,
            Deferred::Failed(_) | Deferred::Lost(_) => TxStatus::Failed,
        }
    }

    /// The BEGIN that waits for a server.
    pub fn begin(&self) -> Option<&[u8]> {
        match self {
            Deferred::Begun(frame) => Some(frame),
            Deferred::Outside | Deferred::Failed(_) | Deferred::Lost(_) => None,
        }
    }

    /// The BEGIN that is due, once a server is there.
    pub fn take_begin(&mut self) -> Option<Vec<u8>> {
        match std::mem::take(self) {
            Deferred::Begun(frame) => Some(frame),
            Deferred::Outside | Deferred::Failed(_) | Deferred::Lost(_) => None,
        }
    }

    /// No server was to be had for a unit that the client then was told the error of.
    pub fn fail(&mut self) {
        if let Deferred::Begun(_) = self {
            *self = Deferred::Failed(Aftermath::Settled);
        }
    }

    /// The transaction's server was lost, and the client has been told.
    pub fn fail_now(&mut self) {
        *self = Deferred::Failed(Aftermath::Settled);
    }

    /// The transaction's server was lost while the client asked for nothing.
    pub fn fail_unheard(&mut self, error: ErrorReply) {
        *self = Deferred::Lost(Box::new(error));
    }

    /// Answers one whole message if no server is needed for it. `ends`: what the prepared statement does that it uses.
    #[inline]
    pub fn answer(
        &mut self,
        head: Head,
        frame: &[u8],
        ends: impl FnOnce() -> Ends,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let body = frame.get(HEADER_BYTES..).unwrap_or_default();
        // Nearly all are of this kind.
        if let Deferred::Outside = self {
            let needs_server = match head.tag {
                frontend::QUERY => !may_be_boundary(body),
                frontend::PARSE | frontend::BIND => true,
                _ => false,
            };
            if needs_server {
                return Outcome::NeedsServer;
            }
        }
        let ends = match self.tx() {
            TxStatus::Failed => ends(),
            TxStatus::Idle | TxStatus::InTransaction => Ends::No,
        };
        self.answer_alone(head, frame, body, ends, out)
    }

    #[inline(never)]
    fn answer_alone(
        &mut self,
        head: Head,
        frame: &[u8],
        body: &[u8],
        ends: Ends,
        out: &mut Vec<u8>,
    ) -> Outcome {
        if let Deferred::Lost(error) = self
            && let Some(told) = tell_of_loss(head.tag, body, ends, error, out)
        {
            *self = told;
            if matches!(head.tag, frontend::QUERY | frontend::FUNCTION_CALL) {
                put_ready_for_query(out, self.tx());
            }
            return Outcome::Done;
        }
        match head.tag {
            // A body where there should be none: PostgreSQL has words for it.
            frontend::SYNC | frontend::FLUSH if !body.is_empty() => return Outcome::NeedsServer,
            // Outside COPY these are passed over, as PostgreSQL does after a COPY has failed.
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL | frontend::FLUSH => {}
            frontend::SYNC => self.sync(out),
            frontend::QUERY => return self.query(frame, body, out),
            _ => match self {
                Deferred::Failed(aftermath) => {
                    *aftermath = extended(*aftermath, head.tag, body, ends, out)
                }
                // What is left is answered as in any failed transaction.
                Deferred::Lost(_) => {
                    let after = extended(Aftermath::Settled, head.tag, body, ends, out);
                    *self = Deferred::Failed(after);
                }
                Deferred::Outside | Deferred::Begun(_) => return Outcome::NeedsServer,
            },
        }
        Outcome::Done
    }

    fn sync(&mut self, out: &mut Vec<u8>) {
        match self {
            Deferred::Failed(Aftermath::Leaving | Aftermath::Left) => *self = Deferred::Outside,
            Deferred::Failed(aftermath) => *aftermath = Aftermath::Settled,
            Deferred::Outside | Deferred::Begun(_) | Deferred::Lost(_) => {}
        }
        put_ready_for_query(out, self.tx());
    }

    fn query(&mut self, frame: &[u8], body: &[u8], out: &mut Vec<u8>) -> Outcome {
        if let Deferred::Failed(Aftermath::Skipping | Aftermath::Left) = self {
            return Outcome::Done;
        }
        let text = split_cstr(body).map(|(text, _)| text);
        match (&self, text.and_then(boundary)) {
            (Deferred::Outside, Some(Boundary::Begin(command_tag))) => {
                put_command_complete(out, command_tag);
                *self = Deferred::Begun(frame.to_vec());
            }
            (Deferred::Begun(_), Some(Boundary::Commit)) => self.end("COMMIT", out),
            (
                Deferred::Begun(_) | Deferred::Failed(_) | Deferred::Lost(_),
                Some(Boundary::Rollback),
            )
            | (Deferred::Failed(_), Some(Boundary::Commit)) => self.end("ROLLBACK", out),
            (Deferred::Failed(_) | Deferred::Lost(_), _) => put_aborted(out),
            (Deferred::Outside | Deferred::Begun(_), _) => return Outcome::NeedsServer,
        }
        put_ready_for_query(out, self.tx());
        Outcome::Done
    }

    fn end(&mut self, command_tag: &str, out: &mut Vec<u8>) {
        *self = Deferred::Outside;
        put_command_complete(out, command_tag);
    }
}

/// The client asks for something in a transaction that it does not know to be lost: what it is told, and where it is then.
/// Nothing if it gives it up by itself, or asks for nothing.
fn tell_of_loss(
    tag: u8,
    body: &[u8],
    ends: Ends,
    error: &ErrorReply,
    out: &mut Vec<u8>,
) -> Option<Deferred> {
    let ends = match tag {
        frontend::QUERY => sql::ends(split_cstr(body)?.0),
        frontend::PARSE => {
            let (_name, rest) = split_cstr(body)?;
            sql::ends(split_cstr(rest)?.0)
        }
        frontend::BIND | frontend::DESCRIBE => ends,
        frontend::EXECUTE | frontend::FUNCTION_CALL => Ends::No,
        _ => return None,
    };
    if ends == Ends::Rollback {
        return None;
    }
    error.put(out);
    Some(match (tag, ends) {
        (frontend::QUERY, Ends::Commit) => Deferred::Outside,
        (frontend::QUERY | frontend::FUNCTION_CALL, _) => Deferred::Failed(Aftermath::Settled),
        (_, Ends::Commit) => Deferred::Failed(Aftermath::Left),
        (_, Ends::No | Ends::Rollback) => Deferred::Failed(Aftermath::Skipping),
    })
}

/// Extended-protocol messages and FunctionCall in a failed transaction: only leaving it succeeds.
fn extended(
    aftermath: Aftermath,
    tag: u8,
    body: &[u8],
    ends: Ends,
    out: &mut Vec<u8>,
) -> Aftermath {
    let leaves = tag == frontend::PARSE
        && split_cstr(body)
            .and_then(|(_name, rest)| split_cstr(rest))
            .is_some_and(|(text, _)| {
                matches!(boundary(text), Some(Boundary::Commit | Boundary::Rollback))
            });
    match (aftermath, tag) {
        (Aftermath::Skipping | Aftermath::Left, _) => aftermath,
        (_, frontend::FUNCTION_CALL) => {
            put_aborted(out);
            put_ready_for_query(out, TxStatus::Failed);
            Aftermath::Settled
        }
        (Aftermath::Settled, frontend::PARSE) if leaves => {
            put(out, backend::PARSE_COMPLETE, |_| {});
            Aftermath::Leaving
        }
        // Prepared long before.
        (Aftermath::Settled, frontend::BIND) if ends != Ends::No => {
            put(out, backend::BIND_COMPLETE, |_| {});
            Aftermath::Leaving
        }
        (Aftermath::Leaving, frontend::BIND) => {
            put(out, backend::BIND_COMPLETE, |_| {});
            Aftermath::Leaving
        }
        (Aftermath::Leaving, frontend::DESCRIBE) => {
            if body.first() == Some(&b'S') {
                put(out, backend::PARAMETER_DESCRIPTION, |body| {
                    body.extend_from_slice(&[0, 0])
                });
            }
            put(out, backend::NO_DATA, |_| {});
            Aftermath::Leaving
        }
        (Aftermath::Leaving, frontend::EXECUTE) => {
            put_command_complete(out, "ROLLBACK");
            Aftermath::Leaving
        }
        (Aftermath::Settled | Aftermath::Leaving, frontend::CLOSE) => {
            put(out, backend::CLOSE_COMPLETE, |_| {});
            aftermath
        }
        _ => {
            put_aborted(out);
            Aftermath::Skipping
        }
    }
}

/// PostgreSQL's own words for any statement in a failed transaction.
pub(super) fn put_aborted(out: &mut Vec<u8>) {
    ErrorReply {
        severity: Severity::Error,
        sqlstate: SqlState::IN_FAILED_TRANSACTION,
        message: "current transaction is aborted, commands ignored until end of transaction block"
            .into(),
        detail: None,
        hint: None,
    }
    .put(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends messages, tag first, and shows the tags of the answers (the status for ReadyForQuery).
    fn run(deferred: &mut Deferred, messages: &[&[u8]]) -> String {
        let mut shown = String::new();
        for message in messages {
            let mut frame = Vec::new();
            put(&mut frame, message[0], |body| {
                body.extend_from_slice(&message[1..])
            });
            let head = Head::parse(&frame).unwrap().unwrap();
            let mut out = Vec::new();
            if deferred.answer(head, &frame, || Ends::No, &mut out) == Outcome::NeedsServer {
                shown.push('>');
            }
            let mut rest = &out[..];
            while let Some(head) = Head::parse(rest) {
                let head = head.unwrap();
                shown.push(head.tag as char);
                if head.tag == b'Z' {
                    shown.push(rest[HEADER_BYTES] as char);
                }
                rest = &rest[head.frame_bytes()..];
            }
        }
        shown
    }

    #[test]
    fn an_empty_transaction_needs_no_server() {
        let mut deferred = Deferred::default();
        assert_eq!(
            run(&mut deferred, &[b"QBEGIN\0", b"S", b"QCOMMIT\0"]),
            "CZTZTCZI"
        );
        assert_eq!(run(&mut deferred, &[b"Qbegin\0", b"QROLLBACK\0"]), "CZTCZI");
        assert_eq!(run(&mut deferred, &[b"QCOMMIT\0", b"QSELECT 1\0"]), ">>");
        assert_eq!(run(&mut deferred, &[b"H", b"dx", b"c", b"P\0x\0\0\0"]), ">");
    }

    #[test]
    fn the_first_statement_takes_the_begin_along() {
        let mut deferred = Deferred::default();
        assert_eq!(run(&mut deferred, &[b"QBEGIN\0", b"QBEGIN\0"]), "CZT>");
        assert_eq!(deferred.take_begin().unwrap(), b"Q\0\0\0\x0aBEGIN\0");
        assert_eq!(deferred.tx(), TxStatus::Idle);
    }

    #[test]
    fn a_failed_one_can_only_be_left() {
        let mut deferred = Deferred::default();
        run(&mut deferred, &[b"QBEGIN\0"]);
        deferred.fail();
        assert_eq!(run(&mut deferred, &[b"QSELECT 1\0"]), "EZE");
        let parse_bind_execute: [&[u8]; 4] =
            [b"P\0x\0\0\0", b"B\0\0\0\0\0\0\0\0", b"E\0\0\0\0\0", b"S"];
        assert_eq!(run(&mut deferred, &parse_bind_execute), "EZE");
        assert_eq!(run(&mut deferred, &[b"QROLLBACK\0"]), "CZI");

        run(&mut deferred, &[b"QBEGIN\0"]);
        deferred.fail();
        let leaving: [&[u8]; 5] = [
            b"P\0ROLLBACK\0\0\0",
            b"B\0\0\0\0\0\0\0\0",
            b"DP\0",
            b"E\0\0\0\0\0",
            b"S",
        ];
        assert_eq!(run(&mut deferred, &leaving), "12nCZI");
    }
}
