//! The house put together: what starts, runs and ends the process.
//!
//! The only place that knows all floors below.

mod accept;
pub mod ask;
mod authorities;
mod build;
mod cluster;
pub mod demo;
mod errand;
mod files;
mod fleet;
mod inquiry;
pub mod log;
mod lone;
mod reload;
mod report;
mod run;
mod shared;
pub mod storm;
pub mod token;
mod trial;
mod wish;
mod worker;

pub use build::StartError;
pub use run::run;
