//! What only the server can tell of a session, and how it is asked: which values its settings have after the
//! transaction, and whether there is anything left that must stay with the connection.
//!
//! Pure. A rollback, a savepoint, an error or a function may have undone or done what the text says, so nothing is
//! concluded from texts: they only tell what to ask for. Knows the catalogue; not what follows from the answers.

use crate::protocol::frame::{HEADER_BYTES, Head, put};
use crate::protocol::reply::data_row;
use crate::protocol::tag::{backend, frontend};
use crate::server::settings::put_literal;
use crate::sql::{Act, Effects, Report};

/// Names kept between two questions; a session that touches more has all of its settings asked for.
const MAX_NAMES: usize = 64;

/// A setting that was named, and whether all that was done to it was to reset it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub act: Act,
}

impl Named {
    /// Whether it is to be known if it is set at all, and not only to what. What a SET was refused is worth no question, but
    /// for the one setting that pins.
    pub fn may_be_unset(&self) -> bool {
        self.act == Act::Reset || self.name == TEMP_BUFFERS
    }
}

/// A server that has used temporary tables takes no other value of it: with a value of its own, a session is pinned.
pub const TEMP_BUFFERS: &str = "temp_buffers";

/// Kinds of state that a connection keeps beyond a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    pub const NONE: Kinds = Kinds(0);
    pub const TEMPORARY: Kinds = Kinds(1);
    pub const HELD_CURSOR: Kinds = Kinds(1 << 1);
    pub const ADVISORY_LOCK: Kinds = Kinds(1 << 2);
    pub const LISTEN: Kinds = Kinds(1 << 3);
    /// Statements prepared by SQL.
    pub const PREPARED: Kinds = Kinds(1 << 4);
    pub const ALL: Kinds = Kinds((1 << 5) - 1);

    pub const fn with(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    pub const fn only(self, other: Kinds) -> Kinds {
        Kinds(self.0 & other.0)
    }

    pub const fn without(self, other: Kinds) -> Kinds {
        Kinds(self.0 & !other.0)
    }

    pub const fn has(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// What is to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Questions {
    names: Vec<Named>,
    /// All settings are asked for.
    everything: bool,
    kinds: Kinds,
}

/// What a transaction of the session is by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defaults {
    Plain,
    MayWait,
}

/// What was asked, to be held against the answer.
#[derive(Debug)]
pub struct Asked {
    pub names: Vec<Named>,
    pub everything: bool,
    pub kinds: Kinds,
}

impl Asked {
    pub fn is_about_resets(&self) -> bool {
        self.everything || self.names.iter().any(|named| named.act == Act::Reset)
    }
}

/// What the server says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Values of those asked for by name; `None` where there is no such setting.
    pub values: Vec<(String, Option<Vec<u8>>)>,
    /// Names, of those that were reset, whose value is the session's own all the same.
    pub still_set: Vec<String>,
    /// All that the session has set, but for custom ones and the role.
    pub set: Vec<(String, Vec<u8>)>,
    pub kinds: Kinds,
    /// Those that the server listens to.
    pub channels: Vec<Vec<u8>>,
}

/// Of texts that may do what they don't show.
pub const UNSEEN: Effects = Effects::ROUTINE.with(Effects::UNSURE);

impl Questions {
    /// Something is to be asked.
    #[inline]
    pub fn any(&self) -> bool {
        !self.names.is_empty() || self.everything || !self.kinds.is_none()
    }

