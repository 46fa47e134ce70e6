//! The shapes of what `/pools` and `/ready` say, as JSON.
//!
//! Knows nothing of where the figures come from.

use serde::Serialize;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetReport {
    pub target: String,
    pub role: Role,
    /// Connections allowed; `None` until the instance has told its own limit and none is configured.
    pub cap: Option<usize>,
    /// Connections that count against the cap.
    pub used: usize,
    pub state: State,
    /// Why it is unavailable: RDS Proxy's word where there is one, then what happened.
    pub reason: Option<String>,
}

/// RDS Proxy's words for a target's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
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
