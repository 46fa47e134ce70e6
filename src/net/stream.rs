//! One connected peer: a TCP socket, with or without TLS on it.
//!
//! Knows how to move between the reactors of two workers; does not know what the bytes say.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// What a socket with any room at all takes whole, as a rule.
const SHORT_BYTES: usize = 4096;

/// A TCP socket that can leave one worker's reactor and join another's.
#[derive(Debug)]
pub struct Socket {
    reactor: Reactor,
    /// What waits to go out with the next write.
    held: Vec<u8>,
    holding: Holding,
}

/// What becomes of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holding {
    /// They go out.
    Nothing,
    /// They are kept until [`Socket::poll_release`].
    Everything,
}

#[derive(Debug)]
enum Reactor {
    Attached(TcpStream),
    /// What was read of it before its reader came.
    Ahead(Box<(TcpStream, Vec<u8>)>),
    Detached(std::net::TcpStream),
    /// Only while `attach` or `detach` runs, or after one of them failed.
    Lost,
}

impl Socket {
    pub fn new(tcp: TcpStream) -> Socket {
        Socket {
            reactor: Reactor::Attached(tcp),
            held: Vec::new(),
            holding: Holding::Nothing,
        }
    }

    /// Has these bytes, which were received, read again.
    pub fn give_back(&mut self, bytes: Vec<u8>) {
        self.reactor = match std::mem::replace(&mut self.reactor, Reactor::Lost) {
            Reactor::Attached(tcp) => Reactor::Ahead(Box::new((tcp, bytes))),
            other => other,
        };
    }

    /// From here on writes are kept: few and small ones, or memory is lost on them.
    pub(super) fn hold(&mut self) {
        self.holding = Holding::Everything;
    }

    /// From here on writes go out, and what is held with the first of them.
    pub(super) fn let_go(&mut self) {
        self.holding = Holding::Nothing;
    }

