//! From an authenticated client to a session: what PostgreSQL would greet it with.
//!
//! The first client of a (database, user, startup settings) has a server asked; the answer is kept for a
//! while, so that later ones need none. Knows nothing of how the client proved who it is.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use super::context::Context;
use super::ending::NoServer;
use super::endpoint::{Desk, Endpoint, Entry, Greeting};
use super::handle::{Place, Sessions};
use super::hidden;
use super::listen::Hubs;
use super::servers::shorten;
use super::{Lease, Parts, Session};
use crate::error::ToClient;
use crate::metrics::Traffic;
use crate::net::Stream;
use crate::pool::{BorrowError, PoolId};
use crate::protocol::SqlState;
use crate::protocol::reply::{
    ErrorReply, Severity, TxStatus, put_backend_key_data, put_parameter_status, put_ready_for_query,
};
use crate::server::connection::CommandError;
use crate::server::{ConnectError, Fault, Parameters, Refusal, Settings};

/// A client that has proved who it is, and what it asked for.
pub struct Newcomer {
    pub client: Stream,
    pub address: Option<SocketAddr>,
    pub unread: Vec<u8>,
    pub user: String,
    pub database: String,
    pub settings: Settings,
    pub protocol_minor: u16,
    /// What it has not been sent yet; AuthenticationOk at the end.
    pub greeting: Vec<u8>,
}

/// What a worker has for all its sessions.
pub struct Hall {
    pub context: Rc<Context>,
    pub sessions: Rc<Sessions>,
    pub endpoint: Arc<Endpoint>,
    pub desk: Rc<Desk>,
    pub hubs: Rc<Hubs>,
    traffic: RefCell<HashMap<PoolId, Rc<Traffic>>>,
}

impl Hall {
    pub fn new(
        context: Rc<Context>,
        sessions: Rc<Sessions>,
        endpoint: Arc<Endpoint>,
        desk: Rc<Desk>,
        hubs: Rc<Hubs>,
    ) -> Hall {
        Hall {
            context,
            sessions,
            endpoint,
            desk,
            hubs,
            traffic: RefCell::default(),
        }
    }

    /// What this worker's sessions count of a pool.
    fn traffic(&self, entry: &Entry) -> Rc<Traffic> {
        let mut pools = self.traffic.borrow_mut();
        let known = pools.entry(entry.pool);
        Rc::clone(known.or_insert_with(|| Rc::new(self.endpoint.traffic(entry))))
    }
}

/// The client is not let in: what it is to be sent, and who is to blame.
pub struct TurnedAway {
    pub client: Stream,
    pub farewell: Vec<u8>,
    pub sqlstate: String,
}

/// While it waits for a server, a client may send so much ahead.
const MAX_AHEAD_BYTES: usize = 64 * 1024;

/// Greets a client. Cancel-safe: dropped, the client is hung up on and nothing is left behind.
pub async fn log_in(mut newcomer: Newcomer, hall: &Hall) -> Result<Box<Session>, TurnedAway> {
    let mut greeting = std::mem::take(&mut newcomer.greeting);
    let outcome = greet(&mut newcomer, hall, &mut greeting).await;
    match outcome {
        Ok((entry, place, settings, told)) => Ok(Box::new(Session::new(Parts {
            client: newcomer.client,
            address: newcomer.address,
            unread: newcomer.unread,
            desk: Rc::clone(&hall.desk),
            endpoint: Arc::clone(&hall.endpoint),
            hubs: Rc::clone(&hall.hubs),
            traffic: hall.traffic(&entry),
            entry,
            context: Rc::clone(&hall.context),
            place,
            settings,
            told,
            greeting,
        }))),
        Err(refusal) => {
            greeting.extend_from_slice(&refusal);
            let state = refusal
                .get(5..)
                .and_then(|body| crate::protocol::reply::error_field(body, b'C'));
            Err(TurnedAway {
                client: newcomer.client,
                sqlstate: String::from_utf8_lossy(state.unwrap_or_default()).into_owned(),
                farewell: greeting,
            })
        }
    }
}

type Greeted = (Arc<Entry>, Place, Arc<Settings>, Arc<Parameters>);

async fn greet(
    newcomer: &mut Newcomer,
    hall: &Hall,
    out: &mut Vec<u8>,
) -> Result<Greeted, Arc<[u8]>> {
    let entry = hall
        .endpoint
        .entry(&newcomer.database, &newcomer.user)
        .ok_or_else(|| {
            fatal(
                SqlState::TOO_MANY_CONNECTIONS,
                "too many different databases and users",
            )
        })?;
    let settings = Arc::new(std::mem::take(&mut newcomer.settings));
    let Greeting {
        settings, outcome, ..
    } = match hall.endpoint.greeting(entry.pool, &settings) {
        Some(known) => known,
        None => ask(newcomer, hall, &entry, settings).await?,
    };
    let told = outcome?;
    let place = hall
        .sessions
        .enter(newcomer.protocol_minor)
        .ok_or_else(|| {
            fatal(
                SqlState::INTERNAL_ERROR,
                "the system has no randomness to give",
            )
        })?;
    for (name, value) in told.iter() {
        put_parameter_status(out, name, value);
    }
    put_backend_key_data(out, &place.handle.key);
    put_ready_for_query(out, TxStatus::Idle);
    Ok((entry, place, settings, told))
}

