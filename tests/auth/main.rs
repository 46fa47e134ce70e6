//! Clients that come with tokens: the command that looks at one, and each validator behind a Weir that runs.
//!
//! The oracle is the vectors, and those who made them: AWS's own SDKs.

#![allow(clippy::unwrap_used)] // a test that can't go on says so by panicking

#[path = "../house/mod.rs"]
mod house;

mod attack;
mod aurora;
mod check;
mod drivers;
mod jwt;
mod local;
mod scripts;
mod sts;
mod vectors;
mod weir;
