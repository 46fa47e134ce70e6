//! What a client sends, frame by frame: how far a unit is complete, and what each message changes.
//!
//! Pure: bytes in, numbers out; at a message's body it looks only where state may change. Knows nothing of
//! answers.

use crate::protocol::frame::{BadLength, HEADER_BYTES, Head, split_cstr};
use crate::protocol::tag::frontend;
use crate::sql::{Report, Scanner};

/// PostgreSQL's bound for messages that carry nothing to speak of (PQ_SMALL_MESSAGE_LIMIT).
const SMALL_BYTES: usize = 10_000;
/// PostgreSQL's bound for all others (PQ_LARGE_MESSAGE_LIMIT, that is MaxAllocSize - 1).
const LARGE_BYTES: usize = 0x3fff_fffe;
/// Names longer than this can't be told apart by PostgreSQL either (NAMEDATALEN is 64 as a rule).
const NAME_BYTES: usize = 1024;

/// A message that PostgreSQL would end the connection for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    Length(BadLength),
    Type(u8),
    /// A body that ends too early, or never.
    Body(u8),
}

impl From<BadLength> for Violation {
    fn from(bad: BadLength) -> Violation {
        Violation::Length(bad)
    }
}

/// Reads a client's header and holds it against PostgreSQL's limits.
#[inline]
pub fn head(bytes: &[u8]) -> Result<Option<Head>, Violation> {
    let Some(head) = Head::parse(bytes) else {
        // An impossible type is told from its first byte, as PostgreSQL does.
        return match bytes.first() {
            Some(&tag) if limit(tag).is_none() => Err(Violation::Type(tag)),
            _ => Ok(None),
        };
    };
    let tag = bytes.first().copied().unwrap_or_default();
    let limit = limit(tag).ok_or(Violation::Type(tag))?;
    let head = head?;
    if head.body_bytes() > limit {
        return Err(Violation::Length(head.too_long()));
    }
    Ok(Some(head))
}

/// The longest body a client may send with this type; `None` for types that no client sends.
fn limit(tag: u8) -> Option<usize> {
    match tag {
        frontend::SYNC
        | frontend::FLUSH
        | frontend::TERMINATE
        | frontend::COPY_DONE
        | frontend::DESCRIBE
        | frontend::CLOSE
        | frontend::EXECUTE => Some(SMALL_BYTES),
        frontend::QUERY
        | frontend::PARSE
        | frontend::BIND
        | frontend::COPY_DATA
        | frontend::COPY_FAIL
        | frontend::FUNCTION_CALL => Some(LARGE_BYTES),
        _ => None,
    }
}

/// Finds the end of the last complete unit: a Query, a FunctionCall, or extended-protocol messages up to
/// Sync or Flush. Goes on where it stopped, however the bytes come in.
#[derive(Debug, Default)]
pub struct Units {
    /// End of the last whole frame.
    measured: usize,
    complete: usize,
    /// The next frame is one that can't be.
    violation: Option<Violation>,
}

impl Units {
    /// Goes on where it stopped; `pending` begins where it began before, less what was `consumed`.
    pub fn measure(&mut self, pending: &[u8]) {
        while self.violation.is_none() {
            let Some(rest) = pending.get(self.measured..).filter(|rest| !rest.is_empty()) else {
                return;
            };
            match head(rest) {
                Ok(Some(head)) => {
                    let end = self.measured + head.frame_bytes();
                    let ends_unit = !matches!(
                        head.tag,
                        frontend::PARSE
                            | frontend::BIND
                            | frontend::DESCRIBE
                            | frontend::EXECUTE
                            | frontend::CLOSE
                    );
                    if ends_unit && end <= pending.len() {
                        self.complete = end;
                    }
                    if end > pending.len() {
                        // Measured again when more is there.
                        return;
                    }
                    self.measured = end;
                }
                Ok(None) => return,
                Err(violation) => {
                    // What stands before it is dealt with first.
                    self.violation = Some(violation);
                    self.complete = self.measured;
                }
            }
        }
    }

    /// Bytes up to the end of the last complete unit (or up to a violation).
    pub fn complete(&self) -> usize {
        self.complete
    }

    /// A violation that is next, with nothing before it.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.filter(|_| self.measured == 0)
    }

    pub fn consumed(&mut self, bytes: usize) {
        self.measured = self.measured.saturating_sub(bytes);
        self.complete = self.complete.saturating_sub(bytes);
    }
}

