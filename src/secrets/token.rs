//! Tokens by which Weir logs in to Aurora as an IAM user: minted here, used again for a while.
//!
//! Knows how one is made and how long it is good; not what is done with it.
//! Source: the request that `aws rds generate-db-auth-token` signs.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use tokio::sync::Mutex;

use super::aws::{Aws, MARGIN};
use super::login::Password;
use crate::config::{HostPort, Secret};

/// Aurora takes a token for so long, and STS a presigned request.
const GOOD_FOR: Duration = Duration::from_secs(900);

/// One is used again for so long, never past the end of the credentials that signed it: it ends with them.
const REUSED_FOR: Duration = Duration::from_secs(600);

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// As the SDK says it: what was asked, and what came of it.
    #[error("there are no AWS credentials to make a token with: {0}")]
    NoCredentials(String),
    #[error("the region of {at} is not in its name: set AWS_REGION")]
    NoRegion { at: String },
    #[error("a token could not be signed: {0}")]
    Signing(String),
}

struct Token {
    password: Arc<Password>,
    until: SystemTime,
}

/// Makes tokens, and keeps one for each endpoint and user: as many as are configured.
pub struct Mint {
    aws: Arc<Aws>,
    /// One is made at a time, for all who wait for it.
    tokens: Mutex<HashMap<(HostPort, Arc<str>), Token>>,
}

impl Mint {
    pub fn new(aws: Arc<Aws>) -> Mint {
        Mint {
            aws,
            tokens: Mutex::default(),
        }
    }

    /// Cancel-safe.
    pub async fn token(&self, at: &HostPort, user: &Arc<str>) -> Result<Arc<Password>, TokenError> {
        let mut tokens = self.tokens.lock().await;
        let place = (at.clone(), Arc::clone(user));
        let now = SystemTime::now();
        if let Some(token) = tokens.get(&place).filter(|token| now < token.until) {
            return Ok(Arc::clone(&token.password));
        }
        let of_aws = |error: &dyn Error| TokenError::NoCredentials(chain(error));
        let credentials = self
            .aws
            .credentials()
            .await
            .map_err(|error| of_aws(&error))?;
        let region = match region_of(&at.host) {
            Some(region) => region.to_owned(),
            None => self
                .aws
                .region()
                .await
                .ok_or_else(|| TokenError::NoRegion { at: at.to_string() })?,
        };
        let text = mint(&credentials, at, &region, user, now)?;
        let end = credentials.expiry().and_then(|end| end.checked_sub(MARGIN));
        let until = end.map_or(now + REUSED_FOR, |end| end.min(now + REUSED_FOR));
        let password = Arc::new(Password::new(text));
        tokens.insert(
            place,
            Token {
                password: Arc::clone(&password),
                until,
            },
        );
        Ok(password)
    }

    /// A token was refused: neither it nor the credentials behind it are used again.
    pub async fn renew(&self, refused: &Arc<Password>) {
        let mut tokens = self.tokens.lock().await;
        let before = tokens.len();
        tokens.retain(|_, token| !Arc::ptr_eq(&token.password, refused));
        // If others were refused with the same one, the first of them has done this.
        if tokens.len() < before {
            self.aws.forget_credentials().await;
        }
    }
}

/// An error and its causes. Of credentials, the SDK's errors say where they were looked for, and no more.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// `orders.cluster-x.eu-west-1.rds.amazonaws.com` (or `.com.cn`) names its region.
fn region_of(host: &str) -> Option<&str> {
    let host = host.strip_suffix(".cn").unwrap_or(host);
    let rest = host.strip_suffix(".rds.amazonaws.com")?;
    rest.rsplit('.')
        .next()
        .filter(|region| region.contains('-'))
}

/// The signature goes into the query, and says how long it is good.
pub(super) fn in_query() -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.expires_in = Some(GOOD_FOR);
    settings.signature_location = SignatureLocation::QueryParams;
    settings
}

pub(super) fn signing(error: &dyn Error) -> TokenError {
    TokenError::Signing(chain(error))
}

/// The request to connect, signed for this endpoint as it is dialled, without its scheme.
fn mint(
    credentials: &Credentials,
    at: &HostPort,
    region: &str,
    user: &str,
    now: SystemTime,
) -> Result<Secret<String>, TokenError> {
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("rds-db")
        .time(now)
        .settings(in_query())
        .build()
        .map_err(|error| signing(&error))?;
    // As it is, a name with & in it would bring parameters of its own.
    let user = percent_encoded(user);
    let place = at.to_string().to_ascii_lowercase();
    let mut url = format!("https://{place}/?Action=connect&DBUser={user}");
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::empty())
        .map_err(|error| signing(&error))?;
    let signed = sign(request, &params.into()).map_err(|error| signing(&error))?;
    let (instructions, _) = signed.into_parts();
    let mut token = url.split_off("https://".len());
    for (name, value) in instructions.params() {
        token.push('&');
        token.push_str(name);
        token.push('=');
        token.push_str(&percent_encoded(value));
    }
    Ok(Secret::new(token))
}

