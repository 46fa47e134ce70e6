//! What all sessions of a worker share.
//!
//! Knows limits, buffers and counters; nothing of any single session.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::pins::Pins;
use super::prepared::Allowance;
use crate::config::{ListenMode, PinNotice};
use crate::metrics;
use crate::net::buf::BufferStore;

/// The limits of sessions, as configured.
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_unit_bytes: usize,
    /// Replies that released servers have left with slow clients, all sessions of a worker together.
    pub unflushed_limit_bytes: usize,
    /// Unnamed statements of more than 4 KiB that are kept for the next server, all sessions of a worker together.
    pub large_statements_limit_bytes: usize,
    pub listen: ListenMode,
    /// Notifications that wait for one client.
    pub listen_queue_bytes: usize,
    pub query_timeout: Option<Duration>,
    /// For what Weir itself asks.
    pub reset_timeout: Duration,
    pub idle_in_transaction_timeout: Duration,
    pub idle_client_timeout: Duration,
    pub client_lifetime: Option<Duration>,
    pub pin_notice: PinNotice,
    /// Pinned sessions of one pool.
    pub pin_limit: Option<usize>,
    /// Reasons that don't pin.
    pub unpinning: Pins,
    /// Readers serve read-only transactions of the writer's clients; and how long the writer does after a write, where nobody
    /// can tell what readers have.
    pub readers_for_writers: Option<Duration>,
}

/// What becomes of connections above the cap while clients have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Excess {
    /// They are closed when they come back.
    #[default]
    Borne,
    /// Their time is over.
    Due,
}

pub struct Context {
    pub store: BufferStore,
    limits: RefCell<Rc<Limits>>,
    pub clients: Arc<metrics::Clients>,
    /// For unnamed statements of unusual size.
    pub large_statements: Allowance,
    unflushed_bytes: Cell<usize>,
    draining: Cell<bool>,
    closing: Cell<bool>,
    excess: Cell<Excess>,
}

impl Context {
    pub fn new(limits: Limits, clients: Arc<metrics::Clients>) -> Rc<Context> {
        Rc::new(Context {
            large_statements: Allowance::new(limits.large_statements_limit_bytes),
            store: BufferStore::default(),
            limits: RefCell::new(Rc::new(limits)),
            clients,
            unflushed_bytes: Cell::new(0),
            draining: Cell::new(false),
            closing: Cell::new(false),
            excess: Cell::default(),
        })
    }

    pub fn limits(&self) -> Rc<Limits> {
        Rc::clone(&self.limits.borrow())
    }

    pub fn set_limits(&self, limits: Limits) {
        *self.limits.borrow_mut() = Rc::new(limits);
    }

    /// From here on sessions end where a transaction does.
    pub fn drain(&self) {
        self.draining.set(true);
    }

    /// From here on they end where they are.
    pub fn close(&self) {
        self.closing.set(true);
    }

    /// What becomes of connections above the cap while clients have them.
    pub fn set_excess(&self, excess: Excess) {
        self.excess.set(excess);
    }

    #[inline]
    pub fn excess(&self) -> Excess {
        self.excess.get()
    }

    #[inline]
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    #[inline]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }
}

/// Replies that wait for a slow client while their server works for others already.
#[derive(Default)]
pub struct Unflushed(usize);

impl Unflushed {
    /// Whether so many more may be left behind.
    pub fn has_room(context: &Context, bytes: usize) -> bool {
        context.unflushed_bytes.get() + bytes <= context.limits.borrow().unflushed_limit_bytes
    }

    /// Counts `bytes` as left behind, in place of what was counted before.
    pub fn set(&mut self, context: &Context, bytes: usize) {
        let others = context.unflushed_bytes.get() - self.0;
        context.unflushed_bytes.set(others + bytes);
        self.0 = bytes;
    }

    #[inline]
    pub fn is_counted(&self) -> bool {
        self.0 > 0
    }
}
