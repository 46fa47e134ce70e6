//! One client's conversation: a pure core in a thin shell of IO.
//!
//! `core`, `requests`, `deferred`, `prepared`, `talk` and `pins` decide and know no socket; `pump`, `servers` and `clock`
//! move bytes, servers and time, and do not decide; `login` greets, `handle` is how a session is reached from outside, `listen`
//! carries its channels. This file holds what a
//! session consists of, and how it ends. The task that runs it owns all of it: there is no other.

mod clock;
pub mod context;
pub mod core;
pub mod culprit;
pub mod deferred;
pub mod doubts;
pub mod ending;
pub mod endpoint;
mod errands;
mod eviction;
mod faults;
pub mod handle;
pub mod hidden;
pub mod listen;
pub mod login;
mod loss;
pub mod mending;
pub mod pinboard;
mod pinning;
pub mod pins;
pub mod prepared;
mod pump;
pub mod questions;
pub mod queue;
mod replay;
pub mod requests;
mod servers;
pub mod settings;
mod talk;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use self::clock::Timer;
use self::context::{Context, Limits, Unflushed};
use self::core::{Bounds, Core};
use self::ending::Ending;
use self::endpoint::{Desks, Endpoint, Entry};
use self::errands::Errands;
use self::eviction::Evicting;
use self::handle::{Bell, CancelDone, Place};
use self::listen::{Hubs, Listening};
use self::pinning::Pinning;
use self::pins::Reason;
use self::queue::Queue;
use self::replay::Replays;
use self::settings::Carried;
use crate::config::ListenMode;
use crate::error::ToClient;
use crate::metrics::Traffic;
use crate::net::Stream;
use crate::net::buf::Buf;
use crate::pool;
use crate::server::sequences::{Turn, Users};
use crate::server::{Dialer, Parameters, Settings};
use crate::topology::Role;

pub use self::queue::Kind;

type Lease = pool::Lease<Dialer>;

/// Where the client's server connection is.
enum Link {
    /// It has none and needs none.
    Free,
    /// In the queue for one.
    Waiting(Box<Queue>),
    Leased(Lease),
}

/// Whether the client is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    /// It will send no more: it half-closed, or it is gone. What it had asked for is carried out, as
    /// PostgreSQL would.
    Silent,
    /// It said goodbye and takes nothing more. What it had asked for before is carried out.
    Deaf,
}

/// What the session is waiting for, as far as limits of time are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// For the client, outside a transaction; it holds a server only if it is pinned.
    Idle,
    /// For a server; the queue keeps the time.
    Queued,
    /// For PostgreSQL to answer.
    Running,
    /// For it to answer what only Weir wants to know.
    Asked,
    /// For the client, while it holds a server.
    Holding,
}

/// What has promised to wake the task, and need not be asked again: the client until its bell rings, the server in
/// the same turn.
#[derive(Clone, Copy, Debug, Default)]
struct Asleep {
    client: bool,
    server: bool,
}

/// A cancel request on its way to the server; the one who asked for it waits for the end of it.
struct Cancelling {
    request: Pin<Box<dyn Future<Output = ()>>>,
    _done: Option<CancelDone>,
}

/// A client that has logged in.
pub struct Session {
    client: Stream,
    address: Option<SocketAddr>,
    presence: Presence,
    core: Core,
    link: Link,
    desks: Rc<Desks>,
    kind: Kind,
    /// Where readers may serve the writer's clients.
    errands: Option<Box<Errands>>,
    /// The cluster's state that this session has seen.
    board_version: u64,
    endpoint: Arc<Endpoint>,
    hubs: Rc<Hubs>,
    /// Once it listens to anything.
    listening: Option<Box<Listening>>,
    entry: Arc<Entry>,
    traffic: Rc<Traffic>,
    context: Rc<Context>,
    limits: Rc<Limits>,
    place: Place,
    /// What the client logged in with and has set since; it has them on every server that it gets.
    settings: Carried,
    replays: Replays,
    /// The reported values that the client knows.
    told: Arc<Parameters>,
    /// From the client; cleared: for the server.
    requests: Buf,
    /// Our own messages, to be sent ahead of them.
    prologue: Vec<u8>,
    /// From the server; cleared: for the client.
    replies: Buf,
    unflushed: Unflushed,
    /// TLS may hold bytes that were written.
    flush_due: bool,
    /// The server has said FATAL.
    server_fatal: bool,
    own_error: Vec<u8>,
    /// What the server has said so far of what it was asked.
    answer: Vec<u8>,
    /// Which names of hidden state the core knows.
    hidden_version: u64,
    /// When it is to be seen next whether these have grown old.
    hidden_check: Instant,
    /// When the server was last asked whether a pin may be lifted.
    rechecked: Instant,
    cancelling: Option<Cancelling>,
    evicting: Option<Box<Evicting>>,
    /// What has been made known of its pins.
    pinning: Pinning,
    phase: Phase,
    phase_since: Instant,
    /// Once somebody wanted to know.
    woken_at: Option<Instant>,
    /// Goes off at or before the time that the next limit is reached.
    timer: Timer,
    asleep: Asleep,
    /// Rings when the client has something to say.
    bell: Arc<Bell>,
    /// Rings it.
    client_waker: Waker,
    born: Instant,
    /// Tells this session from all others of the process, and how many servers it has borrowed.
    turn: Turn,
}

