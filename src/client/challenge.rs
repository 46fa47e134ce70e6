//! Asking for a proof, and checking it.
//!
//! Knows SASL and md5 as PostgreSQL speaks them; does not know where credentials come from.
//! Source: PostgreSQL's `auth.c`, `auth-sasl.c`.

use std::sync::Arc;

use postgres_protocol::authentication::md5_hash;
use subtle::ConstantTimeEq;

use super::failures::{Lapse, Verdict};
use super::negotiate::Greeted;
use super::origin::Origin;
use super::peer::{Peer, Stop};
use super::refused::{Refused, WrongPassword};
use super::{Gate, Instant, Manner};
use crate::config::{AuthMethod, Secret};
use crate::protocol::frame::{put, split_cstr};
use crate::protocol::opening::{Replication, Startup};
use crate::protocol::scram::{
    self, Challenged, ClientFirst, Mechanism, ScramError, Verified, Verifier,
};
use crate::protocol::tag::backend;
use crate::secrets::{Credential, Password, Patience};

/// PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH.
const MAX_SASL_BYTES: usize = 1024;

/// PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH.
const MAX_PASSWORD_BYTES: usize = 65_535;

const OK: u32 = 0;
const MD5_PASSWORD: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// A client that is who it says; AuthenticationOk waits in its outbox.
pub(super) struct Proven {
    pub user: Arc<str>,
    pub database: String,
    pub settings: Vec<(String, Vec<u8>)>,
    pub minor: u16,
    pub replication: Option<Replication>,
}

/// What a client's answer is checked against.
enum Expected {
    Scram(Verifier),
    Md5,
    /// It has been shown already, or never will.
    Certificate,
}

impl Expected {
    fn method(&self) -> AuthMethod {
        match self {
            Expected::Scram(_) => AuthMethod::ScramSha256,
            Expected::Md5 => AuthMethod::Md5,
            Expected::Certificate => AuthMethod::Cert,
        }
    }
}

/// What a client has answered; it may be judged more than once.
enum Answer {
    Scram(Proof),
    Md5(Hash),
    /// It has been judged already.
    Certificate,
}

/// The credential that was proven and, with SCRAM, what was shown.
type Right = (Arc<Credential>, Option<Verified>);

/// Whether a failure has been counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Not,
    Already,
}

impl Greeted<'_> {
    /// Asks for a proof and checks it. Who leaves instead of answering is not counted: psql does, to ask its user.
    pub async fn prove(self, gate: &Gate, origin: Origin) -> Result<Proven, Stop> {
        let Greeted { peer, startup } = self;
        let (mut method, mut counted) = (gate.method.name(), Counted::Not);
        let proven = ask(peer, &startup, gate, origin, &mut method, &mut counted).await;
        settle(proven, gate, origin, &startup.user, method, counted)
    }
}

/// Counts what came of a proof.
pub(super) fn settle<T>(
    outcome: Result<T, Stop>,
    gate: &Gate,
    origin: Origin,
    user: &[u8],
    method: &'static str,
    counted: Counted,
) -> Result<T, Stop> {
    match &outcome {
        Ok(_) => {
            gate.failures.passed(origin, user);
            gate.meters.accepted(method);
        }
        Err(Stop::Refused(refused)) => {
            if refused.is_failed_proof() && counted == Counted::Not {
                gate.failures.failed(origin, user, Instant::now().into());
            }
            gate.meters.refused(method, refused.reason());
        }
        Err(Stop::Left) => {}
    }
    outcome
}

/// Counts a proof that was wrong, and looks whether what is known is out of date: what is known then. Whoever was wrong
/// before is not kept waiting for that, and does not keep others from logging in meanwhile.
pub(super) async fn second_look(
    gate: &Gate,
    origin: Origin,
    user: &[u8],
) -> Option<Arc<Credential>> {
    let lapse = gate.failures.failed(origin, user, Instant::now().into());
    let patience = match lapse {
        Lapse::First => Patience::Full,
        Lapse::Another => Patience::Little,
    };
    gate.vault
        .doubt(&String::from_utf8_lossy(user), patience)
        .await
}

