//! The settings that a session carries from server to server.
//!
//! Pure. Knows what a client started out with and what it has now, and what a server's answer makes of both; not
//! how servers are asked.

use std::sync::Arc;

use super::questions::{Answer, Asked, Named};
use crate::server::Settings;
use crate::server::settings::{IDLE_LIMIT, is_role};
use crate::sql::Act;

/// Names and values that a session may carry, in bytes; one with more stays with its server.
const MAX_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub struct Carried {
    /// As it logged in: what RESET goes back to.
    startup: Arc<Settings>,
    now: Arc<Settings>,
}

/// What a server's answer says of the settings.
#[derive(Debug, PartialEq, Eq)]
pub enum Learnt {
    /// The server has these; the session goes on with its own.
    Server(Settings),
    /// They are too much to be carried.
    TooLarge,
}

impl Carried {
    pub fn new(startup: Arc<Settings>) -> Carried {
        Carried {
            now: Arc::clone(&startup),
            startup,
        }
    }

    pub fn now(&self) -> &Arc<Settings> {
        &self.now
    }

    /// DISCARD ALL: all is as it was at login.
    pub fn discarded(&mut self) {
        self.now = Arc::clone(&self.startup);
    }

    /// RESET ALL: all but a role is as it was at login. What is left of the server's.
    pub fn reset(&mut self, had: &Settings) -> Settings {
        let roles = self.now.iter().filter(|(name, _)| is_role(name));
        let roles = roles.map(|(name, value)| (name.to_owned(), Some(value.to_vec())));
        self.now = Arc::new(self.startup.with(roles));
        let gone = had.iter().filter(|(name, _)| !is_role(name));
        had.with(gone.map(|(name, _)| (name.to_owned(), None)))
    }

    /// Names that no list of PostgreSQL's tells.
    pub fn customs(&self) -> impl Iterator<Item = &str> {
        let names = self.now.iter().chain(self.startup.iter());
        names
            .map(|(name, _)| name)
            .filter(|name| name.contains('.'))
    }

    /// Takes over what the server has after the session's transactions on it; `had` is what it was given before.
    pub fn learn(&mut self, asked: &Asked, answer: Answer, had: &Settings, user: &str) -> Learnt {
        let mut mine: Vec<(String, Option<Vec<u8>>)> = Vec::new();
        let mut its: Vec<(String, Option<Vec<u8>>)> = Vec::new();
        let startup = |name: &str| self.startup.value(name).map(<[u8]>::to_vec);
        if asked.everything {
            // What is not listed is not set, or custom and asked for by name.
            let known = self.now.iter().chain(had.iter()).map(|(name, _)| name);
            let listed = |name: &str| !name.contains('.') && !is_role(name);
            for name in known.filter(|name| listed(name)) {
                mine.push((name.into(), startup(name)));
                its.push((name.into(), None));
            }
            for (name, value) in answer.set {
                if name == IDLE_LIMIT {
                    its.push((name, Some(value).filter(|value| value != b"0")));
                    continue;
                }
                mine.push((name.clone(), Some(value.clone())));
                its.push((name, Some(value)));
            }
        }
        for (name, value) in answer.values {
            if is_fleeting(&name) {
                continue;
            }
            if name == IDLE_LIMIT {
                its.push((name, value.filter(|value| value != b"0")));
                continue;
            }
            let value = value.filter(|value| !is_unset(&name, value, user));
            let act = asked.names.iter().find(|named| named.name == name);
            let may_be_reset = asked.everything || act.is_some_and(|named| named.act == Act::Reset);
            // Of a custom one no list tells whether it is set; once named it is known, if only by an empty value.
            let reset = match name.contains('.') {
                true => {
                    let empty = value.as_ref().is_none_or(Vec::is_empty);
                    may_be_reset && empty && self.startup.value(&name).is_some()
                }
                false => {
                    act.is_some_and(Named::may_be_unset)
                        && !answer.still_set.contains(&name)
                        && !is_role(&name)
                }
            };
            if reset {
                mine.push((name.clone(), startup(&name)));
                its.push((name, None));
            } else {
                mine.push((name.clone(), value.clone()));
                its.push((name, value));
            }
        }
        let now = self.now.with(mine);
        if now.bytes() > MAX_BYTES {
            return Learnt::TooLarge;
        }
        if now != *self.now {
            self.now = Arc::new(now);
        }
        Learnt::Server(had.with(its))
    }
}

/// Settings of a transaction, that are set again by each.
fn is_fleeting(name: &str) -> bool {
    matches!(
        name,
        "transaction_isolation" | "transaction_read_only" | "transaction_deferrable"
    )
}

