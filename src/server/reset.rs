//! Makes a connection that a session has left as good as new, or closes it in an orderly way.
//!
//! Knows each state that a session can leave behind and the way out of it; does not know why it was left.

use super::connection::CommandError;
use super::dialer::Dialer;
use super::ledger::Owed;
use super::sequences::Users;
use super::{Connection, Settings};
use crate::protocol::frame::{put, put_cstr};
use crate::protocol::reply::TxStatus;
use crate::protocol::tag::frontend;
use std::sync::Arc;
use std::time::Duration;

/// False when nothing but closing helps. Not cancel-safe: dropped halfway, the connection has to be closed.
pub(super) async fn clean(
    connection: &mut Connection,
    dialer: &Dialer,
) -> Result<bool, CommandError> {
    // Half a message can be neither completed nor taken back; and what is owed must be known.
    if connection.half_sent || connection.ledger.is_doubtful() {
        return Ok(false);
    }
    stop(connection, dialer).await?;
    connection.ledger.forget_outcomes();
    connection.statements.begin();
    if connection.ledger.tx() != TxStatus::Idle {
        connection.command("ROLLBACK").await?;
    }
    if connection.marked {
        connection.command("DISCARD ALL").await?;
        connection.marked = false;
        connection.sequences_of = Users::None;
        connection.statements.clear();
        connection.applied = Arc::<Settings>::default();
        let init_query = dialer.init_query();
        if !init_query.is_empty() {
            connection.command(&init_query).await?;
        }
    }
    Ok(connection.is_clean())
}

/// Brings whatever is going on to its end: nothing owed, nothing open.
async fn stop(connection: &mut Connection, dialer: &Dialer) -> Result<(), CommandError> {
    if connection.ledger.is_copying_in() {
        let mut message = Vec::new();
        put(&mut message, frontend::COPY_FAIL, |body| {
            put_cstr(body, b"the client is gone")
        });
        connection.say(&message, Some(Owed::CopyEnd)).await?;
    }
    // One request cancels one query; more may stand behind it.
    while connection.ledger.owes() && !connection.ledger.is_copying_in() {
        dialer.cancel(connection.peer, &connection.key).await;
        match tokio::time::timeout(CANCEL_AGAIN, connection.settle()).await {
            Ok(settled) => drop(settled?),
            Err(_) => tracing::debug!("a connection goes on after it was cancelled"),
        }
        if connection.ledger.readies_owed() == 0 {
            break;
        }
    }
    if connection.ledger.is_unsynced() {
        // A Sync would commit what the client has done since its last one; without one, PostgreSQL
        // undoes it when a client goes. (Refused: an error had undone it already.)
        match connection.command("ROLLBACK").await {
            Ok(()) | Err(CommandError::Refused(_)) => {}
            Err(broken) => return Err(broken),
        }
    }
    if connection.ledger.is_unsynced() {
        let mut message = Vec::new();
        put(&mut message, frontend::SYNC, |_| {});
        connection.say(&message, Some(Owed::Sync)).await?;
    }
    connection.settle().await?;
    if connection.ledger.is_copying_in() || connection.ledger.is_unsynced() {
        // COPY began while we were stopping it: once more, with what is known now.
        let mut message = Vec::new();
        put(&mut message, frontend::COPY_FAIL, |body| {
            put_cstr(body, b"the client is gone")
        });
        connection.say(&message, Some(Owed::CopyEnd)).await?;
        message.clear();
        put(&mut message, frontend::SYNC, |_| {});
        connection.say(&message, Some(Owed::Sync)).await?;
        connection.settle().await?;
    }
    Ok(())
}

/// Says goodbye, and waits for the server to hang up: only then is its slot free. Queries that still run are
/// cancelled, since PostgreSQL would finish them before it noticed. A server that is out of reach is noticed by
/// TCP (`tcp_user_timeout`, keepalive).
pub(super) async fn close(mut connection: Connection, dialer: &Dialer) {
    let mut goodbye = Vec::new();
    if !connection.half_sent {
        put(&mut goodbye, frontend::TERMINATE, |_| {});
    }
    let owes = connection.ledger.owes() || connection.ledger.is_doubtful();
    let Connection {
        stream, peer, key, ..
    } = &mut connection;
    // What fails here fails because the connection is gone already.
    let _ = stream.send(&goodbye).await;
    let _ = stream.shutdown().await;
    let mut nothing = [0; 4096];
    loop {
        if owes {
            dialer.cancel(*peer, key).await;
        }
        let end = async {
            while stream
                .receive(&mut nothing)
                .await
                .is_ok_and(|count| count > 0)
            {}
        };
        if tokio::time::timeout(CANCEL_AGAIN, end).await.is_ok() {
            return;
        }
    }
}

/// How soon a server that goes on is asked again to cancel.
const CANCEL_AGAIN: Duration = Duration::from_secs(1);
