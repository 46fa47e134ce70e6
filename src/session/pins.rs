//! Why a session keeps its server connection between transactions.
//!
//! Pure. Knows the reasons and when all of them end; what gives rise to them, `sql` and `scan` find.

use super::questions::Kinds;
use crate::config::PinFilter;
use crate::sql::Effects;

/// One reason. The order is that of the words in metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Setting,
    SqlPrepare,
    HeldCursor,
    Listen,
    Load,
    Temporary,
    AdvisoryLock,
    Unsure,
    NamedStatement,
    UnnamedStatement,
    Sequence,
}

impl Reason {
    pub const ALL: [Reason; 11] = [
        Reason::Setting,
        Reason::SqlPrepare,
        Reason::HeldCursor,
        Reason::Listen,
        Reason::Load,
        Reason::Temporary,
        Reason::AdvisoryLock,
        Reason::Unsure,
        Reason::NamedStatement,
        Reason::UnnamedStatement,
        Reason::Sequence,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Setting => "setting",
            Reason::SqlPrepare => "sql_prepare",
            Reason::HeldCursor => "held_cursor",
            Reason::Listen => "listen",
            Reason::Load => "load",
            Reason::Temporary => "temporary_object",
            Reason::AdvisoryLock => "advisory_lock",
            Reason::Unsure => "not_understood",
            Reason::NamedStatement => "named_statement",
            Reason::UnnamedStatement => "large_unnamed_statement",
            Reason::Sequence => "sequence",
        }
    }

    /// What a client can do about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Reason::Setting => {
                "Set what must last at login or with ALTER ROLE ... SET, or name the setting in the text; \
                 DISCARD ALL or RESET ALL frees the session."
            }
            Reason::SqlPrepare => {
                "Prepare statements through the protocol, as drivers do; DEALLOCATE frees the session."
            }
            Reason::HeldCursor => {
                "Fetch from cursors within their transaction; CLOSE frees the session."
            }
            Reason::Listen => {
                "Listen over a connection to the database itself; UNLISTEN frees the session."
            }
            Reason::Load => {
                "Have libraries loaded by session_preload_libraries; nothing frees this session but its end."
            }
            Reason::Temporary => {
                "Use ON COMMIT DROP or an ordinary table; DROP or DISCARD TEMP frees the session."
            }
            Reason::AdvisoryLock => {
                "Use pg_advisory_xact_lock; pg_advisory_unlock frees the session."
            }
            Reason::Unsure => {
                "The database did not say what the statement left behind; DISCARD ALL frees the session."
            }
            Reason::NamedStatement => {
                "Use fewer and shorter named statements, and no PREPARE in SQL beside them (or raise pool.max_statements); \
                 DISCARD ALL frees the session."
            }
            Reason::UnnamedStatement => {
                "Send long statements as simple queries, or raise session.large_statements_limit_bytes; \
                 the next statement frees the session."
            }
            Reason::Sequence => {
                "Use INSERT ... RETURNING, or currval within the transaction, and leave session.pin_sequences off; \
                 DISCARD ALL frees the session."
            }
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// What a text pins the session for at once: state that no catalogue shows. All else is asked for.
    fn of(effects: Effects) -> impl Iterator<Item = Reason> {
        const BY_EFFECT: [(Effects, Reason); 3] = [
            (Effects::LOAD.with(Effects::SEED), Reason::Load),
            (Effects::UNSEEN_SETTING, Reason::Setting),
            (Effects::NEXTVAL, Reason::Sequence),
        ];
        BY_EFFECT
            .into_iter()
            .filter(move |(effect, _)| effects.has(*effect))
            .map(|(_, reason)| reason)
    }

    /// The state that a catalogue shows, if there is one for this reason.
    const fn kind(self) -> Kinds {
        match self {
            Reason::SqlPrepare => Kinds::PREPARED,
            Reason::HeldCursor => Kinds::HELD_CURSOR,
            Reason::Listen => Kinds::LISTEN,
            Reason::Temporary => Kinds::TEMPORARY,
            Reason::AdvisoryLock => Kinds::ADVISORY_LOCK,
            Reason::Setting
            | Reason::Load
            | Reason::Unsure
            | Reason::NamedStatement
            | Reason::UnnamedStatement
            | Reason::Sequence => Kinds::NONE,
        }
    }
}

