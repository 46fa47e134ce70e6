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
        const BY_EFFECT: [(Effects, Reason); 9] = [
            (Effects::SETTING, Reason::Setting),
            (Effects::PREPARE, Reason::SqlPrepare),
            (Effects::HELD_CURSOR, Reason::HeldCursor),
            (Effects::LISTEN, Reason::Listen),
            (Effects::LOAD, Reason::Load),
            (Effects::TEMPORARY, Reason::Temporary),
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

    /// PostgreSQL has confirmed that nothing is left.
    pub fn clear(&mut self) {
        self.0 = 0;
    }

    /// Those of `self` that `before` had not.
    pub fn since(self, before: Pins) -> impl Iterator<Item = Reason> {
        Reason::ALL
            .into_iter()
            .filter(move |reason| self.0 & !before.0 & reason.bit() != 0)
    }
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
        pins.clear();
        assert!(!pins.any());
    }
}
