//! Names behind which a session's state may be changed unseen: of functions that do it, and of tables, views and
//! columns' defaults that call them.
//!
//! Knows how such a name is found in a text; not where the names come from. It may be found where it is none of
//! them: in a string, or as a column.

use std::collections::HashSet;

/// A set of names, in lower case.
#[derive(Debug, Default)]
pub struct Hidden {
    names: HashSet<Box<[u8]>>,
    /// By first letter: the lengths of names, modulo 64, a bit each. Nearly every word is told by it to be none.
    lengths: [u64; 32],
}

impl Hidden {
    pub fn new(names: impl IntoIterator<Item = Vec<u8>>) -> Hidden {
        let mut hidden = Hidden::default();
        for mut name in names {
            name.make_ascii_lowercase();
            // Only words are looked up: of any other name, its longest part that is one.
            let Some(word) = words(&name).max_by_key(|word| word.len()) else {
                continue;
            };
            if let Some(lengths) = hidden.lengths.get_mut(letter(word)) {
                *lengths |= length_bit(word);
            }
            hidden.names.insert(word.into());
        }
        hidden
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether a text has one of the names in it.
    pub fn is_named_in(&self, text: &[u8]) -> bool {
        !self.is_empty() && words(text).any(|word| self.has(word))
    }

    fn has(&self, word: &[u8]) -> bool {
        let lengths = self.lengths.get(letter(word)).copied().unwrap_or_default();
        lengths & length_bit(word) != 0 && self.names.contains(&*word.to_ascii_lowercase())
    }
}

fn letter(word: &[u8]) -> usize {
    usize::from(word.first().copied().unwrap_or_default() & 31)
}

fn length_bit(word: &[u8]) -> u64 {
    1 << (word.len() & 63)
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    text.split(move |&byte| !is_word(byte))
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_words() {
        let hidden = Hidden::new(["set_tenant", "Odd name$x", "tête"].map(|name| name.into()));
        let found = |text: &str| hidden.is_named_in(text.as_bytes());
        assert!(found("SELECT set_tenant(1)"));
        assert!(found("select public.\"SET_TENANT\"(1)"));
        assert!(found("SELECT \"Odd name$x\"()"));
        assert!(found("SELECT tête()"));
        assert!(!found("SELECT set_tenants(1), reset_tenant FROM odd"));
        assert!(!Hidden::default().is_named_in(b"SELECT set_tenant(1)"));
    }
}
