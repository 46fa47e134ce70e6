//! One conversation, as a function from bytes to decisions.
//!
//! Pure: no socket, no clock. It decides what goes to the server and when one is needed, what is answered
//! without, why the session is pinned, and when a server may be released. It never owns the bytes.

mod asking;
mod errand;
mod eviction;
mod loss;
mod message;
mod naming;
mod passing;
mod referring;
mod refusing;
mod second_try;
mod sequences;
mod standing;

use std::sync::Arc;

pub use self::asking::Answered;
use self::asking::Inquiry;
pub use self::errand::{Errand, Habit, Outside as OutsideTransaction, Passing, Written};
use self::eviction::Eviction;
use self::loss::Finale;
pub use self::loss::{Loss, Words};
use self::message::{Message, Outgoing};
pub use self::naming::Trust;
use self::naming::{Executing, Passage, Timing};
use self::second_try::SecondTry;
pub use self::second_try::Sent;
pub use self::sequences::Sequences;
pub use self::standing::Standing;
use super::culprit::Culprit;
use super::deferred::{self, Deferred};
use super::pins::{Discard, Pinned, Pins, Reason};
use super::prepared::named::{Name, Named};
use super::prepared::table::Table;
use super::prepared::{Allowance, Keeping, Placing, Statement};
use super::questions::Questions;
use super::requests::{Meaning, TextScan, Units, Violation, head, meaning};
use super::talk::Talk;
use crate::protocol::frame::{HEADER_BYTES, Head, put, put_cstr};
use crate::protocol::names::{NameAt, told};
use crate::protocol::reply::{TxStatus, put_ready_for_query};
use crate::protocol::tag::frontend;
use crate::server::Statements;
use crate::server::ledger::{self, Asker, Changes, Concluded, Ledger, Note, Owed};
use crate::sql::{self, Effects, Hidden, Report};

/// What to do with a client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More must come in first (or, with a server, replies).
    Wait,
    /// A server is needed for what stands at the front.
    Borrow,
    /// So many bytes are dealt with (the prologue says it otherwise), and so many behind them go to the server.
    Forward { consumed: usize, forward: usize },
    /// So many bytes are dealt with.
    Consume(usize),
    /// The client says goodbye.
    Terminate,
    /// From this byte on, what is pending is to be written over with a name that nobody has.
    Disown(usize),
    /// What stands at the front has to do with the session's channels, which are elsewhere: they come to the
    /// server first, once it owes nothing.
    ComeHome,
}

/// Whether the session's channels are elsewhere than on its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    No,
    Yes,
    /// They are, and what stands at the front may pass all the same: it has been seen to.
    Seen,
}

/// The limits of one conversation.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A unit larger than this does not wait to be complete.
    pub max_unit_bytes: usize,
}

/// set_config by its number (`pg_proc.dat`): its arguments are not looked at.
const SET_CONFIG: u32 = 2078;

/// What becomes of a message.
enum Pass {
    /// So much of it was sent.
    Sent(usize),
    /// It waits: for the rest of it, or for an answer.
    NotNow,
    /// It takes another step first.
    Step(Step),
}

#[derive(Debug)]
pub struct Core {
    bounds: Bounds,
    units: Units,
    /// Bytes still to come of a message that was forwarded, or refused, in part.
    frame_left: usize,
    text: TextScan,
    /// The unit was refused: everything up to its Sync is passed over.
    refusing: bool,
    statement: Statement,
    named: Named,
    /// What Execute does to named statements, if it succeeds, by the portals.
    executing: Vec<(Name, Executing)>,
    /// The sequence of messages with the last Bind.
    bound_in: u64,
    second_try: SecondTry,
    /// What was sent last may have taken all statements away from the server.
    suspects: bool,
    /// Names of the client's that the server has been given for a while.
    strays: Vec<Name>,
    pins: Pinned,
    culprit: Culprit,
    questions: Questions,
    /// What the server is being asked.
    asked: Option<Inquiry>,
    /// The session has had another role: its settings may be ones that it may not set by itself.
    had_role: bool,
    /// Names that lead to state which no text shows.
    hidden: Arc<Hidden>,
    hidden_due: bool,
    /// The settings have changed, and a server is to try whether they can be given to another.
    rehearsal_due: bool,
    /// The effects of the Query on its way that only undoes.
    undoing: Effects,
    /// Nothing of the client's has gone to this server yet.
    untouched: bool,
    /// A BEGIN went ahead of the client's first message to this server.
    begun: bool,
    /// And the server has not answered it.
    begin_open: bool,
    /// The transaction that it began with is one that only reads.
    read_only: bool,
    /// What may end the client's transaction.
    finale: Finale,
    eviction: Eviction,
    /// The server may still have another's unnamed statement, or not this client's.
    unnamed_foreign: bool,
    sequences: sequences::Values,
    /// The server was asked for the answers that it holds back.
    hurried: bool,
    /// The client's goodbye went to the server.
    terminated: bool,
    deferred: Deferred,
    /// Channels need not stay with the server.
    shares_channels: bool,
    outside: Outside,
    talk: Talk,
    /// How much of what is pending may go to the server at a time.
    reach: usize,
}

