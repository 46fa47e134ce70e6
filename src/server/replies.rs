//! What a server sends, frame by frame: what goes on to the client, what is withheld, what it concludes.
//!
//! Pure: bytes in, numbers out. Rows are passed over by their headers. Knows nothing of requests but what the
//! ledger says is owed.

use super::ledger::{Concluded, Fate, Ledger, OutOfStep};
use crate::protocol::frame::{BadLength, HEADER_BYTES, Head};
use crate::protocol::reply::{TxStatus, error_field, parameter_status};
use crate::protocol::tag::backend;

/// So much of an ErrorResponse is awaited before it is passed on: severity and SQLSTATE stand first.
const ERROR_PREFIX_BYTES: usize = 256;
/// A ParameterStatus larger than this is passed on unread.
const PARAMETER_BYTES: usize = 16 * 1024;
/// PostgreSQL's payloads end at 8000 bytes, in whatever encoding.
const NOTIFICATION_BYTES: usize = 48 * 1024;

/// The server broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbled {
    Length(BadLength),
    OutOfStep(OutOfStep),
    Ready,
}

impl From<OutOfStep> for Garbled {
    fn from(fault: OutOfStep) -> Garbled {
        Garbled::OutOfStep(fault)
    }
}

/// The next thing to do with the bytes at the front.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// More must come in first.
    Wait,
    /// So many bytes, of no consequence.
    Pass { bytes: usize, fate: Fate },
    /// The client's Parse is carried out. What says so follows, and is nothing that it should see.
    Parsed,
    /// A setting as the server has it now.
    Parameter {
        bytes: usize,
        fate: Fate,
        name: &'a [u8],
        value: &'a [u8],
    },
    /// A notification: it answers nothing, so whose it is does not depend on what is owed.
    Notification { bytes: usize },
    /// An error begins; `prefix` is as much of its body as is there. To be passed on like any bytes.
    Error {
        fate: Fate,
        fatal: bool,
        prefix: &'a [u8],
    },
    /// The server goes down, or ends the connection for an operator: it says so here, and nothing that it owed comes any
    /// more. The ledger is as it was before; nothing is taken.
    GoesDown { words: &'a [u8], bytes: usize },
    Ready {
        bytes: usize,
        concluded: Concluded,
        tx: TxStatus,
    },
}

/// Where in the stream of replies we are.
#[derive(Debug)]
pub struct Replies {
    /// Bytes of the current message that have not been passed on.
    left: usize,
    fate: Fate,
    /// The last message was a row: the next one, if it is one as well, goes the same way. The first of several may answer
    /// another message than what came before it did.
    in_rows: bool,
}

impl Default for Replies {
    fn default() -> Replies {
        Replies {
            left: 0,
            fate: Fate::Forward,
            in_rows: false,
        }
    }
}

impl Replies {
    /// Whether the last message was passed on in full.
    #[inline]
    pub fn at_boundary(&self) -> bool {
        self.left == 0
    }

