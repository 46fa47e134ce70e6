//! Custom settings that are set inside a text's strings: in the body of a DO, in a text given to what runs one. After such a
//! text all others are asked for anyway.
//!
//! Errs on the side of names that are none, which are asked for in vain. What a string is put together from as it runs,
//! nobody can see here.

use std::borrow::Cow;

use super::effect::Effects;
use super::report::{Act, Report};
use super::scanner::scanned;

/// Strings in strings in strings.
const MAX_DEPTH: u32 = 3;

/// Adds to a report what the strings of its text set.
pub(super) fn add_settings(text: &[u8], report: &mut Report) {
    let escapes = find(text, b"u&\"").is_some();
    add_from(text, MAX_DEPTH, report);
    if escapes {
        // It may be set_config that is spelt in escapes.
        for string in Strings(text).filter(|string| is_custom(string)) {
            set(&string, report);
        }
    }
}

fn add_from(text: &[u8], depth: u32, report: &mut Report) {
    for string in Strings(text) {
        if find(&string, b"set").is_none() {
            continue;
        }
        let inner = scanned(&string);
        for (name, act) in inner.acts.iter().flat_map(|acts| &acts.settings) {
            if *act == Act::Set && is_custom(name) {
                set(name, report);
            }
        }
        let unseen = Effects::UNSEEN_SETTING.with(Effects::PATH_UNSEEN);
        if inner.effects.has(unseen) {
            report.add(unseen);
        }
        add_commands(&string, report);
        if depth > 0 {
            add_from(&string, depth - 1, report);
        }
    }
}

/// `SET app.tenant`, wherever it stands: PL/pgSQL has words of its own ahead of statements.
fn add_commands(text: &[u8], report: &mut Report) {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.');
    let mut words = text.split(|byte| !is_name(byte));
    let mut words = words.by_ref().filter(|word| !word.is_empty());
    let mut is_set = false;
    for word in &mut words {
        let goes_on = is_set && word.eq_ignore_ascii_case(b"session");
        if is_set && is_custom(word) {
            set(word, report);
        }
        is_set = goes_on || word.eq_ignore_ascii_case(b"set");
    }
}

fn set(name: &[u8], report: &mut Report) {
    let mut known = report.acts.iter().flat_map(|acts| &acts.settings);
    if known.any(|(known, act)| known.eq_ignore_ascii_case(name) && *act == Act::Reset) {
        // Which of the two comes last is not looked for.
        return report.add(Effects::UNSEEN_SETTING);
    }
    report.setting(name, Act::Set);
}

/// Whether it can be the name of a custom setting.
fn is_custom(name: &[u8]) -> bool {
    let is_part = |part: &[u8]| {
        let mut bytes = part.iter();
        let begins = bytes
            .next()
            .is_some_and(|&first| first.is_ascii_alphabetic() || first == b'_');
        begins && bytes.all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$'))
    };
    name.contains(&b'.') && name.split(|&byte| byte == b'.').all(is_part)
}

/// Where `needle`, in lower case, first stands in whatever case.
fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    let mut parts = text.windows(needle.len());
    parts.position(|part| part.eq_ignore_ascii_case(needle))
}

/// What stands between quotes or dollar quotes, with doubled quotes as one.
struct Strings<'a>(&'a [u8]);

impl<'a> Iterator for Strings<'a> {
    type Item = Cow<'a, [u8]>;

    fn next(&mut self) -> Option<Cow<'a, [u8]>> {
        loop {
            let start = self
                .0
                .iter()
                .position(|byte| matches!(byte, b'\'' | b'$'))?;
            let rest = self.0.get(start..)?;
            if rest.first() == Some(&b'\'') {
                return Some(self.quoted(rest.get(1..)?));
            }
            let tag = rest.get(1..)?;
            let is_tag = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
            let length = tag.iter().take_while(|byte| is_tag(byte)).count();
            if tag.get(length) != Some(&b'$') {
                self.0 = tag;
                continue;
            }
            let mark = rest.get(..length + 2)?;
            let body = rest.get(length + 2..)?;
            let end = body.windows(mark.len()).position(|part| part == mark);
            let end = end.unwrap_or(body.len());
            self.0 = body.get(end + mark.len()..).unwrap_or_default();
            return body.get(..end).map(Cow::Borrowed);
        }
    }
}

impl<'a> Strings<'a> {
    fn quoted(&mut self, body: &'a [u8]) -> Cow<'a, [u8]> {
        let mut string = Vec::new();
        let mut rest = body;
        loop {
            let end = rest.iter().position(|&byte| byte == b'\'');
            let end = end.unwrap_or(rest.len());
            let part = rest.get(..end).unwrap_or_default();
            string.extend_from_slice(part);
            rest = rest.get(end + 1..).unwrap_or_default();
            if rest.first() != Some(&b'\'') {
                self.0 = rest;
                return string.into();
            }
            string.push(b'\'');
            rest = rest.get(1..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::sql::{Effects, report};

    #[test]
    fn settings_inside_strings_are_told() {
        let cases: [(&str, &[&str], bool); 14] = [
            ("DO $$BEGIN SET app.a = 'x'; END$$", &["app.a"], false),
            (
                "DO $x$BEGIN PERFORM 1; SET SESSION app.a TO 1; END$x$",
                &["app.a"],
                false,
            ),
            (
                "DO 'BEGIN PERFORM set_config(''app.a'', ''x'', false); END'",
                &["app.a"],
                false,
            ),
            (
                "DO $$BEGIN PERFORM set_config('app.a', 'x', true); END$$",
                &[],
                false,
            ),
            (
                "DO $$BEGIN EXECUTE 'SET app.a = 1'; EXECUTE $y$set app.b = 1$y$; END$$",
                &["app.a", "app.b"],
                false,
            ),
            (
                "DO $$BEGIN IF true THEN SET App.A = 1; END IF; END$$",
                &["app.a"],
                false,
            ),
            (
                "DO $$BEGIN PERFORM set_config(name, 'x', false) FROM t; END$$",
                &[],
                true,
            ),
            (
                "DO $$BEGIN UPDATE t SET a = b.c WHERE d.e = 1; END$$",
                &[],
                false,
            ),
            ("DO $$BEGIN RAISE NOTICE 'settle a.b'; END$$", &[], false),
            (
                "SELECT query_to_xml('SELECT set_config(''app.a'', ''x'', false)', true, true, '')",
                &["app.a"],
                false,
            ),
            (
                "SELECT U&\"set_confi\\0067\"('app.a', 'x', false)",
                &["app.a"],
                false,
            ),
            ("SELECT 'SET app.a = 1'", &[], false),
            ("DO $$BEGIN", &[], false),
            ("DO 'SET app.a", &["app.a"], false),
        ];
        for (text, names, unseen) in cases {
            let report = report(text.as_bytes());
            let acts = report.acts.unwrap_or_default();
            let found = acts.settings.iter();
            let mut found: Vec<_> = found
                .map(|(name, _)| String::from_utf8_lossy(name))
                .collect();
            found.sort();
            assert_eq!(found, names, "{text}");
            assert_eq!(
                report.effects.has(Effects::UNSEEN_SETTING),
                unseen,
                "{text}"
            );
        }
    }
}