    /// Sends what is held.
    pub(super) fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let sent = match &mut self.reactor {
                Reactor::Attached(tcp) => ready!(Pin::new(tcp).poll_write(cx, &self.held))?,
                Reactor::Ahead(both) => ready!(Pin::new(&mut both.0).poll_write(cx, &self.held))?,
                Reactor::Detached(_) | Reactor::Lost => 0,
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..sent);
        }
        self.held = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// What is held and what comes after it, in one call; how many bytes of the latter went.
    #[cold]
    fn poll_write_behind(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.holding == Holding::Everything {
            let before = self.held.len();
            bufs.iter().for_each(|buf| self.held.extend_from_slice(buf));
            return Poll::Ready(Ok(self.held.len() - before));
        }
        loop {
            let held = std::mem::take(&mut self.held);
            let first: &[u8] = bufs.first().map_or(&[], |buf| buf);
            let both = [IoSlice::new(&held), IoSlice::new(first)];
            let written = self
                .tcp()
                .map(|tcp| Pin::new(tcp).poll_write_vectored(cx, &both));
            let sent = match written {
                Ok(Poll::Ready(Ok(sent))) => sent,
                other => {
                    self.held = held;
                    return match other {
                        Ok(poll) => poll,
                        Err(error) => Poll::Ready(Err(error)),
                    };
                }
            };
            self.held = held.get(sent..).unwrap_or_default().to_vec();
            let behind = sent.saturating_sub(held.len());
            if behind > 0 || first.is_empty() || sent == 0 {
                return Poll::Ready(Ok(behind));
            }
        }
    }

    fn tcp(&mut self) -> io::Result<&mut TcpStream> {
        match &mut self.reactor {
            Reactor::Attached(tcp) => Ok(tcp),
            Reactor::Ahead(both) => Ok(&mut both.0),
            Reactor::Detached(_) | Reactor::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// What was given back, as far as there is room.
    #[cold]
    fn read_again(&mut self, buf: &mut ReadBuf<'_>) {
        let Reactor::Ahead(both) = &mut self.reactor else {
            return;
        };
        let count = both.1.len().min(buf.remaining());
        buf.put_slice(both.1.get(..count).unwrap_or_default());
        both.1.drain(..count);
        if both.1.is_empty()
            && let Reactor::Ahead(both) = std::mem::replace(&mut self.reactor, Reactor::Lost)
        {
            self.reactor = Reactor::Attached(both.0);
        }
    }

    fn detach(&mut self) -> io::Result<()> {
        self.reactor = match std::mem::replace(&mut self.reactor, Reactor::Lost) {
            Reactor::Attached(tcp) => Reactor::Detached(tcp.into_std()?),
            detached => detached,
        };
        Ok(())
    }

    fn attach(&mut self) -> io::Result<()> {
        self.reactor = match std::mem::replace(&mut self.reactor, Reactor::Lost) {
            Reactor::Detached(std) => Reactor::Attached(TcpStream::from_std(std)?),
            attached => attached,
        };
        Ok(())
    }
}

/// A handshake that fails leaves an alert behind; for a client that takes no more it is lost.
impl Drop for Socket {
    fn drop(&mut self) {
        if let (false, Reactor::Attached(tcp)) = (self.held.is_empty(), &self.reactor) {
            let _ = tcp.try_write(&self.held);
        }
    }
}

/// Receives what is there. A short read says that nothing more is, so readiness is forgotten, and no second call spent on it.
///
/// To the kernel without libc, here and in writing: libc's calls are points at which a thread may be cancelled, and each makes
/// two atomic operations for that.
#[inline]
fn poll_receive(tcp: &TcpStream, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        let mut short = None;
        let received = tcp.try_io(Interest::READABLE, || {
            let (_, count) = recv(tcp, &mut *into, RecvFlags::empty())?;
            if count == 0 || count == into.len() {
                return Ok(count);
            }
            short = Some(count);
            Err(io::ErrorKind::WouldBlock.into())
        });
        match (short, received) {
            (Some(count), _) => return Poll::Ready(Ok(count)),
            (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            (None, received) => return Poll::Ready(received),
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Reactor::Ahead(_) = self.reactor {
            self.read_again(buf);
            return Poll::Ready(Ok(()));
        }
        let tcp = self.tcp()?;
        let count = ready!(poll_receive(tcp, cx, buf.initialize_unfilled()))?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.holding == Holding::Everything || !self.held.is_empty() {
            return self.poll_write_behind(cx, &[IoSlice::new(buf)]);
        }
        let tcp = self.tcp()?;
        // Without asking first whether there is room: as a rule there is. Of more, a part may go, and only
        // tokio's own way then knows that the next call would be in vain.
        if buf.len() <= SHORT_BYTES {
            let send = || Ok(send(&*tcp, buf, SendFlags::NOSIGNAL)?);
            match tcp.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
        Pin::new(tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // TLS has one, as a rule, and the kernel is quicker with it.
        if let [one] = bufs {
            return self.poll_write(cx, one);
        }
        if self.holding == Holding::Everything || !self.held.is_empty() {
            return self.poll_write_behind(cx, bufs);
        }
        Pin::new(self.tcp()?).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx))?;
        Pin::new(self.tcp()?).poll_shutdown(cx)
    }
}

/// A connected peer.
#[derive(Debug)]
pub enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    pub fn plain(tcp: TcpStream) -> Stream {
        Stream::Plain(Socket::new(tcp))
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// Reads what is there, at most `into.len()` bytes; 0 is the end of the stream.
    ///
    /// The readiness of a socket is forgotten after a short read, so no second call is
    /// spent on learning that nothing more has come.
    #[inline]
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        match self.poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Stream::Tls(tls) => Pin::new(&mut **tls).poll_read(cx, buf),
        }
    }

    /// Writes from several slices in one call; fewer bytes than given may go.
    #[inline]
    pub fn poll_write_slices(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Stream::Tls(tls) => Pin::new(&mut **tls).poll_write_vectored(cx, slices),
        }
    }

    /// Pushes out what TLS still holds; nothing to do in the clear.
    #[inline]
    pub fn poll_flush_tls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(tls) => Pin::new(&mut **tls).poll_flush(cx),
        }
    }

    /// Whether bytes, an end or an error may have come in; costs no system call.
    /// May say yes when nothing came, never no when something did.
    #[inline]
    pub fn may_be_readable(&mut self) -> bool {
        let Ok(tcp) = self.socket().tcp() else {
            return true;
        };
        tcp.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    /// Pending: nothing has come in, and the task will be woken when something does. Costs no system call.
    /// May be ready when nothing came, as it always is in TLS, which may hold what no socket tells of.
    #[inline]
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Stream::Plain(socket) => match socket.tcp() {
                Ok(tcp) => tcp.poll_read_ready(cx).map(drop),
                Err(_) => Poll::Ready(()),
            },
            Stream::Tls(_) => Poll::Ready(()),
        }
    }

    /// Takes the socket off the current worker's reactor, for another worker to `attach`.
    pub fn detach(&mut self) -> io::Result<()> {
        self.socket().detach()
    }

    /// Whether a detached socket has neither bytes nor an end to tell of; a reactor that it joins would learn of them
    /// only at its next turn.
    pub fn is_quiet(&mut self) -> bool {
        match &self.socket().reactor {
            Reactor::Detached(tcp) => {
                let peeked = tcp.peek(&mut [0]);
                peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Reactor::Attached(_) | Reactor::Ahead(_) | Reactor::Lost => false,
        }
    }

    /// Puts a detached socket on the current worker's reactor.
    pub fn attach(&mut self) -> io::Result<()> {
        self.socket().attach()
    }

    pub fn peer(&mut self) -> io::Result<SocketAddr> {
        self.socket().tcp()?.peer_addr()
    }

    /// The TCP socket, for its options.
    pub fn tcp(&mut self) -> io::Result<&TcpStream> {
        self.socket().tcp().map(|tcp| &*tcp)
    }

    fn socket(&mut self) -> &mut Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => match &mut **tls {
                TlsStream::Client(client) => client.get_mut().0,
                TlsStream::Server(server) => server.get_mut().0,
            },
        }
    }

    /// Writes all of `bytes` and flushes. Not cancel-safe: part of them may have gone.
    pub async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = poll_fn(|cx| self.poll_write_slices(cx, &[IoSlice::new(bytes)])).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        poll_fn(|cx| self.poll_flush_tls(cx)).await
    }

    /// Reads what comes next; 0 is the end of the stream. Cancel-safe.
    pub async fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read_into(cx, into)).await
    }

    /// Says in TLS that nothing more will be written; in the clear the end of the socket says so. Cancel-safe.
    pub async fn close_notify(&mut self) -> io::Result<()> {
        if let Stream::Tls(tls) = self {
            tls.get_mut().1.send_close_notify();
        }
        poll_fn(|cx| self.poll_flush_tls(cx)).await
    }

    /// Says that nothing more will be written (TLS: close_notify first). Cancel-safe.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| match self {
            Stream::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_short_read_forgets_that_there_was_something_and_misses_nothing() {
        let (mut client, tcp) = connected().await;
        let mut stream = Stream::plain(tcp);
        let cx = &mut Context::from_waker(Waker::noop());
        let mut into = [0; 4];
        for sent in [&b"abc"[..], b"d"] {
            client.write_all(sent).await.unwrap();
            assert_eq!(stream.receive(&mut into).await.unwrap(), sent.len());
            assert!(stream.poll_readable(cx).is_pending(), "after {sent:?}");
        }
        client.write_all(b"efgh").await.unwrap();
        assert_eq!(stream.receive(&mut into).await.unwrap(), into.len());
        assert!(stream.poll_readable(cx).is_ready(), "more may be there");
        drop(client);
        assert_eq!(stream.receive(&mut into).await.unwrap(), 0);
        assert_eq!(stream.receive(&mut into).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_given_back_is_read_again_before_what_follows() {
        let (mut client, tcp) = connected().await;
        let mut socket = Socket::new(tcp);
        client.write_all(b"abcdef").await.unwrap();
        let mut first = [0; 4];
        socket.read_exact(&mut first).await.unwrap();
        socket.give_back(first.to_vec());
        let mut read = [0; 3];
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abc");
        socket.write_all(b"meanwhile").await.unwrap();
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"def");
        drop(socket);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"meanwhile");
    }
}
