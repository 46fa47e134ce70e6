//! Why a client was not let in: what the log says of it, and what the client is told.
//!
//! Knows PostgreSQL's words for each; does not send them.

use std::fmt;
use std::io;
use std::time::Duration;

use super::iam::reason::Reason;
use crate::error::{Blame, ToClient};
use crate::protocol::SqlState;
use crate::protocol::opening::{Again, OpeningError};
use crate::protocol::reply::{ErrorReply, Severity};
use crate::protocol::scram::ScramError;
use crate::protocol::switches::SwitchError;
use crate::secrets::NotYet;

const MAN_IN_THE_MIDDLE: &str = "This could be either a client-software bug or evidence of an attempted \
    man-in-the-middle attack.";

const DOWNGRADED: &str = "The client supports SCRAM channel binding but thinks the server does not.  \
    However, this server does support channel binding.";

/// Why a client was not let in. As text: for the log, where it says more than the client is told.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    Opening(OpeningError),
    #[error("{0}")]
    Switch(SwitchError),
    #[error("received unencrypted data after {} request", request_name(*behind))]
    UnencryptedData { behind: Again },
    #[error("received direct TLS connection request, but there is no certificate")]
    NoTls,
    #[error("received direct SSL connection request without ALPN protocol negotiation extension")]
    NoAlpn,
    #[error("TLS handshake failed: {0}")]
    TlsFailed(io::Error),
    #[error("client does not use TLS, which is required")]
    TlsRequired,
    #[error("message of type {:?} instead of an answer to the authentication request", char::from(*tag))]
    OutOfOrder { tag: u8 },
    #[error("invalid message length")]
    MessageLength,
    #[error("invalid password packet size")]
    PasswordPacket,
    #[error("client selected an invalid SASL authentication mechanism")]
    NoSuchMechanism,
    #[error("{0}")]
    Scram(ScramError),
    #[error("{0}")]
    WrongPassword(WrongPassword),
    #[error("client has shown no certificate")]
    NoCertificate,
    #[error("certificate of {common_name:?} does not prove user {user:?}")]
    WrongCertificate {
        user: String,
        common_name: Option<String>,
    },
    #[error(
        "too many failed logins of user {user:?} from this address, or of its address: unheard for {seconds} s"
    )]
    TooManyFailures { user: String, seconds: u64 },
    #[error("user {user:?} comes with a token, which needs TLS: {}", Reason::NoTls)]
    TokenInClear { user: String },
    #[error("token refused: {}", Reason::TooLong)]
    TokenTooLong,
    #[error("token of user {user:?} could not be checked: {why}")]
    TokenUnanswered { user: String, why: String },
    #[error("database {name:?} does not exist: its name is not UTF-8")]
    NoDatabase { name: String },
    #[error("nobody can be let in yet: {0}")]
    NotYet(NotYet),
    #[error("login took too long")]
    Timeout,
    #[error("too many logins at a time")]
    TooManyLogins,
    #[error("turned away: {}", _0.message)]
    TurnedAway(ErrorReply),
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// The client is told the same in both cases. Names are quoted as Rust does, so that none can forge a log line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongPassword {
    #[error("wrong password for user {user:?}")]
    Proof { user: String },
    #[error("unknown user {user:?}")]
    UnknownUser { user: String },
    #[error("token of user {user:?} refused: {reason}")]
    Token { user: String, reason: Reason },
}

impl From<WrongPassword> for Refused {
    fn from(wrong: WrongPassword) -> Refused {
        Refused::WrongPassword(wrong)
    }
}

impl Refused {
    pub(super) fn too_many_failures(user: &[u8], again_in: Duration) -> Refused {
        Refused::TooManyFailures {
            user: String::from_utf8_lossy(user).into_owned(),
            // Rounded up: whoever waits that long is heard.
            seconds: again_in
                .as_millis()
                .div_ceil(1_000)
                .try_into()
                .unwrap_or(u64::MAX),
        }
    }

    /// Whether somebody may have been guessing.
    pub(super) fn is_failed_proof(&self) -> bool {
        matches!(self, Refused::WrongPassword(_))
    }

