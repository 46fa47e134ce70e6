//! A statement as it may be shown to anybody: what it does, without the values that it does it with.
//!
//! Knows what of a text is a value: constants of all kinds, and what settings are set to. Where it can't be told what is
//! one, the digest ends. Does not know whether two digests mean the same statement.

use super::lexer::{Lexer, Sink, Token};

/// A digest's length at most.
pub const DIGEST_BYTES: usize = 200;
/// So much of a text is looked at: what a statement is, it says at its beginning.
const TEXT_BYTES: usize = 4096;

const CUT: &str = "…";
const VALUE: &str = "?";

/// The digest of a text of statements, which may have been cut anywhere.
pub fn digest(text: &[u8]) -> String {
    let mut writer = Writer::new(text);
    let mut lexer = Lexer::default();
    // A byte at a time, so that a token's end is known when it comes.
    for (at, byte) in text.iter().take(TEXT_BYTES).enumerate() {
        writer.at = at;
        lexer.feed(std::slice::from_ref(byte), &mut writer);
        if writer.over {
            return writer.out;
        }
    }
    if text.len() > TEXT_BYTES {
        writer.cut();
    } else {
        writer.at = text.len();
        lexer.finish(&mut writer);
    }
    writer.out
}

struct Writer<'a> {
    text: &'a [u8],
    /// Where the lexer is: the byte that completed the token.
    at: usize,
    /// Behind the last token.
    behind: usize,
    out: String,
    /// The last token was a number: what touches it belongs to it.
    number: bool,
    clause: Clause,
    over: bool,
}

/// How far it is to a setting's value, which may be a bare word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clause {
    /// A statement begins.
    First,
    /// One that may have a SET clause for settings.
    MayCome,
    /// Behind SET: the value comes after = or TO.
    Name,
    /// Nothing up to the statement's end is shown.
    Value,
    Other,
}

impl Sink for Writer<'_> {
    fn token(&mut self, token: Token<'_>) {
        if self.over {
            return;
        }
        match token {
            Token::Word(_) => self.word(),
            Token::Quoted(name) => {
                let name = String::from_utf8_lossy(name).replace('"', "\"\"");
                self.put(&format!("\"{name}\""), self.at);
            }
            Token::Literal(_) => {
                // A plain one is complete when the byte behind it is not a second quote.
                let touched = self.at.checked_sub(1).and_then(|at| self.text.get(at));
                let behind = self.at + usize::from(touched != Some(&b'\''));
                self.put(VALUE, behind);
            }
            Token::Sign(sign) => self.sign(sign),
            Token::Unsure => self.cut(),
        }
    }

    fn wants_text(&self) -> bool {
        false
    }
}