/// `method` becomes what the client was asked for in truth.
async fn ask(
    peer: &mut Peer,
    startup: &Startup,
    gate: &Gate,
    origin: Origin,
    method: &mut &'static str,
    counted: &mut Counted,
) -> Result<Proven, Stop> {
    let user = std::str::from_utf8(&startup.user).ok();
    let known = match user {
        Some(user) => gate.vault.find(user).await.map_err(Refused::NotYet)?,
        None => None,
    };
    // Made for known users too, so that both kinds take the same time.
    let doomed = gate.vault.doomed(&startup.user);
    let manner = user.and_then(|user| gate.manners.get(user));
    let asked = manner.map_or(gate.method, |manner| manner.method);
    let expected = expected(asked, known.as_deref(), doomed);
    *method = expected.method().name();
    let answer = match expected {
        Expected::Scram(verifier) => {
            let offered = Sasl::offer(peer, verifier).await?;
            Answer::Scram(offered.answer().await?)
        }
        Expected::Md5 => {
            let asked = Md5::ask(peer, &startup.user).await?;
            Answer::Md5(asked.answer().await?)
        }
        Expected::Certificate => certificate(peer, manner, startup)?,
    };
    // Many may be asked at a time, but only so many learn whether they were right.
    let now = Instant::now().into();
    if let Verdict::TooMany { again_in } = gate.failures.verdict(origin, &startup.user, now) {
        return Err(Refused::too_many_failures(&startup.user, again_in).into());
    }
    let (credential, shown) = match answer.judge(known.as_ref())? {
        Some(right) => right,
        // What is known may be out of date. Strangers wait as long as users do; all are counted before they wait,
        // lest many at a time go uncounted meanwhile.
        None => {
            *counted = Counted::Already;
            let right = match second_look(gate, origin, &startup.user).await {
                Some(newer) => answer.judge(Some(&newer))?,
                None => None,
            };
            right.ok_or_else(|| wrong_password(startup, known.is_some()))?
        }
    };
    if let Some(shown) = shown {
        credential.learn_client_key(&shown.client_key);
        put_authentication(peer.outbox(), SASL_FINAL, &shown.server_final);
    }
    put_authentication(peer.outbox(), OK, b"");
    Proven::new(credential.user(), startup, gate)
}

impl Answer {
    fn judge(&self, known: Option<&Arc<Credential>>) -> Result<Option<Right>, Stop> {
        let Some(known) = known else {
            // A stranger's answer is judged, too, by a verifier that nothing fits: it takes as long, and nonsense is
            // refused as nonsense.
            if let Answer::Scram(proof) = self {
                proof.verify([proof.challenged.asked_of()])?;
            }
            return Ok(None);
        };
        let shown = match self {
            Answer::Scram(proof) => match proof.verify(known.verifiers())? {
                Some(shown) => Some(shown),
                None => return Ok(None),
            },
            Answer::Md5(hash) if hash.fits(known.passwords()) => None,
            Answer::Md5(_) => return Ok(None),
            Answer::Certificate => None,
        };
        Ok(Some((Arc::clone(known), shown)))
    }
}

/// As PostgreSQL chooses: who has no password that md5 could be made of is asked for SCRAM.
fn expected(method: AuthMethod, known: Option<&Credential>, doomed: Verifier) -> Expected {
    match (method, known) {
        (AuthMethod::ScramSha256, None) => Expected::Scram(doomed),
        (AuthMethod::ScramSha256, Some(known)) => Expected::Scram(known.verifier().clone()),
        (AuthMethod::Md5, Some(known)) if known.passwords().is_empty() => {
            Expected::Scram(known.verifier().clone())
        }
        (AuthMethod::Md5, Some(_) | None) => Expected::Md5,
        (AuthMethod::Cert, _) => Expected::Certificate,
    }
}

/// TLS has checked who vouches for it; what is left is whom it is about.
fn certificate(peer: &Peer, manner: Option<&Manner>, startup: &Startup) -> Result<Answer, Refused> {
    let Some(subject) = peer.subject() else {
        return Err(Refused::NoCertificate);
    };
    let name = subject.common_name.as_ref();
    let fits = |name| manner.is_some_and(|manner| manner.certificate_names.contains(name));
    if name.is_some_and(fits) {
        return Ok(Answer::Certificate);
    }
    Err(Refused::WrongCertificate {
        user: String::from_utf8_lossy(&startup.user).into_owned(),
        common_name: name.cloned(),
    })
}

fn wrong_password(startup: &Startup, is_known: bool) -> Stop {
    let user = String::from_utf8_lossy(&startup.user).into_owned();
    let wrong = if is_known {
        WrongPassword::Proof { user }
    } else {
        WrongPassword::UnknownUser { user }
    };
    Refused::from(wrong).into()
}

impl Proven {
    /// What PostgreSQL, too, finds wrong only once it knows the user.
    pub fn new(user: &Arc<str>, startup: &Startup, gate: &Gate) -> Result<Proven, Stop> {
        let database = match &startup.database {
            None => gate.default_database.clone(),
            Some(name) => String::from_utf8(name.clone()).map_err(|error| Refused::NoDatabase {
                name: String::from_utf8_lossy(error.as_bytes()).into_owned(),
            })?,
        };
        Ok(Proven {
            user: Arc::clone(user),
            database,
            settings: startup.settings().map_err(Refused::Switch)?,
            minor: startup.minor,
            replication: startup.replication,
        })
    }
}

/// SCRAM is offered; the client's choice is owed.
struct Sasl<'p> {
    peer: &'p mut Peer,
    verifier: Verifier,
    /// Set where SCRAM-SHA-256-PLUS is on offer.
    end_point: Option<Arc<[u8]>>,
}

