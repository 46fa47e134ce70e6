//! Whether what a client is about to have executed has to do with its channels.
//!
//! Pure. Needed only while they are elsewhere. Errs on the side of yes, which costs a way back and forth; not of no,
//! except where only PostgreSQL could know: in functions and triggers of the user's.

use super::requests::{Meaning, TextScan, head, meaning};
use crate::protocol::frame::{HEADER_BYTES, split_cstr};
use crate::protocol::reply::TxStatus;
use crate::protocol::tag::frontend;
use crate::sql::{self, Effects};

/// What names channels, or notifies.
const PLAIN: Effects = Effects::LISTEN
    .with(Effects::UNLISTEN)
    .with(Effects::NOTIFY);

/// What may do so unseen.
const HIDDEN: Effects = Effects::DISCARD_ALL
    .with(Effects::DISCARD_IN_TEXT)
    .with(Effects::ROUTINE)
    .with(Effects::EXECUTE)
    .with(Effects::UNSURE);

/// The catalogue's list of them.
const LIST: &[u8] = b"pg_listening_channels";

/// Names kept of prepared statements that have to do with channels; where there are more, any that is not among them may.
const MAX_NAMES: usize = 64;

/// The prepared statements that have to do with channels.
#[derive(Debug, Default)]
pub struct Talk {
    /// The unnamed one is such a statement.
    unnamed: bool,
    named: Vec<Vec<u8>>,
    /// A named one may be that is not among `named`.
    unknown: bool,
}

impl Talk {
    /// A message was sent, with as much of it as is there, and what its text may do.
    #[inline]
    pub fn note(&mut self, meaning: Meaning, frame: &[u8], effects: Effects) {
        let speaks = effects.has(PLAIN.with(HIDDEN));
        match meaning {
            Meaning::ParseUnnamed => self.unnamed = speaks,
            Meaning::ParseNamed if speaks || !self.named.is_empty() => {
                self.note_named(frame, speaks);
            }
            Meaning::ParseNamed
            | Meaning::Query
            | Meaning::CloseUnnamed
            | Meaning::BindUnnamed
            | Meaning::BindNamed
            | Meaning::DescribeNamed
            | Meaning::CloseNamed
            | Meaning::FunctionCall
            | Meaning::Plain
            | Meaning::Terminate => {}
        }
    }

    /// A Parse of "" was sent, with nothing of the kind in its text.
    #[inline]
    pub fn parsing_plain(&mut self) {
        self.unnamed = false;
    }

    fn note_named(&mut self, frame: &[u8], speaks: bool) {
        let body = frame.get(HEADER_BYTES..).unwrap_or_default();
        let Some((name, _)) = split_cstr(body) else {
            self.unknown |= speaks;
            return;
        };
        self.named.retain(|known| known != name);
        if speaks && self.named.len() < MAX_NAMES {
            self.named.push(name.to_vec());
        } else {
            self.unknown |= speaks;
        }
    }

    /// More of a text was sent whose beginning went before: of which statement, is not kept.
    pub fn note_more(&mut self, effects: Effects) {
        if effects.has(PLAIN.with(HIDDEN)) {
            self.unnamed = true;
            self.unknown = true;
        }
    }

    /// Whether a Bind is of such a statement. `unnamed`: whether the unnamed one is.
    fn is_bound(&self, body: &[u8], unnamed: bool) -> bool {
        let statement = split_cstr(body).and_then(|(_, rest)| split_cstr(rest));
        match statement {
            Some(([], _)) => unnamed,
            Some((name, _)) => self.unknown || self.named.iter().any(|known| known == name),
            None => true,
        }
    }

