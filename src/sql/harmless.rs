//! The fast way out: texts that are plainly harmless, told in a few instructions a byte.
//!
//! Knows single statements that read or write rows and name nothing that could change their session. Whatever
//! it does not recognise is left to the scanner; it says yes only where the scanner would find nothing.

/// Whether a text is one SELECT, INSERT, UPDATE, DELETE, WITH or VALUES, with no word in it that matters.
pub fn is_harmless(text: &[u8]) -> bool {
    let (lead, rest) = split_run(text.trim_ascii_start(), WORD);
    is_harmless_lead(lead) && rest.first() != Some(&b'$') && is_harmless_body(rest)
}

const BLANK: u8 = 1;
const WORD: u8 = 1 << 1;
const DIGIT: u8 = 1 << 2;
/// Operators, brackets and the like: bytes that begin nothing longer.
const SIGN: u8 = 1 << 3;

/// What each byte may be part of; 0: it takes the scanner to tell.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' => BLANK,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => WORD,
            b'0'..=b'9' => WORD | DIGIT,
            b'(' | b')' | b'*' | b',' | b'.' | b'=' | b'<' | b'>' | b'+' | b'%' | b'[' | b']'
            | b'!' | b'|' | b':' | b'?' | b'~' | b'@' | b'#' | b'^' => SIGN,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

#[inline(always)]
fn class(byte: u8) -> u8 {
    CLASSES.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Splits off the bytes of a class at the front.
#[inline(always)]
fn split_run(text: &[u8], wanted: u8) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&byte| class(byte) & wanted == 0);
    text.split_at_checked(end.unwrap_or(text.len()))
        .unwrap_or_default()
}

#[inline]
fn is_harmless_lead(word: &[u8]) -> bool {
    const LEADS: [&[u8]; 6] = [
        b"select", b"insert", b"update", b"delete", b"with", b"values",
    ];
    LEADS.iter().any(|lead| word.eq_ignore_ascii_case(lead))
}

fn is_harmless_body(mut rest: &[u8]) -> bool {
    while let Some((&byte, behind)) = rest.split_first() {
        let kind = class(byte);
        rest = if kind & (BLANK | SIGN) != 0 {
            behind
        } else if kind & DIGIT != 0 {
            // Letters may follow, as in 1e5: what they are is told as if they stood alone, to be safe.
            split_run(rest, DIGIT).1
        } else if kind & WORD != 0 {
            let (word, behind) = split_run(rest, WORD);
            // E'', U&'' and their like have rules of their own; a dollar sign goes on with the word.
            let goes_on = match behind.first() {
                Some(b'\'' | b'&') => word.len() == 1,
                next => next == Some(&b'$'),
            };
            if goes_on || matters(word) {
                return false;
            }
            behind
        } else {
            match behind_opening(byte, behind) {
                Some(behind) => behind,
                None => return false,
            }
        };
    }
    true
}

/// The text behind something longer that `byte` opens, or behind the byte alone; `None` where it takes the scanner to
/// tell.
#[inline(never)]
fn behind_opening(byte: u8, behind: &[u8]) -> Option<&[u8]> {
    let next = behind.first();
    match byte {
        b'\'' => behind_literal(behind),
        b'"' => behind_quoted(behind),
        b'$' if next.is_some_and(u8::is_ascii_digit) => Some(behind),
        b'-' if next != Some(&b'-') => Some(behind),
        b'/' if next != Some(&b'*') => Some(behind),
        b';' => behind.trim_ascii().is_empty().then_some(&[]),
        _ => None,
    }
}

/// What follows a string constant whose quote has been passed, if it ends and holds no backslash.
fn behind_literal(text: &[u8]) -> Option<&[u8]> {
    let end = text
        .iter()
        .position(|&byte| byte == b'\'' || byte == b'\\')?;
    let (end, behind) = text.get(end..)?.split_first()?;
    (*end == b'\'').then_some(behind)
}

/// What follows a quoted name, if it is plain and doesn't matter.
fn behind_quoted(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|&byte| byte == b'"')?;
    let name = text.get(..end)?;
    let behind = text.get(end + 1..)?;
    let plain = behind.first() != Some(&b'"') && !matters(name);
    plain.then_some(behind)
}

/// Words that matter wherever they stand, in lower case.
const WHOLE: [&[u8]; 11] = [
    b"temp",
    b"temporary",
    b"set_config",
    b"set_limit",
    b"currval",
    b"lastval",
    b"nextval",
    b"setval",
    b"setseed",
    b"connectby",
    b"xpath_table",
];

