//! One connection to PostgreSQL, and all that is known of its state.
//!
//! Knows how to talk while nobody else does (commands of Weir's own); a client's traffic passes through
//! `session`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Reached;
use super::ledger::{Asker, Fate, Ledger, Owed};
use super::replies::{Garbled, Replies, Reply};
use super::sequences::Users;
use super::settings::{Change, OnRefusal, Settings};
use super::simple::{self, AskError};
use super::statements::Statements;
use crate::net::Stream;
use crate::protocol::CancelKey;
use crate::protocol::frame::{put, put_cstr};
use crate::protocol::tag::frontend;

/// The values that a server has reported (GUC_REPORT), in the order of its first reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters(Vec<(Vec<u8>, Vec<u8>)>);

impl Parameters {
    pub fn new(reported: Vec<(Vec<u8>, Vec<u8>)>) -> Parameters {
        Parameters(reported)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        let known = self.0.iter().find(|(known, _)| known == name)?;
        Some(&known.1)
    }

    /// A later report replaces an earlier one.
    pub(super) fn set(&mut self, name: &[u8], value: &[u8]) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value.to_vec(),
            None => self.0.push((name.to_vec(), value.to_vec())),
        }
    }

    /// Those of `self` that `told` does not have, or has otherwise.
    pub fn news<'a>(&'a self, told: &'a Parameters) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.iter()
            .filter(|(name, value)| told.value(name) != Some(*value))
    }
}

/// A connection that has logged in.
#[derive(Debug)]
pub struct Connection {
    pub stream: Stream,
    /// Where a cancel request for it must go, and what it must carry.
    pub peer: Reached,
    pub key: CancelKey,
    pub ledger: Ledger,
    pub statements: Statements,
    pub replies: Replies,
    /// Replies read and not understood yet, left by a session that ended.
    pub unread: Vec<u8>,
    pub parameters: Arc<Parameters>,
    /// Who it has logged in as: the user of its pool, or another role while a secret's users alternate.
    pub role: Arc<str>,
    /// Settings given to it, beyond what it started out with.
    pub applied: Arc<Settings>,
    /// There may be more in its session than `applied` tells: DISCARD ALL is due.
    pub marked: bool,
    /// The session whose unnamed statement it has, and which of it.
    pub unnamed_of: Option<(u64, u64)>,
    /// Who may have left values of sequences on it.
    pub sequences_of: Users,
    /// A message was sent in part and never will be whole.
    pub half_sent: bool,
    /// TLS may hold bytes that were written.
    pub flush_due: bool,
}

/// Why a command of Weir's own did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server's replies make no sense: {0:?}")]
    Garbled(Garbled),
    #[error("the server did not answer within {0:?}")]
    Silent(Duration),
    /// An ErrorResponse: as much of its body as was there.
    #[error("the server refused it")]
    Refused(Vec<u8>),
}

impl From<Garbled> for CommandError {
    fn from(garbled: Garbled) -> CommandError {
        CommandError::Garbled(garbled)
    }
}

pub(super) const READ_BYTES: usize = 8 * 1024;

impl Connection {
    pub fn new(
        stream: Stream,
        key: CancelKey,
        parameters: Parameters,
        role: Arc<str>,
        peer: Reached,
        statements: Statements,
    ) -> Connection {
        Connection {
            stream,
            peer,
            key,
            ledger: Ledger::default(),
            statements,
            replies: Replies::default(),
            unread: Vec::new(),
            parameters: Arc::new(parameters),
            role,
            applied: Arc::default(),
            marked: false,
            unnamed_of: None,
            sequences_of: Users::None,
            half_sent: false,
            flush_due: false,
        }
    }

    /// Takes note of a ParameterStatus.
    pub fn note_parameter(parameters: &mut Arc<Parameters>, name: &[u8], value: &[u8]) {
        if parameters.value(name) != Some(value) {
            Arc::make_mut(parameters).set(name, value);
        }
    }

    /// Brings the settings to `wanted` and waits for the server to agree.
    /// Cancel-safe: dropped halfway, or refused, the connection is cleaned of all settings.
    pub async fn apply(&mut self, wanted: &Arc<Settings>) -> Result<(), CommandError> {
        let was_marked = std::mem::replace(&mut self.marked, true);
        let mut message = Vec::new();
        if let Change::Sent { queries } =
            wanted.put_change(&self.applied, OnRefusal::Lives, &mut message)
        {
            self.run(&message, queries).await?;
        }
        self.marked = was_marked;
        self.applied = Arc::clone(wanted);
        Ok(())
    }

    /// Runs one statement of Weir's own. Not cancel-safe.
    pub async fn command(&mut self, text: &str) -> Result<(), CommandError> {
        let mut message = Vec::new();
        put(&mut message, frontend::QUERY, |body| {
            put_cstr(body, text.as_bytes())
        });
        self.run(&message, 1).await
    }