/// What a session is made of, once the client is known.
pub struct Parts {
    pub client: Stream,
    /// Where it comes from.
    pub address: Option<SocketAddr>,
    /// Bytes that the client sent behind its last login message.
    pub unread: Vec<u8>,
    pub desks: Rc<Desks>,
    pub kind: Kind,
    pub hubs: Rc<Hubs>,
    pub entry: Arc<Entry>,
    pub traffic: Rc<Traffic>,
    pub context: Rc<Context>,
    pub place: Place,
    pub settings: Arc<Settings>,
    pub told: Arc<Parameters>,
    /// AuthenticationOk up to ReadyForQuery.
    pub greeting: Vec<u8>,
}

/// Owner of what belongs to no session that there is.
const STRANGER: (u64, u64) = (u64::MAX, 0);

/// Numbers are never used again: 64 bits last.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// How long a client is given to take its last message.
const FAREWELL: Duration = Duration::from_secs(2);

impl Session {
    pub fn new(parts: Parts) -> Session {
        let limits = parts.context.limits();
        let mut requests = Buf::default();
        requests.append(&parts.unread);
        let mut replies = Buf::default();
        replies.insert(&parts.greeting);
        let now = Instant::now();
        let bell = Bell::new(Waker::noop());
        let bounds = Bounds {
            max_unit_bytes: limits.max_unit_bytes,
        };
        let (hidden_version, hidden) = parts.entry.finds.known();
        let mut core = Core::new(
            bounds,
            Arc::clone(&parts.entry.statements),
            parts.context.large_statements.clone(),
            hidden,
        );
        core.parse_under(parts.settings.parsing());
        core.ignore(limits.unpinning);
        if parts.settings.may_be_temporary() {
            core.pin(Reason::Temporary);
        }
        if limits.listen == ListenMode::Shared {
            core.share_channels();
        }
        Session {
            client: parts.client,
            address: parts.address,
            presence: Presence::Here,
            core,
            link: Link::Free,
            board_version: 0,
            endpoint: Arc::clone(&parts.desks.endpoint),
            desks: parts.desks,
            errands: limits
                .readers_for_writers
                .filter(|_| parts.kind.role == Role::Writer)
                .map(|window| Box::new(Errands::new(window))),
            kind: parts.kind,
            hubs: parts.hubs,
            listening: None,
            entry: parts.entry,
            traffic: parts.traffic,
            context: parts.context,
            place: parts.place,
            settings: Carried::new(parts.settings),
            replays: Replays::default(),
            told: parts.told,
            requests,
            prologue: Vec::new(),
            replies,
            unflushed: Unflushed::default(),
            flush_due: false,
            server_fatal: false,
            own_error: Vec::new(),
            answer: Vec::new(),
            hidden_version,
            hidden_check: now,
            rechecked: now,
            cancelling: None,
            evicting: None,
            pinning: Pinning::default(),
            phase: Phase::Idle,
            phase_since: now,
            woken_at: None,
            timer: Timer::new(now + limits.idle_client_timeout),
            asleep: Asleep::default(),
            client_waker: Waker::from(Arc::clone(&bell)),
            bell,
            limits,
            born: now,
            turn: Turn {
                session: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
                number: 0,
            },
        }
    }

