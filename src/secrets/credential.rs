//! What a client must prove to be one user, as of now.
//!
//! Knows verifiers and passwords; not where they came from.

use std::sync::{Arc, OnceLock};

use super::login::{Login, Password};
use crate::protocol::scram::{ClientKey, SaltedKeys, Verifier};

/// What is known of one user.
#[derive(Debug)]
pub struct Credential {
    /// The user whose pools the client gets to: not always the name it came with.
    user: Arc<str>,
    verifier: Verifier,
    /// Of further passwords, while one is being rotated; all of the same salt.
    others: Vec<Verifier>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// None, where no proof could be asked for.
    Passwords(Vec<Arc<Password>>),
    /// The database's own verifier: the keys come with the first client that proves itself.
    Verifier { learnt: OnceLock<Arc<SaltedKeys>> },
}

impl Credential {
    pub fn of_password(user: Arc<str>, password: Arc<Password>, verifier: Verifier) -> Credential {
        Credential::of_passwords(user, vec![password], verifier, Vec::new())
    }

    /// Verifiers of one salt, and the passwords that they are of.
    pub fn of_passwords(
        user: Arc<str>,
        passwords: Vec<Arc<Password>>,
        verifier: Verifier,
        others: Vec<Verifier>,
    ) -> Credential {
        Credential {
            user,
            verifier,
            others,
            source: Source::Passwords(passwords),
        }
    }

    pub fn of_verifier(user: Arc<str>, verifier: Verifier) -> Credential {
        Credential {
            user,
            verifier,
            others: Vec::new(),
            source: Source::Verifier {
                learnt: OnceLock::new(),
            },
        }
    }

    /// Of a user that has neither password nor verifier, and comes by token or certificate.
    pub fn of_nobody(user: Arc<str>, doomed: Verifier) -> Credential {
        Credential::of_passwords(user, Vec::new(), doomed, Vec::new())
    }

    pub fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// What a client is asked by.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// What its proof may fit.
    pub fn verifiers(&self) -> impl Iterator<Item = &Verifier> {
        std::iter::once(&self.verifier).chain(&self.others)
    }

    /// What a client's md5 answer is checked against; none if only a verifier is known.
    pub fn passwords(&self) -> &[Arc<Password>] {
        match &self.source {
            Source::Passwords(passwords) => passwords,
            Source::Verifier { .. } => &[],
        }
    }

    /// Takes what a client's proof has shown: with the database's own verifier it logs us in there.
    pub fn learn_client_key(&self, client_key: &ClientKey) {
        let Source::Verifier { learnt } = &self.source else {
            return;
        };
        if learnt.get().is_some() {
            return;
        }
        if let Some(keys) = SaltedKeys::learnt(client_key, &self.verifier) {
            // Another client may have been first, with the same key: there is only one.
            let _ = learnt.set(Arc::new(keys));
        }
    }

    /// How to log in to the database with it, if we can yet.
    pub fn login(&self) -> Option<Login> {
        match &self.source {
            Source::Passwords(passwords) => passwords.first().cloned().map(Login::Password),
            Source::Verifier { learnt } => learnt.get().cloned().map(Login::Keys),
        }
    }
}
