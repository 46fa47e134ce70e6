//! Access keys that clients sign with and Weir holds as well: of a file, or of a secret.
//!
//! Knows the form, the same for both; does not know what is signed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use arc_swap::ArcSwapOption;
use serde::Deserialize;
use std::sync::Arc;

use super::rotating::{Fetch, FetchError, Stage};
use super::rounds::{Rounds, Why};
use crate::config::{Secret, SecretArn, Secrets};
use crate::metrics;

/// A file with more than that is none of keys.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// By key id.
#[derive(Debug, Default)]
pub struct Keys(HashMap<String, Arc<Key>>);

#[derive(Debug, Deserialize)]
pub struct Key {
    #[serde(deserialize_with = "hidden")]
    pub secret: Secret<String>,
    #[serde(default, deserialize_with = "maybe_hidden")]
    pub session_token: Option<Secret<String>>,
    #[serde(default = "is_active")]
    pub active: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("auth.iam.static.keys_file: {path}: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("auth.iam.static.keys_file: {path}: larger than {MAX_FILE_BYTES} bytes", path = path.display())]
    TooLarge { path: PathBuf },
    #[error("auth.iam.static.keys_file: {path}:{at}", path = path.display())]
    Form { path: PathBuf, at: NoKeys },
}

/// A text that is none of keys. The parser's own words may quote a secret: only its place is told.
#[derive(Debug, thiserror::Error)]
#[error(
    "{line}: not what is expected: {{\"key id\": {{\"secret\": \"...\", \"session_token\": \"...\" or null, \"active\": true}}}}"
)]
pub struct NoKeys {
    line: usize,
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
        Keys::parse(&text).map_err(|at| KeysError::Form {
            path: path.to_owned(),
            at,
        })
    }

    fn parse(text: &str) -> Result<Keys, NoKeys> {
        let keys = serde_json::from_str(text).map_err(|error| NoKeys { line: error.line() });
        let keys: HashMap<String, Key> = keys?;
        let shared = keys.into_iter().map(|(id, key)| (id, Arc::new(key)));
        Ok(Keys(shared.collect()))
    }

    pub fn find(&self, key_id: &str) -> Option<&Arc<Key>> {
        self.0.get(key_id)
    }
}

/// A secret that holds keys.
pub struct KeySecret {
    arn: SecretArn,
    keys: ArcSwapOption<Keys>,
    rounds: Rounds,
}

#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("{0}")]
    Fetch(#[from] FetchError),
    #[error("it can't be used: line {0}")]
    Form(#[from] NoKeys),
}

impl KeySecret {
    pub fn new(arn: SecretArn) -> KeySecret {
        KeySecret {
            arn,
            keys: ArcSwapOption::empty(),
            rounds: Rounds::default(),
        }
    }

    pub fn is_of(&self, arn: &SecretArn) -> bool {
        self.arn == *arn
    }

    pub fn find(&self, key_id: &str) -> Option<Arc<Key>> {
        self.keys.load().as_ref()?.find(key_id).cloned()
    }

    /// Somebody came with a key that is in none of the secrets: it may be new.
    pub fn want(&self) {
        self.rounds.want();
    }

    /// Why it has no value yet.
    pub fn lacks(&self) -> Option<String> {
        let is_known = self.keys.load().is_some();
        (!is_known).then(|| self.rounds.lacks(&self.arn))
    }

    /// Fetches it whenever it is time. Never ends.
    pub async fn keep(&self, fetch: &Fetch, terms: &Secrets, meters: &metrics::Vault) {
        let round = |_: Why| self.round(fetch);
        let serves = || self.keys.load().is_some();
        let kept = self.rounds.keep(&self.arn, terms, meters, round, serves);
        kept.await;
    }

    async fn round(&self, fetch: &Fetch) -> Result<(), RoundError> {
        let value = fetch(self.arn.clone(), Stage::Current).await?;
        let keys = Keys::parse(value.text.expose())?;
        self.keys.store(Some(Arc::new(keys)));
        Ok(())
    }
}

impl std::fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySecret({})", self.arn)
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
