//! Where the cluster's state is posted, for all threads: who is the writer, and what those saw who use it.
//!
//! Knows where a client of either kind is to be sent; asks nobody itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::roles::{Health, Place, Role, View};

/// Hints are kept for so many instances, which is also how many there may be.
pub const MAX_INSTANCES: usize = 64;

pub struct Board {
    view: ArcSwap<View>,
    /// The writer's number in it or `NOBODY`, to be read for next to nothing.
    writer_now: AtomicUsize,
    /// Counts the views that lead clients elsewhere.
    version: watch::Sender<u64>,
    /// The same number, to be read for next to nothing.
    version_now: AtomicU64,
    /// One bit for each instance that something is wrong with, as far as those can tell who use it.
    hints: AtomicU64,
    pub(super) hinted: Notify,
}

const NOBODY: usize = usize::MAX;

fn writer_of(view: &View) -> usize {
    view.writer.map_or(NOBODY, |Place(place)| place)
}

/// Where a client is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    To(Place),
    /// Nowhere for the time being.
    Nowhere,
    /// There is nothing to wait for: the cluster has no reader.
    NoReaders,
}

/// What readers' clients get when there is no reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    None,
    Writer,
}

impl Board {
    pub fn new(view: View) -> Board {
        Board {
            writer_now: AtomicUsize::new(writer_of(&view)),
            view: ArcSwap::from_pointee(view),
            version: watch::Sender::new(1),
            version_now: AtomicU64::new(1),
            hints: AtomicU64::new(0),
            hinted: Notify::new(),
        }
    }

    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Changes whenever clients may have to go elsewhere.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version_now.load(Ordering::Acquire)
    }

    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Posts a view; says whether it leads clients elsewhere than the last one.
    pub fn post(&self, view: View) -> bool {
        let elsewhere = view.leads_elsewhere(&self.view.load());
        self.writer_now.store(writer_of(&view), Ordering::Release);
        self.view.store(Arc::new(view));
        if elsewhere {
            self.call();
        }
        elsewhere
    }

    /// Has everybody look again.
    pub fn call(&self) {
        let next = self.version_now.fetch_add(1, Ordering::AcqRel) + 1;
        self.version.send_replace(next);
    }

    /// Something is wrong with an instance: its connections break, or it refuses to write.
    pub fn hint(&self, place: Place) {
        let bit = 1_u64.checked_shl(place.0 as u32).unwrap_or(0);
        if self.hints.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
            self.hinted.notify_waiters();
        }
    }

    /// Whether there was a hint since this was last asked.
    pub fn take_hint(&self, place: Place) -> bool {
        let bit = 1_u64.checked_shl(place.0 as u32).unwrap_or(0);
        self.hints.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// Where a client of this kind is to be sent. `load`: how busy an instance is, for its size.
    #[inline]
    pub fn route(&self, role: Role, fallback: Fallback, load: impl Fn(Place) -> f64) -> Route {
        match role {
            Role::Writer => self.to_writer(),
            Role::Reader => self.to_reader(fallback, load),
        }
    }

    #[inline]
    fn to_writer(&self) -> Route {
        match self.writer_now.load(Ordering::Acquire) {
            NOBODY => Route::Nowhere,
            place => Route::To(Place(place)),
        }
    }

    #[inline(never)]
    fn to_reader(&self, fallback: Fallback, load: impl Fn(Place) -> f64) -> Route {
        let view = self.view.load();
        let readers = view.readers().map(|(place, _)| (place, load(place)));
        let best = readers.min_by(|(_, one), (_, other)| one.total_cmp(other));
        match (best, fallback) {
            (Some((place, _)), _) => Route::To(place),
            (None, Fallback::Writer) => view.writer.map_or(Route::Nowhere, Route::To),
            (None, Fallback::None) if view.has_readers() => Route::Nowhere,
            (None, Fallback::None) => Route::NoReaders,
        }
    }
}

impl View {
    /// Whether the writer tells how far it is, so that readers can be held against it.
    pub fn tells_positions(&self) -> bool {
        let writer = self
            .writer
            .and_then(|Place(place)| self.instances.get(place));
        writer.is_some_and(|writer| writer.position.is_some())
    }

    /// Whether there are readers at all, in whatever state; as long as that is not known, there may be.
    fn has_readers(&self) -> bool {
        let others = self.instances.iter().enumerate();
        let mut others = others.filter(|(place, _)| self.writer != Some(Place(*place)));
        others.any(|(_, seen)| seen.role != Some(Role::Writer) && seen.health != Health::Gone)
    }
}
