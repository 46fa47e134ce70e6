//! What a server still owes: one entry for each message sent to it that it will answer.
//!
//! Pure. Knows which reply settles which message, and for whom it was asked; not how replies are read or passed on.
//! Source: chapter "Message Flow"; for COPY and errors, `src/backend/tcop/postgres.c` and `commands/copyfromparse.c`.

use std::collections::VecDeque;

use crate::protocol::reply::TxStatus;
use crate::protocol::tag::{backend, frontend};

/// A message that will be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    Query,
    FunctionCall,
    Parse,
    Bind,
    Close,
    Describe,
    Execute,
    Sync,
    /// CopyDone or CopyFail sent before the server said that it copies: answered by nothing of its own.
    CopyEnd,
}

impl Owed {
    /// What the server will owe for a message of this type, if anything.
    pub fn by(tag: u8) -> Option<Owed> {
        Some(match tag {
            frontend::QUERY => Owed::Query,
            frontend::FUNCTION_CALL => Owed::FunctionCall,
            frontend::PARSE => Owed::Parse,
            frontend::BIND => Owed::Bind,
            frontend::CLOSE => Owed::Close,
            frontend::DESCRIBE => Owed::Describe,
            frontend::EXECUTE => Owed::Execute,
            frontend::SYNC => Owed::Sync,
            frontend::COPY_DONE | frontend::COPY_FAIL => Owed::CopyEnd,
            _ => return None,
        })
    }

    pub const fn ends_in_ready(self) -> bool {
        matches!(self, Owed::Query | Owed::FunctionCall | Owed::Sync)
    }
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    Client,
    /// Weir itself: the client must not see the answer.
    Weir,
    /// Weir itself, and the answer is read.
    Probe,
    /// Weir itself, in moving the session's channels.
    Mover,
    /// Weir itself: how far the server has come in writing, or in what others wrote.
    Position,
    /// The client, in a Query that is nothing but DISCARD ALL.
    Discarding,
    /// The client, in a Query outside a transaction that only undoes what its session has done.
    Undoing,
}

/// Where a reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Forward,
    Withhold,
    /// It is Weir's to read.
    Keep,
    /// The client gets the ParseComplete that it waits for in its place.
    AsParsed,
}

impl Asker {
    /// Whether it is Weir itself.
    pub const fn is_own(self) -> bool {
        matches!(
            self,
            Asker::Weir | Asker::Probe | Asker::Mover | Asker::Position
        )
    }

    const fn fate(self) -> Fate {
        match self {
            Asker::Client | Asker::Discarding | Asker::Undoing => Fate::Forward,
            Asker::Weir | Asker::Mover => Fate::Withhold,
            Asker::Probe | Asker::Position => Fate::Keep,
        }
    }
}

/// A ReadyForQuery, and what it concludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concluded {
    pub asker: Asker,
    pub failed: bool,
    /// It concludes a simple Query.
    pub by_query: bool,
}

/// The server said something that answers nothing: one of us has lost count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfStep(pub u8);

/// What a message changes on the server, so that its outcome matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes(u8);

impl Changes {
    pub const NONE: Changes = Changes(0);
    /// The prepared statement without a name.
    pub const UNNAMED: Changes = Changes(1);
    /// Those with one.
    pub const NAMED: Changes = Changes(1 << 1);
    /// The values of sequences are discarded.
    pub const SEQUENCES: Changes = Changes(1 << 2);

    #[must_use]
    pub const fn with(self, other: Changes) -> Changes {
        Changes(self.0 | other.0)
    }

    pub const fn has(self, other: Changes) -> bool {
        self.0 & other.0 != 0
    }

    /// Each by itself.
    fn each(self) -> impl Iterator<Item = Changes> {
        let all = [Changes::UNNAMED, Changes::NAMED, Changes::SEQUENCES];
        all.into_iter().filter(move |one| self.has(*one))
    }
}

/// How the client is told that a message was carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Telling {
    #[default]
    AsItIs,
    /// A Describe went in place of its Parse.
    AsParsed,
}

/// What is to be known of a message beyond its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    pub changes: Changes,
    /// The number of the statement that it uses, or 0.
    pub uses: u64,
    /// The number of the name that the client has for it, or 0.
    pub name: u64,
    pub telling: Telling,
}

/// Whether the Sync that ends a sequence of messages is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncSent {
    Yes,
    No,
}

