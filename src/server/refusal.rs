//! An ErrorResponse as a server sent it.
//!
//! Knows its fields; does not know what Weir makes of it.

use std::fmt;

use crate::protocol::frame::{put, put_cstr, split_cstr};
use crate::protocol::reply::{Severity, error_field};
use crate::protocol::tag::backend;

/// All fields, as they came.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal(Box<[u8]>);

impl Refusal {
    /// From the body of an ErrorResponse, which the caller has bounded.
    pub fn new(body: &[u8]) -> Refusal {
        Refusal(body.into())
    }

    /// `XX000` where the server gave none.
    pub fn sqlstate(&self) -> [u8; 5] {
        let code = error_field(&self.0, b'C');
        code.and_then(|code| code.try_into().ok())
            .unwrap_or(*b"XX000")
    }

    /// ERROR, FATAL or PANIC, never translated.
    pub fn severity(&self) -> &[u8] {
        error_field(&self.0, b'V')
            .or_else(|| error_field(&self.0, b'S'))
            .unwrap_or(b"ERROR")
    }

    /// Whether the server ends the connection with it.
    pub fn is_fatal(&self) -> bool {
        self.severity() != b"ERROR"
    }

    pub fn message(&self) -> String {
        self.text(b'M').unwrap_or_default()
    }

    pub fn detail(&self) -> Option<String> {
        self.text(b'D')
    }

    pub fn hint(&self) -> Option<String> {
        self.text(b'H')
    }

    fn text(&self, code: u8) -> Option<String> {
        error_field(&self.0, code).map(|text| String::from_utf8_lossy(text).into_owned())
    }

    /// The same ErrorResponse for a client, to the byte.
    pub fn put(&self, out: &mut Vec<u8>) {
        put(out, backend::ERROR_RESPONSE, |body| {
            body.extend_from_slice(&self.0)
        });
    }

    /// The same but for its severity: what ended our login need not end a client's session.
    pub fn put_as(&self, severity: Severity, out: &mut Vec<u8>) {
        put(out, backend::ERROR_RESPONSE, |body| {
            let mut rest = &*self.0;
            while let Some((&code @ 1.., after)) = rest.split_first() {
                let Some((text, after)) = split_cstr(after) else {
                    break;
                };
                body.push(code);
                match code {
                    b'S' | b'V' => put_cstr(body, severity.as_str().as_bytes()),
                    _ => put_cstr(body, text),
                }
                rest = after;
            }
            body.push(0);
        });
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = String::from_utf8_lossy(self.severity());
        let sqlstate = String::from_utf8_lossy(&self.sqlstate()).into_owned();
        write!(f, "{severity}: {} (SQLSTATE {sqlstate})", self.message())?;
        match self.detail() {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refusal({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        b"SFATAL\0VFATAL\0C3D000\0Mdatabase \"nix\" does not exist\0Fpostinit.c\0L894\0\0";

    #[test]
    fn a_refusal_is_passed_on_to_the_byte() {
        let refusal = Refusal::new(BODY);
        assert_eq!(&refusal.sqlstate(), b"3D000");
        assert!(refusal.is_fatal());
        assert_eq!(
            refusal.to_string(),
            "FATAL: database \"nix\" does not exist (SQLSTATE 3D000)"
        );
        let mut out = Vec::new();
        refusal.put(&mut out);
        assert_eq!(out.get(5..), Some(BODY));
        out.clear();
        refusal.put_as(Severity::Error, &mut out);
        let softer = Refusal::new(&out[5..]);
        assert!(!softer.is_fatal());
        assert_eq!(softer.message(), refusal.message());
        assert_eq!(error_field(&softer.0, b'L'), Some(&b"894"[..]));
    }

    #[test]
    fn one_cut_short_still_says_something() {
        let refusal = Refusal::new(b"SFATAL\0C3D0");
        assert_eq!(&refusal.sqlstate(), b"XX000");
        assert!(refusal.is_fatal());
        assert_eq!(refusal.message(), "");
        let mut out = Vec::new();
        refusal.put_as(Severity::Error, &mut out);
        assert_eq!(out, b"E\0\0\0\x0cSERROR\0\0");
    }
}
