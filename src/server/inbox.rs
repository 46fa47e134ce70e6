//! Reads messages of a server that is not relayed to anybody yet: whole, and no more than allowed.
//!
//! Knows where messages begin and end; does not know what they mean.

use std::io;

use crate::net::Stream;
use crate::protocol::frame::{BadLength, HEADER_BYTES, Head};

/// Room for what one read brings; grows for a longer message, up to the limit.
const READ_BYTES: usize = 4096;

/// What has come in and has not been taken.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Start of what has not been taken.
    taken: usize,
    /// End of what has come in.
    filled: usize,
    /// Bytes that may still be taken.
    allowance: usize,
}

#[derive(Debug)]
pub(super) struct Message<'a> {
    pub tag: u8,
    pub body: &'a [u8],
}

/// Why no further message came.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the server closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the server sent a message of type {:?} with length {}", char::from(bad.tag), bad.length_word)]
    BadLength { bad: BadLength },
    #[error("the server sent more than the {limit_bytes} bytes that are reasonable here")]
    TooMuch { limit_bytes: usize },
}

impl Inbox {
    /// `limit_bytes` bounds everything that this inbox will ever take.
    pub fn new(limit_bytes: usize) -> Inbox {
        Inbox {
            bytes: vec![0; READ_BYTES],
            taken: 0,
            filled: 0,
            allowance: limit_bytes,
        }
    }

    /// The next message, waiting for it. Cancel-safe: what has come in stays.
    pub async fn next(&mut self, stream: &mut Stream) -> Result<Message<'_>, ReadError> {
        let head = self.peek(stream).await?;
        let start = self.taken + HEADER_BYTES;
        self.taken += head.frame_bytes();
        self.allowance -= head.frame_bytes();
        Ok(Message {
            tag: head.tag,
            body: self.bytes.get(start..self.taken).unwrap_or_default(),
        })
    }

    /// Waits for the next message to be there, and leaves it. Cancel-safe.
    pub async fn peek(&mut self, stream: &mut Stream) -> Result<Head, ReadError> {
        loop {
            let waiting = self.bytes.get(self.taken..self.filled).unwrap_or_default();
            match Head::parse(waiting) {
                None => {}
                Some(Err(bad)) => return Err(ReadError::BadLength { bad }),
                Some(Ok(head)) if head.frame_bytes() > self.allowance => {
                    return Err(ReadError::TooMuch {
                        limit_bytes: self.allowance,
                    });
                }
                Some(Ok(head)) if head.frame_bytes() <= waiting.len() => return Ok(head),
                Some(Ok(head)) => self.make_room(head.frame_bytes()),
            }
            self.read(stream).await?;
        }
    }

    /// Whether something has come in that was not taken, if only a part of a message.
    pub fn has_more(&self) -> bool {
        self.taken < self.filled
    }

    fn make_room(&mut self, frame_bytes: usize) {
        if self.bytes.len() - self.taken < frame_bytes {
            self.bytes.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.taken = 0;
        }
        if self.bytes.len() < frame_bytes {
            self.bytes.resize(frame_bytes, 0);
        }
    }

    async fn read(&mut self, stream: &mut Stream) -> Result<(), ReadError> {
        if self.taken == self.filled {
            self.taken = 0;
            self.filled = 0;
        }
        self.make_room(HEADER_BYTES);
        if self.filled == self.bytes.len() {
            self.bytes.resize(self.bytes.len() + READ_BYTES, 0);
        }
        let into = self.bytes.get_mut(self.filled..).unwrap_or_default();
        match stream.receive(into).await {
            Ok(0) => Err(ReadError::Closed),
            Ok(count) => {
                self.filled += count;
                Ok(())
            }
            // A TLS peer that hangs up without saying so; every PostgreSQL does, on FATAL.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ReadError::Closed),
            Err(error) => Err(error.into()),
        }
    }
}
