//! The client's next message, and what goes to the server ahead of it or in its place.
//!
//! Knows where bytes stand; not what is decided about them.

use super::naming::{MAX_PARSE_BYTES, REACHES};
use crate::protocol::frame::{HEADER_BYTES, Head};
use crate::protocol::names::NameAt;
use crate::server::Statements;
use crate::server::ledger::Ledger;
use crate::server::statements::find_mention;
use crate::session::requests::{Meaning, TextScan};
use crate::sql::Report;

/// A text larger than this is not awaited, however it begins.
const AWAITED_BYTES: usize = 8192;

/// The client's next message, as much of it as is there.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    pub head: Head,
    pub meaning: Meaning,
    pub bytes: &'a [u8],
    /// Where it stands in what is pending.
    pub at: usize,
    /// Of the text in it.
    pub report: &'a Report,
}

impl<'a> Message<'a> {
    pub fn is_whole(&self) -> bool {
        self.bytes.len() >= self.head.frame_bytes()
    }

    pub fn frame(&self) -> &'a [u8] {
        let end = self.head.frame_bytes().min(self.bytes.len());
        self.bytes.get(..end).unwrap_or_default()
    }

    /// Whether the rest of it will come and is needed.
    pub fn is_awaited(&self) -> bool {
        self.head.frame_bytes() <= MAX_PARSE_BYTES && !self.is_whole()
    }

    #[inline]
    pub fn name(&self) -> Option<NameAt> {
        NameAt::find(self.head.tag, self.frame())
    }

    /// Where it first has a name of Weir's in it, if its text may reach that statement. A client can have it only from
    /// `pg_prepared_statements`, and the statement may be another client's.
    pub fn says_names(&self) -> Option<usize> {
        match self.report.effects.has(REACHES) {
            true => Some(self.at + find_mention(self.frame())?),
            false => None,
        }
    }

    /// The number of the function that a FunctionCall names.
    pub fn function(&self) -> Option<u32> {
        let body = self.frame().get(HEADER_BYTES..)?;
        body.first_chunk().copied().map(u32::from_be_bytes)
    }

    /// The text of a Query or Parse that is there in full.
    pub fn text(&self) -> &'a [u8] {
        let body = self.frame().get(HEADER_BYTES..).unwrap_or_default();
        TextScan::whole(self.head.tag, body)
    }

    /// Whether the text that has begun may turn out to be one that must be known in full before it goes.
    pub fn may_come_to_refer(&self) -> bool {
        if self.is_whole() || self.head.frame_bytes() > AWAITED_BYTES {
            return false;
        }
        let text = self.text().trim_ascii_start();
        let word = text
            .iter()
            .position(|byte| !byte.is_ascii_alphabetic())
            .map_or(text, |end| text.get(..end).unwrap_or_default());
        let words: [&[u8]; 4] = [b"deallocate", b"discard", b"execute", b"prepare"];
        let begins = |whole: &&[u8]| {
            let part = whole.get(..word.len());
            part.is_some_and(|part| part.eq_ignore_ascii_case(word))
        };
        words.iter().any(begins)
    }
}

/// The server, and what is on its way to it.
pub(super) struct Outgoing<'a> {
    pub pending: &'a [u8],
    /// So many bytes of it are in the prologue, as they are or otherwise.
    pub copied: usize,
    pub prologue: &'a mut Vec<u8>,
    pub ledger: &'a mut Ledger,
    pub statements: &'a mut Statements,
}

impl Outgoing<'_> {
    /// For what is to stand ahead of the byte at `at`.
    #[inline]
    pub fn ahead_of(&mut self, at: usize) -> &mut Vec<u8> {
        let before = self.pending.get(self.copied..at).unwrap_or_default();
        self.prologue.extend_from_slice(before);
        self.copied = self.copied.max(at);
        self.prologue
    }

    /// The message goes out under another name.
    #[inline]
    pub fn rename(&mut self, message: Message<'_>, at: NameAt, name: &[u8]) {
        let prologue = self.ahead_of(message.at);
        let taken = at.put_renamed(message.head, message.bytes, name, prologue);
        self.copied = message.at + taken;
    }
}