    /// Runs until the client leaves or is made to. Not cancel-safe: dropped, it leaves without a word, but
    /// its server connection is cleaned all the same.
    pub async fn run(mut self: Box<Self>) {
        let ending = poll_fn(|cx| self.poll_drive(cx)).await;
        if let Some(cancelling) = self.cancelling.take() {
            // Until it has arrived it could hit whoever has the connection next.
            cancelling.request.await;
        }
        if let Some(farewell) = self.wind_up(ending) {
            Box::pin(self.take_leave(farewell)).await;
        }
    }

    /// Gives the server back; what the client is told in the end.
    fn wind_up(&mut self, ending: Ending) -> Option<Farewell> {
        // Nothing can follow half a message.
        let mut whole = true;
        if let Link::Leased(lease) = std::mem::replace(&mut self.link, Link::Free) {
            whole = lease.replies.at_boundary();
            self.hand_in(lease);
        }
        self.pins_end();
        self.unflushed.set(&self.context, 0);
        let mut farewell = self.replies.cleared().to_vec();
        // For the next session: the last thing that most clients say is still in one of them.
        self.requests.give_back(&self.context.store);
        self.replies.give_back(&self.context.store);
        if whole && ending.is_told() {
            let reply = ending.to_reply();
            self.context.clients.error(reply.sqlstate, ending.blame());
            reply.put(&mut farewell);
        }
        self.log_end(&ending);
        if self.presence == Presence::Deaf || matches!(ending, Ending::Vanished) {
            return None;
        }
        // Who said goodbye and has had all that was due is hung up on, as PostgreSQL does.
        if matches!(ending, Ending::Left) && farewell.is_empty() {
            return self.client.is_tls().then_some(Farewell::CloseNotify);
        }
        Some(match ending.is_told() {
            true => Farewell::Reason(farewell),
            false => Farewell::Rest(farewell),
        })
    }

    async fn take_leave(mut self: Box<Self>, farewell: Farewell) {
        let client = &mut self.client;
        // A client that is gone need not be told.
        let telling = async {
            match &farewell {
                Farewell::CloseNotify => drop(client.close_notify().await),
                Farewell::Rest(words) | Farewell::Reason(words) => {
                    let _ = client.send(words).await;
                    let _ = client.shutdown().await;
                }
            }
            if let Farewell::Reason(_) = farewell {
                linger(client).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, telling).await;
    }

    /// Who leaves by himself, and all who are sent away at the end, are nobody's concern.
    fn log_end(&self, ending: &Ending) {
        if !ending.is_told() || matches!(ending, Ending::Draining) {
            return tracing::debug!(reason = %ending, "a session is over");
        }
        tracing::info!(reason = %ending, sqlstate = %ending.sqlstate(), client = self.address.map(tracing::field::display), user = %self.entry.user,
            database = %self.entry.database, "a session was ended");
    }

    /// Whether the server has to stay for what it listens to, pinned or not.
    fn channels_hold_server(&self) -> bool {
        self.listening
            .as_ref()
            .is_some_and(|listening| listening.holds_server())
    }

    /// Returns a connection that the session still held, with all that is known of its state.
    fn hand_in(&mut self, mut lease: Lease) {
        // Whatever it has is a stranger's to all who come.
        lease.unnamed_of = Some(STRANGER);
        lease.sequences_of = Users::Several;
        lease.half_sent |=
            self.core.is_mid_frame() || self.requests.has_cleared() || !self.prologue.is_empty();
        lease.marked |= self.core.pins().any()
            || self.replays.any()
            || self.core.wonders()
            || self.core.is_untidy(&lease.ledger)
            || self.channels_hold_server();
        lease.unread.extend_from_slice(self.replies.raw());
        if self.server_fatal || self.core.pins().outlives_discard() {
            lease.close();
        } else {
            drop(lease);
        }
    }
}

/// What a client is sent last.
enum Farewell {
    /// That is all there is to say.
    CloseNotify,
    /// What was due to it.
    Rest(Vec<u8>),
    /// That, and why it is over.
    Reason(Vec<u8>),
}

/// Reads on until the client has closed too: data that came in unread would make TCP throw away what we said
/// last.
async fn linger(client: &mut Stream) {
    let mut nothing = [0; 512];
    while client
        .receive(&mut nothing)
        .await
        .is_ok_and(|count| count > 0)
    {}
}
