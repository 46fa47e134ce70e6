//! What a server's errors say about what it has of the session and of itself, and the words for it that the client gets.
//!
//! Knows where a statement is named in an error; not what becomes of a statement, which `core` decides.

use super::core::{Sent, Trust};
use super::{Link, Session};
use crate::error::Blame;
use crate::protocol::SqlState;
use crate::protocol::frame::{HEADER_BYTES, Head};
use crate::protocol::reply::{ErrorReply, Severity, error_field};
use crate::server::Connection;
use crate::server::statements::find_name;

impl Session {
    /// An ErrorResponse is at the front, as much of it as its first fields take.
    #[cold]
    pub(super) fn hear_error(&mut self) {
        self.doubt_writer();
        let Link::Leased(lease) = &mut self.link else {
            return;
        };
        let Connection {
            replies,
            ledger,
            statements,
            marked,
            ..
        } = &mut ***lease;
        let error = self.replies.raw().get(HEADER_BYTES..).unwrap_or_default();
        let field = |code| error_field(error, code).unwrap_or_default();
        if self.core.has_lost_sequences(field(b'C'), field(b'R')) {
            let error = lost_sequences();
            let mut words = Vec::new();
            error.put(&mut words);
            replies.withhold();
            self.replies.insert(&words);
            self.context.clients.error(error.sqlstate, Blame::Proxy);
            return;
        }
        let failed = ledger.failed_use();
        if let Some(failed) = failed {
            // What was sent behind it is skipped: its name is what it was.
            self.core.note_outcomes(ledger, statements);
            let trust = self
                .core
                .use_failed(failed.uses, field(b'C'), field(b'R'), statements);
            *marked |= trust == Trust::Lost;
            let sent = match self.requests.cleared() {
                [] => Sent::All,
                _ => Sent::InPart,
            };
            if trust != Trust::Kept
                && !self.server_fatal
                && let Some(unit) = self
                    .core
                    .try_again(failed, sent, ledger, &mut self.prologue)
            {
                replies.withhold();
                self.requests.put_back(&unit);
                return;
            }
        }
        if failed.is_none() && !ledger.is_doubtful() {
            return;
        }
        let number = failed.map_or(0, |failed| failed.name);
        let words = reworded(self.replies.raw(), |id| self.core.name_of(number, id));
        if let Some((taken, words)) = words {
            replies.took(taken);
            self.replies.discard(taken);
            self.replies.insert(&words);
        }
    }
}

impl Session {
    /// A writer that will not write may be none any more: one that is demoted may keep its connections. (Not where the
    /// client itself has asked for that. Where it did so by a statement of its own inside the transaction, the writer is
    /// asked in vain, which happens only so often.)
    fn doubt_writer(&self) {
        let Link::Leased(lease) = &self.link else {
            return;
        };
        let error = self.replies.raw().get(HEADER_BYTES..).unwrap_or_default();
        if error_field(error, b'C') != Some(b"25006") || self.core.is_read_only() {
            return;
        }
        let own = self.settings.now().value("default_transaction_read_only");
        if own.is_some_and(|value| !OFF.iter().any(|off| value.eq_ignore_ascii_case(off))) {
            return;
        }
        let writer = self.endpoint.board.view().writer;
        if writer.is_some() && writer == self.desks.place_of(lease.desk()) {
            lease.target().manage.suspect();
        }
    }
}

/// How a setting says no.
const OFF: [&[u8]; 4] = [b"off", b"false", b"no", b"0"];

/// In place of PostgreSQL's word that there is no value. The transaction can be had again, and then there will be one: no
/// server changes hands any more with another's values on it. That is what 40001 means to programs.
fn lost_sequences() -> ErrorReply {
    ErrorReply {
        severity: Severity::Error,
        sqlstate: SqlState::SERIALIZATION_FAILURE,
        message: "could not tell this transaction's sequence values from another client's".into(),
        detail: Some(
            "Nobody had asked for currval or lastval in this database before, so that another client's values were still \
             on the database connection; all of them were discarded."
                .into(),
        ),
        hint: Some(
            "Try the transaction again: from now on this does not happen any more. INSERT ... RETURNING gives the value \
             without asking for it."
                .into(),
        ),
    }
}

/// An ErrorResponse at the front that has the server's name for a statement in it: so many bytes, and what the
/// client is to get in their place.
fn reworded<'a>(
    raw: &[u8],
    name: impl FnOnce(u64) -> Option<&'a [u8]>,
) -> Option<(usize, Vec<u8>)> {
    let head = Head::parse(raw)?.ok()?;
    let frame = raw.get(..head.frame_bytes().min(raw.len()))?;
    let (place, id) = find_name(frame)?;
    let name = name(id)?;
    let length = head.frame_bytes() - 1 - place.len() + name.len();
    let mut words = vec![head.tag];
    words.extend_from_slice(&u32::try_from(length).ok()?.to_be_bytes());
    words.extend_from_slice(frame.get(HEADER_BYTES..place.start)?);
    words.extend_from_slice(name);
    Some((place.end, words))
}
