//! LISTEN without a pin: when a session's server is idle, its channels move to the pool's shared listener, and back
//! before the session says something that they matter to.
//!
//! PostgreSQL itself carries out every LISTEN, UNLISTEN and NOTIFY of the client, on the server that the client has:
//! with its rules for transactions, errors and order. `moving` knows the order of a move, `board` and `hub` the shared
//! connection; this file does for a session what they say. It never concludes from a text that a channel is there.

mod board;
mod hub;
mod moving;

pub use hub::{Hubs, Keeper};

use self::board::{Edge, Item, Lost};
use self::hub::Subscription;
use self::moving::{Found, Moving, Names, Owner, Step, Way};
use super::core::Outside;
use super::ending::Ending;
use super::pinning::Lifted;
use super::pins::Reason;
use super::pump::Moved;
use super::questions::Kinds;
use super::{Link, Presence, Session};
use crate::config::ListenMode;
use crate::net::buf::BUFFER_BYTES;
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::reply::{TxStatus, notification};
use crate::server::ledger::{Asker, Concluded, Owed};

/// A session with more channels stays with its server.
const MAX_CHANNELS: usize = 1024;

/// What a session that listens has beside the others.
#[derive(Default)]
pub(super) struct Listening {
    moving: Moving,
    subscription: Option<Subscription>,
}

impl Listening {
    pub(super) fn holds_server(&self) -> bool {
        self.moving.holds_server()
    }

    pub(super) fn holds_requests(&self) -> bool {
        self.moving.holds_requests()
    }

    pub(super) fn stalls(&self) -> bool {
        self.moving.stalls()
    }

    /// Whether there is something that may be due to the client.
    pub(super) fn has_news(&self) -> bool {
        let subscription = self.subscription.as_ref();
        subscription.is_some_and(|subscription| !subscription.is_empty())
    }
}

impl Session {
    /// The server, which is idle, has said what it listens to.
    pub(super) fn found_channels(&mut self, names: Names) {
        if self.limits.listen == ListenMode::Pin || (names.is_empty() && self.listening.is_none()) {
            return;
        }
        let listening = self.listening.get_or_insert_default();
        match listening.moving.found(names) {
            Found::None => self.listening = None,
            Found::Settled => {}
            Found::Subscribe => self.subscribe(),
            Found::Unlisten => self.unlisten(),
            Found::ComeHome => self.bring_home(),
        }
    }

    /// Has the hub listen as well, if that can be; else the session stays with its server.
    fn subscribe(&mut self) {
        let unpinned_otherwise = !self.core.pins().any_but(Reason::Listen);
        let encoding = self.told.value(b"client_encoding").unwrap_or_default();
        let Some(listening) = &mut self.listening else {
            return;
        };
        let names = listening.moving.names();
        let held = &mut listening.subscription;
        if held
            .as_ref()
            .is_some_and(|held| held.lost().is_some() || held.encoding() != encoding)
        {
            *held = None;
        }
        let may_move = unpinned_otherwise && names.len() <= MAX_CHANNELS;
        if may_move && held.is_none() {
            *held = self.hubs.subscribe(
                &self.entry,
                encoding,
                self.limits.listen_queue_bytes,
                &self.place.handle,
            );
        }
        match held {
            Some(held) if may_move => {
                held.listen(names);
                let sync = held.sync();
                listening.moving.learn_sync(sync);
            }
            Some(_) => self.keep_channels(),
            None => {
                if may_move && self.hubs.may_be(&self.entry) {
                    self.hubs.call_again(&self.place.handle);
                }
                self.keep_channels();
            }
        }
    }

    /// The channels stay on the server, and the session with them.
    fn keep_channels(&mut self) {
        if let Some(listening) = &mut self.listening {
            listening.moving.stay();
            listening.subscription = None;
        }
        self.core.set_outside(Outside::No);
        self.core.pin(Reason::Listen);
        self.note_pins(Lifted::Gone);
    }

    /// Takes the next step of a move, when the server is idle and all that it was asked is known.
    pub(super) fn advance_channels(&mut self) -> bool {
        let Some(listening) = &mut self.listening else {
            return false;
        };
        let Some(subscription) = &listening.subscription else {
            return false;
        };
        if listening.moving.is_away() {
            let encoding = self.told.value(b"client_encoding").unwrap_or_default();
            let speaks_otherwise = encoding != subscription.encoding();
            if speaks_otherwise && listening.moving.names().iter().all(|name| name.is_ascii()) {
                self.bring_home();
                return true;
            }
            return false;
        }
        if !listening.moving.is_asking() {
            return false;
        }
        if subscription.lost().is_some() {
            self.hubs.call_again(&self.place.handle);
            self.keep_channels();
            return true;
        }
        if !subscription.is_heard() {
            return false;
        }
        let mark = self.hubs.mark();
        subscription.mark(&mark, Edge::Begin);
        listening.moving.put_mark(&mark, &mut self.prologue);
        self.sent_moves(1);
        true
    }