    pub fn next<'a>(&mut self, raw: &'a [u8], ledger: &mut Ledger) -> Result<Reply<'a>, Garbled> {
        let mut passed = self.pass_on(raw.len());
        while self.left == 0 {
            let rest = raw.get(passed..).unwrap_or_default();
            let Some(head) = Head::parse(rest) else {
                break;
            };
            let head = head.map_err(Garbled::Length)?;
            if is_notable(head) {
                if passed > 0 {
                    break;
                }
                self.in_rows = false;
                return self.notable(head, rest, ledger);
            }
            let row = is_row(head.tag);
            if !(row && self.in_rows) {
                let along = (passed > 0).then_some(self.fate);
                let Some(fate) = ledger.reply(head.tag, along)? else {
                    break;
                };
                self.fate = fate;
                self.in_rows = row;
            }
            self.left = head.frame_bytes();
            if self.fate == Fate::AsParsed {
                self.fate = Fate::Withhold;
                return Ok(Reply::Parsed);
            }
            passed += self.pass_on(rest.len());
        }
        Ok(self.pass(passed))
    }

    /// Takes what is there of the current message.
    #[inline]
    fn pass_on(&mut self, available: usize) -> usize {
        let taken = self.left.min(available);
        self.left -= taken;
        taken
    }

    fn pass(&self, bytes: usize) -> Reply<'static> {
        if bytes == 0 {
            return Reply::Wait;
        }
        Reply::Pass {
            bytes,
            fate: self.fate,
        }
    }

    /// The client is not to see the current message.
    pub fn withhold(&mut self) {
        self.fate = Fate::Withhold;
    }

    /// The next message is the last, of so many bytes, and the client is to see it.
    pub fn last_word(&mut self, bytes: usize) {
        self.left = bytes;
        self.fate = Fate::Forward;
    }

    /// So many bytes of the current message were dealt with otherwise.
    pub fn took(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// A message that must be in memory, in whole or in part, to be understood.
    fn notable<'a>(
        &mut self,
        head: Head,
        rest: &'a [u8],
        ledger: &mut Ledger,
    ) -> Result<Reply<'a>, Garbled> {
        let wanted = match head.tag {
            backend::ERROR_RESPONSE => head.frame_bytes().min(ERROR_PREFIX_BYTES),
            _ => head.frame_bytes(),
        };
        if rest.len() < wanted {
            return Ok(Reply::Wait);
        }
        let bytes = head.frame_bytes();
        let body = rest
            .get(HEADER_BYTES..bytes.min(rest.len()))
            .unwrap_or_default();
        match head.tag {
            backend::READY_FOR_QUERY => {
                let status = body.first().filter(|_| body.len() == 1);
                let tx = status.and_then(|&byte| TxStatus::from_byte(byte));
                let tx = tx.ok_or(Garbled::Ready)?;
                let concluded = ledger.ready(tx)?;
                Ok(Reply::Ready {
                    bytes,
                    concluded,
                    tx,
                })
            }
            backend::PARAMETER_STATUS => {
                let (name, value) = parameter_status(body).unwrap_or_default();
                let fate = ledger.fate();
                Ok(Reply::Parameter {
                    bytes,
                    fate,
                    name,
                    value,
                })
            }
            backend::NOTIFICATION_RESPONSE => Ok(Reply::Notification { bytes }),
            _ => {
                let fatal = matches!(error_field(body, b'V'), Some(b"FATAL" | b"PANIC"));
                if fatal && goes_down(body) {
                    return Ok(Reply::GoesDown { words: body, bytes });
                }
                let fate = ledger.error();
                // The last word is the client's, whatever it answers.
                self.fate = if fatal { Fate::Forward } else { fate };
                self.left = bytes;
                Ok(Reply::Error {
                    fate: self.fate,
                    fatal,
                    prefix: body,
                })
            }
        }
    }
}

/// Whether an ErrorResponse concerns the connection, and not its client.
fn goes_down(error: &[u8]) -> bool {
    matches!(
        error_field(error, b'C'),
        Some(b"57P01" | b"57P02" | b"57P03")
    )
}

#[inline]
fn is_row(tag: u8) -> bool {
    matches!(tag, backend::DATA_ROW | backend::COPY_DATA)
}

