//! A place in line for a server, wherever the cluster's servers are at the moment.
//!
//! Knows where to wait, and moves on when the cluster changes, in the order of arrival; the clock runs on. What the
//! server is wanted for, it does not know.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Lease;
use super::endpoint::Desks;
use crate::pool::{BorrowError, PoolId, Waiting};
use crate::server::{ConnectError, Dialer};
use crate::topology::board::Fallback;
use crate::topology::{Place, Role, Route};

/// Whose work it is, as far as that decides where it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub role: Role,
    pub fallback: Fallback,
}

/// Why there is no server.
#[derive(Clone, Debug)]
pub enum Unserved {
    Borrow(BorrowError<Arc<ConnectError>>),
    /// The cluster has no reader, and the writer is not to stand in.
    NoReaders,
}

impl Unserved {
    /// Whether there is a server, for others.
    pub fn is_busy(&self) -> bool {
        matches!(
            self,
            Unserved::Borrow(BorrowError::Busy { .. } | BorrowError::QueueFull { .. })
        )
    }
}

/// The outcome of asking.
pub enum Asked {
    Served(Lease),
    Queued(Box<Queue>),
    Refused(Unserved),
}

pub struct Queue {
    kind: Kind,
    desks: Rc<Desks>,
    waiting: Waiting<Dialer>,
    /// `None`: at no instance.
    at: Option<Place>,
    /// The board's when this last looked.
    version: u64,
    /// Ready when the board has changed.
    moved: Pin<Box<dyn Future<Output = ()>>>,
}

/// Asks for a server: an idle one at once, or a place in line.
pub fn ask(kind: Kind, desks: &Rc<Desks>, pool: PoolId) -> Asked {
    ask_at(kind, desks, pool, None)
}

/// The same, at this instance if it is one.
pub fn ask_at(kind: Kind, desks: &Rc<Desks>, pool: PoolId, at: Option<Place>) -> Asked {
    let version = desks.endpoint.board.version();
    let route = at.map_or_else(|| desks.route(kind.role, kind.fallback), Route::To);
    let (place, desk) = match route {
        Route::To(place) => match desks.at(place) {
            Some(desk) => (place, desk),
            None => return stand_by(kind, desks, pool, version),
        },
        Route::Nowhere => return stand_by(kind, desks, pool, version),
        Route::NoReaders => return Asked::Refused(Unserved::NoReaders),
    };
    if let Some(lease) = desk.try_borrow(pool) {
        return Asked::Served(lease);
    }
    match desk.borrow(pool) {
        Ok(waiting) => queue_up(kind, desks, waiting, Some(place), version),
        Err(error) => Asked::Refused(Unserved::Borrow(error)),
    }
}

/// A place in line where no instance is the right one.
fn stand_by(kind: Kind, desks: &Rc<Desks>, pool: PoolId, version: u64) -> Asked {
    queue_up(kind, desks, desks.any().stand_by(pool), None, version)
}

#[inline(never)]
fn queue_up(
    kind: Kind,
    desks: &Rc<Desks>,
    waiting: Waiting<Dialer>,
    at: Option<Place>,
    version: u64,
) -> Asked {
    Asked::Queued(Box::new(Queue {
        kind,
        desks: Rc::clone(desks),
        waiting,
        at,
        version,
        moved: watch(desks),
    }))
}

fn watch(desks: &Desks) -> Pin<Box<dyn Future<Output = ()>>> {
    let mut versions = desks.endpoint.board.watch();
    Box::pin(async move {
        // The board is there for as long as anybody waits.
        let _ = versions.changed().await;
    })
}

impl Queue {
    /// A fresh connection in place of one that will not do, at the same instance as long as that is the right one.
    pub fn renew(kind: Kind, desks: &Rc<Desks>, lease: Lease) -> Queue {
        let version = desks.endpoint.board.version();
        let desk = Rc::clone(lease.desk());
        Queue {
            kind,
            desks: Rc::clone(desks),
            at: desks.place_of(&desk),
            waiting: desk.renew(lease),
            version,
            moved: watch(desks),
        }
    }

    /// Waits no longer than this, if the pool would have it wait longer.
    pub fn no_longer_than(&mut self, limit: Duration) {
        self.waiting.no_longer_than(limit);
    }

    /// How long this has waited.
    pub fn waited(&self) -> Duration {
        self.waiting.waited()
    }

    /// Waits on. Cancel-safe: dropped, the place is given up.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Lease, Unserved>> {
        while self.moved.as_mut().poll(cx).is_ready() {
            self.moved = watch(&self.desks);
            self.version = 0;
        }
        let board = &self.desks.endpoint.board;
        if self.version != board.version() {
            self.version = board.version();
            if let Err(refused) = self.look_again() {
                return Poll::Ready(Err(refused));
            }
        }
        Pin::new(&mut self.waiting)
            .poll(cx)
            .map_err(Unserved::Borrow)
    }

    /// The cluster has changed: on, unless this is still the right place.
    fn look_again(&mut self) -> Result<(), Unserved> {
        let view = self.desks.endpoint.board.view();
        let stays = match (self.at, self.kind.role) {
            (Some(at), Role::Writer) => view.writer == Some(at),
            (Some(at), Role::Reader) => view.readers().any(|(reader, _)| reader == at),
            (None, _) => false,
        };
        if stays {
            return Ok(());
        }
        match self.desks.route(self.kind.role, self.kind.fallback) {
            Route::To(place) if self.at == Some(place) => {}
            Route::To(place) => {
                if let Some(desk) = self.desks.at(place) {
                    self.waiting.move_to(&desk);
                    self.at = Some(place);
                }
            }
            Route::Nowhere if self.at.is_none() => {}
            Route::Nowhere => {
                self.waiting.step_aside();
                self.at = None;
            }
            Route::NoReaders => return Err(Unserved::NoReaders),
        }
        Ok(())
    }
}
