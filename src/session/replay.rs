//! How a server is given the client's settings ahead of the client's first message, and what becomes of both where it
//! refuses them.
//!
//! There are two ways.
//!
//! *Ahead*, as a rule: one Query, and the client's messages behind it in the same write. PostgreSQL ends a connection that
//! refuses one of the values before it reads on (`OnRefusal::Ends`), so that nothing which stands behind can be carried
//! out without them. It is taken back then, and sent to another server. (A plain ERROR can only come of an interrupt
//! ahead of the guard, within its first microseconds: then nobody knows what was carried out, and the session ends.)
//!
//! *Awaited*: a Query for each value, and nothing behind before all are answered. So go values that some server of the
//! pool has refused before, whatever goes to a server that is to show which of them it refuses, units that are too long to be
//! kept, and all that is given to a server which the session holds already and would lose.
//!
//! What one server refuses is tried once on a fresh one. If that refuses it as well, the client gets an error for its unit,
//! and keeps its session and its settings: other units fail alike, until one that does nothing but reset them,
//! which gets a server without them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Standing;
use super::doubts::By;
use super::ending::{Ending, Refused, RefusedSettings};
use super::mending::mends;
use super::pinning::Lifted;
use super::pump::Moved;
use super::queue::Queue;
use super::{Lease, Link, Session};
use crate::error::Blame;
use crate::protocol::SqlState;
use crate::protocol::reply::{ErrorReply, Severity, error_field};
use crate::server::ledger::{Asker, Owed};
use crate::server::settings::{Change, OnRefusal, Step};
use crate::server::{Connection, Settings};

/// So much that was sent behind settings is kept until they are answered; what is longer waits for the answer.
const MAX_KEPT_BYTES: usize = 64 * 1024;

/// A session's settings on their way to servers.
#[derive(Default)]
pub(super) struct Replays {
    under_way: Option<Box<Replay>>,
    attempt: Attempt,
    /// Settings that no server takes.
    unable: Option<Box<Unable>>,
}

struct Replay {
    wanted: Arc<Settings>,
    way: Way,
}

enum Way {
    Ahead {
        /// To be answered.
        queries: usize,
        /// What was sent behind them, as the client sent it.
        sent: Vec<u8>,
        standing: Standing,
    },
    Awaited {
        stage: Stage,
        /// To be answered.
        steps: VecDeque<Step>,
        /// What the server has of them by now.
        has: Settings,
        refused: Vec<Refused>,
    },
}

/// What the session has to do with the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing yet: any other will do.
    New,
    /// It has something of the session's that no other has.
    Held,
}

/// Which server it is that the unit at the front is to go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Attempt {
    #[default]
    First,
    /// Another than the first, which did not answer or was lost.
    Second,
    /// A fresh one, in place of one that refused.
    Fresh,
}

struct Unable {
    names: Vec<String>,
    /// The server has been given the rest, for a unit that resets these.
    lacking: bool,
}

/// What a server was sent of the settings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    Nothing,
    Ahead,
    Awaited,
}

impl Replays {
    /// Whether the server lacks settings on purpose.
    pub(super) fn are_lacking(&self) -> bool {
        self.unable.as_ref().is_some_and(|unable| unable.lacking)
    }

    /// Whether the client's next bytes may go to the server.
    #[inline]
    pub(super) fn let_pass(&self, pending: usize) -> bool {
        match self.under_way.as_deref() {
            None => true,
            Some(replay) => match &replay.way {
                Way::Ahead { sent, .. } => sent.len() + pending <= MAX_KEPT_BYTES,
                Way::Awaited { .. } => false,
            },
        }
    }

    #[inline]
    pub(super) fn any(&self) -> bool {
        self.under_way.is_some()
    }

    /// These bytes of the client's go to the server.
    #[inline]
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if let Some(replay) = &mut self.under_way
            && let Way::Ahead { sent, .. } = &mut replay.way
        {
            sent.extend_from_slice(bytes);
        }
    }

    /// Whether all that the server has to do with the session is that it was to be given settings.
    fn is_nothing_begun(&self) -> bool {
        let way = self.under_way.as_ref().map(|replay| &replay.way);
        let new = Stage::New;
        matches!(way, Some(Way::Awaited { stage, .. }) if *stage == new)
    }

    /// The unit got no server.
    pub(super) fn give_up(&mut self) {
        self.under_way = None;
        self.attempt = Attempt::First;
    }

    /// The server has told what it has of the session: what it lacks, the session has given up.
    pub(super) fn learnt(&mut self) {
        if self.are_lacking() {
            self.unable = None;
        }
    }

    /// The server goes back.
    #[inline]
    pub(super) fn released(&mut self) {
        if let Some(unable) = &mut self.unable {
            unable.lacking = false;
        }
    }
}

