//! What was found in a whole text: its effects, and the names that go with them.
//!
//! Knows PostgreSQL's rules for the names of settings; not how a text is read.

use super::effect::Effects;
use super::name::{IDENTIFIER_BYTES, NAME_BYTES};

/// Names kept of one text. A text with more is nothing that an application sends.
const NAMES: usize = 16;

/// Effects, and names where there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub effects: Effects,
    pub acts: Option<Box<Acts>>,
}

/// What the effects SETTING, RESETS and DATABASE_DDL are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acts {
    /// Each name once, in lower case and made of ASCII letters, digits, `_`, `$` and `.`; with the last that
    /// was done to it.
    pub settings: Vec<(Vec<u8>, Act)>,
    /// As PostgreSQL will look them up. Empty beside DATABASE_DDL: the text doesn't show the name.
    pub databases: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Set,
    Reset,
}

impl Report {
    pub(super) fn add(&mut self, effects: Effects) {
        self.effects = self.effects.with(effects);
    }

    /// A setting is set or reset for the session.
    pub(super) fn setting(&mut self, name: &[u8], act: Act) {
        let name = name.to_ascii_lowercase();
        match name.as_slice() {
            b"seed" => return self.add(Effects::SEED),
            b"role" => self.add(Effects::ROLE),
            b"session_authorization" => {
                self.add(Effects::ROLE);
                self.note(b"role".to_vec(), Act::Reset);
            }
            _ => {}
        }
        self.note(name, act);
    }

    fn note(&mut self, name: Vec<u8>, act: Act) {
        if name.is_empty() || name.len() > NAME_BYTES || !name.iter().all(|&b| is_plain(b)) {
            return self.add(Effects::UNSEEN_SETTING);
        }
        let settings = &mut self.acts.get_or_insert_default().settings;
        if let Some((_, last)) = settings.iter_mut().find(|(known, _)| *known == name) {
            *last = act;
        } else if settings.len() < NAMES {
            settings.push((name, act));
        } else {
            return self.add(Effects::UNSEEN_SETTING);
        }
        self.add(match act {
            Act::Set => Effects::SETTING,
            Act::Reset => Effects::RESETS,
        });
    }

    /// A database is about to be created from, dropped, moved or renamed.
    pub(super) fn database(&mut self, name: &[u8]) {
        self.add(Effects::DATABASE_DDL);
        if name.len() <= IDENTIFIER_BYTES {
            let databases = &mut self.acts.get_or_insert_default().databases;
            // PostgreSQL takes such a statement only alone: a text with two is refused.
            if databases.len() < NAMES {
                databases.push(name.to_vec());
            }
        }
    }
}

/// What names of settings are made of. Others may depend on the encoding, or need quoting to be asked for.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_act_counts() {
        let mut report = Report::default();
        report.setting(b"A", Act::Set);
        report.setting(b"session_authorization", Act::Set);
        report.setting(b"a", Act::Reset);
        let names = [
            (b"a".to_vec(), Act::Reset),
            (b"role".to_vec(), Act::Reset),
            (b"session_authorization".to_vec(), Act::Set),
        ];
        assert_eq!(report.acts.unwrap().settings, names);
    }

    #[test]
    fn names_that_cannot_be_told_are_unseen() {
        for name in ["", "a'b", "é.x", &"x".repeat(65)] {
            let mut report = Report::default();
            report.setting(name.as_bytes(), Act::Set);
            assert_eq!(report.effects, Effects::UNSEEN_SETTING, "{name}");
        }
        let mut report = Report::default();
        for n in 0..=NAMES {
            report.setting(format!("a.b{n}").as_bytes(), Act::Set);
        }
        assert!(report.effects.has(Effects::UNSEEN_SETTING));
        assert_eq!(report.acts.unwrap().settings.len(), NAMES);
    }
}
