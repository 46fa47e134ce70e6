//! Weir: a self-hosted RDS Proxy for PostgreSQL.

pub mod config;
pub mod error;
pub mod net;
pub mod protocol;
