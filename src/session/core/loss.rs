//! What becomes of a conversation whose server is gone.
//!
//! Pure. Knows what the client was owed and what it may have brought about; not why the server is gone, nor the words for
//! it.

use super::asking::Inquiry;
use super::{Core, Eviction};
use crate::protocol::frame::{HEADER_BYTES, split_cstr};
use crate::protocol::reply::{ErrorReply, TxStatus, put_ready_for_query};
use crate::server::Statements;
use crate::server::ledger::{Ledger, Owed};
use crate::session::deferred::put_aborted;
use crate::session::pins::Pins;
use crate::session::requests::{Meaning, TextScan, Units};
use crate::sql::{Effects, Ends};

/// Names kept of prepared statements that end a transaction; where there are more, any statement that is not among them may.
const MAX_NAMES: usize = 64;

/// Which of the client's prepared statements end a transaction, and whether something on its way does.
#[derive(Debug, Default)]
pub(super) struct Finale {
    unnamed: Ends,
    named: Vec<(Vec<u8>, Ends)>,
    /// A named one may commit that is not among `named`.
    unknown: bool,
    on_its_way: Ends,
    /// What is on its way may end the server itself.
    pub ends_server: bool,
}

impl Finale {
    /// A message is sent, with as much of it as is there.
    #[inline]
    pub fn note(&mut self, meaning: Meaning, tag: u8, frame: &[u8]) {
        let body = frame.get(HEADER_BYTES..).unwrap_or_default();
        let text = || TextScan::whole(tag, body);
        match meaning {
            Meaning::Query => self.on_its_way = self.on_its_way.max(crate::sql::ends(text())),
            Meaning::ParseUnnamed => self.unnamed = crate::sql::ends(text()),
            Meaning::ParseNamed => self.note_named(body, crate::sql::ends(text())),
            Meaning::BindUnnamed => self.on_its_way = self.on_its_way.max(self.unnamed),
            Meaning::BindNamed => {
                self.on_its_way = self.on_its_way.max(self.bound(body));
            }
            Meaning::CloseUnnamed
            | Meaning::CloseNamed
            | Meaning::DescribeNamed
            | Meaning::FunctionCall
            | Meaning::Plain
            | Meaning::Terminate => {}
        }
    }

    /// A Parse of "" is sent whose text is known to do this.
    #[inline]
    pub fn parsing(&mut self, ends: Ends) {
        self.unnamed = ends;
    }

    fn note_named(&mut self, body: &[u8], ends: Ends) {
        let name = split_cstr(body).map_or(&[][..], |(name, _)| name);
        if !self.named.is_empty() {
            self.named.retain(|(known, _)| known != name);
        }
        if ends == Ends::No {
            return;
        }
        if self.named.len() < MAX_NAMES {
            self.named.push((name.to_vec(), ends));
        } else {
            self.unknown = true;
        }
    }

    /// What the statement of a Bind does.
    fn bound(&self, body: &[u8]) -> Ends {
        match split_cstr(body).and_then(|(_, rest)| split_cstr(rest)) {
            Some((name, _)) => self.of(name),
            None => Ends::Commit,
        }
    }

    fn of(&self, name: &[u8]) -> Ends {
        if name.is_empty() {
            return self.unnamed;
        }
        let known = self.named.iter().find(|(known, _)| known == name);
        match known {
            Some((_, ends)) => *ends,
            None if self.unknown => Ends::Commit,
            None => Ends::No,
        }
    }

    /// What the statement does that a message uses: a Bind, or a Describe of a statement.
    pub fn used_by(&self, tag: u8, frame: &[u8]) -> Ends {
        use crate::protocol::tag::frontend;
        let body = frame.get(HEADER_BYTES..).unwrap_or_default();
        match (tag, body.split_first()) {
            (frontend::BIND, _) => self.bound(body),
            (frontend::DESCRIBE, Some((b'S', name))) => {
                self.of(split_cstr(name).map_or(&[][..], |(name, _)| name))
            }
            _ => Ends::No,
        }
    }

    #[inline]
    pub fn answered(&mut self) {
        self.on_its_way = Ends::No;
        self.ends_server = false;
    }
}

/// What the client's work came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// There was none.
    Nothing,
    /// It is undone.
    Undone,
    /// It may have been committed, or not.
    Unknown,
    /// The session had something on the server that can't be had elsewhere, for the reason given.
    Session(&'static str),
}

