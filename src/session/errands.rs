//! A session of the writer listener whose read-only transactions readers may do.
//!
//! Knows which server each of its transactions goes to, and what of its own writes a reader must have for that; whose work a
//! unit is, `core` knows. Where nothing of it is configured, a session has none of this.
//!
//! A client sees what it has written: behind a transaction that may have written goes a call that has the writer tell how far
//! it is, and a reader is taken only if it is known to have replayed that much, or says so when asked.

use std::time::{Duration, Instant};

use super::core::{Errand, Habit, OutsideTransaction, Passing, Standing, Words, Written};
use super::ending::Ending;
use super::pinning::Lifted;
use super::queue;
use super::{Kind, Lease, Link, Presence, Session};
use crate::error::Blame;
use crate::protocol::SqlState;
use crate::protocol::frame::{HEADER_BYTES, put};
use crate::protocol::reply::{ErrorReply, Severity, error_field};
use crate::protocol::tag::{backend, frontend};
use crate::server::Connection;
use crate::server::ledger::{Asker, Ledger, Owed};
use crate::topology::board::Fallback;
use crate::topology::{Place, Role};

/// Functions by their numbers (`pg_proc.dat`), which are the same on all servers: `pg_current_wal_insert_lsn()` and
/// `pg_last_wal_replay_lsn()`. Called by number, they need no parsing, and leave the unnamed statement alone.
const WRITTEN: u32 = 2852;
const REPLAYED: u32 = 3821;

/// A reader that was asked within this time, and lacked something, is not asked again.
const ASKED_LATELY: Duration = Duration::from_millis(5);

/// The kind of work that a reader is wanted for.
const READING: Kind = Kind {
    role: Role::Reader,
    fallback: Fallback::Writer,
};

#[derive(Debug)]
pub(super) struct Errands {
    causal_window: Duration,
    course: Course,
    wrote: Wrote,
    /// Counts what was sent to the writer that may have written.
    writes: u64,
    /// The count when the writer was last asked how far it is; `true`: it has not answered.
    asked: (u64, bool),
    /// What a reader is doing first, until that is done.
    first: Option<Box<First>>,
}

/// The first unit of a transaction at a reader. It has no consequences, so that the writer can do it as well, as long as the
/// client has not heard of it.
#[derive(Debug)]
struct First {
    standing: Standing,
    sent: Vec<u8>,
    /// Bytes that are for the client, and stand ahead of the answer.
    ahead: usize,
}

/// A longer unit is tried at the reader alone.
const MAX_FIRST_BYTES: usize = 64 * 1024;

/// SQLSTATEs of what a standby refuses, or breaks off, and a writer would not: unlogged tables, serializable transactions, what
/// functions of the user's do unseen, conflicts with what is replayed.
const OF_STANDBYS: [&[u8]; 4] = [b"0A000", b"25006", b"40001", b"55000"];

/// Where the session's server is, or is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Writer,
    /// At a reader, and nothing of the client's has gone there.
    Fresh,
    /// At a reader, which is being asked how far it is.
    Asking,
    Reader,
}

/// What the client has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrote {
    Nothing,
    /// Whoever has replayed this much has it.
    UpTo(u64),
    /// Nobody knows how far it is; it was over by then.
    Somewhere(Instant),
}

impl Errands {
    pub fn new(causal_window: Duration) -> Errands {
        Errands {
            causal_window,
            course: Course::Writer,
            wrote: Wrote::Nothing,
            writes: 0,
            asked: (0, false),
            first: None,
        }
    }

    fn is_out(&self) -> bool {
        self.course != Course::Writer
    }

    /// What a reader must have replayed; 0 for nothing.
    fn floor(&self) -> u64 {
        match self.wrote {
            Wrote::UpTo(position) => position,
            Wrote::Nothing | Wrote::Somewhere(_) => 0,
        }
    }

    fn wrote_at(&mut self, now: Instant) {
        self.writes += 1;
        self.wrote = Wrote::Somewhere(now);
    }

    fn owes_question(&self) -> bool {
        let open = matches!(self.wrote, Wrote::Somewhere(_)) && self.asked.0 != self.writes;
        open && self.course == Course::Writer
    }
}

fn put_call(function: u32, out: &mut Vec<u8>) {
    put(out, frontend::FUNCTION_CALL, |body| {
        body.extend_from_slice(&function.to_be_bytes());
        // No formats of arguments, no arguments; a binary result.
        body.extend_from_slice(&[0, 0, 0, 0, 0, 1]);
    });
}

