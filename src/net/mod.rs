//! Bytes on sockets, in the clear or in TLS. Nothing of PostgreSQL.

pub mod acceptor;
pub mod buf;
pub mod connector;
pub mod endpoint_hash;
pub mod fetch;
pub mod listen;
pub mod stream;
pub mod trust;

pub use connector::{DialError, SocketOptions, TlsDialer};
pub use stream::Stream;
pub use trust::{BadAuthorities, Trust};
