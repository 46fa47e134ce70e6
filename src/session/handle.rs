//! The sessions of one worker, by the number that is half of their cancel key.
//!
//! Knows how to reach a session from outside: to cancel its query, to make it leave. Does not know what it is
//! doing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::oneshot;

use crate::pool::WorkerId;
use crate::protocol::CancelKey;

/// Secret bytes of a key in protocol 3.0, and from 3.2 on.
const SHORT_SECRET_BYTES: usize = 4;
const LONG_SECRET_BYTES: usize = 32;

/// Dropped when a cancel request has been dealt with: its sender is then told so.
pub type CancelDone = oneshot::Sender<()>;

/// How a session is reached.
pub struct Handle {
    pub key: CancelKey,
    cancel: Cell<Option<CancelDone>>,
    waker: RefCell<Waker>,
}

impl Handle {
    /// A cancel request that came in since this was last asked.
    pub fn take_cancel(&self) -> Option<CancelDone> {
        self.cancel.take()
    }

    /// It can't be dealt with yet: it will be asked for again.
    pub fn put_back(&self, done: CancelDone) {
        self.cancel.set(Some(done));
    }

    /// Remembers how the session is woken; says whether that is news.
    #[inline]
    pub fn listen(&self, waker: &Waker) -> bool {
        let mut known = self.waker.borrow_mut();
        let news = !known.will_wake(waker);
        if news {
            known.clone_from(waker);
        }
        news
    }

    pub fn wake(&self) {
        self.waker.borrow().wake_by_ref();
    }
}

/// Wakes a session and remembers that it did: what woke it need not be guessed by asking everybody.
#[derive(Debug)]
pub struct Bell {
    rang: AtomicBool,
    task: Waker,
}

impl Bell {
    /// One that has rung, and wakes this task.
    pub fn new(task: &Waker) -> Arc<Bell> {
        Arc::new(Bell {
            rang: AtomicBool::new(true),
            task: task.clone(),
        })
    }

    /// Whether it rang since this was last asked.
    #[inline]
    pub fn has_rung(&self) -> bool {
        self.rang.load(Ordering::Relaxed) && self.rang.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// The sessions of one worker.
pub struct Sessions {
    worker: WorkerId,
    workers: usize,
    random: SystemRandom,
    places: RefCell<Places>,
}

#[derive(Default)]
struct Places {
    taken: Vec<Option<Rc<Handle>>>,
    free: Vec<usize>,
}

/// A session's place; given up when dropped.
pub struct Place {
    sessions: Rc<Sessions>,
    index: usize,
    pub handle: Rc<Handle>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.sessions.places.borrow_mut();
        if let Some(place) = places.taken.get_mut(self.index) {
            *place = None;
        }
        places.free.push(self.index);
    }
}

impl Sessions {
    pub fn new(worker: WorkerId, workers: usize) -> Rc<Sessions> {
        Rc::new(Sessions {
            worker,
            workers,
            random: SystemRandom::new(),
            places: RefCell::default(),
        })
    }

    /// A place with a fresh key; `None` when the system has no randomness to give.
    pub fn enter(self: &Rc<Self>, protocol_minor: u16) -> Option<Place> {
        let mut secret = [0; LONG_SECRET_BYTES];
        let bytes = if protocol_minor >= 2 {
            LONG_SECRET_BYTES
        } else {
            SHORT_SECRET_BYTES
        };
        let secret = secret.get_mut(..bytes)?;
        self.random.fill(secret).ok()?;
        let mut places = self.places.borrow_mut();
        let index = places.free.pop().unwrap_or(places.taken.len());
        let key = CancelKey::new(self.pid(index)?, secret)?;
        let handle = Rc::new(Handle {
            key,
            cancel: Cell::new(None),
            waker: RefCell::new(Waker::noop().clone()),
        });
        if index == places.taken.len() {
            places.taken.push(None);
        }
        *places.taken.get_mut(index)? = Some(Rc::clone(&handle));
        drop(places);
        Some(Place {
            sessions: Rc::clone(self),
            index,
            handle,
        })
    }

    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// The process id that a client is told: positive, and it says which worker has the session.
    fn pid(&self, index: usize) -> Option<i32> {
        i32::try_from(index * self.workers + self.worker.0 + 1).ok()
    }

    /// The worker that a key belongs to.
    pub fn worker_of(key: &CancelKey, workers: usize) -> Option<WorkerId> {
        let number = usize::try_from(key.pid).ok()?.checked_sub(1)?;
        Some(WorkerId(number % workers))
    }

    /// Passes a cancel request on to the session that the key proves; silence if there is none.
    pub fn cancel(&self, key: &CancelKey, done: CancelDone) -> CancelOutcome {
        let places = self.places.borrow();
        let index = usize::try_from(key.pid)
            .ok()
            .and_then(|pid| pid.checked_sub(1));
        let handle = index.and_then(|number| places.taken.get(number / self.workers)?.as_ref());
        match handle.filter(|handle| handle.key.proves(key)) {
            Some(handle) => {
                handle.cancel.set(Some(done));
                handle.wake();
                CancelOutcome::PassedOn
            }
            None => CancelOutcome::Unknown,
        }
    }

    pub fn count(&self) -> usize {
        let places = self.places.borrow();
        places.taken.len() - places.free.len()
    }

    pub fn wake_all(&self) {
        for handle in self.places.borrow().taken.iter().flatten() {
            handle.wake();
        }
    }
}

/// What became of a cancel request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    PassedOn,
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_positive_and_lead_back() {
        let sessions = Sessions::new(WorkerId(1), 3);
        let first = sessions.enter(0).unwrap();
        let second = sessions.enter(2).unwrap();
        assert_eq!((first.handle.key.pid, second.handle.key.pid), (2, 5));
        assert_eq!(first.handle.key.secret().len(), 4);
        assert_eq!(second.handle.key.secret().len(), 32);
        assert_eq!(
            Sessions::worker_of(&second.handle.key, 3),
            Some(WorkerId(1))
        );
        assert_eq!(
            Sessions::worker_of(&CancelKey::new(-5, b"abcd").unwrap(), 3),
            None
        );

        let (done, _) = oneshot::channel();
        assert_eq!(
            sessions.cancel(&second.handle.key, done),
            CancelOutcome::PassedOn
        );
        assert!(second.handle.take_cancel().is_some() && first.handle.take_cancel().is_none());

        let key = first.handle.key.clone();
        drop(first);
        let again = sessions.enter(0).unwrap();
        assert_eq!(again.handle.key.pid, key.pid);
        let (done, _) = oneshot::channel();
        assert_eq!(sessions.cancel(&key, done), CancelOutcome::Unknown);
        assert_eq!(sessions.count(), 2);
    }
}
