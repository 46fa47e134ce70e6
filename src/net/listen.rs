//! Listening sockets, one per worker on the same address, and what an accepted socket is set to.
//!
//! Knows the kernel's errors; does not know who is let in, nor when to stop.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZeroUsize;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Opens one listener per worker on `address`; the kernel spreads new connections over them.
/// Port 0 is chosen once, for all. Each is put on its worker's reactor with [`attach`].
///
/// What a listening socket is set to, the kernel gives to the connections that come out of it: that saves five system
/// calls a client.
///
/// The address must be nobody else's: with SO_REUSEPORT alone a second Weir would silently take half
/// of the connections, so it is first bound without.
pub fn bind(
    address: SocketAddr,
    workers: NonZeroUsize,
    backlog: u32,
    keepalive: Keepalive,
) -> io::Result<Vec<StdListener>> {
    let sole = open(address, keepalive)?;
    sole.bind(&address.into())?;
    if workers.get() == 1 {
        return Ok(vec![listening(sole, backlog)?]);
    }
    let address = local_address(&sole)?;
    drop(sole);
    (0..workers.get())
        .map(|_| {
            let socket = open(address, keepalive)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            listening(socket, backlog)
        })
        .collect()
}

/// Puts a listener on the current worker's reactor.
pub fn attach(listener: StdListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener)
}

fn open(address: SocketAddr, keepalive: Keepalive) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    tune(&socket, keepalive)?;
    Ok(socket)
}

fn listening(socket: Socket, backlog: u32) -> io::Result<StdListener> {
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// How a dead peer is noticed: first probe after `idle`, then every `interval`, given up after `retries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub retries: u32,
}

/// Sends small messages at once and notices dead peers.
fn tune(socket: &Socket, keepalive: Keepalive) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(keepalive.idle)
            .with_interval(keepalive.interval)
            .with_retries(keepalive.retries),
    )
}

/// Why no connection came out of `accept`.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The connection was gone before it could be taken: go on at once.
    #[error("connection was gone before it was accepted: {0}")]
    Gone(io::Error),
    /// The process or the machine is out of something: go on after [`AcceptError::PAUSE`],
    /// since the connection stays in the queue and `accept` would fail again at once.
    #[error("no connection can be accepted: {0}")]
    Exhausted(io::Error),
}

impl AcceptError {
    pub const PAUSE: Duration = Duration::from_millis(100);

    fn of(error: io::Error) -> AcceptError {
        // Source: accept(2), "Error handling": pending network errors of the new socket come out here.
        match error.kind() {
            io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut
            | io::ErrorKind::PermissionDenied => AcceptError::Gone(error),
            _ => AcceptError::Exhausted(error),
        }
    }
}

/// Takes the next connection, tuned as its listener is. Cancel-safe.
pub async fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr), AcceptError> {
    listener.accept().await.map_err(AcceptError::of)
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    const KEEPALIVE: Keepalive = Keepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        retries: 3,
    };

    fn workers(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn workers_share_a_port_that_nobody_else_gets() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        for count in [1, 3] {
            let listeners = bind(any, workers(count), 16, KEEPALIVE).unwrap();
            assert_eq!(listeners.len(), count);
            let address = listeners[0].local_addr().unwrap();
            assert!(
                listeners
                    .iter()
                    .all(|one| one.local_addr().unwrap() == address)
            );
            for second in [1, 2] {
                let refused = bind(address, workers(second), 16, KEEPALIVE).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
            }
        }
    }

    #[tokio::test]
    async fn accepted_sockets_are_tuned() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), workers(1), 16, KEEPALIVE).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let listener = attach(listeners.into_iter().next().unwrap()).unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (tcp, peer) = accept(&listener).await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(tcp.nodelay().unwrap());
        assert!(SockRef::from(&tcp).keepalive().unwrap());
        assert_eq!(
            SockRef::from(&tcp).tcp_keepalive_time().unwrap(),
            KEEPALIVE.idle
        );
    }

    #[test]
    fn errors_by_what_to_do() {
        for (code, gone) in [
            (103, true),
            (104, true),
            (1, true),
            (24, false),
            (23, false),
            (12, false),
            (105, false),
        ] {
            let error = AcceptError::of(io::Error::from_raw_os_error(code));
            assert_eq!(matches!(error, AcceptError::Gone(_)), gone, "{error}");
        }
    }
}
