//! How messages go to a server that name statements: under the name that all servers know, with what this one lacks
//! ahead of them.
//!
//! PostgreSQL has the last word wherever it would have one: a name that the client does not have goes out as it
//! is, and where a text or a second Parse refers to one that it has, the server is given it for that long.

use std::sync::Arc;

use super::Core;
use crate::protocol::frame::{HEADER_BYTES, Head, put, split_cstr};
use crate::protocol::names::{
    NameAt, TOLD_BYTES, portal, put_close, put_describe, put_parse, told,
};
use crate::protocol::reply::TxStatus;
use crate::protocol::tag::frontend;
use crate::server::Statements;
use crate::server::ledger::{Asker, Changes, Ledger, Note, Owed, Telling};
use crate::server::statements::{Act, Outlook, Presence, clients_name, find_mention};
use crate::session::pins::Reason;
use crate::session::prepared::named::{Change, Meaning as Name, Name as Owned};
use crate::session::prepared::table::{Sharing, Statement};
use crate::session::questions::{self, Kinds};
use crate::session::requests::{Meaning, TextScan};
use crate::sql::{self, Deallocate, Effects, Report};

/// A Parse larger than this keeps its name, and the session its server. Must fit into a buffer.
const MAX_PARSE_BYTES: usize = 60_000;
/// So many portals may wait to be executed that change named statements.
const MAX_EXECUTING: usize = 256;
/// So many statements are given to a server because one text may refer to them.
const MAX_REFERRED: usize = 64;
/// Body of a Parse behind the name: no text, no parameters. Never fails.
const EMPTY: &[u8] = b"\0\0\0";
/// What a text may have to do with named statements.
const REFERS: Effects = Effects::DEALLOCATE
    .with(Effects::EXECUTE)
    .with(Effects::PREPARE)
    .with(Effects::DISCARD_ALL);

/// What may make a text reach the statements that a server has.
const REACHES: Effects = REFERS
    .with(Effects::DISCARD_IN_TEXT)
    .with(Effects::ROUTINE)
    .with(Effects::UNSURE);

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

    fn frame(&self) -> &'a [u8] {
        let end = self.head.frame_bytes().min(self.bytes.len());
        self.bytes.get(..end).unwrap_or_default()
    }

    /// Whether the rest of it will come and is needed.
    fn is_awaited(&self) -> bool {
        self.head.frame_bytes() <= MAX_PARSE_BYTES && !self.is_whole()
    }

    #[inline]
    fn name(&self) -> Option<NameAt> {
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
    fn text(&self) -> &'a [u8] {
        let body = self.frame().get(HEADER_BYTES..).unwrap_or_default();
        TextScan::whole(self.head.tag, body)
    }
}

/// A text larger than this is not awaited, however it begins.
const AWAITED_BYTES: usize = 8192;

