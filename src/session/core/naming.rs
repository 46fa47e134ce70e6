//! How messages go to a server that name statements: under the name that all servers know, with what this one lacks
//! ahead of them.
//!
//! PostgreSQL has the last word wherever it would have one: a name that the client does not have goes out as it
//! is, and where a text or a second Parse refers to one that it has, the server is given it for that long.

use std::sync::Arc;

use super::Core;
use super::message::{Message, Outgoing};
use crate::protocol::frame::{HEADER_BYTES, split_cstr};
use crate::protocol::names::{
    NameAt, TOLD_BYTES, portal, put_close, put_describe, put_parse, told,
};
use crate::protocol::reply::TxStatus;
use crate::protocol::tag::frontend;
use crate::server::Statements;
use crate::server::ledger::{Asker, Changes, Ledger, Note, Owed, Telling};
use crate::server::statements::{Act, Outlook, Presence, clients_name};
use crate::session::pins::Reason;
use crate::session::prepared::named::{Change, Meaning as Name};
use crate::session::prepared::table::{Sharing, Statement};
use crate::session::questions::{self, Kinds};
use crate::session::requests::Meaning;
use crate::sql::{Effects, Report};

/// A Parse larger than this keeps its name, and the session its server. Must fit into a buffer.
pub(super) const MAX_PARSE_BYTES: usize = 60_000;
/// So many portals may wait to be executed that change named statements.
const MAX_EXECUTING: usize = 256;
/// What a text may have to do with named statements.
const REFERS: Effects = Effects::DEALLOCATE
    .with(Effects::EXECUTE)
    .with(Effects::PREPARE)
    .with(Effects::DISCARD_ALL);

/// What may make a text reach the statements that a server has.
pub(super) const REACHES: Effects = REFERS
    .with(Effects::DISCARD_IN_TEXT)
    .with(Effects::ROUTINE)
    .with(Effects::UNSURE);

/// How a message is sent.
pub(super) struct Passage {
    pub owed: Option<Owed>,
    pub note: Note,
    pub timing: Timing,
}

/// What executing a portal does.
#[derive(Clone, Debug, Default)]
pub(super) struct Executing {
    change: Option<Change>,
    /// It may do what its text does not show.
    unseen: bool,
}

/// Whether a server has the statements that it is thought to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    Kept,
    /// Its copy of this statement is not what the text means by now.
    Outdated,
    /// The connection is to be made as new when the session lets go of it.
    Lost,
}

/// When a message's text does what it may do to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timing {
    Now,
    /// Each time that it is bound.
    AtBind,
}

/// What a message waits for, for the sake of names.
enum Need {
    Nothing,
    /// The rest of itself, or what became of the name that it uses.
    ThisMessage,
    /// What became of all names.
    Names,
}

impl Core {
    /// Whether the session's own objects, definitions or settings that are not known yet, may give a text another meaning than
    /// it has for others.
    fn may_parse_differently(&self) -> bool {
        self.pins.now().has(Reason::Temporary)
            || self.is_anything_open()
            || self.named.is_redefining()
    }

    /// Whether names go out as they are: SQL's PREPARE has its own, and they must be able to clash.
    fn is_literal(&self) -> bool {
        let pins = self.pins.now();
        pins.has(Reason::SqlPrepare)
            || pins.has(Reason::NamedStatement)
            || self.is_open(Kinds::PREPARED)
    }

    /// Whether a message can't be sent before more is there, or answered.
    pub(super) fn is_held_up(
        &self,
        message: Message<'_>,
        ledger: &Ledger,
        statements: &Statements,
    ) -> bool {
        if ledger.is_copying_in() || ledger.is_doubtful() {
            return false;
        }
        let awaits_copy = message.meaning != Meaning::Plain && ledger.may_become_doubtful();
        if awaits_copy || self.second_try.holds_up() {
            return true;
        }
        if message.head.tag == frontend::EXECUTE
            && !self.executing.is_empty()
            && portal(message.frame()).is_none()
        {
            return true;
        }
        // What was put there for the client's last sequence is cleared away first.
        if !self.strays.is_empty() && !ledger.is_unsynced() && ledger.owes() {
            return true;
        }
        if self.named.is_settled() {
            return match message.meaning {
                Meaning::ParseNamed => message.is_awaited(),
                Meaning::Query | Meaning::ParseUnnamed => message.may_come_to_refer(),
                _ => false,
            };
        }
        match self.need(message, statements) {
            Need::Nothing => false,
            Need::ThisMessage => true,
            // Whether the transaction has failed must be known, too.
            Need::Names => self.named.is_open() || ledger.owes_client_ready(),
        }
    }

