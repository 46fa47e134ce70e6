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
use super::endpoint::{Desk, Desks};
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
    let version = desks.endpoint.board.version();
    let at = match desks.route(kind.role, kind.fallback) {
        Route::To(place) => desks.at(place).map(|desk| (place, desk)),
        Route::Nowhere => None,
        Route::NoReaders => return Asked::Refused(Unserved::NoReaders),
    };
    let waiting = match &at {
        Some((_, desk)) => match serve(desk, pool) {
            Ok(Ok(lease)) => return Asked::Served(lease),
            Ok(Err(waiting)) => waiting,
            Err(error) => return Asked::Refused(Unserved::Borrow(error)),
        },
        None => desks.any().stand_by(pool),
    };
    let moved = watch(desks);
    Asked::Queued(Box::new(Queue {
        kind,
        desks: Rc::clone(desks),
        waiting,
        at: at.map(|(place, _)| place),
        version,
        moved,
    }))
}

type Served = Result<Lease, Waiting<Dialer>>;

fn serve(desk: &Rc<Desk>, pool: PoolId) -> Result<Served, BorrowError<Arc<ConnectError>>> {
    match desk.try_borrow(pool) {
        Some(lease) => Ok(Ok(lease)),
        None => desk.borrow(pool).map(Err),
    }
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
