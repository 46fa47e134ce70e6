//! Access keys that Weir holds itself, and what they say of a token.
//!
//! Knows the file's form; does not know who may come in with which key: whoever holds one may name any user.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::rds::RdsToken;
use super::reason::Reason;
use crate::client::challenge::same;
use crate::config::Secret;

/// A file with more than that is none of keys.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// By key id.
#[derive(Debug, Default)]
pub struct Keys(HashMap<String, Key>);

#[derive(Debug, Deserialize)]
struct Key {
    #[serde(deserialize_with = "hidden")]
    secret: Secret<String>,
    #[serde(default, deserialize_with = "maybe_hidden")]
    session_token: Option<Secret<String>>,
    #[serde(default = "is_active")]
    active: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("auth.iam.static.keys_file: {path}: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("auth.iam.static.keys_file: {path}: larger than {MAX_FILE_BYTES} bytes", path = path.display())]
    TooLarge { path: PathBuf },
    /// The parser's own words may quote a secret: only its place is told.
    #[error(
        "auth.iam.static.keys_file: {path}:{line}: not what is expected: {{\"key id\": {{\"secret\": \"...\", \"session_token\": \"...\" or null, \"active\": true}}}}",
        path = path.display()
    )]
    Form { path: PathBuf, line: usize },
}

impl Keys {
    /// Reads the JSON file: key id to secret, session token and whether it is active.
    pub fn read(path: &Path) -> Result<Keys, KeysError> {
        let unreadable = |source| KeysError::Unreadable {
            path: path.to_owned(),
            source,
        };
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
            return Err(KeysError::TooLarge {
                path: path.to_owned(),
            });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Keys::parse(&text).map_err(|error| KeysError::Form {
            path: path.to_owned(),
            line: error.line(),
        })
    }

    fn parse(text: &str) -> Result<Keys, serde_json::Error> {
        serde_json::from_str(text).map(Keys)
    }

    pub fn knows(&self, key_id: &str) -> bool {
        self.0.contains_key(key_id)
    }

    /// Whether one of the keys made this token. Its claims have been checked.
    pub fn check(&self, token: &RdsToken) -> Result<(), Reason> {
        let key = self.0.get(token.key_id()).filter(|key| key.active);
        let key = key.ok_or(Reason::UnknownKey)?;
        let own = key
            .session_token
            .as_ref()
            .map(|own| own.expose().as_bytes());
        match (token.security_token(), own) {
            (None, None) => {}
            (Some(shown), Some(own)) if same(shown.as_bytes(), own) => {}
            (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => {
                return Err(Reason::WrongSecurityToken);
            }
        }
        if !token.is_signed_with(&key.secret) {
            return Err(Reason::BadSignature);
        }
        Ok(())
    }
}

fn is_active() -> bool {
    true
}

fn hidden<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Secret<String>, D::Error> {
    String::deserialize(from).map(Secret::new)
}

fn maybe_hidden<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<Secret<String>>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(Secret::new))
}
