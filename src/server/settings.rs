//! Settings that a server connection has been given, and how to turn one set into another.
//!
//! Pure. Knows how to say it in SQL, in plain ASCII, whatever the connection's encoding and string syntax;
//! not where the settings come from.

use std::io::Write;

use crate::protocol::frame::put;
use crate::protocol::tag::frontend;

/// Values by name, sorted; names in lower case. Empty: as the server starts out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings(Vec<(String, Vec<u8>)>);

impl Settings {
    /// Of two values for one name the later one holds, as in a startup packet.
    pub fn new(given: impl IntoIterator<Item = (String, Vec<u8>)>) -> Settings {
        let mut settings: Vec<(String, Vec<u8>)> = Vec::new();
        for (name, value) in given {
            if name == IDLE_LIMIT {
                continue;
            }
            match settings.binary_search_by(|(known, _)| known.cmp(&name)) {
                Ok(place) => settings[place].1 = value,
                Err(place) => settings.insert(place, (name, value)),
            }
        }
        Settings(settings)
    }

    /// Whether a value may lead to objects that only this session has.
    pub fn may_be_temporary(&self) -> bool {
        let mut values = self.0.iter().map(|(_, value)| value);
        values.any(|value| {
            value
                .windows(7)
                .any(|part| part.eq_ignore_ascii_case(b"pg_temp"))
        })
    }

    /// The same, but for these: a value, or none, in place of what they had.
    pub fn with(&self, changes: impl IntoIterator<Item = (String, Option<Vec<u8>>)>) -> Settings {
        let mut settings = self.0.clone();
        for (name, value) in changes {
            let place = settings.binary_search_by(|(known, _)| known.cmp(&name));
            match (place, value) {
                (Ok(place), Some(value)) => settings[place].1 = value,
                (Ok(place), None) => drop(settings.remove(place)),
                (Err(place), Some(value)) => settings.insert(place, (name, value)),
                (Err(_), None) => {}
            }
        }
        Settings(settings)
    }

    /// Names and values together, in bytes.
    pub fn bytes(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }

    /// Whether another role is taken on, or was logged in as.
    pub fn has_role(&self) -> bool {
        self.iter().any(|(name, _)| is_role(name))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    pub fn value(&self, name: &str) -> Option<&[u8]> {
        let place = self
            .0
            .binary_search_by(|(known, _)| known.as_str().cmp(name))
            .ok()?;
        self.0.get(place).map(|(_, value)| value.as_slice())
    }

    /// Those that change what a statement's text means, in a form that tells them apart.
    pub fn parsing(&self) -> Box<[u8]> {
        let mut told = Vec::new();
        let parsing = self.iter().filter(|(name, _)| PARSING.contains(name));
        for (name, value) in parsing {
            for part in [name.as_bytes(), value] {
                told.extend_from_slice(&part.len().to_be_bytes());
                told.extend_from_slice(part);
            }
        }
        told.into()
    }

    /// Appends the Query that makes a server which has `from` have `self`; nothing if it has already.
    ///
    /// `set_config` and not SET: it takes a value as a startup packet does, a list included, and NULL
    /// brings back the server's own default.
    pub fn put_change(&self, from: &Settings, refusal: OnRefusal, out: &mut Vec<u8>) -> Change {
        let changes = self.changes(from);
        if changes.is_empty() {
            return Change::None;
        }
        let calmed = from.is_hasty();
        if calmed {
            put(out, frontend::QUERY, |body| body.extend_from_slice(CALM));
        }
        let calm = from.calmed();
        let changes = if calmed { self.changes(&calm) } else { changes };
        if !changes.is_empty() {
            put_set_config(out, refusal, changes.iter().copied());
        }
        Change::Sent {
            queries: usize::from(calmed) + usize::from(!changes.is_empty()),
        }
    }

    /// The same in a Query for each value, so that a server which refuses one has the others: what they do, in their
    /// order.
    pub fn put_each_change(&self, from: &Settings, out: &mut Vec<u8>) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.changes(from).is_empty() {
            return steps;
        }
        let calm = from.calmed();
        if from.is_hasty() {
            put(out, frontend::QUERY, |body| body.extend_from_slice(CALM));
            steps.push(HASTY.map(|name| (name.to_owned(), None)).to_vec());
        }
        for change @ (name, value) in self.changes(&calm) {
            put_set_config(out, OnRefusal::Lives, [change].into_iter());
            steps.push(vec![(name.to_owned(), value.map(<[u8]>::to_vec))]);
        }
        steps
    }