/// The position that a FunctionCallResponse tells.
fn position(answer: &[u8]) -> Option<u64> {
    let (&tag, _) = answer.split_first()?;
    let body = answer.get(HEADER_BYTES..HEADER_BYTES + 12)?;
    let (length, value) = body.split_first_chunk::<4>()?;
    let value = value.first_chunk::<8>()?;
    let is_one = tag == backend::FUNCTION_CALL_RESPONSE && *length == [0, 0, 0, 8];
    is_one.then(|| u64::from_be_bytes(*value))
}

impl Session {
    /// Where to go for a server: to a reader if the unit at the front is for one, and one is fit.
    #[inline(never)]
    pub(super) fn set_out(&mut self) {
        if let Some(hidden) = self.entry.finds.news(&mut self.hidden_version) {
            self.core.know_hidden(hidden);
        }
        let word = match self.core.errand(self.requests.raw(), self.habit()) {
            Errand::Write => return self.stay(),
            Errand::Statement => "statement",
            Errand::Isolation => "isolation",
            Errand::Read => match self.fit_reader() {
                Ok(reader) => return self.borrow_from(reader),
                Err(word) => word,
            },
        };
        self.context.clients.read_only_at_writer(word);
        self.stay();
    }

    /// The writer serves.
    fn stay(&mut self) {
        self.on_course(Course::Writer);
        self.borrow_as(self.kind);
    }

    fn on_course(&mut self, course: Course) {
        if let Some(errands) = &mut self.errands {
            errands.course = course;
        }
        self.core.reach(usize::MAX);
    }

    /// The kind of work that the session's server is for.
    pub(super) fn kind_now(&self) -> Kind {
        match &self.errands {
            Some(errands) if errands.is_out() => READING,
            Some(_) | None => self.kind,
        }
    }

    /// What the client's transactions are by default.
    fn habit(&self) -> Habit {
        let (settings, told) = (self.settings.now(), &self.told);
        let read_only = settings.value("default_transaction_read_only");
        let read_only = read_only.or_else(|| told.value(b"default_transaction_read_only"));
        let isolation = settings.value("default_transaction_isolation");
        Habit {
            read_only: read_only.is_some_and(is_true),
            serializable: isolation.is_some_and(|it| it.eq_ignore_ascii_case(b"serializable")),
        }
    }

