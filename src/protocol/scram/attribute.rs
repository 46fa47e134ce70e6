//! The `x=value` pieces that a SCRAM message is made of.
//!
//! Knows how they are separated; does not know what any of them means.

use super::ScramError;

/// What is still unread of a message.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// Takes the next attribute, whatever its name.
    pub fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, ScramError> {
        let [name, b'=', rest @ ..] = self.0 else {
            return match self.0 {
                [] => Ok(None),
                _ => Err(malformed("expected an attribute")),
            };
        };
        if !name.is_ascii_alphabetic() {
            return Err(malformed("attribute name is not a letter"));
        }
        let end = rest.iter().position(|&byte| byte == b',');
        let (value, rest) = match end.and_then(|end| rest.split_at_checked(end)) {
            // A comma announces one more: `a=1,` is no message.
            Some((_, [b','])) => return Err(malformed("comma at the end")),
            Some((value, rest)) => (value, rest.get(1..).unwrap_or_default()),
            None => (rest, &[][..]),
        };
        self.0 = rest;
        Ok(Some((*name, value)))
    }

    /// Takes the next attribute, which must be the one named.
    pub fn expect(&mut self, name: u8, what: &'static str) -> Result<&'a [u8], ScramError> {
        match self.next()? {
            Some((found, value)) if found == name => Ok(value),
            // RFC 5802, 5.1: a mandatory extension comes first; who doesn't know it must fail.
            Some((b'm', _)) => Err(ScramError::UnsupportedExtension),
            Some(_) | None => Err(malformed(what)),
        }
    }

    /// Optional extensions at the end of a message, to be ignored.
    pub fn ignore_rest(mut self) -> Result<(), ScramError> {
        while self.next()?.is_some() {}
        Ok(())
    }
}

pub(super) const fn malformed(what: &'static str) -> ScramError {
    ScramError::Malformed { what }
}

/// A nonce is printable ASCII without comma (RFC 5802, section 7).
pub(super) fn checked_nonce(nonce: &[u8]) -> Result<&[u8], ScramError> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e) && *byte != b',';
    if nonce.is_empty() || !nonce.iter().all(printable) {
        return Err(malformed("nonce is empty or not printable"));
    }
    Ok(nonce)
}
