//! Whether a text may end the transaction that it is executed in.
//!
//! Errs on the side of a commit: then a client whose server is lost is told that it may have come about.

/// What a text may do to its transaction; the worse, the larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ends {
    #[default]
    No,
    Rollback,
    Commit,
}

/// Words that any text which commits has somewhere.
const COMMITTING: [&[u8]; 3] = [b"commit", b"end", b"prepare"];

/// What the text may do. Of a text of several statements, or with a comment in front, more is feared than is there.
#[inline]
pub fn ends(text: &[u8]) -> Ends {
    let text = text.trim_ascii();
    let text = text.strip_suffix(b";").unwrap_or(text);
    let first = text.first().map_or(0, u8::to_ascii_lowercase);
    if matches!(first, b'-' | b'/' | b';') || text.contains(&b';') {
        return feared(text);
    }
    if !matches!(first, b'c' | b'e' | b'p' | b'r' | b'a') {
        return Ends::No;
    }
    let end = text.iter().position(|letter| !letter.is_ascii_alphabetic());
    let word = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
    let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
    if is("commit") || is("end") || (is("prepare") && has_word(text, b"transaction")) {
        Ends::Commit
    } else if (is("rollback") || is("abort")) && !has_word(text, b"to") {
        Ends::Rollback
    } else {
        Ends::No
    }
}

fn feared(text: &[u8]) -> Ends {
    if COMMITTING.iter().any(|word| has_word(text, word)) {
        Ends::Commit
    } else if has_word(text, b"rollback") || has_word(text, b"abort") {
        Ends::Rollback
    } else {
        Ends::No
    }
}

fn has_word(text: &[u8], word: &[u8]) -> bool {
    text.split(|letter| !letter.is_ascii_alphanumeric() && *letter != b'_')
        .any(|found| found.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_transaction() {
        let cases = [
            (Ends::Commit, "COMMIT"),
            (Ends::Commit, " commit work;"),
            (Ends::Commit, "END"),
            (Ends::Commit, "COMMIT AND CHAIN"),
            (Ends::Commit, "PREPARE TRANSACTION 'x'"),
            (Ends::Commit, "INSERT INTO t VALUES (1); COMMIT"),
            (Ends::Commit, "/* done */ COMMIT"),
            (Ends::Commit, "-- done\nend"),
            (Ends::Commit, ";commit"),
            (Ends::Rollback, "ROLLBACK"),
            (Ends::Rollback, "abort;"),
            (Ends::Rollback, "SELECT 1; ROLLBACK"),
            (Ends::No, "ROLLBACK TO SAVEPOINT a"),
            (Ends::No, "PREPARE a AS SELECT 1"),
            (Ends::No, "SELECT 1; SELECT 2"),
            (Ends::No, "INSERT INTO t VALUES ('commit')"),
            (Ends::No, "EXECUTE a"),
            (Ends::No, "committed"),
            (Ends::No, ""),
        ];
        for (expected, text) in cases {
            assert_eq!(ends(text.as_bytes()), expected, "{text}");
        }
    }
}
