//! What Weir proves itself with to a database.
//!
//! Knows its two forms; does not know where they come from.

use std::fmt;
use std::sync::Arc;

use crate::protocol::scram::{SaltedKeys, ScramKeys};

/// Cheap to clone; clones share the keys that the first login made.
#[derive(Clone, Debug)]
pub enum Credential {
    Password(Arc<Password>),
    /// Learnt from a client's login and the database's own verifier: serves SCRAM alone.
    Keys(Arc<SaltedKeys>),
}

impl Credential {
    pub fn password(text: impl Into<Box<[u8]>>) -> Credential {
        Credential::Password(Arc::new(Password {
            text: text.into(),
            keys: ScramKeys::default(),
        }))
    }
}

/// A password, and the keys made from it for SCRAM.
pub struct Password {
    pub(super) text: Box<[u8]>,
    pub(super) keys: ScramKeys,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password([redacted])")
    }
}