/// Values that are no values: a role that is one's own.
fn is_unset(name: &str, value: &[u8], user: &str) -> bool {
    match name {
        "role" => value == b"none",
        "session_authorization" => value == user.as_bytes(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::questions::{Defaults, Questions};
    use crate::sql::report;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let owned = |(name, value): &(&str, &str)| ((*name).into(), value.as_bytes().to_vec());
        Settings::new(pairs.iter().map(owned))
    }

    fn learn(carried: &mut Carried, text: &str, answer: Answer, had: &Settings) -> Settings {
        let mut questions = Questions::default();
        questions.note(&report(text.as_bytes()));
        let asked = questions.put(carried.customs(), Defaults::Plain, &mut Vec::new());
        match carried.learn(&asked, answer, had, "app") {
            Learnt::Server(settings) => settings,
            Learnt::TooLarge => panic!("too large"),
        }
    }

    fn values(pairs: &[(&str, &str)]) -> Answer {
        let owned =
            |(name, value): &(&str, &str)| ((*name).into(), Some(value.as_bytes().to_vec()));
        Answer {
            values: pairs.iter().map(owned).collect(),
            ..Answer::default()
        }
    }

    #[test]
    fn what_was_set_is_carried_and_the_server_has_it() {
        let startup = settings(&[("application_name", "x")]);
        let mut carried = Carried::new(Arc::new(startup.clone()));
        let answer = values(&[("work_mem", "3MB")]);
        let server = learn(&mut carried, "SET work_mem = '3072'", answer, &startup);
        let expected = settings(&[("application_name", "x"), ("work_mem", "3MB")]);
        assert_eq!((&**carried.now(), &server), (&expected, &expected));
    }

    #[test]
    fn reset_means_what_the_client_came_with() {
        let startup = settings(&[("work_mem", "2MB")]);
        let mut carried = Carried::new(Arc::new(startup.clone()));
        learn(
            &mut carried,
            "SET work_mem = '3MB'",
            values(&[("work_mem", "3MB")]),
            &startup,
        );
        // The server's own value came back there: the client's is given at the next borrow.
        let server = learn(
            &mut carried,
            "RESET work_mem",
            values(&[("work_mem", "4MB")]),
            &settings(&[("work_mem", "3MB")]),
        );
        assert_eq!(
            (&**carried.now(), &server),
            (&startup, &Settings::default())
        );
        // Rolled back: it is set as it was.
        let rolled_back = Answer {
            still_set: vec!["work_mem".into()],
            ..values(&[("work_mem", "3MB")])
        };
        let had = settings(&[("work_mem", "3MB")]);
        let server = learn(&mut carried, "RESET work_mem", rolled_back, &had);
        assert_eq!((&**carried.now(), &server), (&had, &had));
    }

    #[test]
    fn everything_is_what_is_listed_and_what_was_asked_for() {
        let startup = settings(&[("datestyle", "German"), ("work_mem", "2MB")]);
        let mut carried = Carried::new(Arc::new(startup.clone()));
        let had = startup.with([("app.tenant".into(), Some(b"1".to_vec()))]);
        let answer = Answer {
            set: vec![("work_mem".into(), b"5MB".to_vec())],
            ..values(&[
                ("app.tenant", ""),
                ("role", "none"),
                ("session_authorization", "app"),
            ])
        };
        let server = learn(&mut carried, "CALL p()", answer, &had);
        assert_eq!(server, settings(&[("app.tenant", ""), ("work_mem", "5MB")]));
        assert_eq!(
            **carried.now(),
            settings(&[
                ("app.tenant", ""),
                ("datestyle", "German"),
                ("work_mem", "5MB")
            ])
        );
    }

    #[test]
    fn a_custom_setting_without_a_value_is_what_the_client_came_with() {
        let startup = settings(&[("app.a", "x")]);
        let mut carried = Carried::new(Arc::new(startup.clone()));
        for text in ["RESET app.a", "CALL p()"] {
            let server = learn(&mut carried, text, values(&[("app.a", "")]), &startup);
            assert_eq!((&**carried.now(), server), (&startup, Settings::default()));
        }
        let answer = values(&[("app.a", "y")]);
        learn(&mut carried, "CALL p()", answer, &startup);
        assert_eq!(**carried.now(), settings(&[("app.a", "y")]));
    }

    #[test]
    fn a_role_is_carried_until_it_is_laid_down() {
        let mut carried = Carried::new(Arc::default());
        let answer = values(&[("role", "other")]);
        let server = learn(&mut carried, "SET ROLE other", answer, &Settings::default());
        assert!(carried.now().has_role() && server.has_role());
        let answer = values(&[("role", "none")]);
        let server = learn(&mut carried, "RESET ROLE", answer, &server);
        assert!(carried.now().is_empty() && server.is_empty());
    }
}
