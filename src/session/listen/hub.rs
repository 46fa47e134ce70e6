//! The shared listener: one connection of a pool that listens for all its sessions on this worker.
//!
//! One a worker and pool, not one a process: sessions and hub then share a thread, and no lock is needed. Knows how
//! a connection for it is had and lost; who hears what, the board knows.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::board::{Board, Edge, Item, Lost, Mailbox, Number};
use super::moving::put_listen;
use crate::pool::PoolId;
use crate::protocol::frame::put;
use crate::protocol::reply::error_field;
use crate::protocol::tag::frontend;
use crate::server::Settings;
use crate::server::connection::CommandError;
use crate::server::listener::Heard;
use crate::session::Kind;
use crate::session::Lease;
use crate::session::endpoint::{Desk, Desks, Entry, ListenerSeat};
use crate::session::handle::Handle;
use crate::topology::Route;

/// How long a hub waits for a connection; its sessions keep theirs meanwhile, and afterwards.
const PATIENCE: Duration = Duration::from_secs(1);

/// When a session that got no place is to ask for one again.
const AGAIN: Duration = Duration::from_secs(3);

/// A connection that only listens is not idle. (The setting is not there before PostgreSQL 14.)
const MAY_BE_SILENT: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
    WHERE name OPERATOR(pg_catalog.=) 'idle_session_timeout'";

/// All hubs of a worker, for clients of one listener.
pub struct Hubs {
    desks: Rc<Desks>,
    kind: Kind,
    open: RefCell<HashMap<PoolId, Rc<Hub>>>,
    /// For the keeper: no more hubs at a time than the cap has connections, and one call a session.
    jobs: mpsc::UnboundedSender<Job>,
    random: SystemRandom,
    last_mark: Cell<u64>,
}

/// Runs hubs; its worker runs it.
pub struct Keeper {
    hubs: Rc<Hubs>,
    jobs: mpsc::UnboundedReceiver<Job>,
}

enum Job {
    /// A hub without a connection yet, and its leave to have one.
    Begin(Rc<Hub>, ListenerSeat),
    /// Wake this session in a while.
    CallAgain(Rc<Handle>),
}

struct Hub {
    entry: Arc<Entry>,
    /// What its notifications are encoded in; sessions with another encoding can't be told them.
    encoding: Vec<u8>,
    sync: Vec<u8>,
    state: Cell<State>,
    board: RefCell<Board>,
    /// Its connection may be one above the cap, and is to go then.
    excess_due: Cell<bool>,
    /// The board has changed, or the rest.
    changed: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Without a connection yet.
    Opening,
    Open,
}

/// One session's place at a hub; given up when dropped.
pub struct Subscription {
    hub: Rc<Hub>,
    number: Number,
    mailbox: Rc<Mailbox>,
}

impl Hubs {
    pub fn new(desks: Rc<Desks>, kind: Kind) -> (Rc<Hubs>, Keeper) {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let hubs = Rc::new(Hubs {
            desks,
            kind,
            open: RefCell::default(),
            jobs,
            random: SystemRandom::new(),
            last_mark: Cell::new(0),
        });
        let keeper = Keeper {
            hubs: Rc::clone(&hubs),
            jobs: inbox,
        };
        (hubs, keeper)
    }

    /// A place at this pool's hub, which is made if need be; `None` when this session can't have one: there is no
    /// connection to spare, or the hub speaks another encoding.
    pub fn subscribe(
        &self,
        entry: &Arc<Entry>,
        encoding: &[u8],
        limit_bytes: usize,
        session: &Rc<Handle>,
    ) -> Option<Subscription> {
        let known = self.open.borrow().get(&entry.pool).map(Rc::clone);
        let hub = match known {
            Some(hub) => hub,
            None => self.begin(entry, encoding)?,
        };
        if hub.encoding != encoding {
            return None;
        }
        let session = Rc::clone(session);
        let mailbox = Mailbox::new(limit_bytes, move || session.wake());
        let number = hub.board.borrow_mut().subscribe(Rc::clone(&mailbox));
        Some(Subscription {
            hub,
            number,
            mailbox,
        })
    }

