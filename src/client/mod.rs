//! The side that dialled us: from an accepted socket to a client that has proven who it is.
//!
//! Knows TLS, the startup family and authentication; does not know servers, pools or sessions.
//!
//! Each step is a struct that the next one consumes:
//! `Opening -> Greeted -> Sasl | Md5 | Sealed -> Authenticated`.

mod challenge;
mod failures;
pub mod iam;
mod negotiate;
mod origin;
mod peer;
mod places;
mod ration;
mod refused;
mod sealed;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::{AuthMethod, TlsMode};
use crate::error::{Blame, ToClient};
use crate::metrics;
use crate::net::Stream;
use crate::net::acceptor::Acceptor;
use crate::protocol::CancelKey;
use crate::protocol::opening::Replication;
use crate::protocol::reply::ErrorReply;
use crate::secrets::Vault;

use challenge::Proven;
use failures::Verdict;
pub use failures::{FailureTerms, Failures};
use iam::Iam;
use negotiate::{Opened, Opening};
use origin::Origin;
use peer::{Peer, Stop};
use places::Place;
pub use places::Places;
use ration::Leave;
pub use ration::Ration;
pub use refused::{Refused, WrongPassword};
use sealed::{Approach, Sealed};

/// What clients are admitted by. One for all workers; a new one after a reload.
#[derive(Debug)]
pub struct Gate {
    /// `None`: SSLRequest is answered with N.
    pub tls: Option<Arc<Acceptor>>,
    pub tls_mode: TlsMode,
    /// What clients are asked for. As in PostgreSQL, `Md5` still asks users with a SCRAM verifier for SCRAM.
    pub method: AuthMethod,
    /// How configured users are asked; all others are by `method`.
    pub manners: HashMap<String, Manner>,
    pub vault: Arc<Vault>,
    /// Who comes with a token, and who checks it.
    pub iam: Arc<Iam>,
    /// The database of clients that name none. (PostgreSQL would take the user's name.)
    pub default_database: String,
    pub meters: Arc<metrics::Auth>,
    /// From the accepted socket to the end of the login.
    pub handshake_timeout: Duration,
    /// Bounds logins going on at a time; taken once the first byte has come.
    pub places: Arc<Places>,
    pub failures: Failures,
    /// For lines about clients that are refused.
    pub lines: Ration,
}

/// How one user is asked.
#[derive(Clone, Debug)]
pub struct Manner {
    pub method: AuthMethod,
    /// Common names of the certificates that prove it.
    pub certificate_names: Vec<String>,
}

/// What came of a connection.
#[derive(Debug)]
pub enum Admission {
    Session(Box<Authenticated>),
    /// Drop the stream once the cancel has gone out, not before: clients wait for its end, lest the
    /// cancel hit their next query.
    Cancel {
        key: CancelKey,
        stream: Stream,
    },
    /// The client left before it had said what it wants, or in the middle of the login.
    Left,
}

/// A client that has proven who it is, and does not know it yet.
#[derive(Debug)]
pub struct Authenticated {
    pub stream: Stream,
    /// What the client has sent behind its last answer.
    pub unread: Vec<u8>,
    /// To be sent first, in one write with what follows: ends with AuthenticationOk.
    pub greeting: Vec<u8>,
    pub user: Arc<str>,
    pub database: String,
    /// The client's own settings, names in lower case, in the order they count; a later one wins.
    pub settings: Vec<(String, Vec<u8>)>,
    /// The 3.x that is spoken: from 2 on, cancel keys may be longer than four bytes.
    pub minor: u16,
    pub replication: Option<Replication>,
}

/// Negotiates with whoever dialled and lets in who proves to be a user.
/// Who is refused has been told why, and the connection is closed. Not cancel-safe: dropping it drops the client.
pub async fn admit(tcp: TcpStream, address: SocketAddr, gate: &Gate) -> Result<Admission, Refused> {
    visit(tcp, address, gate, Door::Open).await
}

/// Negotiates as far as `admit` does before it asks for a proof, then refuses with `why`.
/// CancelRequest still comes through. Not cancel-safe.
pub async fn turn_away(
    tcp: TcpStream,
    address: SocketAddr,
    gate: &Gate,
    why: ErrorReply,
) -> Result<Admission, Refused> {
    visit(tcp, address, gate, Door::Shut(Box::new(why))).await
}

enum Door {
    Open,
    Shut(Box<ErrorReply>),
}

enum Passed {
    Proven(Proven),
    Cancel(CancelKey),
}