#[inline]
fn is_notable(head: Head) -> bool {
    match head.tag {
        backend::READY_FOR_QUERY | backend::ERROR_RESPONSE => true,
        backend::PARAMETER_STATUS => head.frame_bytes() <= PARAMETER_BYTES,
        backend::NOTIFICATION_RESPONSE => head.frame_bytes() <= NOTIFICATION_BYTES,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::put;
    use crate::protocol::reply::put_ready_for_query;
    use crate::server::ledger::{Asker, Owed};

    fn answers() -> Vec<u8> {
        let mut out = Vec::new();
        // A withheld Query, then one of the client's with an error in it.
        put(&mut out, b'C', |body| body.extend_from_slice(b"BEGIN\0"));
        put(&mut out, b'A', |body| {
            body.extend_from_slice(b"\0\0\0\x01a\0\0")
        });
        put_ready_for_query(&mut out, TxStatus::InTransaction);
        put(&mut out, b'S', |body| body.extend_from_slice(b"a\0b\0"));
        put(&mut out, b'T', |body| body.extend_from_slice(&[0; 40]));
        put(&mut out, b'D', |body| body.extend_from_slice(&[1; 400]));
        put(&mut out, b'E', |body| {
            body.extend_from_slice(b"SERROR\0VERROR\0C42601\0\0")
        });
        put_ready_for_query(&mut out, TxStatus::Failed);
        out
    }

    /// Relays with reads of `step` bytes; gives what the client sees and the notable events.
    fn relay(stream: &[u8], step: usize) -> (Vec<u8>, String) {
        let mut ledger = Ledger::default();
        ledger.send(Owed::Query, Asker::Weir);
        ledger.send(Owed::Query, Asker::Client);
        relay_with(ledger, stream, step)
    }

    fn relay_with(mut ledger: Ledger, stream: &[u8], step: usize) -> (Vec<u8>, String) {
        let (mut replies, mut seen, mut events) = (Replies::default(), Vec::new(), String::new());
        let (mut start, mut end) = (0, 0);
        while end < stream.len() {
            end = (end + step).min(stream.len());
            loop {
                let raw = &stream[start..end];
                let (bytes, fate) = match replies.next(raw, &mut ledger).unwrap() {
                    Reply::Wait => break,
                    Reply::Pass { bytes, fate } => (bytes, fate),
                    Reply::Parsed => {
                        events.push('1');
                        continue;
                    }
                    Reply::Notification { bytes } => {
                        events.push('A');
                        (bytes, Fate::Forward)
                    }
                    Reply::Parameter { bytes, fate, .. } => {
                        events.push('S');
                        (bytes, fate)
                    }
                    Reply::GoesDown { .. } => panic!("nobody goes down here"),
                    Reply::Error { fatal, .. } => {
                        events.push(if fatal { 'F' } else { 'E' });
                        continue;
                    }
                    Reply::Ready {
                        bytes, concluded, ..
                    } => {
                        events.push('Z');
                        let own = concluded.asker == Asker::Weir;
                        (bytes, if own { Fate::Withhold } else { Fate::Forward })
                    }
                };
                if fate == Fate::Forward {
                    seen.extend_from_slice(&raw[..bytes]);
                }
                start += bytes;
            }
        }
        assert!(replies.at_boundary() && ledger.is_settled() && start == stream.len());
        (seen, events)
    }

    #[test]
    fn any_split_gives_the_same() {
        let stream = answers();
        let begun = 5 + 6;
        let notification = begun..begun + 5 + 7;
        let withheld = notification.end + 6;
        let expected = [&stream[notification], &stream[withheld..]].concat();
        for step in 1..=stream.len() {
            let (seen, events) = relay(&stream, step);
            assert_eq!(seen, expected, "reads of {step}");
            assert_eq!(events, "AZSEZ", "reads of {step}");
        }
    }

    /// Rows of a portal that was open come behind nothing of its own.
    #[test]
    fn rows_go_where_their_own_message_says() {
        let mut stream = Vec::new();
        put(&mut stream, b'3', |_| {});
        put_ready_for_query(&mut stream, TxStatus::InTransaction);
        let mine = stream.len();
        for row in [1, 2] {
            put(&mut stream, b'D', |body| body.extend_from_slice(&[row; 9]));
        }
        put(&mut stream, b's', |_| {});
        put_ready_for_query(&mut stream, TxStatus::InTransaction);
        for step in 1..=stream.len() {
            let mut ledger = Ledger::default();
            ledger.send(Owed::Close, Asker::Weir);
            ledger.send(Owed::Sync, Asker::Weir);
            ledger.send(Owed::Execute, Asker::Client);
            ledger.send(Owed::Sync, Asker::Client);
            let (seen, events) = relay_with(ledger, &stream, step);
            assert_eq!(seen, &stream[mine..], "reads of {step}");
            assert_eq!(events, "ZZ", "reads of {step}");
        }
    }

    #[test]
    fn nonsense_is_told() {
        let mut replies = Replies::default();
        let mut ledger = Ledger::default();
        assert!(replies.next(b"Z\0\0\0\x05I", &mut ledger).is_err());
        assert!(replies.next(b"D\0\0\0\x01", &mut ledger).is_err());
        assert!(replies.next(b"1\0\0\0\x04", &mut ledger).is_err());
    }
}
