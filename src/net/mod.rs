//! Bytes on sockets, in the clear or in TLS. Nothing of PostgreSQL.

pub mod acceptor;
pub mod buf;
pub mod connector;
pub mod endpoint_hash;
pub mod listen;
pub mod proxy_header;
pub mod stream;
pub mod trust;

pub use connector::{DialError, SocketOptions, TlsDialer};
pub use stream::Stream;
pub use trust::{BadAuthorities, Trust};