    /// Kinds of state that may have come, or gone.
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// A text was sent to be executed.
    pub fn note(&mut self, report: &Report) {
        const ANYTHING: Effects = UNSEEN
            .with(Effects::RESET_ALL)
            .with(Effects::UNSEEN_SETTING)
            .with(Effects::DISCARD_ALL)
            .with(Effects::DISCARD_IN_TEXT);
        let effects = report.effects;
        if effects.has(ANYTHING) {
            self.note_anything();
        }
        if let Some(acts) = &report.acts {
            for (name, act) in &acts.settings {
                self.name(name, *act);
            }
        }
        const BY_EFFECT: [(Effects, Kinds); 5] = [
            (
                Effects::TEMPORARY.with(Effects::PATH_UNSEEN),
                Kinds::TEMPORARY,
            ),
            (Effects::HELD_CURSOR, Kinds::HELD_CURSOR),
            (Effects::ADVISORY_LOCK, Kinds::ADVISORY_LOCK),
            (Effects::LISTEN.with(Effects::UNLISTEN), Kinds::LISTEN),
            (Effects::PREPARE.with(Effects::DEALLOCATE), Kinds::PREPARED),
        ];
        for (effect, kind) in BY_EFFECT {
            if effects.has(effect) {
                self.kinds = self.kinds.with(kind);
            }
        }
    }

    /// What was sent may have done anything.
    pub fn note_anything(&mut self) {
        self.everything = true;
        self.kinds = Kinds::ALL;
    }

    /// Whether state of these kinds is there.
    pub fn look_for(&mut self, kinds: Kinds) {
        self.kinds = self.kinds.with(kinds);
    }

    /// Nobody wants to know whether state of these kinds is there.
    #[inline]
    pub fn pass_over(&mut self, kinds: Kinds) {
        self.kinds = self.kinds.without(kinds);
    }

    fn name(&mut self, name: &[u8], act: Act) {
        // The scanner tells plain ones only.
        let Ok(name) = std::str::from_utf8(name) else {
            return self.note_anything();
        };
        if let Some(known) = self.names.iter_mut().find(|known| known.name == name) {
            if act == Act::Set {
                known.act = Act::Set;
            }
        } else if self.names.len() >= MAX_NAMES {
            self.everything = true;
        } else {
            self.names.push(Named {
                name: name.into(),
                act,
            });
        }
    }

    /// Appends the Query that asks, and starts anew. `customs`: names that are asked for when everything is.
    ///
    /// In a transaction of its own where the session's defaults could make it wait for a safe snapshot.
    pub fn put<'a>(
        &mut self,
        customs: impl Iterator<Item = &'a str>,
        defaults: Defaults,
        out: &mut Vec<u8>,
    ) -> Asked {
        let Questions {
            mut names,
            everything,
            kinds,
        } = std::mem::take(self);
        if everything {
            let unlisted = customs.chain(["role", "session_authorization"]);
            for name in unlisted.take(MAX_NAMES * 4) {
                if !names.iter().any(|known| known.name == name) {
                    names.push(Named {
                        name: name.into(),
                        act: Act::Set,
                    });
                }
            }
        }
        const WAITS: &str = "default_transaction_deferrable";
        let waits = defaults == Defaults::MayWait || names.iter().any(|named| named.name == WAITS);
        put(out, frontend::QUERY, |body| {
            if waits {
                body.extend_from_slice(b"BEGIN ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE; ");
            }
            let mut parts = Parts { body, any: false };
            parts.names(&names);
            if everything {
                parts.next(SET);
            }
            for (kind, part) in STATE {
                if kinds.has(kind) {
                    parts.next(part);
                }
            }
            if waits {
                body.extend_from_slice(b"; COMMIT");
            }
            body.push(0);
        });
        Asked {
            names,
            everything,
            kinds,
        }
    }
}

/// A value in bytes of the database's encoding, whatever the client's is.
const VALUE: &str = "pg_catalog.encode(pg_catalog.convert_to(pg_catalog.current_setting(n, true), pg_catalog.getdatabaseencoding()), 'hex')";

const SET: &str = "SELECT 's', n, pg_catalog.encode(pg_catalog.convert_to(pg_catalog.current_setting(n, true), \
    pg_catalog.getdatabaseencoding()), 'hex') FROM (SELECT name FROM pg_catalog.pg_settings \
    WHERE source OPERATOR(pg_catalog.=) 'session') AS x(n)";

