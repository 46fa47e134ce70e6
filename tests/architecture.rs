//! The house's floors, held: a module names only modules of lower floors, and some words stay where they belong.
//!
//! Reads the sources as tokens (comments and strings left out); knows no types and expands no macros.

use std::fmt;
use std::path::{Path, PathBuf};

/// Lowest first. A module names only modules of the floors before its own; neighbours don't know each other.
const FLOORS: &[&[&str]] = &[
    &["protocol", "sql"],
    &["config", "error", "metrics", "random"],
    &["net", "pool", "secrets"],
    &["client", "server", "topology"],
    &["session"],
    &["admin", "app"],
];

/// Neighbours that may know each other after all, with the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("app", "admin", "app is the composition root"),
    (
        "metrics",
        "error",
        "an error is counted by whose fault it is",
    ),
];

/// Words that may stand only in some modules: (token or path, who may, why not elsewhere).
struct Ban {
    words: &'static [&'static str],
    /// Also words that merely begin so.
    prefix: bool,
    banned: fn(module: &str) -> bool,
    why: &'static str,
}

fn is_facts(module: &str) -> bool {
    FLOORS[0].contains(&module)
}

const BANS: &[Ban] = &[
    Ban {
        words: &[
            "tokio",
            "tracing",
            "metrics",
            "async",
            "await",
            "Instant::now",
            "SystemTime::now",
        ],
        prefix: false,
        banned: is_facts,
        why: "facts are pure: no runtime, clock, log or metric",
    },
    Ban {
        words: &[
            "std::fs",
            "std::net",
            "std::env",
            "std::thread",
            "std::process",
        ],
        prefix: false,
        banned: is_facts,
        why: "facts are pure: no IO",
    },
    Ban {
        words: &["aws_"],
        prefix: true,
        banned: |module| module != "secrets",
        why: "only secrets names AWS",
    },
    Ban {
        words: &["hickory_"],
        prefix: true,
        banned: |module| module != "net",
        why: "only net names DNS",
    },
    Ban {
        words: &["static mut"],
        prefix: false,
        banned: |_| true,
        why: "no mutable statics",
    },
];

#[derive(Debug, PartialEq, Eq)]
struct Finding {
    file: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

#[test]
fn the_floors_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files).unwrap();
    assert!(files.len() > 3, "no sources found under {}", root.display());
    files.sort();
    let mut findings = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        findings.extend(check(path.strip_prefix(root).unwrap(), &text));
    }
    let told: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(told.is_empty(), "\n{}\n", told.join("\n"));
}

#[test]
fn the_compiler_of_the_image_has_a_profile() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("Dockerfile")).unwrap();
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("FROM rust:")?.split_once("-slim"))
        .map(|(version, _)| version)
        .unwrap();
    let profile = root.join(format!("benches/profiles/{version}.profdata"));
    assert!(
        profile.is_file(),
        "{} is missing: `make profile`, with rustc {version}, takes it",
        profile.display()
    );
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// `file` is relative to the crate: src/pool/lease.rs.
fn check(file: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line, what: String| {
        findings.push(Finding {
            file: file.to_owned(),
            line,
            what,
        });
    };
    if !text.starts_with("//!") {
        find(
            1,
            "the file doesn't open with //!: what it knows and what it doesn't".into(),
        );
    }
    let place = Module::of(file);
    let tokens = tokens(text);
    for ban in BANS.iter().filter(|ban| (ban.banned)(&place.top)) {
        for (line, word) in banned_words(&tokens, ban) {
            find(line, format!("{} says {word}: {}", place.top, ban.why));
        }
    }
    // The map and the command line may name anything.
    if matches!(place.top.as_str(), "main" | "lib") {
        return findings;
    }
    let Some(own) = floor(&place.top) else {
        find(
            1,
            format!(
                "{} is on no floor: give it one in tests/architecture.rs",
                place.top
            ),
        );
        return findings;
    };
    for (line, named) in named_modules(&tokens, place.depth) {
        let allowed = named == place.top
            || floor(&named).is_none_or(|floor| floor < own)
            || EXCEPTIONS
                .iter()
                .any(|(from, to, _)| *from == place.top && *to == named);
        if !allowed {
            find(line, format!("{} names {named}", place.top));
        }
    }
    findings
}

/// `None`: an item of the crate's root that is no module, or a module without a floor (told in its own file).
fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Where a file is in the tree of modules.
struct Module {
    top: String,
    /// Steps of `super` from the file's module to the crate's root.
    depth: usize,
}

