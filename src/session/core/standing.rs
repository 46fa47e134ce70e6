//! What a conversation goes back to when nothing of what it sent to a server was carried out.

use super::Core;
use crate::server::Statements;
use crate::server::ledger::Ledger;
use crate::session::deferred::Deferred;
use crate::session::pins::Pinned;

/// The part of it that a session does not find out by itself from what the server has skipped.
#[derive(Debug)]
pub struct Standing {
    pins: Pinned,
    begin: Option<Vec<u8>>,
}

impl Core {
    /// As it is before `begin`.
    pub fn standing(&self) -> Standing {
        Standing {
            pins: self.pins.clone(),
            begin: self.deferred.begin().map(<[u8]>::to_vec),
        }
    }

    /// The server has carried out nothing of what it was sent since, and never will: all of it is to be sent anew, and
    /// to another.
    pub fn take_back(
        &mut self,
        standing: Standing,
        ledger: &mut Ledger,
        statements: &mut Statements,
    ) {
        ledger.skip_all();
        self.forget_sent(ledger, statements);
        self.named.end_sequence();
        self.rehearsal_due = false;
        self.terminated = false;
        self.frame_left = 0;
        self.pins = standing.pins;
        if let Some(begin) = standing.begin {
            self.deferred = Deferred::Begun(begin);
        }
    }
}
