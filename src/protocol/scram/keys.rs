//! What a password becomes: the salted keys, and the verifier that a database stores.
//!
//! Knows how they are derived and written; does not know whose they are.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeSliceError, Engine};
use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

use super::attribute::malformed;
use super::{KEY_BYTES, MAX_ITERATIONS, SALT_BYTES, ScramError, decode, encode, same, xor};

type Key = [u8; KEY_BYTES];

/// Wiped when dropped.
type SecretKey = Zeroizing<Key>;

/// Proves that its holder knows the password, for one salt and iteration count.
/// A client's login reveals it; a log must not.
#[derive(Clone)]
pub struct ClientKey(SecretKey);

impl ClientKey {
    pub(super) fn new(key: Key) -> ClientKey {
        ClientKey(Zeroizing::new(key))
    }

    pub(super) fn stored_key(&self) -> Key {
        sha256(&*self.0)
    }

    /// The proof for one exchange; its own inverse, since it is an exclusive or.
    pub(super) fn masked(&self, stored_key: &Key, auth_message: &[&[u8]]) -> Key {
        xor(&self.0, &mac(stored_key, auth_message))
    }
}

impl PartialEq for ClientKey {
    fn eq(&self, other: &ClientKey) -> bool {
        same(&self.0, &other.0)
    }
}

impl Eq for ClientKey {}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey([redacted])")
    }
}

/// What the database keeps (`pg_authid.rolpassword`) and whoever checks a client needs.
/// Not enough to log in with, but enough to play the server and to guess passwords: kept secret.
#[derive(Clone)]
pub struct Verifier {
    salt: Box<[u8]>,
    iterations: NonZeroU32,
    pub(super) stored_key: SecretKey,
    server_key: SecretKey,
}

impl Verifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    pub fn parse(text: &str) -> Result<Verifier, ScramError> {
        let parts = text
            .strip_prefix("SCRAM-SHA-256$")
            .and_then(|rest| rest.split_once('$'));
        let split =
            parts.and_then(|(how, keys)| Some((how.split_once(':')?, keys.split_once(':')?)));
        let Some(((iterations, salt), (stored_key, server_key))) = split else {
            return Err(malformed("not a SCRAM-SHA-256 verifier"));
        };
        let salt = decode(salt.as_bytes(), "salt is not base64")?;
        if salt.is_empty() {
            return Err(malformed("salt is empty"));
        }
        Ok(Verifier {
            salt: salt.into(),
            iterations: parse_iterations(iterations.as_bytes())?,
            stored_key: parse_key(stored_key.as_bytes())?.into(),
            server_key: parse_key(server_key.as_bytes())?.into(),
        })
    }

    /// The text that `parse` reads and PostgreSQL stores.
    pub fn to_text(&self) -> String {
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            encode(&self.salt),
            encode(&*self.stored_key),
            encode(&*self.server_key)
        )
    }

    /// As PostgreSQL makes one from a password. Takes milliseconds: one hash per iteration.
    pub fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Verifier {
        SaltedKeys::derive(password, salt, iterations).verifier()
    }

    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// Whether this is the password that the verifier was made from. Takes milliseconds.
    pub fn fits(&self, password: &[u8]) -> bool {
        let keys = SaltedKeys::derive(password, &self.salt, self.iterations);
        same(&keys.client_key.stored_key(), &self.stored_key)
    }

    pub(super) fn server_signature(&self, auth_message: &[&[u8]]) -> Key {
        mac(&*self.server_key, auth_message)
    }
}

impl PartialEq for Verifier {
    fn eq(&self, other: &Verifier) -> bool {
        self.salt == other.salt
            && self.iterations == other.iterations
            && same(&self.stored_key, &other.stored_key)
            && same(&self.server_key, &other.server_key)
    }
}

impl Eq for Verifier {}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Verifier {{ iterations: {}, [redacted] }}",
            self.iterations
        )
    }
}

/// Makes verifiers that no password fits, so that an unknown user is asked like a known one: the same user is always
/// told the same salt. Source: PostgreSQL's `mock_scram_secret`.
pub struct Doom {
    salts: hmac::Key,
    /// Of nobody: that all who are doomed share them, none of them can find out.
    stored_key: SecretKey,
    server_key: SecretKey,
}

impl Doom {
    /// The same secret makes the same verifiers.
    pub fn new(secret: &Key) -> Doom {
        let label = |label: &[u8]| mac(secret, &[label]);
        Doom {
            salts: hmac::Key::new(hmac::HMAC_SHA256, &label(b"salts")),
            stored_key: label(b"stored").into(),
            server_key: label(b"server").into(),
        }
    }

