//! The shapes of what `/pools`, `/pins` and `/ready` say, as JSON.
//!
//! Knows nothing of where the figures come from.

use std::net::SocketAddr;

use serde::Serialize;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PoolsReport {
    pub pools: Vec<PoolReport>,
    pub targets: Vec<TargetReport>,
    /// Clients connected.
    pub clients: usize,
}

/// Which kind of work goes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Writer,
    Reader,
}

/// One pool, summed over all workers. `total` = `idle` + `leased`, and `pinned` are some of the leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolReport {
    pub target: String,
    pub role: Role,
    pub database: String,
    pub user: String,
    pub total: usize,
    pub idle: usize,
    pub leased: usize,
    pub pinned: usize,
    /// Clients that wait for a connection.
    pub waiting: usize,
    pub opening: usize,
}

/// Sessions that keep a connection between transactions, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PinsReport {
    /// Those of the moment, the longest first; the first thousand.
    pub pins: Vec<PinReport>,
    /// How many there are.
    pub total: usize,
    /// Since the start, the most frequent first.
    pub reasons: Vec<ReasonReport>,
    /// The statements that pinned most often since the start; a hundred of them.
    pub digests: Vec<DigestReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PinReport {
    /// As the client knows it.
    pub pid: i32,
    /// As the database knows it.
    pub server_pid: Option<i32>,
    pub reason: &'static str,
    /// The statement that gave rise to it, without values; `None`: it was the login.
    pub digest: Option<String>,
    pub client: Option<SocketAddr>,
    pub application_name: String,
    pub target: String,
    pub database: String,
    pub user: String,
    /// How long it has lasted.
    pub seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReasonReport {
    pub reason: &'static str,
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DigestReport {
    pub reason: &'static str,
    pub digest: Option<String>,
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TargetReport {
    pub target: String,
    pub role: Role,
    /// Connections allowed; `None` until the instance has told its own limit.
    pub cap: Option<usize>,
    /// Connections that count against the cap.
    pub used: usize,
    pub state: State,
    /// Why it is unavailable: RDS Proxy's word where there is one, then what happened.
    pub reason: Option<String>,
    /// How far a reader is behind the writer.
    pub lag_seconds: Option<f64>,
}

/// RDS Proxy's words for a target's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// It has not answered yet.
    Registering,
    Available,
    Unavailable,
}

#[derive(Serialize)]
pub(super) struct Ready {
    pub ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Reloaded {
    pub reloaded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
