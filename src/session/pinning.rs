//! What is made known of a session's pins: to the log, the metrics, the board of all pins and the client itself; and the
//! bound on pinned sessions.
//!
//! Knows when pins began and ended; why, `core` knows. Called only when they may have changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ending::{Ending, PinLimit};
use super::endpoint::Entry;
use super::pinboard::{Pin, Ticket};
use super::pins::{Pins, Reason};
use super::{Link, Session};
use crate::config::PinNotice;
use crate::protocol::reply::Notice;

/// How a pin ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifted {
    /// What it was for is gone, or the database says so.
    Gone,
    /// By DISCARD ALL or RESET ALL.
    Discarded,
    /// The session ended.
    Over,
}

impl Lifted {
    const fn as_str(self) -> &'static str {
        match self {
            Lifted::Gone => "lifted",
            Lifted::Discarded => "discarded",
            Lifted::Over => "session ended",
        }
    }
}

/// A session's pins, as far as they have been made known.
#[derive(Default)]
pub(super) struct Pinning {
    known: Pins,
    /// `None`: there are none, and nothing is to be said.
    more: Option<Box<More>>,
}

#[derive(Default)]
struct More {
    /// It counts among the pinned ones of its pool.
    seat: Option<PinSeat>,
    held: Vec<(Pin, Ticket)>,
    /// What the client has not been told yet.
    notices: Vec<u8>,
    /// The pool has as many pinned sessions as it may have: this one has to go.
    beyond: Option<Box<PinLimit>>,
}

/// A place among the pinned sessions of a pool; given up when dropped.
struct PinSeat(Arc<Entry>);

impl Drop for PinSeat {
    fn drop(&mut self) {
        self.0.unpinned();
    }
}

impl Pinning {
    /// Whether there are any, or something is to be said.
    #[inline]
    pub(super) fn has_more(&self) -> bool {
        self.more.is_some()
    }

    /// The session is to end as soon as its transaction has.
    #[inline]
    pub(super) fn is_beyond_limit(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.beyond.is_some())
    }
}

impl Session {
    /// Makes known what has changed since it was last called.
    #[inline]
    pub(super) fn note_pins(&mut self, how: Lifted) {
        if self.core.pins() != self.pinning.known {
            self.pins_changed(self.core.pins(), how);
        }
    }

    /// All pins end with the session.
    pub(super) fn pins_end(&mut self) {
        if self.pinning.known.any() {
            self.pins_changed(Pins::default(), Lifted::Over);
        }
    }

    fn pins_changed(&mut self, pins: Pins, how: Lifted) {
        let mut more = self.pinning.more.take().unwrap_or_default();
        let before = std::mem::replace(&mut self.pinning.known, pins);
        for reason in before.since(pins) {
            self.pin_ends(reason, how, &mut more);
        }
        for reason in pins.since(before) {
            self.pin_begins(reason, &mut more);
        }
        if !pins.any() {
            more.seat = None;
        }
        let silent = more.notices.is_empty() && more.beyond.is_none();
        if pins.any() || !silent {
            self.pinning.more = Some(more);
        }
    }

    fn pin_begins(&mut self, reason: Reason, more: &mut More) {
        if more.beyond.is_some() {
            return;
        }
        let pin = self.pin(reason);
        if more.seat.is_none() {
            let limit = self.context.limits().pin_limit;
            if let Err(pinned) = self.entry.take_pin_seat(limit) {
                self.entry.meters.pin_refused(reason.as_str());
                more.beyond = Some(Box::new(PinLimit { pinned, pin }));
                return;
            }
            more.seat = Some(PinSeat(Arc::clone(&self.entry)));
        }
        self.entry.meters.pinned(reason.as_str());
        tracing::info!(
            reason = reason.as_str(),
            digest = pin.digest.as_deref(),
            client = pin.client.map(tracing::field::display),
            application_name = %pin.application_name,
            pid = pin.pid,
            server_pid = pin.server_pid,
            database = %pin.database,
            user = %pin.user,
            "session pinned"
        );
        if self.limits.pin_notice == PinNotice::Told && self.wants_notices() {
            let message = format!(
                "session is pinned to a database connection: {}",
                reason.as_str()
            );
            Notice {
                severity: "NOTICE",
                sqlstate: "00000",
                message: &message,
                detail: pin.digest.as_deref(),
                hint: Some(reason.hint()),
            }
            .put(&mut more.notices);
        }
        let ticket = self.entry.pinboard.begin(pin.clone());
        more.held.push((pin, ticket));
    }

