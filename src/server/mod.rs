//! The side we dial.

pub mod connection;
pub mod ledger;
pub mod replies;
pub mod settings;

pub use connection::{Connection, Parameters};
pub use settings::Settings;
