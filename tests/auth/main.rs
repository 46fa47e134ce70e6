//! Clients that come with tokens: the command that looks at one, and each validator behind a Weir that runs.
//!
//! The oracle is the vectors, and those who made them: AWS's own SDKs.

#![allow(clippy::unwrap_used)]

mod check;
#[path = "../house/mod.rs"]
mod house;
mod vectors;
