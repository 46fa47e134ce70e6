//! Whose fault, what may the client see: the questions every error in Weir must answer.
//!
//! Knows no particular error; each module has an enum of its own.

use crate::protocol::SqlState;
use crate::protocol::reply::{ErrorReply, Severity};

/// Who caused it. Decides log level, metric label and whether the server connection survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    Client,
    Server,
    Proxy,
}

/// An error that a client is told. Never a secret in any of the texts.
pub trait ToClient {
    fn blame(&self) -> Blame;
    fn sqlstate(&self) -> SqlState;
    fn severity(&self) -> Severity;
    /// What happened.
    fn message(&self) -> String;
    /// Why.
    fn detail(&self) -> Option<String> {
        None
    }
    /// What to do.
    fn hint(&self) -> Option<String> {
        None
    }

    fn to_reply(&self) -> ErrorReply {
        ErrorReply {
            severity: self.severity(),
            sqlstate: self.sqlstate(),
            message: self.message(),
            detail: self.detail(),
            hint: self.hint(),
        }
    }
}