    /// Whether the unit that `pending` begins with, up to its Query or Sync, has to do with channels.
    pub fn is_in(&self, mut pending: &[u8], tx: TxStatus) -> bool {
        // In a transaction the way back becomes a part of it: only where the client's own words are of that kind.
        let wanted = match tx {
            TxStatus::Idle => PLAIN.with(HIDDEN),
            TxStatus::InTransaction => PLAIN,
            TxStatus::Failed => return false,
        };
        let mut unnamed = self.unnamed;
        while let Ok(Some(head)) = head(pending) {
            let Ok(Some(meaning)) = meaning(head, pending) else {
                return false;
            };
            let end = head.frame_bytes().min(pending.len());
            let body = pending.get(HEADER_BYTES..end).unwrap_or_default();
            let speaks = match meaning {
                Meaning::Query | Meaning::ParseUnnamed | Meaning::ParseNamed => {
                    let text = TextScan::whole(head.tag, body);
                    sql::effects(text).has(wanted) || names_list(text)
                }
                Meaning::FunctionCall => tx == TxStatus::Idle,
                Meaning::BindUnnamed | Meaning::BindNamed => self.is_bound(body, unnamed),
                Meaning::CloseUnnamed
                | Meaning::CloseNamed
                | Meaning::DescribeNamed
                | Meaning::Plain
                | Meaning::Terminate => false,
            };
            if speaks {
                return true;
            }
            unnamed &= meaning != Meaning::ParseUnnamed;
            if matches!(
                head.tag,
                frontend::QUERY | frontend::FUNCTION_CALL | frontend::SYNC
            ) {
                return false;
            }
            pending = pending.get(end..).unwrap_or_default();
        }
        false
    }
}

fn names_list(text: &[u8]) -> bool {
    text.windows(LIST.len())
        .any(|part| part.eq_ignore_ascii_case(LIST))
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

    fn extended(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, b'P', |body| {
            body.push(0);
            put_cstr(body, text.as_bytes());
            body.extend_from_slice(&[0, 0]);
        });
        put(&mut out, b'B', |body| body.extend_from_slice(&[0; 8]));
        put(&mut out, b'E', |body| body.extend_from_slice(&[0; 5]));
        out
    }

    #[test]
    fn what_has_to_do_with_channels() {
        let (idle, inside) = (TxStatus::Idle, TxStatus::InTransaction);
        let cases = [
            (query("SELECT 1"), idle, false),
            (query("LISTEN a"), idle, true),
            (query("select pg_notify('a', '')"), inside, true),
            (query("NOTIFY a"), TxStatus::Failed, false),
            (query("SELECT * FROM PG_Listening_Channels()"), idle, true),
            (query("DO $$BEGIN END$$"), idle, true),
            (query("DO $$BEGIN END$$"), inside, false),
            (query("DISCARD ALL"), idle, true),
            ([query("SELECT 1"), query("LISTEN a")].concat(), idle, false),
            (
                [extended("SELECT 1"), extended("UNLISTEN *")].concat(),
                idle,
                true,
            ),
        ];
        for (pending, tx, expected) in cases {
            let text = String::from_utf8_lossy(&pending).into_owned();
            assert_eq!(
                Talk::default().is_in(&pending, tx),
                expected,
                "{text} {tx:?}"
            );
        }
    }

    #[test]
    fn what_was_prepared_is_remembered() {
        let bind = |statement: &str| {
            let mut out = Vec::new();
            put(&mut out, b'B', |body| {
                body.push(0);
                put_cstr(body, statement.as_bytes());
                body.extend_from_slice(&[0; 6]);
            });
            out
        };
        let mut talk = Talk::default();
        let is_in = |talk: &Talk, pending: &[u8]| talk.is_in(pending, TxStatus::Idle);
        talk.note(Meaning::ParseUnnamed, b"", Effects::NOTIFY);
        assert!(is_in(&talk, &bind("")) && !is_in(&talk, &bind("s")));
        assert!(!is_in(&talk, &extended("SELECT 1")), "another by then");
        talk.note(Meaning::ParseUnnamed, b"", Effects::NONE);
        talk.note(Meaning::ParseNamed, b"P\0\0\0\x08s\0..", Effects::LISTEN);
        assert!(!is_in(&talk, &bind("")) && is_in(&talk, &bind("s")) && !is_in(&talk, &bind("t")));
        talk.note(Meaning::ParseNamed, b"P\0\0\0\x08s\0..", Effects::NONE);
        assert!(!is_in(&talk, &bind("s")));
        talk.note_more(Effects::NOTIFY);
        assert!(is_in(&talk, &bind("s")) && is_in(&talk, &bind("")));
    }
}