    fn unlisten(&mut self) {
        Moving::put_unlisten(&mut self.prologue);
        self.sent_moves(1);
    }

    fn end_marks(&mut self) {
        if let Some(listening) = &mut self.listening {
            listening.moving.put_end_of_marks(&mut self.prologue);
            self.sent_moves(1);
        }
    }

    fn sent_moves(&mut self, queries: usize) {
        if let Link::Leased(lease) = &mut self.link {
            for _ in 0..queries {
                lease.ledger.send(Owed::Query, Asker::Mover);
            }
            self.core.interposed();
        }
    }

    /// Has the server, which owes nothing, listen again, ahead of what the client says next.
    pub(super) fn bring_home(&mut self) {
        let (Some(listening), Link::Leased(lease)) = (&mut self.listening, &self.link) else {
            return;
        };
        let way = match lease.ledger.tx() {
            TxStatus::Idle => Way::Alone,
            TxStatus::InTransaction | TxStatus::Failed => Way::InTransaction,
        };
        let mark = self.hubs.mark();
        let known = listening.moving.undecided_mark().is_some();
        let queries = listening.moving.put_return(way, &mark, &mut self.prologue);
        if let Some(subscription) = listening.subscription.as_ref().filter(|_| !known) {
            subscription.mark(&mark, Edge::End);
        }
        self.core.set_outside(match way {
            Way::Alone => Outside::No,
            Way::InTransaction => Outside::Seen,
        });
        self.sent_moves(queries);
    }

    /// The server has answered one of the Queries that move channels.
    pub(super) fn moved(&mut self, failed: bool) -> Result<(), Ending> {
        let Some(listening) = &mut self.listening else {
            return Ok(());
        };
        let step = listening.moving.concluded(failed);
        self.take_step(step)
    }

    /// A command has ended, of whomever.
    #[inline]
    pub(super) fn channels_at_ready(&mut self, concluded: &Concluded, tx: TxStatus) -> Moved {
        match self.listening.is_some() {
            true => self.advance_at_ready(concluded, tx),
            false => Ok(false),
        }
    }

    #[inline(never)]
    fn advance_at_ready(&mut self, concluded: &Concluded, tx: TxStatus) -> Moved {
        let Some(listening) = &mut self.listening else {
            return Ok(false);
        };
        if concluded.asker.is_own() || tx != TxStatus::Idle {
            return Ok(false);
        }
        let step = listening.moving.transaction_over();
        if listening.moving.is_asking() {
            // It may have been about the channels.
            self.core.look_for(Kinds::LISTEN);
        }
        self.take_step(step)?;
        // As PostgreSQL: ahead of ReadyForQuery.
        Ok(self
            .listening
            .as_ref()
            .is_some_and(|listening| listening.moving.is_away())
            && self.tell_all())
    }

    fn take_step(&mut self, step: Step) -> Result<(), Ending> {
        match step {
            Step::Nothing => {}
            Step::Unlisten => self.unlisten(),
            Step::Stay => {
                tracing::debug!("the server did not notify the mark: its session is pinned");
                self.hubs.call_again(&self.place.handle);
                self.keep_channels();
            }
            Step::Away => {
                self.entry.meters.listen_moves.increment(1);
                self.core.set_outside(Outside::Yes);
                self.core.unpin(Reason::Listen);
                self.note_pins(Lifted::Gone);
            }
            Step::Home => {
                self.core.set_outside(Outside::No);
                self.core.look_for(Kinds::LISTEN);
            }
            Step::HomeWithMarks => {
                self.core.set_outside(Outside::No);
                match self.is_next_to_speak() {
                    true => self.end_marks(),
                    false => self.core.look_for(Kinds::LISTEN),
                }
            }
            Step::StillAway => {
                self.core.set_outside(Outside::Yes);
                if let Some(listening) = &self.listening
                    && let Some(subscription) = &listening.subscription
                {
                    subscription.forget_end();
                }
            }
            Step::Broken => {
                self.server_fatal = true;
                return Err(Ending::ServerLost(
                    "It refused what LISTEN needs, or lost a notification.".into(),
                ));
            }
        }
        Ok(())
    }

