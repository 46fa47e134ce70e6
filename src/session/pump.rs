//! Moves bytes: both directions at once, as far as sockets, core and ledger allow.
//!
//! One round tries everything once and tells whether anything moved; when nothing does, the task sleeps.
//! (A shell that read and then wrote everything would deadlock with a client that pipelines deeply.)
//! Decides nothing: what may go where, `core` and the ledger say.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::{Duration, Instant};

use super::context::Unflushed;
use super::core::{Before, Conclusion, Owner, Sequences, Step};
use super::ending::{Ending, NoServer};
use super::handle::CancelDone;
use super::{Cancelling, Lease, Link, Phase, Presence, STRANGER, Session};
use crate::error::ToClient;
use crate::net::buf::BUFFER_BYTES;
use crate::pool::BorrowError;
use crate::protocol::SqlState;
use crate::protocol::frame::{put, put_cstr};
use crate::protocol::reply::{ErrorReply, Severity, error_field, put_parameter_status};
use crate::protocol::tag::{backend, frontend};
use crate::server::ledger::{Asker, Fate, Owed};
use crate::server::replies::Reply;
use crate::server::settings::Change;
use crate::server::{ConnectError, Connection, Settings};

/// So long a query may run on for a client that has fallen silent without a goodbye.
const GONE: Duration = Duration::from_secs(10);

/// Rounds that a session may make before it lets others work.
const MAX_ROUNDS: usize = 64;

/// Whether anything moved, or why the session ends.
type Moved = Result<bool, Ending>;