    /// One of a few fixed words, as a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Refused::WrongPassword(WrongPassword::Proof { .. }) => "wrong_password",
            Refused::WrongPassword(WrongPassword::UnknownUser { .. }) => "unknown_user",
            Refused::WrongPassword(WrongPassword::Token { reason, .. }) => reason.as_str(),
            Refused::TokenInClear { .. } => Reason::NoTls.as_str(),
            Refused::TokenTooLong => Reason::TooLong.as_str(),
            Refused::TokenUnanswered { .. } => "unanswered",
            Refused::NoCertificate => "no_certificate",
            Refused::WrongCertificate { .. } => "wrong_certificate",
            Refused::TooManyFailures { .. } => "too_many_failures",
            Refused::TlsRequired => "tls_required",
            Refused::NoTls | Refused::NoAlpn | Refused::TlsFailed(_) => "tls",
            Refused::Switch(_) | Refused::NoDatabase { .. } => "startup_parameters",
            Refused::NotYet(_) => "not_ready",
            Refused::Timeout => "timeout",
            Refused::TooManyLogins => "too_many_logins",
            Refused::TurnedAway(_) => "turned_away",
            Refused::NoRandomness => "internal",
            Refused::Opening(_)
            | Refused::UnencryptedData { .. }
            | Refused::OutOfOrder { .. }
            | Refused::MessageLength
            | Refused::PasswordPacket
            | Refused::NoSuchMechanism
            | Refused::Scram(_) => "protocol",
        }
    }

    /// Whether the client can be told: not where it expects TLS records and gets none.
    pub(super) fn is_told(&self) -> bool {
        !matches!(self, Refused::NoTls | Refused::TlsFailed(_))
    }
}

fn request_name(request: Again) -> &'static str {
    match request {
        Again::Ssl => "SSL",
        Again::Gssenc => "GSSAPI encryption",
    }
}

impl ToClient for Refused {
    fn blame(&self) -> Blame {
        match self {
            Refused::TokenUnanswered { .. } => Blame::Server,
            Refused::NotYet(_)
            | Refused::NoTls
            | Refused::TooManyLogins
            | Refused::TurnedAway(_)
            | Refused::NoRandomness => Blame::Proxy,
            Refused::Opening(_)
            | Refused::Switch(_)
            | Refused::UnencryptedData { .. }
            | Refused::NoAlpn
            | Refused::TlsFailed(_)
            | Refused::TlsRequired
            | Refused::OutOfOrder { .. }
            | Refused::MessageLength
            | Refused::PasswordPacket
            | Refused::NoSuchMechanism
            | Refused::Scram(_)
            | Refused::WrongPassword(_)
            | Refused::NoCertificate
            | Refused::WrongCertificate { .. }
            | Refused::TooManyFailures { .. }
            | Refused::TokenInClear { .. }
            | Refused::TokenTooLong
            | Refused::NoDatabase { .. }
            | Refused::Timeout => Blame::Client,
        }
    }

    fn sqlstate(&self) -> SqlState {
        self.to_reply().sqlstate
    }

    fn severity(&self) -> Severity {
        self.to_reply().severity
    }

    fn message(&self) -> String {
        self.to_reply().message
    }

    fn detail(&self) -> Option<String> {
        self.to_reply().detail
    }

    fn hint(&self) -> Option<String> {
        self.to_reply().hint
    }

    /// The one place that says what each situation looks like on the wire.
    fn to_reply(&self) -> ErrorReply {
        match self {
            Refused::Opening(error) => opening(error),
            Refused::Switch(error) => switch(error),
            Refused::Scram(error) => scram(error),
            Refused::TurnedAway(reply) => reply.clone(),
            Refused::UnencryptedData { .. } => ErrorReply {
                detail: Some(MAN_IN_THE_MIDDLE.into()),
                ..fatal(SqlState::PROTOCOL_VIOLATION, self)
            },
            Refused::NoTls
            | Refused::NoAlpn
            | Refused::TlsFailed(_)
            | Refused::MessageLength
            | Refused::PasswordPacket
            | Refused::NoSuchMechanism => fatal(SqlState::PROTOCOL_VIOLATION, self),
            Refused::TokenTooLong => fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length"),
            Refused::TokenInClear { user } => hinted(
                USE_TLS,
                fatal(
                    SqlState::INVALID_AUTHORIZATION,
                    format_args!("user \"{user}\" must connect with TLS"),
                ),
            ),
            Refused::TokenUnanswered { .. } => hinted(
                "Try again in a moment; the log of the proxy says what is wrong.",
                fatal(
                    SqlState::CANNOT_CONNECT_NOW,
                    "the token could not be checked: who decides about it does not answer",
                ),
            ),
            Refused::OutOfOrder { tag } => fatal(
                SqlState::PROTOCOL_VIOLATION,
                format_args!("expected password response, got message type {tag}"),
            ),
            Refused::TlsRequired => hinted(
                USE_TLS,
                fatal(
                    SqlState::INVALID_AUTHORIZATION,
                    "this proxy requires TLS connections",
                ),
            ),
            Refused::WrongPassword(
                WrongPassword::Proof { user }
                | WrongPassword::UnknownUser { user }
                | WrongPassword::Token { user, .. },
            ) => fatal(
                SqlState::INVALID_PASSWORD,
                format_args!("password authentication failed for user \"{user}\""),
            ),
            Refused::NoCertificate => fatal(
                SqlState::INVALID_AUTHORIZATION,
                "connection requires a valid client certificate",
            ),
            Refused::WrongCertificate { user, .. } => fatal(
                SqlState::INVALID_AUTHORIZATION,
                format_args!("certificate authentication failed for user \"{user}\""),
            ),
            Refused::TooManyFailures { user, seconds } => hinted(
                "Check the credential; the log of the proxy says why each login failed.",
                fatal(
                    SqlState::INVALID_AUTHORIZATION,
                    format_args!(
                        "too many failed logins for user \"{user}\" from your address: try again in {seconds} s"
                    ),
                ),
            ),
            Refused::NoDatabase { name } => fatal(
                SqlState::INVALID_DATABASE,
                format_args!("database \"{name}\" does not exist"),
            ),
            // Why, is for the log: strangers are told nothing of the house.
            Refused::NotYet(_) => hinted(
                "Try again in a moment; the proxy's log says what it waits for.",
                fatal(
                    SqlState::CANNOT_CONNECT_NOW,
                    "the proxy can't check passwords yet",
                ),
            ),
            Refused::Timeout => fatal(
                SqlState::QUERY_CANCELED,
                "canceling authentication due to timeout",
            ),
            Refused::TooManyLogins => hinted(
                "Try again in a moment.",
                fatal(SqlState::TOO_MANY_CONNECTIONS, self),
            ),
            Refused::NoRandomness => fatal(
                SqlState::INTERNAL_ERROR,
                "could not generate random numbers",
            ),
        }
    }
}

