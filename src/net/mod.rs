//! Bytes on sockets, in the clear or in TLS. Nothing of PostgreSQL.

pub mod buf;
pub mod stream;

pub use stream::Stream;
