//! One configuration's users and secrets.
//!
//! Knows what is kept of the configuration before it; asks nobody for anything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::{ITERATIONS, VaultError, random};
use crate::config::{self, AuthScheme, Config, SecretArn, Secrets, User};
use crate::protocol::scram::{SALT_BYTES, Verifier};
use crate::secrets::credential::Credential;
use crate::secrets::directory::Directory;
use crate::secrets::keys::KeySecret;
use crate::secrets::login::Password;
use crate::secrets::patience::Patience;
use crate::secrets::rotating::Rotating;

/// One configuration's users and secrets.
#[derive(Debug)]
pub(super) struct Book {
    pub users: HashMap<Box<str>, Member>,
    /// All of them; those without a configured name say it themselves.
    pub secrets: Vec<Arc<Rotating>>,
    /// Those that hold keys which clients sign with.
    pub key_secrets: Vec<Arc<KeySecret>>,
    pub terms: Arc<Secrets>,
    /// The role that looks users up, which does not come in as such.
    pub query_user: Option<(Box<str>, Member)>,
    pub directory: Option<Arc<Directory>>,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub proof: Proof,
    pub scheme: Scheme,
}

/// What its clients must prove.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    Own(Arc<Credential>),
    Secret(Arc<Rotating>),
    /// Nothing that could be asked for here.
    Nothing,
}

/// How Weir logs in for it.
#[derive(Clone, Debug)]
pub(super) enum Scheme {
    Own,
    Iam(Arc<Mutex<Patience>>),
}

impl Book {
    pub fn empty(terms: &Secrets) -> Book {
        Book {
            users: HashMap::new(),
            secrets: Vec::new(),
            key_secrets: Vec::new(),
            terms: Arc::new(terms.clone()),
            query_user: None,
            directory: None,
        }
    }

    /// With what `old` knows already; who looks users up is still to be added.
    pub fn new(config: &Config, old: &Book) -> Result<Book, VaultError> {
        let mut book = Book::empty(&config.secrets);
        for user in &config.users {
            let member = book.member(user, old)?;
            book.users.insert(user.name.as_str().into(), member);
        }
        for arn in &config.secrets.arns {
            book.rotating(arn, None, old)?;
        }
        let keys = config.iam.static_keys.iter();
        let arns = keys.flat_map(|keys| &keys.secret_arns);
        let kept = |arn: &SecretArn| {
            let known = old.key_secrets.iter().find(|known| known.is_of(arn));
            known.map_or_else(|| Arc::new(KeySecret::new(arn.clone())), Arc::clone)
        };
        book.key_secrets = arns.map(kept).collect();
        Ok(book)
    }

    pub fn member_for(&self, user: &str) -> Option<&Member> {
        let query_user = self.query_user.as_ref();
        let looks_up = query_user.filter(|(name, _)| **name == *user);
        self.users.get(user).or(looks_up.map(|(_, member)| member))
    }

    /// The secret whose user has this name; users of the configuration come first, and are not asked for here.
    pub fn secret_for(&self, user: &str) -> Option<&Arc<Rotating>> {
        self.secrets.iter().find(|rotating| rotating.is_for(user))
    }

    pub fn member(&mut self, user: &User, old: &Book) -> Result<Member, VaultError> {
        let before = old.member_for(&user.name);
        let proof = match (&user.credential, before.map(|member| &member.proof)) {
            (config::Credential::Secret(arn), _) => {
                Proof::Secret(self.rotating(arn, Some(&user.name), old)?)
            }
            (config::Credential::Absent, _) => Proof::Nothing,
            (_, Some(Proof::Own(kept))) if is_still(kept, user) => Proof::Own(Arc::clone(kept)),
            (config::Credential::Password(password), _) => {
                let salt: [u8; SALT_BYTES] = random()?;
                let verifier = Verifier::derive(password.expose().as_bytes(), &salt, ITERATIONS);
                let password = Arc::new(Password::new(password.clone()));
                let name = user.name.as_str().into();
                Proof::Own(Arc::new(Credential::of_password(name, password, verifier)))
            }
            (config::Credential::Verifier(verifier), _) => {
                let verifier = parse(user, verifier)?;
                let name = user.name.as_str().into();
                Proof::Own(Arc::new(Credential::of_verifier(name, verifier)))
            }
        };
        let scheme = match (user.scheme, before.map(|member| &member.scheme)) {
            (AuthScheme::Own, _) => Scheme::Own,
            (AuthScheme::Iam, Some(Scheme::Iam(patience))) => Scheme::Iam(Arc::clone(patience)),
            (AuthScheme::Iam, Some(Scheme::Own) | None) => Scheme::Iam(Arc::default()),
        };
        Ok(Member { proof, scheme })
    }

    /// The secret, with what is known of it already.
    fn rotating(
        &mut self,
        arn: &SecretArn,
        name: Option<&str>,
        old: &Book,
    ) -> Result<Arc<Rotating>, VaultError> {
        let mut known = self.secrets.iter().chain(&old.secrets);
        let rotating = match known.find(|known| known.is_of(arn, name)) {
            Some(known) => Arc::clone(known),
            None => Arc::new(Rotating::new(arn.clone(), name)?),
        };
        if !self
            .secrets
            .iter()
            .any(|known| Arc::ptr_eq(known, &rotating))
        {
            self.secrets.push(Arc::clone(&rotating));
        }
        Ok(rotating)
    }
}

fn is_still(kept: &Credential, user: &User) -> bool {
    match (kept.passwords(), &user.credential) {
        ([old], config::Credential::Password(new)) => old.text() == new,
        ([], config::Credential::Verifier(new)) => {
            parse(user, new).is_ok_and(|new| new == *kept.verifier())
        }
        _ => false,
    }
}

fn parse(user: &User, verifier: &config::Secret<String>) -> Result<Verifier, VaultError> {
    Verifier::parse(verifier.expose()).map_err(|source| VaultError::Verifier {
        user: user.name.clone(),
        source,
    })
}
