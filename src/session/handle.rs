//! The sessions of one worker, by the number that is half of their cancel key.
//!
//! Knows how to reach a session from outside: to cancel its query, to make it leave. Does not know what it is
//! doing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use tokio::sync::oneshot;

use crate::config::FLEET_MAX_SESSIONS;
use crate::pool::WorkerId;
use crate::protocol::CancelKey;
use crate::random;

/// How sessions are numbered, so that a key leads back to its own. The number is the process id that a client is told.
#[derive(Clone, Copy, Debug)]
pub struct Numbering {
    workers: usize,
    task: Option<TaskTag>,
}

/// Tells a task from others of its fleet, in the upper bits of its sessions' numbers. Two tasks may have the same: only
/// the secret proves whose a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskTag(u16);

impl TaskTag {
    /// Of the bits of a process id, which is positive, those above `NUMBER_BITS` are left.
    const BITS: u32 = 31 - NUMBER_BITS;

    /// One of those that there are.
    pub fn from_random(bits: u16) -> TaskTag {
        TaskTag(bits % (1 << Self::BITS))
    }

    pub fn number(self) -> u16 {
        self.0
    }
}

/// Bits of a process id that tell the sessions of a task of a fleet apart.
const NUMBER_BITS: u32 = FLEET_MAX_SESSIONS.ilog2();

/// Whose a key may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Worker(WorkerId),
    Task(TaskTag),
    Nobodys,
}

impl Numbering {
    pub fn new(workers: usize, task: Option<TaskTag>) -> Numbering {
        Numbering { workers, task }
    }

    /// Positive, and it says which worker of which task has the session.
    fn pid(self, worker: WorkerId, index: usize) -> Option<i32> {
        let number = index * self.workers + worker.0 + 1;
        match self.task {
            None => i32::try_from(number).ok(),
            Some(_) if number >= FLEET_MAX_SESSIONS => None,
            Some(TaskTag(tag)) => i32::try_from(number)
                .ok()
                .map(|number| i32::from(tag) << NUMBER_BITS | number),
        }
    }

    /// Counted from 0 over all workers.
    fn number(self, key: &CancelKey) -> Option<usize> {
        let pid = usize::try_from(key.pid).ok()?;
        let number = match self.task {
            None => pid,
            Some(_) => pid % FLEET_MAX_SESSIONS,
        };
        number.checked_sub(1)
    }

    pub fn whose(self, key: &CancelKey) -> Whose {
        let tag = u16::try_from(key.pid >> NUMBER_BITS).ok().map(TaskTag);
        match (self.number(key), tag) {
            (Some(_), Some(tag)) if self.task.is_some_and(|own| own != tag) => Whose::Task(tag),
            (Some(number), _) => Whose::Worker(WorkerId(number % self.workers)),
            (None, _) => Whose::Nobodys,
        }
    }
}

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
        let news = !self.waker.borrow().will_wake(waker);
        if news {
            self.listen_anew(waker);
        }
        news
    }

    #[cold]
    fn listen_anew(&self, waker: &Waker) {
        self.waker.replace(waker.clone());
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
    numbering: Numbering,
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
    pub fn new(worker: WorkerId, numbering: Numbering) -> Rc<Sessions> {
        Rc::new(Sessions {
            worker,
            numbering,
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
        random::fill(secret).ok()?;
        let mut places = self.places.borrow_mut();
        let index = places.free.pop().unwrap_or(places.taken.len());
        let key = CancelKey::new(self.numbering.pid(self.worker, index)?, secret)?;
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

    /// Passes a cancel request on to the session that the key proves; silence if there is none.
    pub fn cancel(&self, key: &CancelKey, done: CancelDone) -> CancelOutcome {
        let places = self.places.borrow();
        let number = self.numbering.number(key);
        let index = number.map(|number| number / self.numbering.workers);
        let handle = index.and_then(|index| places.taken.get(index)?.as_ref());
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
    fn keys_lead_back_to_their_task() {
        for tag in [0, 1, 200, 511] {
            let tag = TaskTag::from_random(tag);
            let numbering = Numbering::new(2, Some(tag));
            let sessions = Sessions::new(WorkerId(1), numbering);
            let place = sessions.enter(0).unwrap();
            let key = &place.handle.key;
            assert!(key.pid > 0);
            assert_eq!(numbering.whose(key), Whose::Worker(WorkerId(1)));
            let other = Numbering::new(1, Some(TaskTag::from_random(tag.number() ^ 1)));
            assert_eq!(other.whose(key), Whose::Task(tag));
            let (done, _) = oneshot::channel();
            assert_eq!(sessions.cancel(key, done), CancelOutcome::PassedOn);
        }
        let full = Numbering::new(1, Some(TaskTag(511)));
        assert_eq!(
            full.pid(WorkerId(0), FLEET_MAX_SESSIONS - 2),
            Some(i32::MAX)
        );
        assert_eq!(full.pid(WorkerId(0), FLEET_MAX_SESSIONS - 1), None);
        for pid in [0, -1, i32::MIN] {
            let key = CancelKey::new(pid, b"abcd").unwrap();
            assert_eq!(full.whose(&key), Whose::Nobodys, "{pid}");
        }
    }

    #[test]
    fn keys_are_positive_and_lead_back() {
        let numbering = Numbering::new(3, None);
        let sessions = Sessions::new(WorkerId(1), numbering);
        let first = sessions.enter(0).unwrap();
        let second = sessions.enter(2).unwrap();
        assert_eq!((first.handle.key.pid, second.handle.key.pid), (2, 5));
        assert_eq!(first.handle.key.secret().len(), 4);
        assert_eq!(second.handle.key.secret().len(), 32);
        assert_eq!(
            numbering.whose(&second.handle.key),
            Whose::Worker(WorkerId(1))
        );
        let nobodys = CancelKey::new(-5, b"abcd").unwrap();
        assert_eq!(numbering.whose(&nobodys), Whose::Nobodys);

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
