//! Recognises statements that do nothing but undo what a session has done.
//!
//! Knows those that drivers' pools send between two users of a connection: asyncpg, npgsql, SQLAlchemy and
//! their like. A statement that says anything else is none of them.

use super::lexer::Token;

const FORMS: [&[&[u8]]; 15] = [
    &[b"discard", b"all"],
    &[b"discard", b"plans"],
    &[b"discard", b"sequences"],
    &[b"discard", b"temp"],
    &[b"discard", b"temporary"],
    &[b"reset", b"all"],
    &[b"reset", b"role"],
    &[b"reset", b"session", b"authorization"],
    &[b"set", b"session", b"authorization", b"default"],
    &[b"close", b"all"],
    &[b"unlisten", b"*"],
    &[b"deallocate", b"all"],
    &[b"deallocate", b"prepare", b"all"],
    &[b"select", b"pg_advisory_unlock_all", b"(", b")"],
    &[
        b"select",
        b"pg_catalog",
        b".",
        b"pg_advisory_unlock_all",
        b"(",
        b")",
    ],
];

/// How far one statement is one of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Undoing {
    /// The forms that it may still be, one bit each.
    forms: u16,
    seen: u8,
}

impl Undoing {
    /// A statement that begins with `word`.
    pub(super) fn begin(word: &[u8]) -> Undoing {
        let mut undoing = Undoing {
            forms: (1 << FORMS.len()) - 1,
            seen: 0,
        };
        undoing.piece(word);
        undoing
    }

    pub(super) fn is_possible(self) -> bool {
        self.forms != 0
    }

    pub(super) fn token(&mut self, token: Token<'_>) {
        match token {
            Token::Word(word) => self.piece(word),
            Token::Sign(sign) => self.piece(&[sign]),
            Token::Quoted(_) | Token::Literal(_) | Token::Unsure => self.forms = 0,
        }
    }

    /// Whether the statement, now that it has ended, was one.
    pub(super) fn is_complete(self) -> bool {
        self.is_possible()
            && self
                .remaining()
                .any(|(_, form)| form.len() == usize::from(self.seen))
    }

    fn piece(&mut self, piece: &[u8]) {
        let mut forms = 0;
        for (bit, form) in self.remaining() {
            if form.get(usize::from(self.seen)) == Some(&piece) {
                forms |= bit;
            }
        }
        self.forms = forms;
        self.seen = self.seen.saturating_add(1);
    }

    fn remaining(self) -> impl Iterator<Item = (u16, &'static [&'static [u8]])> {
        let bits = (0..).map(|place| 1 << place);
        bits.zip(FORMS)
            .filter(move |(bit, _)| self.forms & bit != 0)
    }
}
