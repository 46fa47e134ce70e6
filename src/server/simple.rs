//! Asks a server something with a simple Query, between two leases or before the first one.
//!
//! Knows how to read the whole answer within bounds; does not know what was asked.

use super::connection::Parameters;
use super::inbox::{Inbox, Message, ReadError};
use super::refusal::Refusal;
use crate::net::Stream;
use crate::protocol::frame::{put, put_cstr};
use crate::protocol::reply::{TxStatus, data_row, parameter_status};
use crate::protocol::tag::{backend, frontend};

/// Everything that an answer may come to.
pub const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// The values of one row; `None` is NULL.
pub type Row = Vec<Option<Vec<u8>>>;

/// What a server answered, all of it read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Of all the query's statements.
    pub rows: Vec<Row>,
    /// Settings whose reported value changed meanwhile.
    pub parameters: Parameters,
    pub status: TxStatus,
}

/// No answer. Whatever it was, the connection's state is not known: close it.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{0}")]
    Refused(Refusal),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the server sent a message of type {:?} that answers no question", char::from(*tag))]
    Unexpected { tag: u8 },
    #[error("the server sent a malformed message of type {:?}", char::from(*tag))]
    Malformed { tag: u8 },
}

/// Runs `sql`, which may be several statements, on a connection that owes no answer.
/// Not cancel-safe: dropped half-way, the connection must be closed.
pub async fn query(stream: &mut Stream, sql: &str) -> Result<Answer, AskError> {
    let mut inbox = Inbox::new(MAX_ANSWER_BYTES);
    let mut out = Vec::with_capacity(sql.len() + 8);
    put_query(&mut out, sql);
    stream.send(&out).await.map_err(ReadError::from)?;
    let mut answer = read_answer(stream, &mut inbox).await?;
    settle(stream, &mut inbox, &mut answer.parameters).await?;
    Ok(answer)
}

pub(super) fn put_query(out: &mut Vec<u8>, sql: &str) {
    put(out, frontend::QUERY, |body| put_cstr(body, sql.as_bytes()));
}

/// Reads up to ReadyForQuery. An ERROR is returned after that, too.
pub(super) async fn read_answer(
    stream: &mut Stream,
    inbox: &mut Inbox,
) -> Result<Answer, AskError> {
    let mut answer = Answer::default();
    let mut refused: Option<Refusal> = None;
    loop {
        let Message { tag, body } = match (inbox.next(stream).await, refused.take()) {
            (Ok(message), earlier) => {
                refused = earlier;
                message
            }
            // FATAL: nothing follows.
            (Err(_), Some(refusal)) => return Err(AskError::Refused(refusal)),
            (Err(error), None) => return Err(error.into()),
        };
        match tag {
            backend::DATA_ROW => answer
                .rows
                .push(row(body).ok_or(AskError::Malformed { tag })?),
            backend::ERROR_RESPONSE => refused = Some(Refusal::new(body)),
            backend::READY_FOR_QUERY => {
                let status = body.first().copied().and_then(TxStatus::from_byte);
                answer.status = status.ok_or(AskError::Malformed { tag })?;
                return refused.map_or(Ok(answer), |refusal| Err(AskError::Refused(refusal)));
            }
            backend::ROW_DESCRIPTION
            | backend::COMMAND_COMPLETE
            | backend::EMPTY_QUERY_RESPONSE => {}
            _ => unasked(tag, body, &mut answer.parameters)?,
        }
    }
}

/// Takes what came right behind ReadyForQuery (a reload of the server's configuration sends
/// ParameterStatus at any time), so that whoever gets the connection finds nothing half-read.
pub(super) async fn settle(
    stream: &mut Stream,
    inbox: &mut Inbox,
    parameters: &mut Parameters,
) -> Result<(), AskError> {
    while inbox.has_more() {
        let Message { tag, body } = inbox.next(stream).await?;
        unasked(tag, body, parameters)?;
    }
    Ok(())
}

/// What a server may send at any time. Notices and notifications are nobody's here.
fn unasked(tag: u8, body: &[u8], parameters: &mut Parameters) -> Result<(), AskError> {
    match tag {
        backend::PARAMETER_STATUS => {
            let (name, value) = parameter_status(body).ok_or(AskError::Malformed { tag })?;
            parameters.set(name, value);
            Ok(())
        }
        backend::NOTICE_RESPONSE | backend::NOTIFICATION_RESPONSE => Ok(()),
        backend::ERROR_RESPONSE => Err(AskError::Refused(Refusal::new(body))),
        _ => Err(AskError::Unexpected { tag }),
    }
}

/// The values of a DataRow.
fn row(body: &[u8]) -> Option<Row> {
    let values = data_row(body)?;
    let owned = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
    Some(values.into_iter().map(owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let body = b"\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0";
        let expected = vec![Some(b"ab".to_vec()), None, Some(Vec::new())];
        assert_eq!(row(body), Some(expected));
        assert_eq!(row(b"\0\x01\0\0\0\x05ab"), None);
        assert_eq!(row(b"\0\x02\0\0\0\x00"), None);
        assert_eq!(row(b""), None);
    }
}
