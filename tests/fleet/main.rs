//! Several Weirs before one PostgreSQL, found by a DNS server of the test's own: together they keep to one cap.

#![allow(clippy::unwrap_used)] // a test that can't go on says so by panicking

#[path = "../house/mod.rs"]
mod house;

mod cancels;
mod coming_and_going;
mod fellows;
mod sharing;
