//! The token that `generate-db-auth-token` makes: a presigned GET, sent as a password.
//!
//! Knows its grammar and what it must say of itself; believes none of it. Pure: time, user and endpoints are arguments.
//!
//! ```text
//! HOST:PORT/?Action=connect&DBUser=U&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=KEY%2FDATE%2FREGION%2Frds-db%2Faws4_request
//!  &X-Amz-Date=YYYYMMDDTHHMMSSZ&X-Amz-Expires=900&X-Amz-SignedHeaders=host[&X-Amz-Security-Token=..]&X-Amz-Signature=64 hex
//! ```

use std::fmt;

use super::reason::Reason;
use super::sigv4::{self, Request, Scope};
use super::time::{self, Seconds};
use crate::config::{HostPort, Secret};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What Aurora's tokens are signed for.
const SERVICE: &str = "rds-db";

/// The longest that AWS lets such a token live.
const MAX_LIFE: u32 = 900;

/// The port that HTTPS leaves out of its Host header; some signers do, too.
const HTTPS: u16 = 443;

/// The parameters there are. In the order of their names, which is that of the canonical query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Action,
    DbUser,
    Algorithm,
    Credential,
    Date,
    Expires,
    SecurityToken,
    Signature,
    SignedHeaders,
}

const NAMES: [(Name, &str); 9] = [
    (Name::Action, "Action"),
    (Name::DbUser, "DBUser"),
    (Name::Algorithm, "X-Amz-Algorithm"),
    (Name::Credential, "X-Amz-Credential"),
    (Name::Date, "X-Amz-Date"),
    (Name::Expires, "X-Amz-Expires"),
    (Name::SecurityToken, "X-Amz-Security-Token"),
    (Name::Signature, "X-Amz-Signature"),
    (Name::SignedHeaders, "X-Amz-SignedHeaders"),
];

/// A text of the right form: host, port and each parameter once, decoded.
struct Query {
    host: String,
    port: u16,
    values: [Option<String>; NAMES.len()],
}

/// A token that says what it must; whether it is true, only its signature shows.
pub struct RdsToken {
    query: Query,
    key_id: String,
    day: String,
    region: String,
    /// When it was made, by its own account.
    issued: Seconds,
    life: u32,
    signature: [u8; 32],
}

/// What a token must have been made for.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    pub user: &'a str,
    pub endpoints: &'a [HostPort],
    /// Empty: any.
    pub regions: &'a [String],
}

impl RdsToken {
    /// Checks form and claims, in this order; nothing that depends on who sends it, or when.
    pub fn parse(text: &str) -> Result<RdsToken, Reason> {
        RdsToken::claim(Query::parse(text)?)
    }

    fn claim(query: Query) -> Result<RdsToken, Reason> {
        let must = |name, word, reason| match query.value(name) {
            value if value == word => Ok(()),
            _ => Err(reason),
        };
        must(Name::Algorithm, ALGORITHM, Reason::WrongAlgorithm)?;
        must(Name::Action, "connect", Reason::WrongAction)?;
        must(Name::SignedHeaders, "host", Reason::WrongSignedHeaders)?;
        let mut scope = query.value(Name::Credential).split('/');
        let mut part = || scope.next().ok_or(Reason::BadCredential);
        let (key_id, day, region, service) = (part()?, part()?, part()?, part()?);
        if part()? != "aws4_request" || part().is_ok() || !is_key_id(key_id) || !is_day(day) {
            return Err(Reason::BadCredential);
        }
        if service != SERVICE {
            return Err(Reason::WrongService);
        }
        let date = query.value(Name::Date);
        let issued = time::parse_basic(date).ok_or(Reason::BadDate)?;
        if !date.starts_with(day) {
            return Err(Reason::ScopeDateMismatch);
        }
        let life = seconds(query.value(Name::Expires)).ok_or(Reason::BadExpires)?;
        let signature = query.value(Name::Signature);
        let signature = signature_bytes(signature).ok_or(Reason::BadSignatureForm)?;
        match query.get(Name::SecurityToken) {
            Some("") => return Err(Reason::EmptySecurityToken),
            Some(_) if key_id.starts_with("AKIA") => return Err(Reason::UnexpectedSecurityToken),
            None if key_id.starts_with("ASIA") => return Err(Reason::MissingSecurityToken),
            Some(_) | None => {}
        }
        Ok(RdsToken {
            key_id: key_id.to_owned(),
            day: day.to_owned(),
            region: region.to_owned(),
            issued,
            life,
            signature,
            query,
        })
    }

    /// Whether it was made for this user, for one of these endpoints and regions, and holds now.
    /// A signer's clock may be ahead by `skew` seconds; the end that it chose itself is its end.
    pub fn check(&self, purpose: &Purpose<'_>, now: Seconds, skew: Seconds) -> Result<(), Reason> {
        if self.query.value(Name::DbUser) != purpose.user {
            return Err(Reason::UserMismatch);
        }
        let is_it = |endpoint: &HostPort| {
            endpoint.port == self.query.port && endpoint.host.eq_ignore_ascii_case(&self.query.host)
        };
        if !purpose.endpoints.iter().any(is_it) {
            return Err(Reason::HostMismatch);
        }
        if !purpose.regions.is_empty() && !purpose.regions.contains(&self.region) {
            return Err(Reason::WrongRegion);
        }
        if now >= self.expires() {
            return Err(Reason::Expired);
        }
        if self.issued > now.saturating_add(skew) {
            return Err(Reason::Future);
        }
        Ok(())
    }