    fn pin_ends(&self, reason: Reason, how: Lifted, more: &mut More) {
        let place = more.held.iter().position(|(pin, _)| pin.reason == reason);
        let Some(place) = place else {
            return;
        };
        let (pin, _ticket) = more.held.swap_remove(place);
        let lasted = pin.lasted();
        self.entry.meters.pin_ended(reason.as_str(), lasted);
        tracing::info!(
            reason = reason.as_str(),
            digest = pin.digest.as_deref(),
            lasted = ?Duration::from_millis(u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX)),
            end = how.as_str(),
            pid = pin.pid,
            database = %pin.database,
            user = %pin.user,
            "session no longer pinned"
        );
    }

    fn pin(&self, reason: Reason) -> Pin {
        let name = self.settings.now().value("application_name");
        Pin {
            reason,
            digest: self.core.culprit().map(Arc::from),
            pid: self.place.handle.key.pid,
            server_pid: match &self.link {
                Link::Leased(lease) => Some(lease.key.pid),
                Link::Free | Link::Waiting(_) => None,
            },
            client: self.address,
            application_name: String::from_utf8_lossy(name.unwrap_or_default()).into(),
            target: Arc::clone(&self.entry.target_name),
            database: Arc::clone(&self.entry.database),
            user: Arc::clone(&self.entry.user),
            since: Instant::now(),
        }
    }

    /// A client that asked for warnings only gets no notice from PostgreSQL either.
    fn wants_notices(&self) -> bool {
        let level = self.settings.now().value("client_min_messages");
        !level.is_some_and(|level| {
            [&b"warning"[..], b"error", b"fatal", b"panic"]
                .iter()
                .any(|above| level.eq_ignore_ascii_case(above))
        })
    }

    /// Tells the client of its pins, ahead of the ReadyForQuery that is next: PostgreSQL could say something there.
    #[inline]
    pub(super) fn tell_pins(&mut self) {
        if self.pinning.has_more() {
            self.tell_more();
        }
    }

    #[cold]
    fn tell_more(&mut self) {
        if let Some(more) = &mut self.pinning.more {
            self.replies.insert(&std::mem::take(&mut more.notices));
        }
    }

    /// Between two transactions: the session must end if it may not be pinned.
    #[inline]
    pub(super) fn check_pin_limit(&mut self) -> Result<(), Ending> {
        match self.pinning.is_beyond_limit() {
            true => self.end_beyond_limit(),
            false => Ok(()),
        }
    }

    #[cold]
    fn end_beyond_limit(&mut self) -> Result<(), Ending> {
        let beyond = self.pinning.more.as_mut().map(|more| &mut more.beyond);
        let Some(limit) = beyond.and_then(Option::take) else {
            return Ok(());
        };
        tracing::warn!(
            reason = limit.pin.reason.as_str(),
            digest = limit.pin.digest.as_deref(),
            client = limit.pin.client.map(tracing::field::display),
            application_name = %limit.pin.application_name,
            pid = limit.pin.pid,
            database = %limit.pin.database,
            user = %limit.pin.user,
            pinned = limit.pinned,
            "session ended: its pool has as many pinned ones as pool.pin_limit allows"
        );
        Err(Ending::PinLimit(limit))
    }
}
