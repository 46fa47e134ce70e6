//! The statement's name in Parse, Bind, Describe and Close: where it stands, and the message under another name.
//!
//! Knows where names are; not what statements there are, nor that a message's rest is ever in memory.

use super::frame::{HEADER_BYTES, Head, put, put_cstr, split_cstr};
use super::tag::frontend;

/// Bytes of a name that PostgreSQL tells apart (NAMEDATALEN - 1): longer ones are the same if these are.
pub const TOLD_BYTES: usize = 63;

/// Where in a frame a statement is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAt {
    start: usize,
    end: usize,
}

impl NameAt {
    /// The name at the front of a frame with this tag; `None` if it isn't there in full, or there is none.
    #[inline]
    pub fn find(tag: u8, frame: &[u8]) -> Option<NameAt> {
        let body = frame.get(HEADER_BYTES..)?;
        let before = match tag {
            frontend::PARSE => 0,
            frontend::BIND => split_cstr(body)?.0.len() + 1,
            frontend::DESCRIBE | frontend::CLOSE if body.first() == Some(&b'S') => 1,
            _ => return None,
        };
        let (name, _) = split_cstr(body.get(before..)?)?;
        let start = HEADER_BYTES + before;
        Some(NameAt {
            start,
            end: start + name.len(),
        })
    }

    #[inline]
    pub fn of(self, frame: &[u8]) -> &[u8] {
        frame.get(self.start..self.end).unwrap_or_default()
    }

    /// Appends the front of the message under another name. What stands behind the name's end in `frame`, from
    /// the returned place on, is to follow.
    #[inline]
    pub fn put_renamed(self, head: Head, frame: &[u8], name: &[u8], out: &mut Vec<u8>) -> usize {
        let old = self.end - self.start;
        let length = head.frame_bytes() - 1 - old + name.len();
        out.push(head.tag);
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(frame.get(HEADER_BYTES..self.start).unwrap_or_default());
        out.extend_from_slice(name);
        self.end
    }
}

/// As much of a name as PostgreSQL tells apart.
#[inline]
pub fn told(name: &[u8]) -> &[u8] {
    name.get(..TOLD_BYTES).unwrap_or(name)
}

/// The portal that a Bind or Execute names, as much of it as is told apart; `None` if that isn't there yet.
pub fn portal(frame: &[u8]) -> Option<&[u8]> {
    let body = frame.get(HEADER_BYTES..)?;
    match split_cstr(body) {
        Some((name, _)) => Some(told(name)),
        None => body.get(..TOLD_BYTES),
    }
}

/// Appends a Parse; `body` is all behind the name: text and parameter types.
pub fn put_parse(out: &mut Vec<u8>, name: &[u8], body: &[u8]) {
    put(out, frontend::PARSE, |to| {
        put_cstr(to, name);
        to.extend_from_slice(body);
    });
}

/// Appends a Describe of a statement.
pub fn put_describe(out: &mut Vec<u8>, name: &[u8]) {
    put(out, frontend::DESCRIBE, |to| {
        to.push(b'S');
        put_cstr(to, name);
    });
}

/// Appends a Close of a statement.
pub fn put_close(out: &mut Vec<u8>, name: &[u8]) {
    put(out, frontend::CLOSE, |to| {
        to.push(b'S');
        put_cstr(to, name);
    });
}

/// Appends a Close of a portal.
pub fn put_close_portal(out: &mut Vec<u8>, name: &[u8]) {
    put(out, frontend::CLOSE, |to| {
        to.push(b'P');
        put_cstr(to, name);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, tag, |to| to.extend_from_slice(body));
        out
    }

    #[test]
    fn names_are_found_and_replaced() {
        type Case<'a> = (u8, &'a [u8], Option<&'a [u8]>, &'a [u8]);
        let cases: [Case<'_>; 8] = [
            (b'P', b"a\0SELECT\0\0\0", Some(b"a"), b"new\0SELECT\0\0\0"),
            (b'P', b"\0SELECT\0\0\0", Some(b""), b"new\0SELECT\0\0\0"),
            (b'B', b"p\0a\0\0\0rest", Some(b"a"), b"p\0new\0\0\0rest"),
            (b'B', b"\0longer\0\0", Some(b"longer"), b"\0new\0\0"),
            (b'D', b"Sa\0", Some(b"a"), b"Snew\0"),
            (b'C', b"Sa\0", Some(b"a"), b"Snew\0"),
            (b'D', b"Pa\0", None, b""),
            (b'B', b"p\0cut off", None, b""),
        ];
        for (tag, body, name, renamed) in cases {
            let bytes = frame(tag, body);
            let head = Head::parse(&bytes).unwrap().unwrap();
            let found = NameAt::find(tag, &bytes);
            assert_eq!(found.map(|at| at.of(&bytes)), name, "{bytes:?}");
            let Some(at) = found else { continue };
            let mut out = Vec::new();
            let rest = at.put_renamed(head, &bytes, b"new", &mut out);
            out.extend_from_slice(&bytes[rest..]);
            assert_eq!(out, frame(tag, renamed));
        }
    }

    #[test]
    fn a_name_is_found_once_its_end_is_there() {
        let bytes = frame(b'B', b"p\0a\0\0\0");
        for cut in 0..bytes.len() {
            let found = NameAt::find(b'B', &bytes[..cut]).is_some();
            assert_eq!(found, cut >= HEADER_BYTES + 4, "{cut}");
        }
    }

    #[test]
    fn long_names_are_told_by_their_beginning() {
        assert_eq!(told(b"abc"), b"abc");
        assert_eq!(told(&[b'x'; 100]), [b'x'; 63]);
    }
}
