//! The unnamed protocol statement, which outlives the transaction that parsed it.
//!
//! Pure. A client may parse "" in one unit and bind it in a later one, on another server; and must never
//! bind the unnamed statement that another client has left there. Knows nothing of named statements,
//! which pin.

use crate::protocol::frame::{put, put_cstr};
use crate::protocol::tag::frontend;

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

/// How it stands between this statement and the server in use.
#[derive(Debug, Default)]
pub struct Statement {
    unnamed: Unnamed,
    /// The server in use has it (or has none, if there is none): it was parsed or made so there.
    placed: bool,
}

impl Statement {
    /// The client parses "" anew; `frame` is the whole message if it is small enough to keep.
    /// False when it can't be kept.
    pub fn parsed(&mut self, frame: Option<&[u8]>) -> bool {
        self.placed = true;
        match frame {
            Some(frame) => {
                let mut kept = match std::mem::take(&mut self.unnamed) {
                    Unnamed::Kept(old) => old,
                    Unnamed::None | Unnamed::OnServer => Vec::new(),
                };
                kept.clear();
                kept.extend_from_slice(frame);
                self.unnamed = Unnamed::Kept(kept);
                true
            }
            None => {
                self.unnamed = Unnamed::OnServer;
                false
            }
        }
    }

    /// It is gone: closed, overwritten by a simple Query, or its Parse failed.
    pub fn forget(&mut self) {
        match &mut self.unnamed {
            // The memory will serve the next one.
            Unnamed::Kept(kept) if kept.capacity() <= KEPT_BYTES => kept.clear(),
            _ => self.unnamed = Unnamed::None,
        }
    }

    /// Another server from here on.
    #[inline]
    pub fn moved(&mut self) {
        self.placed = false;
    }

    /// After an error the server passes over what comes before Sync, perhaps the Parse that should have
    /// put the statement there. It is sent again, then, lest another client's be used.
    pub fn doubt(&mut self) {
        if !matches!(self.unnamed, Unnamed::OnServer) {
            self.placed = false;
        }
    }

    #[inline]
    pub fn is_placed(&self) -> bool {
        self.placed
    }

    /// The client refers to "": what must be sent first so that the server has the same as the client.
    pub fn place(&mut self, out: &mut Vec<u8>) -> Placing {
        if std::mem::replace(&mut self.placed, true) {
            return Placing::Nothing;
        }
        match &self.unnamed {
            Unnamed::Kept(kept) if !kept.is_empty() => {
                out.extend_from_slice(kept);
                Placing::Parse
            }
            Unnamed::Kept(_) | Unnamed::None | Unnamed::OnServer => {
                put(out, frontend::CLOSE, |body| {
                    body.push(b'S');
                    put_cstr(body, b"");
                });
                Placing::Close
            }
        }
    }
}

/// What was put in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    Nothing,
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
        assert_eq!(statement.place(&mut out), Placing::Nothing);

        assert!(statement.parsed(Some(b"P...")));
        assert_eq!(statement.place(&mut out), Placing::Nothing);
        statement.moved();
        out.clear();
        assert_eq!(statement.place(&mut out), Placing::Parse);
        assert_eq!(out, b"P...");

        statement.forget();
        statement.moved();
        assert_eq!(statement.place(&mut out), Placing::Close);
        assert!(!statement.parsed(None));
    }
}
