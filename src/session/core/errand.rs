//! Whether a unit is one that a reader may do in the writer's place, how a reader is given the rest of the transaction, and
//! what of all that went to the writer may have written.
//!
//! Pure. Knows texts and the units that they stand in; neither which readers there are nor how far they are. Errs on the
//! side of the writer.

use super::Core;
use crate::protocol::frame::{HEADER_BYTES, split_cstr};
use crate::protocol::reply::TxStatus;
use crate::protocol::tag::frontend;
use crate::server::ledger::Ledger;
use crate::session::prepared::named;
use crate::session::requests::{TextScan, head};
use crate::sql::{self, Boundary, Effects, Opened, Reading};

/// What transactions of a session are when they don't say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Habit {
    pub read_only: bool,
    pub serializable: bool,
}

/// Whose work the unit at the front is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// It is not read-only.
    Write,
    /// It is, and begins with something that a reader can't do, or might do otherwise.
    Statement,
    /// It is, and a reader has no transactions that are isolated so.
    Isolation,
    Read,
}

/// How the client's next unit goes to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// So much of what is pending.
    UpTo(usize),
    NotYet,
    /// Not to a reader, where its transaction is.
    Refused,
}

/// What was sent to the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub may_write: bool,
    /// The transaction is over with it, whatever came of it.
    pub ends: bool,
}

/// What a transaction at a reader must not leave behind, or have done where nobody looks.
const NOT_AT_READER: Effects = Effects::PREPARE
    .with(Effects::HELD_CURSOR)
    .with(Effects::LISTEN)
    .with(Effects::UNLISTEN)
    .with(Effects::NOTIFY)
    .with(Effects::LOAD)
    .with(Effects::ADVISORY_LOCK)
    .with(Effects::ROUTINE)
    .with(Effects::UNSURE)
    .with(Effects::SEED)
    .with(Effects::PATH_UNSEEN);

/// What one message has executed, or parsed.
enum Piece<'a> {
    Text(&'a [u8]),
    Nothing,
    /// Nobody can tell.
    Opaque,
}

/// The messages at the front of what is pending, one by one.
struct Messages<'a> {
    rest: &'a [u8],
    /// Names that a text stands for which has been seen; the last few will do.
    parsed: Vec<&'a [u8]>,
}

/// One of them, as much as is there.
struct Message<'a> {
    tag: u8,
    body: &'a [u8],
    whole: bool,
}

impl<'a> Messages<'a> {
    fn new(pending: &'a [u8]) -> Messages<'a> {
        Messages {
            rest: pending,
            parsed: Vec::new(),
        }
    }

    fn next(&mut self) -> Option<Message<'a>> {
        let head = head(self.rest).ok().flatten()?;
        let end = head.frame_bytes().min(self.rest.len());
        let (frame, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(Message {
            tag: head.tag,
            body: frame.get(HEADER_BYTES..)?,
            whole: end == head.frame_bytes(),
        })
    }
}

impl Message<'_> {
    fn ends_unit(&self) -> bool {
        !matches!(
            self.tag,
            frontend::PARSE
                | frontend::BIND
                | frontend::DESCRIBE
                | frontend::EXECUTE
                | frontend::CLOSE
        )
    }
}

impl Core {
    /// Takes note of how much of what is pending may go to the server at a time.
    pub fn reach(&mut self, bytes: usize) {
        self.reach = bytes;
    }

