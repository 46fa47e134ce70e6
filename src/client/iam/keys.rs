//! What the access keys that Weir holds itself say of a token.
//!
//! Does not know who may come in with which key: whoever holds one may name any user.

use std::sync::Arc;

use super::rds::RdsToken;
use super::reason::Reason;
use crate::client::challenge::same;
use crate::config::IamStatic;
use crate::secrets::{Key, KeySecret, Keys, KeysError};

/// Of a file, and of secrets.
#[derive(Debug)]
pub struct OwnKeys {
    file: Keys,
    secrets: Vec<Arc<KeySecret>>,
}

/// Why a token was not found to be good.
#[derive(Debug, PartialEq, Eq)]
pub enum Doubt {
    Refused(Reason),
    /// A secret that may have its key has never been read, and why.
    Unread(String),
}

impl From<Reason> for Doubt {
    fn from(reason: Reason) -> Doubt {
        Doubt::Refused(reason)
    }
}

impl OwnKeys {
    /// Reads the file, if there is one.
    pub fn new(own: &IamStatic, secrets: &[Arc<KeySecret>]) -> Result<OwnKeys, KeysError> {
        Ok(OwnKeys {
            file: match &own.keys_file {
                Some(path) => Keys::read(path)?,
                None => Keys::default(),
            },
            secrets: secrets.to_vec(),
        })
    }

    pub fn knows(&self, key_id: &str) -> bool {
        self.find(key_id).is_some()
    }

    fn find(&self, key_id: &str) -> Option<Arc<Key>> {
        let in_file = self.file.find(key_id).cloned();
        in_file.or_else(|| self.secrets.iter().find_map(|secret| secret.find(key_id)))
    }

    /// Whether one of the keys made this token. Its claims have been checked.
    pub fn check(&self, token: &RdsToken) -> Result<(), Doubt> {
        let Some(key) = self.find(token.key_id()) else {
            self.secrets.iter().for_each(|secret| secret.want());
            return Err(
                match self.secrets.iter().find_map(|secret| secret.lacks()) {
                    Some(why) => Doubt::Unread(why),
                    None => Reason::UnknownKey.into(),
                },
            );
        };
        if !key.active {
            return Err(Reason::UnknownKey.into());
        }
        let own = key.session_token.as_ref();
        let own = own.map(|own| own.expose().as_bytes());
        match (token.security_token(), own) {
            (None, None) => {}
            (Some(shown), Some(own)) if same(shown.as_bytes(), own) => {}
            (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => {
                return Err(Reason::WrongSecurityToken.into());
            }
        }
        match token.is_signed_with(&key.secret) {
            true => Ok(()),
            false => Err(Reason::BadSignature.into()),
        }
    }
}
