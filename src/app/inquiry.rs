//! Users looked up in the database: by whom, with which statement, over which connection.
//!
//! Knows the query; what is remembered of its answers, `secrets` knows. Asked by all workers, answered by one, whose
//! pools its connections count in.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::errand::{self, Inbox};
use super::shared::Shared;
use crate::config::Secret;
use crate::error::ToClient;
use crate::pool::Lease;
use crate::secrets::{Ask, Found};
use crate::server::dialer::Dialer;
use crate::server::settings::put_literal;
use crate::server::simple::Row;
use crate::session::Kind;
use crate::session::ending::NoServer;
use crate::session::endpoint::{Desks, Entry};
use crate::session::queue::{self, Asked, Unserved};
use crate::topology::Role;
use crate::topology::board::Fallback;

/// For one answer, once there is a connection.
const ANSWER: Duration = Duration::from_secs(5);

/// How a question is asked, and where it is to be answered.
pub fn open() -> (Ask, Inbox<String, Found>) {
    let (bell, inbox) = errand::open();
    let ask = move |user: String| {
        let bell = Arc::clone(&bell);
        let asking = async move {
            let found = bell.ask(user).await;
            found.unwrap_or_else(|| Err("Weir is ending".to_owned()))
        };
        Box::pin(asking) as _
    };
    (Arc::new(ask), inbox)
}

/// Answers for ever. Cancel-safe: what is being asked ends with it.
pub async fn answer(inbox: Inbox<String, Found>, desks: Rc<Desks>, shared: Arc<Shared>) {
    let work = |user: String, answer: oneshot::Sender<Found>| {
        let (desks, shared) = (Rc::clone(&desks), Arc::clone(&shared));
        async move {
            // Whoever asked may have gone.
            let _ = answer.send(look_up(&user, &desks, &shared).await);
        }
    };
    inbox.answer(work).await;
}

async fn look_up(user: &str, desks: &Rc<Desks>, shared: &Shared) -> Found {
    let config = shared.config.load_full();
    let Some(asker) = &config.query_user else {
        return Err("auth.query_user is not set".to_owned());
    };
    let entry = desks
        .endpoint
        .entry(&config.database.name, &asker.name.as_str().into());
    let entry = entry.ok_or("too many different databases and users")?;
    let patience = config.auth.handshake_timeout;
    let borrowing = tokio::time::timeout(patience, borrow(&entry, desks));
    let mut lease = borrowing
        .await
        .map_err(|_| format!("no connection within {patience:?}"))??;
    // Not cut short but by its own limit: a connection must not go back with half an answer on it.
    match tokio::time::timeout(ANSWER, lease.rows(&statement(&config.auth.query, user))).await {
        Ok(Ok(rows)) => {
            lease.release();
            read(user, rows)
        }
        Ok(Err(error)) => {
            lease.close();
            Err(format!("auth.query: {error}"))
        }
        Err(_) => {
            lease.close();
            Err(format!("auth.query took longer than {ANSWER:?}"))
        }
    }
}

/// At the writer, which alone may know a user that was just made.
async fn borrow(entry: &Entry, desks: &Rc<Desks>) -> Result<Lease<Dialer>, String> {
    let said = |error: Unserved| {
        let refusal = NoServer {
            error: &error,
            endpoint: &desks.endpoint,
        };
        match refusal.detail() {
            Some(detail) => format!("{}: {detail}", refusal.message()),
            None => refusal.message(),
        }
    };
    let kind = Kind {
        role: Role::Writer,
        fallback: Fallback::None,
    };
    match queue::ask(kind, desks, entry.pool) {
        Asked::Served(lease) => Ok(lease),
        Asked::Queued(mut queue) => poll_fn(|cx| queue.poll(cx)).await.map_err(said),
        Asked::Refused(error) => Err(said(error)),
    }
}

/// `$1` becomes the user's name, quoted so that it is a name and nothing else.
fn statement(query: &str, user: &str) -> String {
    let mut literal = Vec::new();
    put_literal(&mut literal, user.as_bytes());
    query.replace("$1", &String::from_utf8_lossy(&literal))
}

/// One row at most, of name and verifier.
fn read(user: &str, rows: Vec<Row>) -> Found {
    let mut rows = rows.into_iter();
    match (rows.next(), rows.next()) {
        (None, _) => Ok(None),
        (Some(row), None) => {
            let Ok([name, verifier]) = <[Option<Vec<u8>>; 2]>::try_from(row) else {
                return Err("auth.query gives other columns than two: name and verifier".to_owned());
            };
            if name.as_deref() != Some(user.as_bytes()) {
                return Ok(None);
            }
            let text = |bytes| String::from_utf8(bytes).map(Secret::new);
            let verifier = verifier.map(text).transpose();
            verifier.map_err(|_| "auth.query gives a verifier that is no text".to_owned())
        }
        (Some(_), Some(_)) => Err("auth.query gives more than one row".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_name_and_nothing_else() {
        let statement = |user| statement("SELECT * FROM f($1)", user);
        assert_eq!(statement("app"), "SELECT * FROM f(E'app')");
        assert_eq!(
            statement("a'; DROP TABLE x; --\\"),
            "SELECT * FROM f(E'a''; DROP TABLE x; --\\\\')"
        );
        assert_eq!(statement("$1\u{e9}"), "SELECT * FROM f(E'$1\\xc3\\xa9')");
    }

    #[test]
    fn one_row_of_name_and_verifier() {
        let row = |values: &[Option<&str>]| -> Row {
            values
                .iter()
                .map(|value| value.map(|v| v.as_bytes().to_vec()))
                .collect()
        };
        let read = |rows: &[&[Option<&str>]]| {
            let found = read("app", rows.iter().map(|values| row(values)).collect());
            found.map(|text| text.map(|text| text.expose().clone()))
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[&[Some("app"), Some("v")]]), Ok(Some("v".into())));
        assert_eq!(read(&[&[Some("app"), None]]), Ok(None));
        assert_eq!(read(&[&[Some("other"), Some("v")]]), Ok(None));
        assert!(read(&[&[Some("v")]]).is_err());
        assert!(read(&[&[Some("app"), Some("v")], &[Some("app"), Some("v")]]).is_err());
    }
}