impl Module {
    fn of(file: &Path) -> Self {
        let inside = file.strip_prefix("src").unwrap_or(file).with_extension("");
        let mut names: Vec<_> = inside
            .iter()
            .map(|n| n.to_string_lossy().into_owned())
            .collect();
        if names.len() > 1 && names.last().is_some_and(|n| n == "mod") {
            names.pop();
        }
        Self {
            depth: names.len(),
            top: names.swap_remove(0),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    line: usize,
    /// A word, `::`, or one other character.
    text: String,
}

/// What is left of a source without comments, strings and character literals.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = skipped(&chars, at).max(at);
        if end > at {
            line += chars[at..end].iter().filter(|c| **c == '\n').count();
            at = end;
            continue;
        }
        let c = chars[at];
        let len = match c {
            ':' if chars.get(at + 1) == Some(&':') => 2,
            c if is_word(c) => chars[at..].iter().take_while(|c| is_word(**c)).count(),
            _ => 1,
        };
        if !c.is_whitespace() {
            let text = chars[at..at + len].iter().collect();
            tokens.push(Token { line, text });
        }
        line += usize::from(c == '\n');
        at += len;
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The end of the comment, string or character literal that begins at `at`; else `at`.
fn skipped(chars: &[char], at: usize) -> usize {
    let next = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
    let in_word = at > 0 && is_word(chars[at - 1]);
    match (chars[at], next(1)) {
        ('/', '/') => at + chars[at..].iter().take_while(|c| **c != '\n').count(),
        ('/', '*') => end_of_block_comment(chars, at),
        ('"', _) => end_of_quoted(chars, at, '"'),
        ('\'', '\\') => end_of_quoted(chars, at, '\''),
        // 'x' but not the lifetime 'x.
        ('\'', _) if next(2) == '\'' => at + 3,
        ('r', '"' | '#') if !in_word => end_of_raw(chars, at, at + 1),
        ('b' | 'c', 'r') if !in_word && matches!(next(2), '"' | '#') => {
            end_of_raw(chars, at, at + 2)
        }
        _ => at,
    }
}

fn end_of_block_comment(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut i = at;
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn end_of_quoted(chars: &[char], at: usize, quote: char) -> usize {
    let mut i = at + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            c if c == quote => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// A raw string whose hashes begin at `hashes`; a raw identifier (`r#type`) is none.
fn end_of_raw(chars: &[char], at: usize, hashes: usize) -> usize {
    let count = chars[hashes..].iter().take_while(|c| **c == '#').count();
    if chars.get(hashes + count) != Some(&'"') {
        return at;
    }
    let body = hashes + count + 1;
    (body..chars.len())
        .find(|i| {
            chars[*i] == '"'
                && chars[i + 1..]
                    .iter()
                    .take(count)
                    .filter(|c| **c == '#')
                    .count()
                    == count
        })
        .map_or(chars.len(), |i| i + 1 + count)
}

/// Modules of the crate's root that the tokens name, by `crate::` or by enough `super::`.
fn named_modules(tokens: &[Token], depth: usize) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    // For each open brace, whether an inline module began with it.
    let mut braces = Vec::new();
    let text = |i: usize| tokens.get(i).map_or("", |t| t.text.as_str());
    let mut i = 0;
    while i < tokens.len() {
        match text(i) {
            "{" => braces.push(i >= 2 && text(i - 2) == "mod"),
            "}" => _ = braces.pop(),
            "crate" if text(i + 1) == "::" => first_names(tokens, i + 2, &mut named),
            "super" if text(i + 1) == "::" => {
                let mut steps = 1;
                while text(i + 2) == "super" && text(i + 3) == "::" {
                    (steps, i) = (steps + 1, i + 2);
                }
                let here = depth + braces.iter().filter(|inline| **inline).count();
                if steps >= here {
                    first_names(tokens, i + 2, &mut named);
                }
                i += 1;
            }
            _ => {}
        }
        i += 1;
    }
    named
}

/// The name at `at`, or with `{a::x, b}` there, the first name of each branch.
fn first_names(tokens: &[Token], at: usize, named: &mut Vec<(usize, String)>) {
    let Some(first) = tokens.get(at) else { return };
    if first.text != "{" {
        named.push((first.line, first.text.clone()));
        return;
    }
    let mut depth = 0;
    for (before, token) in tokens.iter().zip(&tokens[1..]).skip(at) {
        match before.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return;
        }
        if depth == 1 && matches!(before.text.as_str(), "{" | ",") && token.text != "}" {
            named.push((token.line, token.text.clone()));
        }
    }
}

/// Where a ban's words stand, each word itself a sequence of tokens.
fn banned_words(tokens: &[Token], ban: &Ban) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for word in ban.words {
        let wanted = self::tokens(word);
        for window in tokens.windows(wanted.len()) {
            let same = window.iter().zip(&wanted).all(|(is, want)| {
                is.text == want.text || ban.prefix && is.text.starts_with(&want.text)
            });
            if same {
                let said: Vec<&str> = window.iter().map(|t| t.text.as_str()).collect();
                found.push((
                    window[0].line,
                    said.join(if word.contains(' ') { " " } else { "" }),
                ));
            }
        }
    }
    found
}

mod the_checker {
    use super::*;

    fn findings(file: &str, text: &str) -> Vec<String> {
        let text = format!("//! About.\n{text}");
        check(Path::new(file), &text)
            .iter()
            .map(Finding::to_string)
            .collect()
    }

