//! What a session wonders about after its transactions, and what it makes of the server's answers.
//!
//! Knows what a text gives rise to ask for; the questions themselves, `questions` knows.

use std::sync::Arc;

use super::{Conclusion, Core};
use crate::protocol::frame::{put, put_cstr};
use crate::protocol::tag::frontend;
use crate::server::Settings;
use crate::server::ledger::{Asker, Ledger, Owed};
use crate::session::hidden;
use crate::session::pins::Reason;
use crate::session::questions::{self, Answer, Asked, Defaults, Kinds};
use crate::session::requests::Meaning;
use crate::sql::{Effects, Hidden, Report};

impl Core {
    /// Whether a message only undoes, outside any transaction: then its success alone tells what is left.
    pub(super) fn asker(&mut self, meaning: Meaning, effects: Effects, ledger: &Ledger) -> Asker {
        if meaning != Meaning::Query {
            return Asker::Client;
        }
        if effects.has(Effects::DISCARD_ALL) {
            self.pins.discarding();
            return Asker::Discarding;
        }
        let outside = ledger.is_idle() || (self.untouched && !self.begun);
        if effects.has(Effects::RESET_SESSION) && outside {
            self.undoing = effects;
            return Asker::Undoing;
        }
        Asker::Client
    }

    /// Takes note of what a text may do that is about to be executed.
    pub(super) fn note_effects(&mut self, report: &Report) {
        let effects = report.effects;
        if effects.is_none() {
            return;
        }
        self.pins.add_effects(effects);
        self.suspects |= effects.has(questions::UNSEEN);
        self.questions.note(report);
        self.questions.pass_over(self.pins.ignored().kinds());
        self.had_role |= effects.has(Effects::ROLE.with(Effects::ROUTINE));
        if effects.has(Effects::FREES) {
            self.recheck();
        }
        if effects.has(Effects::DEFINES) {
            self.named.redefine();
        }
        if effects.has(Effects::ENDS_SERVERS) {
            self.finale.ends_server = true;
        }
    }

    /// Has the server asked, at the next occasion, whether what the session is pinned for is still there.
    pub fn recheck(&mut self) {
        self.questions.look_for(self.pins.now().kinds());
    }

    /// Whether there is something that the server must be asked before it may be released.
    #[inline]
    pub fn wonders(&self) -> bool {
        self.questions.any() || self.asked.is_some() || self.rehearsal_due || self.hidden_due
    }

    /// Whether what the server answers may have to be acted on before the client's next command: something was
    /// reset, which means another value to this client than to the server.
    pub(super) fn is_settling(&self) -> bool {
        matches!(&self.asked, Some(Inquiry::State(asked)) if asked.is_about_resets())
    }

    /// Whether the session may have state of this kind, which the server is to be asked about, or has not answered.
    pub(super) fn is_open(&self, kinds: Kinds) -> bool {
        let asked =
            |asked: &Inquiry| matches!(asked, Inquiry::State(asked) if asked.kinds.has(kinds));
        self.questions.kinds().has(kinds) || self.asked.as_ref().is_some_and(asked)
    }

    /// The same of any state at all.
    pub(super) fn is_anything_open(&self) -> bool {
        self.questions.any() || matches!(self.asked, Some(Inquiry::State(_)))
    }

