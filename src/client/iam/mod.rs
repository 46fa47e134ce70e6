//! Clients that come with a token instead of a password.
//!
//! Knows the tokens and who checks which; does not know how a client is asked for one.

mod jwt;
pub mod keys;
mod map;
mod presigned;
pub mod rds;
pub mod reason;
pub mod rules;
mod sigv4;
mod sts;
pub mod time;

#[cfg(test)]
mod tests;