/// What a message refers to, or what it says, where that may change state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing that matters here.
    Plain,
    /// A simple query: it also does away with the unnamed statement.
    Query,
    ParseUnnamed,
    ParseNamed,
    BindUnnamed,
    BindNamed,
    /// Of a statement; that of the unnamed one is plain.
    DescribeNamed,
    CloseUnnamed,
    CloseNamed,
    /// Any function at all, by number.
    FunctionCall,
    Terminate,
}

/// Tells what the frame at the front of `bytes` means, from its head and first names; `None` while
/// these have not come in.
pub fn meaning(head: Head, bytes: &[u8]) -> Result<Option<Meaning>, Violation> {
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let whole = body.len() >= head.body_bytes();
    let body = body
        .get(..head.body_bytes().min(body.len()))
        .unwrap_or_default();
    let known = match head.tag {
        frontend::QUERY => Some(Meaning::Query),
        frontend::TERMINATE => Some(Meaning::Terminate),
        frontend::FUNCTION_CALL => Some(Meaning::FunctionCall),
        frontend::PARSE => split_cstr(body).map(|(name, _)| match name {
            b"" => Meaning::ParseUnnamed,
            _ => Meaning::ParseNamed,
        }),
        frontend::CLOSE => body.split_first().and_then(|(&kind, rest)| {
            let (name, _) = split_cstr(rest)?;
            Some(match (kind, name) {
                (b'S', b"") => Meaning::CloseUnnamed,
                (b'S', _) => Meaning::CloseNamed,
                _ => Meaning::Plain,
            })
        }),
        frontend::BIND => split_cstr(body).and_then(|(_portal, rest)| {
            let (name, _) = split_cstr(rest)?;
            Some(match name {
                b"" => Meaning::BindUnnamed,
                _ => Meaning::BindNamed,
            })
        }),
        frontend::DESCRIBE => body.split_first().and_then(|(&kind, rest)| {
            let (name, _) = split_cstr(rest)?;
            Some(match (kind, name) {
                (b'S', b"") => Meaning::Plain,
                (b'S', _) => Meaning::DescribeNamed,
                _ => Meaning::Plain,
            })
        }),
        _ => Some(Meaning::Plain),
    };
    match known {
        // PostgreSQL answers such a body with an error of its own; it is none of ours.
        None if whole => Ok(Some(Meaning::Plain)),
        None if body.len() > 2 * NAME_BYTES => Err(Violation::Body(head.tag)),
        known => Ok(known),
    }
}

/// Scans the statement text of a Query or Parse while its body passes by.
#[derive(Debug, Default)]
pub struct TextScan {
    scanner: Option<Box<Scanner>>,
    /// Zero bytes to pass before the text begins: the statement's name in a Parse.
    names: u8,
}

impl TextScan {
    /// The text of a whole message in memory.
    pub fn whole(tag: u8, body: &[u8]) -> &[u8] {
        if tag == frontend::PARSE {
            let body = split_cstr(body).map_or(&[][..], |(_, rest)| rest);
            return split_cstr(body).map_or(body, |(text, _)| text);
        }
        // PostgreSQL refuses a Query with another zero byte in it (pq_getmsgend).
        body.strip_suffix(b"\0").unwrap_or(body)
    }

    /// A message with a text begins.
    pub fn begin(&mut self, tag: u8) {
        self.names = u8::from(tag == frontend::PARSE);
        self.scanner = Some(Box::default());
    }

    /// Whether a text is passing by that has not ended.
    pub fn is_under_way(&self) -> bool {
        self.scanner.is_some()
    }

    /// More of its body; what it may do once the text has ended.
    pub fn feed(&mut self, mut body: &[u8]) -> Option<Report> {
        let scanner = self.scanner.as_mut()?;
        if self.names > 0 {
            let end = body.iter().position(|&byte| byte == 0)?;
            body = body.get(end + 1..).unwrap_or_default();
            self.names = 0;
        }
        match body.iter().position(|&byte| byte == 0) {
            None => {
                scanner.feed(body);
                None
            }
            Some(end) => {
                scanner.feed(body.get(..end).unwrap_or_default());
                Some(self.end())
            }
        }
    }

