//! Protocol-level statements: they belong to the client, whatever server it gets.
//!
//! Pure. `unnamed` is the one without a name, `named` are the others, `table` is what sessions share of these.

pub mod named;
pub mod table;
mod unnamed;

pub use unnamed::{Allowance, Keeping, Placing, Statement};