    /// What must be known of names before a message can be sent, while some of it is open.
    fn need(&self, message: Message<'_>, statements: &Statements) -> Need {
        let name = message.name().map(|at| told(at.of(message.bytes)));
        let meaning = self.named.meaning(name.unwrap_or_default());
        let is_open = matches!(meaning, Name::Open);
        let (awaits, refers) = match message.meaning {
            Meaning::ParseNamed => (
                message.is_awaited() || is_open,
                message.report.effects.has(REFERS),
            ),
            Meaning::CloseNamed => (is_open, false),
            Meaning::BindNamed | Meaning::DescribeNamed => match meaning {
                Name::Open => (true, false),
                Name::Unknown => (false, false),
                Name::Known(statement, _) => (
                    statements.outlook(statement.id, self.named.sequence()) == Outlook::Open,
                    statement.report.effects.has(REFERS),
                ),
            },
            Meaning::Query | Meaning::ParseUnnamed => (
                message.may_come_to_refer(),
                message.report.effects.has(REFERS),
            ),
            Meaning::BindUnnamed => {
                let mut bound = self.statement.bound();
                (false, bound.any(|(_, report)| report.effects.has(REFERS)))
            }
            Meaning::CloseUnnamed | Meaning::FunctionCall | Meaning::Plain | Meaning::Terminate => {
                (false, false)
            }
        };
        match (awaits, refers) {
            (true, _) => Need::ThisMessage,
            (false, true) => Need::Names,
            (false, false) => Need::Nothing,
        }
    }

    /// Puts ahead of a message what it needs on this server, and its own front if it goes under another name.
    pub(super) fn name(&mut self, message: Message<'_>, out: &mut Outgoing<'_>) -> Passage {
        let mut passage = Passage {
            owed: Owed::by(message.head.tag),
            note: Note::default(),
            timing: Timing::Now,
        };
        if out.ledger.is_copying_in() {
            self.name_in_copy(message, &mut passage, out);
            return passage;
        }
        match message.meaning {
            Meaning::Query => {
                if message.report.effects.has(REFERS) && message.is_whole() {
                    let change =
                        self.refer(message.text(), message.report.effects, message.at, out);
                    self.note(change, &mut passage.note, out);
                }
            }
            Meaning::ParseNamed => self.parse(message, &mut passage, out),
            Meaning::ParseUnnamed => {
                if message.is_whole() {
                    // It counts when it is bound.
                    passage.timing = Timing::AtBind;
                    if message.report.effects.has(REFERS) {
                        self.refer(message.text(), message.report.effects, message.at, out);
                    }
                }
            }
            Meaning::CloseNamed => self.close_it(message, &mut passage, out),
            Meaning::BindNamed | Meaning::DescribeNamed => self.use_it(message, &mut passage, out),
            Meaning::BindUnnamed => self.bind_unnamed(message, out),
            Meaning::Plain if message.head.tag == frontend::EXECUTE => {
                self.execute(message, &mut passage, out);
            }
            Meaning::CloseUnnamed | Meaning::FunctionCall | Meaning::Plain | Meaning::Terminate => {
            }
        }
        passage
    }

    /// An Execute.
    fn execute(&mut self, message: Message<'_>, passage: &mut Passage, out: &mut Outgoing<'_>) {
        // It stays: where this one is passed over, another may come.
        let name = portal(message.frame()).unwrap_or_default();
        let mut executing = self.executing.iter();
        let executed = executing.find(|(portal, _)| **portal == *name);
        let does = executed.map(|(_, does)| does.clone()).unwrap_or_default();
        self.suspects |= does.unseen;
        self.note(does.change, &mut passage.note, out);
    }

