//! The statements that begin or end a transaction and do nothing else.
//!
//! Knows their plainest forms only; any other form is left to PostgreSQL.

/// A text that is one plain transaction statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// A BEGIN that can't fail, whatever server it is sent to; and the command tag it is answered with.
    Begin(&'static str),
    Commit,
    Rollback,
}

/// Longer texts are not looked at: these statements are short.
const LONGEST_BYTES: usize = 96;

/// Recognises a text that consists of one of them, in words, blanks and commas, a semicolon at its end.
///
/// Not recognised: READ WRITE and SERIALIZABLE, which a standby refuses; DEFERRABLE; AND CHAIN; comments.
pub fn boundary(text: &[u8]) -> Option<Boundary> {
    if text.len() > LONGEST_BYTES || !may_be_boundary(text) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    let text = text.strip_suffix(';').unwrap_or(text);
    let mut words = text
        .split(|letter: char| letter.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    let first = words.next()?;
    let is = |word: &str| first.eq_ignore_ascii_case(word);
    if is("begin") {
        skip_noise(&mut words.clone(), words).and_then(begin("BEGIN"))
    } else if is("start") {
        let transaction = words.next()?.eq_ignore_ascii_case("transaction");
        transaction
            .then_some(words)
            .and_then(begin("START TRANSACTION"))
    } else if is("commit") || is("end") {
        nothing_more(words).then_some(Boundary::Commit)
    } else if is("rollback") || is("abort") {
        nothing_more(words).then_some(Boundary::Rollback)
    } else {
        None
    }
}

/// How a transaction is begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    pub read_only: bool,
    /// The text says how the transaction is isolated; it is never serializable.
    pub isolated: bool,
}

/// What a plain BEGIN says of its transaction.
pub fn opened(text: &[u8]) -> Option<Opened> {
    let Some(Boundary::Begin(_)) = boundary(text) else {
        return None;
    };
    let has = |wanted: &str| {
        let words = text.split(|letter| !letter.is_ascii_alphabetic());
        words
            .into_iter()
            .any(|word| word.eq_ignore_ascii_case(wanted.as_bytes()))
    };
    Some(Opened {
        read_only: has("only"),
        isolated: has("isolation"),
    })
}

/// A quick look at the first word: nearly every statement is told by it to be none of these.
#[inline]
pub fn may_be_boundary(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    let starts = |word: &[u8]| {
        let start = text.get(..word.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    match text.first().map(u8::to_ascii_lowercase) {
        Some(b'b') => starts(b"begin"),
        Some(b's') => starts(b"start"),
        Some(b'c') => starts(b"commit"),
        Some(b'e') => starts(b"end"),
        Some(b'r') => starts(b"rollback"),
        Some(b'a') => starts(b"abort"),
        _ => false,
    }
}

/// Skips WORK or TRANSACTION.
fn skip_noise<'a, I: Iterator<Item = &'a str>>(ahead: &mut I, mut words: I) -> Option<I> {
    let noise = |word: &str| {
        ["work", "transaction"]
            .iter()
            .any(|noise| word.eq_ignore_ascii_case(noise))
    };
    if ahead.next().is_some_and(noise) {
        words.next();
    }
    Some(words)
}

fn nothing_more<'a>(words: impl Iterator<Item = &'a str> + Clone) -> bool {
    skip_noise(&mut words.clone(), words).is_some_and(|mut rest| rest.next().is_none())
}

fn begin<'a, I: Iterator<Item = &'a str>>(tag: &'static str) -> impl FnOnce(I) -> Option<Boundary> {
    move |words| modes_cannot_fail(words).then_some(Boundary::Begin(tag))
}

/// Whether the transaction modes are ones that every server accepts, in PostgreSQL's grammar.
fn modes_cannot_fail<'a>(words: impl Iterator<Item = &'a str>) -> bool {
    const MODES: [&[&str]; 4] = [
        &["read", "only"],
        &["isolation", "level", "read", "committed"],
        &["isolation", "level", "read", "uncommitted"],
        &["isolation", "level", "repeatable", "read"],
    ];
    let mut rest: Vec<String> = Vec::new();
    for word in words {
        // A comma stands between two modes; here it may cling to a word, but not lead or end.
        let (word, comma) = match word.strip_suffix(',') {
            Some(word) => (word, true),
            None => (word, false),
        };
        if word.is_empty() || word.contains(',') || (comma && rest.len() < 2) {
            return false;
        }
        rest.push(word.to_ascii_lowercase());
        if comma {
            rest.push(",".into());
        }
    }
    let mut rest = rest.as_slice();
    while !rest.is_empty() {
        let Some(mode) = MODES
            .iter()
            .find(|mode| rest.len() >= mode.len() && rest.iter().zip(**mode).all(|(a, b)| a == b))
        else {
            return false;
        };
        rest = rest.get(mode.len()..).unwrap_or_default();
        match rest.split_first() {
            Some((comma, [])) if comma == "," => return false,
            Some((comma, behind)) if comma == "," => rest = behind,
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_forms_only() {
        const BEGIN: Option<Boundary> = Some(Boundary::Begin("BEGIN"));
        const START: Option<Boundary> = Some(Boundary::Begin("START TRANSACTION"));
        let cases = [
            ("BEGIN", BEGIN),
            (" begin ; ", BEGIN),
            ("Begin Work", BEGIN),
            ("BEGIN TRANSACTION READ ONLY", BEGIN),
            ("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;", BEGIN),
            ("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY", BEGIN),
            ("START TRANSACTION", START),
            ("start transaction isolation level read uncommitted", START),
            ("COMMIT", Some(Boundary::Commit)),
            ("END WORK;", Some(Boundary::Commit)),
            ("ROLLBACK TRANSACTION", Some(Boundary::Rollback)),
            ("abort", Some(Boundary::Rollback)),
            ("START", None),
            ("BEGIN READ WRITE", None),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE", None),
            ("BEGIN READ ONLY,", None),
            ("BEGIN , READ ONLY", None),
            ("BEGIN READ, ONLY", None),
            ("BEGIN READ ONLY,,READ ONLY", None),
            ("BEGIN; SELECT 1", None),
            ("BEGIN;;", None),
            ("BEGIN -- x", None),
            ("COMMIT AND CHAIN", None),
            ("ROLLBACK TO a", None),
            ("COMMIT PREPARED 'a'", None),
            ("BEGIN WORK TRANSACTION", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(boundary(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_it_says_of_its_transaction() {
        let of = |text: &str| opened(text.as_bytes()).map(|o| (o.read_only, o.isolated));
        assert_eq!(of("begin"), Some((false, false)));
        assert_eq!(of("START TRANSACTION READ ONLY;"), Some((true, false)));
        let both = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
        assert_eq!(of(both), Some((true, true)));
        assert_eq!(of("BEGIN READ WRITE"), None);
        assert_eq!(of("COMMIT"), None);
    }
}
