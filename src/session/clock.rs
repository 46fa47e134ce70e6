//! What ends a query, or a session, from outside: cancel requests and limits of time.
//!
//! Knows when they are due and whom they may hit; what the client is told, `ending` knows.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::ending::Ending;
use super::handle::CancelDone;
use super::{Cancelling, Lease, Link, Phase, Presence, Session};
use crate::protocol::SqlState;
use crate::protocol::reply::{ErrorReply, Notice, Severity, TxStatus};
use crate::server::ledger::Fate;

/// So long a query may run on for a client that has fallen silent without a goodbye.
const GONE: Duration = Duration::from_secs(10);

/// Wakes the task at a time. It is put off often and goes off rarely: an early one is cheaper than one that is exact.
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
    due: Instant,
    /// The task will be woken.
    armed: bool,
}

impl Timer {
    pub fn new(due: Instant) -> Timer {
        Timer {
            sleep: Box::pin(tokio::time::sleep_until(due.into())),
            due,
            armed: false,
        }
    }

    pub fn set(&mut self, due: Instant) {
        self.sleep.as_mut().reset(due.into());
        self.due = due;
        self.armed = false;
    }

    /// Goes off then at the latest.
    #[inline]
    pub fn set_by(&mut self, due: Instant) {
        if due < self.due {
            self.set(due);
        }
    }

    /// Whether it will wake the task and has not done so; `now`, if it is known.
    #[inline]
    pub fn is_still_ahead(&self, now: Option<Instant>) -> bool {
        self.armed && now.map_or_else(|| !self.sleep.is_elapsed(), |now| now < self.due)
    }

    pub fn poll(&mut self, cx: &mut Poller<'_>) -> Poll<()> {
        let polled = self.sleep.as_mut().poll(cx);
        self.armed = polled.is_pending();
        polled
    }
}

impl Session {
    #[inline]
    pub(super) fn poll_cancel(&mut self, cx: &mut Poller<'_>) -> bool {
        if self.cancelling.is_some() && self.poll_cancelling(cx) {
            return true;
        }
        // One at a time: a second request for the same query would change nothing.
        match self.place.handle.take_cancel() {
            Some(done) => self.cancel_asked(done),
            None => false,
        }
    }

    #[cold]
    fn poll_cancelling(&mut self, cx: &mut Poller<'_>) -> bool {
        let cancelling = self.cancelling.as_mut();
        let arrived = cancelling.is_some_and(|it| it.request.as_mut().poll(cx).is_ready());
        if arrived {
            self.cancelling = None;
        }
        arrived
    }