    /// A Close. The server keeps the statement, for whoever comes with its text.
    fn close_it(&mut self, message: Message<'_>, passage: &mut Passage, out: &mut Outgoing<'_>) {
        let Some(at) = message.name() else { return };
        let name = told(at.of(message.bytes));
        let known = match self.named.meaning(name) {
            Name::Known(statement, _) => Some(statement),
            Name::Open | Name::Unknown => None,
        };
        if let Some(statement) = known.filter(|_| out.ledger.is_doubtful()) {
            // Nobody will tell whether it was carried out; the connection is nobody else's any more.
            return out.rename(message, at, &statement.server_name);
        }
        let is_known = known.is_some();
        if let Some(name) = clients_name(name) {
            out.rename(message, at, &name);
        }
        if is_known {
            let change = Change::Forget(vec![name.into()]);
            self.note(Some(change), &mut passage.note, out);
        }
    }

    /// Inside COPY PostgreSQL has words for it. But the COPY may have failed by the time that it reads this, and then it
    /// carries it out.
    fn name_in_copy(
        &mut self,
        message: Message<'_>,
        passage: &mut Passage,
        out: &mut Outgoing<'_>,
    ) {
        match message.meaning {
            Meaning::ParseNamed => {
                self.pins.add(Reason::NamedStatement);
                self.culprit.blame(message.frame());
            }
            Meaning::BindUnnamed => self.bind_unnamed(message, out),
            Meaning::BindNamed | Meaning::DescribeNamed => self.use_it(message, passage, out),
            Meaning::Query
            | Meaning::ParseUnnamed
            | Meaning::CloseUnnamed
            | Meaning::CloseNamed
            | Meaning::FunctionCall
            | Meaning::Plain
            | Meaning::Terminate => {}
        }
    }

    fn bind_unnamed(&mut self, message: Message<'_>, out: &mut Outgoing<'_>) {
        let bound = self.statement.bound();
        let texts: Vec<(Vec<u8>, Report)> = bound
            .map(|(text, report)| (text.to_vec(), report.clone()))
            .collect();
        let mut does = Executing::default();
        for (text, report) in texts {
            self.culprit.blame_text(&text, report.effects);
            self.note_effects(&report);
            let effects = report.effects;
            if effects.has(REFERS) {
                let change = self.refer(&text, effects, message.at, out);
                does.change = change.or(does.change.take());
            }
            does.unseen |= effects.has(questions::UNSEEN);
        }
        self.bound(message, does);
    }

    /// What a portal will do, from this Bind on.
    fn bound(&mut self, message: Message<'_>, does: Executing) {
        let changes = does.change.is_some() || does.unseen;
        if self.executing.is_empty() && !changes {
            return;
        }
        let name = portal(message.frame()).unwrap_or_default();
        self.executing.retain(|(portal, _)| **portal != *name);
        if !changes {
            return;
        }
        if self.executing.len() < MAX_EXECUTING {
            self.executing.push((name.into(), does));
        } else {
            self.pins.add(Reason::Unsure);
            self.suspects = true;
        }
    }

    /// The message changes something: its outcome is awaited.
    fn note(&mut self, change: Option<Change>, note: &mut Note, out: &mut Outgoing<'_>) {
        if let Some(change) = change {
            self.named.sent(change, out.statements);
            note.changes = note.changes.with(Changes::NAMED);
        }
    }

    /// A Parse is not carried out, because the server has such a statement. Where that turns out to be an older one, the client's
    /// unit is given a second try, unless something of it would be done twice or its transaction is lost.
    fn begin_second_try(&mut self, id: u64, ledger: &Ledger) {
        let begun = self.begun && ledger.readies_owed() > 0;
        let outside = ledger.tx() == TxStatus::Idle && !begun;
        if outside && self.bound_in != self.named.sequence() {
            self.second_try.begin(id);
        }
    }

