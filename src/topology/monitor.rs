//! Asks all instances what they are: in regular rounds while the cluster is used, in short steps while something is
//! wrong, not at all while nobody needs it.
//!
//! Knows when to ask; what follows from the answers, `roles` knows, and how they are asked, `Ask`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::board::Board;
use super::roles::{Event, Missed, Pace, Place, Roles, Said, Terms, Unavailable};

/// What the monitor must be told of instances.
pub trait Ask: 'static {
    /// A connection that is kept between two questions.
    type Line;

    /// Asks an instance what it is, on `line` if there is one, and leaves there what can be asked again. Dropped
    /// half-way, the line is lost.
    fn ask(
        &self,
        place: Place,
        line: &mut Option<Self::Line>,
    ) -> impl Future<Output = Result<Said, Missed>>;

    /// Whether anybody uses the cluster, or waits for it.
    fn is_used(&self) -> bool;

    /// Something has happened; `elsewhere`: and clients may have to go elsewhere.
    fn happened(&self, events: &[Event]);

    /// What an instance said that it allows.
    fn allows(&self, place: Place, connections: u32);
}

#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    /// Between two questions, normally.
    pub interval: Duration,
    /// While something is wrong.
    pub hurried_interval: Duration,
    /// For an answer.
    pub timeout: Duration,
}

/// How often it is looked whether anybody has come back to a cluster that nobody used.
const LOOK: Duration = Duration::from_millis(100);

pub struct Monitor<A: Ask> {
    ask: A,
    board: Arc<Board>,
    pacing: Pacing,
    roles: RefCell<Roles>,
    /// Something is wrong: everybody is to ask at once.
    alarm: Notify,
}

impl<A: Ask> Monitor<A> {
    /// One for the instances of these names, in the order of their places.
    pub fn new(
        ask: A,
        board: Arc<Board>,
        pacing: Pacing,
        terms: Terms,
        names: &[Arc<str>],
    ) -> Rc<Self> {
        let mut roles = Roles::new(terms);
        for name in names {
            roles.add(Arc::clone(name));
        }
        roles.suspect(Instant::now().into_std());
        board.post(roles.view(Instant::now().into_std()));
        Rc::new(Monitor {
            ask,
            board,
            pacing,
            roles: RefCell::new(roles),
            alarm: Notify::new(),
        })
    }

    /// Watches one instance. Never ends; cancel-safe.
    pub async fn watch(self: Rc<Self>, place: Place) {
        let mut line = None;
        let mut asked_once = false;
        loop {
            if asked_once && !self.ask.is_used() && self.roles.borrow().is_settled() {
                // The database must be able to sleep.
                line = None;
                sleep(LOOK).await;
                continue;
            }
            let began = Instant::now();
            self.board.take_hint(place);
            let outcome = self.answer(place, &mut line).await;
            let outcome = outcome.unwrap_or_else(|| {
                line = None;
                Err(Missed {
                    reason: Unavailable::Unreachable,
                    text: format!("no answer within {:?}", self.pacing.timeout),
                })
            });
            asked_once = true;
            self.learn(place, outcome);
            self.rest(place, began).await;
        }
    }

    /// The answer to a question. If it takes longer than usual, all others are asked meanwhile; a promotion that has
    /// come about already is then seen before the time for the answer is over.
    async fn answer(
        &self,
        place: Place,
        line: &mut Option<A::Line>,
    ) -> Option<Result<Said, Missed>> {
        let mut asking = std::pin::pin!(timeout(self.pacing.timeout, self.ask.ask(place, line)));
        let soon = self.pacing.hurried_interval * 2;
        if let Ok(outcome) = timeout(soon, asking.as_mut()).await {
            return outcome.ok();
        }
        let calm = self.pace() == Pace::Calm;
        self.roles
            .borrow_mut()
            .hesitates(place, Instant::now().into_std());
        if calm && self.pace() == Pace::Hurried {
            self.alarm.notify_waiters();
        }
        asking.await.ok()
    }

    fn pace(&self) -> Pace {
        self.roles.borrow().pace(Instant::now().into_std())
    }

    fn learn(&self, place: Place, outcome: Result<Said, Missed>) {
        let now = Instant::now().into_std();
        if let Ok(said) = &outcome {
            self.ask.allows(place, said.allows);
        }
        let calm = self.pace() == Pace::Calm;
        let (events, view) = {
            let mut roles = self.roles.borrow_mut();
            let events = match outcome {
                Ok(said) => roles.heard(place, said, now),
                Err(missed) => roles.missed(place, missed, now),
            };
            (events, roles.view(now))
        };
        // Connections first: whoever looks at the board finds none of the past.
        self.ask.happened(&events);
        let posted = self.board.post(view);
        if !posted && !events.is_empty() {
            self.board.call();
        }
        if calm && self.pace() == Pace::Hurried {
            self.alarm.notify_waiters();
        }
    }

    /// Until the next question is due.
    async fn rest(&self, place: Place, began: Instant) {
        let soon = began + self.pacing.hurried_interval;
        let due = match self.pace() {
            Pace::Hurried => soon,
            Pace::Calm => began + self.pacing.interval,
        };
        let called = async {
            while !self.board.take_hint(place) {
                tokio::select! {
                    () = self.alarm.notified() => return,
                    () = self.board.hinted.notified() => {}
                }
            }
        };
        tokio::select! {
            () = sleep_until(due) => {}
            // Whoever may break connections may not make us ask as often as he likes.
            () = called => sleep_until(soon).await,
        }
    }
}

#[cfg(test)]
mod tests;
