//! The work of a pool that takes time: opening, cleaning, closing, and looking after what lies idle.
//!
//! One a worker, and it owns every task it starts. Knows when work is due; `Manage` knows how it is done.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::slots::{Held, PoolId};
use super::{Desk, Failure, FailureKind, Job, Leaving, Manage, Whose, now};

/// How often idle connections are looked at and pauses are checked, while there is anything to watch.
const ROUND: Duration = Duration::from_millis(250);
/// A pause after a failure may end between two rounds; this is how exactly it is kept.
const ROUND_IN_TROUBLE: Duration = Duration::from_millis(25);

pub struct Janitor<M: Manage> {
    desk: Rc<Desk<M>>,
    inbox: mpsc::UnboundedReceiver<Job<M>>,
    tasks: JoinSet<()>,
}

impl<M: Manage> Janitor<M> {
    pub(super) fn new(desk: Rc<Desk<M>>, inbox: mpsc::UnboundedReceiver<Job<M>>) -> Janitor<M> {
        Janitor {
            desk,
            inbox,
            tasks: JoinSet::new(),
        }
    }

    /// Works until dropped. Cancel-safe: what it has begun ends with it.
    pub async fn run(mut self) {
        let mut watching = true;
        let mut round = pin!(tokio::time::sleep(ROUND));
        loop {
            let looked = tokio::select! {
                job = self.inbox.recv() => match job {
                    Some(job) => {
                        watching = true;
                        self.start(job);
                        false
                    }
                    None => return,
                },
                Some(_) = self.tasks.join_next() => false,
                _ = round.as_mut(), if watching => {
                    watching = self.look_around();
                    true
                }
            };
            let next = tokio::time::Instant::now() + self.pause();
            // Trouble begins between two rounds, and brings the next one forward.
            if looked || next < round.deadline() {
                round.as_mut().reset(next);
            }
        }
    }

    fn pause(&self) -> Duration {
        match self.desk.target.slots().trouble() {
            Some(_) => ROUND_IN_TROUBLE,
            None => ROUND,
        }
    }

    fn start(&mut self, job: Job<M>) {
        let desk = Rc::clone(&self.desk);
        match job {
            Job::Open(pool) => self.tasks.spawn_local(async move { desk.open(pool).await }),
            Job::Clean(pool, held) => self
                .tasks
                .spawn_local(async move { desk.clean(pool, held).await }),
            Job::Close(pool, held, why) => self
                .tasks
                .spawn_local(async move { desk.close(pool, held, why).await }),
            Job::Renew(pool, held, place) => self
                .tasks
                .spawn_local(async move { desk.renew_in_place(pool, held, place).await }),
            Job::Watch => return,
            Job::Plan => self.tasks.spawn_local(async move { desk.carry_out_plan() }),
        };
    }

    /// One round. False when there is nothing left that time could change.
    fn look_around(&mut self) -> bool {
        let desk = &self.desk;
        let (leaving, watch) = {
            let mut slots = desk.target.slots();
            let manage = &desk.target.manage;
            let leaving = slots.sweep(desk.worker, now(), |connection| manage.is_dead(connection));
            (leaving, slots.needs_watching())
        };
        for (pool, held, why) in leaving {
            desk.send(Job::Close(pool, held, why));
        }
        desk.carry_out_plan();
        watch
    }
}

impl<M: Manage> Desk<M> {
    async fn open(&self, pool: PoolId) {
        if let Ok(held) = self.dial(pool).await {
            self.put_back(pool, held, now());
        }
        self.carry_out_plan();
    }

    /// Opens a connection, which then counts as leased. The slot must count as opening.
    async fn dial(&self, pool: PoolId) -> Result<Held<M::Connection>, M::Error> {
        // Should this task end early, the slot is free again.
        let approval = Approval { desk: self, pool };
        let key = self.target.key(pool);
        let generation = self.target.slots().generation();
        let outcome = self.target.manage.open(&key).await;
        approval.redeem();
        let opened = match outcome {
            Ok(opened) => opened,
            // What was tried before says nothing of what the target is now.
            Err(cause) if !self.target.is_current(generation) => {
                self.target.slots().opening_given_up(pool);
                return Err(cause);
            }
            Err(cause) => {
                self.opening_failed(pool, cause.clone());
                return Err(cause);
            }
        };
        let jitter = chance();
        let mut slots = self.target.slots();
        if let Some(cap) = opened.cap {
            slots.set_cap(cap);
        }
        slots.opened(pool);
        Ok(Held {
            connection: opened.connection,
            generation,
            expires: now() + slots.policy().lifetime_with(jitter),
            worker: self.worker,
        })
    }

