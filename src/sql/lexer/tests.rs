//! PostgreSQL's lexical rules over a table of texts, whole and in pieces.

use super::*;

fn tokens(text: &str) -> String {
    let mut shown = Vec::new();
    let mut lexer = Lexer::default();
    let mut sink = |token: Token<'_>| {
        shown.push(match token {
            Token::Word(word) => String::from_utf8_lossy(word).into_owned(),
            Token::Quoted(name) => format!("<{}>", String::from_utf8_lossy(name)),
            Token::Literal(_) => "L".into(),
            Token::Sign(sign) => (sign as char).into(),
            Token::Unsure => "?".into(),
        });
    };
    lexer.feed(text.as_bytes(), &mut sink);
    lexer.finish(&mut sink);
    shown.join(" ")
}

#[test]
fn the_rules_of_scan_l() {
    let cases = [
        ("SELECT 1", "select 1"),
        ("a--b\nc", "a c"),
        ("a-b", "a - b"),
        ("1/2", "1 / 2"),
        ("a/* x /* y */ z */b", "a b"),
        ("a/*/b*/c", "a c"),
        ("a/***/c", "a c"),
        ("'it''s' x", "L x"),
        ("'a\\\\' x", "L x"),
        ("'a\\' x", "?"),
        ("E'a\\' x' y", "L y"),
        ("e'a'\n'b\\' x' y", "L L y"),
        ("e'a' 'b' y", "L L y"),
        ("e'a' --c\n'b' y", "L ?"),
        ("\"a\"\"b\" x", "<a\"b> x"),
        ("U&\"\\0041\"", "? <\\0041>"),
        ("u&'x' y", "L y"),
        ("u & x", "u & x"),
        ("$$ ; ' $$ x", "L x"),
        ("$a$ $b$ $a$ x", "L x"),
        ("$a$ $a $a$ x", "L x"),
        ("$a$ $$a$ x", "L x"),
        ("$1 x", "$ 1 x"),
        ("a$b$c x", "a$b$c x"),
        ("SET x; y", "set x ; y"),
        ("1e'a\\'b' x", "1 L x"),
        ("'é\\n' x", "?"),
        ("e'é\\' x", "?"),
        ("'aé' x", "L x"),
        ("$é\\$ x", "?"),
        ("'open", "?"),
        ("$a$ open", "?"),
        ("/* open", "?"),
        ("é x", "é x"),
    ];
    for (text, expected) in cases {
        assert_eq!(tokens(text), expected, "{text}");
    }
}

#[test]
fn a_text_may_come_in_pieces() {
    let text = b"SELECT e'a\\'b' /* c */ $x$ d $x$ \"F\" g";
    let whole = {
        let mut seen = Vec::new();
        let mut lexer = Lexer::default();
        lexer.feed(text, &mut |token: Token<'_>| {
            seen.push(format!("{token:?}"))
        });
        seen
    };
    for cut in 0..text.len() {
        let mut seen = Vec::new();
        let mut lexer = Lexer::default();
        let mut sink = |token: Token<'_>| seen.push(format!("{token:?}"));
        lexer.feed(&text[..cut], &mut sink);
        lexer.feed(&text[cut..], &mut sink);
        assert_eq!(seen, whole, "cut at {cut}");
    }
}

#[test]
fn strings_say_what_they_say_or_nothing() {
    let long = format!("'{}'", "x".repeat(65));
    let cases = [
        ("'a''b' ", Some("a'b")),
        ("'' ", Some("")),
        ("'a'", Some("a")),
        ("'a' x", Some("a")),
        ("e'a' x", Some("a")),
        ("e'a\\\\' x", None),
        ("'a\\\\' x", None),
        ("U&'a' x", None),
        ("$$a$$ x", None),
        (&long, None),
    ];
    for (text, expected) in cases {
        let mut said = Vec::new();
        let mut lexer = Lexer::default();
        let mut sink = |token: Token<'_>| {
            if let Token::Literal(content) = token {
                said.push(content.map(|content| String::from_utf8_lossy(content).into_owned()));
            }
        };
        lexer.feed(text.as_bytes(), &mut sink);
        lexer.finish(&mut sink);
        assert_eq!(said, [expected.map(str::to_owned)], "{text}");
    }
}
