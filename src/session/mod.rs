//! One client's conversation.

pub mod core;
pub mod deferred;
pub mod pins;
pub mod prepared;

pub mod requests;