    fn begin(&self, entry: &Arc<Entry>, encoding: &[u8]) -> Option<Rc<Hub>> {
        let desk = self.desk()?;
        let target = desk.target();
        let (cap, _) = target.usage();
        let seat = ListenerSeat::take(entry, cap, target.limit(entry.pool))?;
        let mut random = [0; 8];
        self.random.fill(&mut random).ok()?;
        let mut sync = String::from("weir_sync_");
        for byte in random {
            write!(sync, "{byte:02x}").ok()?;
        }
        let hub = Rc::new(Hub {
            entry: Arc::clone(entry),
            encoding: encoding.to_vec(),
            sync: sync.into_bytes(),
            state: Cell::new(State::Opening),
            board: RefCell::default(),
            excess_due: Cell::new(false),
            changed: Notify::new(),
        });
        self.jobs.send(Job::Begin(Rc::clone(&hub), seat)).ok()?;
        self.open.borrow_mut().insert(entry.pool, Rc::clone(&hub));
        Some(hub)
    }

    /// Wakes the session in a while, so that it tries again.
    pub fn call_again(&self, session: &Rc<Handle>) {
        // The keeper goes only with its worker.
        let _ = self.jobs.send(Job::CallAgain(Rc::clone(session)));
    }

    /// Where connections are to be had at the moment.
    fn desk(&self) -> Option<Rc<Desk>> {
        match self.desks.route(self.kind.role, self.kind.fallback) {
            Route::To(place) => self.desks.at(place),
            Route::Nowhere | Route::NoReaders => None,
        }
    }

    /// Whether there can be hubs at all.
    pub fn may_be(&self, entry: &Entry) -> bool {
        let Some(desk) = self.desk() else {
            return false;
        };
        let target = desk.target();
        let (cap, _) = target.usage();
        cap.min(target.limit(entry.pool)) / 2 > 0
    }

    /// Has connections closed that are above the cap, at their next turn.
    pub fn shed(&self) {
        for hub in self.open.borrow().values() {
            hub.excess_due.set(true);
            hub.changed.notify_one();
        }
    }

    /// A mark that no other is like.
    pub fn mark(&self) -> Vec<u8> {
        self.last_mark.set(self.last_mark.get() + 1);
        self.last_mark.get().to_string().into_bytes()
    }

    /// Nobody comes to this hub any more.
    fn forget(&self, hub: &Rc<Hub>) {
        let mut open = self.open.borrow_mut();
        if open
            .get(&hub.entry.pool)
            .is_some_and(|known| Rc::ptr_eq(known, hub))
        {
            open.remove(&hub.entry.pool);
        }
    }
}

impl Keeper {
    /// Never ends.
    pub async fn run(mut self) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                Some(job) = self.jobs.recv() => drop(match job {
                    Job::Begin(hub, seat) => {
                        running.spawn_local(serve(Rc::clone(&self.hubs), hub, seat))
                    }
                    Job::CallAgain(session) => running.spawn_local(async move {
                        tokio::time::sleep(AGAIN).await;
                        session.wake();
                    }),
                }),
                Some(_) = running.join_next() => {}
            }
        }
    }
}

/// A hub from beginning to end: until nobody listens, or its connection is lost.
async fn serve(hubs: Rc<Hubs>, hub: Rc<Hub>, seat: ListenerSeat) {
    let Some(mut lease) = borrow(&hubs, &hub).await else {
        hubs.forget(&hub);
        drop(seat);
        return hub.board.borrow().lose(&Lost::Unavailable);
    };
    let meters = &hub.entry.meters;
    meters.listening.increment(1);
    let severed = hubs.desks.endpoint.board.watch();
    let limit = lease.desk().reset_timeout();
    let end = listen(&mut lease, &hub, limit, severed).await;
    meters.listening.decrement(1);
    hubs.forget(&hub);
    drop(seat);
    match end {
        // It goes back to the pool, which has it forget its channels.
        Ok(()) => drop(lease),
        Err(error) => {
            lease.close();
            let why = reason(&error);
            tracing::warn!(database = %hub.entry.database, user = %hub.entry.user, why, "the listening connection was lost");
            hub.board.borrow().lose(&Lost::Connection(why));
        }
    }
}

