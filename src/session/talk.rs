//! Whether what a client is about to have executed has to do with its channels.
//!
//! Pure. Needed only while they are elsewhere. Errs on the side of yes, which costs a way back and forth; not of no,
//! except where only PostgreSQL could know: in functions and triggers of the user's.

use super::requests::{Meaning, TextScan, head, meaning};
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::reply::TxStatus;
use crate::protocol::tag::frontend;
use crate::sql::Effects;

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

/// What earlier texts of a session say of later messages.
#[derive(Debug, Default)]
pub struct Talk {
    /// A statement may have been prepared that has to do with channels.
    prepared: bool,
}

impl Talk {
    /// A text was sent, to be executed now or later.
    pub fn note(&mut self, effects: Effects) {
        self.prepared |= effects.has(PLAIN.with(HIDDEN));
    }

    /// Whether the unit that `pending` begins with, up to its Query or Sync, has to do with channels.
    pub fn is_in(&self, mut pending: &[u8], tx: TxStatus) -> bool {
        // In a transaction the way back becomes a part of it: only where the client's own words are of that kind.
        let wanted = match tx {
            TxStatus::Idle => PLAIN.with(HIDDEN),
            TxStatus::InTransaction => PLAIN,
            TxStatus::Failed => return false,
        };
        while let Ok(Some(head)) = head(pending) {
            let Ok(Some(meaning)) = meaning(head, pending) else {
                return false;
            };
            let end = head.frame_bytes().min(pending.len());
            let body = pending.get(HEADER_BYTES..end).unwrap_or_default();
            let speaks = match meaning {
                Meaning::Query | Meaning::ParseUnnamed | Meaning::ParseNamed => {
                    TextScan::whole(head.tag, body).effects.has(wanted) || names_list(body)
                }
                Meaning::FunctionCall => tx == TxStatus::Idle,
                Meaning::Plain => head.tag == frontend::BIND && self.prepared,
                Meaning::CloseUnnamed | Meaning::Terminate => false,
            };
            if speaks {
                return true;
            }
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
        let mut talk = Talk::default();
        talk.note(Effects::NOTIFY);
        assert!(talk.is_in(&extended(""), TxStatus::Idle));
    }
}
