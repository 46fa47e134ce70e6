//! One worker: its event loop, its listeners, its sessions and its janitors.
//!
//! Knows how they belong together; what they do, the floors below know.

use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::accept::{self, Door, Guests};
use super::errand::Inbox;
use super::shared::Shared;
use super::{inquiry, trial};
use crate::client::iam::upstream::{Attempt, Tried};
use crate::config::ReaderFallback;
use crate::pool::WorkerId;
use crate::protocol::CancelKey;
use crate::secrets::Found;
use crate::session::Kind;
use crate::session::context::{Context, Excess, Limits};
use crate::session::endpoint::Desks;
use crate::session::handle::{CancelDone, CancelOutcome, Sessions};
use crate::session::listen::Hubs;
use crate::session::login::Hall;
use crate::topology::Role;
use crate::topology::board::Fallback;

/// What a worker is told from outside.
pub enum Order {
    /// A cancel request came in at another worker.
    Cancel(CancelKey, CancelDone),
    Limits(Limits),
    /// What is to become of connections above the cap.
    Excess(Excess),
}

/// How far the end has come; only ever forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    #[default]
    Serving,
    /// No new clients; the others leave at a transaction's end.
    Draining,
    /// Those who are left are closed.
    Closing,
}

/// Orders that a worker may have before it; cancel requests beyond that are dropped.
pub const MAX_ORDERS: usize = 1024;

/// How long clients that are closed may take to hear why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What one worker does for all.
pub struct Backroom {
    /// Users to look up in the database.
    pub inquiries: Inbox<String, Found>,
    /// Tokens to try there.
    pub trials: Inbox<Attempt, Tried>,
}

/// What a worker is made of.
pub struct Plan {
    pub id: WorkerId,
    pub shared: Arc<Shared>,
    pub listeners: Vec<(StdListener, Role)>,
    /// Of one worker.
    pub backroom: Option<Backroom>,
    pub orders: mpsc::Receiver<Order>,
    pub stage: watch::Receiver<Stage>,
}

/// An event loop for one thread.
pub fn runtime() -> std::io::Result<tokio::runtime::LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
}

impl Plan {
    /// The whole life of a thread.
    pub fn run(self) -> std::io::Result<()> {
        runtime()?.block_on(self.serve())
    }

    /// Serves clients until told to stop, and the last of them has left.
    pub async fn serve(mut self) -> std::io::Result<()> {
        let sessions = Sessions::new(self.id, self.shared.numbering());
        let context = Context::new(
            self.shared.session_limits(),
            Arc::new(self.shared.client_meters()),
        );
        let mut janitors = JoinSet::new();
        let mut doors = JoinSet::new();
        let guests = Rc::new(Guests::default());
        let mut all_hubs = Vec::new();
        let desks = Desks::new(Arc::clone(&self.shared.endpoint), self.id);
        if self.id == WorkerId(0) {
            let (desks, shared) = (Rc::clone(&desks), Arc::clone(&self.shared));
            janitors.spawn_local(super::lone::watch(desks, shared));
        }
        if let Some(Backroom { inquiries, trials }) = self.backroom.take() {
            janitors.spawn_local(trial::answer(trials, Rc::clone(&desks)));
            let (desks, shared) = (Rc::clone(&desks), Arc::clone(&self.shared));
            janitors.spawn_local(inquiry::answer(inquiries, desks, shared));
        }
        let mut cluster = desks.endpoint.board.watch();
        for (listener, role) in std::mem::take(&mut self.listeners) {
            let kind = Kind {
                role,
                fallback: fallback(self.shared.config.load().cluster.reader_fallback),
            };
            let (hubs, keeper) = Hubs::new(Rc::clone(&desks), kind);
            janitors.spawn_local(keeper.run());
            all_hubs.push(Rc::clone(&hubs));
            let hall = Rc::new(Hall::new(
                Rc::clone(&context),
                Rc::clone(&sessions),
                Rc::clone(&desks),
                kind,
                hubs,
            ));
            let listener: TcpListener = crate::net::listen::attach(listener)?;
            let door = Door {
                hall,
                shared: Arc::clone(&self.shared),
            };
            doors.spawn_local(accept::stand_at(listener, door, Rc::clone(&guests)));
        }
        loop {
            tokio::select! {
                Some(order) = self.orders.recv() => obey(order, &sessions, &context, &all_hubs),
                // Who has a server may have to do without it.
                Ok(()) = cluster.changed() => sessions.wake_all(),
                Ok(()) = self.stage.changed() => {
                    let stage = *self.stage.borrow_and_update();
                    if stage == Stage::Serving {
                        continue;
                    }
                    doors.abort_all();
                    context.drain();
                    sessions.wake_all();
                    break;
                }
            }
        }
        self.see_off(&guests, &sessions, &context, &all_hubs, cluster)
            .await;
        Ok(())
    }

    /// Waits for the last client, or until those who stay are to be closed.
    async fn see_off(
        &mut self,
        guests: &Guests,
        sessions: &Sessions,
        context: &Context,
        hubs: &[Rc<Hubs>],
        mut cluster: watch::Receiver<u64>,
    ) {
        let mut gone = pin!(guests.gone());
        loop {
            tokio::select! {
                () = &mut gone => return,
                Some(order) = self.orders.recv() => obey(order, sessions, context, hubs),
                Ok(()) = cluster.changed() => sessions.wake_all(),
                changed = self.stage.wait_for(|stage| *stage == Stage::Closing) => {
                    if changed.is_ok() {
                        context.close();
                        sessions.wake_all();
                    }
                    break;
                }
            }
        }
        let _ = tokio::time::timeout(LAST_WORDS, gone).await;
    }
}

fn obey(order: Order, sessions: &Sessions, context: &Context, hubs: &[Rc<Hubs>]) {
    match order {
        Order::Cancel(key, done) => {
            let counter = match sessions.cancel(&key, done) {
                CancelOutcome::PassedOn => &context.clients.cancels_forwarded,
                CancelOutcome::Unknown => &context.clients.cancels_ignored,
            };
            counter.increment(1);
        }
        Order::Limits(limits) => context.set_limits(limits),
        Order::Excess(excess) => {
            context.set_excess(excess);
            if excess == Excess::Due {
                sessions.wake_all();
                hubs.iter().for_each(|hubs| hubs.shed());
            }
        }
    }
}

fn fallback(configured: ReaderFallback) -> Fallback {
    match configured {
        ReaderFallback::None => Fallback::None,
        ReaderFallback::Writer => Fallback::Writer,
    }
}
