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
use super::endpoint::{Desks, Endpoint, Entry, Greeting};
use super::handle::{Place, Sessions};
use super::hidden;
use super::listen::Hubs;
use super::queue::{self, Asked, Unserved};
use super::servers::shorten;
use super::{Kind, Lease, Parts, Session};
use crate::error::ToClient;
use crate::metrics::Traffic;
use crate::net::Stream;
use crate::pool::{BorrowError, PoolId};
use crate::protocol::SqlState;
use crate::protocol::reply::{
    ErrorReply, Severity, TxStatus, put_backend_key_data, put_ready_for_query,
};
use crate::server::connection::CommandError;
use crate::server::{Fault, Parameters, Refusal, Settings};

/// A client that has proved who it is, and what it asked for.
pub struct Newcomer {
    pub client: Stream,
    pub address: Option<SocketAddr>,
    pub unread: Vec<u8>,
    pub user: Arc<str>,
    pub database: String,
    pub settings: Settings,
    pub protocol_minor: u16,
    /// What it has not been sent yet; AuthenticationOk at the end.
    pub greeting: Vec<u8>,
    /// Where it is to be served.
    pub kind: Kind,
}

/// What a worker has for all its sessions.
pub struct Hall {
    pub context: Rc<Context>,
    pub sessions: Rc<Sessions>,
    pub desks: Rc<Desks>,
    pub kind: Kind,
    pub hubs: Rc<Hubs>,
    traffic: RefCell<HashMap<PoolId, Rc<Traffic>, foldhash::fast::RandomState>>,
}

impl Hall {
    pub fn new(
        context: Rc<Context>,
        sessions: Rc<Sessions>,
        desks: Rc<Desks>,
        kind: Kind,
        hubs: Rc<Hubs>,
    ) -> Hall {
        Hall {
            context,
            sessions,
            desks,
            kind,
            hubs,
            traffic: RefCell::default(),
        }
    }

    /// What this worker's sessions count of a pool.
    fn traffic(&self, entry: &Entry) -> Rc<Traffic> {
        let mut pools = self.traffic.borrow_mut();
        let known = pools.entry(entry.pool);
        Rc::clone(known.or_insert_with(|| Rc::new(self.endpoint().traffic(entry))))
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.desks.endpoint
    }
}

