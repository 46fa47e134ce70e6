//! The users of the configuration, shared by all workers and replaced on reload.
//!
//! Knows what is kept of each user; does not know how a client is asked.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use ring::rand::{SecureRandom, SystemRandom};

use super::login::{Login, Password};
use crate::config::{self, User};
use crate::protocol::scram::{ClientKey, SaltedKeys, ScramError, Verifier};

/// PostgreSQL's default (`scram_iterations`), for verifiers made here.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("not zero");

/// As many random bytes as PostgreSQL takes.
const SALT_BYTES: usize = 16;

/// Who may come in. One for all workers.
#[derive(Debug)]
pub struct Vault {
    users: ArcSwap<Users>,
    doom: Doom,
}

type Users = HashMap<Box<str>, Arc<Credential>>;

/// Users that are not in force yet.
#[derive(Debug)]
pub struct Prepared(Users);

/// Makes verifiers for users that don't exist; new with each process.
struct Doom([u8; 32]);

impl std::fmt::Debug for Doom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Doom([redacted])")
    }
}

/// What is known of one user.
#[derive(Debug)]
pub struct Credential {
    verifier: Verifier,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Password(Arc<Password>),
    /// The database's own verifier: the keys come with the first client that proves itself.
    Verifier {
        learnt: OnceLock<Arc<SaltedKeys>>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("verifier of user \"{user}\": {source}")]
    Verifier { user: String, source: ScramError },
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl Vault {
    /// Takes about two milliseconds per user with a password: each gets a verifier of its own here,
    /// so that no login costs a worker that time.
    pub fn new(users: &[User]) -> Result<Vault, VaultError> {
        Ok(Vault {
            users: ArcSwap::from_pointee(read(users, &Users::new())?),
            doom: Doom(random()?),
        })
    }

    /// Makes ready to put these users in the place of the old ones.
    /// A user whose credential is the same keeps all that was made and learnt for it.
    pub fn prepare(&self, users: &[User]) -> Result<Prepared, VaultError> {
        Ok(Prepared(read(users, &self.users.load())?))
    }

    pub fn install(&self, Prepared(users): Prepared) {
        self.users.store(Arc::new(users));
    }

    pub fn lookup(&self, user: &str) -> Option<Arc<Credential>> {
        self.users.load().get(user).cloned()
    }

    /// A verifier that nobody can satisfy: always the same one for the same name, so that asking twice
    /// does not tell an unknown user from a known one.
    pub fn doomed(&self, user: &[u8]) -> Verifier {
        Verifier::doomed(&self.doom.0, user, ITERATIONS)
    }

    /// How to log in to the database as this user; `None` if there is no such user, or only a verifier
    /// and no client of that name has logged in yet.
    pub fn login(&self, user: &str) -> Option<Login> {
        self.users.load().get(user)?.login()
    }
}

impl Credential {
    /// What a client's SCRAM proof is checked against.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// What a client's md5 answer is checked against; `None` if only a verifier is known.
    pub fn password(&self) -> Option<&Password> {
        match &self.source {
            Source::Password(password) => Some(password),
            Source::Verifier { .. } => None,
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
            Source::Password(password) => Some(Login::Password(Arc::clone(password))),
            Source::Verifier { learnt } => learnt.get().cloned().map(Login::Keys),
        }
    }

    fn read(user: &User) -> Result<Credential, VaultError> {
        match &user.credential {
            config::Credential::Password(password) => {
                let salt: [u8; SALT_BYTES] = random()?;
                let text = password.expose().as_bytes();
                Ok(Credential {
                    verifier: Verifier::derive(text, &salt, ITERATIONS),
                    source: Source::Password(Arc::new(Password::new(password.clone()))),
                })
            }
            config::Credential::Verifier(verifier) => Ok(Credential {
                verifier: parse(user, verifier)?,
                source: Source::Verifier {
                    learnt: OnceLock::new(),
                },
            }),
        }
    }