/// A connection that can be had soon, with the encoding that is to be told in.
async fn borrow(hubs: &Hubs, hub: &Hub) -> Option<Lease> {
    let desk = hubs.desk()?;
    let lease = match desk.try_borrow(hub.entry.pool) {
        Some(lease) => lease,
        None => {
            let waiting = desk.borrow(hub.entry.pool).ok()?;
            tokio::time::timeout(PATIENCE, waiting).await.ok()?.ok()?
        }
    };
    let mut lease = lease;
    lease.marked = true;
    let encoding = ("client_encoding".to_owned(), hub.encoding.clone());
    let prepared = async {
        lease.apply(&Arc::new(Settings::new([encoding]))).await?;
        lease.command(MAY_BE_SILENT).await
    };
    // Otherwise it is cleaned, or closed where it does not answer.
    let prepared = tokio::time::timeout(desk.reset_timeout(), prepared).await;
    matches!(prepared, Ok(Ok(()))).then_some(lease)
}

/// Listens until nobody wants to hear. What it asks for is to be answered within `limit`.
async fn listen(
    lease: &mut Lease,
    hub: &Hub,
    limit: Duration,
    mut cluster: watch::Receiver<u64>,
) -> Result<(), CommandError> {
    let mut sync = Vec::new();
    put(&mut sync, frontend::QUERY, |body| {
        put_listen(body, &hub.sync);
        body.push(0);
    });
    lease.tell(&sync).await?;
    let mut due = Instant::now() + limit;
    loop {
        if hub.excess_due.take() && lease.give_up_excess() {
            return Err(CommandError::Closed);
        }
        if !lease.ledger.owes() {
            let changes = {
                let mut board = hub.board.borrow_mut();
                // No await between this and the end: nobody can come in between.
                if board.is_empty() {
                    return Ok(());
                }
                board.put_changes()
            };
            if let Some(query) = changes {
                lease.tell(&query).await?;
                due = Instant::now() + limit;
            }
        }
        let owes = lease.ledger.owes();
        tokio::select! {
            heard = lease.hear() => {
                hub.tell(heard?);
                // Those who were told have a turn before more is read.
                tokio::task::yield_now().await;
            }
            () = hub.changed.notified() => {}
            () = tokio::time::sleep_until(due), if owes => return Err(CommandError::Silent(limit)),
            Ok(()) = cluster.changed() => if lease.is_severed() {
                return Err(CommandError::Closed);
            },
        }
    }
}

impl Hub {
    fn tell(&self, heard: Vec<Heard>) {
        let mut board = self.board.borrow_mut();
        let mut told = 0;
        for heard in heard {
            match heard {
                Heard::Notification(frame) => told += board.hear(&self.sync, &frame),
                Heard::Done => {
                    self.state.set(State::Open);
                    board.done();
                }
            }
        }
        self.entry.meters.notifications.increment(told as u64);
    }
}

fn reason(error: &CommandError) -> String {
    match error {
        CommandError::Refused(body) => {
            let field = |code| String::from_utf8_lossy(error_field(body, code).unwrap_or_default());
            format!("{} {}", field(b'C'), field(b'M'))
        }
        CommandError::Io(_)
        | CommandError::Closed
        | CommandError::Garbled(_)
        | CommandError::Silent(_) => error.to_string(),
    }
}

impl Subscription {
    /// The hub's channel of marks.
    pub fn sync(&self) -> &[u8] {
        &self.hub.sync
    }

    pub fn encoding(&self) -> &[u8] {
        &self.hub.encoding
    }

    /// From here on the hub listens to these for this session, and to no others.
    pub fn listen(&self, names: &[Vec<u8>]) {
        self.hub.board.borrow_mut().listen(self.number, names);
        self.hub.changed.notify_one();
    }

    /// Whether the hub listens to all that it was told.
    pub fn is_heard(&self) -> bool {
        self.hub.state.get() == State::Open && self.hub.board.borrow().is_heard(self.number)
    }

    /// What the hub hears is told from this mark on, or up to it.
    pub fn mark(&self, mark: &[u8], edge: Edge) {
        self.hub.board.borrow_mut().mark(self.number, mark, edge);
    }

    /// The mark up to which was to be told will not come.
    pub fn forget_end(&self) {
        self.hub.board.borrow_mut().forget_end(self.number);
    }

    pub fn take(&self) -> Option<Item> {
        self.mailbox.take()
    }

    pub fn is_empty(&self) -> bool {
        self.mailbox.is_empty()
    }

    pub fn lost(&self) -> Option<Lost> {
        self.mailbox.lost()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.board.borrow_mut().unsubscribe(self.number);
        self.hub.changed.notify_one();
    }
}
