//! Clients that come with a token instead of a password.
//!
//! Knows the tokens, who checks which and what was found before; does not know how a client is asked for one.
//!
//! The order of things: size, form, claims, whom and when it is for, mapping (`rules`); what is known already
//! (`memory`); only then cryptography or a question to somebody else (`keys`, `jwks`, `upstream`), and not too many (`pace`).

mod jwks;
mod jwt;
pub mod keys;
mod map;
mod memory;
mod pace;
mod presigned;
mod rds;
pub mod reason;
pub mod rules;
mod sigv4;
mod sts;
pub mod time;
pub mod upstream;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Config, IamMode, Secret};
use crate::net::{BadAuthorities, Resolver};
use crate::secrets::{KeySecret, KeysError};

use jwks::{Issuer, NoKey};
use jwt::Jwt;
use keys::Doubt;
use map::Principal;
use memory::{Known, Memory, Verdict};
use reason::Reason;
use rules::{Claim, Plausible, Rules};
use time::Seconds;
use upstream::{Attempt, Aurora, Prober, Standing, Sts};

/// Who checks tokens, and which users come with one. A new one after a reload.
#[derive(Debug)]
pub struct Iam {
    config: config::Iam,
    rules: Rules,
    modes: HashMap<String, IamMode>,
    /// What most users do, and so what those do who don't exist.
    common: IamMode,
    asking: Arc<Asking>,
}

/// Those who are asked, and what they said: it outlasts a reload that changes nothing about them.
#[derive(Debug)]
struct Asking {
    memory: Memory,
    sts: Option<Sts>,
    aurora: Option<Aurora>,
    issuers: Vec<Issuer>,
    resolver: Resolver,
}

