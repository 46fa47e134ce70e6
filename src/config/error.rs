//! What can be wrong with a configuration: one message with the place, the key, what was wrong and what is allowed.
//!
//! Never holds a secret's value; knows nothing of SQLSTATEs, since no client ever sees it.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Builtin,
    File { path: PathBuf, line: usize },
    Environment(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin => f.write_str("built-in default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: the configuration file can't be read: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },

    #[error("{place}: not valid TOML: {problem}")]
    Syntax { place: Place, problem: String },

    #[error("{place}: unknown key `{key}`; {}", advice(nearest.as_deref(), known))]
    UnknownKey {
        place: Place,
        key: String,
        nearest: Option<String>,
        /// The keys that are allowed there.
        known: Vec<String>,
    },

    #[error("{place}: no such setting{}", nearest.as_deref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    UnknownVariable {
        place: Place,
        nearest: Option<String>,
    },

    #[error("{place}: `{key}` is not supported yet by this version of Weir; remove it{}", instead.map(|i| format!(" and {i}")).unwrap_or_default())]
    NotYet {
        place: Place,
        key: String,
        instead: Option<&'static str>,
    },

    #[error("{place}: {key}{} {problem}; allowed: {allowed}", shown.as_deref().map(|v| format!(" = {v}")).unwrap_or_default())]
    Wrong {
        place: Place,
        key: String,
        /// The value as written; `None` when it is, or may hold, a secret.
        shown: Option<Box<str>>,
        problem: String,
        allowed: Box<str>,
    },

    #[error("{place}: {key} {problem}")]
    Contradiction {
        place: Place,
        key: String,
        problem: String,
    },

    /// Something without which Weir can't start is nowhere to be found.
    #[error("{what}: {how}")]
    Missing {
        what: &'static str,
        how: &'static str,
    },
}

fn advice(nearest: Option<&str>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("allowed: {}", known.join(", ")),
    }
}

/// The candidate most like `word`, if any is near enough to be a slip of the finger.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(far, candidate)| *far <= 1 + candidate.len().min(word.len()) / 5)
        .min_by_key(|(far, _)| *far)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance over bytes: insertions, deletions and substitutions.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *slot;
            left = (diagonal + usize::from(x != y))
                .min(above + 1)
                .min(left + 1);
            diagonal = above;
            *slot = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, far) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("listen", "listn", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), far, "{a} {b}");
        }
    }

    #[test]
    fn only_slips_are_suggested() {
        let known = ["pool.max_connections", "pool.max_waiting", "log.filter"];
        assert_eq!(
            nearest("pool.max_conections", known),
            Some("pool.max_connections")
        );
        assert_eq!(nearest("pool.colour", known), None);
    }
}
