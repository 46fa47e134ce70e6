//! The house put together: what starts, runs and ends the process.
//!
//! The only place that knows all floors below.

pub mod ask;
pub mod demo;
pub mod log;
pub mod storm;
