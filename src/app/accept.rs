//! A client's way through the house: from the listener to its session, and out again.
//!
//! Knows the order of rooms; what happens in them, `client` and `session` know.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

use super::shared::{Admittance, Seat, Shared};
use super::wish;
use crate::client::{self, Admission, Authenticated};
use crate::error::ToClient;
use crate::metrics::Transport;
use crate::net::listen::{self, AcceptError};
use crate::net::proxy_header::{self, Introduced, NotIntroduced};
use crate::protocol::reply::{ErrorReply, Severity};
use crate::protocol::{CancelKey, SqlState};
use crate::server::Settings;
use crate::session::Session;
use crate::session::handle::{CancelOutcome, Whose};
use crate::session::login::{self, Hall, Newcomer, TurnedAway};

/// Where a listener leads.
#[derive(Clone)]
pub struct Door {
    pub hall: Rc<Hall>,
    pub shared: Arc<Shared>,
}

/// Who has just come to one.
struct Arrival {
    tcp: TcpStream,
    address: SocketAddr,
    door: Door,
}

/// Accepts for ever. Cancel-safe.
pub async fn stand_at(listener: TcpListener, door: Door, guests: Rc<Guests>) {
    loop {
        match listen::accept(&listener).await {
            Ok((tcp, address)) => guests.let_in(Arrival {
                tcp,
                address,
                door: door.clone(),
            }),
            Err(AcceptError::Gone(error)) => {
                tracing::debug!(%error, "a client was gone before it was accepted")
            }
            Err(AcceptError::Exhausted(error)) => {
                tracing::warn!(%error, "no client can be accepted");
                tokio::time::sleep(AcceptError::PAUSE).await;
            }
        }
    }
}

/// The clients that are being served at one worker. Their tasks are the worker's event loop's: with it they end.
#[derive(Default)]
pub struct Guests {
    present: Cell<usize>,
    empty: Notify,
}

/// Counts as served until dropped.
struct Guest(Rc<Guests>);

impl Drop for Guest {
    fn drop(&mut self) {
        let left = self.0.present.get() - 1;
        self.0.present.set(left);
        if left == 0 {
            self.0.empty.notify_waiters();
        }
    }
}

impl Guests {
    fn let_in(self: &Rc<Self>, arrival: Arrival) {
        self.present.set(self.present.get() + 1);
        tokio::task::spawn_local(receive(arrival, Guest(Rc::clone(self))));
    }

    /// Until the last has left. Cancel-safe.
    pub async fn gone(&self) {
        let mut empty = pin!(self.empty.notified());
        empty.as_mut().enable();
        if self.present.get() > 0 {
            empty.await;
        }
    }
}

/// One client, from its first byte to its last. The large steps are boxed and gone once they are done,
/// so that an idle client's task is small, and what is polled for each of its queries too.
async fn receive(arrival: Arrival, _guest: Guest) {
    if let Some((session, _seat)) = Box::pin(welcome(arrival)).await {
        session.run().await;
    }
}

/// All that comes before a session, if it comes to one.
async fn welcome(arrival: Arrival) -> Option<(Seated, Seat)> {
    let Arrival {
        mut tcp,
        address: peer,
        door,
    } = arrival;
    let meters = &door.hall.context.clients;
    meters.accepted.increment(1);
    let started = std::time::Instant::now();
    let gate = door.shared.gate.load_full();
    let admittance = door.shared.sit_down();
    let address = match is_to_introduce(peer, &door) {
        true => Box::pin(introduce(&mut tcp, peer, &door)).await?,
        false => peer,
    };
    let (admission, seat) = match admittance {
        Admittance::Seat(seat) => (client::admit(tcp, address, &gate).await, seat),
        Admittance::Full(seat) => {
            let full = full_house(door.shared.config.load().listen.max_clients);
            (
                Box::pin(client::turn_away(tcp, address, &gate, full)).await,
                seat,
            )
        }
    };
    drop(gate);
    let authenticated = match admission {
        Ok(Admission::Session(authenticated)) => authenticated,
        Ok(Admission::Cancel { key, stream }) => {
            Box::pin(pass_on_cancel(&door, key)).await;
            drop(stream);
            return None;
        }
        Ok(Admission::Left) => return None,
        Err(refused) => {
            meters.refused(refused.sqlstate());
            meters.login_failed(refused.reason());
            return None;
        }
    };
    let session = enter(authenticated, address, &door).await?;
    meters.logins.increment(1);
    meters.handshake.record(started.elapsed());
    Some((session, seat))
}

/// Whether this peer is a load balancer that is to say for whom it comes.
fn is_to_introduce(peer: SocketAddr, door: &Door) -> bool {
    let config = door.shared.config.load();
    let from = &config.listen.proxy_protocol_from;
    from.iter().any(|network| network.contains(peer.ip()))
}

/// Where the client is, as the load balancer says. `None`: it was to say so, and did not.
async fn introduce(tcp: &mut TcpStream, peer: SocketAddr, door: &Door) -> Option<SocketAddr> {
    let limit = door.shared.config.load().auth.handshake_timeout;
    let outcome = tokio::time::timeout(limit, proxy_header::read(tcp)).await;
    let problem = match outcome {
        Ok(Ok(Introduced::Client(client))) => return Some(client),
        Ok(Ok(Introduced::Itself)) => return Some(peer),
        // A health check that connects and says nothing.
        Ok(Err(NotIntroduced::Left)) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it did not come within {limit:?}"),
    };
    tracing::warn!(
        %peer,
        problem,
        "client refused: listen.proxy_protocol_from has this peer begin with a PROXY protocol v2 header"
    );
    let meters = &door.hall.context.clients;
    meters.refused(SqlState::PROTOCOL_VIOLATION);
    meters.login_failed("proxy_protocol");
    None
}