    /// The reader with the least work for its size, of those that have what this client has written; or else of those that
    /// may have it by now. Or why there is none.
    fn fit_reader(&mut self) -> Result<Place, &'static str> {
        let now = self.now();
        let Some(errands) = &self.errands else {
            return Err("no_reader");
        };
        let view = self.endpoint.board.view();
        if let Wrote::Somewhere(when) = errands.wrote
            && (view.tells_positions()
                || now.saturating_duration_since(when) < errands.causal_window)
        {
            return Err("own_write");
        }
        let floor = errands.floor();
        let (mut best, mut hopeful) = (None, None);
        let mut any = false;
        for (place, seen) in view.readers() {
            let Some(desk) = self.desks.at(place) else {
                continue;
            };
            any = true;
            let target = desk.target();
            let (generation, replayed) = (target.generation(), target.manage.replayed());
            let has = replayed
                .position(generation)
                .max(seen.position.unwrap_or(0))
                >= floor;
            if !has && replayed.is_fresh(generation, now, ASKED_LATELY) {
                continue;
            }
            let least = if has { &mut best } else { &mut hopeful };
            let load = target.load();
            if least.is_none_or(|(_, least)| load < least) {
                *least = Some((place, load));
            }
        }
        match best.or(hopeful) {
            Some((place, _)) => Ok(place),
            None if any => Err("own_write"),
            None => Err("no_reader"),
        }
    }

    fn borrow_from(&mut self, reader: Place) {
        self.on_course(Course::Fresh);
        let asked = queue::ask_at(READING, &self.desks, self.entry.pool, Some(reader));
        if self.take_place(asked).is_err() {
            self.turn_home("no_reader");
        }
    }

    /// No reader serves: the writer does. False: it was the writer that the session waited for.
    pub(super) fn was_out(&mut self) -> bool {
        let out = self
            .errands
            .as_ref()
            .is_some_and(|errands| errands.is_out());
        if out {
            self.link = Link::Free;
            self.turn_home("no_reader");
        }
        out
    }

    fn turn_home(&mut self, why: &'static str) {
        self.context.clients.read_only_at_writer(why);
        self.stay();
    }

    /// A server is there. Whether it may have the client's messages: a reader is asked first, if it is not known to have
    /// what the client has written.
    pub(super) fn is_fit(&mut self, lease: &mut Lease) -> bool {
        let now = self.now();
        let Some(errands) = &mut self.errands else {
            return true;
        };
        if errands.asked.1 {
            // The server that was asked is gone.
            errands.asked = (0, false);
        }
        if !errands.is_out() {
            return true;
        }
        errands.course = Course::Fresh;
        let view = self.endpoint.board.view();
        let place = self.desks.place_of(lease.desk());
        if place.is_none() || place == view.writer {
            self.on_course(Course::Writer);
            self.context.clients.read_only_at_writer("no_reader");
            return true;
        }
        let seen = place.and_then(|Place(place)| view.instances.get(place)?.position);
        let (target, generation) = (lease.target(), lease.generation());
        let replayed = target.manage.replayed();
        let known = replayed.position(generation).max(seen.unwrap_or(0));
        if known >= errands.floor() {
            self.context.clients.read_only_at_reader();
            return true;
        }
        replayed.note(generation, 0, now);
        errands.course = Course::Asking;
        put_call(REPLAYED, &mut self.prologue);
        lease.ledger.send(Owed::FunctionCall, Asker::Position);
        self.answer.clear();
        false
    }

    /// Whether what the client has sent may go on to the server that it has, and how much of it at a time.
    #[inline(never)]
    pub(super) fn may_go_on(&mut self) -> Passing {
        let (Some(errands), Link::Leased(lease)) = (&self.errands, &self.link) else {
            return Passing::UpTo(usize::MAX);
        };
        let passing = match errands.course {
            Course::Writer => {
                let held = errands.asked.1 || self.core.wonders();
                return match held && self.goes_next(&lease.ledger) {
                    true => Passing::NotYet,
                    false => Passing::UpTo(usize::MAX),
                };
            }
            Course::Asking => return Passing::NotYet,
            Course::Fresh | Course::Reader => {
                let fresh = errands.course == Course::Fresh;
                self.core
                    .at_reader(self.requests.raw(), fresh, &lease.ledger)
            }
        };
        if let Passing::UpTo(bytes) = passing {
            self.core.reach(bytes);
        }
        passing
    }

    /// Whether the writer is kept only until it has answered questions of ours, and what the client wants next is a reader's
    /// work.
    fn goes_next(&self, ledger: &Ledger) -> bool {
        self.core.is_outside(ledger)
            && !self.core.pins().any()
            && !self.channels_hold_server()
            && self.core.begins_reading(self.requests.raw(), self.habit())
    }

    /// A reader is about to be given the client's messages.
    pub(super) fn note_standing(&mut self) {
        if let Some(errands) = &mut self.errands {
            errands.first = (errands.course == Course::Fresh).then(|| {
                Box::new(First {
                    standing: self.core.standing(),
                    sent: Vec::new(),
                    ahead: 0,
                })
            });
        }
    }

    /// So many bytes more are for the client, ahead of what the server answers.
    pub(super) fn comes_ahead(&mut self, bytes: usize) {
        if let Some(first) = self.errands.as_mut().and_then(|it| it.first.as_mut()) {
            first.ahead += bytes;
        }
    }

    /// The client has been sent so many bytes.
    pub(super) fn client_heard(&mut self, bytes: usize) {
        if let Some(errands) = &mut self.errands {
            // Once it has heard something of the answer, it must hear all of it.
            errands
                .first
                .take_if(|first| !first.sent.is_empty() && bytes > first.ahead);
            if let Some(first) = &mut errands.first {
                first.ahead = first.ahead.saturating_sub(bytes);
            }
        }
    }

    /// The server has answered a command of the client's.
    pub(super) fn first_is_done(&mut self) {
        if let Some(errands) = &mut self.errands {
            errands.first = None;
        }
    }

    /// Whether what the reader was to do first can be done by the writer instead.
    pub(super) fn may_do_over(&self) -> bool {
        let errands = self.errands.as_ref();
        errands.is_some_and(|it| it.course == Course::Reader && it.first.is_some())
            && self.presence == Presence::Here
            && self.cancelling.is_none()
    }

    /// Whether the reader has failed where the writer might not.
    pub(super) fn is_readers_fault(&self, error: &[u8]) -> bool {
        let code = error_field(error, b'C').unwrap_or_default();
        OF_STANDBYS.contains(&code) && self.may_do_over()
    }

    /// The writer does what the reader could not.
    #[cold]
    pub(super) fn do_over(&mut self) -> Result<bool, Ending> {
        let first = self.errands.as_mut().and_then(|it| it.first.take());
        let (Some(first), Link::Leased(lease)) = (first, &mut self.link) else {
            return Ok(false);
        };
        let Connection {
            ledger, statements, ..
        } = &mut ***lease;
        self.core.take_back(first.standing, ledger, statements);
        self.core.forget_parsed(&first.sent);
        let heard_of = self.replies.cleared().len().saturating_sub(first.ahead);
        self.replies.retract(heard_of);
        let unsent = self.requests.cleared().len();
        self.requests.sent(unsent);
        self.requests.put_back(&first.sent);
        self.own_error.clear();
        self.answer = Vec::new();
        self.note_pins(Lifted::Gone);
        self.close_server();
        self.turn_home("reader_failed");
        self.advance_leased()?;
        Ok(true)
    }

    /// The client's transaction is at a reader, and goes on with something that is the writer's alone.
    #[cold]
    pub(super) fn refuse_at_reader(&mut self) {
        let Link::Leased(lease) = &mut self.link else {
            return;
        };
        let error = ErrorReply {
            severity: Severity::Error,
            sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
            message: "a reader, which serves this read-only transaction, can't do this in the writer's place".into(),
            detail: Some("It would lock what nobody else sees locked, or leave something behind where the session's next transaction is not.".into()),
            hint: Some("Begin the transaction with it, or outside READ ONLY: then the writer serves it. Or set cluster.read_only_transactions to \"writer\".".into()),
        };
        let words = Words {
            undone: error.clone(),
            unknown: error.clone(),
            alone: error,
        };
        let Connection {
            ledger, statements, ..
        } = &mut ***lease;
        let mut answer = Vec::new();
        self.core.lost(ledger, statements, &words, &mut answer);
        self.context
            .clients
            .error(SqlState::FEATURE_NOT_SUPPORTED, Blame::Client);
        self.go_on_without(&answer);
        self.on_course(Course::Writer);
    }

    /// Before something is sent: whether that is outside a transaction of the writer's.
    pub(super) fn where_sent(&self) -> Option<OutsideTransaction> {
        let (Some(_), Link::Leased(lease)) = (&self.errands, &self.link) else {
            return None;
        };
        Some(match self.core.is_mid_frame() {
            true => OutsideTransaction::Unknown,
            false if self.core.is_outside(&lease.ledger) => OutsideTransaction::Yes,
            false => OutsideTransaction::No,
        })
    }

    /// The first bytes of what is pending are about to go to the server. Whether it is to be asked behind them how far it is.
    pub(super) fn note_sent(&mut self, bytes: usize, outside: OutsideTransaction) -> bool {
        let now = self.now();
        let Some(errands) = &mut self.errands else {
            return false;
        };
        let sent = self.requests.raw().get(..bytes).unwrap_or_default();
        if errands.is_out() {
            errands.course = Course::Reader;
            if let Some(first) = &mut errands.first {
                if first.sent.is_empty() {
                    first.ahead = self.replies.cleared().len();
                }
                first.sent.extend_from_slice(sent);
            }
            errands
                .first
                .take_if(|first| first.sent.len() > MAX_FIRST_BYTES);
            return false;
        }
        let Written { may_write, ends } = self.core.written(sent, outside);
        if may_write {
            errands.wrote_at(now);
        }
        let Link::Leased(lease) = &self.link else {
            return false;
        };
        ends && errands.owes_question()
            && !lease.ledger.is_doubtful()
            && !lease.ledger.may_become_doubtful()
            && self.endpoint.board.view().tells_positions()
    }

    /// Asks the writer how far it is, behind what goes to it just now.
    pub(super) fn ask_behind(&mut self) {
        let mut call = Vec::with_capacity(16);
        put_call(WRITTEN, &mut call);
        self.requests.insert(&call);
        self.asks();
    }

    fn asks(&mut self) {
        if let (Some(errands), Link::Leased(lease)) = (&mut self.errands, &mut self.link) {
            errands.asked = (errands.writes, true);
            lease.ledger.send(Owed::FunctionCall, Asker::Position);
        }
    }

    /// A transaction has ended that may have written, and was not seen to end: the writer is asked now. Where it can't tell,
    /// the time is noted.
    pub(super) fn ask_where_it_is(&mut self) -> bool {
        let now = self.now();
        let tells = self.endpoint.board.view().tells_positions();
        let Some(errands) = self.errands.as_mut().filter(|it| it.owes_question()) else {
            return false;
        };
        if !tells {
            errands.asked = (errands.writes, false);
            errands.wrote = Wrote::Somewhere(now);
            return false;
        }
        put_call(WRITTEN, &mut self.prologue);
        self.asks();
        true
    }

    /// A server does not say how far it is, and that is all that it owes: the session goes on without it.
    pub(super) fn position_untold(&mut self) -> bool {
        let Some(errands) = &mut self.errands else {
            return false;
        };
        if errands.course == Course::Asking {
            self.close_server();
            self.turn_home("no_reader");
            return true;
        }
        let asked = errands.asked.1;
        let stays = self.channels_hold_server() || self.core.pins().any() || self.core.wonders();
        if asked && !stays {
            self.close_server();
        }
        asked && !stays
    }

    /// A server has said how far it is.
    pub(super) fn position_told(&mut self, failed: bool) -> Result<(), Ending> {
        let answer = std::mem::take(&mut self.answer);
        let told = position(&answer).filter(|_| !failed);
        let now = self.now();
        let Some(errands) = &mut self.errands else {
            return Ok(());
        };
        if errands.course != Course::Asking {
            let (writes, _) = errands.asked;
            errands.asked.1 = false;
            if let Some(position) = told.filter(|_| writes == errands.writes) {
                errands.wrote = Wrote::UpTo(position);
            }
            return Ok(());
        }
        errands.course = Course::Fresh;
        let floor = errands.floor();
        let Link::Leased(lease) = &self.link else {
            return Ok(());
        };
        if let Some(position) = told {
            let replayed = lease.target().manage.replayed();
            replayed.note(lease.generation(), position, now);
        }
        if told.is_some_and(|position| position >= floor) {
            self.context.clients.read_only_at_reader();
            if let Link::Leased(lease) = std::mem::replace(&mut self.link, Link::Free) {
                self.equip(lease);
            }
        } else {
            self.let_go();
            self.turn_home("own_write");
        }
        // In the same round, or the server would be released as one that has nothing to do.
        self.advance_leased().map(drop)
    }
}

