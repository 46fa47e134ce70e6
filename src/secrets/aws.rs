//! AWS's SDK: credentials from the usual chain, and values from Secrets Manager.
//!
//! Knows how AWS is asked; not what for. One TLS stack: rustls with ring, as everywhere in Weir.

use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::Builder;
use aws_sdk_secretsmanager::error::{DisplayErrorContext, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueOutput;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use tokio::sync::{Mutex, OnceCell};

use super::rotating::{FetchError, Stage, Value};
use crate::config::{Secret, SecretArn};

/// How long credentials without an end of their own are kept: whoever replaces them need not restart Weir.
const KEPT: Duration = Duration::from_secs(600);

/// Credentials that end sooner are of no use to anybody who has yet to send them.
pub const MARGIN: Duration = Duration::from_secs(60);

/// What is read from the environment at first use. Asks nobody until then, so that a Weir without AWS has none of it.
pub struct Aws {
    /// For want of a region in the environment or a profile.
    region: Option<String>,
    timeout: Duration,
    config: OnceCell<SdkConfig>,
    /// Containers' credentials are asked for over HTTP each time: kept here, fetched by one at a time.
    credentials: Mutex<Option<Kept>>,
}

#[derive(Clone)]
struct Kept {
    credentials: Credentials,
    until: SystemTime,
}

impl Aws {
    pub fn new(region: Option<&str>, timeout: Duration) -> Aws {
        Aws {
            region: region.map(str::to_owned),
            timeout,
            config: OnceCell::new(),
            credentials: Mutex::default(),
        }
    }

    /// Cancel-safe: what was begun is begun anew.
    async fn config(&self) -> &SdkConfig {
        self.config.get_or_init(|| self.load()).await
    }

    async fn load(&self) -> SdkConfig {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(self.timeout.min(Duration::from_secs(2)))
            .operation_timeout(self.timeout)
            .build();
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .timeout_config(timeouts);
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let named = ["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"]
            .into_iter()
            .any(is_set);
        match &self.region {
            // Else the chain ends with a question to an EC2 instance's metadata, which only such an instance answers.
            Some(region) if !named => loader.region(Region::new(region.clone())).load().await,
            Some(_) | None => loader.load().await,
        }
    }

    /// The region of the environment, a profile, or the instance.
    pub async fn region(&self) -> Option<String> {
        self.config().await.region().map(Region::to_string)
    }

    /// One of a secret's values.
    pub async fn value(&self, arn: &SecretArn, stage: Stage) -> Result<Value, FetchError> {
        let client = Client::new(self.config().await);
        let region = Region::new(arn.region().to_owned());
        let asked = client
            .get_secret_value()
            .secret_id(arn.as_str())
            .version_stage(stage.name())
            .customize()
            .config_override(Builder::new().region(region))
            .send();
        let answer = asked.await.map_err(|error| match &error {
            SdkError::ServiceError(said) if said.err().is_resource_not_found_exception() => {
                FetchError::NoValue
            }
            // Names, ids and reasons; the value itself comes only with success.
            error => FetchError::Failed(DisplayErrorContext(error).to_string()),
        })?;
        value(answer)
    }

    /// What requests are signed with: at least for `MARGIN`. Cancel-safe.
    pub async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let mut kept = self.credentials.lock().await;
        let now = SystemTime::now();
        if let Some(kept) = kept.as_ref().filter(|kept| now < kept.until) {
            return Ok(kept.credentials.clone());
        }
        let provider = self.config().await.credentials_provider();
        let provider =
            provider.ok_or_else(|| CredentialsError::not_loaded("no provider of credentials"))?;
        let asked = tokio::time::timeout(self.timeout, provider.provide_credentials());
        let timed_out = |_| CredentialsError::provider_timed_out(self.timeout);
        let credentials = asked.await.map_err(timed_out)??;
        let until = match credentials.expiry() {
            Some(end) => end.checked_sub(MARGIN).unwrap_or(now),
            None => now + KEPT,
        };
        *kept = Some(Kept {
            credentials: credentials.clone(),
            until,
        });
        Ok(credentials)
    }

    /// The next to ask for credentials gets new ones.
    pub async fn forget_credentials(&self) {
        *self.credentials.lock().await = None;
    }
}

fn value(answer: GetSecretValueOutput) -> Result<Value, FetchError> {
    let since = answer.created_date.map(SystemTime::try_from);
    let since = since.and_then(Result::ok);
    Ok(Value {
        // A clock that is behind makes it brand-new.
        age: since.map(|since| since.elapsed().unwrap_or_default()),
        text: Secret::new(answer.secret_string.ok_or(FetchError::NoValue)?),
    })
}

#[cfg(test)]
impl Aws {
    pub async fn assume(&self, credentials: Credentials) {
        *self.credentials.lock().await = Some(Kept {
            credentials,
            until: SystemTime::now() + KEPT,
        });
    }

    pub async fn has_no_credentials(&self) -> bool {
        self.credentials.lock().await.is_none()
    }
}