/// Objects in the temporary schema depend on it, and dependencies are indexed. Advisory locks are the session's:
/// this is asked between transactions.
const STATE: [(Kinds, &str); 5] = [
    (
        Kinds::TEMPORARY,
        "SELECT 't', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend \
         WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid \
         AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())",
    ),
    (
        Kinds::HELD_CURSOR,
        "SELECT 'c', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)",
    ),
    (
        Kinds::ADVISORY_LOCK,
        "SELECT 'a', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
         AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
    ),
    (
        Kinds::LISTEN,
        // In the client's encoding, as notifications will name them.
        "SELECT 'l', '', n FROM pg_catalog.pg_listening_channels() AS x(n)",
    ),
    (
        Kinds::PREPARED,
        "SELECT 'p', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)",
    ),
];

/// The parts of a question, in one UNION.
struct Parts<'a> {
    body: &'a mut Vec<u8>,
    any: bool,
}

impl Parts<'_> {
    fn next(&mut self, part: &str) {
        if std::mem::replace(&mut self.any, true) {
            self.body.extend_from_slice(b" UNION ALL ");
        }
        self.body.extend_from_slice(part.as_bytes());
    }

    fn names(&mut self, names: &[Named]) {
        if names.is_empty() {
            return;
        }
        self.next("SELECT 'v', n, ");
        self.body.extend_from_slice(VALUE.as_bytes());
        self.body
            .extend_from_slice(b" FROM pg_catalog.unnest(ARRAY[");
        self.array(names.iter());
        self.body.extend_from_slice(b"]) AS x(n)");
        let mut reset = names.iter().filter(|named| named.may_be_unset());
        if reset.clone().next().is_some() {
            self.next(
                "SELECT 'r', name, '' FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session' \
                 AND pg_catalog.lower(name) OPERATOR(pg_catalog.=) ANY (ARRAY[",
            );
            self.array(&mut reset);
            self.body.extend_from_slice(b"])");
        }
    }

    fn array<'n>(&mut self, names: impl Iterator<Item = &'n Named>) {
        let mut lead: &[u8] = b"";
        for named in names {
            self.body.extend_from_slice(lead);
            put_literal(self.body, named.name.as_bytes());
            lead = b",";
        }
    }
}

impl Answer {
    /// Reads the messages that answer a question; `None` if they don't.
    pub fn read(mut messages: &[u8]) -> Option<Answer> {
        let mut answer = Answer::default();
        while let Some(head) = Head::parse(messages) {
            let head = head.ok()?;
            let (frame, rest) = messages.split_at_checked(head.frame_bytes())?;
            if head.tag == backend::DATA_ROW {
                answer.row(frame.get(HEADER_BYTES..)?)?;
            }
            messages = rest;
        }
        messages.is_empty().then_some(answer)
    }

    fn row(&mut self, body: &[u8]) -> Option<()> {
        let values = data_row(body)?;
        let [Some(kind), Some(name), value] = values.as_slice() else {
            return None;
        };
        let name = || Some(std::str::from_utf8(name).ok()?.to_ascii_lowercase());
        match *kind {
            b"v" => {
                let value = match value {
                    Some(hex) => Some(unhex(hex)?),
                    None => None,
                };
                self.values.push((name()?, value));
            }
            b"s" => self.set.push((name()?, unhex((*value)?)?)),
            b"r" => self.still_set.push(name()?),
            b"t" => self.look(Kinds::TEMPORARY),
            b"c" => self.look(Kinds::HELD_CURSOR),
            b"a" => self.look(Kinds::ADVISORY_LOCK),
            b"l" => {
                self.look(Kinds::LISTEN);
                self.channels.push((*value)?.to_vec());
            }
            b"p" => self.look(Kinds::PREPARED),
            _ => return None,
        }
        Some(())
    }

    fn look(&mut self, kind: Kinds) {
        self.kinds = self.kinds.with(kind);
    }
}

