//! The side we dial: a connection to PostgreSQL, from name resolution to ReadyForQuery.
//!
//! Knows how to connect, log in, ask and cancel; does not know who wants a connection or why.

mod connect;
pub mod connection;
pub mod dialer;
mod error;
mod inbox;
pub mod ledger;
pub mod listener;
mod login;
mod refusal;
pub mod replayed;
pub mod replies;
mod reset;
mod secure;
pub mod sequences;
pub mod settings;
pub mod simple;
pub mod statements;

pub use connect::{Connected, Limits, Started, cancel, connect};
pub use connection::{Connection, Parameters};
pub use dialer::Dialer;
pub use error::{ConnectError, Failure, Fault};
pub use login::Login;
pub use refusal::Refusal;
pub use secure::{Channel, Reached, Security};
pub use settings::Settings;
pub use statements::Statements;

/// What Weir proves itself with to a database.
pub use crate::secrets::Login as Credential;

use std::time::Duration;

use crate::config::{Database, HostPort};
use crate::net::{Resolver, SocketOptions};

/// One PostgreSQL instance and how it is dialled.
#[derive(Clone, Debug)]
pub struct Target {
    pub at: HostPort,
    pub security: Security,
    pub socket: SocketOptions,
    pub resolver: Resolver,
    /// For everything up to the first ReadyForQuery and the questions behind it.
    pub connect_timeout: Duration,
}

impl Target {
    /// One of the cluster's hosts, dialled as its configuration says.
    pub fn new(
        at: HostPort,
        database: &Database,
        security: Security,
        resolver: Resolver,
    ) -> Target {
        Target {
            at,
            security,
            resolver,
            socket: SocketOptions {
                keepalive_idle: database.keepalive_idle,
                keepalive_interval: database.keepalive_interval,
                keepalive_retries: database.keepalive_retries,
                user_timeout: database.tcp_user_timeout,
            },
            connect_timeout: database.connect_timeout,
        }
    }
}
