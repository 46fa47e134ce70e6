//! Moves bytes: both directions at once, as far as sockets, core and ledger allow.
//!
//! One round tries everything once and tells whether anything moved; when nothing does, the task sleeps.
//! (A shell that read and then wrote everything would deadlock with a client that pipelines deeply.)
//! Decides nothing: what may go where, `core` and the ledger say.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context as Poller, Poll, Waker};
use std::time::{Duration, Instant};

use super::core::{Conclusion, Passing, Step};
use super::ending::Ending;
use super::handle::Bell;
use super::loss::Cause;
use super::pinning::Lifted;
use super::replay::said;
use super::{Link, Presence, Session};
use crate::net::buf::BUFFER_BYTES;
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::reply::{TxStatus, put_parameter_status};
use crate::protocol::tag::{backend, frontend};
use crate::server::ledger::{Asker, Fate};
use crate::server::replies::{Garbled, Reply};
use crate::server::statements::NOBODYS;
use crate::server::{Connection, Refusal};

/// So much is read of what the server answers to a question of ours.
pub(super) const MAX_ANSWER_BYTES: usize = 256 * 1024;

const PARSE_COMPLETE: [u8; HEADER_BYTES] = [backend::PARSE_COMPLETE, 0, 0, 0, 4];

/// Rounds that a session may make before it lets others work.
const MAX_ROUNDS: usize = 64;

/// How exactly a session keeps the time at which hidden state is looked for again.
const HIDDEN_CHECK: Duration = Duration::from_secs(1);

/// Messages of our own, and of the client's between them, before what is there must be written.
const MAX_PROLOGUE_BYTES: usize = 64 * 1024;
/// What an idle session may keep of the memory for them.
const KEPT_PROLOGUE_BYTES: usize = 512;

/// Whether anything moved, or why the session ends.
pub(super) type Moved = Result<bool, Ending>;

