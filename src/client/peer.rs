//! The connection while it is negotiated: bounded reads, and what waits to be sent.
//!
//! Knows where packets and messages end; does not know which of them is due.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::refused::Refused;
use crate::net::Stream;
use crate::net::acceptor::{Acceptor, Alpn, Subject};
use crate::protocol::frame::{HEADER_BYTES, Head};
use crate::protocol::opening::{self, Opening, OpeningError};
use crate::protocol::reply::ErrorReply;
use crate::protocol::tag::frontend;

/// Room for one read. A login's messages are shorter.
const READ_BYTES: usize = 1024;

/// Room for what a login is told: the last of it is the longest, with all that the server's parameters are.
const OUTBOX_BYTES: usize = 1024;

/// How long a refused client may take to read why.
const LINGER: Duration = Duration::from_secs(1);

/// What a refused client may still send before we stop reading.
const LINGER_BYTES: usize = 64 * 1024;

/// Why a step did not lead to the next one.
#[derive(Debug)]
pub(super) enum Stop {
    /// Nobody is there any more.
    Left,
    /// Boxed: every step's outcome has room for it.
    Refused(Box<Refused>),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Stop {
        Stop::Refused(Box::new(refused))
    }
}

impl From<OpeningError> for Stop {
    fn from(error: OpeningError) -> Stop {
        Refused::Opening(error).into()
    }
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Stop {
        Stop::Left
    }
}

#[derive(Debug)]
pub(super) struct Peer {
    line: Line,
    /// Received and not taken.
    unread: Vec<u8>,
    /// To be sent with the next message.
    outbox: Vec<u8>,
    end_point: Option<Arc<[u8]>>,
    subject: Option<Subject>,
}

#[derive(Debug)]
enum Line {
    Open(Stream),
    /// While TLS shakes hands, and after that has failed.
    Lost,
}

impl Peer {
    pub fn new(tcp: TcpStream) -> Peer {
        Peer {
            line: Line::Open(Stream::plain(tcp)),
            unread: Vec::new(),
            outbox: Vec::with_capacity(OUTBOX_BYTES),
            end_point: None,
            subject: None,
        }
    }

    /// Waits for the first byte, and leaves it unread. Not cancel-safe.
    pub async fn first_byte(&mut self) -> Result<u8, Stop> {
        self.receive().await?;
        self.unread.first().copied().ok_or(Stop::Left)
    }

    /// The next packet of the startup family. Not cancel-safe.
    pub async fn packet(&mut self) -> Result<Opening, Stop> {
        loop {
            if let Some((length_word, _)) = self.unread.split_first_chunk() {
                let packet_bytes = opening::packet_bytes(*length_word)?;
                if self.unread.len() >= packet_bytes {
                    let packet = self.unread.get(..packet_bytes).unwrap_or_default();
                    let opening = Opening::parse(packet);
                    self.unread.drain(..packet_bytes);
                    return Ok(opening?);
                }
            }
            self.receive().await?;
        }
    }

    /// The body of the next message, which must be the client's answer to an authentication request.
    /// Not cancel-safe.
    pub async fn answer(&mut self, limit_bytes: usize) -> Result<Vec<u8>, Stop> {
        loop {
            // The type before the length: a client that speaks out of turn is told so.
            if let Some(&tag) = self.unread.first()
                && tag != frontend::PASSWORD
            {
                return Err(Refused::OutOfOrder { tag }.into());
            }
            if let Some(head) = Head::parse(&self.unread) {
                let head = head
                    .ok()
                    .filter(|head| head.body_bytes() <= limit_bytes)
                    .ok_or(Refused::MessageLength)?;
                if self.unread.len() >= head.frame_bytes() {
                    let body = self.unread.get(HEADER_BYTES..head.frame_bytes());
                    let body = body.unwrap_or_default().to_vec();
                    self.unread.drain(..head.frame_bytes());
                    return Ok(body);
                }
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<(), Stop> {
        let Line::Open(stream) = &mut self.line else {
            return Err(Stop::Left);
        };
        let filled = self.unread.len();
        self.unread.resize(filled + READ_BYTES, 0);
        // Not cancel-safe: dropped here, it leaves zeros behind.
        let room = self.unread.get_mut(filled..).unwrap_or_default();
        let received = stream.receive(room).await;
        self.unread
            .truncate(filled + *received.as_ref().unwrap_or(&0));
        match received? {
            0 => Err(Stop::Left),
            _ => Ok(()),
        }
    }

    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    pub fn is_tls(&self) -> bool {
        matches!(&self.line, Line::Open(stream) if stream.is_tls())
    }

    /// `tls-server-end-point` of the certificate shown; `None` without TLS.
    pub fn end_point(&self) -> Option<Arc<[u8]>> {
        self.end_point.clone()
    }

    /// Whom the client's certificate is about; `None` without one.
    pub fn subject(&self) -> Option<&Subject> {
        self.subject.as_ref()
    }

    /// What the next `flush` sends, and a refusal after it.
    pub fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.outbox
    }

    /// Sends what waits. Not cancel-safe.
    pub async fn flush(&mut self) -> Result<(), Stop> {
        let mut waiting = std::mem::take(&mut self.outbox);
        self.stream()?.send(&waiting).await?;
        waiting.clear();
        self.outbox = waiting;
        Ok(())
    }

    /// Puts the connection into TLS, which begins with what is unread. Not cancel-safe.
    pub async fn secure(&mut self, acceptor: &Acceptor) -> Result<Alpn, Stop> {
        let mut socket = match std::mem::replace(&mut self.line, Line::Lost) {
            Line::Open(Stream::Plain(socket)) => socket,
            Line::Open(Stream::Tls(_)) | Line::Lost => return Err(Stop::Left),
        };
        if self.has_unread() {
            socket.give_back(std::mem::take(&mut self.unread));
        }
        match acceptor.secure(socket).await {
            Ok(secured) => {
                self.line = Line::Open(secured.stream);
                self.end_point = secured.end_point;
                self.subject = secured.subject;
                Ok(secured.alpn)
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Refused::TlsFailed(error).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Says why, and waits until the client has read it: what it still sends is read and dropped, since
    /// closing a socket with unread bytes makes the kernel throw away what the client has not read yet.
    pub async fn refuse(&mut self, why: &ErrorReply) {
        let mut last_words = std::mem::take(&mut self.outbox);
        why.put(&mut last_words);
        let Line::Open(stream) = &mut self.line else {
            return;
        };
        let farewell = async {
            stream.send(&last_words).await?;
            stream.shutdown().await?;
            let mut dropped = vec![0; READ_BYTES];
            let mut left_bytes = LINGER_BYTES;
            loop {
                match stream.receive(&mut dropped).await? {
                    0 => return Ok::<(), io::Error>(()),
                    count if count >= left_bytes => return Ok(()),
                    count => left_bytes -= count,
                }
            }
        };
        // Whoever doesn't listen has been told all the same.
        let _ = timeout(LINGER, farewell).await;
    }

    /// Stream, unread and outbox; `None` when the connection is lost.
    pub fn into_parts(self) -> Option<(Stream, Vec<u8>, Vec<u8>)> {
        match self.line {
            // Drained it still has its room, which a session would carry along.
            Line::Open(stream) if self.unread.is_empty() => Some((stream, Vec::new(), self.outbox)),
            Line::Open(stream) => Some((stream, self.unread, self.outbox)),
            Line::Lost => None,
        }
    }

    fn stream(&mut self) -> Result<&mut Stream, Stop> {
        match &mut self.line {
            Line::Open(stream) => Ok(stream),
            Line::Lost => Err(Stop::Left),
        }
    }
}