/// All but the unreserved characters of RFC 3986.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(token: &str) -> Vec<&str> {
        let (_, query) = token.split_once("/?").unwrap();
        let mut parameters: Vec<&str> = query.split('&').collect();
        parameters.sort_unstable();
        parameters
    }

    fn at(host: &str, port: u16) -> HostPort {
        HostPort {
            host: host.into(),
            port,
        }
    }

    /// The token that AWS's SDK for Java has in its own tests; the order of parameters is each SDK's own.
    #[test]
    fn the_token_of_another_sdk() {
        let theirs = "host.us-east-1.amazonaws.com:3306/?DBUser=mySQLUser&Action=connect&X-Amz-Algorithm=AWS4-HMAC-SHA256\
            &X-Amz-Date=20161107T173933Z&X-Amz-SignedHeaders=host&X-Amz-Expires=900\
            &X-Amz-Credential=access_key%2F20161107%2Fus-east-1%2Frds-db%2Faws4_request\
            &X-Amz-Signature=87ab58107ef49f1c311a412f98b7f976b0b5152ffb559f0d36c6c9a0c5e0e362";
        let credentials = Credentials::new("access_key", "secret_key", None, None, "test");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_478_540_373);
        let host = at("host.us-east-1.amazonaws.com", 3306);
        let ours = mint(&credentials, &host, "us-east-1", "mySQLUser", now).unwrap();
        let ours = ours.expose();
        assert!(ours.starts_with("host.us-east-1.amazonaws.com:3306/?Action=connect&DBUser="));
        assert_eq!(parameters(ours), parameters(theirs));
    }

    #[test]
    fn a_name_brings_no_parameters_of_its_own() {
        let credentials = Credentials::new("id", "key", Some("session+/=".into()), None, "test");
        let now = SystemTime::UNIX_EPOCH;
        let token = mint(
            &credentials,
            &at("H.x", 5432),
            "eu-west-1",
            "a&DBUser=root b\u{e9}",
            now,
        );
        let token = token.unwrap().expose().clone();
        assert!(token.starts_with("h.x:5432/?"), "{token}");
        assert!(
            token.contains("&DBUser=a%26DBUser%3Droot%20b%C3%A9&"),
            "{token}"
        );
        assert_eq!(token.matches("DBUser=").count(), 1);
        assert!(
            token.contains("X-Amz-Security-Token=session%2B%2F%3D"),
            "{token}"
        );
    }

    #[test]
    fn regions_of_endpoints() {
        for (host, region) in [
            (
                "orders.cluster-x.eu-west-1.rds.amazonaws.com",
                Some("eu-west-1"),
            ),
            (
                "orders.x.cn-north-1.rds.amazonaws.com.cn",
                Some("cn-north-1"),
            ),
            ("rds.amazonaws.com", None),
            ("localhost", None),
            ("evil.example", None),
        ] {
            assert_eq!(region_of(host), region, "{host}");
        }
    }

    fn of_environment() -> Aws {
        Aws::new(Some("eu-west-1"), Duration::from_secs(1))
    }

    #[tokio::test]
    async fn a_token_is_used_again_until_it_is_refused() {
        let soon = SystemTime::now() + Duration::from_secs(90);
        for (end, is_same) in [
            (None, true),
            (Some(soon), true),
            (Some(SystemTime::now()), false),
        ] {
            let aws = Arc::new(of_environment());
            aws.assume(Credentials::new("id", "key", None, end, "test"))
                .await;
            let mint = Mint::new(Arc::clone(&aws));
            let (at, user) = (at("h.eu-west-1.rds.amazonaws.com", 5432), Arc::from("app"));
            let first = mint.token(&at, &user).await.unwrap();
            let again = mint.token(&at, &user).await.unwrap();
            assert_eq!(Arc::ptr_eq(&first, &again), is_same, "{end:?}");
            let other = mint.token(&at, &Arc::from("other")).await.unwrap();
            assert!(!Arc::ptr_eq(&first, &other));
            mint.renew(&again).await;
            assert!(aws.has_no_credentials().await);
            aws.assume(Credentials::new("id2", "key", None, None, "test"))
                .await;
            mint.renew(&first).await;
            let kept = !aws.has_no_credentials().await;
            assert!(kept, "others were refused with the same token");
            let new = mint.token(&at, &user).await.unwrap();
            assert!(new.text().expose().contains("Credential=id2%2F"));
        }
    }
}