    /// Who signed it, by its own account.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Of the credentials of a role.
    pub fn security_token(&self) -> Option<&str> {
        self.query.get(Name::SecurityToken)
    }

    /// From this moment on it is no longer valid.
    pub fn expires(&self) -> Seconds {
        self.issued + Seconds::from(self.life)
    }

    /// Whether `secret` made it. Signers differ in what they take for the host: as typed or in lower case, and
    /// without the port where it is that of HTTPS.
    pub fn is_signed_with(&self, secret: &Secret<String>) -> bool {
        let query = self.query.canonical();
        let scope = Scope {
            date: &self.day,
            region: &self.region,
            service: SERVICE,
        };
        self.query.signed_hosts().iter().any(|host| {
            let request = Request {
                date: self.query.value(Name::Date),
                query: &query,
                headers: &format!("host:{host}\n"),
                signed_headers: "host",
            };
            sigv4::verify(secret, &scope, &request, &self.signature)
        })
    }
}

/// A token opens what it was made for: it is shown nowhere.
impl fmt::Debug for RdsToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RdsToken([redacted])")
    }
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

/// Whether a text has the outline of such a token: `host:port/?query`.
pub fn is_rds_shaped(text: &str) -> bool {
    outline(text).is_some()
}

/// Host, port and query.
fn outline(text: &str) -> Option<(&str, u16, &str)> {
    let (authority, query) = text.split_once("/?")?;
    let (host, port) = authority.split_once(':')?;
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let outside = |c: char| c.is_ascii_alphanumeric();
    let is_host = host.chars().all(inside) && host.starts_with(outside) && host.ends_with(outside);
    if !is_host || query.contains(['?', '#']) || port.starts_with('0') {
        return None;
    }
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    Some((host, digits.then(|| port.parse().ok())??, query))
}

impl Query {
    fn parse(text: &str) -> Result<Query, Reason> {
        let (host, port, query) = outline(text).ok_or(Reason::NotAToken)?;
        let mut values: [Option<String>; NAMES.len()] = Default::default();
        for segment in query.split('&') {
            let (name, value) = segment.split_once('=').ok_or(Reason::BadSegment)?;
            let known = NAMES.iter().zip(&mut values);
            let mut known = known.filter(|((_, known), _)| *known == name);
            let (_, place) = known.next().ok_or(Reason::UnknownParam)?;
            if place.is_some() {
                return Err(Reason::DuplicateParam);
            }
            *place = Some(decode(value)?);
        }
        let mut named = NAMES.iter().zip(&values);
        if named.any(|((name, _), value)| value.is_none() && *name != Name::SecurityToken) {
            return Err(Reason::MissingParam);
        }
        Ok(Query {
            host: host.to_owned(),
            port,
            values,
        })
    }

    fn get(&self, name: Name) -> Option<&str> {
        let mut named = NAMES.iter().zip(&self.values);
        let (_, value) = named.find(|((known, _), _)| *known == name)?;
        value.as_deref()
    }

    /// Of a parameter that every token has.
    fn value(&self, name: Name) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// All but the signature, as it was signed, whatever order and escapes came.
    fn canonical(&self) -> String {
        let mut out = String::new();
        for ((name, text), value) in NAMES.iter().zip(&self.values) {
            let Some(value) = value.as_deref().filter(|_| *name != Name::Signature) else {
                continue;
            };
            if !out.is_empty() {
                out.push('&');
            }
            out.push_str(text);
            out.push('=');
            sigv4::encode(value, &mut out);
        }
        out
    }

    fn signed_hosts(&self) -> Vec<String> {
        let mut hosts = Vec::new();
        for host in [self.host.clone(), self.host.to_ascii_lowercase()] {
            hosts.push(format!("{host}:{}", self.port));
            if self.port == HTTPS {
                hosts.push(host);
            }
        }
        hosts.dedup();
        hosts
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

fn signature_bytes(text: &str) -> Option<[u8; 32]> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the AWS SDK for Java's own tests: a key id of no real form, so that only the signature can be looked at.
    pub fn is_signed_with(token: &str, secret: &str) -> bool {
        let query = Query::parse(token).unwrap();
        let credential = query.value(Name::Credential).to_owned();
        let mut scope = credential.split('/').map(str::to_owned);
        let signature = signature_bytes(query.value(Name::Signature)).unwrap();
        let token = RdsToken {
            key_id: scope.next().unwrap(),
            day: scope.next().unwrap(),
            region: scope.next().unwrap(),
            issued: 0,
            life: 0,
            signature,
            query,
        };
        token.is_signed_with(&Secret::new(secret.to_owned()))
    }

    #[test]
    fn what_others_signed_is_recognised() {
        for answer in super::super::tests::known_answers() {
            assert!(is_signed_with(&answer.token, &answer.secret));
            assert!(answer.token.ends_with(&answer.signature));
            assert!(!is_signed_with(&answer.token, "another secret"));
        }
    }

    #[test]
    fn a_token_is_shown_nowhere() {
        let shown = super::super::tests::shown();
        assert!(
            !shown.contains("X-Amz") && !shown.contains("IQoJ"),
            "{shown}"
        );
    }
}
