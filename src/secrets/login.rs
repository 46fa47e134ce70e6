//! What Weir proves itself with to a database.
//!
//! Knows its three forms; does not know where they come from.

use std::fmt;
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
}

impl Password {
    pub fn new(text: Secret<String>) -> Password {
        Password {
            text,
            keys: ScramKeys::default(),
        }
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
