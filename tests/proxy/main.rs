//! Weir in front of a real PostgreSQL, module by feature.
//!
//! PostgreSQL is the oracle: where no promise says otherwise, Weir must answer as it does.

#![allow(clippy::unwrap_used)] // a test that can't go on says so by panicking

#[path = "../house/mod.rs"]
mod house;

mod auth;
mod cancel;
mod carried;
mod certificates;
mod differential;
mod foundations;
mod guessing;
mod hostile;
mod introduced;
mod isolation;
mod listen;
mod operations;
mod pins;
mod pool;
mod replay;
mod sequences;
mod vanish;