impl Session {
    pub(super) fn poll_drive(&mut self, cx: &mut Poller<'_>) -> Poll<Ending> {
        if self.place.handle.listen(cx.waker()) {
            self.hang_bell(cx);
        }
        if self.bell.has_rung() {
            self.asleep.client = false;
        }
        self.asleep.server = false;
        self.woken_at = None;
        let mut rounds = 0;
        loop {
            match self.round(cx) {
                Ok(true) => {
                    rounds += 1;
                    if self.is_at_rest() {
                        break;
                    }
                }
                Ok(false) => break,
                Err(ending) => return Poll::Ready(ending),
            }
            if rounds == MAX_ROUNDS {
                // The worker's other sessions have a turn, too.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.requests.rest(&self.context.store);
        self.replies.rest(&self.context.store);
        self.watch_time(cx, rounds)
    }

    #[cold]
    fn hang_bell(&mut self, cx: &Poller<'_>) {
        self.bell = Bell::new(cx.waker());
        self.client_waker = Waker::from(Arc::clone(&self.bell));
    }

    /// Whether another round would find nothing to do: nothing is in hand, and whoever may bring something has
    /// promised to wake us.
    #[inline]
    fn is_at_rest(&self) -> bool {
        let promised = match &self.link {
            Link::Free => true,
            Link::Waiting(_) => false,
            Link::Leased(lease) => self.asleep.server && !lease.flush_due,
        };
        promised
            && self.asleep.client
            && self.requests.is_empty()
            && self.replies.is_empty()
            && self.prologue.is_empty()
            && !self.flush_due
            && self.cancelling.is_none()
            && !self
                .listening
                .as_ref()
                .is_some_and(|listening| listening.has_news())
    }

    /// Each step is taken only where it has something to do, and is a function of its own: a wake-up needs but half of
    /// them, and the processor's cache is small.
    fn round(&mut self, cx: &mut Poller<'_>) -> Moved {
        let mut moved = self.look_at_cluster()?;
        moved |= self.poll_cancel(cx);
        moved |= self.poll_queue(cx)?;
        if !self.asleep.client && self.presence == Presence::Here {
            moved |= self.poll_client_read()?;
        }
        if self.requests.has_raw() {
            moved |= self.advance_requests()?;
        }
        moved |= self.poll_eviction(cx);
        if self.requests.has_cleared() || !self.prologue.is_empty() {
            moved |= self.poll_server_write(cx);
        }
        if !self.asleep.server {
            moved |= self.poll_server_read(cx)?;
        }
        if self.replies.has_raw() {
            moved |= self.advance_replies()?;
        }
        moved |= self.poll_news()?;
        if self.replies.has_cleared() || self.flush_due {
            moved |= self.poll_client_write(cx)?;
        }
        moved |= self.settle()?;
        Ok(moved)
    }

    // --- from the client to the server ---------------------------------------------------------------

    #[inline(never)]
    fn poll_client_read(&mut self) -> Moved {
        if !self.wants_requests() {
            return Ok(false);
        }
        let mut moved = false;
        let cx = &mut Poller::from_waker(&self.client_waker);
        // As a rule nothing more has come after a read, and the client promises to wake us.
        for _ in 0..2 {
            if moved {
                if self.client.poll_readable(cx).is_pending() {
                    self.asleep.client = true;
                    break;
                }
                // Behind a goodbye comes the end: no call is spent on it.
                if self.said_goodbye() {
                    break;
                }
            }
            match self
                .requests
                .poll_fill(&mut self.client, &self.context.store, cx)
            {
                Poll::Pending => {
                    self.asleep.client = true;
                    break;
                }
                Poll::Ready(Ok(0)) => {
                    self.presence = Presence::Silent;
                    return Ok(true);
                }
                Poll::Ready(Err(_)) => return self.deafened(),
                Poll::Ready(Ok(count)) => {
                    self.traffic.received.add(count as u64);
                    moved = true;
                    if self.requests.is_full() {
                        break;
                    }
                }
            }
        }
        Ok(moved)
    }

    /// Whether more of the client is to be read: what came before must be on its way, and there must be room.
    fn wants_requests(&mut self) -> bool {
        if self.requests.has_cleared() {
            return false;
        }
        if self.requests.has_room() {
            return true;
        }
        // A unit larger than the buffer: kept whole up to the limit, so that it holds no server meanwhile.
        let stuck = matches!(self.link, Link::Free | Link::Leased(_))
            && self.requests.len() < self.limits.max_unit_bytes;
        if stuck {
            self.requests.reserve(self.requests.len());
        }
        stuck
    }

    /// Whether the last thing the client sent is Terminate: then what stands before it is carried out.
    pub(super) fn said_goodbye(&self) -> bool {
        self.requests
            .raw()
            .ends_with(&[frontend::TERMINATE, 0, 0, 0, 4])
    }

    /// The client takes nothing more. If it said goodbye, that was to be expected.
    #[cold]
    fn deafened(&mut self) -> Moved {
        if !self.said_goodbye() {
            return Err(Ending::Vanished);
        }
        self.presence = Presence::Deaf;
        Ok(true)
    }

    #[inline(never)]
    fn advance_requests(&mut self) -> Moved {
        match self.link {
            Link::Free => self.advance_alone(),
            Link::Waiting(_) => Ok(false),
            Link::Leased(_) => self.advance_leased(),
        }
    }

    /// Without a server: answers what needs none.
    fn advance_alone(&mut self) -> Moved {
        let mut answer = Vec::new();
        let mut moved = false;
        while self.replies.len() + answer.len() < BUFFER_BYTES {
            match self.core.without_server(self.requests.raw(), &mut answer) {
                Ok(Step::Wait | Step::Forward { .. } | Step::ComeHome | Step::Disown(_)) => break,
                Ok(Step::Consume(count)) => self.requests.discard(count),
                Ok(Step::Borrow) => {
                    self.replies.insert(&std::mem::take(&mut answer));
                    self.borrow();
                    // In the same round, or the server would be released as one that has nothing to do.
                    self.advance_leased()?;
                    return Ok(true);
                }
                Ok(Step::Terminate) => return Err(self.say_then(&answer, Ending::Left)),
                Err(violation) => return Err(self.say_then(&answer, Ending::Violated(violation))),
            }
            moved = true;
        }
        self.replies.insert(&answer);
        Ok(moved)
    }

    fn say_then(&mut self, answer: &[u8], ending: Ending) -> Ending {
        self.replies.insert(answer);
        ending
    }

    pub(super) fn advance_leased(&mut self) -> Moved {
        if self.errands.is_some() {
            match self.may_go_on() {
                Passing::UpTo(_) => {}
                Passing::NotYet => return Ok(false),
                Passing::Refused => {
                    self.refuse_at_reader();
                    return Ok(true);
                }
            }
        }
        let unsent = self.requests.has_cleared() || self.prologue.len() >= MAX_PROLOGUE_BYTES;
        let may_be_held_up = self.cancelling.is_some()
            || self.evicting.is_some()
            || self.listening.is_some()
            || self.pinning.has_more()
            || self.replays.any()
            || self.server_fatal;
        if unsent || may_be_held_up && self.is_held_up() {
            return Ok(false);
        }
        let outside = match self.errands {
            None => None,
            Some(_) => self.where_sent(),
        };
        let Link::Leased(lease) = &mut self.link else {
            return Ok(false);
        };
        let is_behind = !Arc::ptr_eq(&lease.applied, self.settings.now());
        if is_behind && lease.ledger.is_idle() && !self.replays.are_lacking() {
            return self.catch_up();
        }
        let Connection {
            ledger, statements, ..
        } = &mut ***lease;
        let step =
            self.core
                .with_server(self.requests.raw(), ledger, statements, &mut self.prologue);
        if self.core.take_sequences_wanted() {
            self.entry.note_sequences();
        }
        match step {
            // What was asked before is answered first, as PostgreSQL would.
            Ok(Step::Terminate) | Err(_)
                if lease.ledger.owes() && !lease.ledger.is_copying_in() =>
            {
                Ok(false)
            }
            Ok(Step::Terminate) => Err(Ending::Left),
            Err(violation) => Err(Ending::Violated(violation)),
            Ok(Step::Forward { consumed, forward }) => {
                let sent = self.requests.raw().get(..consumed + forward);
                self.replays.keep(sent.unwrap_or_default());
                let asks = outside.is_some_and(|it| self.note_sent(consumed + forward, it));
                self.requests.discard(consumed);
                self.requests.clear(forward);
                if asks {
                    self.ask_behind();
                }
                self.note_pins(Lifted::Gone);
                Ok(true)
            }
            Ok(Step::Disown(place)) => {
                self.requests.overwrite(place, NOBODYS);
                Ok(true)
            }
            Ok(Step::ComeHome) if lease.ledger.owes() => Ok(false),
            Ok(Step::ComeHome) => {
                self.bring_home();
                Ok(true)
            }
            Ok(Step::Wait | Step::Borrow | Step::Consume(_)) => Ok(false),
        }
    }

    /// Whether what the client sends next has to wait.
    #[cold]
    fn is_held_up(&self) -> bool {
        let Link::Leased(lease) = &self.link else {
            return true;
        };
        // A cancel under way must not hit what comes next.
        let cancelling = self.cancelling.is_some() && !lease.ledger.owes();
        let evicting = self.evicting.as_ref();
        let moving = self.listening.as_ref();
        // One that has to go gets to the end of its transaction and no further.
        let over = self.pinning.is_beyond_limit() && lease.ledger.tx() == TxStatus::Idle;
        cancelling
            || evicting.is_some_and(|evicting| evicting.holds_up())
            || moving.is_some_and(|listening| listening.holds_requests())
            || over
            || self.server_fatal
            || !self.replays.let_pass(self.requests.raw().len())
    }

    /// The settings first, then what the client sends.
    #[inline(never)]
    fn catch_up(&mut self) -> Moved {
        match self.bring_settings_up() {
            true => Ok(true),
            false => self.advance_leased(),
        }
    }

    #[inline(never)]
    fn poll_server_write(&mut self, cx: &mut Poller<'_>) -> bool {
        let Link::Leased(lease) = &mut self.link else {
            return false;
        };
        let cleared = self.requests.cleared();
        let written = match (self.prologue.is_empty(), cleared.is_empty()) {
            (true, _) => lease.stream.poll_write_slices(cx, &[IoSlice::new(cleared)]),
            (false, _) => {
                let both = [IoSlice::new(&self.prologue), IoSlice::new(cleared)];
                lease.stream.poll_write_slices(cx, &both)
            }
        };
        // A server that takes nothing more may have said why: reading finds out.
        let Poll::Ready(Ok(count)) = written else {
            return false;
        };
        let of_prologue = count.min(self.prologue.len());
        if of_prologue > 0 {
            self.prologue.drain(..of_prologue);
        }
        self.requests.sent(count - of_prologue);
        // What was asked just now takes a while to answer, as a rule.
        self.asleep.server = lease.stream.poll_readable(cx).is_pending();
        // The sockets of servers in TLS are flushed when all is written.
        if self.prologue.is_empty() && !self.requests.has_cleared() {
            if self.prologue.capacity() > KEPT_PROLOGUE_BYTES {
                self.prologue.shrink_to(KEPT_PROLOGUE_BYTES);
            }
            lease.flush_due = lease.stream.is_tls();
        }
        true
    }

    // --- from the server to the client ---------------------------------------------------------------

    #[inline(never)]
    fn poll_server_read(&mut self, cx: &mut Poller<'_>) -> Moved {
        let Link::Leased(lease) = &mut self.link else {
            return Ok(false);
        };
        if lease.flush_due && lease.stream.poll_flush_tls(cx).is_ready() {
            lease.flush_due = false;
        }
        if self.replies.has_cleared() || !self.replies.has_room() {
            return Ok(false);
        }
        match self
            .replies
            .poll_fill(&mut lease.stream, &self.context.store, cx)
        {
            Poll::Pending => {
                self.asleep.server = true;
                Ok(false)
            }
            Poll::Ready(Ok(count)) if count > 0 => Ok(true),
            Poll::Ready(end) => self.server_ended(end),
        }
    }

    #[cold]
    fn server_ended(&mut self, end: io::Result<usize>) -> Moved {
        if self.server_fatal {
            return Err(Ending::ServerFatal);
        }
        if end.is_ok() && self.core.has_terminated() {
            self.server_fatal = true;
            return Err(Ending::Left);
        }
        self.server_lost(lost(end))
    }

    #[inline(never)]
    fn advance_replies(&mut self) -> Moved {
        let mut moved = false;
        while self.replies.has_raw() {
            let Link::Leased(lease) = &mut self.link else {
                return Ok(moved);
            };
            let moving = self.listening.as_ref();
            if moving.is_some_and(|listening| listening.stalls()) {
                return Ok(moved);
            }
            let Connection {
                replies,
                ledger,
                parameters,
                ..
            } = &mut ***lease;
            let reply = match replies.next(self.replies.raw(), ledger) {
                Ok(reply) => reply,
                Err(garbled) => return Err(self.garbled(garbled)),
            };
            match reply {
                Reply::Wait => break,
                Reply::Pass { bytes, fate } => self.pass(bytes, fate),
                Reply::Parsed => self.replies.insert(&PARSE_COMPLETE),
                Reply::Parameter {
                    bytes,
                    fate,
                    name,
                    value,
                } => {
                    Connection::note_parameter(parameters, name, value);
                    if fate == Fate::Forward {
                        self.told.clone_from(parameters);
                    }
                    self.pass(bytes, fate);
                }
                Reply::Notification { bytes } => self.hear(bytes),
                Reply::Error {
                    fate,
                    fatal,
                    prefix,
                } => {
                    let prefix = prefix.to_vec();
                    if let Some(moved) = self.error_begins(fate, fatal, prefix) {
                        return moved;
                    }
                }
                Reply::GoesDown { bytes, .. } if self.core.may_end_server() => {
                    replies.last_word(bytes);
                    self.server_fatal = true;
                }
                Reply::GoesDown { words, .. } => {
                    let cause = Cause::Said(Refusal::new(words));
                    return self.server_lost(cause);
                }
                Reply::Ready {
                    bytes,
                    concluded,
                    tx,
                } => {
                    self.channels_at_ready(&concluded, tx)?;
                    let own = concluded.asker.is_own();
                    if !own {
                        self.tell_pins();
                    }
                    self.pass(bytes, if own { Fate::Withhold } else { Fate::Forward });
                    self.conclude(concluded)?;
                }
            }
            moved = true;
        }
        if moved && let Link::Leased(lease) = &mut self.link {
            let Connection {
                ledger, statements, ..
            } = &mut ***lease;
            self.core.note_outcomes(ledger, statements);
        }
        Ok(moved)
    }

    /// What is made of an error before anybody is told. `Some`: it is dealt with otherwise, and nobody is.
    #[cold]
    fn error_begins(&mut self, fate: Fate, fatal: bool, prefix: Vec<u8>) -> Option<Moved> {
        if fate == Fate::Forward && self.errands.is_some() && self.is_readers_fault(&prefix) {
            return Some(self.do_over());
        }
        if fatal && self.replays.any() {
            if self.settings_were_fatal(&prefix) {
                return Some(Ok(true));
            }
            self.server_fatal = true;
            return None;
        }
        self.server_fatal |= fatal;
        if fate == Fate::Withhold {
            self.own_error = prefix;
        }
        self.hear_error();
        None
    }

    #[cold]
    fn garbled(&mut self, how: Garbled) -> Ending {
        self.server_fatal = true;
        Ending::ServerLost(format!("its replies make no sense: {how:?}"))
    }

    fn pass(&mut self, bytes: usize, fate: Fate) {
        match fate {
            Fate::Forward => self.replies.clear(bytes),
            Fate::Withhold | Fate::AsParsed => self.withhold(bytes),
            Fate::Keep => self.keep(bytes),
        }
    }

    #[inline(never)]
    fn withhold(&mut self, bytes: usize) {
        self.replies.discard(bytes);
    }

    #[inline(never)]
    fn keep(&mut self, bytes: usize) {
        let kept = self.replies.raw().get(..bytes).unwrap_or_default();
        // A longer answer is no answer.
        if self.answer.len() <= MAX_ANSWER_BYTES {
            self.answer.extend_from_slice(kept);
        }
        self.replies.discard(bytes);
    }

    fn conclude(&mut self, concluded: crate::server::ledger::Concluded) -> Result<(), Ending> {
        let own = concluded.asker.is_own();
        let Link::Leased(lease) = &self.link else {
            return Ok(());
        };
        let conclusion = self.core.concluded(concluded, &lease.ledger);
        if self.replays.any() && concluded.asker == Asker::Weir {
            return self.settings_answered(concluded.failed);
        }
        if conclusion != Conclusion::Ordinary {
            self.draw(conclusion)?;
        }
        if let Conclusion::Position { .. } = conclusion {
            return Ok(());
        }
        if own {
            self.tell_news();
        } else {
            self.evicting.take_if(|evicting| !evicting.holds_up());
            if self.errands.is_some() {
                self.first_is_done();
            }
            let now = self.now();
            let took = now.saturating_duration_since(self.phase_since);
            self.traffic.query_seconds.record(took);
            if now >= self.hidden_check {
                self.look_for_hidden(now);
            }
        }
        Ok(())
    }

    #[cold]
    fn look_for_hidden(&mut self, now: Instant) {
        self.hidden_check = now + HIDDEN_CHECK;
        if self.entry.finds.take_due(now) {
            self.core.wonder_what_is_hidden();
        }
    }

    /// A command has done more than answer.
    #[cold]
    fn draw(&mut self, conclusion: Conclusion) -> Result<(), Ending> {
        match conclusion {
            Conclusion::Ordinary => {}
            Conclusion::OwnFailed => {
                self.server_fatal = true;
                return Err(Ending::SettingsRefused(said(&self.own_error)));
            }
            Conclusion::Discarded => {
                self.replays.learnt();
                self.settings.discarded();
                self.core.parse_under(self.settings.now().parsing());
                if let Link::Leased(lease) = &mut self.link {
                    lease.applied = Arc::default();
                    // What init_query had set up is gone as well: it is run again on the pool's time.
                    lease.marked |= !lease.target().manage.init_query().is_empty();
                }
                self.note_pins(Lifted::Discarded);
            }
            Conclusion::SettingsReset => {
                self.replays.learnt();
                if let Link::Leased(lease) = &mut self.link {
                    lease.applied = Arc::new(self.settings.reset(&lease.applied));
                }
                self.core.parse_under(self.settings.now().parsing());
                self.note_pins(Lifted::Discarded);
            }
            Conclusion::Answered { failed } => self.learn(failed)?,
            Conclusion::Moved { failed } => self.moved(failed)?,
            Conclusion::Position { failed } => self.position_told(failed)?,
        }
        Ok(())
    }

    /// Tells the client of reported values that this server has otherwise than the last one.
    #[inline]
    pub(super) fn tell_news(&mut self) {
        if let Link::Leased(lease) = &self.link
            && !Arc::ptr_eq(&lease.parameters, &self.told)
        {
            self.tell_differences();
        }
    }

    #[inline(never)]
    fn tell_differences(&mut self) {
        let Link::Leased(lease) = &mut self.link else {
            return;
        };
        let mut news = Vec::new();
        let serves_both = self.errands.is_some();
        for (name, value) in lease.parameters.news(&self.told) {
            // Which of them is one, is none of the client's business.
            if !(serves_both && name == b"in_hot_standby") {
                put_parameter_status(&mut news, name, value);
            }
        }
        if news.is_empty() && serves_both {
            return;
        }
        if news.is_empty() {
            // The same values: from here on the same memory, so that comparing costs nothing.
            lease.parameters = Arc::clone(&self.told);
        } else {
            self.told = Arc::clone(&lease.parameters);
            self.replies.insert(&news);
            self.comes_ahead(news.len());
        }
    }

    #[inline(never)]
    fn poll_client_write(&mut self, cx: &mut Poller<'_>) -> Moved {
        let cleared = self.replies.cleared();
        if cleared.is_empty() || self.presence == Presence::Deaf {
            return Ok(self.write_nothing(cx));
        }
        match self.client.poll_write_slices(cx, &[IoSlice::new(cleared)]) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(count)) if count > 0 => {
                self.replies.sent(count);
                if self.errands.is_some() {
                    self.client_heard(count);
                }
                self.traffic.sent.add(count as u64);
                self.flush_due = self.client.is_tls();
                if self.unflushed.is_counted() {
                    let left = self.replies.cleared().len();
                    self.unflushed.set(&self.context, left);
                }
                Ok(true)
            }
            Poll::Ready(_) => self.deafened(),
        }
    }

    /// There is nothing to write but what TLS holds, or nobody to write to.
    #[cold]
    fn write_nothing(&mut self, cx: &mut Poller<'_>) -> bool {
        let unheard = self.replies.cleared().len();
        if unheard > 0 {
            self.replies.sent(unheard);
        } else if self.flush_due {
            self.flush_due = self.client.poll_flush_tls(cx).is_pending();
        }
        unheard > 0
    }
}

fn lost(end: io::Result<usize>) -> Cause {
    Cause::Broken(match end {
        Ok(_) => "The server closed it without a word.".into(),
        Err(error) => format!("The connection broke: {error}."),
    })
}
