//! One conversation, as a function from bytes to decisions.
//!
//! Pure: no socket, no clock. It decides what goes to the server and when one is needed, what is answered
//! without, why the session is pinned, and when a server may be released. It never owns the bytes.

mod naming;

use std::sync::Arc;

use self::naming::{Message, Outgoing, Passage};
use super::deferred::{self, Deferred};
use super::pins::{Discard, Pinned, Pins, Reason};
use super::prepared::named::{Change, Name, Named};
use super::prepared::table::Table;
use super::prepared::{self, Placing, Statement};
use super::requests::{Meaning, TextScan, Units, Violation, head, meaning};
use crate::protocol::frame::{HEADER_BYTES, Head, put, put_cstr};
use crate::protocol::names::{NameAt, told};
use crate::protocol::reply::{ErrorReply, TxStatus, put_ready_for_query};
use crate::protocol::tag::frontend;
use crate::server::Statements;
use crate::server::ledger::{self, Asker, Changes, Concluded, Ledger, Owed};
use crate::sql::{self, Effects, Report};

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
}

/// The limits of one conversation.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A unit larger than this does not wait to be complete.
    pub max_unit_bytes: usize,
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
    /// What the next Execute does to named statements, if it succeeds.
    executing: Option<Change>,
    /// Names of the client's that the server has been given for a while.
    strays: Vec<Name>,
    pins: Pinned,
    /// Nothing of the client's has gone to this server yet.
    untouched: bool,
    /// The server may still have another's unnamed statement, or not this client's.
    unnamed_foreign: bool,
    /// A text was seen that reads what nextval leaves behind.
    reads_sequences: bool,
    /// The server was asked for the answers that it holds back.
    hurried: bool,
    /// The client's goodbye went to the server.
    terminated: bool,
    deferred: Deferred,
}

impl Core {
    pub fn new(bounds: Bounds, table: Arc<Table>) -> Core {
        Core {
            bounds,
            units: Units::default(),
            frame_left: 0,
            text: TextScan::default(),
            refusing: false,
            statement: Statement::default(),
            named: Named::new(table),
            executing: None,
            strays: Vec::new(),
            pins: Pinned::default(),
            untouched: false,
            unnamed_foreign: false,
            reads_sequences: false,
            hurried: false,
            terminated: false,
            deferred: Deferred::default(),
        }
    }

    pub fn pins(&self) -> Pins {
        self.pins.now()
    }