impl Core {
    /// `hidden`: the names that are known to lead to hidden state.
    pub fn new(
        bounds: Bounds,
        table: Arc<Table>,
        allowance: Allowance,
        hidden: Arc<Hidden>,
    ) -> Core {
        Core {
            bounds,
            units: Units::default(),
            frame_left: 0,
            text: TextScan::default(),
            refusing: false,
            statement: Statement::new(allowance),
            named: Named::new(table),
            executing: Vec::new(),
            bound_in: 0,
            second_try: SecondTry::default(),
            suspects: false,
            strays: Vec::new(),
            pins: Pinned::default(),
            culprit: Culprit::default(),
            questions: Questions::default(),
            asked: None,
            had_role: false,
            hidden,
            hidden_due: false,
            rehearsal_due: false,
            undoing: Effects::NONE,
            untouched: false,
            begun: false,
            begin_open: false,
            read_only: false,
            finale: Finale::default(),
            eviction: Eviction::None,
            unnamed_foreign: false,
            sequences: sequences::Values::default(),
            hurried: false,
            terminated: false,
            deferred: Deferred::default(),
            shares_channels: false,
            outside: Outside::No,
            talk: Talk::default(),
            reach: usize::MAX,
        }
    }

    /// The session listens elsewhere where it can.
    pub fn share_channels(&mut self) {
        self.shares_channels = true;
    }

    pub fn set_outside(&mut self, outside: Outside) {
        self.outside = outside;
    }

    pub fn pins(&self) -> Pins {
        self.pins.now()
    }

    /// The settings that the client's texts are parsed under from here on, in any form that tells them apart.
    pub fn parse_under(&mut self, settings: Box<[u8]>) {
        self.named.parse_under(settings);
    }

    /// From here on these reasons don't pin.
    pub fn ignore(&mut self, reasons: Pins) {
        self.pins.ignore(reasons);
    }

    /// The digest of the last statement that may have left something behind.
    pub fn culprit(&self) -> Option<&str> {
        self.culprit.digest()
    }

    /// What the client believes while it has no server.
    pub fn tx(&self) -> TxStatus {
        self.deferred.tx()
    }

    /// Whether a client without a server is at a point where nothing would be cut in two.
    pub fn is_quiet(&self) -> bool {
        self.frame_left == 0 && !self.refusing && self.tx() == TxStatus::Idle
    }

    /// The client has no server. Answers of our own go to `answer`.
    pub fn without_server(
        &mut self,
        pending: &[u8],
        answer: &mut Vec<u8>,
    ) -> Result<Step, Violation> {
        if self.frame_left > 0 {
            return Ok(self.pass_over(pending.len()));
        }
        if self.refusing {
            return self.refuse_on(pending, answer);
        }
        self.units.measure(pending);
        if let Some(violation) = self.units.violation() {
            return Err(violation);
        }
        let Some(head) = head(pending)? else {
            return Ok(Step::Wait);
        };
        if self.units.complete() == 0 {
            let full = pending.len() >= self.bounds.max_unit_bytes;
            return Ok(if full { Step::Borrow } else { Step::Wait });
        }
        if head.tag == frontend::TERMINATE {
            return Ok(Step::Terminate);
        }
        let frame = pending.get(..head.frame_bytes()).unwrap_or_default();
        let told_before = answer.len();
        let ends = || self.finale.used_by(head.tag, frame);
        if self.deferred.answer(head, frame, ends, answer) == deferred::Outcome::NeedsServer {
            return Ok(Step::Borrow);
        }
        if head.tag == frontend::QUERY && self.statement.exists() {
            // PostgreSQL would have dropped it.
            self.statement.leaving();
            self.statement.settle(ledger::Outcome::Done);
        }
        // Passed over, it changes nothing.
        if head.tag == frontend::CLOSE
            && answer.len() > told_before
            && let Some(at) = NameAt::find(head.tag, frame)
        {
            self.named.forget(told(at.of(frame)));
        }
        self.units.consumed(frame.len());
        Ok(Step::Consume(frame.len()))
    }

