//! A name as it is put together from the parts of a text, within a bound.
//!
//! Knows that PostgreSQL cuts long identifiers; not what the name is for.

/// Names of settings that are longer are not told.
pub(super) const NAME_BYTES: usize = 64;
/// NAMEDATALEN - 1: PostgreSQL cuts a longer identifier, where depends on the encoding.
pub(super) const IDENTIFIER_BYTES: usize = 63;

/// Nothing, or a whole name.
#[derive(Clone, Debug)]
pub(super) struct Name {
    bytes: [u8; NAME_BYTES],
    len: usize,
    /// Something of it is missing.
    cut: bool,
}

impl Name {
    pub(super) fn new() -> Name {
        Name {
            bytes: [0; NAME_BYTES],
            len: 0,
            cut: false,
        }
    }

    pub(super) fn of(text: &[u8]) -> Name {
        let mut name = Name::new();
        name.push(text);
        name
    }

    /// Begins with an identifier.
    pub(super) fn identifier(text: &[u8]) -> Name {
        let mut name = Name::of(text);
        name.cut |= text.len() > IDENTIFIER_BYTES;
        name
    }

    /// `.` and another identifier.
    pub(super) fn dotted(&mut self, part: &[u8]) {
        self.push(b".");
        self.push(part);
        self.cut |= part.len() > IDENTIFIER_BYTES;
    }

    fn push(&mut self, text: &[u8]) {
        match self.bytes.get_mut(self.len..self.len + text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                self.len += text.len();
            }
            None => self.cut = true,
        }
    }

    /// Empty if it would not be whole.
    pub(super) fn as_slice(&self) -> &[u8] {
        let len = if self.cut { 0 } else { self.len };
        self.bytes.get(..len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_whole_or_nothing() {
        let mut name = Name::identifier(b"a");
        name.dotted(b"b");
        assert_eq!(name.as_slice(), b"a.b");
        name.dotted(&[b'c'; 60]);
        assert_eq!(name.as_slice().len(), 64);
        name.dotted(b"d");
        assert_eq!(name.as_slice(), b"");
        assert_eq!(Name::identifier(&[b'a'; 64]).as_slice(), b"");
        assert_eq!(Name::of(&[b'a'; 64]).as_slice().len(), 64);
        assert_eq!(Name::of(&[b'a'; 65]).as_slice(), b"");
    }
}
