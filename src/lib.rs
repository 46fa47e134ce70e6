//! Weir: a self-hosted RDS Proxy for PostgreSQL.
//!
//! The map, from the ground up; a module imports only from lower floors, and siblings don't know each other
//! (`tests/architecture.rs` holds that):
//!
//! - F0 `protocol`, `sql`: facts. The wire, and what a statement leaves behind.
//! - F1 `config`, `error`, `metrics`, `random`: words.
//! - F2 `net`, `pool`, `secrets`: bytes, and where hosts are; lending; credentials.
//! - F3 `client`, `server`, `topology`: who dialled us; whom we dial; which instance is the writer.
//! - F4 `session`: one client's conversation, a pure core in a thin shell.
//! - F5 `app`, `admin`: put together, accept, drain, reload, divide among tasks; HTTP.
//!
//! A query's path: `app::accept`, `session::pump`, `session::core`, `pool` for a connection, `server::replies` and
//! `server::ledger` on the way back.

pub mod admin;
pub mod app;
pub mod client;
pub mod config;
pub mod error;
pub mod metrics;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod random;
pub mod secrets;
pub mod server;
pub mod session;
pub mod sql;
pub mod topology;
