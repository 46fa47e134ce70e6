//! Everybody's credentials, shared by all workers: of the configuration, of Secrets Manager, of the database.
//!
//! Knows in which order the sources count, and what is kept on reload; does not know how a client is asked, nor
//! how a login to the database goes.

mod book;

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::attempts::{Attempts, NoLogin, OfSecret, OfToken, With, lock};
use super::aws::Aws;
use super::credential::Credential;
use super::directory::{Ask, Directory, Terms};
use super::keys::KeySecret;
use super::patience::Patience;
use super::rotating::{Fetch, Rotating};
use super::rounds;
use super::token::Mint;
use crate::config::{self, Config, SecretArn, Secrets, User};
use crate::metrics;
use crate::protocol::scram::{Doom, ScramError, Verifier};

use book::{Book, Member, Proof, Scheme};

/// PostgreSQL's default (`scram_iterations`), for verifiers made here.
pub(super) const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("not zero");

/// Who may come in, and how Weir logs in for them. One for all workers.
pub struct Vault {
    book: ArcSwap<Book>,
    /// For users that don't exist; new with each process.
    doom: Doom,
    /// Picks a secret for names that have none.
    picks: RandomState,
    fetch: Arc<Fetch>,
    ask: Option<Ask>,
    mint: Arc<Mint>,
    meters: metrics::Vault,
    /// The book has other secrets than before.
    changed: Notify,
}

/// How the vault asks the world.
pub struct Outside {
    /// Asks Secrets Manager.
    pub fetch: Arc<Fetch>,
    /// Asks the database for a user; `None`: it is not asked.
    pub ask: Option<Ask>,
    pub aws: Arc<Aws>,
    pub meters: metrics::Vault,
}

impl Outside {
    /// As it is outside of tests.
    pub fn new(config: &Config, ask: Option<Ask>, meters: metrics::Vault) -> Outside {
        let users = config.users.iter().chain(&config.query_user);
        let keys = config.iam.static_keys.iter();
        let arns = config.secrets.arns.iter().chain(users.filter_map(arn));
        let mut arns = arns.chain(keys.flat_map(|keys| &keys.secret_arns));
        let region = arns.next().map(SecretArn::region);
        let aws = Arc::new(Aws::new(region, config.secrets.timeout));
        let asked = Arc::clone(&aws);
        let fetch = move |arn: SecretArn, stage| {
            let aws = Arc::clone(&asked);
            let value = async move { aws.value(&arn, stage).await };
            Box::pin(value) as _
        };
        Outside {
            fetch: Arc::new(fetch),
            ask,
            aws,
            meters,
        }
    }
}

/// Users that are not in force yet.
#[derive(Debug)]
pub struct Prepared(Book);

impl Prepared {
    pub fn key_secrets(&self) -> &[Arc<KeySecret>] {
        &self.0.key_secrets
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.book.load().fmt(f)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("verifier of user \"{user}\": {source}")]
    Verifier { user: String, source: ScramError },
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// It can't be said whether there is such a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotYet(pub String);

impl Vault {
    /// Takes about two milliseconds per user with a password: each gets a verifier of its own here,
    /// so that no login costs a worker that time. Fetches nothing: see `keep`.
    pub fn new(config: &Config, outside: Outside) -> Result<Vault, VaultError> {
        let Outside {
            fetch,
            ask,
            aws,
            meters,
        } = outside;
        let mut vault = Vault {
            book: ArcSwap::from_pointee(Book::empty(&config.secrets)),
            doom: Doom::new(&random()?),
            picks: RandomState::new(),
            fetch,
            ask,
            mint: Arc::new(Mint::new(aws)),
            meters,
            changed: Notify::new(),
        };
        let Prepared(book) = vault.prepare(config)?;
        vault.book = ArcSwap::from_pointee(book);
        Ok(vault)
    }

    /// Makes ready to put these users in the place of the old ones.
    /// A user whose credential is the same keeps all that was made and learnt for it.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, VaultError> {
        let old = self.book.load();
        let mut book = Book::new(config, &old)?;
        if let Some(user) = &config.query_user {
            let member = book.member(user, &old)?;
            book.query_user = Some((user.name.as_str().into(), member));
            book.directory = self.directory(Terms::new(&config.auth), &old);
        }
        Ok(Prepared(book))
    }

    fn directory(&self, terms: Terms, old: &Book) -> Option<Arc<Directory>> {
        let kept = old.directory.as_ref();
        if let Some(kept) = kept.filter(|kept| kept.terms() == terms) {
            return Some(Arc::clone(kept));
        }
        let ask = self.ask.clone()?;
        Some(Arc::new(Directory::new(ask, terms, self.meters.clone())))
    }