    /// A Parse with a name.
    fn parse(&mut self, message: Message<'_>, passage: &mut Passage, out: &mut Outgoing<'_>) {
        let Some(at) = message.name() else { return };
        let name = told(at.of(message.bytes));
        if let Name::Known(statement, number) = self.named.meaning(name) {
            // PostgreSQL refuses it, once it has nothing else to say against it.
            let statement = Arc::clone(statement);
            passage.timing = Timing::AtBind;
            (passage.note.uses, passage.note.name) = (statement.id, number);
            self.says(message, at);
            self.give(&statement, message.at, out);
            return out.rename(message, at, &statement.server_name);
        }
        let sharing = match self.may_parse_differently() {
            true => Sharing::Own,
            false => Sharing::Shared,
        };
        let Some(mut statement) = self.statement_of(message, sharing, out.ledger) else {
            if let Some(name) = clients_name(name) {
                out.rename(message, at, &name);
            }
            self.pins.add(Reason::NamedStatement);
            self.culprit.blame(message.frame());
            return;
        };
        // It counts when it is bound.
        passage.timing = Timing::AtBind;
        if message.report.effects.has(REFERS) {
            self.refer(message.text(), message.report.effects, message.at, out);
        }
        let mut outlook = out.statements.outlook(statement.id, self.named.sequence());
        // PostgreSQL may refuse it, because the transaction has failed: it is asked, and over that no server is to
        // lose what it has.
        if outlook != Outlook::Known(Presence::Absent)
            && out.ledger.may_be_failed()
            && let Some(own) = self.statement_of(message, Sharing::Own, out.ledger)
        {
            statement = own;
            outlook = Outlook::Known(Presence::Absent);
        }
        passage.note.uses = statement.id;
        let is_there = outlook == Outlook::Known(Presence::There) && !out.ledger.may_be_failed();
        let act = if is_there {
            self.describe_instead(&statement, message, passage, out);
            None
        } else {
            match outlook {
                Outlook::Known(Presence::Absent) => self.make_room(message.at, out),
                Outlook::Known(Presence::There | Presence::Stale) | Outlook::Open => {
                    self.close(statement.id, &statement.server_name, message.at, out);
                }
            }
            out.rename(message, at, &statement.server_name);
            Some(Act::Parse)
        };
        let change = Change::Name {
            name: name.into(),
            statement,
            act,
        };
        self.note(Some(change), &mut passage.note, out);
        passage.note.name = self.named.number(name);
        self.says(message, at);
    }

    /// The server has what a Parse would make, and is asked about it. Has it been redefined since, unseen? Then this is
    /// refused as a Bind would be.
    fn describe_instead(
        &mut self,
        statement: &Statement,
        message: Message<'_>,
        passage: &mut Passage,
        out: &mut Outgoing<'_>,
    ) {
        out.statements.used(statement.id);
        put_describe(out.ahead_of(message.at), &statement.server_name);
        out.copied = message.at + message.head.frame_bytes();
        passage.owed = Some(Owed::Describe);
        passage.note.telling = Telling::AsParsed;
        self.begin_second_try(statement.id, out.ledger);
    }

    /// A name longer than PostgreSQL tells apart is repeated in full where it has words for it.
    fn says(&mut self, message: Message<'_>, at: NameAt) {
        let whole = at.of(message.bytes);
        let name = told(whole);
        if name.len() == TOLD_BYTES {
            self.named.says(name, whole);
        }
    }

    /// What a Parse makes, if servers can have it under a name of ours.
    fn statement_of(
        &self,
        message: Message<'_>,
        sharing: Sharing,
        ledger: &Ledger,
    ) -> Option<Arc<Statement>> {
        let small = message.is_whole() && message.head.frame_bytes() <= MAX_PARSE_BYTES;
        if !small || self.is_literal() || ledger.is_doubtful() {
            return None;
        }
        let body = message.frame().get(HEADER_BYTES..)?;
        let (_name, body) = split_cstr(body)?;
        self.named.intern(body, message.report, sharing)
    }

