//! What single bytes are to PostgreSQL's lexer.
//!
//! Knows kinds of bytes, as `scan.l` has them; no tokens.

pub(super) const fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

pub(super) const fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// A byte of a word in lower case; 0 for one that ends the word.
#[inline]
pub(super) fn folded(byte: u8) -> u8 {
    const FOLDED: [u8; 256] = {
        let mut table = [0; 256];
        let mut byte: u8 = 255;
        while byte > 0 {
            if continues_word(byte) {
                table[byte as usize] = byte.to_ascii_lowercase();
            }
            byte -= 1;
        }
        table
    };
    FOLDED.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Inside `'...'`: neither its end nor what may escape it.
pub(super) const fn is_plain_text(byte: u8) -> bool {
    byte != b'\'' && byte != b'\\'
}

/// What is behind the bytes of a kind at the front.
#[inline]
pub(super) fn skip(bytes: &[u8], kind: impl Fn(u8) -> bool) -> &[u8] {
    let run = bytes.iter().position(|&byte| !kind(byte));
    run.and_then(|run| bytes.get(run..)).unwrap_or_default()
}

/// What may begin with a byte.
pub(super) enum Class {
    Blank,
    Word,
    Digit,
    /// A string, a quoted name, a comment, a dollar quote; or a sign after all.
    Opening,
    Sign,
}

#[inline]
pub(super) const fn class(byte: u8) -> Class {
    match byte {
        b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Class::Blank,
        b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => Class::Word,
        b'0'..=b'9' => Class::Digit,
        b'\'' | b'"' | b'-' | b'/' | b'$' => Class::Opening,
        _ => Class::Sign,
    }
}

pub(super) const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

pub(super) const fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}