    pub fn install(&self, Prepared(book): Prepared) {
        self.book.store(Arc::new(book));
        self.changed.notify_one();
    }

    /// What clients of this name must prove: nothing that they could, if they are to come by other means. Waits for secrets that have not been fetched yet, and for the database
    /// where users are looked up. Cancel-safe.
    pub async fn find(&self, user: &str) -> Result<Option<Arc<Credential>>, NotYet> {
        let book = self.book.load_full();
        match book.users.get(user).map(|member| &member.proof) {
            Some(Proof::Own(credential)) => return Ok(Some(Arc::clone(credential))),
            Some(Proof::Secret(rotating)) => {
                rotating.rounds().tried().await;
                return credential(rotating, user)
                    .ok_or_else(|| NotYet(rotating.lacks().unwrap_or_default()))
                    .map(Some);
            }
            Some(Proof::Nothing) => {
                let nobody = self.doomed(user.as_bytes());
                return Ok(Some(Arc::new(Credential::of_nobody(user.into(), nobody))));
            }
            None => {}
        }
        for rotating in &book.secrets {
            rotating.rounds().tried().await;
        }
        let rotating = book.secret_for(user);
        if let Some(credential) = rotating.and_then(|rotating| credential(rotating, user)) {
            return Ok(Some(credential));
        }
        if let Some(directory) = &book.directory
            && let Some(credential) = directory.find(user).await?
        {
            return Ok(Some(credential));
        }
        match book.secrets.iter().find_map(|rotating| rotating.lacks()) {
            Some(why) => Err(NotYet(why)),
            None => Ok(None),
        }
    }

    /// A client's proof did not fit: sees to it that what is known is not out of date. What came of it, for users
    /// with secrets: all its verifiers have the salt of those before. Takes as long for names that have no secret,
    /// lest time tell which have one. Cancel-safe.
    pub async fn doubt(&self, user: &str, patience: rounds::Patience) -> Option<Arc<Credential>> {
        let book = self.book.load_full();
        if let Some(directory) = &book.directory {
            directory.doubt(user);
        }
        let own = match book.users.get(user).map(|member| &member.proof) {
            Some(Proof::Secret(rotating)) => Some(rotating),
            Some(Proof::Own(_) | Proof::Nothing) => None,
            None => book.secret_for(user),
        };
        let others = book.secrets.len();
        let any = || {
            let pick = usize::try_from(self.picks.hash_one(user)).unwrap_or(0);
            book.secrets.get(pick.checked_rem(others)?)
        };
        own.or_else(any)?
            .rounds()
            .refetch(&book.terms, patience)
            .await;
        credential(own?, user)
    }

    /// A verifier that nobody can satisfy: always the same one for the same name, so that asking twice
    /// does not tell an unknown user from a known one.
    pub fn doomed(&self, user: &[u8]) -> Verifier {
        self.doom.verifier(user, ITERATIONS)
    }

    /// How to log in to the database for this user.
    pub fn attempts(&self, user: &Arc<str>) -> Result<Attempts, NoLogin> {
        let book = self.book.load_full();
        let nothing = || NoLogin::Nothing {
            user: user.to_string(),
        };
        let with = match book.member_for(user) {
            Some(Member {
                scheme: Scheme::Iam(patience),
                ..
            }) => self.by_token(user, patience)?,
            Some(Member { proof, .. }) => match proof {
                Proof::Own(credential) => With::Fixed(credential.login().ok_or_else(nothing)?),
                Proof::Secret(rotating) => return by_secret(user, rotating, &book.terms),
                Proof::Nothing => return Err(nothing()),
            },
            None => match book.secret_for(user) {
                Some(rotating) => return by_secret(user, rotating, &book.terms),
                None => {
                    let directory = book.directory.as_ref().ok_or_else(nothing)?;
                    let credential = directory.remembered(user).ok_or_else(nothing)?;
                    With::Learnt {
                        login: credential.login().ok_or_else(nothing)?,
                        directory: Arc::clone(directory),
                    }
                }
            },
        };
        Ok(Attempts {
            role: Arc::clone(user),
            with,
        })
    }

    fn by_token(&self, user: &str, patience: &Arc<Mutex<Patience>>) -> Result<With, NoLogin> {
        if let Some(pause) = lock(patience).wait(Instant::now().into_std()) {
            return Err(NoLogin::Pause {
                user: user.to_owned(),
                what: "Weir's IAM tokens".to_owned(),
                pause,
            });
        }
        Ok(With::Token(OfToken {
            mint: Arc::clone(&self.mint),
            patience: Arc::clone(patience),
            token: None,
            renewed: false,
        }))
    }