    async fn run(&mut self, messages: &[u8], queries: usize) -> Result<(), CommandError> {
        // A Query does away with the unnamed statement.
        self.unnamed_of = None;
        for _ in 0..queries {
            self.ledger.send(Owed::Query, Asker::Weir);
        }
        self.stream.send(messages).await?;
        match self.settle().await? {
            None => Ok(()),
            Some(error) => Err(CommandError::Refused(error)),
        }
    }

    /// Asks for rows of one name each, and waits for them. Cancel-safe: dropped halfway, or after an error, the
    /// connection will be closed.
    pub async fn names(&mut self, sql: &str) -> Result<Vec<Vec<u8>>, AskError> {
        let first = |row: simple::Row| row.into_iter().next().flatten();
        Ok(self
            .rows(sql)
            .await?
            .into_iter()
            .filter_map(first)
            .collect())
    }

    /// Asks for rows of any kind, and waits for them. Cancel-safe: dropped halfway, or after an error, the connection
    /// will be closed.
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<simple::Row>, AskError> {
        self.unnamed_of = None;
        // The ledger knows nothing of this.
        let was_half_sent = std::mem::replace(&mut self.half_sent, true);
        let answer = simple::query(&mut self.stream, sql).await?;
        self.half_sent = was_half_sent;
        Ok(answer.rows)
    }

    /// Sends a message that is no statement. Not cancel-safe.
    pub async fn say(&mut self, message: &[u8], owed: Option<Owed>) -> Result<(), CommandError> {
        if let Some(owed) = owed {
            self.ledger.send(owed, Asker::Weir);
        }
        Ok(self.stream.send(message).await?)
    }

    /// Reads and drops replies until nothing is owed; the last error among them, if any.
    /// Cancel-safe, but for the error.
    pub async fn settle(&mut self) -> Result<Option<Vec<u8>>, CommandError> {
        let mut error = None;
        loop {
            let mut raw = std::mem::take(&mut self.unread);
            let mut start = 0;
            let passed = self.pass_over(&raw, &mut start, &mut error);
            raw.drain(..start);
            self.unread = raw;
            passed?;
            if !self.ledger.owes() && self.replies.at_boundary() {
                return Ok(error);
            }
            let mut more = [0; READ_BYTES];
            let count = self.stream.receive(&mut more).await?;
            if count == 0 {
                return Err(CommandError::Closed);
            }
            self.unread
                .extend_from_slice(more.get(..count).unwrap_or_default());
        }
    }

    /// Passes over the replies in `raw` from `start` on, as far as they are whole.
    fn pass_over(
        &mut self,
        raw: &[u8],
        start: &mut usize,
        error: &mut Option<Vec<u8>>,
    ) -> Result<(), CommandError> {
        loop {
            let rest = raw.get(*start..).unwrap_or_default();
            match self.replies.next(rest, &mut self.ledger)? {
                Reply::Wait => return Ok(()),
                // Between two leases a notification is nobody's.
                // Its bytes follow.
                Reply::Parsed => {}
                Reply::Pass { bytes, .. }
                | Reply::Ready { bytes, .. }
                | Reply::Notification { bytes } => *start += bytes,
                Reply::Parameter {
                    bytes, name, value, ..
                } => {
                    Self::note_parameter(&mut self.parameters, name, value);
                    *start += bytes;
                }
                Reply::GoesDown { .. } => return Err(CommandError::Closed),
                Reply::Error { prefix, .. } => *error = Some(prefix.to_vec()),
            }
        }
    }

    /// Looks at what came in while nobody was listening; false when the connection is of no more use.
    /// Costs no system call when nothing came.
    pub fn is_alive(&mut self) -> bool {
        use std::task::{Context, Poll, Waker};
        let mut cx = Context::from_waker(Waker::noop());
        while self.stream.may_be_readable() {
            let mut buffer = [0; 2048];
            let count = match self.stream.poll_read_into(&mut cx, &mut buffer) {
                Poll::Pending => return true,
                Poll::Ready(Ok(0) | Err(_)) => return false,
                Poll::Ready(Ok(count)) => count,
            };
            let mut raw = std::mem::take(&mut self.unread);
            raw.extend_from_slice(buffer.get(..count).unwrap_or_default());
            let (mut start, mut error) = (0, None);
            // Notices and changed parameters are all that a server says unasked and lives on.
            if self.pass_over(&raw, &mut start, &mut error).is_err() || error.is_some() {
                return false;
            }
            raw.drain(..start);
            self.unread = raw;
        }
        true
    }

    /// Whether a session may have it as it is.
    pub fn is_clean(&self) -> bool {
        self.ledger.is_idle() && self.replies.at_boundary() && !self.marked && !self.half_sent
    }

    /// Where the answer to what is owed next will go.
    pub fn fate(&self) -> Fate {
        self.ledger.fate()
    }
}
