//! Texts that refer to named statements: EXECUTE, DEALLOCATE, PREPARE and DISCARD ALL, in SQL.
//!
//! PostgreSQL carries them out, with the client's own names lent to the server for that long.

use std::sync::Arc;

use super::Core;
use super::message::Outgoing;
use crate::protocol::frame::put;
use crate::protocol::names::{put_close, put_parse};
use crate::protocol::reply::TxStatus;
use crate::protocol::tag::frontend;
use crate::server::ledger::{Asker, Ledger, Owed};
use crate::server::statements::clients_name;
use crate::session::pins::Reason;
use crate::session::prepared::named::{Change, Name};
use crate::session::prepared::table::Statement;
use crate::sql::{self, Deallocate, Effects};

/// So many statements are given to a server because one text may refer to them.
const MAX_REFERRED: usize = 64;
/// Body of a Parse behind the name: no text, no parameters. Never fails.
const EMPTY: &[u8] = b"\0\0\0";

impl Core {
    /// A text refers to named statements, or may: the server is given those for as long as it takes. What
    /// becomes of them when the text is carried out.
    pub(super) fn refer(
        &mut self,
        text: &[u8],
        effects: Effects,
        at: usize,
        out: &mut Outgoing<'_>,
    ) -> Option<Change> {
        let dropped = dropped(text, effects);
        let forgets_all = dropped.contains(&Deallocate::All);
        let is_dropped = |name: &[u8]| {
            let mut dropped = dropped.iter();
            dropped.any(|what| matches!(what, Deallocate::Name(known) if known == name))
        };
        // In a failed transaction nothing is run, and nothing but an empty text parsed.
        let may_run = out.ledger.tx() != TxStatus::Failed && !out.ledger.is_doubtful();
        let runs = may_run && effects.has(Effects::EXECUTE.with(Effects::PREPARE));
        let several =
            may_run && effects.has(Effects::DEALLOCATE) && sql::deallocate(text).is_none();
        let referred: Vec<(Name, Option<Arc<Statement>>)> = self
            .named
            .live()
            .filter(|(name, _)| {
                let all = several && forgets_all;
                all || is_dropped(name) || (runs && mentions(text, name))
            })
            .map(|(name, statement)| {
                let is_needed = runs || several;
                (name.into(), is_needed.then(|| Arc::clone(statement)))
            })
            .take(MAX_REFERRED)
            .collect();
        let mut forgotten = Vec::new();
        for (name, statement) in referred {
            if forgets_all || is_dropped(&name) {
                forgotten.push(name.clone());
            }
            let body = statement
                .as_ref()
                .map_or(EMPTY, |statement| statement.body());
            if let Some(statement) = &statement {
                // EXECUTE runs it.
                self.culprit
                    .blame_text(statement.text(), statement.report.effects);
                self.note_effects(&statement.report);
            }
            self.lend(name, body, at, out);
        }
        if several && !forgotten.is_empty() {
            if effects.has(Effects::PREPARE) {
                // It may give a name that it takes away to another.
                self.leave(&forgotten);
            }
            let begins = text.split(|&byte| byte == b';').next();
            let begins = begins.and_then(sql::deallocate);
            let first = match begins {
                Some(Deallocate::All) => true,
                Some(Deallocate::Name(_)) => !forgets_all && forgotten.len() == 1,
                None => false,
            };
            return Some(Change::Leave {
                first: first && dropped.len() == 1 && !effects.has(Effects::PREPARE),
                names: forgotten,
                all: forgets_all,
            });
        }
        if forgets_all {
            return Some(Change::ForgetAll);
        }
        (!forgotten.is_empty()).then_some(Change::Forget(forgotten))
    }

    /// What the server has under these names is the client's, and PostgreSQL has the last word on it.
    pub(super) fn leave(&mut self, names: &[Name]) {
        self.strays.retain(|name| !names.contains(name));
        self.pins.add(Reason::NamedStatement);
    }

    /// Gives the server a statement under the client's own name, for a while.
    fn lend(&mut self, name: Name, body: &[u8], at: usize, out: &mut Outgoing<'_>) {
        if out.ledger.is_doubtful() || out.ledger.is_copying_in() {
            return;
        }
        let name = clients_name(&name).unwrap_or(name);
        let prologue = out.ahead_of(at);
        put_close(prologue, &name);
        put_parse(prologue, &name, body);
        out.ledger.send(Owed::Close, Asker::Weir);
        out.ledger.send(Owed::Parse, Asker::Weir);
        if !self.strays.contains(&name) {
            self.strays.push(name);
        }
    }

    /// Whether something of ours is left on the server under a client's name, or the client waits for an answer that
    /// only we can have the server give.
    #[inline]
    pub fn is_untidy(&self, ledger: &Ledger) -> bool {
        !self.strays.is_empty() || ledger.is_sync_due()
    }

    /// Sends what makes the server as it should be, if now is the time for it.
    pub fn tidy(&mut self, ledger: &mut Ledger, prologue: &mut Vec<u8>) -> bool {
        if ledger.take_sync_due() {
            put(prologue, frontend::SYNC, |_| {});
            ledger.send(Owed::Sync, Asker::Client);
            return true;
        }
        if self.strays.is_empty() || !ledger.is_settled() || self.frame_left > 0 {
            return false;
        }
        for name in self.strays.drain(..) {
            put_close(prologue, &name);
            ledger.send(Owed::Close, Asker::Weir);
        }
        put(prologue, frontend::SYNC, |_| {});
        ledger.send(Owed::Sync, Asker::Weir);
        true
    }
}

/// What a text of statements deallocates, if all goes well.
fn dropped(text: &[u8], effects: Effects) -> Vec<Deallocate> {
    if effects.has(Effects::DISCARD_ALL) {
        return vec![Deallocate::All];
    }
    if !effects.has(Effects::DEALLOCATE) {
        return Vec::new();
    }
    match sql::deallocate(text) {
        Some(what) => vec![what],
        None => {
            let statements = text.split(|&byte| byte == b';');
            statements.filter_map(sql::deallocate).collect()
        }
    }
}

/// Whether a text has a name in it, in whatever case.
fn mentions(text: &[u8], name: &[u8]) -> bool {
    let mut parts = text.windows(name.len().max(1));
    parts.any(|part| part.eq_ignore_ascii_case(name))
}