/// Reads rows of one name each.
pub fn names(mut messages: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    while let Some(head) = Head::parse(messages) {
        let (frame, rest) = messages.split_at_checked(head.ok()?.frame_bytes())?;
        if frame.first() == Some(&backend::DATA_ROW) {
            let values = data_row(frame.get(HEADER_BYTES..)?)?;
            names.push(values.first().copied()??.to_vec());
        }
        messages = rest;
    }
    Some(names)
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    digits.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::report;

    fn asked(texts: &[&str], customs: &[&str]) -> (String, Asked) {
        let mut questions = Questions::default();
        for text in texts {
            questions.note(&report(text.as_bytes()));
        }
        let mut out = Vec::new();
        let asked = questions.put(customs.iter().copied(), Defaults::Plain, &mut out);
        assert!(!questions.any());
        let text = String::from_utf8(out[HEADER_BYTES..out.len() - 1].to_vec()).unwrap();
        (text, asked)
    }

    #[test]
    fn only_what_was_touched_is_asked_for() {
        let mut none = Questions::default();
        none.note(&report(b"SELECT 1"));
        none.note(&report(b"SET LOCAL work_mem = '1MB'"));
        assert!(!none.any());

        let (text, touched) = asked(
            &["SET work_mem = '1MB'", "SET TIME ZONE 'UTC'"],
            &["app.tenant"],
        );
        assert!(text.contains("ARRAY[E'work_mem',E'timezone']"), "{text}");
        assert!(!text.contains("UNION"), "{text}");
        assert!(touched.kinds.is_none() && !touched.everything);

        let (text, touched) = asked(&["LISTEN a"], &[]);
        assert!(text.starts_with("SELECT 'l'"), "{text}");
        assert_eq!(touched.kinds, Kinds::LISTEN);
    }

    #[test]
    fn a_routine_has_everything_asked_for() {
        let (text, asked) = asked(&["SET work_mem = 1", "CALL p()"], &["app.tenant"]);
        assert!(text.contains("E'app.tenant'") && text.contains("SELECT 's'"));
        assert_eq!(asked.names.len(), 4);
        assert!(asked.everything);
        assert_eq!(asked.kinds, Kinds::ALL);
        let (text, _) = self::asked(&["SET default_transaction_deferrable = on"], &[]);
        assert!(text.starts_with("BEGIN ") && text.ends_with("; COMMIT"));
    }

    #[test]
    fn answers_are_read() {
        let mut messages = Vec::new();
        let rows: [[Option<&[u8]>; 3]; 5] = [
            [Some(b"v"), Some(b"TimeZone"), Some(b"555443")],
            [Some(b"v"), Some(b"a.b"), None],
            [Some(b"r"), Some(b"work_mem"), Some(b"")],
            [Some(b"t"), Some(b""), Some(b"")],
            [Some(b"l"), Some(b""), Some(b"News")],
        ];
        put(&mut messages, backend::ROW_DESCRIPTION, |_| {});
        for row in rows {
            put(&mut messages, backend::DATA_ROW, |body| {
                body.extend_from_slice(&[0, 3]);
                for value in row {
                    let length = value.map_or(-1, |value| value.len() as i32);
                    body.extend_from_slice(&length.to_be_bytes());
                    body.extend_from_slice(value.unwrap_or_default());
                }
            });
        }
        let answer = Answer::read(&messages).unwrap();
        assert_eq!(
            answer.values,
            [
                ("timezone".into(), Some(b"UTC".to_vec())),
                ("a.b".into(), None)
            ]
        );
        assert_eq!(answer.still_set, ["work_mem"]);
        assert_eq!(answer.kinds, Kinds::TEMPORARY.with(Kinds::LISTEN));
        assert_eq!(answer.channels, [b"News"]);
        assert_eq!(Answer::read(&messages[..messages.len() - 1]), None);
    }
}