    /// The settings that the client's texts are parsed under from here on, in any form that tells them apart.
    pub fn parse_under(&mut self, settings: Box<[u8]>) {
        self.named.parse_under(settings);
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
        if self.deferred.answer(head, frame, answer) == deferred::Outcome::NeedsServer {
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
        if before.sequences == Sequences::OfAnother {
            forget_sequences(ledger, prologue);
            self.interposed();
        }
        self.untouched = true;
        if let Some(begin) = self.deferred.take_begin() {
            prologue.extend_from_slice(&begin);
            ledger.send(Owed::Query, Asker::Weir);
            self.interposed();
        }
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

    pub fn reads_sequences(&self) -> bool {
        self.reads_sequences
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
        let pending = pending.get(..within).unwrap_or_default();
        let mut forwarded = 0;
        let mut out = Outgoing {
            pending,
            copied: 0,
            prologue,
            ledger,
            statements,
        };
        while self.frame_left == 0 && !out.ledger.is_full() && !self.statement.is_full() {
            let rest = pending.get(forwarded..).unwrap_or_default();
            let Some(head) = head(rest).ok().flatten() else {
                break;
            };
            let meaning = match meaning(head, rest) {
                Ok(Some(meaning)) => meaning,
                // What stands before it goes first.
                Err(violation) if forwarded == 0 => {
                    self.hurry(out.ledger, out.prologue);
                    return Err(violation);
                }
                Ok(None) | Err(_) => break,
            };
            // Inside COPY PostgreSQL has an answer to it; and where we have lost count, it alone knows what it
            // still has to say.
            let has_last_word = out.ledger.is_copying_in() || out.ledger.is_doubtful();
            self.terminated |= meaning == Meaning::Terminate && has_last_word;
            if meaning == Meaning::Terminate && !has_last_word {
                if forwarded == 0 {
                    self.hurry(out.ledger, out.prologue);
                    return Ok(Step::Terminate);
                }
                break;
            }
            let message = Message {
                head,
                meaning,
                bytes: rest,
                at: forwarded,
                effects: self.scan(head, meaning, rest),
            };
            if self.is_held_up(message, out.ledger, out.statements) {
                break;
            }
            if self.unnamed_foreign
                && !self.place_unnamed(meaning, forwarded, out.ledger, out.prologue)
            {
                break;
            }
            self.note_sequences(meaning, message.effects, out.ledger, out.prologue);
            let passage = self.name(message, &mut out);
            self.untouched = false;
            forwarded += self.forward(message, passage, out.ledger);
        }
        let consumed = out.copied;
        if forwarded == 0 {
            return Ok(Step::Wait);
        }
        self.units.consumed(forwarded);
        self.hurried = false;
        Ok(Step::Forward {
            consumed,
            forward: forwarded - consumed,
        })
    }

    /// The end is near, and with no Sync outstanding the server may keep its last answers to itself.
    fn hurry(&mut self, ledger: &Ledger, prologue: &mut Vec<u8>) {
        if ledger.owes() && ledger.readies_owed() == 0 && !self.hurried {
            self.hurried = true;
            put(prologue, frontend::FLUSH, |_| {});
        }
    }

    /// Whether bytes may go to the server before their unit is complete: only if it is ours anyway, or
    /// the unit is too large to keep.
    fn may_stream(&self, pending: &[u8], ledger: &Ledger) -> bool {
        ledger.tx() != TxStatus::Idle
            || ledger.is_unsynced()
            || ledger.is_copying_in()
            || self.pins.now().any()
            || pending.len() >= self.bounds.max_unit_bytes
    }

    /// The server may have another's unnamed statement: before a sequence of messages that could use it, the
    /// client's own is put there, or none. False: not before all is sent, or answered.
    ///
    /// A Query never uses it. A Parse of "" replaces it, or fails; then what follows up to Sync is skipped.
    /// That it did replace it is known when the answer is here.
    fn place_unnamed(
        &mut self,
        meaning: Meaning,
        forwarded: usize,
        ledger: &mut Ledger,
        prologue: &mut Vec<u8>,
    ) -> bool {
        let harmless = matches!(
            meaning,
            Meaning::Query | Meaning::ParseUnnamed | Meaning::FunctionCall
        );
        if harmless || ledger.is_unsynced() || ledger.is_copying_in() {
            return true;
        }
        let answered = self.untouched || !ledger.owes();
        if forwarded > 0 || !answered {
            return false;
        }
        match self.statement.place(prologue) {
            Placing::Parse => ledger.send(Owed::Parse, Asker::Weir),
            Placing::Close => ledger.send(Owed::Close, Asker::Weir),
        }
        self.unnamed_foreign = false;
        true
    }

    /// What nextval has left behind is each session's own.
    fn note_sequences(
        &mut self,
        meaning: Meaning,
        effects: Effects,
        ledger: &mut Ledger,
        prologue: &mut Vec<u8>,
    ) {
        let unknown = meaning == Meaning::FunctionCall || effects.has(Effects::UNSURE);
        if !unknown && !effects.has(Effects::SEQUENCE_READ) {
            return;
        }
        if self.untouched && !self.reads_sequences {
            forget_sequences(ledger, prologue);
            self.interposed();
        }
        self.reads_sequences = true;
    }

    /// Lets one message pass, as much of it as is there; what it changes is noted.
    fn forward(&mut self, message: Message<'_>, passage: Passage, ledger: &mut Ledger) -> usize {
        let Message {
            head,
            meaning,
            bytes: rest,
            effects: told_effects,
            ..
        } = message;
        let Passage {
            owed,
            mut note,
            effects,
        } = passage;
        let available = head.frame_bytes().min(rest.len());
        let frame = rest.get(..available).unwrap_or_default();
        let whole = available == head.frame_bytes();
        self.pins.add_effects(effects);
        let unnamed = self.change_unnamed(meaning, told_effects, whole.then_some(frame));
        note.changes = note.changes.with(unnamed);
        if meaning == Meaning::FunctionCall {
            self.pins.add(Reason::Routine);
        }
        if effects.has(Effects::DISCARD_ALL) && meaning != Meaning::Query {
            // Nobody will tell when it is executed: the server's settings are not known from here on.
            self.pins.add(Reason::Setting);
        }
        if let Some(owed) = owed {
            let discards = effects.has(Effects::DISCARD_ALL) && meaning == Meaning::Query;
            let asker = if discards {
                Asker::Discarding
            } else {
                Asker::Client
            };
            if discards {
                self.pins.discarding();
            }
            ledger.send_noted(owed, asker, note);
            if matches!(owed, Owed::Sync | Owed::Query | Owed::FunctionCall) {
                self.named.end_sequence();
            }
        }
        self.frame_left = head.frame_bytes() - available;
        available
    }

    /// Notes that a message will change the unnamed statement, if it will.
    fn change_unnamed(
        &mut self,
        meaning: Meaning,
        effects: Effects,
        whole: Option<&[u8]>,
    ) -> Changes {
        match meaning {
            Meaning::ParseUnnamed => {
                let kept = whole.filter(|frame| frame.len() <= prepared::KEPT_BYTES);
                match kept {
                    Some(_) => self.pins.remove(Reason::UnnamedStatement),
                    None => self.pins.add(Reason::UnnamedStatement),
                }
                let report = |frame: &[u8]| match effects.is_none() {
                    true => Report::default(),
                    false => sql::report(prepared::text(frame)),
                };
                self.statement
                    .parsing(kept.map(|frame| (frame, report(frame))));
                Changes::UNNAMED
            }
            Meaning::Query | Meaning::CloseUnnamed if self.statement.exists() => {
                self.pins.remove(Reason::UnnamedStatement);
                self.statement.leaving();
                Changes::UNNAMED
            }
            Meaning::Query
            | Meaning::CloseUnnamed
            | Meaning::ParseNamed
            | Meaning::BindUnnamed
            | Meaning::BindNamed
            | Meaning::DescribeNamed
            | Meaning::CloseNamed
            | Meaning::FunctionCall
            | Meaning::Plain
            | Meaning::Terminate => Changes::NONE,
        }
    }

    /// The effects of a message's text, as far as it is there; the rest is scanned as it passes.
    fn scan(&mut self, head: Head, meaning: Meaning, rest: &[u8]) -> Effects {
        let has_text = matches!(
            meaning,
            Meaning::Query | Meaning::ParseUnnamed | Meaning::ParseNamed
        );
        if !has_text {
            return Effects::NONE;
        }
        let end = head.frame_bytes().min(rest.len());
        let body = rest.get(HEADER_BYTES..end).unwrap_or_default();
        if end == head.frame_bytes() {
            return TextScan::whole(head.tag, body);
        }
        self.text.begin(head.tag);
        self.text.feed(body).unwrap_or(Effects::NONE)
    }

    /// More of a message whose beginning was forwarded.
    fn stream_on(&mut self, pending: &[u8]) -> Step {
        let count = self.frame_left.min(pending.len());
        if count == 0 {
            return Step::Wait;
        }
        let part = pending.get(..count).unwrap_or_default();
        if let Some(effects) = self.text.feed(part) {
            self.pins.add_effects(effects);
        }
        self.frame_left -= count;
        if self.frame_left == 0 {
            self.pins.add_effects(self.text.end());
        }
        Step::Forward {
            consumed: 0,
            forward: count,
        }
    }

    fn pass_over(&mut self, available: usize) -> Step {
        let count = self.frame_left.min(available);
        self.frame_left -= count;
        if count == 0 {
            Step::Wait
        } else {
            Step::Consume(count)
        }
    }

    /// The unit at the front gets no server: the client is told, and what belongs to it is passed over.
    pub fn refuse(&mut self, pending: &[u8], error: &ErrorReply, answer: &mut Vec<u8>) {
        error.put(answer);
        self.deferred.fail();
        let simple = pending
            .first()
            .is_some_and(|tag| matches!(*tag, frontend::QUERY | frontend::FUNCTION_CALL));
        if simple {
            put_ready_for_query(answer, self.tx());
            if let Ok(Some(head)) = head(pending) {
                self.frame_left = head.frame_bytes();
            }
        } else {
            self.refusing = true;
        }
        self.units = Units::default();
    }

    /// Passes over messages of a refused unit, up to its Sync, which is answered.
    fn refuse_on(&mut self, pending: &[u8], answer: &mut Vec<u8>) -> Result<Step, Violation> {
        let Some(head) = head(pending)? else {
            return Ok(Step::Wait);
        };
        if head.tag == frontend::TERMINATE {
            return Ok(Step::Terminate);
        }
        if head.tag == frontend::SYNC {
            self.refusing = false;
            put_ready_for_query(answer, self.tx());
        }
        self.frame_left = head.frame_bytes();
        Ok(self.pass_over(pending.len()))
    }

    /// Takes note of what the server made of messages that were to change prepared statements.
    #[inline]
    pub fn note_outcomes(&mut self, ledger: &mut Ledger, statements: &mut Statements) {
        while let Some((changes, outcome)) = ledger.outcome() {
            if changes == Changes::NAMED {
                self.named.settle(outcome, statements);
            } else {
                self.unnamed_foreign &= outcome != ledger::Outcome::Done;
                self.statement.settle(outcome);
            }
        }
    }

    /// PostgreSQL has answered a whole command.
    pub fn concluded(&mut self, concluded: Concluded) -> Conclusion {
        if concluded.by_query && !concluded.failed && !self.statement.exists() {
            // A Query that was carried out did away with whatever unnamed statement there was.
            self.unnamed_foreign = false;
        }
        match (concluded.asker, concluded.failed) {
            (Asker::Weir, true) => Conclusion::OwnFailed,
            (Asker::Discarding, false) => {
                self.pins.discarded(Discard::Done);
                Conclusion::Discarded
            }
            (Asker::Discarding, true) => {
                self.pins.discarded(Discard::Failed);
                Conclusion::Ordinary
            }
            (Asker::Weir, false) | (Asker::Client, _) => Conclusion::Ordinary,
        }
    }

    /// Whether the server may be released, as far as the conversation is concerned: nothing owed,
    /// nothing begun, nothing that must stay.
    #[inline]
    pub fn may_release(&self, ledger: &Ledger) -> bool {
        ledger.is_idle() && self.frame_left == 0 && self.strays.is_empty() && !self.pins.now().any()
    }

    /// Whether a message was forwarded in part.
    pub fn is_mid_frame(&self) -> bool {
        self.frame_left > 0
    }
}

/// currval and lastval are about to be asked of a server that another client may have used: better
/// PostgreSQL's error (55000) than that client's value.
fn forget_sequences(ledger: &mut Ledger, prologue: &mut Vec<u8>) {
    put(prologue, frontend::QUERY, |body| {
        put_cstr(body, b"DISCARD SEQUENCES");
    });
    ledger.send(Owed::Query, Asker::Weir);
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

/// Whether what nextval left on a server must be forgotten first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequences {
    Own,
    OfAnother,
}

/// What a ReadyForQuery concludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    Ordinary,
    /// The client's DISCARD ALL has succeeded: nothing of its session is left on the server.
    Discarded,
    /// A command of our own has failed.
    OwnFailed,
}

#[cfg(test)]
mod tests;
