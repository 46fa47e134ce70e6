//! The SQLSTATEs that Weir itself raises. Source: Appendix A, "PostgreSQL Error Codes".

use std::fmt;

/// Five characters that tell a program what went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SqlState(&'static str);

impl SqlState {
    pub const PROTOCOL_VIOLATION: SqlState = SqlState("08P01");
    pub const CANNOT_CONNECT: SqlState = SqlState("08001");
    pub const CONNECTION_FAILURE: SqlState = SqlState("08006");
    pub const TRANSACTION_RESOLUTION_UNKNOWN: SqlState = SqlState("08007");
    pub const FEATURE_NOT_SUPPORTED: SqlState = SqlState("0A000");
    pub const INVALID_AUTHORIZATION: SqlState = SqlState("28000");
    pub const INVALID_PASSWORD: SqlState = SqlState("28P01");
    pub const INVALID_DATABASE: SqlState = SqlState("3D000");
    pub const INVALID_PARAMETER_VALUE: SqlState = SqlState("22023");
    pub const IN_FAILED_TRANSACTION: SqlState = SqlState("25P02");
    pub const IDLE_IN_TRANSACTION: SqlState = SqlState("25P03");
    pub const SERIALIZATION_FAILURE: SqlState = SqlState("40001");
    pub const SYNTAX_ERROR: SqlState = SqlState("42601");
    pub const UNDEFINED_OBJECT: SqlState = SqlState("42704");
    pub const TOO_MANY_CONNECTIONS: SqlState = SqlState("53300");
    pub const CONFIGURATION_LIMIT_EXCEEDED: SqlState = SqlState("53400");
    pub const PROGRAM_LIMIT_EXCEEDED: SqlState = SqlState("54000");
    pub const QUERY_CANCELED: SqlState = SqlState("57014");
    pub const ADMIN_SHUTDOWN: SqlState = SqlState("57P01");
    pub const CRASH_SHUTDOWN: SqlState = SqlState("57P02");
    pub const CANNOT_CONNECT_NOW: SqlState = SqlState("57P03");
    pub const IDLE_SESSION: SqlState = SqlState("57P05");
    pub const INTERNAL_ERROR: SqlState = SqlState("XX000");

    /// What a server says that goes down, or ends a connection for an operator.
    pub fn shutdown(code: [u8; 5]) -> SqlState {
        match &code {
            b"57P02" => SqlState::CRASH_SHUTDOWN,
            b"57P03" => SqlState::CANNOT_CONNECT_NOW,
            _ => SqlState::ADMIN_SHUTDOWN,
        }
    }

    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
