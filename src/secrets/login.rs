//! What Weir proves itself with to a database.
//!
//! Knows its three forms; does not know where they come from.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::config::Secret;
use crate::protocol::scram::{SaltedKeys, ScramKeys};

/// Cheap to clone; clones share the keys that the first login made.
#[derive(Clone, Debug)]
pub enum Login {
    Password(Arc<Password>),
    /// Learnt from a client's login and the database's own verifier: serves SCRAM alone.
    Keys(Arc<SaltedKeys>),
    /// For a while as good as a password: sent to nobody but the server whose certificate names it.
    Token(Arc<Password>),
}

/// A password, and the keys made from it for SCRAM.
pub struct Password {
    text: Secret<String>,
    pub keys: ScramKeys,
    /// Held while keys are made.
    kiln: tokio::sync::Mutex<()>,
}

impl Password {
    pub fn new(text: Secret<String>) -> Password {
        Password {
            text,
            keys: ScramKeys::default(),
            kiln: tokio::sync::Mutex::default(),
        }
    }

    /// The kept keys, or new ones: made off the worker, whose sessions would wait for milliseconds. One thread for a
    /// user at a time, however many of its connections are being opened, so that no user is before the others. `None`
    /// when the process ends. Cancel-safe.
    pub async fn salted(
        self: &Arc<Self>,
        salt: &[u8],
        iterations: NonZeroU32,
    ) -> Option<Arc<SaltedKeys>> {
        if let Some(kept) = self.keys.find(salt, iterations) {
            return Some(kept);
        }
        let _alone = self.kiln.lock().await;
        if let Some(kept) = self.keys.find(salt, iterations) {
            return Some(kept);
        }
        let (own, salt) = (Arc::clone(self), salt.to_vec());
        let make = move || SaltedKeys::derive(own.text.expose().as_bytes(), &salt, iterations);
        let keys = tokio::task::spawn_blocking(make).await;
        keys.map(Arc::new).ok()
    }

    pub fn text(&self) -> &Secret<String> {
        &self.text
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password([redacted])")
    }
}