    fn is_still(&self, user: &User) -> bool {
        match (&self.source, &user.credential) {
            (Source::Password(old), config::Credential::Password(new)) => old.text() == new,
            (Source::Verifier { .. }, config::Credential::Verifier(new)) => {
                parse(user, new).is_ok_and(|new| new == self.verifier)
            }
            (Source::Password(_), config::Credential::Verifier(_))
            | (Source::Verifier { .. }, config::Credential::Password(_)) => false,
        }
    }
}

fn parse(user: &User, verifier: &config::Secret<String>) -> Result<Verifier, VaultError> {
    Verifier::parse(verifier.expose()).map_err(|source| VaultError::Verifier {
        user: user.name.clone(),
        source,
    })
}

fn read(users: &[User], old: &Users) -> Result<Users, VaultError> {
    users
        .iter()
        .map(|user| {
            let kept = old
                .get(user.name.as_str())
                .filter(|kept| kept.is_still(user));
            let credential = match kept {
                Some(kept) => Arc::clone(kept),
                None => Arc::new(Credential::read(user)?),
            };
            Ok((user.name.as_str().into(), credential))
        })
        .collect()
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], VaultError> {
    let mut bytes = [0; BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| VaultError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn user(name: &str, credential: config::Credential) -> User {
        User {
            name: name.to_owned(),
            credential,
            method: None,
            certificate_names: Vec::new(),
            pool_max_connections: None,
            iam: config::IamMode::Disabled,
        }
    }

    fn password(name: &str, password: &str) -> User {
        user(
            name,
            config::Credential::Password(Secret::new(password.to_owned())),
        )
    }

    fn verifier(name: &str, password: &[u8]) -> User {
        let keys = SaltedKeys::derive(password, b"salt of database", ITERATIONS);
        user(
            name,
            config::Credential::Verifier(Secret::new(keys.verifier().to_text())),
        )
    }

    fn shared_by_workers<T: Send + Sync>(_: &T) {}

    #[test]
    fn a_password_serves_both_sides() {
        let vault = Vault::new(&[password("app", "hunter2")]).unwrap();
        shared_by_workers(&vault);
        let app = vault.lookup("app").unwrap();
        assert!(app.verifier().fits(b"hunter2"));
        assert!(app.password().is_some());
        assert!(matches!(vault.login("app"), Some(Login::Password(_))));
        assert!(vault.lookup("App").is_none() && vault.login("other").is_none());
        assert!(!format!("{vault:?}").contains("hunter2"));
    }

    #[test]
    fn a_verifier_serves_the_server_side_once_the_key_is_learnt() {
        let vault = Vault::new(&[verifier("app", b"hunter2")]).unwrap();
        let app = vault.lookup("app").unwrap();
        assert!(app.password().is_none() && app.login().is_none());
        let wrong = Vault::new(&[password("app", "hunter2")]).unwrap();
        let Some(Login::Password(other)) = wrong.login("app") else {
            panic!("a password");
        };
        assert!(other.keys.find(b"salt of database", ITERATIONS).is_none());
    }

    #[test]
    fn reload_keeps_what_is_the_same() {
        let before = [
            password("a", "1"),
            password("b", "1"),
            verifier("c", b"1"),
            password("d", "1"),
        ];
        let vault = Vault::new(&before).unwrap();
        let old: Vec<_> = ["a", "b", "c", "d"]
            .iter()
            .map(|name| vault.lookup(name).unwrap())
            .collect();
        vault.install(
            vault
                .prepare(&[
                    password("a", "1"),
                    password("b", "2"),
                    verifier("c", b"1"),
                    verifier("e", b"1"),
                ])
                .unwrap(),
        );
        let same = |name: &str, old: &Arc<Credential>| {
            vault.lookup(name).is_some_and(|new| Arc::ptr_eq(&new, old))
        };
        assert!(same("a", &old[0]) && same("c", &old[2]));
        assert!(!same("b", &old[1]) && vault.lookup("b").unwrap().verifier().fits(b"2"));
        assert!(vault.lookup("d").is_none() && vault.lookup("e").is_some());

        let broken = user(
            "f",
            config::Credential::Verifier(Secret::new("SCRAM-SHA-256$x".to_owned())),
        );
        let refused = vault.prepare(&[broken]).unwrap_err().to_string();
        assert!(refused.contains("\"f\"") && vault.lookup("a").is_some());
    }

    #[test]
    fn an_unknown_user_looks_the_same_every_time() {
        let vault = Vault::new(&[]).unwrap();
        assert_eq!(vault.doomed(b"who"), vault.doomed(b"who"));
        assert_ne!(vault.doomed(b"who"), vault.doomed(b"else"));
        assert_ne!(
            vault.doomed(b"who"),
            Vault::new(&[]).unwrap().doomed(b"who")
        );
        let known = Vault::new(&[password("a", "1")]).unwrap();
        let (known, unknown) = (known.lookup("a").unwrap(), vault.doomed(b"a"));
        assert_eq!(known.verifier().salt().len(), unknown.salt().len());
        assert_eq!(known.verifier().iterations(), unknown.iterations());
    }
}
