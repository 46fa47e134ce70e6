//! The token by which a client shows Weir who it is to AWS: a presigned GetCallerIdentity.
//!
//! Knows how one is made of access keys in the environment, without a question to anybody; does not know how one is
//! checked. Source: "Create a signed AWS API request" of the IAM User Guide.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::Secret;

/// STS takes one for so long.
const GOOD_FOR: Duration = Duration::from_secs(900);

/// What a token is made for.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    pub user: &'a str,
    /// `auth.iam.sts.weir_id` of the Weir that it will be shown to.
    pub weir_id: &'a str,
    pub region: &'a str,
    /// Of the STS that this Weir asks.
    pub host: &'a str,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum StsTokenError {
    #[error(
        "there are no AWS credentials to make a token with: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, for a role's)"
    )]
    NoCredentials,
    #[error("a token could not be signed: {0}")]
    Signing(String),
}

/// A token made with the access keys that `variable` gives.
pub fn token(
    purpose: &Purpose<'_>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Secret<String>, StsTokenError> {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    let (Some(id), Some(secret)) = (given("AWS_ACCESS_KEY_ID"), given("AWS_SECRET_ACCESS_KEY"))
    else {
        return Err(StsTokenError::NoCredentials);
    };
    let session = given("AWS_SESSION_TOKEN");
    let credentials = Credentials::new(id, secret, session, None, "environment");
    mint(purpose, &credentials, SystemTime::now())
}

fn mint(
    purpose: &Purpose<'_>,
    credentials: &Credentials,
    now: SystemTime,
) -> Result<Secret<String>, StsTokenError> {
    let signing = |error: &dyn std::error::Error| StsTokenError::Signing(error.to_string());
    let mut settings = SigningSettings::default();
    settings.expires_in = Some(GOOD_FOR);
    settings.signature_location = SignatureLocation::QueryParams;
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(purpose.region)
        .name("sts")
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| signing(&error))?;
    let url = format!(
        "https://{}/?Action=GetCallerIdentity&Version=2011-06-15",
        purpose.host
    );
    let user = escape(purpose.user);
    let headers = [("x-weir-id", purpose.weir_id), ("x-weir-user", &*user)];
    let request = SignableRequest::new("GET", &url, headers.into_iter(), SignableBody::Bytes(b""))
        .map_err(|error| signing(&error))?;
    let (instructions, _) = sign(request, &params.into())
        .map_err(|error| signing(&error))?
        .into_parts();
    let signed = instructions.params().iter();
    let url = signed.fold(url, |url, (name, value)| {
        format!("{url}&{name}={}", escape(value))
    });
    Ok(Secret::new(format!(
        "weir-sts-v1.{}",
        URL_SAFE_NO_PAD.encode(url)
    )))
}

/// RFC 3986: everything but unreserved characters, byte by byte.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
