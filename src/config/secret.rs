//! A value that must not be seen: whoever prints, logs or serialises it gets a placeholder.
//!
//! Knows nothing of where secrets come from or what they open.

use std::fmt;

use serde::{Serialize, Serializer};

/// What stands in a secret's place wherever it would be printed.
pub const REDACTED: &str = "[redacted]";

/// Holds a secret; the only way to it is [`Secret::expose`], so that `grep expose` lists every reader.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<T> Serialize for Secret<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_prints_a_secret() {
        let secret = Secret::new("hunter2".to_owned());
        let seen = [
            format!("{secret}"),
            format!("{secret:?}"),
            format!("{:#?}", Some(&secret)),
            serde_json::to_string(&secret).unwrap(),
        ];
        assert!(seen.iter().all(|s| !s.contains("hunter2")), "{seen:?}");
        assert_eq!(secret.expose(), "hunter2");
    }
}