impl Session {
    /// A server is there: it is given the client's settings, and what else must come before the client's messages, at
    /// once or when it has them.
    pub(super) fn give_settings(&mut self, mut lease: Lease) {
        let now = self.settings.now();
        let mut wanted = Arc::clone(now);
        if let Some(unable) = &mut self.replays.unable {
            unable.lacking = mends(self.requests.raw(), &unable.names);
            if unable.lacking {
                let without = unable.names.iter().map(|name| (name.clone(), None));
                wanted = Arc::new(now.with(without));
            }
        }
        let given = self.give(&mut lease, wanted);
        if given != Given::Nothing {
            lease.unnamed_of = None;
        }
        self.link = Link::Leased(lease);
        if given != Given::Awaited {
            self.take_up();
        }
        if given == Given::Nothing {
            self.replays.attempt = Attempt::First;
            self.tell_news();
        }
    }

    #[inline]
    fn give(&mut self, lease: &mut Lease, wanted: Arc<Settings>) -> Given {
        if Arc::ptr_eq(&lease.applied, &wanted) {
            return Given::Nothing;
        }
        let awaited = self.replays.attempt != Attempt::First
            || self.replays.unable.is_some()
            || self.requests.raw().len() > MAX_KEPT_BYTES
            || self.entry.doubts.concern(&wanted);
        if awaited {
            return self.give_each(lease, wanted, Stage::New);
        }
        let change = wanted.put_change(&lease.applied, OnRefusal::Ends, &mut self.prologue);
        lease.applied = Arc::clone(&wanted);
        let Change::Sent { queries } = change else {
            return Given::Nothing;
        };
        for _ in 0..queries {
            lease.ledger.send(Owed::Query, Asker::Weir);
        }
        let way = Way::Ahead {
            queries,
            sent: Vec::new(),
            standing: self.core.standing(),
        };
        self.replays.under_way = Some(Box::new(Replay { wanted, way }));
        Given::Ahead
    }

    fn give_each(&mut self, lease: &mut Lease, wanted: Arc<Settings>, stage: Stage) -> Given {
        let steps = wanted.put_each_change(&lease.applied, &mut self.prologue);
        if steps.is_empty() {
            lease.applied = wanted;
            return Given::Nothing;
        }
        for _ in &steps {
            lease.ledger.send(Owed::Query, Asker::Weir);
        }
        let way = Way::Awaited {
            stage,
            steps: steps.into(),
            has: (*lease.applied).clone(),
            refused: Vec::new(),
        };
        self.replays.under_way = Some(Box::new(Replay { wanted, way }));
        Given::Awaited
    }

    /// The session's settings are others by now than those of the server that it holds. Whether it was sent any.
    pub(super) fn bring_settings_up(&mut self) -> bool {
        let Link::Leased(mut lease) = std::mem::replace(&mut self.link, Link::Free) else {
            return false;
        };
        let wanted = Arc::clone(self.settings.now());
        let given = self.give_each(&mut lease, wanted, Stage::Held);
        self.link = Link::Leased(lease);
        if given == Given::Awaited {
            self.core.interposed();
        }
        given == Given::Awaited
    }

    /// What goes to a server behind the settings and ahead of the client's messages.
    fn take_up(&mut self) {
        let Link::Leased(lease) = &mut self.link else {
            return;
        };
        let before = super::servers::before(lease, self.turn, &self.core, &self.entry);
        self.core
            .begin(before, &mut lease.ledger, &mut self.prologue);
    }

    /// The server has answered one of the Queries.
    pub(super) fn settings_answered(&mut self, failed: bool) -> Result<(), Ending> {
        let Some(replay) = &mut self.replays.under_way else {
            return Ok(());
        };
        match &mut replay.way {
            Way::Ahead { queries, .. } => {
                if failed {
                    self.server_fatal = true;
                    return Err(Ending::SettingsRefused(said(&self.own_error)));
                }
                *queries = queries.saturating_sub(1);
                if *queries == 0 {
                    self.replays.under_way = None;
                }
                self.tell_news();
                Ok(())
            }
            Way::Awaited {
                steps,
                has,
                refused,
                ..
            } => {
                let step = steps.pop_front().unwrap_or_default();
                if failed {
                    let error = &self.own_error;
                    refused.extend(step.into_iter().map(|(name, value)| Refused {
                        name,
                        value,
                        error: error.clone(),
                    }));
                } else {
                    *has = has.with(step);
                }
                if !steps.is_empty() {
                    return Ok(());
                }
                self.all_answered()
            }
        }
    }

