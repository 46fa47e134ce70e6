//! `weir token`: tokens made, and looked at.
//!
//! Knows the command line; what is wrong with a token, `client::iam` knows.

use std::io::Read as _;

use clap::Args;

use crate::client::iam::keys::Doubt;
use crate::client::iam::reason::Reason;
use crate::client::iam::rules::{Claim, Plausible, Rules};
use crate::client::iam::time::{self, Seconds};
use crate::config::{Iam, Secret};
use crate::secrets::sts::{self, Purpose};
use crate::secrets::{KeysError, TokenError};

/// Make a token for the `sts` validator of a Weir, with AWS credentials as every SDK finds them, and print it.
#[derive(Args)]
pub struct Make {
    /// What checks it: the validator's name.
    #[arg(long = "for", value_name = "VALIDATOR")]
    kind: Option<Kind>,
    /// The user to come in as.
    #[arg(long, required_if_eq("kind", "sts"))]
    user: Option<String>,
    /// `auth.iam.sts.weir_id` of that Weir.
    #[arg(long, value_name = "ID", required_if_eq("kind", "sts"))]
    weir_id: Option<String>,
    /// The region of the STS that it asks.
    #[arg(long, required_if_eq("kind", "sts"))]
    region: Option<String>,
    /// The host of the STS that it asks, if that is not the region's own.
    #[arg(long, value_name = "HOST")]
    sts_host: Option<String>,
}

/// What `weir token` makes tokens for. Those of `aurora` and `static` every AWS SDK makes.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Kind {
    Sts,
}

impl Make {
    /// The token. Cancel-safe: dropped, none is made.
    pub async fn run(&self) -> Result<Secret<String>, MakeError> {
        let Make {
            kind: Some(Kind::Sts),
            user: Some(user),
            weir_id: Some(weir_id),
            region: Some(region),
            sts_host: host,
        } = self
        else {
            return Err(MakeError::ForWhat);
        };
        let host = host.clone().unwrap_or_else(|| sts_host(region));
        let purpose = Purpose {
            user,
            weir_id,
            region,
            host: &host,
        };
        Ok(sts::token(&purpose).await?)
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error("say what the token is for: --for sts --user U --weir-id ID --region R")]
    ForWhat,
    #[error("{0}")]
    Token(#[from] TokenError),
}

/// China is a partition of its own.
fn sts_host(region: &str) -> String {
    let domain = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    format!("sts.{region}.{domain}")
}

/// Say why a client's token would be refused: reads it from standard input, byte for byte as the client sends it.
#[derive(Args)]
pub struct Check {
    /// The user that the client comes as.
    #[arg(long)]
    user: String,
    /// The database that it wants to go to.
    #[arg(long, default_value = "postgres")]
    database: String,
    /// The moment to check for, as 2026-01-02T03:04:05Z; else now.
    #[arg(long, value_name = "RFC3339", value_parser = moment)]
    at: Option<Seconds>,
    /// As if the client came without TLS.
    #[arg(long)]
    no_tls: bool,
}

fn moment(text: &str) -> Result<Seconds, String> {
    time::parse_rfc3339(text).ok_or_else(|| "not a time like 2026-01-02T03:04:05Z".to_owned())
}

/// Why a token could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("{0}")]
    Keys(#[from] KeysError),
    #[error("the token can't be read from standard input: {0}")]
    Input(#[from] std::io::Error),
}

/// What was found.
pub enum Finding {
    Accepted {
        /// What remains to be seen, if anything.
        note: Option<&'static str>,
    },
    Refused {
        reason: Reason,
        hint: Option<&'static str>,
    },
}

impl Check {
    /// Reads the token and judges it.
    pub fn run(&self, iam: &Iam) -> Result<Finding, CheckError> {
        let rules = Rules::new(iam, &[])?;
        let own = iam.static_keys.as_ref();
        let in_secrets = own.is_some_and(|own| !own.secret_arns.is_empty());
        let mut token = Vec::new();
        // One byte more than may be is enough to know that it is too long.
        let limit = iam.max_token_bytes as u64 + 1;
        let mut input = std::io::stdin().lock();
        (&mut input).take(limit).read_to_end(&mut token)?;
        // Whoever writes the rest need not hear of it.
        std::io::copy(&mut input, &mut std::io::sink())?;
        Ok(match self.judge(&rules, &token) {
            // This asks nobody.
            Err(Reason::UnknownKey) if in_secrets => Finding::Accepted {
                note: Some("its key may be in a secret, which was not read"),
            },
            Ok(note) => Finding::Accepted { note },
            Err(reason) => Finding::Refused {
                reason,
                hint: hint(reason, &token),
            },
        })
    }

    fn judge(&self, rules: &Rules, token: &[u8]) -> Result<Option<&'static str>, Reason> {
        if self.no_tls {
            return Err(Reason::NoTls);
        }
        let claim = Claim {
            user: &self.user,
            database: &self.database,
        };
        match rules.check(token, &claim, self.at.unwrap_or_else(time::now))? {
            Plausible::Own(token) => match rules.check_own(&token) {
                Ok(()) | Err(Doubt::Unread(_)) => Ok(None),
                Err(Doubt::Refused(reason)) => Err(reason),
            },
            Plausible::Aurora(_) => Ok(Some("its signature only Aurora can check")),
            Plausible::Sts(_) => Ok(Some("whose signature it is, only STS can tell")),
            Plausible::Jwt(_) => Ok(Some("its signature was not checked")),
        }
    }
}

fn hint(reason: Reason, token: &[u8]) -> Option<&'static str> {
    (reason == Reason::BadByte && token.ends_with(b"\n")).then_some(
        "the token ends with a line feed: a client that sends it so is refused; take it off, with printf %s or tr -d '\\n'",
    )
}