/// Beginnings of such words.
const STARTS: [&[u8]; 10] = [
    b"pg_",
    b"dblink",
    b"query_to_xml",
    b"cursor_to_xml",
    b"table_to_xml",
    b"schema_to_xml",
    b"database_to_xml",
    b"ts_stat",
    b"ts_rewrite",
    b"crosstab",
];

/// By a letter, those that follow it in words that matter, a bit each: behind the first one, and behind the second.
static SECOND_LETTERS: [u32; 32] = followers(0);
static THIRD_LETTERS: [u32; 32] = followers(1);

const fn followers(at: usize) -> [u32; 32] {
    let mut letters = [0; 32];
    let mut place = 0;
    while place < WHOLE.len() {
        letters[(WHOLE[place][at] & 31) as usize] |= 1 << (WHOLE[place][at + 1] & 31);
        place += 1;
    }
    place = 0;
    while place < STARTS.len() {
        letters[(STARTS[place][at] & 31) as usize] |= 1 << (STARTS[place][at + 1] & 31);
        place += 1;
    }
    letters
}

/// Whether a word is one of those; three letters tell that most are not.
#[inline(always)]
fn matters(word: &[u8]) -> bool {
    let [first, second, third, ..] = word else {
        return false;
    };
    follows(&SECOND_LETTERS, *first, *second)
        && follows(&THIRD_LETTERS, *second, *third)
        && is_listed(word)
}

#[inline(always)]
fn follows(letters: &[u32; 32], one: u8, next: u8) -> bool {
    let followers = letters.get(usize::from(one & 31));
    followers.is_some_and(|followers| followers >> (next & 31) & 1 != 0)
}

fn is_listed(word: &[u8]) -> bool {
    let first = word.first().map(|letter| letter & 31);
    let alike = |known: &&&[u8]| known.first().map(|letter| letter & 31) == first;
    let starts = |start: &&[u8]| {
        let beginning = word.get(..start.len());
        beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(start))
    };
    let whole = |whole: &&[u8]| word.eq_ignore_ascii_case(whole);
    WHOLE.iter().filter(alike).any(whole) || STARTS.iter().filter(alike).any(starts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Report, scanner::scanned};
    use proptest::prelude::*;

    #[test]
    fn plain_statements_are_harmless() {
        let texts = [
            "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
            " select 1",
            "INSERT INTO \"Orders\" (\"id\", name) VALUES ($1, 'it''s') RETURNING id",
            "UPDATE t SET a = a + 1 WHERE b IN (1, 2e5) AND c <> '' ; ",
            "WITH x AS (SELECT template, seconds FROM t) SELECT count(*) FROM x",
            "VALUES (1), (-2), (3 / 4)",
            "SELECT 'SET x' || 'LISTEN y'",
        ];
        for text in texts {
            assert!(is_harmless(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn whatever_may_matter_is_left_to_the_scanner() {
        let texts = [
            "",
            "SET x = 1",
            "SELECT 1; SET x = 1",
            "SELECT set_config('a', 'b', false)",
            "SELECT \"Set_Config\"('a', 'b', false)",
            "SELECT 1 INTO TEMP t",
            "SELECT E'\\''",
            "SELECT 1E'\\''",
            "SELECT U&\"x\"",
            "SELECT $a$ $a$",
            "SELECT 1 -- x",
            "SELECT /* x */ 1",
            "SELECT 'a\\'",
            "SELECT 'open",
            "SELECT \"open",
            "UPDATE pg_settings SET setting = 1",
            "SELECT * FROM crosstabn('x')",
            "SELECT$1xE'E'",
            "SELECT a$1xE'E'",
        ];
        for text in texts {
            assert!(!is_harmless(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_where_the_scanner_finds_something(pieces in prop::collection::vec(prop::sample::select(vec![
            "SELECT", "insert", "WITH", "SET", "set_config", "pg_temp", "temp", "'", "''", "\"", "E'", "1e'", "\\", "$", "$a$",
            "--", "/*", "*/", "\n", " ", ";", "(", "x", "é", "1", "u&", "U&'", "LISTEN", "currval", "lastval", "update", "set_limit", "nextval", "EXECUTE", "dblink", "set_limit", "nextval", "EXECUTE", "dblink",
        ]), 0..12)) {
            let text = pieces.concat();
            let spaced = pieces.join(" ");
            for text in [text, spaced] {
                if is_harmless(text.as_bytes()) {
                    prop_assert_eq!(scanned(text.as_bytes()), Report::default(), "{}", text);
                }
            }
        }
    }
}
