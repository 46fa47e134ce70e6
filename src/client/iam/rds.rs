//! The token that `generate-db-auth-token` makes: a presigned GET, sent as a password.
//!
//! Knows what it must say of itself; believes none of it. Pure: time, user and endpoints are arguments.
//!
//! ```text
//! HOST:PORT/?Action=connect&DBUser=U&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=KEY%2FDATE%2FREGION%2Frds-db%2Faws4_request
//!  &X-Amz-Date=YYYYMMDDTHHMMSSZ&X-Amz-Expires=900&X-Amz-SignedHeaders=host[&X-Amz-Security-Token=..]&X-Amz-Signature=64 hex
//! ```

use std::fmt;

use super::presigned::{Query, Signed, name};
use super::reason::Reason;
use super::sigv4::{self, Request, Scope};
use super::time::Seconds;
use crate::config::{HostPort, Secret};

/// What Aurora's tokens are signed for.
const SERVICE: &str = "rds-db";

/// The port that HTTPS leaves out of its Host header; some signers do, too.
const HTTPS: u16 = 443;

const USER: &str = "DBUser";

const NAMES: [&str; 9] = [
    "Action",
    USER,
    name::ALGORITHM,
    name::CREDENTIAL,
    name::DATE,
    name::EXPIRES,
    name::SECURITY_TOKEN,
    name::SIGNED_HEADERS,
    name::SIGNATURE,
];

/// A token that says what it must; whether it is true, only its signature shows.
pub struct RdsToken {
    host: String,
    port: u16,
    query: Query,
    signed: Signed,
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
        let (host, port, query) = outline(text).ok_or(Reason::NotAToken)?;
        let query = Query::parse(query, &NAMES)?;
        Ok(RdsToken {
            host: host.to_owned(),
            port,
            signed: query.signed("connect", "host", SERVICE)?,
            query,
        })
    }

    /// Whether it was made for this user, for one of these endpoints and regions, and holds now.
    pub fn check(&self, purpose: &Purpose<'_>, now: Seconds, skew: Seconds) -> Result<(), Reason> {
        if self.query.value(USER) != purpose.user {
            return Err(Reason::UserMismatch);
        }
        let is_it = |endpoint: &HostPort| {
            endpoint.port == self.port && endpoint.host.eq_ignore_ascii_case(&self.host)
        };
        if !purpose.endpoints.iter().any(is_it) {
            return Err(Reason::HostMismatch);
        }
        if !purpose.regions.is_empty() && !purpose.regions.contains(&self.signed.region) {
            return Err(Reason::WrongRegion);
        }
        self.signed.check_time(now, skew)
    }

    /// Who signed it, by its own account.
    pub fn key_id(&self) -> &str {
        &self.signed.key_id
    }

    /// Of the credentials of a role.
    pub fn security_token(&self) -> Option<&str> {
        self.query.get(name::SECURITY_TOKEN)
    }

    /// From this moment on it is no longer valid.
    pub fn expires(&self) -> Seconds {
        self.signed.expires()
    }

    /// Whether `secret` made it. Signers differ in what they take for the host: as typed or in lower case, and
    /// without the port where it is that of HTTPS.
    pub fn is_signed_with(&self, secret: &Secret<String>) -> bool {
        let query = self.query.canonical();
        let scope = Scope {
            date: &self.signed.day,
            region: &self.signed.region,
            service: SERVICE,
        };
        signed_hosts(&self.host, self.port).iter().any(|host| {
            let request = Request {
                date: self.query.value(name::DATE),
                query: &query,
                headers: &format!("host:{host}\n"),
                signed_headers: "host",
            };
            sigv4::verify(secret, &scope, &request, &self.signed.signature)
        })
    }
}

fn signed_hosts(host: &str, port: u16) -> Vec<String> {
    let mut hosts = Vec::new();
    for host in [host.to_owned(), host.to_ascii_lowercase()] {
        hosts.push(format!("{host}:{port}"));
        if port == HTTPS {
            hosts.push(host);
        }
    }
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

/// A token opens what it was made for: it is shown nowhere.
impl fmt::Debug for RdsToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RdsToken([redacted])")
    }
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

#[cfg(test)]
mod tests {
    use super::super::presigned::signature_bytes;
    use super::*;

    /// Of the AWS SDK for Java's own tests: a key id of no real form, so that only the signature can be looked at.
    pub fn is_signed_with(token: &str, secret: &str) -> bool {
        let (host, port, query) = outline(token).unwrap();
        let query = Query::parse(query, &NAMES).unwrap();
        let mut scope = query.value(name::CREDENTIAL).split('/').map(str::to_owned);
        let token = RdsToken {
            host: host.to_owned(),
            port,
            signed: Signed {
                key_id: scope.next().unwrap(),
                day: scope.next().unwrap(),
                region: scope.next().unwrap(),
                issued: 0,
                life: 0,
                signature: signature_bytes(query.value(name::SIGNATURE)).unwrap(),
            },
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