impl From<PinFilter> for Reason {
    fn from(filter: PinFilter) -> Reason {
        match filter {
            PinFilter::Setting => Reason::Setting,
            PinFilter::SqlPrepare => Reason::SqlPrepare,
            PinFilter::HeldCursor => Reason::HeldCursor,
            PinFilter::Listen => Reason::Listen,
            PinFilter::Temporary => Reason::Temporary,
            PinFilter::AdvisoryLock => Reason::AdvisoryLock,
        }
    }
}

impl FromIterator<Reason> for Pins {
    fn from_iter<I: IntoIterator<Item = Reason>>(reasons: I) -> Pins {
        let mut pins = Pins::default();
        reasons.into_iter().for_each(|reason| pins.add(reason));
        pins
    }
}

/// The reasons that hold for one session at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u16);

impl Pins {
    #[inline]
    pub fn any(self) -> bool {
        self.0 != 0
    }

    #[inline]
    pub fn has(self, reason: Reason) -> bool {
        self.0 & reason.bit() != 0
    }

    pub fn add(&mut self, reason: Reason) {
        self.0 |= reason.bit();
    }

    #[inline]
    pub fn add_effects(&mut self, effects: Effects) {
        if effects.staying().is_none() {
            return;
        }
        for reason in Reason::of(effects) {
            self.add(reason);
        }
    }

    pub fn remove(&mut self, reason: Reason) {
        self.0 &= !reason.bit();
    }

    /// Whether there is something that DISCARD ALL does not undo: a library, a connection of dblink.
    pub fn outlives_discard(self) -> bool {
        self.0 & Reason::Load.bit() != 0
    }

    /// The kinds of state, of these pins, that a catalogue shows.
    pub fn kinds(self) -> Kinds {
        let held = Reason::ALL
            .into_iter()
            .filter(|reason| self.0 & reason.bit() != 0);
        held.fold(Kinds::NONE, |kinds, reason| kinds.with(reason.kind()))
    }

    /// Whether there is another one.
    pub fn any_but(self, reason: Reason) -> bool {
        self.without(Pins(reason.bit())).any()
    }

    #[inline]
    fn without(self, other: Pins) -> Pins {
        Pins(self.0 & !other.0)
    }

    /// Those of `self` that `before` had not.
    pub fn since(self, before: Pins) -> impl Iterator<Item = Reason> {
        Reason::ALL
            .into_iter()
            .filter(move |reason| self.0 & !before.0 & reason.bit() != 0)
    }
}

/// The pins of a session over time: what is pipelined behind a DISCARD ALL outlives it.
#[derive(Clone, Debug, Default)]
pub struct Pinned {
    now: Pins,
    /// What an operator has said is not to pin.
    ignored: Pins,
    /// Those that came up since the last DISCARD ALL was sent.
    since_discard: Pins,
    discards_under_way: u32,
}

impl Pinned {
    #[inline]
    pub fn now(&self) -> Pins {
        self.now
    }

    /// From here on these don't pin.
    pub fn ignore(&mut self, reasons: Pins) {
        self.ignored = reasons;
    }

    pub fn ignored(&self) -> Pins {
        self.ignored
    }

    pub fn add(&mut self, reason: Reason) {
        if !self.ignored.has(reason) {
            self.now.add(reason);
            self.since_discard.add(reason);
        }
    }

    #[inline]
    pub fn add_effects(&mut self, effects: Effects) {
        let mut pins = Pins::default();
        pins.add_effects(effects);
        let pins = pins.without(self.ignored);
        self.now.0 |= pins.0;
        self.since_discard.0 |= pins.0;
    }

    pub fn remove(&mut self, reason: Reason) {
        self.now.remove(reason);
        self.since_discard.remove(reason);
    }

    /// A catalogue was asked for state of these kinds, and showed those that it `found`.
    pub fn shown(&mut self, asked: Kinds, found: Kinds) {
        for reason in Reason::ALL {
            let kind = reason.kind();
            if found.has(kind) {
                self.add(reason);
            } else if asked.has(kind) {
                self.remove(reason);
            }
        }
    }