    /// The message has ended, whether or not its text had.
    pub fn end(&mut self) -> Report {
        let scanner = self.scanner.take();
        scanner
            .map(|mut scanner| scanner.finish())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::put;
    use crate::sql::Effects;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, tag, |to| to.extend_from_slice(body));
        out
    }

    #[test]
    fn units_are_complete_at_query_sync_and_flush() {
        let query = frame(b'Q', b"SELECT 1\0");
        let extended = [
            frame(b'P', b"\0SELECT 1\0\0\0"),
            frame(b'B', b"\0\0\0\0\0\0\0\0"),
            frame(b'E', b"\0\0\0\0\0"),
            frame(b'S', b""),
        ]
        .concat();
        let stream = [query.clone(), extended.clone(), frame(b'Q', b"x\0")].concat();
        let ends = [query.len(), query.len() + extended.len(), stream.len()];
        let mut units = Units::default();
        for available in 0..=stream.len() {
            units.measure(&stream[..available]);
            let expected = ends
                .iter()
                .rev()
                .find(|end| **end <= available)
                .copied()
                .unwrap_or(0);
            assert_eq!(units.complete(), expected, "with {available} bytes");
        }
        units.consumed(query.len());
        assert_eq!(units.complete(), stream.len() - query.len());
    }

    #[test]
    fn violations_wait_for_what_stands_before_them() {
        let query = frame(b'Q', b"x\0");
        let mut stream = query.clone();
        stream.extend_from_slice(b"y\0\0\0\x04");
        let mut units = Units::default();
        units.measure(&stream);
        assert_eq!((units.complete(), units.violation()), (query.len(), None));
        units.consumed(query.len());
        assert_eq!(units.violation(), Some(Violation::Type(b'y')));
    }

    #[test]
    fn heads_are_held_against_the_limits() {
        assert_eq!(head(b"y"), Err(Violation::Type(b'y')));
        assert_eq!(head(b"Q\0"), Ok(None));
        assert!(matches!(head(b"Q\0\0\0\x03"), Err(Violation::Length(_))));
        assert!(matches!(
            head(b"Q\x7f\xff\xff\xff"),
            Err(Violation::Length(_))
        ));
        assert!(matches!(head(b"S\0\0\xff\xff"), Err(Violation::Length(_))));
        assert!(matches!(head(b"d\0\xff\xff\xff"), Ok(Some(_))));
    }

    #[test]
    fn meanings() {
        let cases: [(Vec<u8>, Meaning); 11] = [
            (frame(b'Q', b"x\0"), Meaning::Query),
            (frame(b'P', b"\0x\0\0\0"), Meaning::ParseUnnamed),
            (frame(b'P', b"a\0x\0\0\0"), Meaning::ParseNamed),
            (frame(b'B', b"p\0s\0\0\0"), Meaning::BindNamed),
            (frame(b'B', b"p\0\0\0\0"), Meaning::BindUnnamed),
            (frame(b'D', b"Pa\0"), Meaning::Plain),
            (frame(b'D', b"S\0"), Meaning::Plain),
            (frame(b'D', b"Sa\0"), Meaning::DescribeNamed),
            (frame(b'C', b"S\0"), Meaning::CloseUnnamed),
            (frame(b'C', b"Sa\0"), Meaning::CloseNamed),
            (frame(b'X', b""), Meaning::Terminate),
        ];
        for (bytes, expected) in cases {
            let head = Head::parse(&bytes).unwrap().unwrap();
            assert_eq!(meaning(head, &bytes), Ok(Some(expected)), "{bytes:?}");
        }
        let cut = frame(b'P', b"name\0x\0\0\0");
        let head = Head::parse(&cut).unwrap().unwrap();
        assert_eq!(meaning(head, &cut[..8]), Ok(None));
    }

    #[test]
    fn texts_are_scanned_in_pieces() {
        let body = b"name\0SELECT 1; SET x = 1\0\0\x01";
        for cut in 0..body.len() {
            let mut scan = TextScan::default();
            scan.begin(b'P');
            let first = scan.feed(&body[..cut]);
            let found = first.or_else(|| scan.feed(&body[cut..]));
            assert_eq!(found.unwrap().effects, Effects::SETTING, "cut at {cut}");
        }
        let named = b"s\0LISTEN a\0\0\0";
        assert_eq!(TextScan::whole(b'Q', b"LISTEN a\0"), b"LISTEN a");
        assert_eq!(TextScan::whole(b'Q', b"LISTEN a"), b"LISTEN a");
        assert_eq!(TextScan::whole(b'P', named), b"LISTEN a");
    }
}