/// What the client is told.
pub struct Words {
    /// Its work is undone.
    pub undone: ErrorReply,
    /// It may have been committed.
    pub unknown: ErrorReply,
    /// A statement by itself, which may have been carried out.
    pub alone: ErrorReply,
}

impl Core {
    /// Whether the client may have ended the server itself: then it is to see what PostgreSQL shows to whoever does that.
    pub fn may_end_server(&self) -> bool {
        self.finale.ends_server
    }

    /// The server is gone, and what it owed never comes: what the client waits for goes to `answer`, and the
    /// conversation goes on without a server.
    pub fn lost(
        &mut self,
        ledger: &mut Ledger,
        statements: &mut Statements,
        words: &Words,
        answer: &mut Vec<u8>,
    ) -> Loss {
        let inside = ledger.tx() != TxStatus::Idle || self.begin_open;
        let owed: Vec<Owed> = ledger.owed_to_client().collect();
        let readies = owed.iter().filter(|owed| owed.ends_in_ready()).count();
        let asks = readies > 0 || !owed.is_empty() || ledger.is_unsynced();
        if let Some(why) = self.is_beyond_recovery(ledger, inside, asks) {
            return Loss::Session(why);
        }
        let ends = self.finale.on_its_way;
        let after = match (inside, ends) {
            (true, Ends::No) => TxStatus::Failed,
            (true, Ends::Rollback | Ends::Commit) | (false, _) => TxStatus::Idle,
        };
        let refused_already = ledger.has_failed() && readies <= 1;
        let unknown = match inside {
            true => ends == Ends::Commit,
            false => readies > 0 && !refused_already,
        };
        let loss = match (asks || inside, unknown) {
            (false, _) => Loss::Nothing,
            (true, true) => Loss::Unknown,
            (true, false) => Loss::Undone,
        };
        let error = match (unknown, inside) {
            (true, true) => &words.unknown,
            (true, false) => &words.alone,
            (false, _) => &words.undone,
        };
        let was_failed = ledger.tx() == TxStatus::Failed;
        let (open, told) = (ledger.is_unsynced(), ledger.has_failed());
        self.forget_server(ledger, statements);
        if after == TxStatus::Failed {
            match asks || was_failed {
                true => self.deferred.fail_now(),
                false => self.deferred.fail_unheard(words.undone.clone()),
            }
        }
        for place in 0..readies {
            match place {
                0 if told => {}
                0 => error.put(answer),
                _ if after == TxStatus::Failed => put_aborted(answer),
                _ => error.put(answer),
            }
            put_ready_for_query(answer, after);
        }
        if open || (readies == 0 && !owed.is_empty()) {
            match readies {
                0 if told => {}
                0 => error.put(answer),
                _ if after == TxStatus::Failed => put_aborted(answer),
                _ => words.undone.put(answer),
            }
            self.refusing = true;
        }
        loss
    }

    /// Why the session can't do without this very server, if it can't.
    fn is_beyond_recovery(
        &self,
        ledger: &Ledger,
        inside: bool,
        asks: bool,
    ) -> Option<&'static str> {
        if self.terminated || ledger.is_doubtful() {
            return Some("what the client was owed is not known");
        }
        if let Some(reason) = self.pins.now().since(Pins::default()).next() {
            return Some(reason.as_str());
        }
        // What a transaction had set is undone with it; what was set before, and never told, is lost.
        let asked = matches!(self.asked, Some(Inquiry::State(_)));
        let untold = asked || (self.questions.any() && !asks);
        (untold && !inside).then_some("what the session had set was not known yet")
    }

    /// Nothing of what was sent to the server will be answered, or matters to the next one.
    fn forget_server(&mut self, ledger: &mut Ledger, statements: &mut Statements) {
        ledger.abandon();
        self.forget_sent(ledger, statements);
        self.finale.answered();
        self.eviction = Eviction::None;
        (self.begun, self.begin_open, self.untouched) = (false, false, false);
        self.unnamed_foreign = false;
    }

    /// What was on its way to the server comes to nothing, and what was to be found out there is not.
    pub(super) fn forget_sent(&mut self, ledger: &mut Ledger, statements: &mut Statements) {
        self.note_outcomes(ledger, statements);
        self.named.transaction_ended(false);
        self.questions = Default::default();
        self.asked = None;
        self.executing.clear();
        self.second_try.forget();
        self.strays.clear();
        self.undoing = Effects::NONE;
        self.units = Units::default();
        self.text = TextScan::default();
        (self.hurried, self.suspects) = (false, false);
    }
}
