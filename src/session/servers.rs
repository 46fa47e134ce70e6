//! How a session comes to a server, and how the server is given back.
//!
//! Knows what must be made so on a server before the client's own messages, and what must hold before another
//! may have it. Moves no bytes.

use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::{Duration, Instant};

use super::context::{Excess, Unflushed};
use super::core::{Answered, Before, Core, Owner, Sequences};
use super::ending::{Ending, NoServer};
use super::endpoint::Entry;
use super::pinning::Lifted;
use super::pins::Reason;
use super::pump::{MAX_ANSWER_BYTES, Moved};
use super::questions::{Defaults, Kinds, TEMP_BUFFERS};
use super::queue::{self, Asked, Queue, Unserved};
use super::settings::Learnt;
use super::{Kind, Lease, Link, Presence, STRANGER, Session};
use crate::config;
use crate::error::{Blame, ToClient};
use crate::protocol::SqlState;
use crate::protocol::frame::{put, put_cstr};
use crate::protocol::reply::{ErrorReply, TxStatus};
use crate::protocol::tag::frontend;
use crate::server::Settings;
use crate::server::ledger::{Asker, Owed};
use crate::server::sequences::{Turn, Users};
use crate::server::settings::IDLE_LIMIT;

/// How often the server of a pinned session is asked, unprompted, whether the reason is still there.
const RECHECK_EVERY: Duration = Duration::from_secs(1);

impl Session {
    pub(super) fn borrow(&mut self) {
        match self.errands {
            None => self.borrow_as(self.kind),
            Some(_) => self.set_out(),
        }
    }

    pub(super) fn borrow_as(&mut self, kind: Kind) {
        let asked = queue::ask(kind, &self.desks, self.entry.pool);
        if let Err(refused) = self.take_place(asked) {
            self.refuse(&refused);
        }
    }

    /// Takes the server that was asked for, or the place in line.
    #[inline]
    pub(super) fn take_place(&mut self, asked: Asked) -> Result<(), Unserved> {
        self.traffic.borrows.add(1);
        match asked {
            Asked::Served(lease) => {
                self.traffic.borrow_seconds.record(Duration::ZERO);
                self.leased(lease);
            }
            Asked::Queued(mut queue) => {
                shorten(&mut queue, self.settings.now());
                self.link = Link::Waiting(queue);
            }
            Asked::Refused(refused) => return Err(refused),
        }
        Ok(())
    }

    #[inline]
    pub(super) fn poll_queue(&mut self, cx: &mut Poller<'_>) -> Moved {
        match self.link {
            Link::Waiting(_) => self.poll_waiting(cx),
            Link::Free | Link::Leased(_) => Ok(false),
        }
    }

    #[inline(never)]
    fn poll_waiting(&mut self, cx: &mut Poller<'_>) -> Moved {
        let Link::Waiting(queue) = &mut self.link else {
            return Ok(false);
        };
        let Poll::Ready(outcome) = queue.poll(cx) else {
            return Ok(false);
        };
        let waited = queue.waited();
        match outcome {
            Ok(lease) => {
                self.traffic.borrow_seconds.record(waited);
                self.leased(lease);
            }
            Err(refused) if refused.is_busy() || !self.was_out() => self.refuse(&refused),
            Err(_) => {}
        }
        Ok(true)
    }

    /// A server is there: our own messages to it come first.
    pub(super) fn leased(&mut self, mut lease: Lease) {
        self.prologue.clear();
        self.asleep.server = false;
        self.turn.number += 1;
        if !lease.unread.is_empty() {
            self.take_over_unread(&mut lease);
        }
        // Whoever had it before has left nothing to wait for.
        lease.ledger.forget_outcomes();
        if self.errands.is_some() && !self.is_fit(&mut lease) {
            self.link = Link::Leased(lease);
            return;
        }
        self.equip(lease);
    }