async fn enter(
    authenticated: Box<Authenticated>,
    address: SocketAddr,
    door: &Door,
) -> Option<Seated> {
    let Authenticated {
        stream,
        unread,
        greeting,
        user,
        mut database,
        mut settings,
        minor,
        replication,
    } = *authenticated;
    let client = stream;
    if replication.is_some() {
        let refusal = ErrorReply {
            severity: Severity::Fatal,
            sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
            message: "replication connections are not pooled".into(),
            detail: None,
            hint: Some("Connect to the database itself for replication.".into()),
        };
        return Box::pin(refuse(client, greeting, &refusal)).await;
    }
    let config = door.shared.config.load_full();
    let suffix = config.cluster.reader_suffix.as_deref();
    let kind = match wish::kind(door.hall.kind, suffix, &mut database, &mut settings) {
        Ok(kind) => kind,
        Err(refusal) => return Box::pin(refuse(client, greeting, &refusal)).await,
    };
    let transport = if client.is_tls() {
        Transport::Tls
    } else {
        Transport::InClear
    };
    let newcomer = Newcomer {
        client,
        address: Some(address),
        unread,
        user,
        database,
        settings: Settings::new(settings),
        protocol_minor: minor,
        greeting,
        kind,
    };
    match login::log_in(newcomer, &door.hall).await {
        Ok(session) => Some(Seated::new(session, transport, Rc::clone(&door.hall))),
        Err(TurnedAway {
            mut client,
            farewell,
        }) => {
            door.hall.context.clients.login_failed("database");
            Box::pin(dismiss(&mut client, &farewell)).await;
            None
        }
    }
}

async fn refuse(
    mut client: crate::net::Stream,
    mut farewell: Vec<u8>,
    refusal: &ErrorReply,
) -> Option<Seated> {
    tracing::info!(sqlstate = %refusal.sqlstate, message = %refusal.message, "a client asked for what is not here");
    refusal.put(&mut farewell);
    dismiss(&mut client, &farewell).await;
    None
}

/// A session that counts among the connected clients.
struct Seated {
    session: Box<Session>,
    present: Present,
}

/// Counts as connected until dropped.
struct Present {
    transport: Transport,
    hall: Rc<Hall>,
}

impl Seated {
    fn new(session: Box<Session>, transport: Transport, hall: Rc<Hall>) -> Seated {
        hall.context.clients.connected(transport).increment(1.0);
        Seated {
            session,
            present: Present { transport, hall },
        }
    }

    async fn run(self) {
        let _present = self.present;
        self.session.run().await;
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let clients = &self.hall.context.clients;
        clients.connected(self.transport).decrement(1.0);
    }
}

/// How long a client that is sent away may take to hear why.
const FAREWELL: Duration = Duration::from_secs(2);

async fn dismiss(client: &mut crate::net::Stream, farewell: &[u8]) {
    let telling = async {
        client.send(farewell).await?;
        client.shutdown().await?;
        let mut nothing = [0; 512];
        while client.receive(&mut nothing).await? > 0 {}
        io::Result::Ok(())
    };
    // One that is gone need not be told.
    let _ = tokio::time::timeout(FAREWELL, telling).await;
}

fn full_house(max_clients: usize) -> ErrorReply {
    ErrorReply {
        severity: Severity::Fatal,
        sqlstate: SqlState::TOO_MANY_CONNECTIONS,
        message: "sorry, too many clients already".into(),
        detail: Some(format!("Weir takes {max_clients} clients at a time.")),
        hint: Some("Close idle connections; or raise listen.max_clients.".into()),
    }
}

/// Hands a cancel request to whoever gave out its key; returns when it has been dealt with.
async fn pass_on_cancel(door: &Door, key: CancelKey) {
    let meters = &door.hall.context.clients;
    meters.cancels_received.increment(1);
    let (shared, own) = (&door.shared, &door.hall.sessions);
    let whose = shared.numbering().whose(&key);
    let elsewhere = async {
        let tag = match (whose, &shared.fleet) {
            (Whose::Task(tag), Some(fleet)) => Some((tag, fleet)),
            // Another task may have the same tag.
            (Whose::Worker(_), Some(fleet)) => Some((fleet.tag(), fleet)),
            (Whose::Nobodys, _) | (_, None) => None,
        };
        match tag {
            Some((tag, fleet)) => fleet.forward(tag, &key).await,
            None => false,
        }
    };
    let here = async {
        match whose {
            Whose::Worker(worker) if worker == own.worker() => {
                let (done, dealt_with) = oneshot::channel();
                match own.cancel(&key, done) {
                    CancelOutcome::PassedOn => meters.cancels_forwarded.increment(1),
                    CancelOutcome::Unknown => meters.cancels_ignored.increment(1),
                }
                // Its end is the signal, whether or not there was anything to cancel.
                let _ = dealt_with.await;
            }
            Whose::Worker(_) => shared.cancel(key.clone()).await,
            Whose::Task(_) | Whose::Nobodys => {}
        }
    };
    let ((), forwarded) = tokio::join!(here, elsewhere);
    if !forwarded && !matches!(whose, Whose::Worker(_)) {
        meters.cancels_ignored.increment(1);
    }
}