    #[cold]
    fn cancel_asked(&mut self, done: CancelDone) -> bool {
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
            Link::Leased(lease) if lease.fate() != Fate::Forward => {
                self.place.handle.put_back(done);
                return false;
            }
            Link::Leased(_) => self.cancel_query(Some(done)),
        }
        true
    }

    /// Has the server cancel what it is doing for this client. Until the request has arrived, the server
    /// is neither released nor given anything new to do.
    pub(super) fn cancel_query(&mut self, done: Option<CancelDone>) {
        let Link::Leased(lease) = &self.link else {
            return;
        };
        if self.cancelling.is_none() && lease.ledger.owes() {
            let target = Arc::clone(lease.target());
            let key = lease.key.clone();
            let peer = lease.peer;
            self.cancelling = Some(Cancelling {
                request: Box::pin(async move { target.manage.cancel(peer, &key).await }),
                _done: done,
            });
        }
    }

    pub(super) fn phase_now(&self) -> Phase {
        match &self.link {
            Link::Free => Phase::Idle,
            Link::Waiting(_) => Phase::Queued,
            Link::Leased(lease) => {
                let client_is_slow = self.replies.has_cleared()
                    || self.core.is_mid_frame()
                    || lease.ledger.is_copying_in();
                match lease.ledger.owes() {
                    true if client_is_slow => Phase::Holding,
                    true if self.is_asking(lease) => Phase::Asked,
                    true => Phase::Running,
                    false if lease.ledger.is_idle() => Phase::Idle,
                    false => Phase::Holding,
                }
            }
        }
    }

    /// Whether what the server owes next is the answer to a question of ours, or settings are awaited. (Those that went ahead of
    /// the client's messages are a part of its query.)
    fn is_asking(&self, lease: &Lease) -> bool {
        lease.ledger.is_asked_by_us()
    }

    /// Nothing tells a client that waits for its last answer from one that is gone, until we write to it.
    pub(super) fn may_be_gone(&self) -> bool {
        self.presence == Presence::Silent && !self.said_goodbye()
    }

    pub(super) fn limit_of(&self, phase: Phase) -> Option<Duration> {
        match phase {
            Phase::Idle => Some(self.limits.idle_client_timeout),
            Phase::Queued => None,
            Phase::Running if self.may_be_gone() => Some(GONE),
            Phase::Running => self.limits.query_timeout,
            Phase::Asked => Some(self.limits.reset_timeout),
            Phase::Holding => Some(self.limits.idle_in_transaction_timeout),
        }
    }

    /// When the task was woken, or soon after: asking the clock costs, so it is asked once.
    #[inline]
    pub(super) fn now(&mut self) -> Instant {
        *self.woken_at.get_or_insert_with(Instant::now)
    }

    /// Keeps the timer at or before the limit that runs now; says what is due when it goes off.
    pub(super) fn watch_time(&mut self, cx: &mut Poller<'_>, rounds: usize) -> Poll<Ending> {
        let phase = self.phase_now();
        // Whoever holds a server and moves is not frozen.
        if phase != self.phase || (phase == Phase::Holding && rounds > 0) {
            self.phase = phase;
            self.phase_since = self.now();
        }
        self.set_timer();
        // It was not what woke us.
        if rounds > 0 && self.timer.is_still_ahead(self.woken_at) {
            return Poll::Pending;
        }
        self.poll_timer(cx)
    }

    #[inline]
    fn set_timer(&mut self) {
        if let Some(limit) = self.limit_of(self.phase) {
            self.timer.set_by(self.phase_since + limit);
        }
        if let Some(lifetime) = self.lifetime_now() {
            self.timer.set_by(self.born + lifetime);
        }
    }

    /// The age that a client may reach, where it could be closed.
    #[inline]
    fn lifetime_now(&self) -> Option<Duration> {
        let between = self.phase == Phase::Idle && self.core.tx() == TxStatus::Idle;
        self.limits.client_lifetime.filter(|_| between)
    }

    #[inline(never)]
    fn poll_timer(&mut self, cx: &mut Poller<'_>) -> Poll<Ending> {
        while self.timer.poll(cx).is_ready() {
            if let Some(ending) = self.overdue() {
                return Poll::Ready(ending);
            }
            self.set_timer();
        }
        Poll::Pending
    }

    /// The timer went off, perhaps early: what is due, if anything; else it is set anew.
    pub(super) fn overdue(&mut self) -> Option<Ending> {
        let waited = self.phase_since.elapsed();
        let left = match self.lifetime_now() {
            Some(lifetime) => match lifetime.checked_sub(self.born.elapsed()) {
                Some(left) if !left.is_zero() => left,
                _ => return Some(Ending::Lifetime(lifetime)),
            },
            None => Duration::MAX,
        };
        let next = match self.limit_of(self.phase) {
            Some(limit) if waited >= limit => match self.phase {
                Phase::Idle => return Some(Ending::IdleClient(limit)),
                Phase::Holding => return Some(Ending::IdleInTransaction(limit)),
                Phase::Running if self.may_be_gone() => return Some(Ending::Vanished),
                Phase::Asked => {
                    if let Some(ending) = self.unanswered(limit) {
                        return Some(ending);
                    }
                    self.phase_since = Instant::now();
                    self.place.handle.wake();
                    limit
                }
                Phase::Queued | Phase::Running => {
                    self.stop_query(limit);
                    limit
                }
            },
            Some(limit) => limit - waited,
            None => self.limits.idle_client_timeout,
        };
        self.timer.set(Instant::now() + next.min(left));
        None
    }

    /// The query has run for too long: it is cancelled, and the client told by whom.
    pub(super) fn stop_query(&mut self, limit: Duration) {
        if let Link::Leased(lease) = &self.link
            && lease.replies.at_boundary()
        {
            let message = format!(
                "Weir cancels the query: it has run for {limit:?}, the most that pool.query_timeout allows"
            );
            let mut notice = Vec::new();
            Notice {
                severity: "WARNING",
                sqlstate: "01000",
                message: &message,
                detail: None,
                hint: None,
            }
            .put(&mut notice);
            self.replies.insert(&notice);
        }
        self.phase_since = Instant::now();
        self.cancel_query(None);
        self.place.handle.wake();
    }
}