/// The client is not let in: what it is to be sent, and who is to blame.
pub struct TurnedAway {
    pub client: Stream,
    pub farewell: Vec<u8>,
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
            desks: Rc::clone(&hall.desks),
            kind: newcomer.kind,
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
            let sqlstate = String::from_utf8_lossy(state.unwrap_or_default());
            tracing::info!(%sqlstate, client = newcomer.address.map(tracing::field::display), user = %newcomer.user,
                database = %newcomer.database, "a client that is who it says gets no session");
            Err(TurnedAway {
                client: newcomer.client,
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
        .endpoint()
        .entry(&newcomer.database, &newcomer.user)
        .ok_or_else(|| {
            fatal(
                SqlState::TOO_MANY_CONNECTIONS,
                "too many different databases and users",
            )
        })?;
    let settings = Arc::new(std::mem::take(&mut newcomer.settings));
    let Greeting {
        settings,
        outcome,
        told: block,
        ..
    } = match hall
        .endpoint()
        .greeting(entry.pool, newcomer.kind.role, &settings)
    {
        Some(known) => known,
        // Boxed: few clients need its room, which is several times that of all the rest.
        None => Box::pin(ask(newcomer, hall, &entry, settings)).await?,
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
    out.reserve(block.len() + ROOM_FOR_KEY);
    out.extend_from_slice(&block);
    put_backend_key_data(out, &place.handle.key);
    put_ready_for_query(out, TxStatus::Idle);
    Ok((entry, place, settings, told))
}

/// BackendKeyData and ReadyForQuery, with the longest key that there is of ours.
const ROOM_FOR_KEY: usize = 64;

/// How many servers may be lost under one login.
const MAX_LOST: usize = 3;

/// Has a server asked what these settings make of it; another one, should it be lost meanwhile.
async fn ask(
    newcomer: &mut Newcomer,
    hall: &Hall,
    entry: &Entry,
    settings: Arc<Settings>,
) -> Result<Greeting, Arc<[u8]>> {
    let mut lost = 0;
    loop {
        match ask_one(newcomer, hall, entry, &settings).await {
            Err(Lost(cause)) if lost == MAX_LOST => {
                let message = format!("the connection to {} was lost: {cause}", entry.target_name);
                return Err(fatal(SqlState::CONNECTION_FAILURE, &message));
            }
            Err(Lost(_)) => lost += 1,
            Ok(outcome) => return outcome,
        }
    }
}

/// The server was lost before it said anything.
struct Lost(String);

/// Makes the settings so, unless the cluster has another writer before that is done.
async fn apply(
    lease: &mut Lease,
    settings: &Arc<Settings>,
    hall: &Hall,
) -> Result<(), CommandError> {
    let board = &hall.endpoint().board;
    let epoch = board.view().epoch;
    let mut changes = board.watch();
    let mut applying = pin!(lease.apply(settings));
    loop {
        tokio::select! {
            outcome = &mut applying => return outcome,
            Ok(()) = changes.changed() => if board.view().epoch != epoch {
                return Err(CommandError::Closed);
            },
        }
    }
}

async fn ask_one(
    newcomer: &mut Newcomer,
    hall: &Hall,
    entry: &Entry,
    settings: &Arc<Settings>,
) -> Result<Result<Greeting, Arc<[u8]>>, Lost> {
    let mut lease = match borrow(newcomer, hall, entry, settings).await {
        Ok(lease) => lease,
        Err(refusal) => return Ok(Err(refusal)),
    };
    // While this one waited, another of its kind may have asked.
    if let Some(known) = hall
        .endpoint()
        .greeting(entry.pool, newcomer.kind.role, settings)
    {
        lease.release();
        return Ok(Ok(known));
    }
    let limit = lease.desk().reset_timeout();
    let applied = tokio::time::timeout(limit, apply(&mut lease, settings, hall)).await;
    let outcome = match applied.unwrap_or(Err(CommandError::Silent(limit))) {
        Ok(()) => Ok(Arc::clone(&lease.parameters)),
        Err(CommandError::Refused(error)) => Err(as_fatal(&error)),
        // Nothing is known then, and nothing kept.
        Err(broken) => {
            lease.close();
            return Err(Lost(broken.to_string()));
        }
    };
    if entry.finds.take_due(Instant::now()) {
        let names = tokio::time::timeout(limit, lease.names(hidden::QUERY)).await;
        let names = names.map_err(|_| CommandError::Silent(limit).to_string());
        match names.and_then(|names| names.map_err(|error| error.to_string())) {
            Ok(names) => entry.found(names),
            Err(error) => {
                tracing::warn!(error, database = %entry.database, "functions and triggers could not be looked through");
                lease.close();
                let endpoint = hall.endpoint();
                let role = newcomer.kind.role;
                return Ok(Ok(
                    endpoint.keep_greeting(entry.pool, role, settings, outcome)
                ));
            }
        }
    }
    // What was refused has left nothing, or is cleaned away.
    if lease.is_clean() {
        lease.release();
    }
    let endpoint = hall.endpoint();
    Ok(Ok(endpoint.keep_greeting(
        entry.pool,
        newcomer.kind.role,
        settings,
        outcome,
    )))
}

/// Waits for a server, as long as the client does.
async fn borrow(
    newcomer: &mut Newcomer,
    hall: &Hall,
    entry: &Entry,
    settings: &Settings,
) -> Result<Lease, Arc<[u8]>> {
    let refused = |error: Unserved| match &error {
        Unserved::Borrow(BorrowError::Refused(cause))
            if matches!(cause.fault, Fault::Refused(_)) =>
        {
            let mut out = Vec::new();
            if let Some(refusal) = cause.refusal() {
                refusal.put_as(Severity::Fatal, &mut out);
            }
            Arc::from(out)
        }
        _ => {
            let refusal = NoServer {
                error: &error,
                endpoint: hall.endpoint(),
            };
            encode(&ErrorReply {
                severity: Severity::Fatal,
                ..refusal.to_reply()
            })
        }
    };
    let mut waiting = match queue::ask(newcomer.kind, &hall.desks, entry.pool) {
        Asked::Served(lease) => return Ok(lease),
        Asked::Queued(waiting) => waiting,
        Asked::Refused(error) => return Err(refused(error)),
    };
    shorten(&mut waiting, settings);
    let (client, unread) = (&mut newcomer.client, &mut newcomer.unread);
    let outcome = poll_fn(|cx| {
        if let Poll::Ready(outcome) = waiting.poll(cx) {
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