    /// A server was borrowed: what must be sent to it before the client's own messages. The settings
    /// have been seen to.
    pub fn begin(&mut self, before: Before, ledger: &mut Ledger, prologue: &mut Vec<u8>) {
        self.unnamed_foreign = match before.unnamed {
            Owner::Self_ => false,
            Owner::Nobody => self.statement.exists(),
            Owner::Another => true,
        };
        self.begin_sequences(before.sequences, ledger, prologue);
        self.untouched = true;
        self.begun = self.deferred.begin().is_some();
        self.begin_open = self.begun;
        self.read_only = false;
        if self.begun {
            self.send_begin(ledger, prologue);
        }
    }

    #[inline(never)]
    fn send_begin(&mut self, ledger: &mut Ledger, prologue: &mut Vec<u8>) {
        if let Some(begin) = self.deferred.take_begin() {
            self.read_only = says_read_only(&begin);
            prologue.extend_from_slice(&begin);
            ledger.send(Owed::Query, Asker::Weir);
            self.interposed();
        }
    }

    /// Whether the client began its transaction as one that only reads.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether the server was told goodbye, and is expected to hang up.
    pub fn has_terminated(&self) -> bool {
        self.terminated
    }

    /// A Query of our own went to the server between two of the client's: it did away with the unnamed statement.
    pub fn interposed(&mut self) {
        self.unnamed_foreign |= self.statement.exists();
    }

    /// Pins from the start, for what the client logged in with.
    pub fn pin(&mut self, reason: Reason) {
        self.pins.add(reason);
    }

    /// The reason holds no longer.
    pub fn unpin(&mut self, reason: Reason) {
        self.pins.remove(reason);
    }

    /// Whose unnamed statement the server has now.
    pub fn unnamed_owner(&self) -> Owner {
        match (self.unnamed_foreign, self.statement.exists()) {
            (true, _) => Owner::Another,
            (false, true) => Owner::Self_,
            (false, false) => Owner::Nobody,
        }
    }

    /// Tells the client's unnamed statement from those it had before.
    pub fn unnamed_version(&self) -> u64 {
        self.statement.version()
    }

    /// The client has a server. Messages of our own that must come before the bytes forwarded next
    /// go to `prologue`. To be called only when all that was forwarded has been sent.
    pub fn with_server(
        &mut self,
        pending: &[u8],
        ledger: &mut Ledger,
        statements: &mut Statements,
        prologue: &mut Vec<u8>,
    ) -> Result<Step, Violation> {
        if self.frame_left > 0 {
            return Ok(self.stream_on(pending));
        }
        if self.asked.is_some() && self.is_settling() {
            return Ok(Step::Wait);
        }
        self.note_outcomes(ledger, statements);
        if self.is_untidy(ledger) {
            self.tidy(ledger, prologue);
        }
        self.units.measure(pending);
        if let Some(violation) = self.units.violation() {
            self.hurry(ledger, prologue);
            return Err(violation);
        }
        let within = if self.may_stream(pending, ledger) {
            pending.len()
        } else {
            self.units.complete()
        };
        let mut out = Outgoing {
            pending: pending.get(..within.min(self.reach)).unwrap_or_default(),
            copied: 0,
            prologue,
            ledger,
            statements,
        };
        let mut forwarded = 0;
        while self.frame_left == 0 && !out.ledger.is_full() && !self.statement.is_full() {
            match self.pass_message(forwarded, &mut out) {
                Ok(Pass::Sent(count)) => forwarded += count,
                // What stands before it goes first.
                Ok(Pass::Step(step)) if forwarded == 0 => return Ok(step),
                Err(violation) if forwarded == 0 => return Err(violation),
                Ok(Pass::Step(_) | Pass::NotNow) | Err(_) => break,
            }
        }
        let consumed = out.copied;
        if forwarded == 0 {
            if self.statement.is_full() || ledger.may_become_doubtful() {
                // What it waits for the server may keep to itself until a Sync, which stands behind it.
                self.hurry(ledger, prologue);
            }
            return Ok(Step::Wait);
        }
        // Of what is passed over the outcome is known already.
        self.note_outcomes(ledger, statements);
        self.units.consumed(forwarded);
        self.hurried = false;
        if self.outside == Outside::Seen {
            self.outside = Outside::Yes;
        }
        Ok(Step::Forward {
            consumed,
            forward: forwarded - consumed,
        })
    }

