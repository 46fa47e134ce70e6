//! Credentials by user, for both sides: what a client must prove, and what proves us to the database.
//!
//! Knows where they come from; does not know how either side asks for them. Only `aws`, `token` and `sts` name
//! AWS's SDK.

mod attempts;
mod aws;
mod credential;
mod directory;
mod keys;
mod login;
mod pair;
mod patience;
mod ring;
mod rotating;
mod rounds;
pub mod sts;
mod token;
mod vault;

pub use attempts::{Attempts, Next, NoLogin};
pub use credential::Credential;
pub use directory::{Ask, Found};
pub use keys::{Key, KeySecret, Keys, KeysError};
pub use login::{Login, Password};
pub use rounds::Patience;
pub use token::TokenError;
pub use vault::{NotYet, Outside, Vault, VaultError};
