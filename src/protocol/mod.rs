//! The PostgreSQL wire protocol as bytes: values in, values out.
//!
//! Knows nothing of sockets, clocks, logs or of what a statement means.
//! Source: PostgreSQL documentation, chapter "Frontend/Backend Protocol".

pub mod authentication;
pub mod cancel_key;
pub mod frame;
pub mod names;
pub mod opening;
pub mod reply;
pub mod scram;
pub mod sqlstate;
pub mod switches;
pub mod tag;

pub use cancel_key::CancelKey;
pub use frame::Head;
pub use opening::Opening;
pub use sqlstate::SqlState;
