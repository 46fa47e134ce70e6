//! A unit that the server is sent a second time, unseen: for a Parse in it, which was not carried out, stood a statement that
//! turned out to be older than what it is about.
//!
//! Keeps what the client sends from such a Parse up to its Sync. Only Parse, Describe and Close stand before it in its unit, which
//! leave nothing behind that a second time could do again; what stands behind it, the server passes over. Whatever comes behind
//! the Sync waits, or it would overtake.

use super::Core;
use crate::protocol::frame::{Head, put};
use crate::protocol::tag::frontend;
use crate::server::ledger::{Asker, Ledger, Note, Owed, SyncSent, Telling};

/// A unit longer than this is tried once.
const MAX_BYTES: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct SecondTry {
    /// What the client sent from the first of these Parses on.
    unit: Vec<u8>,
    /// The statements that stand for them, and where they are in the unit.
    parses: Vec<(u64, usize)>,
    /// The unit is there in full.
    is_whole: bool,
}

impl SecondTry {
    /// Whether there is anything that may be sent again.
    #[inline]
    pub(super) fn is_prepared(&self) -> bool {
        !self.parses.is_empty()
    }

    /// Whether what the client sends next has to wait.
    #[inline]
    pub(super) fn holds_up(&self) -> bool {
        self.is_whole
    }

    /// A statement stands for the Parse that is to be kept next.
    pub(super) fn begin(&mut self, id: u64) {
        self.parses.push((id, self.unit.len()));
    }

    /// The client's next message was sent, as much of it as is there.
    #[inline]
    pub(super) fn keep(&mut self, head: Head, bytes: &[u8]) {
        if self.is_prepared() {
            self.keep_it(head, bytes);
        }
    }

    fn keep_it(&mut self, head: Head, bytes: &[u8]) {
        let extended = matches!(
            head.tag,
            frontend::PARSE
                | frontend::BIND
                | frontend::DESCRIBE
                | frontend::EXECUTE
                | frontend::CLOSE
                | frontend::FLUSH
                | frontend::SYNC
        );
        match bytes.get(..head.frame_bytes()) {
            Some(frame) if extended && self.unit.len() + frame.len() <= MAX_BYTES => {
                self.unit.extend_from_slice(frame);
                self.is_whole = head.tag == frontend::SYNC;
            }
            _ => self.forget(),
        }
    }

    /// The unit has ended, one way or another.
    #[inline]
    pub(super) fn forget(&mut self) {
        if self.is_prepared() {
            *self = SecondTry::default();
        }
    }

    /// What is to be sent again, from the Parse on that this statement stood for.
    fn take(&mut self, id: u64) -> Option<Vec<u8>> {
        let mut parses = self.parses.iter();
        let (_, start) = *parses.find(|(known, _)| *known == id)?;
        let unit = std::mem::take(self).unit;
        Some(unit.get(start..)?.to_vec())
    }
}

/// Whether all is sent that was let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    All,
    InPart,
}

impl Core {
    /// A message failed that stood for a Parse, because of the server's statement: what the client sent from there on is to
    /// be taken back and sent again, and the client to hear nothing of it.
    pub fn try_again(
        &mut self,
        failed: Note,
        sent: Sent,
        ledger: &mut Ledger,
        prologue: &mut Vec<u8>,
    ) -> Option<Vec<u8>> {
        // Our Sync, if one is needed, must not overtake.
        let goes_on = sent == Sent::InPart && !self.second_try.is_whole;
        if failed.telling != Telling::AsParsed || goes_on || self.frame_left > 0 {
            return None;
        }
        let unit = self.second_try.take(failed.uses)?;
        if ledger.take_over() == SyncSent::No {
            put(prologue, frontend::SYNC, |_| {});
            ledger.send(Owed::Sync, Asker::Weir);
            self.named.end_sequence();
        }
        self.units = Default::default();
        Some(unit)
    }
}