    /// Asks the server, which is idle, what it has of this session. False: there is nothing to ask.
    pub fn ask<'a>(
        &mut self,
        customs: impl Iterator<Item = &'a str>,
        defaults: Defaults,
        ledger: &mut Ledger,
        prologue: &mut Vec<u8>,
    ) -> bool {
        if self.asked.is_some() {
            return false;
        }
        if std::mem::take(&mut self.hidden_due) {
            put(prologue, frontend::QUERY, |body| {
                put_cstr(body, hidden::QUERY.as_bytes());
            });
            self.inquire(Inquiry::Hidden, ledger);
            return true;
        }
        if !self.questions.any() {
            return false;
        }
        let asked = self.questions.put(customs, defaults, prologue);
        self.inquire(Inquiry::State(asked), ledger);
        true
    }

    /// Has the server, which is idle, try whether the settings can be given to another one, if that is due.
    pub fn rehearse(
        &mut self,
        settings: &Settings,
        ledger: &mut Ledger,
        prologue: &mut Vec<u8>,
    ) -> bool {
        if self.asked.is_some() || !std::mem::take(&mut self.rehearsal_due) || settings.is_empty() {
            return false;
        }
        settings.put_again(prologue);
        self.inquire(Inquiry::Rehearsal, ledger);
        true
    }

    pub(super) fn inquire(&mut self, inquiry: Inquiry, ledger: &mut Ledger) {
        self.asked = Some(inquiry);
        ledger.send(Owed::Query, Asker::Probe);
        self.interposed();
    }

    /// The server has answered what it was asked: the messages, unless it refused.
    pub fn answered(&mut self, messages: Option<&[u8]>) -> Answered {
        match (self.asked.take(), messages) {
            (Some(Inquiry::State(asked)), messages) => match messages.and_then(Answer::read) {
                Some(answer) => {
                    // What becomes of a pin for channels that are there, their move decides.
                    let open = match self.shares_channels {
                        true => answer.kinds.only(Kinds::LISTEN),
                        false => Kinds::NONE,
                    };
                    self.pins
                        .shown(asked.kinds.without(open), answer.kinds.without(open));
                    return Answered::State(asked, answer);
                }
                // What can't be known can't be let go.
                None => self.pins.add(Reason::Unsure),
            },
            (Some(Inquiry::Rehearsal), None) => self.pins.add(Reason::Setting),
            (Some(Inquiry::Hidden), Some(messages)) => {
                return questions::names(messages).map_or(Answered::Nothing, Answered::Hidden);
            }
            (Some(Inquiry::Rehearsal | Inquiry::Hidden) | None, _) => {}
        }
        Answered::Nothing
    }

    /// The server does not answer: whether that was asked for everybody's sake, so that nothing of this session is lost
    /// with the server.
    pub fn forget_question(&mut self) -> bool {
        let harmless = matches!(self.asked, Some(Inquiry::Hidden))
            && !self.pins.now().any()
            && !self.questions.any();
        if harmless {
            self.asked = None;
        }
        harmless
    }

    /// The names that lead to hidden state are to be asked for anew.
    pub fn wonder_what_is_hidden(&mut self) {
        self.hidden_due = true;
    }

    pub fn know_hidden(&mut self, hidden: Arc<Hidden>) {
        self.hidden = hidden;
    }

    /// The session's settings have changed. It may have ones that it may not set by itself.
    pub fn settings_changed(&mut self) {
        self.rehearsal_due = self.had_role;
    }

    /// A Query that only undoes was answered.
    pub(super) fn undone(&mut self, failed: bool) -> Conclusion {
        let effects = std::mem::take(&mut self.undoing);
        self.recheck();
        if failed || effects.has(Effects::ROLE) {
            self.questions.note_anything();
            return Conclusion::Ordinary;
        }
        if !effects.has(Effects::RESET_ALL) {
            return Conclusion::Ordinary;
        }
        // What SQL has prepared may set them again.
        if !self.pins.now().has(Reason::SqlPrepare) {
            self.pins.remove(Reason::Setting);
        }
        Conclusion::SettingsReset
    }

    /// A text has ended that went through in pieces.
    pub(super) fn passed(&mut self, report: &Report) {
        // Names that lead to hidden state are not looked for in pieces.
        let suspicious = match self.hidden.is_empty() {
            true => Effects::NONE,
            false => Effects::ROUTINE,
        };
        self.culprit.turns_out(report.effects.with(suspicious));
        self.want_sequences(report.effects);
        self.note_effects(report);
    }

    /// Has the server asked, at the next occasion, for state of these kinds.
    pub fn look_for(&mut self, kinds: Kinds) {
        self.questions.look_for(kinds);
    }
}

/// What a server was asked.
#[derive(Debug)]
pub(super) enum Inquiry {
    State(Asked),
    /// Whether the settings can be given to another server.
    Rehearsal,
    /// Which names lead to state that no text shows.
    Hidden,
}

/// What follows from an answer for others than the core.
#[derive(Debug)]
pub enum Answered {
    Nothing,
    State(Asked, Answer),
    /// Names that lead to state which no text shows.
    Hidden(Vec<Vec<u8>>),
}