    /// Takes note of what the server made of messages that were to change prepared statements.
    #[inline]
    pub fn note_outcomes(&mut self, ledger: &mut Ledger, statements: &mut Statements) {
        self.suspect(statements);
        if ledger.has_outcomes() {
            self.note_each_outcome(ledger, statements);
        }
    }

    #[inline(never)]
    fn note_each_outcome(&mut self, ledger: &mut Ledger, statements: &mut Statements) {
        while let Some((changes, outcome)) = ledger.outcome() {
            if changes == Changes::SEQUENCES {
                self.discarded_sequences(outcome);
            } else if changes == Changes::NAMED {
                let left = self.named.settle(outcome, statements);
                if !left.is_empty() {
                    self.leave(&left);
                }
            } else {
                self.unnamed_foreign &= outcome != ledger::Outcome::Done;
                self.statement.settle(outcome);
            }
        }
    }

    #[inline]
    fn suspect(&mut self, statements: &mut Statements) {
        if std::mem::take(&mut self.suspects) {
            statements.suspect();
        }
    }

    /// PostgreSQL has answered a whole command.
    pub fn concluded(&mut self, concluded: Concluded, ledger: &Ledger) -> Conclusion {
        if !concluded.asker.is_own() || ledger.tx() != TxStatus::Idle {
            self.begin_open = false;
        }
        if !ledger.owes_client_ready() {
            self.finale.answered();
        }
        if ledger.tx() == TxStatus::Idle {
            self.named.transaction_ended(!ledger.is_settled());
            if ledger.is_settled() && !self.executing.is_empty() {
                // And with it all portals.
                self.executing.clear();
            }
        }
        if !concluded.asker.is_own() && ledger.tx() == TxStatus::Idle {
            self.settle_sequences();
        }
        if concluded.asker == Asker::Client {
            // And with it the unit that might have been tried again.
            self.second_try.forget();
            self.read_only &= ledger.tx() != TxStatus::Idle;
        }
        if concluded.by_query && !concluded.failed && !self.statement.exists() {
            // A Query that was carried out did away with whatever unnamed statement there was.
            self.unnamed_foreign = false;
        }
        match (concluded.asker, concluded.failed) {
            (Asker::Weir, true) => Conclusion::OwnFailed,
            (Asker::Discarding, false) => {
                self.pins.discarded(Discard::Done);
                self.forget_sequences();
                Conclusion::Discarded
            }
            (Asker::Discarding, true) => {
                self.pins.discarded(Discard::Failed);
                Conclusion::Ordinary
            }
            (Asker::Undoing, failed) => self.undone(failed),
            (Asker::Probe, failed) => Conclusion::Answered { failed },
            (Asker::Mover, failed) => Conclusion::Moved { failed },
            (Asker::Position, failed) => Conclusion::Position { failed },
            (Asker::Weir, false) | (Asker::Client, _) => Conclusion::Ordinary,
        }
    }

    /// Whether the server may be released, as far as the conversation is concerned: nothing owed,
    /// nothing begun, nothing that must stay.
    #[inline]
    pub fn may_release(&self, ledger: &Ledger) -> bool {
        ledger.is_idle()
            && self.frame_left == 0
            && self.strays.is_empty()
            && !self.pins.now().any()
            && !self.wonders()
            && self.eviction.is_none()
    }

    /// Whether a message was forwarded in part.
    pub fn is_mid_frame(&self) -> bool {
        self.frame_left > 0
    }
}

/// In what state a server comes to a session.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    pub unnamed: Owner,
    pub sequences: Sequences,
}

/// Whose unnamed statement a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Nobody,
    Self_,
    Another,
}

/// Whether a BEGIN, plain as those are that are sent late, asks for a transaction that only reads.
fn says_read_only(begin: &[u8]) -> bool {
    let mut words = begin.split(|byte| !byte.is_ascii_alphabetic());
    words.any(|word| word.eq_ignore_ascii_case(b"only"))
}

/// What a ReadyForQuery concludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    Ordinary,
    /// The client's DISCARD ALL has succeeded: nothing of its session is left on the server.
    Discarded,
    /// RESET ALL has succeeded: nothing is set on the server but a role.
    SettingsReset,
    /// The server has answered what it was asked.
    Answered {
        failed: bool,
    },
    /// It has answered a Query that moves channels.
    Moved {
        failed: bool,
    },
    /// It has said how far it is.
    Position {
        failed: bool,
    },
    /// A command of our own has failed.
    OwnFailed,
}

#[cfg(test)]
mod tests;