/// Why tokens can't be checked as configured.
#[derive(Debug, thiserror::Error)]
pub enum IamError {
    #[error("{0}")]
    Keys(#[from] KeysError),
    #[error("{key}: {path}: {source}", path = path.display())]
    AuthoritiesFile {
        key: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{key}: {source}")]
    Authorities {
        key: &'static str,
        source: BadAuthorities,
    },
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// Why a token lets nobody in.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    Refused(Reason),
    /// Whoever knows could not be asked, by whose fault and why.
    Unanswered(Arc<str>),
}

impl From<Doubt> for Denied {
    fn from(doubt: Doubt) -> Denied {
        match doubt {
            Doubt::Refused(reason) => Denied::Refused(reason),
            Doubt::Unread(why) => Denied::Unanswered(why.into()),
        }
    }
}

impl From<Reason> for Denied {
    fn from(reason: Reason) -> Denied {
        Denied::Refused(reason)
    }
}

impl Iam {
    /// `secrets`: those that hold keys.
    pub fn new(
        config: &Config,
        secrets: &[Arc<KeySecret>],
        prober: &Prober,
        resolver: &Resolver,
    ) -> Result<Iam, IamError> {
        let asking = Arc::new(Asking::new(&config.iam, prober, resolver)?);
        Iam::with(config, secrets, asking)
    }

    /// For a new configuration. Keys are read anew; what was found out about tokens is kept if nothing else is new.
    pub fn renew(
        &self,
        config: &Config,
        secrets: &[Arc<KeySecret>],
        prober: &Prober,
    ) -> Result<Iam, IamError> {
        if self.config == config.iam {
            return Iam::with(config, secrets, Arc::clone(&self.asking));
        }
        Iam::new(config, secrets, prober, &self.asking.resolver)
    }

    fn with(
        config: &Config,
        secrets: &[Arc<KeySecret>],
        asking: Arc<Asking>,
    ) -> Result<Iam, IamError> {
        let modes = config
            .users
            .iter()
            .map(|user| (user.name.clone(), user.iam));
        Ok(Iam {
            rules: Rules::new(&config.iam, secrets)?,
            modes: modes.collect(),
            common: common(config),
            config: config.iam.clone(),
            asking,
        })
    }

    /// Whether this user comes with a token; of one that does not exist, what most do.
    pub fn mode(&self, user: &str) -> IamMode {
        self.modes.get(user).copied().unwrap_or(self.common)
    }

    pub fn max_token_bytes(&self) -> usize {
        self.config.max_token_bytes
    }

    /// Whether a validator takes tokens of this look; others may be passwords.
    pub fn is_token(&self, text: &[u8]) -> bool {
        std::str::from_utf8(text).is_ok_and(|text| self.rules.has_shape(text))
    }

    /// Checks a token, asking who must be asked. `method` becomes the validator's name.
    /// Cancel-safe: a question that others wait for is asked by one of them.
    pub async fn validate(
        &self,
        token: &Secret<Vec<u8>>,
        claim: &Claim<'_>,
        standing: &Standing<'_>,
        method: &mut &'static str,
    ) -> Result<(), Denied> {
        let now = time::now();
        let plausible = self.rules.check(token.expose(), claim, now)?;
        *method = plausible.method();
        let asking = &*self.asking;
        let name = || {
            let (user, database) = (claim.user, claim.database);
            asking
                .memory
                .name(plausible.method(), user, database, token.expose())
        };
        // Asking takes much room, which is made only where nothing is remembered.
        let verdict = match &plausible {
            // Cheaper than to remember it.
            Plausible::Own(token) => return self.rules.check_own(token).map_err(Denied::from),
            Plausible::Aurora(rds) => {
                let ask = || {
                    Box::pin(async {
                        let Some(aurora) = &asking.aurora else {
                            return nobody();
                        };
                        aurora.ask(attempt(token, claim), standing).await
                    })
                };
                self.recall(name(), now, rds.expires(), ask).await
            }
            Plausible::Sts(sts) => {
                let ask = || {
                    Box::pin(async {
                        let Some(asked) = &asking.sts else {
                            return nobody();
                        };
                        asked.ask(sts, claim.user, standing).await
                    })
                };
                self.recall(name(), now, sts.expires(), ask).await
            }
            Plausible::Jwt(jwt) => {
                let ask = || Box::pin(asking.check_signature(jwt));
                self.recall(name(), now, jwt.expires(), ask).await
            }
        };
        match verdict {
            Verdict::Valid(principal) => Ok(self.admit(&plausible, &principal, claim)?),
            Verdict::Refused(reason) => Err(reason.into()),
            Verdict::Unanswered(why) => Err(Denied::Unanswered(why)),
        }
    }

    /// Asked of every login, whatever is remembered: the mapping may be another by now.
    fn admit(
        &self,
        plausible: &Plausible,
        principal: &Principal,
        claim: &Claim<'_>,
    ) -> Result<(), Reason> {
        match plausible {
            // Aurora has let in this very user.
            Plausible::Own(_) | Plausible::Aurora(_) => Ok(()),
            Plausible::Sts(_) | Plausible::Jwt(_) => {
                let map = &self.rules.map;
                map.admits(principal, claim.user, claim.database)
                    .then_some(())
                    .ok_or(Reason::NotMapped)
            }
        }
    }

    async fn recall<F: Future<Output = Verdict>>(
        &self,
        name: memory::Name,
        now: Seconds,
        expires: Seconds,
        ask: impl FnOnce() -> Pin<Box<F>>,
    ) -> Verdict {
        let known = async {
            let verdict = ask().await;
            let lasts = match verdict {
                Verdict::Valid(_) => self.config.cache_ttl,
                Verdict::Refused(_) => self.config.refusal_ttl,
                Verdict::Unanswered(_) => Duration::ZERO,
            };
            let lasts = Seconds::try_from(lasts.as_secs()).unwrap_or(0);
            Known {
                verdict,
                until: expires.min(time::now().saturating_add(lasts)),
            }
        };
        let recalled = self.asking.memory.recall(name, now, known);
        let within = self.config.validation_timeout;
        let why = || format!("not done within {within:?}: too many tokens are to be checked");
        tokio::time::timeout(within, recalled)
            .await
            .unwrap_or_else(|_| Verdict::Unanswered(why().into()))
    }
}

fn nobody() -> Verdict {
    Verdict::Unanswered("nobody is configured to be asked".into())
}

fn attempt(token: &Secret<Vec<u8>>, claim: &Claim<'_>) -> Attempt {
    Attempt {
        user: claim.user.to_owned(),
        database: claim.database.to_owned(),
        token: Secret::new(String::from_utf8_lossy(token.expose()).into_owned()),
    }
}

/// What most users do.
fn common(config: &Config) -> IamMode {
    let count = |mode| config.users.iter().filter(|user| user.iam == mode).count();
    let mut modes = [IamMode::Disabled, IamMode::Optional, IamMode::Required];
    // Stable: the mode of `auth.iam` itself wins a tie.
    modes.sort_by_key(|mode| *mode != config.iam.mode);
    let most = modes.into_iter().rev().max_by_key(|mode| count(*mode));
    most.unwrap_or(config.iam.mode)
}

impl Asking {
    fn new(iam: &config::Iam, prober: &Prober, resolver: &Resolver) -> Result<Asking, IamError> {
        let sts = iam.sts.as_ref().map(|sts| {
            let key = "auth.iam.sts.ca_file";
            let authorities = authorities(key, sts.ca_file.as_deref())?;
            let sts = Sts::new(sts, authorities.as_deref(), resolver);
            sts.map_err(|source| IamError::Authorities { key, source })
        });
        let mut issuers = Vec::new();
        if let Some(jwt) = &iam.jwt {
            let key = "auth.iam.jwt.ca_file";
            let authorities = authorities(key, jwt.ca_file.as_deref())?;
            for issuer in &jwt.issuers {
                let issuer = Issuer::new(issuer, jwt, authorities.as_deref(), resolver);
                issuers.push(issuer.map_err(|source| IamError::Authorities { key, source })?);
            }
        }
        Ok(Asking {
            memory: Memory::new(iam.max_cached_tokens).ok_or(IamError::NoRandomness)?,
            sts: sts.transpose()?,
            aurora: iam
                .aurora
                .as_ref()
                .map(|aurora| Aurora::new(aurora, Arc::clone(prober))),
            issuers,
            resolver: resolver.clone(),
        })
    }

    async fn check_signature(&self, jwt: &Jwt) -> Verdict {
        let issuer = self
            .issuers
            .iter()
            .find(|issuer| issuer.name == jwt.issuer());
        let Some(issuer) = issuer else {
            return nobody();
        };
        match issuer.key(jwt.kid()).await {
            Ok(key) => match jwt.verify(&key) {
                Ok(()) => Verdict::Valid(jwt.principal()),
                Err(reason) => Verdict::Refused(reason),
            },
            Err(NoKey::Unknown) => Verdict::Refused(Reason::UnknownKey),
            Err(NoKey::Unreachable(why)) => Verdict::Unanswered(why),
        }
    }
}

fn authorities(key: &'static str, path: Option<&Path>) -> Result<Option<Vec<u8>>, IamError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| IamError::AuthoritiesFile {
            key,
            path: path.to_owned(),
            source,
        })
    };
    path.map(read).transpose()
}