const USE_TLS: &str = "Set sslmode=require (or a stronger one) in the connection's settings.";

fn hinted(hint: &str, reply: ErrorReply) -> ErrorReply {
    ErrorReply {
        hint: Some(hint.into()),
        ..reply
    }
}

fn fatal(sqlstate: SqlState, message: impl fmt::Display) -> ErrorReply {
    ErrorReply {
        severity: Severity::Fatal,
        sqlstate,
        message: message.to_string(),
        detail: None,
        hint: None,
    }
}

fn opening(error: &OpeningError) -> ErrorReply {
    match error {
        OpeningError::Length | OpeningError::Layout => fatal(SqlState::PROTOCOL_VIOLATION, error),
        OpeningError::Version { .. } => fatal(SqlState::FEATURE_NOT_SUPPORTED, error),
        OpeningError::NoUser => fatal(SqlState::INVALID_AUTHORIZATION, error),
        OpeningError::Replication { .. } => ErrorReply {
            hint: Some("Valid values are: \"false\", 0, \"true\", 1, \"database\".".into()),
            ..fatal(SqlState::INVALID_PARAMETER_VALUE, error)
        },
    }
}

fn switch(error: &SwitchError) -> ErrorReply {
    match error {
        SwitchError::Invalid { .. } => ErrorReply {
            hint: Some("Try \"postgres --help\" for more information.".into()),
            ..fatal(SqlState::SYNTAX_ERROR, error)
        },
        SwitchError::NeedsValue { .. } => fatal(SqlState::SYNTAX_ERROR, error),
        SwitchError::Unrecognized { .. } => fatal(SqlState::UNDEFINED_OBJECT, error),
    }
}

/// Codes and words of PostgreSQL's `auth-scram.c`.
fn scram(error: &ScramError) -> ErrorReply {
    match error {
        ScramError::Malformed { what } => ErrorReply {
            detail: Some((*what).into()),
            ..fatal(SqlState::PROTOCOL_VIOLATION, "malformed SCRAM message")
        },
        ScramError::AuthorizationIdentity => fatal(SqlState::FEATURE_NOT_SUPPORTED, error),
        ScramError::UnsupportedExtension => fatal(
            SqlState::FEATURE_NOT_SUPPORTED,
            "client requires an unsupported SCRAM extension",
        ),
        ScramError::Downgraded => ErrorReply {
            detail: Some(DOWNGRADED.into()),
            ..fatal(
                SqlState::INVALID_AUTHORIZATION,
                "SCRAM channel binding negotiation error",
            )
        },
        ScramError::BindingMismatch => fatal(SqlState::INVALID_AUTHORIZATION, error),
        ScramError::NonceMismatch => ErrorReply {
            detail: Some("Nonce does not match.".into()),
            ..fatal(SqlState::PROTOCOL_VIOLATION, "invalid SCRAM response")
        },
        ScramError::WrongProof => fatal(SqlState::INVALID_PASSWORD, error),
        ScramError::TooLong { .. }
        | ScramError::UnsupportedBinding
        | ScramError::BindingContradictsMechanism
        | ScramError::Iterations { .. }
        | ScramError::OtherVerifier
        | ScramError::RefusedByServer
        | ScramError::WrongSignature => fatal(SqlState::PROTOCOL_VIOLATION, error),
    }
}