    #[test]
    fn upward_and_sideways_names_are_found() {
        let cases = [
            ("src/pool/lease.rs", "use crate::protocol::Head;", vec![]),
            (
                "src/pool/lease.rs",
                "use crate::server;",
                vec!["src/pool/lease.rs:2: pool names server"],
            ),
            (
                "src/pool/mod.rs",
                "fn f() { crate::net::x() }",
                vec!["src/pool/mod.rs:2: pool names net"],
            ),
            (
                "src/error.rs",
                "\nuse crate::config::C;",
                vec!["src/error.rs:3: error names config"],
            ),
            ("src/pool/lease.rs", "use crate::pool::slots;", vec![]),
            (
                "src/app/mod.rs",
                "use crate::{admin, session::Core};",
                vec![],
            ),
            (
                "src/admin/mod.rs",
                "use crate::app::run;",
                vec!["src/admin/mod.rs:2: admin names app"],
            ),
            (
                "src/net/mod.rs",
                "use crate::{config::{Tls, pool}, error::E,\n pool::Lease, client};",
                vec![
                    "src/net/mod.rs:3: net names pool",
                    "src/net/mod.rs:3: net names client",
                ],
            ),
            ("src/main.rs", "use weir::app; use crate::app;", vec![]),
            (
                "src/sql/mod.rs",
                "#[cfg(test)]\nmod tests { use crate::config::Config; }",
                vec!["src/sql/mod.rs:3: sql names config"],
            ),
            (
                "src/new.rs",
                "",
                vec!["src/new.rs:1: new is on no floor: give it one in tests/architecture.rs"],
            ),
        ];
        for (file, text, expected) in cases {
            assert_eq!(findings(file, text), expected, "{text}");
        }
    }

    #[test]
    fn super_counts_from_where_it_stands() {
        for (file, text, expected) in [
            ("src/pool/lease.rs", "use super::server;", 0),
            ("src/pool/lease.rs", "use super::super::server;", 1),
            ("src/pool/mod.rs", "use super::server;", 1),
            ("src/pool/mod.rs", "mod tests { use super::server; }", 0),
            (
                "src/pool/mod.rs",
                "mod tests { use super::super::server; }",
                1,
            ),
            (
                "src/pool/mod.rs",
                "mod tests { fn f() {} } use super::server;",
                1,
            ),
            ("src/pool.rs", "use super::{server, net};", 2),
        ] {
            assert_eq!(findings(file, text).len(), expected, "{file}: {text}");
        }
    }

    #[test]
    fn comments_and_strings_name_nothing() {
        let text = r####"
            // use crate::server;
            /* crate::server /* nested crate::server */ crate::server */
            const A: &str = "crate::server \" crate::server";
            const B: &str = r#"crate::server " crate::server"#;
            const C: &[u8] = b"crate::server";
            const D: &[u8] = br##"crate::server "# "##;
            const E: (char, char, char) = ('"', '\'', '\\');
            fn f<'a>(r#type: &'a str) -> &'a str { r#type }
            use crate::server;
        "####;
        assert_eq!(
            findings("src/pool/x.rs", text),
            ["src/pool/x.rs:11: pool names server"]
        );
    }

    #[test]
    fn words_stay_where_they_belong() {
        let cases = [
            (
                "src/protocol/x.rs",
                "use tokio::net;",
                "src/protocol/x.rs:2: protocol says tokio: ",
            ),
            (
                "src/sql/x.rs",
                "let t = std::time::Instant::now();",
                "src/sql/x.rs:2: sql says Instant::now: ",
            ),
            (
                "src/sql/x.rs",
                "use metrics::Counter;",
                "src/sql/x.rs:2: sql says metrics: ",
            ),
            (
                "src/protocol/x.rs",
                "use std::net::IpAddr;",
                "src/protocol/x.rs:2: protocol says std::net: ",
            ),
            (
                "src/server/x.rs",
                "use aws_sigv4::sign;",
                "src/server/x.rs:2: server says aws_sigv4: ",
            ),
            (
                "src/main.rs",
                "static mut N: u8 = 0;",
                "src/main.rs:2: main says static mut: ",
            ),
        ];
        for (file, text, expected) in cases {
            let found = findings(file, text);
            assert!(
                found.len() == 1 && found[0].starts_with(expected),
                "{found:?}"
            );
        }
        for (file, text) in [
            ("src/secrets/x.rs", "use aws_sigv4::sign;"),
            ("src/net/x.rs", "use tokio::net; let t = Instant::now();"),
            ("src/protocol/x.rs", "// tokio\nlet instant = clock::now();"),
            ("src/net/x.rs", "static N: u8 = 0; let mut x = 1;"),
        ] {
            assert!(findings(file, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_file_says_what_it_knows() {
        let found = check(Path::new("src/pool/x.rs"), "use std::fmt;\n");
        assert_eq!(found.len(), 1);
        assert!(
            found[0]
                .to_string()
                .starts_with("src/pool/x.rs:1: the file doesn't open with //!")
        );
    }
}