    fn all_answered(&mut self) -> Result<(), Ending> {
        let Some(replay) = self.replays.under_way.take() else {
            return Ok(());
        };
        let (Replay { wanted, way }, Link::Leased(lease)) = (*replay, &mut self.link) else {
            return Ok(());
        };
        let Way::Awaited {
            stage,
            has,
            refused,
            ..
        } = way
        else {
            return Ok(());
        };
        if !refused.is_empty() {
            lease.applied = Arc::new(has);
            return self.refused(stage, refused);
        }
        if stage == Stage::New {
            self.replays.attempt = Attempt::First;
            if !self.replays.are_lacking() {
                self.replays.unable = None;
            }
        }
        lease.applied = wanted;
        if stage == Stage::New {
            self.take_up();
        }
        self.tell_news();
        // In the same round, or the server would be released as one that has nothing to do.
        self.advance_leased().map(drop)
    }

    /// A server has answered that it takes all but these.
    fn refused(&mut self, stage: Stage, refused: Vec<Refused>) -> Result<(), Ending> {
        let (doubts, now) = (&self.entry.doubts, Instant::now());
        let hopeless = |one: &Refused| doubts.is_hopeless(&one.name, one.value.as_deref(), now);
        let fresh = self.replays.attempt == Attempt::Fresh;
        let in_vain = fresh || refused.iter().any(hopeless);
        let by = if fresh { By::Fresh } else { By::Used };
        for one in refused.iter().filter(|one| fresh || !hopeless(one)) {
            doubts.note(&one.name, one.value.as_deref(), by, now);
        }
        let names: Vec<String> = refused.iter().map(|one| one.name.clone()).collect();
        let first = refused.first().map_or(&[][..], |one| &one.error);
        let error = said(first);
        // What is in vain again and again is told once. PostgreSQL's words would show the value.
        if self.replays.unable.is_none() {
            let sqlstate = String::from_utf8_lossy(error_field(first, b'C').unwrap_or_default());
            tracing::info!(settings = ?names, %sqlstate, fresh, user = %self.entry.user, database = %self.entry.database,
                "a server refused settings of a session");
        }
        match stage {
            // Its startup values, which nobody has refused before: it can have no other server, nor go on with this.
            Stage::Held => return Err(Ending::SettingsRefused(error)),
            Stage::New if !in_vain => self.renew(),
            Stage::New => {
                self.let_go();
                self.replays.unable = Some(Box::new(Unable {
                    names,
                    lacking: false,
                }));
                let reply = RefusedSettings(&refused);
                let mut error = Vec::new();
                reply.put(&mut error);
                self.refuse_as(&error, SqlState::INVALID_PARAMETER_VALUE, Blame::Server);
            }
        }
        Ok(())
    }

    /// The server has ended the connection in the place of an answer: nothing that stands behind was carried out.
    /// False: something may have been.
    pub(super) fn settings_were_fatal(&mut self, error: &[u8]) -> bool {
        match self.replays.under_way.as_deref() {
            None => return false,
            Some(replay) => match &replay.way {
                Way::Ahead { .. } => self.take_back(error),
                Way::Awaited { .. } if self.replays.is_nothing_begun() => {}
                Way::Awaited { .. } => return false,
            },
        }
        tracing::info!(error = said(error), user = %self.entry.user, database = %self.entry.database,
            "a server ended a connection that was given settings");
        match self.replays.attempt {
            Attempt::First => self.renew(),
            Attempt::Second | Attempt::Fresh => self.no_answer(&said(error)),
        }
        true
    }

    /// What was sent behind the settings is to be sent anew, to another server.
    fn take_back(&mut self, error: &[u8]) {
        let (Some(replay), Link::Leased(lease)) = (self.replays.under_way.take(), &mut self.link)
        else {
            return;
        };
        let Replay { wanted, way } = *replay;
        let Way::Ahead { sent, standing, .. } = way else {
            return;
        };
        let Connection {
            ledger, statements, ..
        } = &mut ***lease;
        self.core.take_back(standing, ledger, statements);
        self.prologue.clear();
        let unsent = self.requests.cleared().len();
        self.requests.sent(unsent);
        self.requests.put_back(&sent);
        self.note_pins(Lifted::Gone);
        self.doubt(&wanted, error);
    }

