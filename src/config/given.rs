//! What the layers gave, before it is understood: raw values with the place each was written.
//!
//! Knows nothing of any particular option.

use std::collections::BTreeMap;

use super::error::{ConfigError, Place};
use super::parse::Parser;

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Raw {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<String>),
    /// A kind of TOML value that no option takes, by name.
    Misfit(&'static str),
}

impl Raw {
    /// As one string, where a string, a list of strings or a word will do.
    pub fn text(&self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Boolean(value) => Ok(value.to_string()),
            Self::List(items) => Ok(items.join(",")),
            Self::Integer(_) => Err("is a number, not a text in quotes".into()),
            Self::Misfit(kind) => Err(format!("is {kind}")),
        }
    }

    fn shown(&self) -> Option<String> {
        match self {
            // What holds an @ is most likely a connection URL, password and all.
            Self::Text(text) if text.contains('@') => None,
            Self::Text(text) => Some(format!("{text:?}")),
            Self::Integer(n) => Some(n.to_string()),
            Self::Boolean(b) => Some(b.to_string()),
            Self::List(_) | Self::Misfit(_) => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Given {
    pub raw: Raw,
    pub place: Place,
}

/// What an option is when nobody says anything.
#[derive(Clone, Copy, Debug)]
pub enum Builtin {
    /// This text, read by the option's own parser.
    Is(&'static str),
    /// Nothing; the words say what then happens.
    Absent(&'static str),
    /// It must be given.
    Required,
}

/// The values of one file's sections, or of one `[[users]]` entry, by full key (`pool.max_connections`).
#[derive(Clone, Debug)]
pub struct Values {
    /// Where the entry begins, for a message about what it lacks.
    pub place: Place,
    by_key: BTreeMap<String, Given>,
}

impl Values {
    pub fn new(place: Place) -> Self {
        Self {
            place,
            by_key: BTreeMap::new(),
        }
    }

    pub fn set(&mut self, key: impl Into<String>, given: Given) {
        self.by_key.insert(key.into(), given);
    }

    pub fn get(&self, key: &str) -> Option<&Given> {
        self.by_key.get(key)
    }

    pub fn remove(&mut self, key: &str) {
        self.by_key.remove(key);
    }

    pub fn read<P: Parser>(
        &self,
        key: &'static str,
        builtin: Builtin,
        parser: &P,
    ) -> Result<P::Out, ConfigError> {
        let wrong = |given: &Given, problem: String| ConfigError::Wrong {
            place: given.place.clone(),
            key: key.to_owned(),
            shown: if P::SECRET {
                None
            } else {
                given.raw.shown().map(String::into_boxed_str)
            },
            problem,
            allowed: parser.allowed().into(),
        };
        if let Some(given) = self.get(key) {
            return parser.parse(&given.raw).map_err(|p| wrong(given, p));
        }
        let (text, absent) = match builtin {
            Builtin::Is(text) => (text, None),
            Builtin::Absent(words) => (words, parser.absent()),
            Builtin::Required => ("", None),
        };
        if let Some(absent) = absent {
            return Ok(absent);
        }
        let given = Given {
            raw: Raw::Text(text.to_owned()),
            place: self.place.clone(),
        };
        match builtin {
            Builtin::Is(_) => parser.parse(&given.raw).map_err(|p| wrong(&given, p)),
            Builtin::Absent(_) | Builtin::Required => Err(ConfigError::Contradiction {
                place: given.place,
                key: key.to_owned(),
                problem: "must be given".to_owned(),
            }),
        }
    }

    /// Where `key` was written, for a message about it.
    pub fn place(&self, key: &str) -> Place {
        self.get(key).map_or(Place::Builtin, |g| g.place.clone())
    }
}