    async fn renew_in_place(&self, pool: PoolId, held: Held<M::Connection>, whose: Whose<M>) {
        self.part_with(pool, held, Leaving::Unfit).await;
        let reopening = self.target.slots().reopening(pool);
        let outcome = match reopening {
            true => Some(self.dial(pool).await),
            false => None,
        };
        match outcome {
            Some(Ok(held)) => {
                // Whoever it was for may have gone.
                if let Err(Ok(held)) = whose.handover.send(Ok(held)) {
                    self.put_back(pool, held, now());
                }
            }
            Some(Err(cause)) if cause.kind() == FailureKind::Refused => {
                let _ = whose.handover.send(Err(cause));
            }
            // It waits like everybody for what there will be.
            Some(Err(_)) | None => self.line_up(pool, whose),
        }
        self.carry_out_plan();
    }

    fn line_up(&self, pool: PoolId, whose: Whose<M>) {
        let Whose { ticket, handover } = whose;
        if handover.is_closed() {
            return;
        }
        let found = self
            .target
            .slots()
            .rejoin(pool, self.worker, ticket, handover);
        if let Some((handover, held)) = found {
            let _ = handover.send(Ok(held));
        }
    }

    fn opening_failed(&self, pool: PoolId, cause: M::Error) {
        let in_vain =
            self.target
                .slots()
                .open_failed(pool, cause.kind(), cause.clone(), now(), chance());
        for waiter in in_vain {
            // One that has gone in the meantime needs no answer.
            let _ = waiter.send(Err(cause.clone()));
        }
    }

    /// A connection left in an unknown state: made as new, or closed.
    async fn clean(&self, pool: PoolId, held: Held<M::Connection>) {
        let limit = self.target.slots().policy().reset_timeout;
        if self.target.is_severed(held.generation) {
            self.target.slots().discard(pool);
            return self.close(pool, held, Leaving::Severed).await;
        }
        let mut held = held;
        let key = self.target.key(pool);
        let cleaning = self.target.manage.clean(&key, &mut held.connection);
        match tokio::time::timeout(limit, cleaning).await {
            Ok(true) => {
                self.put_back(pool, held, now());
                self.carry_out_plan();
            }
            Ok(false) | Err(_) => {
                self.target.slots().discard(pool);
                self.close(pool, held, Leaving::Unclean).await;
            }
        }
    }

    /// The slot is free when the server has let go, however long that takes.
    async fn close(&self, pool: PoolId, held: Held<M::Connection>, why: Leaving) {
        self.part_with(pool, held, why).await;
        self.target.slots().closed(pool);
        self.carry_out_plan();
    }

    async fn part_with(&self, pool: PoolId, mut held: Held<M::Connection>, why: Leaving) {
        let ours =
            held.worker == self.worker || self.target.manage.rehome(&mut held.connection).is_ok();
        if ours {
            let key = self.target.key(pool);
            self.target.manage.close(&key, held.connection, why).await;
        }
    }
}

/// The right to open one connection. Dropped unused, it gives the slot back.
struct Approval<'a, M: Manage> {
    desk: &'a Desk<M>,
    pool: PoolId,
}

impl<M: Manage> Approval<'_, M> {
    /// The opening has been accounted for otherwise.
    fn redeem(self) {
        std::mem::forget(self);
    }
}

impl<M: Manage> Drop for Approval<'_, M> {
    fn drop(&mut self) {
        self.desk.target.slots().opening_given_up(self.pool);
    }
}

/// A number in 0..1 for jitter; nothing depends on its being hard to guess.
pub(super) fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = RandomState::new().hash_one(0u8) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_in_range_and_varies() {
        let drawn: Vec<f64> = (0..100).map(|_| chance()).collect();
        assert!(drawn.iter().all(|draw| (0.0..1.0).contains(draw)));
        assert!(drawn.iter().any(|draw| draw < &0.5) && drawn.iter().any(|draw| draw >= &0.5));
    }
}
