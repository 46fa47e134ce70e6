//! Credentials by user, for both sides: what a client must prove, and what proves us to the database.
//!
//! Knows where they come from; does not know how either side asks for them.

mod login;
pub mod sts;
mod vault;

pub use login::{Login, Password};
pub use vault::{Credential, Vault, VaultError};