    /// The client's own messages are next.
    pub(super) fn equip(&mut self, mut lease: Lease) {
        lease.statements.begin();
        if self.errands.is_some() {
            self.note_standing();
        }
        if let Some(hidden) = self.entry.finds.news(&mut self.hidden_version) {
            self.core.know_hidden(hidden);
        }
        self.give_settings(lease);
    }

    #[cold]
    fn take_over_unread(&mut self, lease: &mut Lease) {
        self.replies.append(&std::mem::take(&mut lease.unread));
    }

    /// The unit gets no server: an error, and the session lives on.
    pub(super) fn refuse(&mut self, error: &Unserved) {
        let refusal = NoServer {
            error,
            endpoint: &self.endpoint,
        };
        let reply = refusal.to_reply();
        tracing::info!(sqlstate = %reply.sqlstate, message = %reply.message, client = self.address.map(tracing::field::display),
            user = %self.entry.user, database = %self.entry.database, "no server for a unit");
        self.refuse_with(&reply, refusal.blame());
    }

    pub(super) fn refuse_with(&mut self, reply: &ErrorReply, blame: Blame) {
        let mut error = Vec::new();
        reply.put(&mut error);
        self.refuse_as(&error, reply.sqlstate, blame);
    }

    /// The same with an ErrorResponse that is made already.
    pub(super) fn refuse_as(&mut self, error: &[u8], sqlstate: SqlState, blame: Blame) {
        self.context.clients.error(sqlstate, blame);
        self.link = Link::Free;
        self.replays.give_up();
        let mut answer = Vec::new();
        self.core.refuse(self.requests.raw(), error, &mut answer);
        self.replies.insert(&answer);
    }

    /// Releases the server as soon as nothing speaks against it; ends a session that is over.
    #[inline]
    pub(super) fn settle(&mut self) -> Moved {
        if self.context.is_closing() {
            return Err(Ending::Draining);
        }
        if self.context.excess() == Excess::Due
            && let Link::Leased(lease) = &mut self.link
            && lease.give_up_excess()
        {
            return Err(Ending::ShareLowered);
        }
        if self.is_at_work() {
            return Ok(false);
        }
        self.settle_up()
    }

