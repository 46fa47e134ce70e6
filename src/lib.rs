//! Weir: a self-hosted RDS Proxy for PostgreSQL.

pub mod admin;
pub mod app;
pub mod client;
pub mod config;
pub mod error;
pub mod metrics;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod secrets;
pub mod server;
pub mod session;
pub mod sql;
pub mod topology;
