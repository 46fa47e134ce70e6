//! Bytes on sockets, in the clear or in TLS. Nothing of PostgreSQL.

pub mod acceptor;
pub mod buf;
mod client_trust;
pub mod connector;
mod der;
pub mod endpoint_hash;
pub mod fetch;
pub mod listen;
pub mod proxy_header;
pub mod resolver;
pub mod stream;
mod subject;
pub mod trust;

pub use connector::{DialError, SocketOptions, TlsDialer};
pub use resolver::{ResolveError, Resolver};
pub use stream::Stream;
pub use trust::{BadAuthorities, Trust};
