//! A connection that listens for others: what it is told to listen to, and what it hears.
//!
//! Knows notifications from answers; not whose they are.

use super::Connection;
use super::connection::{CommandError, READ_BYTES};
use super::ledger::{Asker, Owed};
use super::replies::Reply;
use std::rc::Rc;

/// What came from a listening connection.
#[derive(Debug)]
pub enum Heard {
    /// A NotificationResponse, header and all.
    Notification(Rc<[u8]>),
    /// The statement told last was carried out.
    Done,
}

impl Connection {
    /// Sends a Query, whose end `hear` will tell. Not cancel-safe.
    pub async fn tell(&mut self, query: &[u8]) -> Result<(), CommandError> {
        self.unnamed_of = None;
        self.ledger.send(Owed::Query, Asker::Weir);
        self.stream.send(query).await?;
        Ok(())
    }

    /// Waits until something is heard. Cancel-safe: what has come in stays.
    pub async fn hear(&mut self) -> Result<Vec<Heard>, CommandError> {
        loop {
            let heard = self.heard()?;
            if !heard.is_empty() {
                return Ok(heard);
            }
            let mut more = [0; READ_BYTES];
            let count = self.stream.receive(&mut more).await?;
            if count == 0 {
                return Err(CommandError::Closed);
            }
            self.unread
                .extend_from_slice(more.get(..count).unwrap_or_default());
        }
    }

    /// Everything whole that has come in. An error of any kind is the end: nothing that is told here may fail.
    fn heard(&mut self) -> Result<Vec<Heard>, CommandError> {
        let mut heard = Vec::new();
        let mut start = 0;
        loop {
            let rest = self.unread.get(start..).unwrap_or_default();
            match self.replies.next(rest, &mut self.ledger)? {
                Reply::Wait => break,
                // Its bytes follow.
                Reply::Parsed => {}
                Reply::Pass { bytes, .. } => start += bytes,
                Reply::Notification { bytes } => {
                    let frame = rest.get(..bytes).unwrap_or_default();
                    heard.push(Heard::Notification(frame.into()));
                    start += bytes;
                }
                Reply::Ready { bytes, .. } => {
                    heard.push(Heard::Done);
                    start += bytes;
                }
                Reply::Parameter {
                    bytes, name, value, ..
                } => {
                    Connection::note_parameter(&mut self.parameters, name, value);
                    start += bytes;
                }
                Reply::GoesDown { words: prefix, .. } | Reply::Error { prefix, .. } => {
                    return Err(CommandError::Refused(prefix.to_vec()));
                }
            }
        }
        self.unread.drain(..start);
        Ok(heard)
    }
}