    /// What must be set, or brought back to the server's own value, in the order that this must be done in.
    fn changes<'a>(&'a self, from: &'a Settings) -> Vec<(&'a str, Option<&'a [u8]>)> {
        if self == from {
            return Vec::new();
        }
        let differs = |(name, value): &(&str, &[u8])| from.value(name) != Some(*value);
        let lost = from.iter().filter(|(name, _)| self.value(name).is_none());
        let lost = lost.map(|(name, _)| (name, None));
        let new = self.iter().filter(differs);
        let new = new.map(|(name, value)| (name, Some(value)));
        // Under another role fewer settings may be changed: it is laid down first and taken up last.
        let ordinary = lost.chain(new).filter(|(name, _)| !is_role(name));
        let laid_down = ROLES.iter().filter(|role| from.value(role).is_some());
        let laid_down = laid_down.map(|role| (*role, None));
        let taken_up = ROLES.iter().rev();
        let taken_up = taken_up.filter_map(|role| Some((*role, Some(self.value(role)?))));
        laid_down.chain(ordinary).chain(taken_up).collect()
    }

    /// Whether a query of ours could be cut short, or made to wait, by one of the values.
    pub fn is_hasty(&self) -> bool {
        HASTY.iter().any(|name| self.value(name).is_some())
    }

    /// As a server has it that was calmed.
    fn calmed(&self) -> Settings {
        self.with(HASTY.map(|name| (name.to_owned(), None)))
    }

    /// Appends the Query that gives all of this to a server that has it already: it fails where another server
    /// could not be given it.
    pub fn put_again(&self, out: &mut Vec<u8>) {
        let roles = ROLES.iter().filter(|role| self.value(role).is_some());
        let laid_down = roles.clone().map(|role| (*role, None));
        let ordinary = self.iter().filter(|(name, _)| !is_role(name));
        let ordinary = ordinary.map(|(name, value)| (name, Some(value)));
        let taken_up = roles.rev().map(|role| (*role, self.value(role)));
        put_set_config(
            out,
            OnRefusal::Lives,
            laid_down.chain(ordinary).chain(taken_up),
        );
    }
}

fn put_set_config<'a>(
    out: &mut Vec<u8>,
    refusal: OnRefusal,
    changes: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
) {
    put(out, frontend::QUERY, |body| {
        if refusal == OnRefusal::Ends {
            body.extend_from_slice(GUARD);
        }
        let mut lead: &[u8] = b"SELECT ";
        for (name, value) in changes {
            body.extend_from_slice(lead);
            lead = b", ";
            body.extend_from_slice(b"pg_catalog.set_config(");
            put_literal(body, name.as_bytes());
            body.push(b',');
            match value {
                Some(value) => put_literal(body, value),
                None => body.extend_from_slice(b"NULL"),
            }
            body.extend_from_slice(b",false)");
        }
        body.push(0);
    });
}

/// It would end a server that lies idle: no session carries it, and no server is released with it. Between
/// transactions nobody sits on a server; clients have `session.idle_client_timeout`.
pub const IDLE_LIMIT: &str = "idle_session_timeout";

/// Values under which another client's query, or our own, would be cancelled, or wait for a safe snapshot.
const HASTY: [&str; 2] = ["default_transaction_deferrable", "statement_timeout"];

/// Brings them back to what a server starts out with. RESET takes no snapshot.
const CALM: &[u8] = b"RESET default_transaction_deferrable; RESET statement_timeout\0";

/// Until the end of this Query, an error ends the connection: what stands behind it is never read. A statement of its
/// own: nothing has to be looked up for it, so that it can't wait or fail itself.
const GUARD: &[u8] = b"SET LOCAL exit_on_error = on; ";

/// In the order they are laid down: taking up a session's user lays down the role.
const ROLES: [&str; 2] = ["role", "session_authorization"];

/// What PostgreSQL reads a text under, and fixes in what it makes of it.
const PARSING: [&str; 13] = [
    "array_nulls",
    "backslash_quote",
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    "role",
    "search_path",
    "session_authorization",
    "standard_conforming_strings",
    "timezone",
    "transform_null_equals",
    "xmloption",
];

pub fn is_role(name: &str) -> bool {
    ROLES.contains(&name)
}

/// What becomes of a connection that refuses a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRefusal {
    /// It has what it had, and goes on with what was sent behind.
    Lives,
    /// PostgreSQL ends it (FATAL), before it reads what was sent behind.
    Ends,
}

/// What one Query changes: names, and values unless they go back to the server's own.
pub type Step = Vec<(String, Option<Vec<u8>>)>;

/// Whether there was anything to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// In so many messages.
    Sent {
        queries: usize,
    },
}

