//! Why a session ends, or a unit is refused; and how the client is told.
//!
//! Knows the words; not when they are due.

use std::time::Duration;

use super::endpoint::Endpoint;
use super::pinboard::Pin;
use super::queue::Unserved;
use super::requests::Violation;
use crate::error::{Blame, ToClient};
use crate::pool::BorrowError;
use crate::protocol::SqlState;
use crate::protocol::frame::{put, put_cstr};
use crate::protocol::reply::Severity;
use crate::protocol::tag::backend;
use crate::server::Refusal;

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub enum Ending {
    /// The client said goodbye.
    #[error("the client left")]
    Left,
    /// The client is gone, with or without a word from TCP.
    #[error("the client vanished")]
    Vanished,
    #[error("the client broke the protocol: {0:?}")]
    Violated(Violation),
    /// PostgreSQL said FATAL, and the client has been told in its words.
    #[error("the server ended the connection")]
    ServerFatal,
    #[error("the connection to the server was lost: {0}")]
    ServerLost(String),
    /// The server was lost, and with it what the session had on it alone.
    #[error("the server was lost: {cause}, and with it the session's state: {why}")]
    StateLost { cause: String, why: &'static str },
    /// Settings that this client was logged in with are refused now.
    #[error("the server no longer accepts the client's settings: {0}")]
    SettingsRefused(String),
    #[error("idle in transaction for {0:?}")]
    IdleInTransaction(Duration),
    #[error("idle for {0:?}")]
    IdleClient(Duration),
    #[error("the client has reached its lifetime of {0:?}")]
    Lifetime(Duration),
    /// It would be pinned, and its pool has as many pinned sessions as it may have.
    #[error("pool.pin_limit is reached")]
    PinLimit(Box<PinLimit>),
    #[error("Weir is shutting down")]
    Draining,
    /// It had a connection that is another task's by now.
    #[error("this task's share of the connections was lowered")]
    ShareLowered,
    /// The connection that listened for it is gone.
    #[error("the listening connection was lost: {0}")]
    ListenerLost(String),
    /// It did not read its notifications.
    #[error("more than {limit_bytes} bytes of notifications waited for the client")]
    TooSlow { limit_bytes: usize },
}

/// A pin that may not be.
#[derive(Debug)]
pub struct PinLimit {
    /// Sessions of the pool that are pinned; as many as may be.
    pub pinned: usize,
    pub pin: Pin,
}

impl Ending {
    /// Whether there is anybody to tell, and anything to tell him.
    pub fn is_told(&self) -> bool {
        !matches!(self, Ending::Left | Ending::Vanished | Ending::ServerFatal)
    }
}

impl ToClient for Ending {
    fn blame(&self) -> Blame {
        match self {
            Ending::Left
            | Ending::Vanished
            | Ending::Violated(_)
            | Ending::IdleInTransaction(_)
            | Ending::IdleClient(_)
            | Ending::PinLimit(_)
            | Ending::Lifetime(_)
            | Ending::TooSlow { .. } => Blame::Client,
            Ending::ListenerLost(_)
            | Ending::ServerFatal
            | Ending::ServerLost(_)
            | Ending::StateLost { .. }
            | Ending::SettingsRefused(_) => Blame::Server,
            Ending::Draining | Ending::ShareLowered => Blame::Proxy,
        }
    }

    fn sqlstate(&self) -> SqlState {
        match self {
            Ending::Violated(_) => SqlState::PROTOCOL_VIOLATION,
            Ending::Left
            | Ending::Vanished
            | Ending::ServerFatal
            | Ending::ServerLost(_)
            | Ending::StateLost { .. } => SqlState::CONNECTION_FAILURE,
            Ending::SettingsRefused(_) => SqlState::INVALID_PARAMETER_VALUE,
            Ending::IdleInTransaction(_) => SqlState::IDLE_IN_TRANSACTION,
            Ending::IdleClient(_) => SqlState::IDLE_SESSION,
            Ending::PinLimit(_) => SqlState::CONFIGURATION_LIMIT_EXCEEDED,
            Ending::Lifetime(_)
            | Ending::Draining
            | Ending::ShareLowered
            | Ending::ListenerLost(_)
            | Ending::TooSlow { .. } => SqlState::ADMIN_SHUTDOWN,
        }
    }

    fn severity(&self) -> Severity {
        Severity::Fatal
    }

    fn message(&self) -> String {
        match self {
            Ending::Left | Ending::Vanished | Ending::ServerFatal => String::new(),
            Ending::Violated(violation) => violated(*violation),
            Ending::ServerLost(_) => "server closed the connection unexpectedly".into(),
            Ending::StateLost { .. } => {
                "the database connection that this session was pinned to is lost".into()
            }
            Ending::SettingsRefused(_) => {
                "the server no longer accepts this session's settings".into()
            }
            Ending::IdleInTransaction(_) => {
                "terminating connection due to idle-in-transaction timeout".into()
            }
            Ending::IdleClient(_) => "terminating connection due to idle-session timeout".into(),
            Ending::Lifetime(_) => "terminating connection due to client lifetime".into(),
            Ending::PinLimit(_) => {
                "terminating connection: too many sessions are pinned to a database connection"
                    .into()
            }
            Ending::Draining => "terminating connection due to administrator command".into(),
            Ending::ShareLowered => {
                "terminating connection because its database connection is needed elsewhere".into()
            }
            Ending::ListenerLost(_) => {
                "terminating connection because notifications may have been missed".into()
            }
            Ending::TooSlow { .. } => {
                "terminating connection because notifications were not read".into()
            }
        }
    }

    fn detail(&self) -> Option<String> {
        Some(match self {
            Ending::ServerLost(cause) | Ending::SettingsRefused(cause) => cause.clone(),
            Ending::StateLost { cause, why } => {
                format!("{cause} The session had state there that can't be had elsewhere: {why}.")
            }
            Ending::IdleInTransaction(limit) => format!(
                "The client neither sent nor read anything for {limit:?}, while it held a database connection."
            ),
            Ending::IdleClient(limit) => format!("The client was silent for {limit:?}."),
            Ending::Lifetime(limit) => format!("The client was connected for {limit:?}."),
            Ending::PinLimit(limit) => limit.to_string(),
            Ending::Draining => "This Weir is shutting down.".into(),
            Ending::ShareLowered => {
                "Another Weir has come, and this one's share of the connections is smaller than before.".into()
            }
            Ending::ListenerLost(cause) => {
                format!("The connection that listened for this session was lost: {cause}.")
            }
            Ending::TooSlow { limit_bytes } => format!(
                "More than {limit_bytes} bytes of notifications waited for the client to read them."
            ),
            Ending::Left | Ending::Vanished | Ending::ServerFatal | Ending::Violated(_) => {
                return None;
            }
        })
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Ending::PinLimit(limit) => {
                let avoid = limit.pin.reason.hint();
                return Some(format!("{avoid} Or raise pool.pin_limit."));
            }
            Ending::ServerLost(_) | Ending::StateLost { .. } | Ending::ShareLowered => {
                "Reconnect. If a COMMIT was under way, find out whether it took effect before you repeat it."
            }
            Ending::IdleInTransaction(_) => {
                "End transactions before the function returns; or raise pool.idle_in_transaction_timeout."
            }
            Ending::IdleClient(_) => "Reconnect when needed; or raise session.idle_client_timeout.",
            Ending::SettingsRefused(_) | Ending::Lifetime(_) | Ending::Draining => "Reconnect.",
            Ending::ListenerLost(_) => {
                "Reconnect, LISTEN again, and look for what may have happened meanwhile."
            }
            Ending::TooSlow { .. } => {
                "Reconnect, LISTEN again, and read notifications as they come; or raise session.listen_queue_bytes."
            }
            Ending::Left | Ending::Vanished | Ending::ServerFatal | Ending::Violated(_) => {
                return None;
            }
        };
        Some(hint.into())
    }
}

