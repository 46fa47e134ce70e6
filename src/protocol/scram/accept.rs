//! The role of who is asked for access: checks what a client proves.
//!
//! Knows the messages in the order PostgreSQL takes them; does not know which user it is.

use std::ops::Range;

use super::attribute::{Attributes, checked_nonce, malformed};
use super::keys::parse_key;
use super::{ClientKey, Mechanism, ScramError, Verifier, bounded, decode, put_base64, same};

/// A client's first message, read and found sound.
#[derive(Debug)]
pub struct ClientFirst {
    /// With room for ours.
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
        let room_bytes = bare.len() + client_nonce.len() + ROOM_FOR_CHALLENGE;
        let mut roomy = Vec::with_capacity(room_bytes);
        roomy.extend_from_slice(bare);
        Ok(ClientFirst {
            bare: roomy,
            client_nonce: client_nonce.to_vec(),
            binding: [header, end_point.unwrap_or_default()].concat(),
        })
    }

    /// The challenge is [`Challenged::message`]; this is the step that checks its answer, too.
    pub fn challenge(self, verifier: Verifier, server_nonce: &str) -> Challenged {
        let mut auth_message = self.bare;
        auth_message.push(b',');
        let begins = auth_message.len();
        auth_message.extend_from_slice(b"r=");
        let nonce_begins = auth_message.len();
        auth_message.extend_from_slice(&self.client_nonce);
        auth_message.extend_from_slice(server_nonce.as_bytes());
        let nonce = nonce_begins..auth_message.len();
        auth_message.extend_from_slice(b",s=");
        put_base64(&mut auth_message, verifier.salt());
        auth_message.extend_from_slice(b",i=");
        auth_message.extend_from_slice(verifier.iterations().to_string().as_bytes());
        let message = begins..auth_message.len();
        auth_message.push(b',');
        Challenged {
            verifier,
            nonce,
            binding: self.binding,
            message,
            auth_message,
        }
    }
}

/// What ours has beside the client's nonce takes less, as a rule.
const ROOM_FOR_CHALLENGE: usize = 96;

/// The challenge is out, the proof is owed.
#[derive(Debug)]
pub struct Challenged {
    /// Whose salt the client was told.
    verifier: Verifier,
    binding: Vec<u8>,
    /// Both first messages and their commas; the last one's part is still missing.
    auth_message: Vec<u8>,
    /// Where in it ours is, and the nonce.
    message: Range<usize>,
    nonce: Range<usize>,
}

impl Challenged {
    /// The verifier whose salt the client was told.
    pub fn asked_of(&self) -> &Verifier {
        &self.verifier
    }

    /// To be sent in AuthenticationSASLContinue.
    pub fn message(&self) -> &[u8] {
        self.part(&self.message)
    }

    fn part(&self, range: &Range<usize>) -> &[u8] {
        self.auth_message.get(range.clone()).unwrap_or_default()
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
        if nonce != self.part(&self.nonce) {
            return Err(ScramError::NonceMismatch);
        }
        self.check_binding(binding)?;
        let proof = parse_key(proof)?;
        let without_proof = proven.strip_suffix(b",").unwrap_or(proven);
        let auth_message = [&self.auth_message[..], without_proof];
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

    fn check_binding(&self, binding: &[u8]) -> Result<(), ScramError> {
        match decode(binding, "channel binding is not base64")? {
            sent if sent == self.binding => Ok(()),
            sent if sent.starts_with(b"p=") => Err(ScramError::BindingMismatch),
            _ => Err(malformed("unexpected channel-binding attribute")),
        }
    }
}

fn verified(verifier: &Verifier, proof: &ClientKey, auth_message: &[&[u8]]) -> Option<Verified> {
    // ClientKey = ClientProof XOR HMAC(StoredKey, AuthMessage): the mask comes off as it went on.
    let stored_key = &verifier.stored_key;
    let client_key = ClientKey::new(proof.masked(stored_key, auth_message));
    let signature = verifier.server_signature(auth_message);
    same(&client_key.stored_key(), stored_key).then(|| {
        let mut server_final = b"v=".to_vec();
        put_base64(&mut server_final, &signature);
        Verified {
            client_key,
            server_final,
        }
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
