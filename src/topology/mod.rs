//! Which instance of a cluster is what: the writer, readers and how far they are behind, and what is out of reach.
//!
//! `roles` concludes, and `members` who belongs (pure), `probe` knows what an instance is asked and what its answer says (pure), `monitor` asks,
//! and the `Board` is where all others look. Knows no connection of a client's, and not how an instance is reached:
//! that, `monitor::Ask` says.

pub mod board;
pub mod members;
pub mod monitor;
pub mod probe;
pub mod roles;

pub use board::{Board, Route};
pub use monitor::Monitor;
pub use roles::{Health, Place, Role, Seen, Unavailable, View};