    fn piece<'a>(&'a self, message: &Message<'a>, messages: &mut Messages<'a>) -> Piece<'a> {
        match message.tag {
            frontend::QUERY if message.whole => {
                Piece::Text(TextScan::whole(message.tag, message.body))
            }
            frontend::PARSE if message.whole => {
                let name = split_cstr(message.body).map_or(&[][..], |(name, _)| name);
                messages.parsed.push(name);
                Piece::Text(TextScan::whole(message.tag, message.body))
            }
            frontend::BIND => {
                let name = split_cstr(message.body).and_then(|(_portal, rest)| split_cstr(rest));
                match name {
                    Some((name, _)) if messages.parsed.contains(&name) => Piece::Nothing,
                    Some((name, _)) => self.text_of(name).map_or(Piece::Opaque, Piece::Text),
                    None => Piece::Opaque,
                }
            }
            frontend::QUERY | frontend::PARSE | frontend::FUNCTION_CALL => Piece::Opaque,
            _ => Piece::Nothing,
        }
    }

    /// The text of a statement that the client has prepared before.
    fn text_of(&self, name: &[u8]) -> Option<&[u8]> {
        if name.is_empty() {
            return self.statement.text();
        }
        match self.named.meaning(name) {
            named::Meaning::Known(statement, _) => Some(statement.text()),
            named::Meaning::Open | named::Meaning::Unknown => None,
        }
    }

    fn effects_of(&self, text: &[u8]) -> Effects {
        let hidden = match self.hidden.is_named_in(text) {
            true => Effects::ROUTINE,
            false => Effects::NONE,
        };
        sql::effects(text).with(hidden)
    }

    /// Whose work the unit is that stands at the front, and all that belongs to its transaction.
    pub fn errand(&self, pending: &[u8], habit: Habit) -> Errand {
        let begin = self.deferred.begin().and_then(|frame| {
            let body = frame.get(HEADER_BYTES..)?;
            sql::opened(TextScan::whole(frontend::QUERY, body))
        });
        let mut opened = begin;
        let mut messages = Messages::new(pending);
        let (mut texts, mut fit) = (0, true);
        while let Some(message) = messages.next() {
            match self.piece(&message, &mut messages) {
                Piece::Nothing => {}
                Piece::Opaque => fit = false,
                Piece::Text(text) => {
                    let extended = message.tag != frontend::QUERY;
                    if extended && texts == 0 && opened.is_none() {
                        opened = sql::opened(text);
                        if opened.is_some() {
                            continue;
                        }
                    }
                    if !is_read_only(opened, habit) {
                        return Errand::Write;
                    }
                    texts += 1;
                    fit = fit && sql::reading(text).anywhere && self.effects_of(text).is_none();
                }
            }
            if message.ends_unit() {
                break;
            }
        }
        match is_read_only(opened, habit) {
            false => Errand::Write,
            true if texts == 0 || !fit => Errand::Statement,
            true if habit.serializable && !opened.is_some_and(|opened| opened.isolated) => {
                Errand::Isolation
            }
            true => Errand::Read,
        }
    }

    /// Whether the unit at the front begins, or is, a transaction that a reader may do.
    pub fn begins_reading(&self, pending: &[u8], habit: Habit) -> bool {
        let first = Messages::new(pending).next();
        let query = first.filter(|message| message.tag == frontend::QUERY && message.whole);
        let text = query.map(|message| TextScan::whole(message.tag, message.body));
        match text.and_then(sql::opened) {
            Some(opened) => is_read_only(Some(opened), habit),
            None => self.errand(pending, habit) == Errand::Read,
        }
    }

    /// How what is pending goes to a reader: a unit at a time, so that nothing of the next transaction goes along. `fresh`:
    /// nothing has gone there yet.
    pub fn at_reader(&self, pending: &[u8], fresh: bool, ledger: &Ledger) -> Passing {
        if self.frame_left > 0 || ledger.is_copying_in() {
            return Passing::UpTo(usize::MAX);
        }
        if ledger.owed_to_client().next().is_some() {
            return Passing::NotYet;
        }
        let between = ledger.tx() == TxStatus::Idle && !ledger.is_unsynced() && !fresh;
        if between && (!self.pins.now().any() || self.wonders()) {
            // It goes back first.
            return Passing::NotYet;
        }
        let mut messages = Messages::new(pending);
        let mut allowed = true;
        while let Some(message) = messages.next() {
            if !fresh {
                allowed &= match self.piece(&message, &mut messages) {
                    Piece::Nothing => true,
                    Piece::Opaque => false,
                    Piece::Text(text) => {
                        !sql::reading(text).locks && !self.effects_of(text).has(NOT_AT_READER)
                    }
                };
            }
            if message.whole && message.ends_unit() {
                let end = pending.len() - messages.rest.len();
                return match allowed {
                    true => Passing::UpTo(end),
                    false => Passing::Refused,
                };
            }
        }
        match pending.len() >= self.bounds.max_unit_bytes {
            false => Passing::NotYet,
            true if allowed => Passing::UpTo(usize::MAX),
            true => Passing::Refused,
        }
    }

    /// These messages are to be sent once more, though some were carried out: the names that they gave are free again.
    pub fn forget_parsed(&mut self, sent: &[u8]) {
        let mut messages = Messages::new(sent);
        while let Some(message) = messages.next() {
            let name = split_cstr(message.body).map_or(&[][..], |(name, _)| name);
            if message.tag == frontend::PARSE && !name.is_empty() {
                self.named.forget(name);
            }
        }
    }

    /// Whether the server is outside a transaction, and whatever is sent next begins one.
    pub fn is_outside(&self, ledger: &Ledger) -> bool {
        ledger.tx() == TxStatus::Idle
            && !self.begin_open
            && self.frame_left == 0
            && !ledger.is_unsynced()
            && !ledger.is_copying_in()
            && ledger.owed_to_client().next().is_none()
    }

    /// What it means that these whole messages, or parts of one, were sent to the writer. `outside`: that was outside a
    /// transaction.
    pub fn written(&self, sent: &[u8], outside: Outside) -> Written {
        if outside == Outside::Unknown {
            return Written {
                may_write: true,
                ends: false,
            };
        }
        let mut outside = outside == Outside::Yes;
        let mut may_write = false;
        let mut unit = Unit::default();
        let mut messages = Messages::new(sent);
        while let Some(message) = messages.next() {
            let text = match self.piece(&message, &mut messages) {
                Piece::Nothing => None,
                Piece::Opaque => Some((Reading::UNKNOWN, None)),
                Piece::Text(text) => Some((sql::reading(text), sql::boundary(text))),
            };
            if let Some((reading, boundary)) = text {
                may_write |= reading.may_write;
                unit.add(reading, boundary);
            }
            unit.open = !message.ends_unit() || message.tag == frontend::FLUSH;
            if !unit.open {
                outside = std::mem::take(&mut unit).leaves(outside);
            }
        }
        Written {
            may_write,
            ends: outside && !unit.open && self.frame_left == 0,
        }
    }
}

/// Where something was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Outside a transaction.
    Yes,
    No,
    /// Inside a message.
    Unknown,
}

/// What a unit does to the transaction that it is in.
#[derive(Debug, Default)]
struct Unit {
    texts: usize,
    ends: bool,
    strays: bool,
    open: bool,
}

impl Unit {
    fn add(&mut self, reading: Reading, boundary: Option<Boundary>) {
        self.texts += 1;
        match boundary {
            Some(Boundary::Commit | Boundary::Rollback) => self.ends = true,
            Some(Boundary::Begin(_)) => self.strays = true,
            None => self.strays |= !reading.stays,
        }
    }

    /// Whether it is outside a transaction behind it, for sure.
    fn leaves(self, outside: bool) -> bool {
        match self.ends {
            true => self.texts == 1,
            false => outside && !self.strays,
        }
    }
}

fn is_read_only(opened: Option<Opened>, habit: Habit) -> bool {
    habit.read_only || opened.is_some_and(|opened| opened.read_only)
}
