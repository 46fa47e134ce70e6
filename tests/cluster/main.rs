//! Weir in front of a writer and its replicas, which are lost and promoted for good.
//!
//! What a client may notice of a failover: a wait, or an error that says what became of its work. Never a closed
//! connection, a lost commit, or another's server.

#![allow(clippy::unwrap_used)] // a test that can't go on says so by panicking

#[path = "../house/mod.rs"]
mod house;

mod broken;
mod discovery;
mod failover;
mod lone;
mod names;
mod readers;
mod routing;
mod told;
