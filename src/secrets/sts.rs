//! The token by which a client shows Weir who it is to AWS: a presigned GetCallerIdentity.
//!
//! Knows how one is made, without a question to STS; does not know how one is checked. Source: "Create a signed AWS API request" of the IAM User Guide.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, sign};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::aws::Aws;
use super::token::{TokenError, chain, in_query, percent_encoded, signing};
use crate::config::Secret;

/// A container's endpoint is near; a machine that has none need not be waited for.
const CREDENTIALS_WITHIN: Duration = Duration::from_secs(5);

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

/// A token made with the credentials of the usual AWS chain.
pub async fn token(purpose: &Purpose<'_>) -> Result<Secret<String>, TokenError> {
    let aws = Aws::new(Some(purpose.region), CREDENTIALS_WITHIN);
    let credentials = aws.credentials().await;
    let credentials = credentials.map_err(|error| TokenError::NoCredentials(chain(&error)))?;
    mint(purpose, &credentials, SystemTime::now())
}

fn mint(
    purpose: &Purpose<'_>,
    credentials: &Credentials,
    now: SystemTime,
) -> Result<Secret<String>, TokenError> {
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(purpose.region)
        .name("sts")
        .time(now)
        .settings(in_query())
        .build()
        .map_err(|error| signing(&error))?;
    let url = format!(
        "https://{}/?Action=GetCallerIdentity&Version=2011-06-15",
        purpose.host
    );
    let user = percent_encoded(purpose.user);
    let headers = [("x-weir-id", purpose.weir_id), ("x-weir-user", &*user)];
    let request = SignableRequest::new("GET", &url, headers.into_iter(), SignableBody::Bytes(b""))
        .map_err(|error| signing(&error))?;
    let (instructions, _) = sign(request, &params.into())
        .map_err(|error| signing(&error))?
        .into_parts();
    let signed = instructions.params().iter();
    let url = signed.fold(url, |url, (name, value)| {
        format!("{url}&{name}={}", percent_encoded(value))
    });
    Ok(Secret::new(format!(
        "weir-sts-v1.{}",
        URL_SAFE_NO_PAD.encode(url)
    )))
}
