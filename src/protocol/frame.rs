//! The five bytes in front of every message after the startup packet.
//!
//! Knows how long a message is; does not know what any message means.

use std::ffi::CStr;

/// Type byte and length word.
pub const HEADER_BYTES: usize = 5;

/// The header of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub tag: u8,
    /// The length word as sent: body plus its own four bytes.
    length_word: u32,
}

/// A length word below 4, or above the limit that the reader set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength {
    pub tag: u8,
    pub length_word: i32,
}

impl Head {
    /// Reads the header at the start of `bytes`; `None` while fewer than five bytes are there.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Result<Head, BadLength>> {
        let (header, _) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let [tag, a, b, c, d] = *header;
        let length_word = i32::from_be_bytes([a, b, c, d]);
        if length_word < 4 {
            return Some(Err(BadLength { tag, length_word }));
        }
        Some(Ok(Head {
            tag,
            length_word: length_word.unsigned_abs(),
        }))
    }

    /// Bytes behind the header.
    #[inline]
    pub fn body_bytes(self) -> usize {
        self.length_word as usize - 4
    }

    /// Bytes of the whole message, header included.
    #[inline]
    pub fn frame_bytes(self) -> usize {
        self.length_word as usize + 1
    }

    /// This header as the fault it is once a reader finds it too long.
    pub fn too_long(self) -> BadLength {
        BadLength {
            tag: self.tag,
            length_word: i32::try_from(self.length_word).unwrap_or(i32::MAX),
        }
    }
}

/// Appends one message: tag, length word, and whatever `body` writes.
pub fn put(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    put_untagged(out, body);
}

/// Appends a message without a type byte (the startup family).
pub fn put_untagged(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - length_at).expect("Weir's own messages are small");
    out.get_mut(length_at..length_at + 4)
        .expect("reserved above")
        .copy_from_slice(&length.to_be_bytes());
}

/// Appends a zero-terminated string. A zero byte inside would split it, so the text ends there.
pub fn put_cstr(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().copied().take_while(|&byte| byte != 0));
    out.push(0);
}

/// Splits a zero-terminated string off the front; `None` when no terminator is there.
#[inline]
pub fn split_cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    // Names of statements and portals are empty, as a rule.
    match bytes {
        [0, rest @ ..] => Some((&[], rest)),
        _ => split_text(bytes),
    }
}

fn split_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = CStr::from_bytes_until_nul(bytes).ok()?.to_bytes();
    Some((text, bytes.get(text.len() + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        type Case<'a> = (&'a [u8], Option<Result<(u8, usize), i32>>);
        let cases: &[Case<'_>] = &[
            (b"", None),
            (b"Q\0\0\0", None),
            (b"Q\0\0\0\x04", Some(Ok((b'Q', 5)))),
            (b"Q\0\0\x01\x00rest", Some(Ok((b'Q', 257)))),
            (b"Q\0\0\0\x03", Some(Err(3))),
            (b"Q\xff\xff\xff\xff", Some(Err(-1))),
        ];
        for (bytes, expected) in cases {
            let read = Head::parse(bytes).map(|head| {
                head.map(|head| (head.tag, head.frame_bytes()))
                    .map_err(|bad| bad.length_word)
            });
            assert_eq!(&read, expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_put_is_read_back() {
        let mut out = Vec::new();
        put(&mut out, b'S', |body| {
            put_cstr(body, b"TimeZone");
            put_cstr(body, b"UTC\0hidden");
        });
        assert_eq!(out, b"S\0\0\0\x11TimeZone\0UTC\0");
        assert_eq!(
            split_cstr(&out[5..]),
            Some((&b"TimeZone"[..], &b"UTC\0"[..]))
        );
        assert_eq!(split_cstr(b"no end"), None);
    }
}
