//! Why a connection to a database did not come about, and what that means for whoever waits for it.
//!
//! Knows the situations; does not know when to try again.

use std::net::SocketAddr;
use std::time::Duration;

use super::inbox::ReadError;
use super::{Refusal, Target};
use crate::error::{Blame, ToClient};
use crate::net::{DialError, ResolveError};
use crate::protocol::SqlState;
use crate::protocol::reply::Severity;
use crate::protocol::scram::ScramError;
use crate::secrets::NoLogin;

/// A failed attempt to connect to one target.
#[derive(Debug, thiserror::Error)]
#[error("connection to the database at {at} failed: {fault}")]
pub struct ConnectError {
    /// `host:port`.
    pub at: String,
    pub fault: Fault,
}

impl ConnectError {
    pub(super) fn new(target: &Target, fault: impl Into<Fault>) -> ConnectError {
        ConnectError {
            at: target.at.to_string(),
            fault: fault.into(),
        }
    }

    /// Why the host's name led nowhere, if that was it.
    pub fn unresolved(&self) -> Option<&ResolveError> {
        match &self.fault {
            Fault::Dial(DialError::Resolve(error)) => Some(error),
            _ => None,
        }
    }

    /// The server's own ErrorResponse, where there was one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.fault {
            Fault::Refused(refusal) | Fault::InitQuery(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("not done within {within:?}, given up while {doing}")]
    TimedOut {
        within: Duration,
        doing: &'static str,
    },
    #[error("the server has no TLS, but the configured sslmode asks for it")]
    TlsNotOffered,
    #[error("the server sent bytes in the clear together with its answer about TLS")]
    BytesBeforeTls,
    #[error("the server answered the request for TLS with an error")]
    ErrorBeforeTls,
    #[error("what answered is no PostgreSQL: byte {byte:#04x} in reply to SSLRequest")]
    NotPostgres { byte: u8 },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the server broke the protocol: {what} (message of type {:?})", char::from(*tag))]
    Protocol { what: &'static str, tag: u8 },
    #[error("the server asks for authentication by {method}, which Weir does not do")]
    UnsupportedAuthentication { method: &'static str },
    #[error("the server asks for the password in clear text on a connection without TLS")]
    CleartextWithoutTls,
    #[error("the server asks for authentication by {method}, for which the password must be known")]
    NoPassword { method: &'static str },
    #[error(transparent)]
    Scram(#[from] ScramError),
    #[error("Weir is ending")]
    Ending,
    #[error("the system gives no random numbers")]
    NoRandomness,
    #[error("{0}")]
    Refused(Refusal),
    #[error("init_query failed: {0}")]
    InitQuery(Refusal),
    #[error("init_query leaves a transaction open")]
    InitQueryLeftOpen,
    #[error(transparent)]
    NoLogin(#[from] NoLogin),
    #[error("the server asks for authentication by {method}, which an IAM token is no answer to")]
    TokenNotAskedFor { method: &'static str },
    #[error("an IAM token is not sent to a server whose certificate has not been checked in full")]
    TokenUnprotected,
    #[error("the server gave no key to cancel queries with")]
    NoKey,
    #[error(
        "what answers at {address} is not the instance that said it is the writer, or was started anew since"
    )]
    AnotherInstance { address: SocketAddr },
    #[error("the server did not say how many connections it allows")]
    NoLimits,
}

impl Fault {
    pub(super) fn timed_out(target: &Target, doing: &'static str) -> Fault {
        Fault::TimedOut {
            within: target.connect_timeout,
            doing,
        }
    }
}

/// What a failed attempt says about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Network, TLS, or a server that is starting or stopping: back off, try again.
    Unreachable,
    /// The server has no connection to spare (53300): wait for one to end.
    Busy,
    /// This user can't log in; others may.
    Denied,
    /// This database is not there; others may be.
    NoSuchDatabase,
    /// Something else that trying again will hardly change.
    Other,
}

impl ConnectError {
    pub fn failure(&self) -> Failure {
        match &self.fault {
            Fault::Dial(_)
            | Fault::TimedOut { .. }
            | Fault::TlsNotOffered
            | Fault::BytesBeforeTls
            | Fault::ErrorBeforeTls
            | Fault::NotPostgres { .. }
            | Fault::Read(_)
            | Fault::AnotherInstance { .. }
            | Fault::Ending => Failure::Unreachable,
            Fault::UnsupportedAuthentication { .. }
            | Fault::CleartextWithoutTls
            | Fault::NoPassword { .. }
            | Fault::TokenNotAskedFor { .. }
            | Fault::TokenUnprotected
            | Fault::NoLogin(_)
            | Fault::Scram(_) => Failure::Denied,
            Fault::Protocol { .. }
            | Fault::InitQuery(_)
            | Fault::InitQueryLeftOpen
            | Fault::NoRandomness
            | Fault::NoKey
            | Fault::NoLimits => Failure::Other,
            Fault::Refused(refusal) => match &refusal.sqlstate() {
                // Starting, stopping, or recovering after a crash.
                b"57P01" | b"57P02" | b"57P03" => Failure::Unreachable,
                b"53300" => Failure::Busy,
                b"3D000" => Failure::NoSuchDatabase,
                // 42501: the user may not connect to this database.
                b"42501" | [b'2', b'8', ..] => Failure::Denied,
                _ => Failure::Other,
            },
        }
    }

    /// Whether another credential could do better: the server refuses this one, or Weir's keys are of a password
    /// that the server does not have any more.
    pub fn is_of_credential(&self) -> bool {
        match &self.fault {
            // Of PAM, which checks IAM's tokens, Aurora says no more than 28000.
            Fault::Refused(refusal) => matches!(&refusal.sqlstate(), b"28P01" | b"28000"),
            Fault::Scram(error) => *error == ScramError::OtherVerifier,
            _ => false,
        }
    }

    /// Whether another sslmode attempt could do better: TLS failed, or `pg_hba.conf` has no line
    /// for this kind of connection. A wrong password is not cured by sending it in the clear.
    pub(super) fn depends_on_channel(&self) -> bool {
        match &self.fault {
            Fault::Dial(DialError::Tls { .. } | DialError::NoServerName { .. })
            | Fault::ErrorBeforeTls => true,
            Fault::Refused(refusal) => &refusal.sqlstate() == b"28000",
            _ => false,
        }
    }
}

impl ToClient for ConnectError {
    fn blame(&self) -> Blame {
        match self.fault {
            Fault::Ending
            | Fault::NoRandomness
            | Fault::InitQuery(_)
            | Fault::InitQueryLeftOpen => Blame::Proxy,
            _ => Blame::Server,
        }
    }

    fn sqlstate(&self) -> SqlState {
        match (self.failure(), self.refusal().map(Refusal::sqlstate)) {
            (Failure::Unreachable, Some(code)) if &code == b"57P03" => SqlState::CANNOT_CONNECT_NOW,
            (Failure::Busy, _) => SqlState::TOO_MANY_CONNECTIONS,
            (Failure::NoSuchDatabase, _) => SqlState::INVALID_DATABASE,
            (Failure::Denied, Some(code)) if &code == b"28P01" => SqlState::INVALID_PASSWORD,
            (Failure::Denied, Some(_)) => SqlState::INVALID_AUTHORIZATION,
            (Failure::Unreachable | Failure::Denied | Failure::Other, _) => {
                SqlState::CANNOT_CONNECT
            }
        }
    }

    fn severity(&self) -> Severity {
        Severity::Error
    }

    fn message(&self) -> String {
        match &self.fault {
            // What concerns the client's own choice of database or role, as PostgreSQL says it.
            Fault::Refused(refusal) => refusal.message(),
            _ => format!("could not connect to the database at {}", self.at),
        }
    }

    fn detail(&self) -> Option<String> {
        match &self.fault {
            Fault::Refused(refusal) => refusal.detail(),
            fault => Some(format!("{fault}.")),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match &self.fault {
            Fault::Refused(refusal) => return refusal.hint(),
            Fault::Dial(DialError::Tls { .. } | DialError::NoServerName { .. })
            | Fault::TlsNotOffered => {
                "Check the proxy's sslmode and authorities (for Amazon RDS, its certificate bundle)."
            }
            Fault::Dial(DialError::Resolve(error)) => error.hint(),
            Fault::CleartextWithoutTls => "Use TLS between the proxy and the database.",
            Fault::NoPassword { .. } | Fault::UnsupportedAuthentication { .. } => {
                "Give the proxy the user's password, or let the database ask for scram-sha-256."
            }
            Fault::NoLogin(NoLogin::Nothing { .. }) => {
                "Give the proxy a password, a verifier or a secret for this user."
            }
            Fault::NoLogin(NoLogin::NotYet { .. }) => {
                "Check that the proxy can reach AWS Secrets Manager and may read the secret."
            }
            Fault::NoLogin(NoLogin::Pause { .. }) => {
                "Check that the secret, or the role's IAM policy, agrees with the database."
            }
            Fault::NoLogin(NoLogin::Token(_)) | Fault::TokenUnprotected => {
                "Check the proxy's AWS credentials, region and sslmode (verify-full)."
            }
            Fault::TokenNotAskedFor { .. } => "Grant rds_iam to the database role.",
            Fault::Scram(ScramError::OtherVerifier) => {
                "The password was changed in the database: update the proxy's copy of its verifier."
            }
            Fault::InitQuery(_) | Fault::InitQueryLeftOpen => "Check the proxy's init_query.",
            Fault::AnotherInstance { .. } => {
                "DNS may lag a failover, or lead to several instances: see /targets. The statement can be repeated."
            }
            Fault::Ending => "Connect again.",
            Fault::Dial(_)
            | Fault::TimedOut { .. }
            | Fault::BytesBeforeTls
            | Fault::ErrorBeforeTls
            | Fault::NotPostgres { .. }
            | Fault::Read(_)
            | Fault::Protocol { .. }
            | Fault::NoRandomness
            | Fault::NoKey
            | Fault::NoLimits
            | Fault::Scram(_) => {
                "Check that the database is running and that the proxy can reach it; the statement can be repeated."
            }
        };
        Some(hint.to_owned())
    }
}
