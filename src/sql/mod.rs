//! What a statement means for pooling: does it leave something behind in its session?
//!
//! Lexical, by PostgreSQL's own lexer rules (`src/backend/parser/scan.l`); over-cautious where it is
//! not sure. Knows nothing of connections, of protocol messages or of what follows from the answer.

pub mod effect;
mod harmless;
pub mod lexer;
pub mod transaction;

pub use effect::{Effects, Scanner};
pub use transaction::{Boundary, boundary, may_be_boundary};