    pub fn verifier(&self, user: &[u8], iterations: NonZeroU32) -> Verifier {
        let salt = hmac::sign(&self.salts, user);
        Verifier {
            salt: salt.as_ref().iter().copied().take(SALT_BYTES).collect(),
            iterations,
            stored_key: self.stored_key.clone(),
            server_key: self.server_key.clone(),
        }
    }
}

/// All that a login needs, for one salt and iteration count: made from the password, or from
/// a ClientKey and the database's own verifier without ever knowing the password.
/// Keep them: the next login to the same server then costs microseconds.
#[derive(Clone, PartialEq, Eq)]
pub struct SaltedKeys {
    salt: Box<[u8]>,
    iterations: NonZeroU32,
    pub(super) client_key: ClientKey,
    server_key: SecretKey,
}

impl SaltedKeys {
    /// Takes milliseconds: one hash per iteration.
    pub fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> SaltedKeys {
        let mut salted = Zeroizing::new([0; KEY_BYTES]);
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            &prepared(password),
            &mut *salted,
        );
        SaltedKeys {
            salt: salt.into(),
            iterations,
            client_key: ClientKey::new(mac(&*salted, &[b"Client Key"])),
            server_key: mac(&*salted, &[b"Server Key"]).into(),
        }
    }

    /// From what a client's login showed; `None` when it was proven against another verifier.
    pub fn learnt(client_key: &ClientKey, verifier: &Verifier) -> Option<SaltedKeys> {
        same(&client_key.stored_key(), &verifier.stored_key).then(|| SaltedKeys {
            salt: verifier.salt.clone(),
            iterations: verifier.iterations,
            client_key: client_key.clone(),
            server_key: verifier.server_key.clone(),
        })
    }

    /// Whether a server that asks for this salt and iteration count can be answered with these keys.
    pub fn fit(&self, salt: &[u8], iterations: NonZeroU32) -> bool {
        *self.salt == *salt && self.iterations == iterations
    }

    pub fn verifier(&self) -> Verifier {
        Verifier {
            salt: self.salt.clone(),
            iterations: self.iterations,
            stored_key: self.client_key.stored_key().into(),
            server_key: self.server_key.clone(),
        }
    }
}

impl fmt::Debug for SaltedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SaltedKeys {{ iterations: {}, [redacted] }}",
            self.iterations
        )
    }
}

/// Where whoever holds a password keeps the keys made from it, so that they are made once.
/// One place is enough: a cluster's instances share their verifiers.
#[derive(Debug, Default)]
pub struct ScramKeys(Mutex<Option<Arc<SaltedKeys>>>);

impl ScramKeys {
    /// The kept keys, if they answer a server that asks for this salt and iteration count.
    pub fn find(&self, salt: &[u8], iterations: NonZeroU32) -> Option<Arc<SaltedKeys>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref()
            .filter(|keys| keys.fit(salt, iterations))
            .cloned()
    }

    pub fn keep(&self, keys: Arc<SaltedKeys>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(keys);
    }
}

/// SASLprep where it succeeds, the bytes as they are where not: PostgreSQL's own rule,
/// because it takes passwords in any encoding (`scram_build_secret`).
fn prepared(password: &[u8]) -> Cow<'_, [u8]> {
    let text = std::str::from_utf8(password).ok();
    match text.and_then(|text| stringprep::saslprep(text).ok()) {
        Some(Cow::Borrowed(text)) => Cow::Borrowed(text.as_bytes()),
        Some(Cow::Owned(text)) if !text.is_empty() => Cow::Owned(text.into_bytes()),
        Some(Cow::Owned(_)) | None => Cow::Borrowed(password),
    }
}

pub(super) fn parse_iterations(text: &[u8]) -> Result<NonZeroU32, ScramError> {
    let digits = std::str::from_utf8(text).ok();
    let count: u64 = digits
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or(malformed("iteration count is not a number"))?;
    u32::try_from(count)
        .ok()
        .filter(|&count| count <= MAX_ITERATIONS)
        .and_then(NonZeroU32::new)
        .ok_or(ScramError::Iterations { iterations: count })
}

pub(super) fn parse_key(text: &[u8]) -> Result<Key, ScramError> {
    let mut room = [0; KEY_BYTES + 1];
    let count = match STANDARD.decode_slice(text, &mut room) {
        Ok(count) => count,
        Err(DecodeSliceError::DecodeError(_)) => return Err(malformed("key is not base64")),
        Err(DecodeSliceError::OutputSliceTooSmall) => room.len(),
    };
    let key = room.get(..count).unwrap_or_default();
    key.try_into()
        .map_err(|_| malformed("key is not 32 bytes long"))
}

pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    key_of(context.sign().as_ref())
}

fn sha256(bytes: &[u8]) -> Key {
    key_of(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn key_of(output: &[u8]) -> Key {
    output.try_into().expect("SHA-256 has 32 bytes of output")
}