/// Has a server asked what these settings make of it.
async fn ask(
    newcomer: &mut Newcomer,
    hall: &Hall,
    entry: &Entry,
    settings: Arc<Settings>,
) -> Result<Greeting, Arc<[u8]>> {
    let mut lease = borrow(newcomer, hall, entry, &settings).await?;
    // While this one waited, another of its kind may have asked.
    if let Some(known) = hall.endpoint.greeting(entry.pool, &settings) {
        lease.release();
        return Ok(known);
    }
    let limit = hall.desk.reset_timeout();
    let applied = tokio::time::timeout(limit, lease.apply(&settings)).await;
    let outcome = match applied.unwrap_or(Err(CommandError::Silent(limit))) {
        Ok(()) => Ok(Arc::clone(&lease.parameters)),
        Err(CommandError::Refused(error)) => Err(as_fatal(&error)),
        // Nothing is known then, and nothing kept.
        Err(broken) => {
            lease.close();
            let message = format!("the connection to {} was lost: {broken}", entry.target_name);
            return Err(fatal(SqlState::CONNECTION_FAILURE, &message));
        }
    };
    if entry.finds.take_due(Instant::now()) {
        let names = tokio::time::timeout(limit, lease.names(hidden::QUERY)).await;
        let names = names.map_err(|_| CommandError::Silent(limit).to_string());
        match names.and_then(|names| names.map_err(|error| error.to_string())) {
            Ok(names) => entry.finds.set(names),
            Err(error) => {
                tracing::warn!(error, database = %entry.database, "functions and triggers could not be looked through");
                lease.close();
                return Ok(hall.endpoint.keep_greeting(entry.pool, &settings, outcome));
            }
        }
    }
    // What was refused has left nothing, or is cleaned away.
    if lease.is_clean() {
        lease.release();
    }
    Ok(hall.endpoint.keep_greeting(entry.pool, &settings, outcome))
}

/// Waits for a server, as long as the client does.
async fn borrow(
    newcomer: &mut Newcomer,
    hall: &Hall,
    entry: &Entry,
    settings: &Settings,
) -> Result<Lease, Arc<[u8]>> {
    if let Some(lease) = hall.desk.try_borrow(entry.pool) {
        return Ok(lease);
    }
    let refused = |error: BorrowError<Arc<ConnectError>>| match &error {
        BorrowError::Refused(cause) if matches!(cause.fault, Fault::Refused(_)) => {
            let mut out = Vec::new();
            if let Some(refusal) = cause.refusal() {
                refusal.put_as(Severity::Fatal, &mut out);
            }
            Arc::from(out)
        }
        _ => {
            let refusal = NoServer {
                error: &error,
                target: &entry.target_name,
            };
            encode(&ErrorReply {
                severity: Severity::Fatal,
                ..refusal.to_reply()
            })
        }
    };
    let mut waiting = hall.desk.borrow(entry.pool).map_err(refused)?;
    shorten(&mut waiting, settings);
    let mut waiting = pin!(waiting);
    let (client, unread) = (&mut newcomer.client, &mut newcomer.unread);
    let outcome = poll_fn(|cx| {
        if let Poll::Ready(outcome) = waiting.as_mut().poll(cx) {
            return Poll::Ready(outcome.map_err(refused));
        }
        let mut buffer = [0; 1024];
        while unread.len() < MAX_AHEAD_BYTES {
            match client.poll_read_into(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) if count > 0 => {
                    unread.extend_from_slice(buffer.get(..count).unwrap_or_default());
                }
                // Nobody is left to be told.
                Poll::Ready(_) => return Poll::Ready(Err(Arc::from([]))),
            }
        }
        Poll::Pending
    });
    outcome.await
}

fn fatal(sqlstate: SqlState, message: &str) -> Arc<[u8]> {
    encode(&ErrorReply {
        severity: Severity::Fatal,
        sqlstate,
        message: message.into(),
        detail: None,
        hint: None,
    })
}

fn encode(reply: &ErrorReply) -> Arc<[u8]> {
    let mut out = Vec::new();
    reply.put(&mut out);
    out.into()
}

/// PostgreSQL refuses settings at login with FATAL; asked later, it says ERROR.
fn as_fatal(error: &[u8]) -> Arc<[u8]> {
    let mut out = Vec::new();
    Refusal::new(error).put_as(Severity::Fatal, &mut out);
    out.into()
}
