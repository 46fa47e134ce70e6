//! AWS Signature Version 4 for a presigned GET: what was signed, and with which key.
//!
//! Pure. Source: "Create a signed AWS API request" of the IAM User Guide.

use ring::{digest, hmac};

use crate::config::Secret;

/// Where and when a signature holds.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// `20260102`.
    pub date: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

/// What is signed of a GET of `/` without a body.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `20260102T030405Z`.
    pub date: &'a str,
    /// All parameters but the signature, encoded and sorted.
    pub query: &'a str,
    /// Each `name:value\n`, sorted.
    pub headers: &'a str,
    /// Their names with semicolons between.
    pub signed_headers: &'a str,
}

/// Whether `signature` was made with `secret` over `request`. Takes the same time whatever the difference.
pub fn verify(
    secret: &Secret<String>,
    scope: &Scope<'_>,
    request: &Request<'_>,
    signature: &[u8; 32],
) -> bool {
    let key = signing_key(secret, scope);
    hmac::verify(&key, string_to_sign(scope, request).as_bytes(), signature).is_ok()
}

fn signing_key(secret: &Secret<String>, scope: &Scope<'_>) -> hmac::Key {
    let first = format!("AWS4{}", secret.expose());
    let key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
    [scope.date, scope.region, scope.service, "aws4_request"]
        .iter()
        .fold(key, |key, part| {
            hmac::Key::new(
                hmac::HMAC_SHA256,
                hmac::sign(&key, part.as_bytes()).as_ref(),
            )
        })
}

fn string_to_sign(scope: &Scope<'_>, request: &Request<'_>) -> String {
    let nothing = hex(digest::digest(&digest::SHA256, b"").as_ref());
    let Request {
        date,
        query,
        headers,
        signed_headers,
    } = request;
    let canonical = format!("GET\n/\n{query}\n{headers}\n{signed_headers}\n{nothing}");
    let Scope {
        date: day,
        region,
        service,
    } = scope;
    let hashed = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    format!("AWS4-HMAC-SHA256\n{date}\n{day}/{region}/{service}/aws4_request\n{hashed}")
}

/// RFC 3986: everything but unreserved characters, byte by byte.
pub fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            push_hex(byte, b"0123456789ABCDEF", out);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        push_hex(*byte, b"0123456789abcdef", &mut out);
    }
    out
}

fn push_hex(byte: u8, digits: &[u8; 16], out: &mut String) {
    for nibble in [byte >> 4, byte & 15] {
        out.push(char::from(digits[usize::from(nibble)]));
    }
}