    /// Which value it was, the error may say; the fresh server that is asked next will.
    fn doubt(&self, wanted: &Settings, error: &[u8]) {
        // Of class 57 are those by which an operator ends connections.
        if error_field(error, b'C').is_some_and(|code| code.starts_with(b"57")) {
            return;
        }
        let message = error_field(error, b'M')
            .unwrap_or_default()
            .to_ascii_lowercase();
        let is_told = |name: &str| {
            message
                .windows(name.len())
                .any(|part| part == name.as_bytes())
        };
        let told = wanted.iter().any(|(name, _)| is_told(name));
        let now = Instant::now();
        for (name, value) in wanted.iter().filter(|(name, _)| !told || is_told(name)) {
            self.entry.doubts.note(name, Some(value), By::Used, now);
        }
    }

    /// A fresh server, in place of one that refuses or is gone.
    fn renew(&mut self) {
        self.forget_server();
        if let Link::Leased(lease) = std::mem::replace(&mut self.link, Link::Free) {
            self.replays.attempt = Attempt::Fresh;
            self.link = Link::Waiting(Box::new(Queue::renew(self.kind, &self.desks, lease)));
        }
    }

    /// The server was to be given settings, and does not answer, or is lost. False: it may have more of the session's.
    pub(super) fn settings_unanswered(&mut self, cause: &str) -> Option<Moved> {
        if !self.replays.is_nothing_begun() {
            return None;
        }
        match self.replays.attempt {
            Attempt::First => {
                self.close_server();
                self.replays.attempt = Attempt::Second;
                self.borrow();
                Some(self.advance_leased().map(|_| true))
            }
            Attempt::Second | Attempt::Fresh => {
                self.no_answer(cause);
                Some(Ok(true))
            }
        }
    }

    /// Two servers have not answered.
    fn no_answer(&mut self, cause: &str) {
        self.close_server();
        let reply = ErrorReply {
            severity: Severity::Error,
            sqlstate: SqlState::CONNECTION_FAILURE,
            message: "the database connection was lost".into(),
            detail: Some(format!(
                "It was to be given this session's settings; nothing was executed. {cause}"
            )),
            hint: Some("Repeat the transaction.".into()),
        };
        self.refuse_with(&reply, Blame::Server);
    }

    /// Closes the server, which has nothing of the session's.
    pub(super) fn close_server(&mut self) {
        self.forget_server();
        if let Link::Leased(lease) = std::mem::replace(&mut self.link, Link::Free) {
            lease.close();
        }
    }

    /// Nothing more of what this server has said, or was to be told, is of interest.
    pub(super) fn forget_server(&mut self) {
        self.replays.under_way = None;
        self.prologue.clear();
        let unread = self.replies.raw().len();
        self.replies.discard(unread);
    }

    /// Gives the server back, which has answered all that it was asked.
    fn let_go(&mut self) {
        let unread = self.replies.raw().to_vec();
        if let Link::Leased(mut lease) = std::mem::replace(&mut self.link, Link::Free) {
            lease.unread.extend_from_slice(&unread);
            if lease.is_clean() {
                lease.release();
            } else {
                drop(lease);
            }
        }
        self.forget_server();
    }

    /// Weir's own question has had no answer for so long: the server is closed, and the session ends unless nothing of it
    /// is lost with the server.
    pub(super) fn unanswered(&mut self, limit: Duration) -> Option<Ending> {
        let cause = format!(
            "It did not answer within {limit:?} (pool.reset_timeout) what Weir had asked it about this session."
        );
        if let Some(outcome) = self.settings_unanswered(&cause) {
            return outcome.err();
        }
        let alone = match &self.link {
            Link::Leased(lease) => lease.ledger.readies_owed() == 1 && !self.core.is_mid_frame(),
            Link::Free | Link::Waiting(_) => false,
        };
        if alone
            && self.requests.cleared().is_empty()
            && !self.channels_hold_server()
            && self.core.forget_question()
        {
            self.close_server();
            return None;
        }
        self.server_fatal = true;
        Some(Ending::ServerLost(cause))
    }
}

/// SQLSTATE and message of an ErrorResponse.
pub(super) fn said(error: &[u8]) -> String {
    let field =
        |code| String::from_utf8_lossy(error_field(error, code).unwrap_or_default()).into_owned();
    format!("{} {}", field(b'C'), field(b'M'))
}