impl std::fmt::Display for PinLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let PinLimit { pinned, pin } = self;
        let Pin { user, database, .. } = pin;
        write!(
            f,
            "Of the pool of {user} in {database}, {pinned} sessions are pinned, as many as pool.pin_limit allows; \
             this one would be for {}",
            pin.reason.as_str()
        )?;
        match &pin.digest {
            Some(digest) => write!(f, ", after: {digest}"),
            None => write!(f, ", after its login."),
        }
    }
}

/// PostgreSQL's words where it has any.
fn violated(violation: Violation) -> String {
    match violation {
        Violation::Type(tag) => format!("invalid frontend message type {tag}"),
        Violation::Length(_) => "invalid message length".into(),
        Violation::Body(tag) => format!("invalid message format in message type {tag}"),
    }
}

/// A setting that a server would not take from a session that carries it.
#[derive(Debug)]
pub struct Refused {
    pub name: String,
    /// `None`: it was to go back to the server's own.
    pub value: Option<Vec<u8>>,
    /// The body of the ErrorResponse, or the beginning of it.
    pub error: Vec<u8>,
}

/// A unit that was not executed, since its server could not be given the session's settings. At least one.
#[derive(Debug)]
pub struct RefusedSettings<'a>(pub &'a [Refused]);

impl RefusedSettings<'_> {
    /// The ErrorResponse: PostgreSQL's own SQLSTATE and message for the first of them, and what is to be done. Values may
    /// be secrets, and are not told.
    pub fn put(&self, out: &mut Vec<u8>) {
        let first = self.0.first().map(|one| Refusal::new(&one.error));
        let first = first.unwrap_or_else(|| Refusal::new(b""));
        let names: Vec<&str> = self.0.iter().map(|one| &*one.name).collect();
        let resets: Vec<String> = names.iter().map(|name| reset(name)).collect();
        let ours = format!(
            "This session carries {}, which the database connection does not accept now; nothing was executed.",
            names.join(", ")
        );
        let detail = match first.detail() {
            Some(detail) => format!("{detail} {ours}"),
            None => ours,
        };
        let hint = format!(
            "{}, or DISCARD ALL, in a query of its own, lets the session go on without.",
            resets.join("; ")
        );
        let (sqlstate, message) = (first.sqlstate(), first.message());
        put(out, backend::ERROR_RESPONSE, |body| {
            let fields: [(u8, &[u8]); 6] = [
                (b'S', b"ERROR"),
                (b'V', b"ERROR"),
                (b'C', &sqlstate),
                (b'M', message.as_bytes()),
                (b'D', detail.as_bytes()),
                (b'H', hint.as_bytes()),
            ];
            for (code, text) in fields {
                body.push(code);
                put_cstr(body, text);
            }
            body.push(0);
        });
    }
}

