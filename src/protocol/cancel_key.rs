//! The key that proves a CancelRequest comes from the session it names.
//!
//! Four secret bytes in protocol 3.0, up to 256 in 3.2. Does not know whose key it is.

use std::fmt;

/// Longest secret that protocol 3.2 allows, in bytes.
pub const MAX_SECRET_BYTES: usize = 256;

/// What BackendKeyData hands out and CancelRequest brings back.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelKey {
    /// Process id as the client sees it; always positive from Weir, since old pgjdbc ignores others.
    pub pid: i32,
    secret: Box<[u8]>,
}

impl CancelKey {
    /// `None` unless the secret is 4 to 256 bytes long.
    pub fn new(pid: i32, secret: &[u8]) -> Option<CancelKey> {
        (4..=MAX_SECRET_BYTES)
            .contains(&secret.len())
            .then(|| CancelKey {
                pid,
                secret: secret.into(),
            })
    }

    /// Reads the body of BackendKeyData, or of CancelRequest behind its code.
    pub fn parse(body: &[u8]) -> Option<CancelKey> {
        let (pid, secret) = body.split_first_chunk::<4>()?;
        CancelKey::new(i32::from_be_bytes(*pid), secret)
    }

    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// Compares the secrets in time that depends on their length alone.
    pub fn proves(&self, other: &CancelKey) -> bool {
        let differing = self
            .secret
            .iter()
            .zip(&other.secret)
            .fold(0, |bits, (a, b)| bits | (a ^ b));
        self.pid == other.pid && self.secret.len() == other.secret.len() && differing == 0
    }
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelKey {{ pid: {}, secret: [redacted] }}", self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_and_proof() {
        assert_eq!(CancelKey::parse(b"\0\0\0\x01abc"), None);
        assert_eq!(CancelKey::new(1, &[0; 257]), None);
        let key = CancelKey::parse(b"\0\0\0\x01abcd").unwrap();
        assert!(key.proves(&CancelKey::new(1, b"abcd").unwrap()));
        assert!(!key.proves(&CancelKey::new(1, b"abce").unwrap()));
        assert!(!key.proves(&CancelKey::new(1, b"abcde").unwrap()));
        assert!(!key.proves(&CancelKey::new(2, b"abcd").unwrap()));
        assert!(!format!("{key:?}").contains("97"));
    }
}