async fn visit(
    tcp: TcpStream,
    address: SocketAddr,
    gate: &Gate,
    door: Door,
) -> Result<Admission, Refused> {
    let deadline = Instant::now() + gate.handshake_timeout;
    let origin = Origin::of(address);
    let mut peer = Peer::new(tcp);
    let passed = match handshake(&mut peer, gate, door, origin, deadline).await {
        Ok(passed) => passed,
        Err(Stop::Left) => return Ok(Admission::Left),
        Err(Stop::Refused(refused)) => {
            log(&refused, address, gate);
            if refused.is_told() {
                peer.refuse(&refused.to_reply()).await;
            }
            return Err(*refused);
        }
    };
    let Some((stream, unread, greeting)) = peer.into_parts() else {
        return Ok(Admission::Left);
    };
    Ok(match passed {
        Passed::Cancel(key) => Admission::Cancel { key, stream },
        Passed::Proven(proven) => Admission::Session(Box::new(Authenticated {
            stream,
            unread,
            greeting,
            user: proven.user,
            database: proven.database,
            settings: proven.settings,
            minor: proven.minor,
            replication: proven.replication,
        })),
    })
}

/// Everything that the deadline and the bound on logins hold for.
async fn handshake(
    peer: &mut Peer,
    gate: &Gate,
    door: Door,
    origin: Origin,
    deadline: Instant,
) -> Result<Passed, Stop> {
    // One timer for all of it.
    let mut limit = pin!(sleep_until(deadline));
    // Health checks and port scanners connect and say nothing: they take no place from clients.
    let first = within(limit.as_mut(), pin!(peer.first_byte())).await;
    let first = first.unwrap_or(Err(Stop::Left))?;
    let place = within(limit.as_mut(), pin!(gate.places.take(origin))).await;
    let place = place.ok_or(Refused::TooManyLogins)?;
    let stepped = {
        let steps = steps(peer, first, gate, door, origin, place);
        within(limit, pin!(steps)).await
    };
    match stepped.unwrap_or_else(|| Err(Refused::Timeout.into()))? {
        Stepped::Passed(passed) => Ok(passed),
        // It has done its part: what it waits for now is ours to wait for, and has limits of its own.
        // Boxed: few clients need its room, which all of them would carry along.
        Stepped::Sealed(sealed) => {
            let opened = Box::pin(sealed.open(peer, gate, origin)).await;
            opened.map(Passed::Proven)
        }
    }
}

/// What comes of `step`; `None`: the limit came first.
async fn within<T>(limit: Pin<&mut Sleep>, step: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    tokio::select! {
        biased;
        outcome = step => Some(outcome),
        () = limit => None,
    }
}

/// How far a client has come by itself.
enum Stepped {
    Passed(Passed),
    /// It is still to be seen whether its token lets it in.
    Sealed(Sealed),
}

async fn steps(
    peer: &mut Peer,
    first: u8,
    gate: &Gate,
    door: Door,
    origin: Origin,
    place: Place,
) -> Result<Stepped, Stop> {
    let opening = Opening::new(peer, first, gate).await?;
    let greeted = match opening.startup(gate).await? {
        Opened::Cancel(key) => return Ok(Stepped::Passed(Passed::Cancel(key))),
        Opened::Startup(greeted) => greeted,
    };
    match door {
        Door::Open => {
            let _place = doorman(gate, origin, &greeted.startup.user, place).await?;
            match greeted.approach(gate, origin).await? {
                Approach::Challenge(greeted) => {
                    let proven = greeted.prove(gate, origin).await?;
                    Ok(Stepped::Passed(Passed::Proven(proven)))
                }
                Approach::Sealed(sealed) => Ok(Stepped::Sealed(sealed)),
            }
        }
        Door::Shut(why) => Err(Refused::TurnedAway(*why).into()),
    }
}

/// Refuses who has failed too often, before it costs us a proof. Who has to wait does so without a place.
async fn doorman(gate: &Gate, origin: Origin, user: &[u8], place: Place) -> Result<Place, Refused> {
    match gate.failures.verdict(origin, user, Instant::now().into()) {
        Verdict::Welcome => Ok(place),
        Verdict::Wait(delay) => {
            drop(place);
            tokio::time::sleep(delay).await;
            Ok(gate.places.take(origin).await)
        }
        Verdict::TooMany { again_in } => Err(Refused::too_many_failures(user, again_in)),
    }
}

fn log(refused: &Refused, peer: SocketAddr, gate: &Gate) {
    let Leave::Given { left_out } = gate.lines.ask(Instant::now().into()) else {
        return;
    };
    if left_out > 0 {
        tracing::warn!(
            left_out,
            "clients were refused without a line for each: log.refusals_per_second"
        );
    }
    let sqlstate = refused.sqlstate().as_str();
    match refused.blame() {
        Blame::Client => tracing::info!(%peer, sqlstate, reason = %refused, "client refused"),
        Blame::Server | Blame::Proxy => {
            tracing::warn!(%peer, sqlstate, reason = %refused, "client refused");
        }
    }
}

#[cfg(test)]
mod tests;