    /// A Bind or Describe.
    #[inline]
    fn use_it(&mut self, message: Message<'_>, passage: &mut Passage, out: &mut Outgoing<'_>) {
        let Some(at) = message.name() else { return };
        let name = told(at.of(message.bytes));
        let Name::Known(statement, number) = self.named.meaning(name) else {
            if message.meaning == Meaning::BindNamed {
                self.bound(message, Executing::default());
            }
            if let Some(name) = clients_name(name) {
                out.rename(message, at, &name);
            }
            return;
        };
        let statement = Arc::clone(statement);
        self.give(&statement, message.at, out);
        (passage.note.uses, passage.note.name) = (statement.id, number);
        self.says(message, at);
        if message.meaning == Meaning::BindNamed {
            let effects = statement.report.effects;
            self.culprit.blame_text(statement.text(), effects);
            self.note_effects(&statement.report);
            let change = match effects.has(REFERS) {
                true => self.refer(statement.text(), effects, message.at, out),
                false => None,
            };
            let unseen = effects.has(questions::UNSEEN);
            self.bound(message, Executing { change, unseen });
        }
        out.rename(message, at, &statement.server_name);
    }

    /// The server is to have it from here on.
    #[inline]
    fn give(&mut self, statement: &Statement, at: usize, out: &mut Outgoing<'_>) {
        let id = statement.id;
        match out.statements.outlook(id, self.named.sequence()) {
            Outlook::Known(Presence::There) => return out.statements.used(id),
            // Answers could not be withheld; and inside COPY nothing of ours may be read.
            _ if out.ledger.is_doubtful() || out.ledger.is_copying_in() => return,
            Outlook::Known(Presence::Absent) => self.make_room(at, out),
            Outlook::Known(Presence::Stale) | Outlook::Open => {
                self.close(id, &statement.server_name, at, out);
            }
        }
        put_parse(out.ahead_of(at), &statement.server_name, statement.body());
        self.change(id, Act::Parse, out);
    }

    /// A message of ours goes to the server that changes what it has.
    fn change(&mut self, id: u64, act: Act, out: &mut Outgoing<'_>) {
        let owed = match act {
            Act::Parse => Owed::Parse,
            Act::Close => Owed::Close,
        };
        let note = Note {
            changes: Changes::NAMED,
            uses: id,
            ..Note::default()
        };
        out.ledger.send_noted(owed, Asker::Weir, note);
        self.named.sent(Change::Server { id, act }, out.statements);
    }

    fn close(&mut self, id: u64, server_name: &[u8], at: usize, out: &mut Outgoing<'_>) {
        put_close(out.ahead_of(at), server_name);
        self.change(id, Act::Close, out);
    }

    /// The server is about to have one more.
    fn make_room(&mut self, at: usize, out: &mut Outgoing<'_>) {
        // Two, so that what was too much for a while becomes less again.
        for _ in 0..2 {
            if let Some(victim) = out.statements.victim(self.named.sequence()) {
                let name = crate::server::statements::server_name(victim);
                self.close(victim, &name, at, out);
            }
        }
    }

    /// A message failed that used a statement. Whether the server's copy is to blame, by the error's code and
    /// the routine that raised it.
    pub fn use_failed(
        &mut self,
        id: u64,
        sqlstate: &[u8],
        routine: &[u8],
        statements: &mut Statements,
    ) -> Trust {
        match sqlstate {
            // "cached plan must not change result type"
            b"0A000" if routine == b"RevalidateCachedQuery" => {
                statements.spoil(id);
                self.named.retire(id);
                return Trust::Outdated;
            }
            // Something has deallocated it unseen.
            b"26000" => {
                statements.spoil(id);
                return Trust::Lost;
            }
            // The server has what it was thought to lack. (A second Parse of a name is refused, too.)
            b"42P05" if statements.outlook(id, 0) == Outlook::Known(Presence::Absent) => {
                statements.found(id);
                return Trust::Lost;
            }
            // It may be about types or tables that were replaced unseen. PostgreSQL would parse it anew for whoever
            // comes with its text.
            b"42704" | b"42P01" | b"42703" | b"42883" | b"XX000" => {
                self.named.retire(id);
                return Trust::Outdated;
            }
            _ => {}
        }
        Trust::Kept
    }

    /// What the client calls a statement: by the number of the name, or else any name that it has for it.
    pub fn name_of(&self, number: u64, id: u64) -> Option<&[u8]> {
        self.named.name_of(number, id)
    }
}
