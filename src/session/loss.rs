//! A session whose server is gone: how the client is told, and how it goes on.
//!
//! Knows the words and the order of things; what the client is owed, `core` knows.

use super::core::{Loss, Words};
use super::ending::Ending;
use super::pinning::Lifted;
use super::pump::Moved;
use super::{Link, Presence, Session};
use crate::error::Blame;
use crate::protocol::SqlState;
use crate::protocol::reply::{ErrorReply, Severity};
use crate::server::{Connection, Refusal};

/// How a server was lost.
#[derive(Debug)]
pub(super) enum Cause {
    /// It hung up, or the network broke.
    Broken(String),
    /// It said why.
    Said(Refusal),
    /// Another instance took its place.
    Superseded,
}

impl Cause {
    fn detail(&self) -> String {
        match self {
            Cause::Broken(how) => how.clone(),
            Cause::Said(refusal) => format!("The server said: {refusal}."),
            Cause::Superseded => "Its server is not the one to be used any more.".into(),
        }
    }

    fn words(&self) -> Words {
        let detail = self.detail();
        let undone = match self {
            Cause::Said(refusal) => ErrorReply {
                severity: Severity::Error,
                sqlstate: SqlState::shutdown(refusal.sqlstate()),
                message: refusal.message(),
                detail: refusal.detail(),
                hint: Some(GO_ON.into()),
            },
            Cause::Broken(_) | Cause::Superseded => ErrorReply {
                severity: Severity::Error,
                sqlstate: SqlState::CONNECTION_FAILURE,
                message: "the connection to the database was lost".into(),
                detail: Some(format!("{detail} What was not committed is undone.")),
                hint: Some(GO_ON.into()),
            },
        };
        let unknown = ErrorReply {
            severity: Severity::Error,
            sqlstate: SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
            message: "the connection to the database was lost before it said whether the transaction is committed".into(),
            detail: Some(detail),
            hint: Some(
                "Find out whether it took effect before you repeat it. The session lives on.".into(),
            ),
        };
        let alone = match self {
            // What PostgreSQL would have said.
            Cause::Said(_) => undone.clone(),
            Cause::Broken(_) | Cause::Superseded => unknown.clone(),
        };
        Words {
            undone,
            unknown,
            alone,
        }
    }
}

const GO_ON: &str =
    "Roll back if in a transaction, and repeat it: the session lives on, with another connection.";

impl Session {
    /// The cluster has changed: whoever has a server that is not to be used has lost it.
    #[inline]
    pub(super) fn look_at_cluster(&mut self) -> Moved {
        match self.endpoint.board.version() {
            known if known == self.board_version => Ok(false),
            version => self.note_change(version),
        }
    }

    #[cold]
    fn note_change(&mut self, version: u64) -> Moved {
        self.board_version = version;
        match &self.link {
            Link::Leased(lease) if lease.is_severed() => self.server_lost(Cause::Superseded),
            Link::Leased(_) | Link::Waiting(_) | Link::Free => Ok(false),
        }
    }

    /// The server is gone. The session goes on without it where that can be.
    #[cold]
    pub(super) fn server_lost(&mut self, cause: Cause) -> Moved {
        let moving = self.channels_hold_server();
        let Link::Leased(lease) = &mut self.link else {
            return Ok(false);
        };
        lease.target().manage.suspect();
        if self.may_do_over() {
            return self.do_over();
        }
        // Nothing of the client's was carried out: it need not know.
        if let Some(moved) = self.settings_unanswered(&cause.detail()) {
            return moved;
        }
        let Link::Leased(lease) = &mut self.link else {
            return Ok(false);
        };
        let half = !lease.replies.at_boundary();
        if half || moving || self.presence != Presence::Here {
            self.server_fatal = true;
            self.context.clients.server_lost("session");
            return Err(Ending::ServerLost(cause.detail()));
        }
        let words = cause.words();
        let mut answer = Vec::new();
        let Connection {
            ledger, statements, ..
        } = &mut ***lease;
        let loss = self.core.lost(ledger, statements, &words, &mut answer);
        let (word, reply) = match loss {
            Loss::Nothing => ("nothing", None),
            Loss::Undone => ("transaction", Some(&words.undone)),
            Loss::Unknown => ("unknown", Some(&words.unknown)),
            Loss::Session(why) => {
                self.server_fatal = true;
                self.context.clients.server_lost("session");
                return Err(Ending::StateLost {
                    cause: cause.detail(),
                    why,
                });
            }
        };
        self.context.clients.server_lost(word);
        if let Some(reply) = reply {
            self.context.clients.error(reply.sqlstate, Blame::Server);
            tracing::info!(sqlstate = %reply.sqlstate, cause = %cause.detail(), database = %self.entry.database, user = %self.entry.user, "a server was lost under a client");
        }
        self.go_on_without(&answer);
        Ok(true)
    }

    pub(super) fn go_on_without(&mut self, answer: &[u8]) {
        if let Link::Leased(lease) = std::mem::replace(&mut self.link, Link::Free) {
            lease.close();
        }
        // Whoever asked for the cancel is told that it is over, as it is.
        self.cancelling = None;
        self.evicting = None;
        let unsent = self.requests.cleared().len();
        self.requests.sent(unsent);
        self.forget_server();
        self.replies.insert(answer);
        self.answer = Vec::new();
        self.own_error.clear();
        self.server_fatal = false;
        self.note_pins(Lifted::Gone);
    }
}