    /// The server notifies: the client is told, unless the hub tells it.
    pub(super) fn hear(&mut self, bytes: usize) {
        let frame = self.replies.raw().get(HEADER_BYTES..bytes);
        let Some(said) = frame.and_then(notification) else {
            return self.replies.clear(bytes);
        };
        let owner = match &mut self.listening {
            Some(listening) => listening.moving.heard(&said),
            None => Owner::Client,
        };
        if owner == Owner::Nobody {
            return self.replies.discard(bytes);
        }
        if let Link::Leased(lease) = &self.link
            && said.pid == lease.key.pid
        {
            // Its own: it knows itself by the number that it was given at login.
            let pid = self.place.handle.key.pid.to_be_bytes();
            self.replies.overwrite(HEADER_BYTES, &pid);
        }
        self.replies.clear(bytes);
    }

    /// Tells the client what the hub has for it, when PostgreSQL would.
    #[inline]
    pub(super) fn poll_news(&mut self) -> Moved {
        if self.listening.is_none() {
            return Ok(false);
        }
        self.tell_what_is_due()
    }

    #[inline(never)]
    fn tell_what_is_due(&mut self) -> Moved {
        let Some(listening) = &self.listening else {
            return Ok(false);
        };
        let is_due = listening.moving.stalls() || (listening.moving.is_away() && self.is_between());
        let told = is_due && self.tell_all();
        let Some(listening) = &self.listening else {
            return Ok(told);
        };
        let Some(subscription) = &listening.subscription else {
            return Ok(told);
        };
        match subscription.lost() {
            Some(lost) if listening.moving.depends_on_hub() => {
                // What was heard before it was lost is told, as far as the client takes it.
                let all_told = subscription.is_empty() || matches!(lost, Lost::Overflow { .. });
                if all_told && self.may_be_told_of_loss(&lost) {
                    return Err(self.not_listening(lost));
                }
                Ok(told)
            }
            Some(_) | None => Ok(told),
        }
    }

    /// A transaction under way may end first, or the client could not know whether it took effect. One who does not
    /// read, or waits in a transaction, has only what it asked for answered.
    fn may_be_told_of_loss(&self, lost: &Lost) -> bool {
        let moving = self.listening.as_ref().map(|listening| &listening.moving);
        let stalls = moving.is_some_and(Moving::stalls);
        let answered = match &self.link {
            Link::Free | Link::Waiting(_) => true,
            Link::Leased(lease) => !lease.ledger.owes(),
        };
        match lost {
            Lost::Overflow { .. } => stalls || answered,
            Lost::Connection(_) | Lost::Unavailable => stalls || self.is_between(),
        }
    }

    fn not_listening(&self, lost: Lost) -> Ending {
        match lost {
            Lost::Overflow { limit_bytes } => {
                self.entry.meters.listen_overflows.increment(1);
                Ending::TooSlow { limit_bytes }
            }
            Lost::Connection(why) => Ending::ListenerLost(why),
            Lost::Unavailable => Ending::ListenerLost("there was none".into()),
        }
    }

    /// Whether the client is between two transactions, and owed nothing.
    fn is_between(&self) -> bool {
        match &self.link {
            Link::Free => self.core.is_quiet(),
            Link::Waiting(_) => false,
            Link::Leased(lease) => {
                lease.ledger.is_idle()
                    && !self.core.is_mid_frame()
                    && lease.replies.at_boundary()
                    && !self.replies.has_raw()
            }
        }
    }

    /// Puts what the hub has behind what the client is about to be sent, as far as there is room.
    fn tell_all(&mut self) -> bool {
        let Some(listening) = &mut self.listening else {
            return false;
        };
        let Some(subscription) = &listening.subscription else {
            return false;
        };
        if self.presence == Presence::Deaf {
            return false;
        }
        let mut batch = Vec::new();
        let mut moved = false;
        while self.replies.cleared().len() + batch.len() < BUFFER_BYTES {
            let Some(item) = subscription.take() else {
                break;
            };
            moved = true;
            match item {
                Item::Notification(frame) => batch.extend_from_slice(&frame),
                Item::Mark => {
                    listening.moving.hub_passed_mark();
                    break;
                }
            }
        }
        self.replies.insert(&batch);
        moved
    }
}
