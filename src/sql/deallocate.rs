//! A text that is one DEALLOCATE and nothing else.
//!
//! Knows its grammar; not which names are given to statements, nor that reserved words can't be.

use super::lexer::{Lexer, Token};
use super::name::IDENTIFIER_BYTES;

/// What a DEALLOCATE gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deallocate {
    All,
    /// As PostgreSQL looks it up: in lower case unless it was quoted.
    Name(Vec<u8>),
}

/// Longer texts are not looked at: two words, and a name of at most 63 characters.
const LONGEST_BYTES: usize = 192;
const WORD: &[u8] = b"deallocate";

/// Recognises `DEALLOCATE [PREPARE] { name | ALL } [;]`.
///
/// Not recognised: names that PostgreSQL cuts, and unquoted ones whose lower case depends on the encoding.
pub fn deallocate(text: &[u8]) -> Option<Deallocate> {
    let start = text.trim_ascii_start().get(..WORD.len());
    if text.len() > LONGEST_BYTES || !start.is_some_and(|start| start.eq_ignore_ascii_case(WORD)) {
        return None;
    }
    let mut step = Step::Start;
    let mut lexer = Lexer::default();
    let mut sink = |token: Token<'_>| step.token(token);
    lexer.feed(text, &mut sink);
    lexer.finish(&mut sink);
    match step {
        Step::Prepare => Some(Deallocate::Name(b"prepare".to_vec())),
        Step::Named(what) | Step::Ended(what) => Some(what),
        Step::Start | Step::First | Step::Other => None,
    }
}

enum Step {
    Start,
    /// Behind DEALLOCATE.
    First,
    /// Behind PREPARE, which may also be the name.
    Prepare,
    Named(Deallocate),
    /// Behind the semicolon.
    Ended(Deallocate),
    Other,
}

impl Step {
    fn token(&mut self, token: Token<'_>) {
        *self = match (std::mem::replace(self, Step::Other), token) {
            (Step::Start, Token::Word(WORD)) => Step::First,
            (Step::First, Token::Word(b"prepare")) => Step::Prepare,
            (Step::First | Step::Prepare, Token::Word(b"all")) => Step::Named(Deallocate::All),
            (Step::First | Step::Prepare, Token::Word(name)) if name.is_ascii() => named(name),
            (Step::First | Step::Prepare, Token::Quoted(name)) => named(name),
            (Step::Prepare, Token::Sign(b';')) => {
                Step::Ended(Deallocate::Name(b"prepare".to_vec()))
            }
            (Step::Named(what), Token::Sign(b';')) => Step::Ended(what),
            _ => Step::Other,
        };
    }
}

fn named(name: &[u8]) -> Step {
    if name.len() > IDENTIFIER_BYTES || name.is_empty() {
        return Step::Other;
    }
    Step::Named(Deallocate::Name(name.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_deallocate_and_nothing_else() {
        let name = |name: &str| Some(Deallocate::Name(name.into()));
        let long = format!("DEALLOCATE {}", "x".repeat(64));
        let cases = [
            ("DEALLOCATE a", name("a")),
            (" deallocate  Prepare\n S_1 ; ", name("s_1")),
            ("DEALLOCATE \"S 1\"\"\"", name("S 1\"")),
            ("DEALLOCATE \"all\"", name("all")),
            ("DEALLOCATE prepare", name("prepare")),
            ("DEALLOCATE prepare;", name("prepare")),
            ("DEALLOCATE PREPARE prepare", name("prepare")),
            ("DEALLOCATE ALL", Some(Deallocate::All)),
            ("deallocate prepare all;", Some(Deallocate::All)),
            ("DEALLOCATE/**/a -- c", name("a")),
            ("DEALLOCATE", None),
            ("DEALLOCATE a b", None),
            ("DEALLOCATE a; SELECT 1", None),
            ("DEALLOCATE a;;", None),
            ("DEALLOCATE 'a'", None),
            ("DEALLOCATE a.b", None),
            ("DEALLOCATE É", None),
            ("DEALLOCATE U&\"a\"", None),
            ("DEALLOCATE \"a", None),
            ("DEALLOCATES a", None),
            ("SELECT 1", None),
            (&long, None),
        ];
        for (text, expected) in cases {
            assert_eq!(deallocate(text.as_bytes()), expected, "{text}");
        }
    }
}
