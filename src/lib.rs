//! Weir: a self-hosted RDS Proxy for PostgreSQL.

pub mod app;
pub mod config;
pub mod error;
pub mod net;
pub mod pool;
pub mod server;
pub mod session;
pub mod sql;
pub mod protocol;