fn reset(name: &str) -> String {
    match name {
        "session_authorization" => "RESET SESSION AUTHORIZATION".into(),
        name => format!("RESET {name}"),
    }
}

/// No server for a unit.
pub struct NoServer<'a> {
    pub error: &'a Unserved,
    pub endpoint: &'a Endpoint,
}

impl ToClient for NoServer<'_> {
    fn blame(&self) -> Blame {
        match self.error {
            Unserved::Borrow(BorrowError::Busy { .. } | BorrowError::QueueFull { .. }) => {
                Blame::Proxy
            }
            Unserved::Borrow(
                BorrowError::Unreachable { .. }
                | BorrowError::Refused(_)
                | BorrowError::NoTarget { .. },
            )
            | Unserved::NoReaders => Blame::Server,
        }
    }

    fn sqlstate(&self) -> SqlState {
        match self.error {
            Unserved::Borrow(BorrowError::Busy { .. } | BorrowError::QueueFull { .. }) => {
                SqlState::TOO_MANY_CONNECTIONS
            }
            Unserved::Borrow(BorrowError::Unreachable { .. } | BorrowError::NoTarget { .. })
            | Unserved::NoReaders => SqlState::CANNOT_CONNECT,
            Unserved::Borrow(BorrowError::Refused(cause)) => cause.sqlstate(),
        }
    }

    fn severity(&self) -> Severity {
        Severity::Error
    }

    fn message(&self) -> String {
        let name = &self.endpoint.name;
        match self.error {
            Unserved::NoReaders => format!("there is no reader at {name}"),
            Unserved::Borrow(error) => match error {
                BorrowError::Busy { waited, .. } => {
                    format!("timed out after {waited:.1?} waiting for a database connection")
                }
                BorrowError::QueueFull { .. } => {
                    "too many clients are waiting for a database connection".into()
                }
                BorrowError::Unreachable { .. } | BorrowError::NoTarget { .. } => {
                    format!("could not connect to {name}")
                }
                BorrowError::Refused(cause) => cause.message(),
            },
        }
    }

    fn detail(&self) -> Option<String> {
        let name = &self.endpoint.name;
        let cluster = || self.endpoint.board.view().explain();
        Some(match self.error {
            Unserved::NoReaders => format!("{}.", cluster()),
            Unserved::Borrow(error) => match error {
                BorrowError::Busy {
                    used, cap, waiting, ..
                } => format!(
                    "{name} is busy: {used} of {cap} connections in use, {waiting} clients waiting."
                ),
                BorrowError::QueueFull { waiting } => {
                    format!("{name} has {waiting} clients waiting, which is the most it takes.")
                }
                BorrowError::Unreachable { cause, waited } => {
                    format!("For {waited:.1?}, no connection could be opened: {cause}")
                }
                BorrowError::NoTarget { waited } => {
                    format!(
                        "For {waited:.1?}, no instance was the one that is needed: {}.",
                        cluster()
                    )
                }
                BorrowError::Refused(cause) => return cause.detail(),
            },
        })
    }

    fn hint(&self) -> Option<String> {
        let hint = match self.error {
            Unserved::NoReaders => {
                "Use the writer's listener; or set cluster.reader_fallback to \"writer\"; or add a reader."
            }
            Unserved::Borrow(error) => match error {
                BorrowError::Busy { .. } => {
                    "Repeat the transaction later; or raise the cap (AURORA_MAX_CONNECTIONS, pool.max_connections), \
                     or pool.connection_borrow_timeout. Long transactions and pinned sessions (see /pools) hold connections."
                }
                BorrowError::QueueFull { .. } => {
                    "Repeat the transaction later; or raise pool.max_waiting."
                }
                BorrowError::Unreachable { cause, .. } if cause.unresolved().is_some() => {
                    return cause.hint();
                }
                BorrowError::Unreachable { .. } => {
                    "The database is down or out of reach, not busy. Check the host, the network and the security group."
                }
                BorrowError::NoTarget { .. } => {
                    "A failover may be under way, or has got stuck: see /targets. The statement can be repeated."
                }
                BorrowError::Refused(cause) => return cause.hint(),
            },
        };
        Some(hint.into())
    }
}