    /// A DISCARD ALL was sent.
    pub fn discarding(&mut self) {
        self.since_discard = Pins::default();
        self.discards_under_way += 1;
    }

    /// PostgreSQL has answered one. Only the last of several says what is left.
    pub fn discarded(&mut self, outcome: Discard) {
        self.discards_under_way = self.discards_under_way.saturating_sub(1);
        if self.discards_under_way == 0 && outcome == Discard::Done {
            let stays = self.now.0 & Reason::Load.bit();
            self.now = Pins(self.since_discard.0 | stays);
        }
    }
}

/// What came of a DISCARD ALL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    Done,
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_become_reasons() {
        let mut pins = Pins::default();
        pins.add_effects(Effects::SEQUENCE_READ);
        assert!(!pins.any());
        pins.add_effects(Effects::LISTEN.with(Effects::SETTING));
        assert!(!pins.any(), "the server will tell");
        pins.add_effects(Effects::UNSEEN_SETTING.with(Effects::SEED));
        let before = pins;
        pins.add(Reason::NamedStatement);
        let all: Vec<_> = pins.since(Pins::default()).map(Reason::as_str).collect();
        assert_eq!(all, ["setting", "load", "named_statement"]);
        assert_eq!(
            pins.since(before).collect::<Vec<_>>(),
            [Reason::NamedStatement]
        );
        pins.remove(Reason::NamedStatement);
        assert_eq!(pins, before);
    }

    #[test]
    fn evidence_pins_and_lifts() {
        let mut pinned = Pinned::default();
        pinned.shown(Kinds::ALL, Kinds::TEMPORARY.with(Kinds::LISTEN));
        assert_eq!(pinned.now().kinds(), Kinds::TEMPORARY.with(Kinds::LISTEN));
        pinned.add(Reason::Setting);
        pinned.shown(Kinds::TEMPORARY, Kinds::NONE);
        let left: Vec<_> = pinned.now().since(Pins::default()).collect();
        assert_eq!(left, [Reason::Setting, Reason::Listen]);
    }

    #[test]
    fn what_is_ignored_does_not_pin() {
        let mut pinned = Pinned::default();
        pinned.ignore([Reason::Listen, Reason::Setting].into_iter().collect());
        pinned.add(Reason::Setting);
        pinned.add_effects(Effects::UNSEEN_SETTING);
        pinned.shown(Kinds::ALL, Kinds::LISTEN);
        assert!(!pinned.now().any());
        pinned.add_effects(Effects::UNSEEN_SETTING.with(Effects::LOAD));
        pinned.shown(Kinds::ALL, Kinds::LISTEN.with(Kinds::TEMPORARY));
        let left: Vec<_> = pinned.now().since(Pins::default()).collect();
        assert_eq!(left, [Reason::Load, Reason::Temporary]);
    }

    #[test]
    fn filters_have_the_words_of_their_reasons() {
        use crate::config::Word;
        for (word, filter) in PinFilter::WORDS {
            assert_eq!(Reason::from(*filter).as_str(), *word);
        }
    }

    #[test]
    fn the_readme_explains_every_reason() {
        let readme = include_str!("../../README.md");
        for reason in Reason::ALL {
            let row = format!("\n| `{}` |", reason.as_str());
            assert!(readme.contains(&row), "README.md has no row for {row}");
        }
    }

    #[test]
    fn what_is_sent_behind_a_discard_outlives_it() {
        let mut pinned = Pinned::default();
        pinned.add(Reason::Listen);
        pinned.discarding();
        pinned.add(Reason::NamedStatement);
        pinned.discarded(Discard::Done);
        let left: Vec<_> = pinned.now().since(Pins::default()).collect();
        assert_eq!(left, [Reason::NamedStatement]);

        pinned.discarding();
        pinned.add(Reason::Temporary);
        pinned.discarding();
        pinned.discarded(Discard::Done);
        assert!(pinned.now().any());
        pinned.discarded(Discard::Failed);
        assert!(pinned.now().any());
        pinned.discarding();
        pinned.discarded(Discard::Done);
        assert!(!pinned.now().any());

        pinned.add(Reason::Load);
        pinned.discarding();
        pinned.discarded(Discard::Done);
        assert!(pinned.now().outlives_discard());
    }
}
