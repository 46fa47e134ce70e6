//! Why a session keeps its server connection between transactions.
//!
//! Pure. Knows the reasons and when all of them end; what gives rise to them, `sql` and `scan` find.

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
    Routine,
    Unsure,
    NamedStatement,
    UnnamedStatement,
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
        Reason::Routine,
        Reason::Unsure,
        Reason::NamedStatement,
        Reason::UnnamedStatement,
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
            Reason::Routine => "do_or_call",
            Reason::Unsure => "not_understood",
            Reason::NamedStatement => "named_statement",
            Reason::UnnamedStatement => "large_unnamed_statement",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }

    fn from(effects: Effects) -> impl Iterator<Item = Reason> {
        const SETTING: Effects = Effects::SETTING
            .with(Effects::UNSEEN_SETTING)
            .with(Effects::RESETS)
            .with(Effects::RESET_ALL)
            .with(Effects::ROLE);
        const BY_EFFECT: [(Effects, Reason); 9] = [
            (SETTING, Reason::Setting),
            (Effects::PREPARE, Reason::SqlPrepare),
            (Effects::HELD_CURSOR, Reason::HeldCursor),
            (Effects::LISTEN, Reason::Listen),
            (Effects::LOAD.with(Effects::SEED), Reason::Load),
            (
                Effects::TEMPORARY.with(Effects::PATH_UNSEEN),
                Reason::Temporary,
            ),
            (Effects::ADVISORY_LOCK, Reason::AdvisoryLock),
            (Effects::ROUTINE, Reason::Routine),
            (Effects::UNSURE, Reason::Unsure),
        ];
        BY_EFFECT
            .into_iter()
            .filter(move |(effect, _)| effects.has(*effect))
            .map(|(_, reason)| reason)
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
        let staying = effects.staying();
        if staying.is_none() {
            return;
        }
        for reason in Reason::from(staying) {
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

    /// Those of `self` that `before` had not.
    pub fn since(self, before: Pins) -> impl Iterator<Item = Reason> {
        Reason::ALL
            .into_iter()
            .filter(move |reason| self.0 & !before.0 & reason.bit() != 0)
    }
}

/// The pins of a session over time: what is pipelined behind a DISCARD ALL outlives it.
#[derive(Debug, Default)]
pub struct Pinned {
    now: Pins,
    /// Those that came up since the last DISCARD ALL was sent.
    since_discard: Pins,
    discards_under_way: u32,
}

impl Pinned {
    #[inline]
    pub fn now(&self) -> Pins {
        self.now
    }

    pub fn add(&mut self, reason: Reason) {
        self.now.add(reason);
        self.since_discard.add(reason);
    }

    #[inline]
    pub fn add_effects(&mut self, effects: Effects) {
        self.now.add_effects(effects);
        self.since_discard.add_effects(effects);
    }

    pub fn remove(&mut self, reason: Reason) {
        self.now.remove(reason);
        self.since_discard.remove(reason);
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
        let before = pins;
        pins.add(Reason::NamedStatement);
        let all: Vec<_> = pins.since(Pins::default()).map(Reason::as_str).collect();
        assert_eq!(all, ["setting", "listen", "named_statement"]);
        assert_eq!(
            pins.since(before).collect::<Vec<_>>(),
            [Reason::NamedStatement]
        );
        pins.remove(Reason::NamedStatement);
        assert_eq!(pins, before);
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