impl Message<'_> {
    /// Whether the text that has begun may turn out to be one that must be known in full before it goes.
    fn may_come_to_refer(&self) -> bool {
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
    fn rename(&mut self, message: Message<'_>, at: NameAt, name: &[u8]) {
        let prologue = self.ahead_of(message.at);
        let taken = at.put_renamed(message.head, message.bytes, name, prologue);
        self.copied = message.at + taken;
    }
}

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
        let name = message.name().map(|at| told(at.of(message.bytes)));
        let name = name.unwrap_or_default();
        let refers = match message.meaning {
            Meaning::ParseNamed => {
                if message.is_awaited() || matches!(self.named.meaning(name), Name::Open) {
                    return true;
                }
                message.report.effects.has(REFERS)
            }
            Meaning::CloseNamed => return matches!(self.named.meaning(name), Name::Open),
            Meaning::BindNamed | Meaning::DescribeNamed => match self.named.meaning(name) {
                Name::Open => return true,
                Name::Unknown => false,
                Name::Known(statement, _) => {
                    let outlook = statements.outlook(statement.id, self.named.sequence());
                    if outlook == Outlook::Open {
                        return true;
                    }
                    statement.report.effects.has(REFERS)
                }
            },
            Meaning::Query | Meaning::ParseUnnamed => {
                if message.may_come_to_refer() {
                    return true;
                }
                message.report.effects.has(REFERS)
            }
            Meaning::BindUnnamed => {
                let mut bound = self.statement.bound();
                bound.any(|(_, report)| report.effects.has(REFERS))
            }
            Meaning::CloseUnnamed | Meaning::FunctionCall | Meaning::Plain | Meaning::Terminate => {
                false
            }
        };
        // Whether the transaction has failed must be known, too.
        refers && (self.named.is_open() || ledger.owes_client_ready())
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
            Meaning::CloseNamed => {
                if let Some(at) = message.name()
                    && let name = told(at.of(message.bytes))
                {
                    let Name::Known(statement, _) = self.named.meaning(name) else {
                        if let Some(name) = clients_name(name) {
                            out.rename(message, at, &name);
                        }
                        return passage;
                    };
                    if out.ledger.is_doubtful() {
                        // Nobody will tell whether it was carried out; the connection is nobody else's any more.
                        out.rename(message, at, &statement.server_name);
                    } else {
                        if let Some(name) = clients_name(name) {
                            out.rename(message, at, &name);
                        }
                        let change = Change::Forget(vec![name.into()]);
                        self.note(Some(change), &mut passage.note, out);
                    }
                }
            }
            Meaning::BindNamed | Meaning::DescribeNamed => self.use_it(message, &mut passage, out),
            Meaning::BindUnnamed => self.bind_unnamed(message, out),
            Meaning::Plain if message.head.tag == frontend::EXECUTE => {
                // It stays: where this one is passed over, another may come.
                let name = portal(message.frame()).unwrap_or_default();
                let mut executing = self.executing.iter();
                let executed = executing.find(|(portal, _)| **portal == *name);
                let does = executed.map(|(_, does)| does.clone()).unwrap_or_default();
                self.suspects |= does.unseen;
                self.note(does.change, &mut passage.note, out);
            }
            Meaning::CloseUnnamed | Meaning::FunctionCall | Meaning::Plain | Meaning::Terminate => {
            }
        }
        passage
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
        let act = match outlook {
            Outlook::Known(Presence::There) if !out.ledger.may_be_failed() => {
                // Has it been redefined since, unseen? Then this is refused as a Bind would be.
                out.statements.used(statement.id);
                put_describe(out.ahead_of(message.at), &statement.server_name);
                out.copied = message.at + message.head.frame_bytes();
                passage.owed = Some(Owed::Describe);
                passage.note.telling = Telling::AsParsed;
                passage.note.uses = statement.id;
                self.begin_second_try(statement.id, out.ledger);
                None
            }
            _ => {
                match outlook {
                    Outlook::Known(Presence::Absent) => self.make_room(message.at, out),
                    Outlook::Known(Presence::There | Presence::Stale) | Outlook::Open => {
                        self.close(statement.id, &statement.server_name, message.at, out);
                    }
                }
                passage.note.uses = statement.id;
                out.rename(message, at, &statement.server_name);
                Some(Act::Parse)
            }
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

    /// A text refers to named statements, or may: the server is given those for as long as it takes. What
    /// becomes of them when the text is carried out.
    fn refer(
        &mut self,
        text: &[u8],
        effects: Effects,
        at: usize,
        out: &mut Outgoing<'_>,
    ) -> Option<Change> {
        let dropped = dropped(text, effects);
        let forgets_all = dropped.contains(&Deallocate::All);
        let is_dropped = |name: &[u8]| {
            let mut dropped = dropped.iter();
            dropped.any(|what| matches!(what, Deallocate::Name(known) if known == name))
        };
        // In a failed transaction nothing is run, and nothing but an empty text parsed.
        let may_run = out.ledger.tx() != TxStatus::Failed && !out.ledger.is_doubtful();
        let runs = may_run && effects.has(Effects::EXECUTE.with(Effects::PREPARE));
        let several =
            may_run && effects.has(Effects::DEALLOCATE) && sql::deallocate(text).is_none();
        let referred: Vec<(Owned, Option<Arc<Statement>>)> = self
            .named
            .live()
            .filter(|(name, _)| {
                let all = several && forgets_all;
                all || is_dropped(name) || (runs && mentions(text, name))
            })
            .map(|(name, statement)| {
                let is_needed = runs || several;
                (name.into(), is_needed.then(|| Arc::clone(statement)))
            })
            .take(MAX_REFERRED)
            .collect();
        let mut forgotten = Vec::new();
        for (name, statement) in referred {
            if forgets_all || is_dropped(&name) {
                forgotten.push(name.clone());
            }
            let body = statement
                .as_ref()
                .map_or(EMPTY, |statement| statement.body());
            if let Some(statement) = &statement {
                // EXECUTE runs it.
                self.culprit
                    .blame_text(statement.text(), statement.report.effects);
                self.note_effects(&statement.report);
            }
            self.lend(name, body, at, out);
        }
        if several && !forgotten.is_empty() {
            if effects.has(Effects::PREPARE) {
                // It may give a name that it takes away to another.
                self.leave(&forgotten);
            }
            let begins = text.split(|&byte| byte == b';').next();
            let begins = begins.and_then(sql::deallocate);
            let first = match begins {
                Some(Deallocate::All) => true,
                Some(Deallocate::Name(_)) => !forgets_all && forgotten.len() == 1,
                None => false,
            };
            return Some(Change::Leave {
                first: first && dropped.len() == 1 && !effects.has(Effects::PREPARE),
                names: forgotten,
                all: forgets_all,
            });
        }
        if forgets_all {
            return Some(Change::ForgetAll);
        }
        (!forgotten.is_empty()).then_some(Change::Forget(forgotten))
    }

    /// What the server has under these names is the client's, and PostgreSQL has the last word on it.
    pub(super) fn leave(&mut self, names: &[Owned]) {
        self.strays.retain(|name| !names.contains(name));
        self.pins.add(Reason::NamedStatement);
    }

    /// Gives the server a statement under the client's own name, for a while.
    fn lend(&mut self, name: Owned, body: &[u8], at: usize, out: &mut Outgoing<'_>) {
        if out.ledger.is_doubtful() || out.ledger.is_copying_in() {
            return;
        }
        let name = clients_name(&name).unwrap_or(name);
        let prologue = out.ahead_of(at);
        put_close(prologue, &name);
        put_parse(prologue, &name, body);
        out.ledger.send(Owed::Close, Asker::Weir);
        out.ledger.send(Owed::Parse, Asker::Weir);
        if !self.strays.contains(&name) {
            self.strays.push(name);
        }
    }

    /// Whether something of ours is left on the server under a client's name, or the client waits for an answer that
    /// only we can have the server give.
    #[inline]
    pub fn is_untidy(&self, ledger: &Ledger) -> bool {
        !self.strays.is_empty() || ledger.is_sync_due()
    }

    /// Sends what makes the server as it should be, if now is the time for it.
    pub fn tidy(&mut self, ledger: &mut Ledger, prologue: &mut Vec<u8>) -> bool {
        if ledger.take_sync_due() {
            put(prologue, frontend::SYNC, |_| {});
            ledger.send(Owed::Sync, Asker::Client);
            return true;
        }
        if self.strays.is_empty() || !ledger.is_settled() || self.frame_left > 0 {
            return false;
        }
        for name in self.strays.drain(..) {
            put_close(prologue, &name);
            ledger.send(Owed::Close, Asker::Weir);
        }
        put(prologue, frontend::SYNC, |_| {});
        ledger.send(Owed::Sync, Asker::Weir);
        true
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

/// What a text of statements deallocates, if all goes well.
fn dropped(text: &[u8], effects: Effects) -> Vec<Deallocate> {
    if effects.has(Effects::DISCARD_ALL) {
        return vec![Deallocate::All];
    }
    if !effects.has(Effects::DEALLOCATE) {
        return Vec::new();
    }
    match sql::deallocate(text) {
        Some(what) => vec![what],
        None => {
            let statements = text.split(|&byte| byte == b';');
            statements.filter_map(sql::deallocate).collect()
        }
    }
}

/// Whether a text has a name in it, in whatever case.
fn mentions(text: &[u8], name: &[u8]) -> bool {
    let mut parts = text.windows(name.len().max(1));
    parts.any(|part| part.eq_ignore_ascii_case(name))
}
