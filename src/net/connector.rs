//! Dials a host, address by address, and puts TLS on what answers.
//!
//! Knows TCP options and certificates; does not know what is spoken on the connection, nor who
//! asked for TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsConnector, TlsStream};

use super::resolver::{ResolveError, Resolver};
use super::stream::{Socket, Stream};
use super::trust::{BadAuthorities, Trust};

/// More addresses than this of one name are not tried.
const MAX_ADDRESSES: usize = 16;

/// How a dead peer is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Silence after which TCP asks whether the other end is still there.
    pub keepalive_idle: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_retries: u32,
    /// Time that sent data may stay unacknowledged (Linux' TCP_USER_TIMEOUT).
    pub user_timeout: Duration,
}

impl Default for SocketOptions {
    fn default() -> SocketOptions {
        SocketOptions {
            keepalive_idle: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(10),
            keepalive_retries: 3,
            user_timeout: Duration::from_secs(30),
        }
    }
}

impl SocketOptions {
    pub fn apply(&self, tcp: &TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(self.keepalive_idle)
            .with_interval(self.keepalive_interval)
            .with_retries(self.keepalive_retries);
        let socket = SockRef::from(tcp);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        Ok(())
    }
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("\"{host}\" ({address}) refused the connection")]
    Refused { host: String, address: SocketAddr },
    #[error("\"{host}\" ({address}) can't be reached: {source}")]
    Failed {
        host: String,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("\"{host}\" ({address}) did not answer in time")]
    TimedOut { host: String, address: SocketAddr },
    #[error("TLS with \"{host}\": not a name that a certificate could bear")]
    NoServerName { host: String },
    #[error("TLS with \"{host}\" ({address}) failed: {source}")]
    Tls {
        host: String,
        address: SocketAddr,
        source: io::Error,
    },
}

/// Connects to the first address of `host` that answers. Cancel-safe: dropping it hangs up.
pub async fn dial(
    resolver: &Resolver,
    host: &str,
    port: u16,
    options: &SocketOptions,
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let addresses = resolver.resolve(host, deadline).await?;
    let mut last = None;
    let count = addresses.len().min(MAX_ADDRESSES);
    for (tried, address) in addresses.iter().take(count).enumerate() {
        let address = SocketAddr::new(*address, port);
        // An address that swallows packets must leave time for the ones after it.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(count - tried).unwrap_or(1);
        match dial_address(host, address, options, Instant::now() + share).await {
            Ok(tcp) => return Ok((tcp, address)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| ResolveError::NotAName { host: host.into() }.into()))
}

/// Connects to one address; `host` only names it in errors. Cancel-safe: dropping it hangs up.
pub async fn dial_address(
    host: &str,
    address: SocketAddr,
    options: &SocketOptions,
    deadline: Instant,
) -> Result<TcpStream, DialError> {
    let host = || host.to_owned();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused {
            host: host(),
            address,
        },
        io::ErrorKind::TimedOut => DialError::TimedOut {
            host: host(),
            address,
        },
        _ => DialError::Failed {
            host: host(),
            address,
            source,
        },
    };
    let Ok(connected) = timeout_at(deadline, TcpStream::connect(address)).await else {
        return Err(failed(io::ErrorKind::TimedOut.into()));
    };
    let tcp = connected.map_err(failed)?;
    options.apply(&tcp).map_err(failed)?;
    Ok(tcp)
}

/// Makes TLS connections that trust the same authorities.
#[derive(Clone, Debug)]
pub struct TlsDialer(Arc<ClientConfig>);

impl TlsDialer {
    /// `authorities` is a PEM bundle; without one, the web's authorities are trusted. Amazon RDS has
    /// authorities of its own which are not among those: its bundle (`global-bundle.pem`) must be given.
    pub fn new(trust: Trust, authorities: Option<&[u8]>) -> Result<TlsDialer, BadAuthorities> {
        let mut config = trust.client_config(authorities)?;
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(TlsDialer(Arc::new(config)))
    }

    /// Shakes hands; `host` is what the certificate must name. Cancel-safe: dropping it hangs up.
    pub async fn secure(
        &self,
        tcp: TcpStream,
        host: &str,
        address: SocketAddr,
    ) -> Result<Stream, DialError> {
        let Ok(name) = ServerName::try_from(host.to_owned()) else {
            return Err(DialError::NoServerName {
                host: host.to_owned(),
            });
        };
        let connector = TlsConnector::from(Arc::clone(&self.0));
        match connector.connect(name, Socket::new(tcp)).await {
            Ok(tls) => Ok(Stream::Tls(Box::new(TlsStream::Client(tls)))),
            Err(source) => Err(DialError::Tls {
                host: host.to_owned(),
                address,
                source,
            }),
        }
    }
}

/// The certificate (DER) that the other end showed; `None` in the clear.
pub fn peer_certificate(stream: &Stream) -> Option<&[u8]> {
    match stream {
        Stream::Plain(_) => None,
        Stream::Tls(tls) => {
            let (_, state) = tls.get_ref();
            state.peer_certificates()?.first().map(|der| der.as_ref())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn a_dead_peer_will_be_noticed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let options = SocketOptions {
            keepalive_idle: Duration::from_secs(11),
            keepalive_interval: Duration::from_secs(12),
            keepalive_retries: 13,
            user_timeout: Duration::from_secs(14),
        };
        // Where this name has an IPv6 address too, nobody listens there: the next one is tried.
        let resolver = Resolver::of_system();
        let dialled = dial(&resolver, "localhost", address.port(), &options, soon()).await;
        let (tcp, reached) = dialled.unwrap();
        assert_eq!(reached, address);
        assert!(tcp.nodelay().unwrap());
        let socket = SockRef::from(&tcp);
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(11)
        );
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(12)
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 13);
        #[cfg(target_os = "linux")]
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(14))
        );
    }

    #[tokio::test]
    async fn nobody_there_is_refused_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let options = SocketOptions::default();
        let resolver = Resolver::of_system();
        let error = dial(&resolver, "127.0.0.1", address.port(), &options, soon()).await;
        assert!(matches!(error, Err(DialError::Refused { .. })), "{error:?}");
    }

    #[test]
    fn bundles_that_are_none() {
        let read = |pem: &[u8]| TlsDialer::new(Trust::Authority, Some(pem)).err();
        assert!(matches!(read(b"nonsense"), Some(BadAuthorities::Empty)));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            read(broken),
            Some(BadAuthorities::Unusable { number: 1, .. })
        ));
        let cut = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
        assert!(matches!(read(cut), Some(BadAuthorities::NotPem { .. })));
    }
}