    /// Of the users that Weir can log in for without having met a client, the first.
    pub fn first_user(&self, configured: &[User]) -> Option<Arc<str>> {
        let book = self.book.load();
        let query_user = book.query_user.iter().map(|(name, _)| Arc::from(&**name));
        let listed = configured.iter().map(|user| Arc::from(user.name.as_str()));
        let in_secrets = book.secrets.iter().filter_map(|rotating| rotating.name());
        let mut all = listed.chain(in_secrets).chain(query_user);
        all.find(|user| {
            !matches!(
                self.attempts(user),
                Err(NoLogin::Nothing { .. } | NoLogin::NotYet { .. })
            )
        })
    }

    /// Why not all that is configured is known yet.
    pub fn lacks(&self) -> Option<String> {
        let book = self.book.load();
        let passwords = book.secrets.iter().find_map(|rotating| rotating.lacks());
        passwords.or_else(|| book.key_secrets.iter().find_map(|secret| secret.lacks()))
    }

    /// Those that hold keys which clients sign with.
    pub fn key_secrets(&self) -> Vec<Arc<KeySecret>> {
        self.book.load().key_secrets.clone()
    }

    /// Fetches secrets when it is time, for as long as it is polled.
    pub async fn keep(&self) {
        loop {
            let book = self.book.load_full();
            let mut keepers = JoinSet::new();
            for rotating in &book.secrets {
                let (rotating, fetch) = (Arc::clone(rotating), Arc::clone(&self.fetch));
                let (terms, meters) = (Arc::clone(&book.terms), self.meters.clone());
                keepers.spawn(async move { rotating.keep(&*fetch, &terms, &meters).await });
            }
            for secret in &book.key_secrets {
                let (secret, fetch) = (Arc::clone(secret), Arc::clone(&self.fetch));
                let (terms, meters) = (Arc::clone(&book.terms), self.meters.clone());
                keepers.spawn(async move { secret.keep(&*fetch, &terms, &meters).await });
            }
            drop(book);
            self.changed.notified().await;
        }
    }
}

/// What is known of a secret's user, as clients come: under its own name or that of one of its roles.
fn credential(rotating: &Rotating, user: &str) -> Option<Arc<Credential>> {
    let ring = rotating.ring()?;
    let now = Instant::now().into_std();
    let mut verifiers = ring.verifiers(now);
    let others = verifiers.split_off(1.min(verifiers.len()));
    let name = rotating.name().unwrap_or_else(|| user.into());
    Some(Arc::new(Credential::of_passwords(
        name,
        ring.passwords(now),
        verifiers.pop()?,
        others,
    )))
}

fn by_secret(
    user: &str,
    rotating: &Arc<Rotating>,
    terms: &Arc<Secrets>,
) -> Result<Attempts, NoLogin> {
    let user = || user.to_owned();
    if let Some(pause) = rotating.pause() {
        let what = format!("every value of secret {}", rotating.arn);
        return Err(NoLogin::Pause {
            user: user(),
            what,
            pause,
        });
    }
    let ring = rotating.ring().ok_or_else(|| NoLogin::NotYet {
        user: user(),
        why: rotating.lacks().unwrap_or_default(),
    })?;
    let first = Arc::clone(ring.first());
    Ok(Attempts {
        role: Arc::clone(&first.role),
        with: With::Secret(OfSecret {
            rotating: Arc::clone(rotating),
            terms: Arc::clone(terms),
            tried: vec![first],
            refetched: false,
        }),
    })
}

fn arn(user: &User) -> Option<&SecretArn> {
    match &user.credential {
        config::Credential::Secret(arn) => Some(arn),
        config::Credential::Password(_)
        | config::Credential::Verifier(_)
        | config::Credential::Absent => None,
    }
}

pub(super) fn random<const BYTES: usize>() -> Result<[u8; BYTES], VaultError> {
    let mut bytes = [0; BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| VaultError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
impl Vault {
    /// Of these users alone; nobody outside is asked.
    pub fn of_users(users: Vec<User>) -> Vault {
        let least = [
            ("AURORA_HOST", "127.0.0.1"),
            ("AURORA_USER", "x"),
            ("AURORA_PASSWORD", "x"),
        ];
        let least = least.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config {
            users,
            ..config::load(None, least.into_iter()).expect("the least that will do")
        };
        let outside = Outside::new(&config, None, metrics::Vault::new(&Arc::default()));
        Vault::new(&config, outside).expect("sound users")
    }
}

#[cfg(test)]
mod tests;
