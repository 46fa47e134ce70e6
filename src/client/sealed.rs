//! A client that comes with a token, or may: asked for it in the clear, which TLS hides.
//!
//! Knows when one is asked for and what becomes of it; what a token says, `iam` knows.

use std::sync::Arc;

use super::challenge::{Counted, Proven, put_authentication, same, second_look, settle};
use super::failures::Verdict;
use super::iam::Denied;
use super::iam::rules::Claim;
use super::negotiate::Greeted;
use super::origin::Origin;
use super::peer::{Peer, Stop};
use super::refused::{Refused, WrongPassword};
use super::{Gate, Instant};
use crate::config::{IamMode, Secret};
use crate::protocol::frame::split_cstr;
use crate::protocol::opening::Startup;
use crate::secrets::Credential;

const OK: u32 = 0;
const CLEARTEXT_PASSWORD: u32 = 3;

/// What it is called until it is known who checks the token.
const METHOD: &str = "iam";

/// What a client hands over in the clear.
pub(super) struct Sealed {
    startup: Box<Startup>,
    /// A token; or a password, where both are taken.
    secret: Secret<Vec<u8>>,
    mode: IamMode,
}

/// How a client proves itself.
pub(super) enum Approach<'p> {
    /// It is asked for a proof that tells nobody anything.
    Challenge(Greeted<'p>),
    Sealed(Sealed),
}

impl<'p> Greeted<'p> {
    /// Asks for a token, if this user comes with one. Not cancel-safe.
    pub async fn approach(self, gate: &Gate, origin: Origin) -> Result<Approach<'p>, Stop> {
        let user = String::from_utf8_lossy(&self.startup.user);
        let mode = gate.iam.mode(&user);
        match mode {
            IamMode::Disabled => return Ok(Approach::Challenge(self)),
            IamMode::Optional if !self.peer.is_tls() => return Ok(Approach::Challenge(self)),
            IamMode::Required if !self.peer.is_tls() => {
                let user = user.into_owned();
                let refused = Err(Refused::TokenInClear { user }.into());
                return settle(
                    refused,
                    gate,
                    origin,
                    &self.startup.user,
                    METHOD,
                    Counted::Not,
                );
            }
            IamMode::Optional | IamMode::Required => {}
        }
        let Greeted { peer, startup } = self;
        let secret = ask(peer, gate).await;
        let secret = settle_refusal(secret, gate, origin, &startup.user)?;
        Ok(Approach::Sealed(Sealed {
            startup,
            secret,
            mode,
        }))
    }
}

/// A refusal is counted; what is not one yet may still become one.
fn settle_refusal<T>(
    outcome: Result<T, Stop>,
    gate: &Gate,
    origin: Origin,
    user: &[u8],
) -> Result<T, Stop> {
    match outcome {
        Ok(fine) => Ok(fine),
        refused => settle(refused, gate, origin, user, METHOD, Counted::Not),
    }
}

async fn ask(peer: &mut Peer, gate: &Gate) -> Result<Secret<Vec<u8>>, Stop> {
    put_authentication(peer.outbox(), CLEARTEXT_PASSWORD, b"");
    peer.flush().await?;
    // One byte more for the zero at its end.
    let answer = peer.answer(gate.iam.max_token_bytes() + 1).await;
    let answer = answer.map_err(|stop| match stop {
        Stop::Refused(refused) if matches!(*refused, Refused::MessageLength) => {
            Refused::TokenTooLong.into()
        }
        stop => stop,
    })?;
    match split_cstr(&answer) {
        Some((secret, [])) => Ok(Secret::new(secret.to_vec())),
        Some(_) | None => Err(Refused::PasswordPacket.into()),
    }
}

impl Sealed {
    /// Checks it. Others may have to be asked, which takes their time, not the client's. Not cancel-safe.
    pub async fn open(self, peer: &mut Peer, gate: &Gate, origin: Origin) -> Result<Proven, Stop> {
        let (mut method, mut counted) = (METHOD, Counted::Not);
        let proven = self.check(gate, origin, &mut method, &mut counted).await;
        if proven.is_ok() {
            put_authentication(peer.outbox(), OK, b"");
        }
        settle(proven, gate, origin, &self.startup.user, method, counted)
    }

    async fn check(
        &self,
        gate: &Gate,
        origin: Origin,
        method: &mut &'static str,
        counted: &mut Counted,
    ) -> Result<Proven, Stop> {
        let startup = &self.startup;
        let heard = || {
            let now = Instant::now().into();
            match gate.failures.verdict(origin, &startup.user, now) {
                Verdict::TooMany { again_in } => {
                    Err(Refused::too_many_failures(&startup.user, again_in))
                }
                Verdict::Welcome | Verdict::Wait(_) => Ok(()),
            }
        };
        heard()?;
        let unknown = || WrongPassword::UnknownUser {
            user: String::from_utf8_lossy(&startup.user).into_owned(),
        };
        let user = std::str::from_utf8(&startup.user).map_err(|_| Refused::from(unknown()))?;
        // Before anybody is asked: for a user that is not there no question is worth its price.
        let known = gate.vault.find(user).await;
        let Some(credential) = known.map_err(Refused::NotYet)? else {
            return Err(Refused::from(unknown()).into());
        };
        let proven = Proven::new(credential.user(), startup, gate)?;
        if self.mode == IamMode::Optional && !gate.iam.is_token(self.secret.expose()) {
            *method = gate.method.name();
            if fits(&credential, &self.secret).await {
                return Ok(proven);
            }
            // What is known may be out of date; see `challenge`.
            *counted = Counted::Already;
            if let Some(newer) = second_look(gate, origin, &startup.user).await
                && fits(&newer, &self.secret).await
            {
                return Ok(proven);
            }
            return Err(Refused::from(WrongPassword::Proof {
                user: user.to_owned(),
            })
            .into());
        }
        let claim = Claim {
            user,
            database: &proven.database,
        };
        let standing = || heard().is_ok();
        let validated = gate
            .iam
            .validate(&self.secret, &claim, &standing, method)
            .await;
        if let Err(denied) = validated {
            // Of those who were asked about at the same time, too, only so many learn that they were wrong.
            heard()?;
            return Err(refused(denied, user).into());
        }
        Ok(proven)
    }
}

fn refused(denied: Denied, user: &str) -> Refused {
    match denied {
        Denied::Refused(reason) => WrongPassword::Token {
            user: user.to_owned(),
            reason,
        }
        .into(),
        Denied::Unanswered(why) => Refused::TokenUnanswered {
            user: user.to_owned(),
            why: why.to_string(),
        },
    }
}

/// Whether a password in the clear is the user's.
async fn fits(credential: &Arc<Credential>, secret: &Secret<Vec<u8>>) -> bool {
    let passwords = credential.passwords();
    if !passwords.is_empty() {
        // All of them, lest time tell which one it was.
        return passwords.iter().fold(false, |fits, password| {
            fits | same(password.text().expose().as_bytes(), secret.expose())
        });
    }
    // Thousands of rounds of hashing: not on a worker.
    let (credential, secret) = (Arc::clone(credential), secret.clone());
    let hash = move || credential.verifier().fits(secret.expose());
    tokio::task::spawn_blocking(hash).await.unwrap_or(false)
}