/// An escape string constant in ASCII: reads the same whatever `standard_conforming_strings` and
/// `client_encoding` are.
pub fn put_literal(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(b"E'");
    for &byte in text {
        match byte {
            b'\'' => out.extend_from_slice(b"''"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b' '..=b'~' => out.push(byte),
            _ => write!(out, "\\x{byte:02x}").expect("a Vec takes all that is written"),
        }
    }
    out.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(
            pairs
                .iter()
                .map(|(name, value)| ((*name).into(), value.as_bytes().to_vec())),
        )
    }

    fn change(from: &Settings, to: &Settings) -> String {
        let mut out = Vec::new();
        match to.put_change(from, OnRefusal::Lives, &mut out) {
            Change::None => String::new(),
            Change::Sent { .. } => String::from_utf8(out[5..out.len() - 1].to_vec()).unwrap(),
        }
    }

    #[test]
    fn only_the_difference_is_sent() {
        let from = settings(&[("timezone", "UTC"), ("search_path", "a, b")]);
        let to = settings(&[
            ("search_path", "c"),
            ("datestyle", "ISO"),
            ("search_path", "a, b"),
        ]);
        assert_eq!(change(&to, &to), "");
        assert_eq!(
            change(&from, &to),
            "SELECT pg_catalog.set_config(E'timezone',NULL,false), \
             pg_catalog.set_config(E'datestyle',E'ISO',false)"
        );
    }

    #[test]
    fn what_changes_a_texts_meaning_is_told_apart() {
        let same = settings(&[("work_mem", "1MB"), ("search_path", "a")]).parsing();
        assert_eq!(settings(&[("search_path", "a")]).parsing(), same);
        assert_ne!(settings(&[("search_path", "b")]).parsing(), same);
        assert!(settings(&[("work_mem", "1MB")]).parsing().is_empty());
    }

    #[test]
    fn a_hasty_server_is_calmed_first() {
        let hasty = settings(&[("statement_timeout", "1ms"), ("work_mem", "1MB")]);
        let mut out = Vec::new();
        let change = hasty.put_change(&hasty, OnRefusal::Lives, &mut out);
        assert_eq!((change, out.len()), (Change::None, 0));
        let wanted = settings(&[("statement_timeout", "1ms"), ("work_mem", "2MB")]);
        let change = wanted.put_change(&hasty, OnRefusal::Lives, &mut out);
        assert_eq!(change, Change::Sent { queries: 2 });
        let text = String::from_utf8_lossy(&out);
        let (calm, rest) = text.split_once("\0Q").unwrap();
        assert!(calm.contains("RESET statement_timeout"), "{text}");
        // It is what it was, but only after the rest.
        assert!(rest.contains("E'statement_timeout',E'1ms'"), "{text}");
    }

    #[test]
    fn a_role_is_laid_down_first_and_taken_up_last() {
        let from = settings(&[("a.b", "1"), ("role", "limited")]);
        let to = settings(&[("role", "other"), ("z.z", "2")]);
        assert_eq!(
            change(&from, &to),
            "SELECT pg_catalog.set_config(E'role',NULL,false), \
             pg_catalog.set_config(E'a.b',NULL,false), \
             pg_catalog.set_config(E'z.z',E'2',false), \
             pg_catalog.set_config(E'role',E'other',false)"
        );
    }

    #[test]
    fn one_by_one_or_all_or_nothing() {
        let from = settings(&[("role", "r"), ("statement_timeout", "1s")]);
        let to = settings(&[("a.b", "1"), ("role", "r")]);
        let mut out = Vec::new();
        let steps = to.put_each_change(&from, &mut out);
        let names: Vec<&str> = steps.iter().flatten().map(|(name, _)| &**name).collect();
        assert_eq!(out.iter().filter(|byte| **byte == b'Q').count(), 4);
        assert_eq!(
            names,
            [HASTY[0], HASTY[1], "role", "a.b", "role"],
            "calmed, laid down, set, taken up"
        );
        assert!(to.put_each_change(&to, &mut out).is_empty());
        out.clear();
        to.put_change(&Settings::default(), OnRefusal::Ends, &mut out);
        assert!(String::from_utf8_lossy(&out).contains("exit_on_error = on; SELECT "));
    }

    #[test]
    fn values_can_not_break_out() {
        let nasty = settings(&[("a.b", "it's \\ \n é")]);
        assert_eq!(
            change(&Settings::default(), &nasty),
            "SELECT pg_catalog.set_config(E'a.b',E'it''s \\\\ \\x0a \\xc3\\xa9',false)"
        );
    }
}
