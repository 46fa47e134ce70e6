//! The role of who is asked for access: checks what a client proves.
//!
//! Knows the messages in the order PostgreSQL takes them; does not know which user it is.

use super::attribute::{Attributes, checked_nonce, malformed};
use super::keys::parse_key;
use super::{ClientKey, Mechanism, ScramError, Verifier, bounded, decode, encode, same};

/// A client's first message, read and found sound.
#[derive(Debug)]
pub struct ClientFirst {
    bare: Vec<u8>,
    client_nonce: Vec<u8>,
    /// What the last message must repeat: the GSS-API header, and our certificate's hash with -PLUS.
    binding: Vec<u8>,
}

impl ClientFirst {
    /// `end_point` is our certificate's tls-server-end-point where SCRAM-SHA-256-PLUS was offered.
    /// The user name inside is ignored, as in PostgreSQL: the startup packet's counts.
    pub fn parse(
        message: &[u8],
        mechanism: Mechanism,
        end_point: Option<&[u8]>,
    ) -> Result<ClientFirst, ScramError> {
        let message = bounded(message)?;
        let (flag, rest) = split_comma(message)?;
        let end_point = match (flag, mechanism) {
            (b"n", Mechanism::Scram) => None,
            (b"y", Mechanism::Scram) if end_point.is_some() => return Err(ScramError::Downgraded),
            (b"y", Mechanism::Scram) => None,
            (b"p=tls-server-end-point", Mechanism::ScramPlus) => {
                Some(end_point.ok_or(ScramError::BindingContradictsMechanism)?)
            }
            ([b'p', b'=', ..], Mechanism::ScramPlus) => return Err(ScramError::UnsupportedBinding),
            (b"n" | b"y" | [b'p', b'=', ..], _) => {
                return Err(ScramError::BindingContradictsMechanism);
            }
            _ => return Err(malformed("unexpected channel-binding flag")),
        };
        let (identity, bare) = split_comma(rest)?;
        match identity {
            b"" => {}
            [b'a', b'=', ..] => return Err(ScramError::AuthorizationIdentity),
            _ => return Err(malformed("unexpected attribute in front of the user name")),
        }
        let header = message.strip_suffix(bare).unwrap_or_default();
        let mut attributes = Attributes(bare);
        attributes.expect(b'n', "expected the user name")?;
        let client_nonce = checked_nonce(attributes.expect(b'r', "expected the nonce")?)?;
        attributes.ignore_rest()?;
        Ok(ClientFirst {
            bare: bare.to_vec(),
            client_nonce: client_nonce.to_vec(),
            binding: [header, end_point.unwrap_or_default()].concat(),
        })
    }

    /// The challenge to send, and the step that checks its answer.
    pub fn challenge(self, verifier: Verifier, server_nonce: &str) -> (Challenged, Vec<u8>) {
        let nonce = [&self.client_nonce, server_nonce.as_bytes()].concat();
        let mut server_first = b"r=".to_vec();
        server_first.extend_from_slice(&nonce);
        let salt = encode(verifier.salt());
        let how = format!(",s={salt},i={}", verifier.iterations());
        server_first.extend_from_slice(how.as_bytes());
        let mut auth_message = self.bare;
        auth_message.push(b',');
        auth_message.extend_from_slice(&server_first);
        auth_message.push(b',');
        let challenged = Challenged {
            verifier,
            nonce,
            binding: encode(&self.binding),
            auth_message,
        };
        (challenged, server_first)
    }
}

/// The challenge is out, the proof is owed.
#[derive(Debug)]
pub struct Challenged {
    /// Whose salt the client was told.
    verifier: Verifier,
    nonce: Vec<u8>,
    binding: String,
    /// Both first messages and their commas; the last one's part is still missing.
    auth_message: Vec<u8>,
}

impl Challenged {
    /// The verifier whose salt the client was told.
    pub fn asked_of(&self) -> &Verifier {
        &self.verifier
    }

    /// A proof may fit any of these, such as the passwords before and after a rotation. One with another salt than
    /// the client was told fits nothing. With none at all the message is read all the same.
    pub fn verify<'v>(
        &self,
        verifiers: impl IntoIterator<Item = &'v Verifier>,
        client_final: &[u8],
    ) -> Result<Verified, ScramError> {
        let mut attributes = Attributes(bounded(client_final)?);
        let binding = attributes.expect(b'c', "expected the channel binding")?;
        let nonce = attributes.expect(b'r', "expected the nonce")?;
        let (proof, proven) = loop {
            let proven = client_final.strip_suffix(attributes.0).unwrap_or_default();
            match attributes.next()? {
                Some((b'p', proof)) => break (proof, proven),
                Some(_) => {}
                None => return Err(malformed("proof is missing")),
            }
        };
        if !attributes.0.is_empty() {
            return Err(malformed("garbage behind the proof"));
        }
        if nonce != self.nonce {
            return Err(ScramError::NonceMismatch);
        }
        if binding != self.binding.as_bytes() {
            return Err(self.binding_error(binding));
        }
        let proof = parse_key(proof)?;
        let without_proof = proven.strip_suffix(b",").unwrap_or(proven);
        let auth_message = [&self.auth_message, without_proof].concat();
        let proof = ClientKey::new(proof);
        // Each of them is tried, so that how long it takes tells nothing of which one fits.
        let is_sibling = |other: &&Verifier| {
            self.verifier.salt() == other.salt() && self.verifier.iterations() == other.iterations()
        };
        let siblings = verifiers.into_iter().filter(is_sibling);
        let verified = siblings.fold(None, |fit, verifier| {
            let this = verified(verifier, &proof, &auth_message);
            fit.or(this)
        });
        verified.ok_or(ScramError::WrongProof)
    }

    fn binding_error(&self, binding: &[u8]) -> ScramError {
        match decode(binding, "channel binding is not base64") {
            Ok(sent) if sent.starts_with(b"p=") => ScramError::BindingMismatch,
            Ok(_) => malformed("unexpected channel-binding attribute"),
            Err(error) => error,
        }
    }
}

fn verified(verifier: &Verifier, proof: &ClientKey, auth_message: &[u8]) -> Option<Verified> {
    // ClientKey = ClientProof XOR HMAC(StoredKey, AuthMessage): the mask comes off as it went on.
    let stored_key = &verifier.stored_key;
    let client_key = ClientKey::new(proof.masked(stored_key, auth_message));
    let signature = verifier.server_signature(auth_message);
    same(&client_key.stored_key(), stored_key).then(|| Verified {
        client_key,
        server_final: format!("v={}", encode(&signature)).into_bytes(),
    })
}

/// The client knows the password.
#[derive(Debug)]
pub struct Verified {
    /// Logs in to a database that keeps the same verifier, see `SaltedKeys::learnt`.
    pub client_key: ClientKey,
    /// To be sent in AuthenticationSASLFinal.
    pub server_final: Vec<u8>,
}

fn split_comma(bytes: &[u8]) -> Result<(&[u8], &[u8]), ScramError> {
    let comma = bytes.iter().position(|&byte| byte == b',');
    comma
        .and_then(|comma| bytes.split_at_checked(comma))
        .and_then(|(before, after)| Some((before, after.get(1..)?)))
        .ok_or(malformed("expected a comma"))
}
