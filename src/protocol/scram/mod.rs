//! SCRAM-SHA-256 as PostgreSQL speaks it, both roles, as values: messages in, messages out.
//!
//! Random numbers are arguments; does not know sockets, users, or where a secret is kept.
//! Sources: RFC 5802, RFC 7677, RFC 5929 (tls-server-end-point), PostgreSQL's `auth-scram.c`.
//!
//! Each step is a struct that the next one consumes:
//! who is asked goes `ClientFirst -> Challenged -> Verified`, who asks `Hello -> Challenge -> AwaitingServer`.

mod accept;
mod attribute;
mod keys;
mod prove;

pub use accept::{Challenged, ClientFirst, Verified};
pub use keys::{ClientKey, Doom, SaltedKeys, ScramKeys, Verifier};
pub use prove::{AwaitingServer, Binding, Challenge, Hello};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

/// No message of an exchange may be longer; PostgreSQL's own limit is 1024.
pub const MAX_MESSAGE_BYTES: usize = 4096;

/// A peer that asks for more wants to keep us busy. PostgreSQL's default is 4096, about two milliseconds.
pub const MAX_ITERATIONS: u32 = 1_000_000;

/// Random bytes in a nonce, as many as PostgreSQL takes.
pub const NONCE_BYTES: usize = 18;

/// Random bytes in a salt, as many as PostgreSQL takes.
pub const SALT_BYTES: usize = 16;

/// Bytes of SHA-256's output, so of every key here.
pub const KEY_BYTES: usize = 32;

/// The two SASL mechanisms; the second ties the exchange to the TLS connection it runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Scram,
    ScramPlus,
}

impl Mechanism {
    pub const fn name(self) -> &'static str {
        match self {
            Mechanism::Scram => "SCRAM-SHA-256",
            Mechanism::ScramPlus => "SCRAM-SHA-256-PLUS",
        }
    }

    pub fn parse(name: &[u8]) -> Option<Mechanism> {
        [Mechanism::Scram, Mechanism::ScramPlus]
            .into_iter()
            .find(|mechanism| mechanism.name().as_bytes() == name)
    }
}

/// Why an exchange ended. No text holds a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("SCRAM message of {bytes} bytes is longer than {MAX_MESSAGE_BYTES}")]
    TooLong { bytes: usize },
    #[error("malformed SCRAM message: {what}")]
    Malformed { what: &'static str },
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    #[error("peer requires an unsupported SCRAM extension")]
    UnsupportedExtension,
    #[error("unsupported SCRAM channel-binding type")]
    UnsupportedBinding,
    /// The message's own flag contradicts the mechanism that was chosen.
    #[error("SCRAM message and chosen mechanism disagree about channel binding")]
    BindingContradictsMechanism,
    /// Somebody in between took SCRAM-SHA-256-PLUS off our list.
    #[error(
        "SCRAM channel binding negotiation error: the client thinks that channel binding was not offered, but it was"
    )]
    Downgraded,
    /// The peer sees another certificate than ours.
    #[error("SCRAM channel binding check failed")]
    BindingMismatch,
    #[error("SCRAM nonce does not match")]
    NonceMismatch,
    #[error("SCRAM iteration count {iterations} is not in 1 to {MAX_ITERATIONS}")]
    Iterations { iterations: u64 },
    /// The client doesn't know the password.
    #[error("SCRAM proof is wrong")]
    WrongProof,
    /// The keys at hand belong to another salt or iteration count: the password was set anew.
    #[error("SCRAM keys are of another verifier than the server's")]
    OtherVerifier,
    /// The server ended the exchange with an error of its own.
    #[error("server ended the SCRAM exchange")]
    RefusedByServer,
    /// Who answered doesn't know the verifier: not the database, or another database.
    #[error("SCRAM signature of the server is wrong")]
    WrongSignature,
}

/// A nonce's text from random bytes.
pub fn nonce(random: [u8; NONCE_BYTES]) -> String {
    encode(&random)
}

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Appends them as base64.
fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let begins = out.len();
    out.resize(begins + bytes.len().div_ceil(3) * 4, 0);
    let room = out.get_mut(begins..).unwrap_or_default();
    STANDARD
        .encode_slice(bytes, room)
        .expect("four characters for three bytes");
}

fn decode(text: &[u8], what: &'static str) -> Result<Vec<u8>, ScramError> {
    STANDARD
        .decode(text)
        .map_err(|_| ScramError::Malformed { what })
}

/// Compares in time that depends on the length alone.
fn same(a: &[u8; KEY_BYTES], b: &[u8; KEY_BYTES]) -> bool {
    a.ct_eq(b).into()
}

fn xor(a: &[u8; KEY_BYTES], b: &[u8; KEY_BYTES]) -> [u8; KEY_BYTES] {
    let mut out = *a;
    out.iter_mut().zip(b).for_each(|(out, b)| *out ^= b);
    out
}

fn bounded(message: &[u8]) -> Result<&[u8], ScramError> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(ScramError::TooLong {
            bytes: message.len(),
        });
    }
    Ok(message)
}

#[cfg(test)]
mod tests;