impl<'a> Writer<'a> {
    fn new(text: &'a [u8]) -> Writer<'a> {
        Writer {
            text,
            at: 0,
            behind: 0,
            out: String::new(),
            number: false,
            clause: Clause::First,
            over: false,
        }
    }

    fn word(&mut self) {
        let before = self.text.get(..self.at).unwrap_or_default();
        let bytes = before.iter().rev().take_while(|&&byte| is_word(byte));
        let start = self.at - bytes.count();
        let word = before.get(start..).unwrap_or_default();
        if self.number && start <= self.behind {
            // The exponent of a number, its digits in another base, or what else stands at it.
            self.behind = self.at;
            return;
        }
        self.put(&String::from_utf8_lossy(word), self.at);
        let is = |other: &str| word.eq_ignore_ascii_case(other.as_bytes());
        match self.clause {
            Clause::First | Clause::MayCome if is("set") => self.clause = Clause::Name,
            Clause::First if is("alter") || is("create") => self.clause = Clause::MayCome,
            Clause::First => self.clause = Clause::Other,
            Clause::Name if is("to") => self.hide_value(),
            Clause::Name | Clause::MayCome | Clause::Value | Clause::Other => {}
        }
    }

    fn sign(&mut self, sign: u8) {
        // These are known for signs when the next byte has come.
        let late = matches!(sign, b'-' | b'/' | b'$');
        let behind = self.at + usize::from(!late);
        if sign.is_ascii_digit() {
            if self.number && self.at <= self.behind {
                self.behind = behind;
                return;
            }
            if self.out.ends_with('$') {
                // A parameter's number.
                self.out.pop();
            }
            self.put(VALUE, behind);
            self.number = true;
            return;
        }
        if sign == b'.' && self.number && self.at <= self.behind {
            self.behind = behind;
            return;
        }
        if sign == b';' {
            self.clause = Clause::First;
        }
        self.put(char::from(sign).encode_utf8(&mut [0; 4]), behind);
        if sign == b'=' && self.clause == Clause::Name {
            self.hide_value();
        }
    }

    fn hide_value(&mut self) {
        self.put(" ?", self.behind);
        self.clause = Clause::Value;
    }

    /// Adds a piece that ends before `behind`, with a blank before it if there were any, or comments.
    fn put(&mut self, piece: &str, behind: usize) {
        let gap = self.text.get(self.behind..).unwrap_or_default();
        self.number = false;
        self.behind = behind;
        if self.clause == Clause::Value {
            return;
        }
        let blank = gap.first().is_some_and(|&byte| is_blank(byte))
            || gap.starts_with(b"--")
            || gap.starts_with(b"/*");
        if blank && !self.out.is_empty() && !piece.starts_with(' ') {
            self.out.push(' ');
        }
        if self.out.len() + piece.len() + CUT.len() > DIGEST_BYTES {
            return self.cut();
        }
        self.out.push_str(piece);
    }

    fn cut(&mut self) {
        self.over = true;
        let mut end = DIGEST_BYTES - CUT.len();
        while !self.out.is_char_boundary(end.min(self.out.len())) {
            end -= 1;
        }
        self.out.truncate(end);
        self.out.push_str(CUT);
    }
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

const fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_left_out() {
        for (text, expected) in [
            ("SELECT 1", "SELECT ?"),
            (
                "select a, b from t where c='x' and d = 'it''s'",
                "select a, b from t where c=? and d = ?",
            ),
            (
                "SELECT 1.5e10, .5, 0xDEADBEEF, 1_000, 1e-5, 12abc",
                "SELECT ?, .?, ?, ?, ?-?, ?",
            ),
            (
                "SELECT 1 FROM t2 WHERE a > -3.",
                "SELECT ? FROM t2 WHERE a > -?",
            ),
            ("SELECT $1, $23::int", "SELECT ?, ?::int"),
            (r"SELECT E'a\'b' , x", "SELECT ? , x"),
            (
                "SELECT U&'d\\0061t' , B'101', X'1F', N'x'",
                "SELECT ? , B?, X?, N?",
            ),
            (
                "DO $$BEGIN PERFORM 'secret'; END$$ LANGUAGE plpgsql",
                "DO ? LANGUAGE plpgsql",
            ),
            ("DO $a$ $$x$$ $b$ $a$;", "DO ?;"),
            ("SELECT 'a'\n'b', 2", "SELECT ? ?, ?"),
            ("SELECT $a", "SELECT $"),
        ] {
            assert_eq!(digest(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_settings_are_set_to_is_left_out() {
        for (text, expected) in [
            ("SET app.token TO hunter2", "SET app.token TO ?"),
            (
                "set app.token=hunter2, b; select c",
                "set app.token= ?; select c",
            ),
            ("SET LOCAL a = \"hunter2\"", "SET LOCAL a = ?"),
            (
                "ALTER ROLE x SET app.token = hunter2",
                "ALTER ROLE x SET app.token = ?",
            ),
            ("ALTER TABLE a RENAME TO b", "ALTER TABLE a RENAME TO b"),
            ("ALTER ROLE x PASSWORD 'hunter2'", "ALTER ROLE x PASSWORD ?"),
            ("SET ROLE x", "SET ROLE x"),
            (
                "UPDATE t SET a = b WHERE c = 1",
                "UPDATE t SET a = b WHERE c = ?",
            ),
        ] {
            assert_eq!(digest(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn comments_go_and_blanks_are_folded() {
        for (text, expected) in [
            (
                "  CREATE\n\t TEMP  TABLE \"My \"\"t\"\"\" (a int)",
                "CREATE TEMP TABLE \"My \"\"t\"\"\" (a int)",
            ),
            ("/* a 'secret' /* nested */ */ LISTEN a -- b\n", "LISTEN a"),
            ("SELECT/**/a--x\n,b", "SELECT a ,b"),
            ("", ""),
            ("-- nothing", ""),
        ] {
            assert_eq!(digest(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn where_it_is_not_sure_it_ends() {
        for (text, expected) in [
            ("SELECT a, 'unclosed secret", "SELECT a,…"),
            ("SELECT \"unclosed", "SELECT…"),
            ("SELECT $$unclosed", "SELECT…"),
            ("SELECT E'unclosed\\'", "SELECT…"),
            (r"SELECT 'a\' secret '", "SELECT…"),
            ("SELECT a /* unclosed", "SELECT a…"),
            ("SELECT 1, U&\"\\0061\" FROM t", "SELECT ?,…"),
        ] {
            assert_eq!(digest(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let long = format!("SELECT {}", "abcdefgh, ".repeat(1000));
        let told = digest(long.as_bytes());
        assert!(
            told.len() <= DIGEST_BYTES && told.len() > DIGEST_BYTES - 20,
            "{told}"
        );
        assert!(told.ends_with('…'));
        let far = format!("{}SELECT 1", " ".repeat(2 * TEXT_BYTES));
        assert_eq!(digest(far.as_bytes()), "…");
        let wide = format!("SELECT \"{}\"", "ä".repeat(300));
        assert!(digest(wide.as_bytes()).len() <= DIGEST_BYTES);
    }

    proptest! {
        /// Whatever stands around it, and wherever the text ends, a constant is never told.
        #[test]
        fn no_value_is_ever_told(
            parts in prop::collection::vec(
                prop_oneof![
                    Just("'hunter2'"), Just("E'a\\'hunter2'"), Just("$$hunter2$$"), Just("$x$hunter2$x$"),
                    Just("'it''s hunter2'"), Just("/* hunter2 */"), Just("-- hunter2\n"), Just("U&'hunter2'"),
                    Just("0xhunter2"), Just("12.5hunter2"), Just("; SET a = hunter2;"), Just(";SET a.b TO hunter2 ;"),
                    Just("SELECT"), Just(" x "), Just(","), Just("("), Just("-"), Just("/"), Just("*"), Just(";"),
                    Just("\n"), Just("\"q\""), Just("=="), Just("$1"),
                ],
                0..12,
            ),
            cut in any::<prop::sample::Index>(),
        ) {
            let text: String = parts.iter().map(|part| format!(" {part} ")).collect();
            let told = digest(text.as_bytes());
            prop_assert!(!told.contains("hunter"), "{text}: {told}");
            prop_assert!(told.len() <= DIGEST_BYTES);
            let part = &text.as_bytes()[..cut.index(text.len() + 1)];
            let told = digest(part);
            prop_assert!(!told.contains("hunter"), "{text}: {told}");
        }

        #[test]
        fn any_bytes_do(text in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(digest(&text).len() <= DIGEST_BYTES);
        }
    }
}
