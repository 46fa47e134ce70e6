//! What nextval has left on the server: currval and lastval find what this client's own transaction left there, or nothing.
//!
//! Another's values are discarded at each change of hands, once somebody in the database reads any. Until then they are
//! discarded ahead of the first text that may read them: outside a transaction nothing of the client's own is lost with them;
//! inside one its own are, and it is told to try again. Does not know who had the server before.

use super::*;
use crate::protocol::names::{put_close, put_close_portal, put_parse};
use crate::server::ledger::{Note, Outcome};
use crate::server::statements::server_name;

/// currval, lastval, and the first that may be a user's, by their numbers (`pg_proc.dat`, `access/transam.h`).
const CURRVAL: u32 = 1575;
const LASTVAL: u32 = 2559;
const FIRST_OF_USERS: u32 = 16_384;
/// Of the statement and of the portal that discard: no statement of a client's has it.
const OWN: u64 = 0;

/// In what state a server comes, as far as values of sequences go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sequences {
    /// There are none but the client's own.
    #[default]
    Own,
    /// Another's may be among them.
    Mixed,
    /// The same, and clients of this database read them.
    Unwanted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Own,
    Mixed,
    /// What discards them is on its way.
    Discarding,
}

#[derive(Debug, Default)]
pub(super) struct Values {
    state: State,
    /// The client's own may have been discarded with them, in the transaction that is still open.
    lost: bool,
    /// A text was seen that reads them.
    wanted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    No,
    Perhaps,
    Surely,
}

impl Core {
    /// A server is there, and nothing of the client's has gone to it.
    pub(super) fn begin_sequences(
        &mut self,
        sequences: Sequences,
        ledger: &mut Ledger,
        prologue: &mut Vec<u8>,
    ) {
        self.sequences.lost = false;
        self.sequences.state = match sequences {
            Sequences::Own => State::Own,
            Sequences::Mixed => State::Mixed,
            Sequences::Unwanted => self.discard_sequences(ledger, prologue),
        };
    }

    /// Whether a message must wait because it may read what another has left, and it is not known whether the server will
    /// carry out what discards that. Where it is known, that is put ahead of the message.
    pub(super) fn awaits_sequences(
        &mut self,
        message: Message<'_>,
        out: &mut Outgoing<'_>,
    ) -> bool {
        match self.reads_sequences(message) {
            Reads::No => return false,
            Reads::Perhaps => {}
            Reads::Surely => self.sequences.wanted = true,
        }
        let pending = out.ledger.readies_owed() > 0;
        match self.sequences.state {
            State::Own => return false,
            State::Discarding => return pending,
            State::Mixed => {}
        }
        if out.ledger.is_copying_in() || out.ledger.is_doubtful() {
            return false;
        }
        if self.untouched {
            self.sequences.state = self.discard_sequences(out.ledger, out.prologue);
            return false;
        }
        if pending {
            return true;
        }
        let in_sequence = message.meaning != Meaning::Query || out.ledger.is_unsynced();
        let refused = out.ledger.tx() == TxStatus::Failed && message.meaning == Meaning::Query;
        if refused {
            return false;
        }
        self.sequences.lost = true;
        self.sequences.state = match in_sequence {
            true => discard_in_sequence(message.at, out),
            false => {
                out.ahead_of(message.at);
                self.discard_sequences(out.ledger, out.prologue)
            }
        };
        false
    }

    fn reads_sequences(&self, message: Message<'_>) -> Reads {
        match message.meaning {
            Meaning::Query | Meaning::ParseNamed | Meaning::ParseUnnamed => {
                let effects = message.report.effects;
                // Who is to keep its values is not to find another's among them.
                let keeps = !self.pins.ignored().has(Reason::Sequence);
                if effects.has(Effects::SEQUENCE_READ) || (keeps && effects.has(Effects::NEXTVAL)) {
                    Reads::Surely
                } else if effects.has(Effects::UNSURE) || !message.is_whole() {
                    Reads::Perhaps
                } else {
                    Reads::No
                }
            }
            Meaning::FunctionCall => match message.function() {
                Some(CURRVAL | LASTVAL) => Reads::Surely,
                Some(function) if function < FIRST_OF_USERS => Reads::No,
                Some(_) | None => Reads::Perhaps,
            },
            Meaning::BindUnnamed
            | Meaning::BindNamed
            | Meaning::DescribeNamed
            | Meaning::CloseUnnamed
            | Meaning::CloseNamed
            | Meaning::Plain
            | Meaning::Terminate => Reads::No,
        }
    }

    /// A text turns out to read them that went through in pieces.
    pub(super) fn want_sequences(&mut self, effects: Effects) {
        self.sequences.wanted |= effects.has(Effects::SEQUENCE_READ);
    }

    /// With a Query, which also does away with the unnamed statement. If it fails, the session is over.
    fn discard_sequences(&mut self, ledger: &mut Ledger, prologue: &mut Vec<u8>) -> State {
        put(prologue, frontend::QUERY, |body| {
            put_cstr(body, b"DISCARD SEQUENCES");
        });
        ledger.send(Owed::Query, Asker::Weir);
        self.interposed();
        State::Own
    }

    pub(super) fn discarded_sequences(&mut self, outcome: Outcome) {
        self.sequences.state = match outcome {
            Outcome::Done => State::Own,
            Outcome::Failed | Outcome::FailedLate | Outcome::Skipped | Outcome::Unknown => {
                State::Mixed
            }
        };
    }

    /// All that the server has of the session is gone.
    pub(super) fn forget_sequences(&mut self) {
        self.sequences.state = State::Own;
    }

    /// The client's transaction is over.
    #[inline]
    pub(super) fn settle_sequences(&mut self) {
        self.sequences.lost = false;
    }

    /// Whether the values that the server has are this client's alone.
    pub fn owns_sequences(&self) -> bool {
        self.sequences.state == State::Own
    }

    /// Whether a text was seen, since this was last asked, that reads what nextval leaves behind.
    #[inline]
    pub fn take_sequences_wanted(&mut self) -> bool {
        std::mem::take(&mut self.sequences.wanted)
    }

    /// Whether an error says that there is no value which there would have been, had it not been discarded with another's.
    pub fn has_lost_sequences(&self, sqlstate: &[u8], routine: &[u8]) -> bool {
        self.sequences.lost
            && sqlstate == b"55000"
            && matches!(routine, b"currval_oid" | b"lastval")
    }
}

/// Among messages up to a Sync: it disturbs neither the client's unnamed statement nor its portals, and where the
/// transaction has failed the client is told so, as it would be.
fn discard_in_sequence(at: usize, out: &mut Outgoing<'_>) -> State {
    let name = server_name(OWN);
    let to = out.ahead_of(at);
    put_close(to, &name);
    put_parse(to, &name, b"DISCARD SEQUENCES\0\0\0");
    put(to, frontend::BIND, |body| {
        put_cstr(body, &name);
        put_cstr(body, &name);
        body.extend_from_slice(&[0; 6]);
    });
    put(to, frontend::EXECUTE, |body| {
        put_cstr(body, &name);
        body.extend_from_slice(&[0; 4]);
    });
    put_close_portal(to, &name);
    put_close(to, &name);
    let note = Note {
        changes: Changes::SEQUENCES,
        ..Note::default()
    };
    for owed in [Owed::Close, Owed::Parse, Owed::Bind] {
        out.ledger.send(owed, Asker::Weir);
    }
    out.ledger.send_noted(Owed::Execute, Asker::Weir, note);
    for owed in [Owed::Close, Owed::Close] {
        out.ledger.send(owed, Asker::Weir);
    }
    State::Discarding
}
