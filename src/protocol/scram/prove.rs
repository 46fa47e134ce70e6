//! The role of who asks for access: proves a password to a database, and has it prove itself.
//!
//! Knows the messages; does not know where the keys come from.

use std::num::NonZeroU32;

use super::attribute::{Attributes, checked_nonce, malformed};
use super::keys::{parse_iterations, parse_key};
use super::{Mechanism, SaltedKeys, ScramError, bounded, decode, encode, same};

/// What ties the exchange to its TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding<'a> {
    /// We can't: no TLS, or a certificate that has no such hash.
    Unsupported,
    /// We could, the server doesn't offer it. Said to the server, which then notices a downgrade.
    NotOffered,
    /// The server certificate's tls-server-end-point; goes with SCRAM-SHA-256-PLUS.
    EndPoint(&'a [u8]),
}

impl Binding<'_> {
    pub fn mechanism(self) -> Mechanism {
        match self {
            Binding::Unsupported | Binding::NotOffered => Mechanism::Scram,
            Binding::EndPoint(_) => Mechanism::ScramPlus,
        }
    }

    fn header(self) -> &'static [u8] {
        match self {
            Binding::Unsupported => b"n,,",
            Binding::NotOffered => b"y,,",
            Binding::EndPoint(_) => b"p=tls-server-end-point,,",
        }
    }
}

/// The first message is made, the challenge is owed.
#[derive(Debug)]
pub struct Hello {
    nonce: String,
    bare: String,
    binding: String,
}

impl Hello {
    /// The first message, and the step that takes its answer. The user name stays empty, as libpq
    /// leaves it: PostgreSQL takes the startup packet's.
    pub fn new(binding: Binding<'_>, nonce: String) -> (Hello, Vec<u8>) {
        let bare = format!("n=,r={nonce}");
        let message = [binding.header(), bare.as_bytes()].concat();
        let bound = match binding {
            Binding::Unsupported | Binding::NotOffered => encode(binding.header()),
            Binding::EndPoint(hash) => encode(&[binding.header(), hash].concat()),
        };
        let hello = Hello {
            nonce,
            bare,
            binding: bound,
        };
        (hello, message)
    }

    pub fn challenged(self, server_first: &[u8]) -> Result<Challenge, ScramError> {
        let mut attributes = Attributes(bounded(server_first)?);
        let nonce = checked_nonce(attributes.expect(b'r', "expected the nonce")?)?;
        let salt = attributes.expect(b's', "expected the salt")?;
        let iterations = attributes.expect(b'i', "expected the iteration count")?;
        attributes.ignore_rest()?;
        // A server that adds nothing of its own could replay an old exchange.
        match nonce.strip_prefix(self.nonce.as_bytes()) {
            Some([_, ..]) => {}
            Some([]) | None => return Err(ScramError::NonceMismatch),
        }
        let salt = decode(salt, "salt is not base64")?;
        if salt.is_empty() {
            return Err(malformed("salt is empty"));
        }
        let mut without_proof = format!("c={},r=", self.binding).into_bytes();
        without_proof.extend_from_slice(nonce);
        Ok(Challenge {
            iterations: parse_iterations(iterations)?,
            auth_message: [self.bare.as_bytes(), server_first, &without_proof].join(&b','),
            salt,
            without_proof,
        })
    }
}

/// The server has said for which salt and iteration count it wants a proof.
#[derive(Debug)]
pub struct Challenge {
    salt: Vec<u8>,
    iterations: NonZeroU32,
    without_proof: Vec<u8>,
    auth_message: Vec<u8>,
}

impl Challenge {
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// Whether keys made earlier answer this challenge.
    pub fn fits(&self, keys: &SaltedKeys) -> bool {
        keys.fit(&self.salt, self.iterations)
    }

    /// The proof to send, and the step that checks the server's own.
    pub fn prove(self, keys: &SaltedKeys) -> Result<(AwaitingServer, Vec<u8>), ScramError> {
        if !self.fits(keys) {
            return Err(ScramError::OtherVerifier);
        }
        let verifier = keys.verifier();
        let proof = keys
            .client_key
            .masked(&verifier.stored_key, &[&self.auth_message]);
        let mut message = self.without_proof;
        message.extend_from_slice(b",p=");
        message.extend_from_slice(encode(&proof).as_bytes());
        let awaiting = AwaitingServer {
            signature: verifier.server_signature(&[&self.auth_message]),
        };
        Ok((awaiting, message))
    }
}

/// The proof is out, the server's is owed.
pub struct AwaitingServer {
    signature: [u8; super::KEY_BYTES],
}

impl AwaitingServer {
    pub fn verify(self, server_final: &[u8]) -> Result<(), ScramError> {
        let mut attributes = Attributes(bounded(server_final)?);
        let signature = match attributes.next()? {
            Some((b'v', signature)) => parse_key(signature)?,
            Some((b'e', _)) => return Err(ScramError::RefusedByServer),
            Some(_) | None => return Err(malformed("expected the server's signature")),
        };
        if !same(&signature, &self.signature) {
            return Err(ScramError::WrongSignature);
        }
        Ok(())
    }
}
