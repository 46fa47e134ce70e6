//! Clients' tokens tried at the database: a login as the client's own would be.
//!
//! Knows what the database's answer says of a token. A connection that comes of it joins its user's pool: it belongs to
//! exactly that role. Asked by all workers, done by one.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::errand::{self, Inbox};
use crate::client::iam::upstream::{Attempt, Prober, Tried};
use crate::secrets::Password;
use crate::server::dialer::Account;
use crate::server::{ConnectError, Credential, Failure, Fault};
use crate::session::endpoint::Desks;
use crate::topology::Place;

/// How a token is tried, and where it is to be done.
pub fn open() -> (Prober, Inbox<Attempt, Tried>) {
    let (bell, inbox) = errand::open();
    let prober = move |attempt: Attempt| {
        let bell = Arc::clone(&bell);
        let trying = async move {
            let tried = bell.ask(attempt).await;
            tried.unwrap_or_else(|| Tried::Unanswered("Weir is ending".into()))
        };
        Box::pin(trying) as _
    };
    (Arc::new(prober), inbox)
}

/// Tries for ever. Cancel-safe: logins that are going on end with it.
pub async fn answer(inbox: Inbox<Attempt, Tried>, desks: Rc<Desks>) {
    let work = |attempt, answer| attempt_login(attempt, answer, Rc::clone(&desks));
    inbox.answer(work).await;
}

/// Not given up once the login has begun, whoever asked: the database would go on with it, and hold a connection that
/// nobody counts.
async fn attempt_login(attempt: Attempt, mut answer: oneshot::Sender<Tried>, desks: Rc<Desks>) {
    let Some(place) = somewhere(&desks) else {
        let nobody = "no instance of the database can be asked";
        let _ = answer.send(Tried::Unanswered(nobody.into()));
        return;
    };
    let Some(desk) = desks.at(place) else {
        let gone = "the instance that was to be asked has left";
        let _ = answer.send(Tried::Unanswered(gone.into()));
        return;
    };
    let room = tokio::select! {
        room = desk.room() => room,
        () = answer.closed() => return,
    };
    let account = Account {
        database: attempt.database.into(),
        user: attempt.user.into(),
    };
    let shown = Credential::Token(Arc::new(Password::new(attempt.token)));
    let dialer = &desk.target().manage;
    match dialer.try_credential(&account, &shown).await {
        Ok(opened) => {
            let _ = answer.send(Tried::LetIn);
            // Only now: whoever has no good token makes no pools.
            let entry = desks.endpoint.entry(&account.database, &account.user);
            if let Some(entry) = entry {
                let customer = desk.target().key(entry.pool);
                customer.meters.opened.increment(1);
                desk.take_in(room, entry.pool, opened);
            }
        }
        Err(error) => {
            let _ = answer.send(read(&error));
            room.failed(Arc::new(error));
        }
    }
}

/// The writer; while there is none, a reader, which knows the same roles.
fn somewhere(desks: &Desks) -> Option<Place> {
    let view = desks.endpoint.board.view();
    let reader = || view.readers().next().map(|(place, _)| place);
    view.writer.or_else(reader)
}

fn read(error: &ConnectError) -> Tried {
    let sqlstate = error.refusal().map(|refusal| refusal.sqlstate());
    match (&error.fault, error.failure(), sqlstate) {
        (Fault::Refused(_), Failure::Denied, Some([b'2', b'8', ..])) => Tried::Refused,
        // Only who has been let in is told that the database is not there, or not for him, or what comes next.
        (Fault::Refused(_), Failure::NoSuchDatabase | Failure::Denied, _)
        | (Fault::InitQuery(_) | Fault::InitQueryLeftOpen, _, _) => Tried::LetIn,
        _ => Tried::Unanswered(error.to_string().into()),
    }
}
