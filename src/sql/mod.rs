//! What a statement means for pooling: does it leave something behind in its session?
//!
//! Lexical, by PostgreSQL's own lexer rules (`src/backend/parser/scan.l`); over-cautious where it is
//! not sure. Knows nothing of connections, of protocol messages or of what follows from the answer.

mod call;
mod database;
pub mod deallocate;
pub mod digest;
pub mod effect;
mod embedded;
pub mod ending;
mod harmless;
pub mod hidden;
pub mod lexer;
mod name;
pub mod reading;
pub mod report;
pub mod scanner;
mod setting;
pub mod transaction;
mod undoing;

pub use deallocate::{Deallocate, deallocate};
pub use digest::digest;
pub use effect::Effects;
pub use ending::{Ends, ends};
pub use harmless::is_harmless;
pub use hidden::Hidden;
pub use reading::{Reading, reading};
pub use report::{Act, Acts, Report};
pub use scanner::{Scanner, effects, report};
pub use transaction::{Boundary, Opened, boundary, may_be_boundary, opened};