/// What became of a message that was to change prepared statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed,
    /// A Query, after some of its statements were carried out.
    FailedLate,
    /// The server passed over it, after an error.
    Skipped,
    /// It can't be told any more.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    owed: Owed,
    asker: Asker,
    note: Note,
}

impl Entry {
    /// Where a reply with this tag goes.
    #[inline]
    fn fate_of(&self, tag: u8) -> Fate {
        let fate = self.asker.fate();
        if self.note.telling != Telling::AsParsed || fate != Fate::Forward {
            return fate;
        }
        match tag {
            backend::ROW_DESCRIPTION | backend::NO_DATA => Fate::AsParsed,
            backend::PARAMETER_DESCRIPTION => Fate::Withhold,
            _ => fate,
        }
    }
}

/// COPY FROM STDIN, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CopyIn {
    No,
    /// It takes CopyData, and passes over Sync and Flush.
    Yes {
        passed_over_sync: bool,
    },
    /// The client has ended it, or sent something that has no place in it, and the server has not answered.
    Ending {
        passed_over_sync: bool,
    },
}

#[derive(Debug)]
pub struct Ledger {
    entries: VecDeque<Entry>,
    tx: TxStatus,
    copy_in: CopyIn,
    /// After an error: everything up to the next Sync, not sent yet, will be ignored.
    skipping: bool,
    /// Extended-protocol messages were sent, and no Sync behind them.
    unsynced: bool,
    /// An ErrorResponse came since the last ReadyForQuery.
    failed: bool,
    /// A statement of a Query was carried out since then.
    completed: bool,
    /// It can't be told any more what is owed.
    doubtful: bool,
    /// A CopyEnd may be among the entries.
    copy_end_sent: bool,
    /// Of the messages that were to change prepared statements, in their order.
    outcomes: VecDeque<(Changes, Outcome)>,
    /// ReadyForQuery owed to the client.
    readies_of_client: usize,
    /// The last message to fail.
    failed_use: Note,
    /// The client waits for a ReadyForQuery that only a Sync of ours will bring.
    sync_due: bool,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            entries: VecDeque::new(),
            tx: TxStatus::Idle,
            copy_in: CopyIn::No,
            skipping: false,
            unsynced: false,
            failed: false,
            completed: false,
            doubtful: false,
            copy_end_sent: false,
            outcomes: VecDeque::new(),
            readies_of_client: 0,
            failed_use: Note::default(),
            sync_due: false,
        }
    }
}

/// So many answers may be outstanding before a client is read no further. Each is at least five
/// bytes, and PostgreSQL holds back 8 KiB of them at most, so this can't wait for ever.
pub const MAX_OUTSTANDING: usize = 8192;

impl Ledger {
    pub fn tx(&self) -> TxStatus {
        self.tx
    }

    pub fn is_copying_in(&self) -> bool {
        matches!(self.copy_in, CopyIn::Yes { .. })
    }

    pub fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Whether it may come to that with what is outstanding: an answer to a message of ours that is sent now might get to
    /// the client.
    #[inline]
    pub fn may_become_doubtful(&self) -> bool {
        let ending = CopyIn::Ending {
            passed_over_sync: true,
        };
        self.copy_in == ending || (self.copy_end_sent && self.may_be_copying())
    }

    /// Whether the end of a COPY stands behind something that may begin one.
    #[cold]
    fn may_be_copying(&self) -> bool {
        let mut entries = self.entries.iter().map(|entry| entry.owed);
        entries.any(|owed| matches!(owed, Owed::Query | Owed::Execute))
            && entries.any(|owed| owed == Owed::CopyEnd)
    }

    pub fn is_full(&self) -> bool {
        self.entries.len() >= MAX_OUTSTANDING
    }