impl<'p> Sasl<'p> {
    async fn offer(peer: &'p mut Peer, verifier: Verifier) -> Result<Sasl<'p>, Stop> {
        let end_point = peer.end_point();
        let mechanisms: &[u8] = match end_point {
            Some(_) => b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
            None => b"SCRAM-SHA-256\0\0",
        };
        put_authentication(peer.outbox(), SASL, mechanisms);
        peer.flush().await?;
        Ok(Sasl {
            peer,
            verifier,
            end_point,
        })
    }

    async fn answer(self) -> Result<Proof, Stop> {
        let choice = self.peer.answer(MAX_SASL_BYTES).await?;
        let (mechanism, first) = parse_choice(&choice)?;
        if mechanism == Mechanism::ScramPlus && self.end_point.is_none() {
            return Err(Refused::NoSuchMechanism.into());
        }
        let later;
        let first = match first {
            Some(first) => first,
            // A client may name the mechanism first and begin when asked to.
            None => {
                later = say(self.peer, b"").await?;
                &later
            }
        };
        let first = ClientFirst::parse(first, mechanism, self.end_point.as_deref())
            .map_err(Refused::Scram)?;
        let challenged = first.challenge(self.verifier, &scram::nonce(random()?));
        let last = say(self.peer, challenged.message()).await?;
        Ok(Proof { challenged, last })
    }
}

/// The client's proof, and what it was asked.
struct Proof {
    challenged: Challenged,
    last: Vec<u8>,
}

impl Proof {
    /// What it has shown; `None`: it fits none of these, all of the salt that the client was told.
    fn verify<'v>(
        &self,
        verifiers: impl IntoIterator<Item = &'v Verifier>,
    ) -> Result<Option<Verified>, Stop> {
        match self.challenged.verify(verifiers, &self.last) {
            Ok(verified) => Ok(Some(verified)),
            Err(ScramError::WrongProof) => Ok(None),
            Err(error) => Err(Refused::Scram(error).into()),
        }
    }
}

/// Sends a challenge and waits for the answer.
async fn say(peer: &mut Peer, challenge: &[u8]) -> Result<Vec<u8>, Stop> {
    put_authentication(peer.outbox(), SASL_CONTINUE, challenge);
    peer.flush().await?;
    peer.answer(MAX_SASL_BYTES).await
}

/// SASLInitialResponse: the mechanism, and the first message unless its length is -1.
fn parse_choice(body: &[u8]) -> Result<(Mechanism, Option<&[u8]>), Refused> {
    let (name, rest) = split_cstr(body).ok_or(Refused::PasswordPacket)?;
    let mechanism = Mechanism::parse(name).ok_or(Refused::NoSuchMechanism)?;
    let (length, first) = rest.split_first_chunk().ok_or(Refused::PasswordPacket)?;
    match i32::from_be_bytes(*length) {
        -1 if first.is_empty() => Ok((mechanism, None)),
        length if usize::try_from(length) == Ok(first.len()) => Ok((mechanism, Some(first))),
        _ => Err(Refused::PasswordPacket),
    }
}

/// A hash over this connection's salt is asked for.
struct Md5<'p> {
    peer: &'p mut Peer,
    user: Vec<u8>,
    salt: [u8; 4],
}

impl<'p> Md5<'p> {
    async fn ask(peer: &'p mut Peer, user: &[u8]) -> Result<Md5<'p>, Stop> {
        let salt = random()?;
        put_authentication(peer.outbox(), MD5_PASSWORD, &salt);
        peer.flush().await?;
        let user = user.to_vec();
        Ok(Md5 { peer, user, salt })
    }

    async fn answer(self) -> Result<Hash, Stop> {
        let body = self.peer.answer(MAX_PASSWORD_BYTES).await?;
        match split_cstr(&body) {
            Some((answer, [])) => Ok(Hash {
                user: self.user,
                salt: self.salt,
                answer: answer.to_vec(),
            }),
            Some(_) | None => Err(Refused::PasswordPacket.into()),
        }
    }
}

/// A client's answer to md5, and what it was asked.
struct Hash {
    user: Vec<u8>,
    salt: [u8; 4],
    answer: Vec<u8>,
}

impl Hash {
    /// Each is compared, so that how long it takes tells nothing of which one fits.
    fn fits(&self, passwords: &[Arc<Password>]) -> bool {
        passwords.iter().fold(false, |fits, password| {
            let text = password.text().expose().as_bytes();
            let hash = Secret::new(md5_hash(&self.user, text, self.salt));
            fits | bool::from(self.answer.ct_eq(hash.expose().as_bytes()))
        })
    }
}

/// Compares in time that depends on the lengths alone.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    let differing = a
        .iter()
        .zip(b)
        .fold(0, |bits, (a, b)| std::hint::black_box(bits | (a ^ b)));
    a.len() == b.len() && differing == 0
}

pub(super) fn put_authentication(out: &mut Vec<u8>, code: u32, rest: &[u8]) {
    put(out, backend::AUTHENTICATION, |body| {
        body.extend_from_slice(&code.to_be_bytes());
        body.extend_from_slice(rest);
    });
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], Refused> {
    let mut bytes = [0; BYTES];
    crate::random::fill(&mut bytes).map_err(|_| Refused::NoRandomness)?;
    Ok(bytes)
}