    /// What is seldom due has functions of its own.
    #[inline(never)]
    fn settle_up(&mut self) -> Moved {
        let tidied = self.is_tidying_due() && self.tidy();
        if self.errands.is_some() && self.is_server_quiet() && self.ask_where_it_is() {
            return Ok(true);
        }
        if self.may_ask() && self.ask() {
            return Ok(true);
        }
        if self.listening.is_some()
            && !self.core.wonders()
            && self.is_server_quiet()
            && self.advance_channels()
        {
            return Ok(true);
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
        if quiet && matches!(self.link, Link::Leased(_)) {
            self.check_pin_limit()?;
        }
        if quiet && !self.requests.has_raw() && self.replies.is_empty() {
            if self.context.is_draining() {
                return Err(Ending::Draining);
            }
            if let Some(limit) = self.limits.client_lifetime {
                self.check_lifetime(limit)?;
            }
        }
        Ok(released || tidied)
    }

    #[inline(never)]
    fn check_lifetime(&self, limit: Duration) -> Result<(), Ending> {
        match self.born.elapsed() >= limit {
            true => Err(Ending::Lifetime(limit)),
            false => Ok(()),
        }
    }

    /// Whether the server has yet to answer, and nothing else is to be seen to meanwhile.
    #[inline]
    fn is_at_work(&self) -> bool {
        let Link::Leased(lease) = &self.link else {
            return false;
        };
        lease.ledger.owes()
            && !self.core.is_untidy(&lease.ledger)
            && self.presence == Presence::Here
    }

    #[inline]
    fn is_tidying_due(&self) -> bool {
        matches!(&self.link, Link::Leased(lease) if self.core.is_untidy(&lease.ledger))
            && !self.requests.has_cleared()
    }

    /// Has the server be as it should before others get it.
    #[cold]
    fn tidy(&mut self) -> bool {
        let Link::Leased(lease) = &mut self.link else {
            return false;
        };
        self.core.tidy(&mut lease.ledger, &mut self.prologue)
    }

    /// Whether everything that a client sent before it fell silent has been carried out, as far as it can be.
    #[cold]
    pub(super) fn is_worked_off(&self) -> bool {
        match &self.link {
            Link::Free => self.replies.is_empty(),
            // What has not begun is not begun for somebody who may be gone.
            Link::Waiting(_) => !self.said_goodbye(),
            Link::Leased(lease) => {
                let cut_off = lease.ledger.is_copying_in() || self.core.is_mid_frame();
                !self.requests.has_cleared()
                    && !self.replies.has_cleared()
                    && (cut_off || !lease.ledger.owes())
            }
        }
    }

    pub(super) fn may_release(&self) -> bool {
        let Link::Leased(lease) = &self.link else {
            return false;
        };
        self.core.may_release(&lease.ledger)
            && !self.channels_hold_server()
            && !self.requests.has_cleared()
            && self.prologue.is_empty()
            && !self.replies.has_raw()
            && lease.replies.at_boundary()
            && self.cancelling.is_none()
            && !self.server_fatal
            && !lease.flush_due
    }

    #[inline]
    fn may_ask(&self) -> bool {
        let Link::Leased(lease) = &self.link else {
            return false;
        };
        // The session's own settings never have the limit.
        let differs = !Arc::ptr_eq(&lease.applied, self.settings.now());
        (self.core.wonders() || self.core.pins().any() || differs && is_limited(lease))
            && self.is_server_quiet()
    }

    /// Whether the server is between two transactions, and a Query of ours would be the next that it gets.
    pub(super) fn is_next_to_speak(&self) -> bool {
        matches!(&self.link, Link::Leased(lease) if lease.ledger.is_idle())
            && !self.core.is_mid_frame()
            && !self.requests.has_cleared()
            && self.prologue.is_empty()
    }

    /// And all that the server said is understood.
    #[cold]
    fn is_server_quiet(&self) -> bool {
        let Link::Leased(lease) = &self.link else {
            return false;
        };
        self.is_next_to_speak()
            && !self.replies.has_raw()
            && lease.replies.at_boundary()
            && self.presence == Presence::Here
            && !self.server_fatal
    }

    /// Has the server asked what only it can tell, with a Query of our own.
    #[cold]
    fn ask(&mut self) -> bool {
        if self.core.pins().any() && self.rechecked.elapsed() >= RECHECK_EVERY {
            self.rechecked = Instant::now();
            self.core.recheck();
        }
        let Link::Leased(lease) = &mut self.link else {
            return false;
        };
        self.answer.clear();
        if lease.applied.value(IDLE_LIMIT).is_some() {
            let gone = [(IDLE_LIMIT.to_owned(), None)];
            lease.applied = Arc::new(lease.applied.with(gone));
            put(&mut self.prologue, frontend::QUERY, |body| {
                put_cstr(body, b"SET idle_session_timeout = 0");
            });
            lease.ledger.send(Owed::Query, Asker::Weir);
            self.core.interposed();
            return true;
        }
        let defaults = match lease.applied.value("default_transaction_deferrable") {
            Some(_) => Defaults::MayWait,
            None => Defaults::Plain,
        };
        let (ledger, prologue) = (&mut lease.ledger, &mut self.prologue);
        self.core
            .ask(self.settings.customs(), defaults, ledger, prologue)
            || self.core.rehearse(self.settings.now(), ledger, prologue)
    }

    /// The server has answered: the session carries on what it has set, and is pinned for what is left.
    pub(super) fn learn(&mut self, failed: bool) -> Result<(), Ending> {
        let complete = !failed && self.answer.len() <= MAX_ANSWER_BYTES;
        let learnt = self.core.answered(complete.then_some(&*self.answer));
        self.answer = Vec::new();
        let Link::Leased(lease) = &mut self.link else {
            return Ok(());
        };
        if lease.ledger.tx() != TxStatus::Idle {
            // The question failed in a transaction of its own.
            self.server_fatal = true;
            let cause = "It did not answer what the session has left behind.";
            return Err(Ending::ServerLost(cause.into()));
        }
        let mut channels = None;
        if let Answered::Hidden(names) = learnt {
            self.entry.found(names);
        } else if let Answered::State(asked, mut answer) = learnt {
            if asked.kinds.has(Kinds::LISTEN) {
                channels = Some(std::mem::take(&mut answer.channels));
            }
            let before = Arc::clone(self.settings.now());
            match self
                .settings
                .learn(&asked, answer, &lease.applied, &lease.role)
            {
                Learnt::TooLarge => self.core.pin(Reason::Setting),
                Learnt::Server(applied) if applied == **self.settings.now() => {
                    lease.applied = Arc::clone(self.settings.now());
                }
                Learnt::Server(applied) => lease.applied = Arc::new(applied),
            }
            let now = self.settings.now();
            if now.may_be_temporary() {
                self.core.pin(Reason::Temporary);
            }
            if now.value(TEMP_BUFFERS).is_some() {
                self.core.pin(Reason::Setting);
            }
            if !Arc::ptr_eq(&before, now) {
                self.core.parse_under(now.parsing());
                self.core.settings_changed();
            }
        }
        if let Some(channels) = channels {
            self.found_channels(channels);
        }
        self.replays.learnt();
        self.note_pins(Lifted::Gone);
        Ok(())
    }

    #[inline]
    pub(super) fn release(&mut self) -> bool {
        if self.replies.has_cleared() && !self.leave_behind() {
            return false;
        }
        self.replays.released();
        self.traffic.transactions.add(1);
        if let Link::Leased(mut lease) = std::mem::replace(&mut self.link, Link::Free) {
            lease.sequences_of = match self.core.owns_sequences() {
                true => Users::One(self.turn),
                false => Users::Several,
            };
            match self.core.unnamed_owner() {
                Owner::Nobody => lease.unnamed_of = None,
                Owner::Self_ => {
                    lease.unnamed_of = Some((self.turn.session, self.core.unnamed_version()));
                }
                Owner::Another => lease.unnamed_of = Some(STRANGER),
            }
            if lease.is_clean() {
                lease.release_at(self.now());
            } else {
                have_cleaned(lease);
            }
        }
        true
    }

    /// The last replies stay with the session, if there is room for that.
    #[inline(never)]
    fn leave_behind(&mut self) -> bool {
        let unflushed = self.replies.cleared().len();
        let has_room = Unflushed::has_room(&self.context, unflushed);
        if has_room {
            self.unflushed.set(&self.context, unflushed);
        }
        has_room
    }
}

#[cold]
fn have_cleaned(lease: Lease) {
    drop(lease);
}

/// Whether the server has the limit of idle time that goes with settings of others.
#[cold]
fn is_limited(lease: &Lease) -> bool {
    lease.applied.value(IDLE_LIMIT).is_some()
}

/// A client may have itself told sooner that there is no server for it.
pub(super) fn shorten(waiting: &mut Queue, settings: &Settings) {
    let value = settings.value(BORROW_TIMEOUT);
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    if let Some(limit) = text.and_then(config::length) {
        waiting.no_longer_than(limit);
    }
}

/// To PostgreSQL it is a custom setting like any other, and so to all that is done about settings here: set, reset,
/// shown and carried. What is no length of time there means nothing.
const BORROW_TIMEOUT: &str = "weir.borrow_timeout";

/// What another session may have left on this server that DISCARD does not concern.
pub(super) fn before(lease: &Lease, me: Turn, core: &Core, entry: &Entry) -> Before {
    let unnamed = match lease.unnamed_of {
        None => Owner::Nobody,
        Some(owner) if owner == (me.session, core.unnamed_version()) => Owner::Self_,
        Some(_) => Owner::Another,
    };
    let sequences = match lease.sequences_of {
        users if users.are_only(me) => Sequences::Own,
        _ if entry.reads_sequences() => Sequences::Unwanted,
        _ => Sequences::Mixed,
    };
    Before { unnamed, sequences }
}
