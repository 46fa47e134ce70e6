//! Work that all workers ask for and one does, with what only a worker has: its desks.
//!
//! Knows how it is asked for; not what it is.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Questions that may wait to be taken up; who has one more waits to ask it.
const MAX_WAITING: usize = 100;

struct Errand<Q, A> {
    question: Q,
    answer: oneshot::Sender<A>,
}

/// Where questions are asked.
pub struct Bell<Q, A>(mpsc::Sender<Errand<Q, A>>);

/// Where they come out.
pub struct Inbox<Q, A>(mpsc::Receiver<Errand<Q, A>>);

pub fn open<Q, A>() -> (Arc<Bell<Q, A>>, Inbox<Q, A>) {
    let (sender, inbox) = mpsc::channel(MAX_WAITING);
    (Arc::new(Bell(sender)), Inbox(inbox))
}

impl<Q, A> Bell<Q, A> {
    /// `None`: nobody is there to answer any more. Cancel-safe.
    pub async fn ask(&self, question: Q) -> Option<A> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Errand { question, answer }).await.ok()?;
        answered.await.ok()
    }
}

impl<Q, A> Inbox<Q, A> {
    /// Has each question answered beside the others, however many those are: whoever asks has a limit of that. Never
    /// ends. Cancel-safe: what has been begun ends with it.
    pub async fn answer<W>(mut self, work: impl Fn(Q, oneshot::Sender<A>) -> W)
    where
        W: Future<Output = ()> + 'static,
    {
        let mut at_work = JoinSet::new();
        loop {
            tokio::select! {
                Some(Errand { question, answer }) = self.0.recv() => {
                    at_work.spawn_local(work(question, answer));
                }
                Some(_) = at_work.join_next() => {}
                else => return,
            }
        }
    }
}
