//! How a session comes to a server, and how the server is given back.
//!
//! Knows what must be made so on a server before the client's own messages, and what must hold before another
//! may have it. Moves no bytes.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::{Duration, Instant};

use super::context::{Excess, Unflushed};
use super::core::{Answered, Before, Owner, Sequences};
use super::ending::{Ending, NoServer};
use super::pinning::Lifted;
use super::pins::Reason;
use super::pump::{MAX_ANSWER_BYTES, Moved};
use super::questions::{Defaults, Kinds};
use super::settings::Learnt;
use super::{Lease, Link, Presence, STRANGER, Session};
use crate::error::ToClient;
use crate::pool::BorrowError;
use crate::protocol::frame::{put, put_cstr};
use crate::protocol::reply::{ErrorReply, TxStatus};
use crate::protocol::tag::frontend;
use crate::server::ledger::{Asker, Owed};
use crate::server::settings::{Change, IDLE_LIMIT};
use crate::server::{ConnectError, Settings};

/// So long a DROP DATABASE and its like wait for idle connections to be gone; then PostgreSQL has the last word.
const EVICTION_PATIENCE: Duration = Duration::from_secs(5);

/// How often the server of a pinned session is asked, unprompted, whether the reason is still there.
const RECHECK_EVERY: Duration = Duration::from_secs(1);

impl Session {
    pub(super) fn borrow(&mut self) {
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

    pub(super) fn poll_queue(&mut self, cx: &mut Poller<'_>) -> Moved {
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
    pub(super) fn leased(&mut self, mut lease: Lease) {
        self.prologue.clear();
        self.asleep.server = false;
        let change = give_settings(&mut lease, self.settings.now(), &mut self.prologue);
        self.replies.append(&std::mem::take(&mut lease.unread));
        // Whoever had it before has left nothing to wait for.
        lease.ledger.forget_outcomes();
        lease.statements.begin();
        if let Some(hidden) = self.entry.finds.news(&mut self.hidden_version) {
            self.core.know_hidden(hidden);
        }
        let mut before = self.before(&lease);
        if change != Change::None && before.unnamed == Owner::Self_ {
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
    pub(super) fn before(&self, lease: &Lease) -> Before {
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
    pub(super) fn refuse(&mut self, error: &BorrowError<Arc<ConnectError>>) {
        let refusal = NoServer {
            error,
            target: &self.entry.target_name,
        };
        let reply = refusal.to_reply();
        tracing::info!(sqlstate = %reply.sqlstate, message = %reply.message, "no server for a unit");
        self.refuse_with(&reply, refusal.blame());
    }

    pub(super) fn refuse_with(&mut self, reply: &ErrorReply, blame: crate::error::Blame) {
        self.context.clients.error(reply.sqlstate, blame);
        self.link = Link::Free;
        let mut answer = Vec::new();
        self.core.refuse(self.requests.raw(), reply, &mut answer);
        self.replies.insert(&answer);
    }

    /// Releases the server as soon as nothing speaks against it; ends a session that is over.
    pub(super) fn settle(&mut self) -> Moved {
        if self.context.is_closing() {
            return Err(Ending::Draining);
        }
        if self.context.excess() == Excess::Due
            && let Link::Leased(lease) = &self.link
            && lease.is_excess()
        {
            return Err(Ending::ShareLowered);
        }
        let tidied = self.tidy();
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
        Ok(released || tidied)
    }

    /// Has the server be as it should before others get it.
    fn tidy(&mut self) -> bool {
        let Link::Leased(lease) = &mut self.link else {
            return false;
        };
        self.core.is_untidy(&lease.ledger)
            && self.requests.cleared().is_empty()
            && self.core.tidy(&mut lease.ledger, &mut self.prologue)
    }

    /// Whether everything that a client sent before it fell silent has been carried out, as far as it can be.
    pub(super) fn is_worked_off(&self) -> bool {
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

    pub(super) fn may_release(&self) -> bool {
        let Link::Leased(lease) = &self.link else {
            return false;
        };
        self.core.may_release(&lease.ledger)
            && !self.channels_hold_server()
            && self.requests.cleared().is_empty()
            && self.prologue.is_empty()
            && self.replies.raw().is_empty()
            && lease.replies.at_boundary()
            && self.cancelling.is_none()
            && !self.server_fatal
            && !lease.flush_due
    }

    /// Sees to it that nobody of ours is connected where the client's next message must be alone.
    pub(super) fn poll_eviction(&mut self, cx: &mut Poller<'_>) -> bool {
        if let Some(databases) = self.core.take_eviction() {
            let names = databases.iter().map(|name| String::from_utf8_lossy(name));
            let pools: Vec<_> = names
                .flat_map(|name| self.endpoint.pools_of(&name))
                .collect();
            let desk = Rc::clone(&self.desk);
            self.evicting = Some(Box::pin(async move {
                desk.evict(&pools, EVICTION_PATIENCE).await;
            }));
        }
        let Some(evicting) = &mut self.evicting else {
            return false;
        };
        let done = evicting.as_mut().poll(cx).is_ready();
        if done {
            self.evicting = None;
            self.core.evicted();
        }
        done
    }

    fn may_ask(&self) -> bool {
        let pins = self.core.pins().any();
        let limited = match &self.link {
            Link::Leased(lease) => lease.applied.value(IDLE_LIMIT).is_some(),
            Link::Free | Link::Waiting(_) => false,
        };
        (self.core.wonders() || pins || limited) && self.is_server_quiet()
    }

    /// Whether the server is between two transactions, and all that it said is understood.
    fn is_server_quiet(&self) -> bool {
        let Link::Leased(lease) = &self.link else {
            return false;
        };
        lease.ledger.is_idle()
            && !self.core.is_mid_frame()
            && self.requests.cleared().is_empty()
            && self.prologue.is_empty()
            && self.replies.raw().is_empty()
            && lease.replies.at_boundary()
            && self.presence == Presence::Here
            && !self.server_fatal
    }

    /// Has the server asked what only it can tell, with a Query of our own.
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
            self.entry.finds.set(names);
        } else if let Answered::State(asked, mut answer) = learnt {
            if asked.kinds.has(Kinds::LISTEN) {
                channels = Some(std::mem::take(&mut answer.channels));
            }
            let before = Arc::clone(self.settings.now());
            match self
                .settings
                .learn(&asked, answer, &lease.applied, &self.entry.user)
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
            // A server that has used temporary tables takes no other value.
            if now.value("temp_buffers").is_some() {
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
        self.note_pins(Lifted::Gone);
        Ok(())
    }

    pub(super) fn release(&mut self) -> bool {
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
}

/// Makes the server have the client's settings, with a message ahead of the client's own.
#[inline]
pub(super) fn give_settings(
    lease: &mut Lease,
    settings: &Arc<Settings>,
    prologue: &mut Vec<u8>,
) -> Change {
    if Arc::ptr_eq(&lease.applied, settings) {
        return Change::None;
    }
    let change = settings.put_change(&lease.applied, prologue);
    lease.applied = Arc::clone(settings);
    if let Change::Sent { queries } = change {
        for _ in 0..queries {
            lease.ledger.send(Owed::Query, Asker::Weir);
        }
    }
    change
}