/// A setting's value as PostgreSQL's `parse_bool` reads it.
fn is_true(value: &[u8]) -> bool {
    let value = value.trim_ascii().to_ascii_lowercase();
    let begins = |word: &[u8], least: usize| value.len() >= least && word.starts_with(&value);
    begins(b"on", 2) || begins(b"true", 1) || begins(b"yes", 1) || value == b"1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read() {
        let mut answer = vec![b'V', 0, 0, 0, 16, 0, 0, 0, 8];
        answer.extend_from_slice(&0x16_B374_D848_u64.to_be_bytes());
        assert_eq!(position(&answer), Some(0x16_B374_D848));
        assert_eq!(position(&answer[..16]), None);
        // NULL: it has replayed nothing.
        assert_eq!(position(&[b'V', 0, 0, 0, 8, 255, 255, 255, 255]), None);
        answer[0] = b'E';
        assert_eq!(position(&answer), None);
    }

    #[test]
    fn booleans_as_postgresql_reads_them() {
        for yes in ["on", "ON", "t", "true", "TRU", "y", "yes", "1", " on "] {
            assert!(is_true(yes.as_bytes()), "{yes}");
        }
        for no in ["off", "o", "", "0", "false", "n", "onn", "10"] {
            assert!(!is_true(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn a_write_is_asked_for_once() {
        let now = Instant::now();
        let mut errands = Errands::new(Duration::ZERO);
        assert!(!errands.owes_question());
        errands.wrote_at(now);
        assert!(errands.owes_question());
        errands.asked = (errands.writes, true);
        assert!(!errands.owes_question());
        errands.wrote_at(now);
        assert!(
            errands.owes_question(),
            "another one came behind the question"
        );
        errands.course = Course::Reader;
        assert!(!errands.owes_question());
    }
}
