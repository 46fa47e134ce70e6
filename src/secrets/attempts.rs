//! The tries of one login to the database: what to prove ourselves with first, and what next when that is refused.
//!
//! Knows the order of things; not how a login goes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::directory::Directory;
use super::login::{Login, Password};
use super::patience::{Patience, chance};
use super::ring::Version;
use super::rotating::Rotating;
use super::rounds;
use super::token::{Mint, TokenError};
use crate::config::{HostPort, Secrets};

/// Why Weir can't log in as a user at the moment.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoLogin {
    /// A stranger, or a user with a verifier of whom no client has come yet.
    #[error("Weir has nothing to log in with as user \"{user}\"")]
    Nothing { user: String },
    /// Which secret, and why.
    #[error("there is no password of user \"{user}\" yet: {why}")]
    NotYet { user: String, why: String },
    #[error("the database refuses {what} for user \"{user}\"; it is asked again in {pause:?}")]
    Pause {
        user: String,
        what: String,
        pause: Duration,
    },
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Whether a login that was refused is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    TryAgain,
    GiveUp,
}

/// For one login; `refused` moves on.
pub struct Attempts {
    pub(super) role: Arc<str>,
    pub(super) with: With,
}

pub(super) enum With {
    /// It stays what it is.
    Fixed(Login),
    /// Learnt from a client, for the verifier that the database had.
    Learnt {
        login: Login,
        directory: Arc<Directory>,
    },
    Secret(OfSecret),
    Token(OfToken),
}

pub(super) struct OfSecret {
    pub rotating: Arc<Rotating>,
    pub terms: Arc<Secrets>,
    /// The last of them is being tried.
    pub tried: Vec<Arc<Version>>,
    pub refetched: bool,
}

pub(super) struct OfToken {
    pub mint: Arc<Mint>,
    pub patience: Arc<Mutex<Patience>>,
    /// The one that is being tried.
    pub token: Option<Arc<Password>>,
    pub renewed: bool,
}

impl Attempts {
    /// The role to log in as.
    pub fn role(&self) -> &Arc<str> {
        &self.role
    }

    /// What to log in with at this endpoint. Cancel-safe.
    pub async fn login(&mut self, at: &HostPort) -> Result<Login, NoLogin> {
        match &mut self.with {
            With::Fixed(login) | With::Learnt { login, .. } => Ok(login.clone()),
            With::Secret(of) => match of.tried.last() {
                Some(version) => Ok(Login::Password(Arc::clone(&version.password))),
                None => Err(NoLogin::Nothing {
                    user: self.role.to_string(),
                }),
            },
            With::Token(of) => {
                let token = of.mint.token(at, &self.role).await?;
                of.token = Some(Arc::clone(&token));
                Ok(Login::Token(token))
            }
        }
    }

    /// The server has refused the last `login`. Cancel-safe: dropped, the login is over anyway.
    pub async fn refused(&mut self) -> Next {
        match &mut self.with {
            With::Fixed(_) => Next::GiveUp,
            With::Learnt { directory, .. } => {
                directory.doubt(&self.role);
                Next::GiveUp
            }
            With::Secret(of) => {
                let next = of.refused().await;
                if let Some(version) = of.tried.last() {
                    self.role = Arc::clone(&version.role);
                }
                next
            }
            With::Token(of) => of.refused().await,
        }
    }

    /// The server has let us in.
    pub fn taken(&self) {
        match &self.with {
            With::Fixed(_) | With::Learnt { .. } => {}
            With::Secret(of) => of.rotating.taken(&of.tried),
            With::Token(of) => lock(&of.patience).regain(),
        }
    }
}

impl OfSecret {
    /// AWSCURRENT as it is now, then AWSPENDING, then AWSPREVIOUS: each value once.
    async fn refused(&mut self) -> Next {
        if !std::mem::replace(&mut self.refetched, true) {
            self.rotating
                .rounds()
                .refetch(&self.terms, rounds::Patience::Full)
                .await;
        }
        let ring = self.rotating.ring();
        if let Some(version) = ring.as_ref().and_then(|ring| ring.next(&self.tried)) {
            self.tried.push(Arc::clone(version));
            return Next::TryAgain;
        }
        let pause = self.rotating.refused();
        tracing::warn!(arn = %self.rotating.arn, ?pause, "the database refuses every value of the secret");
        Next::GiveUp
    }
}

impl OfToken {
    /// New credentials, a new token, once.
    async fn refused(&mut self) -> Next {
        if let Some(token) = &self.token
            && !std::mem::replace(&mut self.renewed, true)
        {
            self.mint.renew(token).await;
            return Next::TryAgain;
        }
        lock(&self.patience).lose(Instant::now().into_std(), chance());
        Next::GiveUp
    }
}

pub(super) fn lock(patience: &Mutex<Patience>) -> std::sync::MutexGuard<'_, Patience> {
    patience.lock().unwrap_or_else(PoisonError::into_inner)
}
