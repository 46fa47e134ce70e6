//! The unnamed protocol statement, which outlives the transaction that parsed it.
//!
//! Pure. A client may parse "" in one unit and bind it in a later one, on another server; and must never
//! bind the unnamed statement that another client has left there. Knows nothing of named statements,
//! which pin.

use std::collections::VecDeque;

use crate::protocol::frame::{put, put_cstr};
use crate::protocol::tag::frontend;
use crate::server::ledger::Outcome;

/// A Parse message up to this size is kept for the next server; a larger one pins.
pub const KEPT_BYTES: usize = 4096;

/// What a client's unnamed statement is.
#[derive(Debug, Default)]
pub enum Unnamed {
    #[default]
    None,
    /// Its whole Parse message.
    Kept(Vec<u8>),
    /// Too large to keep: it lives on the server that the session is pinned to.
    OnServer,
}

/// A change on its way to the server.
#[derive(Debug)]
enum Change {
    /// A Parse of ""; `None` if it is too large to keep.
    Parsed(Option<Vec<u8>>),
    /// A simple Query, or Close.
    Gone,
}

/// The client's unnamed statement, and what will become of it once the server has answered.
///
/// A server that the client has been given has the same one as the client from its first message on:
/// that message replaces it, or `place` goes ahead of it. So nothing that the server skips over after an
/// error can make a difference between the two.
#[derive(Debug, Default)]
pub struct Statement {
    unnamed: Unnamed,
    /// In the order they were sent.
    pending: VecDeque<Change>,
    pending_bytes: usize,
    /// Counts the changes, so that a server that has an older one is told from one that has this.
    version: u64,
}

/// So many bytes of Parse messages may await their outcome before a client is read no further.
const MAX_PENDING_BYTES: usize = 256 * 1024;

impl Statement {
    /// Whether there is anything that a simple Query would do away with.
    #[inline]
    pub fn exists(&self) -> bool {
        !self.pending.is_empty() || !matches!(&self.unnamed, Unnamed::None)
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn is_full(&self) -> bool {
        self.pending_bytes > MAX_PENDING_BYTES
    }

    /// A Parse of "" is sent; `frame` is the whole message if it is small enough to keep.
    pub fn parsing(&mut self, frame: Option<&[u8]>) {
        self.pending_bytes += frame.map_or(0, <[u8]>::len);
        self.pending
            .push_back(Change::Parsed(frame.map(Into::into)));
    }

    /// A message is sent that does away with it.
    pub fn leaving(&mut self) {
        self.pending.push_back(Change::Gone);
    }

    /// The server has answered, or skipped, the oldest of these messages.
    pub fn settle(&mut self, outcome: Outcome) {
        let Some(change) = self.pending.pop_front() else {
            return;
        };
        if let Change::Parsed(Some(frame)) = &change {
            self.pending_bytes -= frame.len();
        }
        if outcome != Outcome::Skipped {
            self.version += 1;
        }
        self.unnamed = match (outcome, change) {
            (Outcome::Skipped, _) => return,
            // PostgreSQL drops the old one before it parses the new one.
            (Outcome::Failed, _) | (Outcome::Done, Change::Gone) => Unnamed::None,
            (Outcome::Done, Change::Parsed(Some(frame))) => Unnamed::Kept(frame),
            (Outcome::Done, Change::Parsed(None)) => Unnamed::OnServer,
        };
    }

    /// Another server, and the client's first message to it leaves the unnamed statement as it is: what must
    /// go ahead so that the server has the same one.
    pub fn place(&mut self, out: &mut Vec<u8>) -> Placing {
        if let Unnamed::Kept(frame) = &self.unnamed {
            out.extend_from_slice(frame);
            return Placing::Parse;
        }
        put(out, frontend::CLOSE, |body| {
            body.push(b'S');
            put_cstr(body, b"");
        });
        Placing::Close
    }
}

/// What was put in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    Parse,
    Close,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unnamed_statement_follows_its_client() {
        let mut statement = Statement::default();
        let mut out = Vec::new();
        assert_eq!(statement.place(&mut out), Placing::Close);
        assert_eq!(out, b"C\0\0\0\x06S\0");
        assert!(!statement.exists());

        statement.parsing(Some(b"P..."));
        assert!(statement.exists());
        statement.settle(Outcome::Done);
        out.clear();
        assert_eq!(statement.place(&mut out), Placing::Parse);
        assert_eq!(out, b"P...");

        // Skipped messages change nothing, failed ones leave none.
        statement.parsing(Some(b"Q..."));
        statement.leaving();
        statement.settle(Outcome::Skipped);
        statement.settle(Outcome::Skipped);
        assert_eq!(statement.place(&mut out), Placing::Parse);
        statement.parsing(None);
        statement.settle(Outcome::Failed);
        assert_eq!(statement.place(&mut out), Placing::Close);
        assert_eq!(statement.pending_bytes, 0);
    }
}
