//! The statement that is to blame for a pin: the last one that may have left something behind.
//!
//! Pure. Keeps its digest, never its text; knows nothing of pins.

use super::requests::TextScan;
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::tag::frontend;
use crate::sql::{Effects, digest};

#[derive(Debug, Default)]
pub struct Culprit {
    digest: Option<Box<str>>,
    /// Of a message that is passing by in pieces: whether it may leave anything is known at its end.
    passing: Option<Box<str>>,
}

impl Culprit {
    /// The digest of the last statement that may have left something; `None` before there was one.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// A message was sent that may have left something, or as much of it as there is.
    pub fn blame(&mut self, frame: &[u8]) {
        self.digest = Some(told(frame));
    }

    /// A text that was prepared is about to be executed.
    pub fn blame_text(&mut self, text: &[u8], effects: Effects) {
        if !effects.staying().is_none() {
            self.digest = Some(digest(text).into_boxed_str());
        }
    }

    /// A whole message with a text was sent, if it was one.
    pub fn blame_frame(&mut self, whole: Option<&[u8]>, effects: Effects) {
        if let Some(frame) = whole
            && !effects.staying().is_none()
        {
            self.blame(frame);
        }
    }

    /// The first piece of a message was sent.
    pub fn begins(&mut self, frame: &[u8]) {
        self.passing = Some(told(frame));
    }

    /// This is what the message that passes by may do.
    pub fn turns_out(&mut self, effects: Effects) {
        if let Some(digest) = self.passing.take()
            && !effects.staying().is_none()
        {
            self.digest = Some(digest);
        }
    }
}

fn told(frame: &[u8]) -> Box<str> {
    let body = frame.get(HEADER_BYTES..).unwrap_or_default();
    let text = match frame.first() {
        Some(&tag @ (frontend::QUERY | frontend::PARSE)) => TextScan::whole(tag, body),
        Some(&frontend::FUNCTION_CALL) => return "(a function, called by its number)".into(),
        _ => return "(no statement)".into(),
    };
    digest(text).into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::put;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, tag, |to| to.extend_from_slice(body));
        out
    }

    #[test]
    fn every_message_with_effects_has_a_digest() {
        let cases: [(Vec<u8>, &str); 4] = [
            (frame(b'Q', b"LISTEN a -- b\0"), "LISTEN a"),
            (
                frame(b'P', b"name\0SELECT 'x'\0\0\x01\0\0\0\x17"),
                "SELECT ?",
            ),
            (
                frame(b'F', b"\0\0\0\x01"),
                "(a function, called by its number)",
            ),
            (frame(b'P', b"name"), ""),
        ];
        for (frame, expected) in cases {
            let mut culprit = Culprit::default();
            culprit.blame(&frame);
            assert_eq!(culprit.digest(), Some(expected), "{frame:?}");
        }
    }

    #[test]
    fn what_passes_by_is_blamed_when_it_turns_out_to_leave_something() {
        let mut culprit = Culprit::default();
        culprit.begins(&frame(b'Q', b"DO $$ secret"));
        assert_eq!(culprit.digest(), None);
        culprit.turns_out(Effects::ROUTINE);
        assert_eq!(culprit.digest(), Some("DO…"));
        culprit.begins(&frame(b'Q', b"SELECT a"));
        culprit.turns_out(Effects::SEQUENCE_READ);
        assert_eq!(culprit.digest(), Some("DO…"));
    }
}