    /// Whether an extended-protocol sequence is open: sent in part, with no Sync.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced || self.skipping
    }

    /// Whether answers are outstanding.
    pub fn owes(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Nothing owed, nothing begun: the server waits for a new command.
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.entries.is_empty() && !self.is_unsynced() && !self.is_copying_in() && !self.doubtful
    }

    /// Settled, and outside a transaction.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.is_settled() && self.tx == TxStatus::Idle
    }

    /// How many ReadyForQuery are to come.
    pub fn readies_owed(&self) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.owed.ends_in_ready())
            .count()
    }

    /// Whether something became of such messages that nobody has asked for.
    #[inline]
    pub fn has_outcomes(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// What became of the next message sent as changing prepared statements, once that is known.
    #[inline]
    pub fn outcome(&mut self) -> Option<(Changes, Outcome)> {
        self.outcomes.pop_front()
    }

    /// Nobody asks any more.
    #[inline]
    pub fn forget_outcomes(&mut self) {
        if !self.outcomes.is_empty() {
            self.outcomes.clear();
        }
    }

    /// The message that has just failed, if it used a statement.
    pub fn failed_use(&mut self) -> Option<Note> {
        Some(std::mem::take(&mut self.failed_use)).filter(|note| note.uses != 0)
    }

    /// What has failed just now is to be tried again: the client will not hear of the end of it. Whether the Sync
    /// that ends it was sent.
    pub fn take_over(&mut self) -> SyncSent {
        (self.failed, self.completed) = (false, false);
        match self.entries.front_mut() {
            Some(entry) if entry.owed == Owed::Sync => {
                self.readies_of_client -= usize::from(entry.asker != Asker::Weir);
                entry.asker = Asker::Weir;
                SyncSent::Yes
            }
            _ => SyncSent::No,
        }
    }

    #[inline]
    pub fn is_sync_due(&self) -> bool {
        self.sync_due
    }

    pub fn take_sync_due(&mut self) -> bool {
        std::mem::take(&mut self.sync_due)
    }

    pub fn owes_client_ready(&self) -> bool {
        self.readies_of_client > 0
    }

    /// What the client waits for, in order.
    pub fn owed_to_client(&self) -> impl Iterator<Item = Owed> {
        let clients = self.entries.iter().filter(|entry| !entry.asker.is_own());
        clients.map(|entry| entry.owed)
    }

    /// Whether the client has been told an error since the last ReadyForQuery.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The server is gone: nothing of all this will be answered.
    pub fn abandon(&mut self) {
        while self.pop(Outcome::Skipped).is_some() {}
        self.copy_in = CopyIn::No;
        (self.skipping, self.unsynced, self.failed) = (false, false, false);
        self.tx = TxStatus::Idle;
    }

    /// Whether the transaction has failed, or may have by the time that the server reads what is sent next.
    pub fn may_be_failed(&self) -> bool {
        self.tx == TxStatus::Failed || self.readies_of_client > 0
    }

    /// A message goes to the server.
    #[inline]
    pub fn send(&mut self, owed: Owed, asker: Asker) {
        self.send_noted(owed, asker, Note::default());
    }

    /// A message goes to the server that prepared statements have to do with.
    #[inline]
    pub fn send_noted(&mut self, owed: Owed, asker: Asker, note: Note) {
        let ordinary = !self.doubtful && !self.skipping && matches!(self.copy_in, CopyIn::No);
        if !ordinary && !self.will_be_answered(owed, note) {
            return;
        }
        match owed {
            Owed::Sync => (self.skipping, self.unsynced) = (false, false),
            Owed::Query | Owed::FunctionCall => self.unsynced = false,
            Owed::CopyEnd if self.entries.is_empty() => return,
            Owed::CopyEnd => self.copy_end_sent = true,
            Owed::Parse | Owed::Bind | Owed::Close | Owed::Describe | Owed::Execute => {
                self.unsynced = true
            }
        }
        if self.copy_end_sent {
            self.copy_end_sent = !self.entries.is_empty();
        }
        self.readies_of_client += usize::from(owed.ends_in_ready() && asker != Asker::Weir);
        self.entries.push_back(Entry { owed, asker, note });
    }

    /// Whether a message counts that is sent after an error, inside COPY, or where it can't be told any more what is owed.
    /// What becomes of one that doesn't is noted here.
    #[cold]
    fn will_be_answered(&mut self, owed: Owed, note: Note) -> bool {
        if self.doubtful {
            self.tell(note.changes, Outcome::Unknown);
            return false;
        }
        if let CopyIn::Yes { passed_over_sync } = self.copy_in {
            match owed {
                Owed::Sync => {
                    self.copy_in = CopyIn::Yes {
                        passed_over_sync: true,
                    };
                    return false;
                }
                Owed::CopyEnd => {
                    self.copy_in = CopyIn::Ending { passed_over_sync };
                    return false;
                }
                // PostgreSQL ends the connection over it, unless the COPY has failed before: then what comes counts.
                Owed::Query
                | Owed::FunctionCall
                | Owed::Parse
                | Owed::Bind
                | Owed::Close
                | Owed::Describe
                | Owed::Execute => self.copy_in = CopyIn::Ending { passed_over_sync },
            }
        }
        if self.skipping && owed != Owed::Sync {
            self.tell(note.changes, Outcome::Skipped);
            return false;
        }
        true
    }

    #[inline]
    fn tell(&mut self, changes: Changes, outcome: Outcome) {
        if changes == Changes::NONE {
            return;
        }
        for one in changes.each() {
            self.outcomes.push_back((one, outcome));
        }
    }

    /// What will be answered next: the end of a COPY that never began is not.
    #[inline]
    fn next(&self) -> Option<&Entry> {
        let first = self.entries.front();
        match first {
            Some(entry) if entry.owed == Owed::CopyEnd => {
                let mut entries = self.entries.iter();
                entries.find(|entry| entry.owed != Owed::CopyEnd)
            }
            Some(_) | None => first,
        }
    }

    /// Where an answer to what is owed next goes.
    #[inline]
    pub fn fate(&self) -> Fate {
        self.next()
            .map_or(Fate::Forward, |entry| entry.asker.fate())
    }

    /// A reply other than ErrorResponse and ReadyForQuery begins: where it goes. `None` if it was to go `along` with those
    /// before it and goes elsewhere; then it has not begun.
    #[inline]
    pub fn reply(&mut self, tag: u8, along: Option<Fate>) -> Result<Option<Fate>, OutOfStep> {
        self.drop_copy_ends();
        let first = self.entries.front();
        let fate = first.map_or(Fate::Forward, |entry| entry.fate_of(tag));
        if along.is_some_and(|along| along != fate) {
            return Ok(None);
        }
        if self.doubtful {
            return Ok(Some(fate));
        }
        let owed = first.map(|entry| entry.owed);
        let settles = match tag {
            backend::PARSE_COMPLETE => Self::expect(owed, Owed::Parse, tag)?,
            backend::BIND_COMPLETE => Self::expect(owed, Owed::Bind, tag)?,
            backend::CLOSE_COMPLETE => Self::expect(owed, Owed::Close, tag)?,
            backend::ROW_DESCRIPTION | backend::NO_DATA => owed == Some(Owed::Describe),
            backend::COMMAND_COMPLETE
            | backend::EMPTY_QUERY_RESPONSE
            | backend::PORTAL_SUSPENDED => {
                self.copy_in = CopyIn::No;
                self.completed |= owed == Some(Owed::Query);
                owed == Some(Owed::Execute)
            }
            backend::COPY_IN_RESPONSE => {
                self.begin_copy_in();
                false
            }
            _ => false,
        };
        if settles && let Some(entry) = self.entries.pop_front() {
            self.tell(entry.note.changes, Outcome::Done);
        }
        Ok(Some(fate))
    }

    /// The head of the queue is settled, in one way or another.
    #[inline]
    fn pop(&mut self, outcome: Outcome) -> Option<(Owed, Asker)> {
        let entry = self.entries.pop_front()?;
        self.readies_of_client -=
            usize::from(entry.owed.ends_in_ready() && entry.asker != Asker::Weir);
        self.tell(entry.note.changes, outcome);
        Some((entry.owed, entry.asker))
    }

    fn expect(head: Option<Owed>, expected: Owed, tag: u8) -> Result<bool, OutOfStep> {
        if head == Some(expected) {
            Ok(true)
        } else {
            Err(OutOfStep(tag))
        }
    }

    /// The server will answer nothing any more, and has carried out nothing of what is owed.
    pub fn skip_all(&mut self) {
        while self.pop(Outcome::Skipped).is_some() {}
    }

    /// Whether nobody but Weir waits for what comes next: it answers a question of ours, or all that is owed is ours.
    pub fn is_asked_by_us(&self) -> bool {
        let own = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.asker.is_own());
        let first = self.entries.front();
        let question = first.is_some_and(|entry| {
            matches!(entry.asker, Asker::Probe | Asker::Mover | Asker::Position)
        });
        question || (own(first) && own(self.entries.back()))
    }

    #[inline]
    fn drop_copy_ends(&mut self) {
        if self.copy_end_sent {
            self.drop_each_copy_end();
        }
    }

    #[cold]
    fn drop_each_copy_end(&mut self) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.owed == Owed::CopyEnd)
        {
            self.entries.pop_front();
        }
    }

    /// The head of the queue copies in. Syncs sent behind it, ahead of its end, are passed over.
    ///
    /// Where anything else stands ahead of its end, it has none: PostgreSQL ends the connection over that, unless the COPY
    /// has failed before. Then that is carried out, and all behind it counts: an end there is another COPY's.
    fn begin_copy_in(&mut self) {
        let behind = self.entries.iter().skip(1);
        let syncs = behind.take_while(|entry| entry.owed == Owed::Sync).count();
        for _ in 0..syncs {
            let swallowed = self.entries.remove(1);
            let counted = swallowed.is_some_and(|entry| entry.asker != Asker::Weir);
            self.readies_of_client -= usize::from(counted);
        }
        let passed_over_sync = syncs > 0;
        let next = self.entries.get(1).map(|entry| entry.owed);
        if next == Some(Owed::CopyEnd) {
            self.entries.remove(1);
        }
        self.copy_in = match next {
            Some(_) => CopyIn::Ending { passed_over_sync },
            None => CopyIn::Yes { passed_over_sync },
        };
        let head = self.entries.front().map(|entry| entry.owed);
        if self.entries.len() == 1 && head == Some(Owed::Execute) {
            // The Syncs are gone: what was sent is open again until the next one.
            self.unsynced = true;
        }
    }

    /// An ErrorResponse. `Withhold` only if it answers a Query of Weir's own.
    pub fn error(&mut self) -> Fate {
        self.drop_copy_ends();
        self.failed = true;
        let passed_over = matches!(
            self.copy_in,
            CopyIn::Yes {
                passed_over_sync: true
            } | CopyIn::Ending {
                passed_over_sync: true
            }
        );
        if passed_over {
            // Did the error come before that Sync was read, or after? Nobody can tell from here. All that
            // comes is the client's; the connection stays with it, and is closed in the end.
            self.doubtful = true;
            while self.pop(Outcome::Unknown).is_some() {}
        }
        self.copy_in = CopyIn::No;
        match self.entries.front().copied() {
            Some(entry) if entry.owed.ends_in_ready() => match entry.asker.fate() {
                Fate::Forward | Fate::AsParsed => Fate::Forward,
                Fate::Withhold | Fate::Keep => Fate::Withhold,
            },
            Some(entry) => {
                self.failed_use = entry.note;
                self.pop(Outcome::Failed);
                self.skip_to_sync(entry.asker);
                Fate::Forward
            }
            None => Fate::Forward,
        }
    }

    fn skip_to_sync(&mut self, failed: Asker) {
        // Ours failed ahead of the client's Query, and made the server skip it.
        let mut others = self.entries.iter();
        let next = others.find(|entry| entry.asker != Asker::Weir);
        let client_waits = failed == Asker::Weir
            && next.is_some_and(|entry| entry.owed != Owed::Sync && entry.owed.ends_in_ready());
        while let Some(entry) = self.entries.front() {
            if entry.owed == Owed::Sync {
                return;
            }
            self.pop(Outcome::Skipped);
        }
        self.skipping = true;
        self.sync_due = client_waits;
    }

    /// A ReadyForQuery.
    #[inline]
    pub fn ready(&mut self, tx: TxStatus) -> Result<Concluded, OutOfStep> {
        if self.doubtful {
            self.tx = tx;
            return Ok(Concluded {
                asker: Asker::Client,
                failed: false,
                by_query: false,
            });
        }
        self.drop_copy_ends();
        // A Query does away with the unnamed statement whatever comes of it: `core` knows.
        let outcome = match self.failed {
            true if self.completed => Outcome::FailedLate,
            true => Outcome::Failed,
            false => Outcome::Done,
        };
        self.completed = false;
        match self.pop(outcome) {
            Some((owed, asker)) if owed.ends_in_ready() => {
                self.tx = tx;
                self.copy_in = CopyIn::No;
                let failed = std::mem::take(&mut self.failed);
                self.drop_copy_ends();
                Ok(Concluded {
                    asker,
                    failed,
                    by_query: owed == Owed::Query,
                })
            }
            _ => Err(OutOfStep(backend::READY_FOR_QUERY)),
        }
    }
}

#[cfg(test)]
mod tests;