impl Session {
    pub(super) fn poll_drive(&mut self, cx: &mut Poller<'_>) -> Poll<Ending> {
        self.place.handle.listen(cx.waker());
        self.asleep.client = false;
        self.asleep.server = false;
        let mut rounds = 0;
        loop {
            match self.round(cx) {
                Ok(true) => rounds += 1,
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

    fn round(&mut self, cx: &mut Poller<'_>) -> Moved {
        let mut moved = self.poll_cancel(cx);
        moved |= self.poll_queue(cx)?;
        moved |= self.poll_client_read(cx)?;
        moved |= self.advance_requests()?;
        moved |= self.poll_server_write(cx);
        moved |= self.poll_server_read(cx)?;
        moved |= self.advance_replies()?;
        moved |= self.poll_client_write(cx)?;
        moved |= self.settle()?;
        Ok(moved)
    }

    // --- from the client to the server ---------------------------------------------------------------

    fn poll_client_read(&mut self, cx: &mut Poller<'_>) -> Moved {
        if self.asleep.client || self.presence != Presence::Here || !self.wants_requests() {
            return Ok(false);
        }
        match self
            .requests
            .poll_fill(&mut self.client, &self.context.store, cx)
        {
            Poll::Pending => {
                self.asleep.client = true;
                Ok(false)
            }
            Poll::Ready(Ok(0)) => {
                self.presence = Presence::Silent;
                Ok(true)
            }
            Poll::Ready(Err(_)) => self.deafened(),
            Poll::Ready(Ok(count)) => {
                self.entry.meters.received.increment(count as u64);
                Ok(true)
            }
        }
    }

    /// Whether more of the client is to be read: what came before must be on its way, and there must be room.
    fn wants_requests(&mut self) -> bool {
        if !self.requests.cleared().is_empty() {
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
    fn said_goodbye(&self) -> bool {
        self.requests
            .raw()
            .ends_with(&[frontend::TERMINATE, 0, 0, 0, 4])
    }

    /// The client takes nothing more. If it said goodbye, that was to be expected.
    fn deafened(&mut self) -> Moved {
        if !self.said_goodbye() {
            return Err(Ending::Vanished);
        }
        self.presence = Presence::Deaf;
        Ok(true)
    }

    fn advance_requests(&mut self) -> Moved {
        if self.requests.raw().is_empty() {
            return Ok(false);
        }
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
                Ok(Step::Wait | Step::Forward(_)) => break,
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

    fn advance_leased(&mut self) -> Moved {
        let Link::Leased(lease) = &mut self.link else {
            return Ok(false);
        };
        let unsent = !self.requests.cleared().is_empty();
        // A cancel under way must not hit what comes next.
        let held_up = self.cancelling.is_some() && !lease.ledger.owes();
        if unsent || held_up || self.server_fatal {
            return Ok(false);
        }
        if !Arc::ptr_eq(&lease.applied, &self.settings)
            && lease.ledger.is_idle()
            && give_settings(lease, &self.settings, &mut self.prologue) == Change::Sent
        {
            self.core.interposed();
        }
        let step =
            self.core
                .with_server(self.requests.raw(), &mut lease.ledger, &mut self.prologue);
        match step {
            // What was asked before is answered first, as PostgreSQL would.
            Ok(Step::Terminate) | Err(_)
                if lease.ledger.owes() && !lease.ledger.is_copying_in() =>
            {
                Ok(false)
            }
            Ok(Step::Terminate) => Err(Ending::Left),
            Err(violation) => Err(Ending::Violated(violation)),
            Ok(Step::Forward(count)) => {
                self.requests.clear(count);
                self.note_pins();
                Ok(true)
            }
            Ok(Step::Wait | Step::Borrow | Step::Consume(_)) => Ok(false),
        }
    }

    fn poll_server_write(&mut self, cx: &mut Poller<'_>) -> bool {
        let Link::Leased(lease) = &mut self.link else {
            return false;
        };
        let cleared = self.requests.cleared();
        let written = match (self.prologue.is_empty(), cleared.is_empty()) {
            (true, true) => return false,
            (true, false) => lease.stream.poll_write_slices(cx, &[IoSlice::new(cleared)]),
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
        self.prologue.drain(..of_prologue);
        self.requests.sent(count - of_prologue);
        // The sockets of servers in TLS are flushed when all is written.
        if self.prologue.is_empty() && self.requests.cleared().is_empty() {
            lease.flush_due = lease.stream.is_tls();
        }
        true
    }

    // --- from the server to the client ---------------------------------------------------------------

    fn poll_server_read(&mut self, cx: &mut Poller<'_>) -> Moved {
        let Link::Leased(lease) = &mut self.link else {
            return Ok(false);
        };
        if lease.flush_due && lease.stream.poll_flush_tls(cx).is_ready() {
            lease.flush_due = false;
        }
        if self.asleep.server || !self.replies.cleared().is_empty() || !self.replies.has_room() {
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
            Poll::Ready(end) => {
                let fatal = std::mem::replace(&mut self.server_fatal, true);
                Err(match end {
                    _ if fatal => Ending::ServerFatal,
                    Ok(_) if self.core.has_terminated() => Ending::Left,
                    _ => lost(end),
                })
            }
        }
    }

    fn advance_replies(&mut self) -> Moved {
        let mut moved = false;
        loop {
            let Link::Leased(lease) = &mut self.link else {
                return Ok(moved);
            };
            let Connection {
                replies,
                ledger,
                parameters,
                ..
            } = &mut ***lease;
            let reply = match replies.next(self.replies.raw(), ledger) {
                Ok(reply) => reply,
                Err(garbled) => {
                    self.server_fatal = true;
                    return Err(Ending::ServerLost(format!(
                        "its replies make no sense: {garbled:?}"
                    )));
                }
            };
            match reply {
                Reply::Wait => {
                    self.core.note_outcomes(&mut lease.ledger);
                    return Ok(moved);
                }
                Reply::Pass { bytes, fate } => self.pass(bytes, fate),
                Reply::Parameter {
                    bytes,
                    fate,
                    name,
                    value,
                } => {
                    Connection::note_parameter(parameters, name, value);
                    if fate == Fate::Forward {
                        self.told = Arc::clone(parameters);
                    }
                    self.pass(bytes, fate);
                }
                Reply::Error {
                    fate,
                    fatal,
                    prefix,
                } => {
                    self.server_fatal |= fatal;
                    if fate == Fate::Withhold {
                        self.own_error = prefix.to_vec();
                    }
                }
                Reply::Ready {
                    bytes, concluded, ..
                } => {
                    let own = concluded.asker == Asker::Weir;
                    self.pass(bytes, if own { Fate::Withhold } else { Fate::Forward });
                    self.conclude(concluded)?;
                }
            }
            moved = true;
        }
    }

    fn pass(&mut self, bytes: usize, fate: Fate) {
        match fate {
            Fate::Forward => self.replies.clear(bytes),
            Fate::Withhold => self.replies.discard(bytes),
        }
    }

    fn conclude(&mut self, concluded: crate::server::ledger::Concluded) -> Result<(), Ending> {
        let own = concluded.asker == Asker::Weir;
        match self.core.concluded(concluded) {
            Conclusion::Ordinary => {}
            Conclusion::OwnFailed => {
                self.server_fatal = true;
                return Err(Ending::SettingsRefused(said(&self.own_error)));
            }
            Conclusion::Discarded => {
                if let Link::Leased(lease) = &mut self.link {
                    lease.applied = Arc::default();
                    // What init_query had set up is gone as well: it is run again on the pool's time.
                    lease.marked |= !self.desk.target().manage.init_query().is_empty();
                }
                self.note_pins();
            }
        }
        if own {
            self.tell_news();
        } else {
            self.entry
                .meters
                .query_seconds
                .record(self.phase_since.elapsed());
        }
        Ok(())
    }

    /// Tells the client of reported values that this server has otherwise than the last one.
    fn tell_news(&mut self) {
        let Link::Leased(lease) = &mut self.link else {
            return;
        };
        if Arc::ptr_eq(&lease.parameters, &self.told) {
            return;
        }
        let mut news = Vec::new();
        for (name, value) in lease.parameters.news(&self.told) {
            put_parameter_status(&mut news, name, value);
        }
        if news.is_empty() {
            // The same values: from here on the same memory, so that comparing costs nothing.
            lease.parameters = Arc::clone(&self.told);
        } else {
            self.told = Arc::clone(&lease.parameters);
            self.replies.insert(&news);
        }
    }

    fn poll_client_write(&mut self, cx: &mut Poller<'_>) -> Moved {
        let cleared = self.replies.cleared();
        if cleared.is_empty() {
            if self.flush_due {
                self.flush_due = self.client.poll_flush_tls(cx).is_pending();
            }
            return Ok(false);
        }
        if self.presence == Presence::Deaf {
            let unheard = cleared.len();
            self.replies.sent(unheard);
            return Ok(true);
        }
        match self.client.poll_write_slices(cx, &[IoSlice::new(cleared)]) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(count)) if count > 0 => {
                self.replies.sent(count);
                self.entry.meters.sent.increment(count as u64);
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

    // --- servers ---------------------------------------------------------------------------------------

    fn borrow(&mut self) {
        self.entry.meters.borrows.increment(1);
        if let Some(lease) = self.desk.try_borrow(self.entry.pool) {
            self.entry.meters.borrow_seconds.record(Duration::ZERO);
            return self.leased(lease);
        }
        match self.desk.borrow(self.entry.pool) {
            Ok(waiting) => self.link = Link::Waiting(Box::new(waiting)),
            Err(error) => self.refuse(&error),
        }
    }

    fn poll_queue(&mut self, cx: &mut Poller<'_>) -> Moved {
        let Link::Waiting(waiting) = &mut self.link else {
            return Ok(false);
        };
        let Poll::Ready(outcome) = std::pin::Pin::new(&mut **waiting).poll(cx) else {
            return Ok(false);
        };
        let waited = waiting.waited();
        match outcome {
            Ok(lease) => {
                self.entry.meters.borrow_seconds.record(waited);
                self.leased(lease);
            }
            Err(error) => self.refuse(&error),
        }
        Ok(true)
    }

    /// A server is there: our own messages to it come first.
    fn leased(&mut self, mut lease: Lease) {
        self.prologue.clear();
        self.asleep.server = false;
        let change = give_settings(&mut lease, &self.settings, &mut self.prologue);
        self.replies.append(&std::mem::take(&mut lease.unread));
        let mut before = self.before(&lease);
        if change == Change::Sent && before.unnamed == Owner::Self_ {
            before.unnamed = Owner::Nobody;
        }
        self.core
            .begin(before, &mut lease.ledger, &mut self.prologue);
        self.link = Link::Leased(lease);
        if change == Change::None {
            self.tell_news();
        }
    }

    /// What another session may have left on this server that DISCARD does not concern.
    fn before(&self, lease: &Lease) -> Before {
        let me = self.number;
        let unnamed = match lease.unnamed_of {
            None => Owner::Nobody,
            Some(owner) if owner == (me, self.core.unnamed_version()) => Owner::Self_,
            Some(_) => Owner::Another,
        };
        let sequences = match lease.last_of {
            last if last != me && self.entry.reads_sequences() => Sequences::OfAnother,
            _ => Sequences::Own,
        };
        Before { unnamed, sequences }
    }

    /// The unit gets no server: an error, and the session lives on.
    fn refuse(&mut self, error: &BorrowError<Arc<ConnectError>>) {
        let refusal = NoServer {
            error,
            target: &self.entry.target_name,
        };
        let reply = refusal.to_reply();
        tracing::info!(sqlstate = %reply.sqlstate, message = %reply.message, "no server for a unit");
        self.refuse_with(&reply, refusal.blame());
    }

    fn refuse_with(&mut self, reply: &ErrorReply, blame: crate::error::Blame) {
        self.context.clients.error(reply.sqlstate, blame);
        self.link = Link::Free;
        let mut answer = Vec::new();
        self.core.refuse(self.requests.raw(), reply, &mut answer);
        self.replies.insert(&answer);
    }

    /// Releases the server as soon as nothing speaks against it; ends a session that is over.
    fn settle(&mut self) -> Moved {
        if self.context.is_closing() {
            return Err(Ending::Draining);
        }
        let released = self.may_release() && self.release();
        let quiet = match &self.link {
            Link::Free => self.core.is_quiet(),
            Link::Waiting(_) => false,
            Link::Leased(lease) => lease.ledger.is_idle() && !self.core.is_mid_frame(),
        };
        if self.presence != Presence::Here && self.is_worked_off() {
            return Err(Ending::Vanished);
        }
        if quiet && self.requests.raw().is_empty() && self.replies.is_empty() {
            if self.context.is_draining() {
                return Err(Ending::Draining);
            }
            if let Some(limit) = self.limits.client_lifetime
                && self.born.elapsed() >= limit
            {
                return Err(Ending::Lifetime(limit));
            }
        }
        Ok(released)
    }

    /// Whether everything that a client sent before it fell silent has been carried out, as far as it can be.
    fn is_worked_off(&self) -> bool {
        match &self.link {
            Link::Free => self.replies.is_empty(),
            // What has not begun is not begun for somebody who may be gone.
            Link::Waiting(_) => !self.said_goodbye(),
            Link::Leased(lease) => {
                let cut_off = lease.ledger.is_copying_in() || self.core.is_mid_frame();
                self.requests.cleared().is_empty()
                    && self.replies.cleared().is_empty()
                    && (cut_off || !lease.ledger.owes())
            }
        }
    }

    fn may_release(&self) -> bool {
        let Link::Leased(lease) = &self.link else {
            return false;
        };
        self.core.may_release(&lease.ledger)
            && self.requests.cleared().is_empty()
            && self.prologue.is_empty()
            && self.replies.raw().is_empty()
            && lease.replies.at_boundary()
            && self.cancelling.is_none()
            && !self.server_fatal
            && !lease.flush_due
    }

    fn release(&mut self) -> bool {
        let unflushed = self.replies.cleared().len();
        if unflushed > 0 {
            if !Unflushed::has_room(&self.context, unflushed) {
                return false;
            }
            self.unflushed.set(&self.context, unflushed);
        }
        self.entry.meters.transactions.increment(1);
        if let Link::Leased(mut lease) = std::mem::replace(&mut self.link, Link::Free) {
            lease.last_of = self.number;
            match self.core.unnamed_owner() {
                Owner::Nobody => lease.unnamed_of = None,
                Owner::Self_ => {
                    lease.unnamed_of = Some((self.number, self.core.unnamed_version()));
                }
                Owner::Another => lease.unnamed_of = Some(STRANGER),
            }
            if self.core.reads_sequences() {
                self.entry.note_sequences();
            }
            if lease.is_clean() {
                lease.release();
            } else {
                drop(lease);
            }
        }
        true
    }

    fn note_pins(&mut self) {
        let pins = self.core.pins();
        if pins == self.counted_pins {
            return;
        }
        for reason in pins.since(self.counted_pins) {
            self.entry.meters.pinned(reason.as_str());
            tracing::info!(
                reason = reason.as_str(),
                pid = self.place.handle.key.pid,
                database = %self.entry.database,
                user = %self.entry.user,
                "session pinned"
            );
        }
        match (self.counted_pins.any(), pins.any()) {
            (false, true) => self.entry.pinned(),
            (true, false) => self.entry.unpinned(),
            _ => {}
        }
        self.counted_pins = pins;
    }

    // --- cancelling ------------------------------------------------------------------------------------

    fn poll_cancel(&mut self, cx: &mut Poller<'_>) -> bool {
        if let Some(cancelling) = &mut self.cancelling
            && cancelling.request.as_mut().poll(cx).is_ready()
        {
            self.cancelling = None;
            return true;
        }
        // One at a time: a second request for the same query would change nothing.
        let Some(done) = self.place.handle.take_cancel() else {
            return false;
        };
        match &self.link {
            Link::Free => {}
            Link::Waiting(_) => self.refuse_with(
                &ErrorReply {
                    severity: Severity::Error,
                    sqlstate: SqlState::QUERY_CANCELED,
                    message: "canceling statement due to user request".into(),
                    detail: Some("The statement was waiting for a database connection.".into()),
                    hint: None,
                },
                crate::error::Blame::Client,
            ),
            // It must not hit a command of ours that goes ahead of the client's: a little later, then.
            Link::Leased(lease) if lease.fate() == Fate::Withhold => {
                self.place.handle.put_back(done);
                return false;
            }
            Link::Leased(_) => self.cancel_query(Some(done)),
        }
        true
    }

    /// Has the server cancel what it is doing for this client. Until the request has arrived, the server
    /// is neither released nor given anything new to do.
    fn cancel_query(&mut self, done: Option<CancelDone>) {
        let Link::Leased(lease) = &self.link else {
            return;
        };
        if self.cancelling.is_none() && lease.ledger.owes() {
            let target = Arc::clone(self.desk.target());
            let key = lease.key.clone();
            let peer = lease.peer;
            self.cancelling = Some(Cancelling {
                request: Box::pin(async move { target.manage.cancel(peer, &key).await }),
                _done: done,
            });
        }
    }

    // --- time --------------------------------------------------------------------------------------------

    fn phase_now(&self) -> Phase {
        match &self.link {
            Link::Free => Phase::Idle,
            Link::Waiting(_) => Phase::Queued,
            Link::Leased(lease) => {
                let client_is_slow = !self.replies.cleared().is_empty()
                    || self.core.is_mid_frame()
                    || lease.ledger.is_copying_in();
                match lease.ledger.owes() {
                    true if !client_is_slow => Phase::Running,
                    false if lease.ledger.is_idle() => Phase::Idle,
                    true | false => Phase::Holding,
                }
            }
        }
    }

    /// Nothing tells a client that waits for its last answer from one that is gone, until we write to it.
    fn may_be_gone(&self) -> bool {
        self.presence == Presence::Silent && !self.said_goodbye()
    }

    fn limit_of(&self, phase: Phase) -> Option<Duration> {
        match phase {
            Phase::Idle => Some(self.limits.idle_client_timeout),
            Phase::Queued => None,
            Phase::Running if self.may_be_gone() => Some(GONE),
            Phase::Running => self.limits.query_timeout,
            Phase::Holding => Some(self.limits.idle_in_transaction_timeout),
        }
    }

    /// Keeps the timer at or before the limit that runs now; says what is due when it goes off.
    fn watch_time(&mut self, cx: &mut Poller<'_>, rounds: usize) -> Poll<Ending> {
        let phase = self.phase_now();
        // Whoever holds a server and moves is not frozen.
        if phase != self.phase || (phase == Phase::Holding && rounds > 0) {
            self.phase = phase;
            self.phase_since = Instant::now();
        }
        loop {
            if let Some(limit) = self.limit_of(self.phase) {
                let due = tokio::time::Instant::from_std(self.phase_since + limit);
                if due < self.timer.deadline() {
                    self.timer.as_mut().reset(due);
                    self.asleep.timer = false;
                }
            }
            // It is set already, and it was not what woke us.
            if rounds > 0 && self.asleep.timer && !self.timer.is_elapsed() {
                return Poll::Pending;
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                self.asleep.timer = true;
                return Poll::Pending;
            }
            if let Some(ending) = self.overdue() {
                return Poll::Ready(ending);
            }
        }
    }

    /// The timer went off, perhaps early: what is due, if anything; else it is set anew.
    fn overdue(&mut self) -> Option<Ending> {
        let waited = self.phase_since.elapsed();
        let next = match self.limit_of(self.phase) {
            Some(limit) if waited >= limit => match self.phase {
                Phase::Idle => return Some(Ending::IdleClient(limit)),
                Phase::Holding => return Some(Ending::IdleInTransaction(limit)),
                Phase::Running if self.may_be_gone() => return Some(Ending::Vanished),
                Phase::Queued | Phase::Running => {
                    self.stop_query(limit);
                    limit
                }
            },
            Some(limit) => limit - waited,
            None => self.limits.idle_client_timeout,
        };
        self.timer
            .as_mut()
            .reset(tokio::time::Instant::now() + next);
        None
    }

    /// The query has run for too long: it is cancelled, and the client told by whom.
    fn stop_query(&mut self, limit: Duration) {
        if let Link::Leased(lease) = &self.link
            && lease.replies.at_boundary()
        {
            let mut notice = Vec::new();
            put_notice(
                &mut notice,
                &format!(
                    "Weir cancels the query: it has run for {limit:?}, the most that pool.query_timeout allows"
                ),
            );
            self.replies.insert(&notice);
        }
        self.phase_since = Instant::now();
        self.cancel_query(None);
        self.place.handle.wake();
    }
}

/// Makes the server have the client's settings, with a message ahead of the client's own.
#[inline]
fn give_settings(lease: &mut Lease, settings: &Arc<Settings>, prologue: &mut Vec<u8>) -> Change {
    if Arc::ptr_eq(&lease.applied, settings) {
        return Change::None;
    }
    let change = settings.put_change(&lease.applied, prologue);
    lease.applied = Arc::clone(settings);
    if change == Change::Sent {
        lease.ledger.send(Owed::Query, Asker::Weir);
    }
    change
}

fn lost(end: io::Result<usize>) -> Ending {
    Ending::ServerLost(match end {
        Ok(_) => "The server closed it without a word.".into(),
        Err(error) => format!("The connection broke: {error}."),
    })
}

/// SQLSTATE and message of an ErrorResponse.
fn said(error: &[u8]) -> String {
    let field =
        |code| String::from_utf8_lossy(error_field(error, code).unwrap_or_default()).into_owned();
    format!("{} {}", field(b'C'), field(b'M'))
}

fn put_notice(out: &mut Vec<u8>, message: &str) {
    put(out, backend::NOTICE_RESPONSE, |body| {
        for (code, text) in [
            (b'S', "WARNING"),
            (b'V', "WARNING"),
            (b'C', "01000"),
            (b'M', message),
        ] {
            body.push(code);
            put_cstr(body, text.as_bytes());
        }
        body.push(0);
    });
}
