//! A presigned GET of `/` in its query parameters: AWS Signature Version 4.
//!
//! Knows the grammar and what such a request says of itself; believes none of it. Pure.

use super::reason::Reason;
use super::sigv4;
use super::time::{self, Seconds};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The longest that such a request may be good for, in seconds.
const MAX_LIFE: u32 = 900;

/// The parameters of every presigned request, by the names that are checked here.
pub mod name {
    pub const ALGORITHM: &str = "X-Amz-Algorithm";
    pub const CREDENTIAL: &str = "X-Amz-Credential";
    pub const DATE: &str = "X-Amz-Date";
    pub const EXPIRES: &str = "X-Amz-Expires";
    pub const SECURITY_TOKEN: &str = "X-Amz-Security-Token";
    pub const SIGNATURE: &str = "X-Amz-Signature";
    pub const SIGNED_HEADERS: &str = "X-Amz-SignedHeaders";
}

/// Parameters, each once, decoded; in the order of their names, which is the canonical one.
pub struct Query(Vec<(&'static str, String)>);

/// What a request says of its signature.
pub struct Signed {
    pub key_id: String,
    /// `20260102`.
    pub day: String,
    pub region: String,
    /// When it was made, by its own account.
    pub issued: Seconds,
    pub life: u32,
    pub signature: [u8; 32],
}

impl Query {
    /// `names` are those there may be; all of them must be there but the security token.
    pub fn parse(text: &str, names: &[&'static str]) -> Result<Query, Reason> {
        let mut values: Vec<(&'static str, String)> = Vec::with_capacity(names.len());
        for segment in text.split('&') {
            let (name, value) = segment.split_once('=').ok_or(Reason::BadSegment)?;
            let known = names.iter().find(|known| **known == name);
            let known = *known.ok_or(Reason::UnknownParam)?;
            if values.iter().any(|(other, _)| *other == known) {
                return Err(Reason::DuplicateParam);
            }
            values.push((known, decode(value)?));
        }
        let is_there = |name: &str| values.iter().any(|(other, _)| *other == name);
        let mut needed = names.iter().filter(|name| **name != name::SECURITY_TOKEN);
        if !needed.all(|name| is_there(name)) {
            return Err(Reason::MissingParam);
        }
        values.sort_unstable_by_key(|(name, _)| *name);
        Ok(Query(values))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(known, _)| *known == name);
        value.map(|(_, value)| value.as_str())
    }

    /// Of a parameter that must be there.
    pub fn value(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// All but the signature, as it was signed, whatever order and escapes came.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        for (name, value) in self.0.iter().filter(|(name, _)| *name != name::SIGNATURE) {
            if !out.is_empty() {
                out.push('&');
            }
            out.push_str(name);
            out.push('=');
            sigv4::encode(value, &mut out);
        }
        out
    }

    /// Whether the parameters of the signature say what they must.
    pub fn signed(&self, action: &str, headers: &str, service: &str) -> Result<Signed, Reason> {
        let must = |name, word, reason| match self.value(name) {
            value if value == word => Ok(()),
            _ => Err(reason),
        };
        must(name::ALGORITHM, ALGORITHM, Reason::WrongAlgorithm)?;
        must("Action", action, Reason::WrongAction)?;
        must(name::SIGNED_HEADERS, headers, Reason::WrongSignedHeaders)?;
        let mut scope = self.value(name::CREDENTIAL).split('/');
        let mut part = || scope.next().ok_or(Reason::BadCredential);
        let (key_id, day, region, scoped) = (part()?, part()?, part()?, part()?);
        if part()? != "aws4_request" || part().is_ok() || !is_key_id(key_id) || !is_day(day) {
            return Err(Reason::BadCredential);
        }
        if scoped != service {
            return Err(Reason::WrongService);
        }
        let date = self.value(name::DATE);
        let issued = time::parse_basic(date).ok_or(Reason::BadDate)?;
        if !date.starts_with(day) {
            return Err(Reason::ScopeDateMismatch);
        }
        let life = seconds(self.value(name::EXPIRES)).ok_or(Reason::BadExpires)?;
        let signature = signature_bytes(self.value(name::SIGNATURE));
        let signature = signature.ok_or(Reason::BadSignatureForm)?;
        match self.get(name::SECURITY_TOKEN) {
            Some("") => return Err(Reason::EmptySecurityToken),
            Some(_) if key_id.starts_with("AKIA") => return Err(Reason::UnexpectedSecurityToken),
            None if key_id.starts_with("ASIA") => return Err(Reason::MissingSecurityToken),
            Some(_) | None => {}
        }
        Ok(Signed {
            key_id: key_id.to_owned(),
            day: day.to_owned(),
            region: region.to_owned(),
            issued,
            life,
            signature,
        })
    }
}

impl Signed {
    /// From this moment on it is no longer valid.
    pub fn expires(&self) -> Seconds {
        self.issued + Seconds::from(self.life)
    }

    /// A signer's clock may be ahead by `skew` seconds; the end that it chose itself is its end.
    pub fn check_time(&self, now: Seconds, skew: Seconds) -> Result<(), Reason> {
        if now >= self.expires() {
            return Err(Reason::Expired);
        }
        if self.issued > now.saturating_add(skew) {
            return Err(Reason::Future);
        }
        Ok(())
    }
}

/// Undoes percent-encoding, once. Its letters are in upper case, as SigV4 demands of those who encode; so that no
/// token has two spellings.
fn decode(value: &str) -> Result<String, Reason> {
    let mut bytes = value.bytes();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => return Err(Reason::RawPlus),
            b'%' => {
                let mut digit = || match bytes.next()? {
                    byte @ b'0'..=b'9' => Some(byte - b'0'),
                    byte @ b'A'..=b'F' => Some(byte - b'A' + 10),
                    _ => None,
                };
                let high = digit().ok_or(Reason::BadPercentEncoding)?;
                high << 4 | digit().ok_or(Reason::BadPercentEncoding)?
            }
            byte => byte,
        });
    }
    let text = String::from_utf8(decoded).map_err(|_| Reason::BadUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(Reason::ControlChar);
    }
    Ok(text)
}

/// A user's key or a role's, in the form that IAM gives them.
fn is_key_id(text: &str) -> bool {
    let rest = text
        .strip_prefix("AKIA")
        .or_else(|| text.strip_prefix("ASIA"));
    let usual = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    rest.is_some_and(|rest| rest.len() == 16 && rest.bytes().all(usual))
}

fn is_day(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A plain decimal number, as signers write it.
fn seconds(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    let seconds: u32 = plain.then(|| text.parse().ok())??;
    (seconds <= MAX_LIFE).then_some(seconds)
}

pub fn signature_bytes(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().map(digit).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    rest.is_empty().then(|| bytes.try_into().ok())?
}

/// What every token is: text of printable ASCII without spaces, and not too much of it.
pub fn printable(token: &[u8], max_bytes: usize) -> Result<&str, Reason> {
    if token.is_empty() {
        return Err(Reason::Empty);
    }
    if token.len() > max_bytes {
        return Err(Reason::TooLong);
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(Reason::BadByte);
    }
    std::str::from_utf8(token).map_err(|_| Reason::BadByte)
}
