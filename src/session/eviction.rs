//! Sees to it that nobody of ours is connected where the client's next message must be alone: DROP DATABASE and its like.
//!
//! Knows that connections lie idle, or soon will; PostgreSQL has the last word.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Context as Poller;
use std::time::Duration;

use super::Session;
use super::endpoint::Desk;
use crate::pool::PoolId;

/// So long it is awaited that idle connections are gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// PostgreSQL waits some seconds for others to leave: so often it is looked meanwhile who has become idle.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

type Work = Pin<Box<dyn Future<Output = ()>>>;

/// Connections are being closed that the client's next message would find in its way.
pub(super) struct Evicting {
    stage: Stage,
    work: Work,
    pools: Vec<PoolId>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The message waits for it.
    Ahead,
    /// The message is on its way, and others become idle that were at work before: a session may be done, and its server
    /// still be asked something.
    Meanwhile,
}

impl Evicting {
    /// Whether the client's message has to wait.
    pub(super) fn holds_up(&self) -> bool {
        self.stage == Stage::Ahead
    }
}

impl Session {
    #[inline]
    pub(super) fn poll_eviction(&mut self, cx: &mut Poller<'_>) -> bool {
        let due = self.evicting.is_some() || self.core.wants_eviction();
        due && self.poll_evicting(cx)
    }

    #[cold]
    fn poll_evicting(&mut self, cx: &mut Poller<'_>) -> bool {
        if let Some(databases) = self.core.take_eviction() {
            let names = databases.iter().map(|name| String::from_utf8_lossy(name));
            let pools: Vec<_> = names
                .flat_map(|name| self.endpoint.pools_of(&name))
                .collect();
            self.evicting = Some(Box::new(Evicting {
                stage: Stage::Ahead,
                work: ahead(Rc::clone(&self.desk), pools.clone()),
                pools,
            }));
        }
        let Some(evicting) = &mut self.evicting else {
            return false;
        };
        if evicting.work.as_mut().poll(cx).is_pending() {
            return false;
        }
        evicting.stage = Stage::Meanwhile;
        let pools = std::mem::take(&mut evicting.pools);
        evicting.work = meanwhile(Rc::clone(&self.desk), pools);
        // The next round polls it.
        self.core.evicted();
        true
    }
}

fn ahead(desk: Rc<Desk>, pools: Vec<PoolId>) -> Work {
    Box::pin(async move { desk.evict(&pools, PATIENCE).await })
}

/// Ends only by being dropped, when the message is answered.
fn meanwhile(desk: Rc<Desk>, pools: Vec<PoolId>) -> Work {
    Box::pin(async move {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            desk.close_idle(&pools);
        }
    })
}
