//! Whether what a client is about to have executed gives up settings that can't be given to a server.
//!
//! Pure. Then it may go ahead without them: it does nothing else, and whatever it makes of the others is asked for
//! afterwards. Errs on the side of no, which is an error with a hint.

use super::requests::{TextScan, head};
use crate::protocol::frame::{HEADER_BYTES, split_cstr};
use crate::protocol::tag::frontend;
use crate::server::settings::is_role;
use crate::sql::{self, Act, Effects};

/// Whether the unit at the front of `pending` does nothing but reset settings, all of `names` among them.
pub fn mends(pending: &[u8], names: &[String]) -> bool {
    only_text(pending).is_some_and(|text| resets(text, names))
}

/// The text of a unit that has one, and executes no other.
fn only_text(pending: &[u8]) -> Option<&[u8]> {
    let head_of = |bytes| head(bytes).ok().flatten();
    let first = head_of(pending)?;
    let (frame, mut rest) = pending.split_at_checked(first.frame_bytes())?;
    let body = frame.get(HEADER_BYTES..)?;
    match first.tag {
        frontend::QUERY => return Some(TextScan::whole(first.tag, body)),
        frontend::PARSE => {}
        _ => return None,
    }
    let (statement, _) = split_cstr(body)?;
    loop {
        let head = head_of(rest)?;
        let (frame, behind) = rest.split_at_checked(head.frame_bytes())?;
        match head.tag {
            frontend::SYNC => return Some(TextScan::whole(first.tag, body)),
            frontend::DESCRIBE | frontend::EXECUTE => {}
            frontend::BIND => {
                let (_portal, names) = split_cstr(frame.get(HEADER_BYTES..)?)?;
                split_cstr(names).filter(|(bound, _)| *bound == statement)?;
            }
            _ => return None,
        }
        rest = behind;
    }
}

/// RESET and DISCARD ALL can't fail to give up what they name, whatever becomes of a text; SET can, and would leave the
/// session without the value that it had.
fn resets(text: &[u8], names: &[String]) -> bool {
    // Nothing that is quoted, and no comment: where a statement ends is plain to see.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_$.; \t\r\n".contains(byte);
    if text.contains(&b'$') || !text.iter().all(plain) {
        return false;
    }
    let mut statements = text
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
        .filter(|statement| !statement.is_empty());
    let report = sql::report(text);
    if report.effects.has(Effects::DISCARD_ALL) {
        return true;
    }
    let is_reset = |statement: &[u8]| {
        let mut words = statement.split(u8::is_ascii_whitespace);
        words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case(b"reset"))
    };
    if !statements.all(is_reset) {
        return false;
    }
    let acts = report.acts.unwrap_or_default().settings;
    let all = report.effects.has(Effects::RESET_ALL);
    names.iter().all(|name| {
        let named = |(reset, act): &(Vec<u8>, Act)| reset == name.as_bytes() && *act == Act::Reset;
        (all && !is_role(name)) || acts.iter().any(named)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::{put, put_cstr};

    fn query(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, b'Q', |body| put_cstr(body, text.as_bytes()));
        out
    }

    #[test]
    fn only_resets_of_all_of_them_mend() {
        let cases = [
            ("RESET a.b", "a.b", true),
            ("reset A.B;", "a.b", true),
            ("RESET ALL", "a.b", true),
            ("RESET ALL", "role", false),
            ("RESET ROLE", "role", true),
            ("RESET SESSION AUTHORIZATION", "session_authorization", true),
            ("RESET TIME ZONE", "timezone", true),
            ("DISCARD ALL", "role", true),
            ("RESET a.b; RESET ROLE", "a.b role", true),
            ("RESET a.b", "a.b role", false),
            ("RESET a.b; DELETE FROM t", "a.b", false),
            ("RESET a.b; SET a.b TO 1", "a.b", false),
            ("SET a.b TO 1", "a.b", false),
            ("RESET a.c", "a.b", false),
            ("RESET a.b -- ; DELETE FROM t", "a.b", false),
            ("SELECT 1", "a.b", false),
            ("", "a.b", false),
        ];
        for (text, names, expected) in cases {
            let names: Vec<String> = names.split(' ').map(String::from).collect();
            assert_eq!(mends(&query(text), &names), expected, "{text}");
        }
    }

    #[test]
    fn a_unit_mends_that_executes_nothing_else() {
        let frame = |tag, body: &[u8]| {
            let mut out = Vec::new();
            put(&mut out, tag, |to| to.extend_from_slice(body));
            out
        };
        let parse = frame(b'P', b"s\0RESET a.b\0\0\0");
        let (bind, other) = (
            frame(b'B', b"\0s\0\0\0\0\0\0\0"),
            frame(b'B', b"\0t\0\0\0\0\0\0\0"),
        );
        let (execute, sync) = (frame(b'E', b"\0\0\0\0\0"), frame(b'S', b""));
        let names = ["a.b".to_owned()];
        let mends = |parts: &[&[u8]]| mends(&parts.concat(), &names);
        assert!(mends(&[&parse, &bind, &execute, &sync]));
        assert!(!mends(&[&parse, &bind, &execute]), "more may come");
        assert!(!mends(&[&parse, &other, &execute, &sync]));
        assert!(!mends(&[&parse, &bind, &execute, &parse, &sync]));
        assert!(!mends(&[&bind, &execute, &sync]));
    }
}
