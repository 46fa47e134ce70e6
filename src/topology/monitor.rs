//! Asks all instances what they are: in regular rounds while the cluster is used, in short steps while something is
//! wrong, not at all while nobody needs it.
//!
//! Knows when to ask; what follows from the answers, `roles` knows, and how they are asked, `Ask`.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::board::Board;
use super::members::{Change, Members};
use super::probe::Answer;
use super::roles::{Event, Missed, Pace, Place, Roles, Unavailable};
use crate::config::HostPort;

/// What the monitor must be told of instances, and what has to follow from it.
pub trait Ask: 'static {
    /// A connection that is kept between two questions.
    type Line;

    /// Asks an instance what it is, on `line` if there is one, and leaves there what can be asked again. Dropped
    /// half-way, the line is lost.
    fn ask(
        &self,
        place: Place,
        line: &mut Option<Self::Line>,
    ) -> impl Future<Output = Result<Answer, Missed>>;

    /// There is an instance at this place from here on.
    fn join(&self, place: Place, at: &HostPort);

    /// The instance at this place is reached elsewhere from here on.
    fn move_to(&self, place: Place, at: &HostPort);

    /// Whether nobody has a connection to an instance that has left, or waits for one; then it is given up.
    fn part(&self, place: Place) -> bool;

    /// Whether anybody uses the cluster, or waits for it.
    fn is_used(&self) -> bool;

    /// Something has happened, and clients may have to go elsewhere.
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

/// How long there is no writer until the configured hosts are asked that were left in favour of others.
const SEEK_AFTER: Duration = Duration::from_secs(5);

pub struct Monitor<A: Ask> {
    ask: A,
    board: Arc<Board>,
    pacing: Pacing,
    roles: RefCell<Roles>,
    members: RefCell<Members>,
    /// Something is wrong: everybody is to ask at once.
    alarm: Notify,
    watched: RefCell<HashSet<Place>>,
    unwatched: RefCell<Vec<Place>>,
    joined: Notify,
    /// When there was a writer last, or one was sought.
    settled_at: Cell<Instant>,
    is_full: Cell<bool>,
}

impl<A: Ask> Monitor<A> {
    /// One for these instances, in the order of their places.
    pub fn new(
        ask: A,
        board: Arc<Board>,
        pacing: Pacing,
        mut roles: Roles,
        mut members: Members,
        configured: &[HostPort],
    ) -> Rc<Self> {
        let now = Instant::now();
        let mut unwatched = Vec::new();
        for at in configured {
            if let Some(place) = roles.add(at.to_string().into()) {
                members.begin_with(place, at.clone());
                unwatched.push(place);
            }
        }
        if let [only] = &*unwatched {
            roles.assume(*only);
        }
        roles.suspect(now.into_std());
        board.post(roles.view(now.into_std()));
        Rc::new(Monitor {
            ask,
            board,
            pacing,
            roles: RefCell::new(roles),
            members: RefCell::new(members),
            alarm: Notify::new(),
            watched: RefCell::new(unwatched.iter().copied().collect()),
            unwatched: RefCell::new(unwatched),
            joined: Notify::new(),
            settled_at: Cell::new(now),
            is_full: Cell::new(false),
        })
    }

    /// Watches all instances, those too that join later. Never ends; cancel-safe.
    pub async fn run(self: Rc<Self>) {
        let mut watchers = JoinSet::new();
        loop {
            for place in self.unwatched.take() {
                watchers.spawn_local(Rc::clone(&self).watch(place));
            }
            tokio::select! {
                () = self.joined.notified() => {}
                Some(_) = watchers.join_next() => {}
            }
        }
    }

    /// Watches one instance for as long as it has a place.
    async fn watch(self: Rc<Self>, place: Place) {
        let mut line = None;
        let mut asked_once = false;
        loop {
            if self.roles.borrow().is_leaving(place) {
                line = None;
                if self.ask.part(place) {
                    self.roles.borrow_mut().vacate(place);
                    self.watched.borrow_mut().remove(&place);
                    return;
                }
                sleep(LOOK).await;
                continue;
            }
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
            if !self.roles.borrow().is_leaving(place) {
                self.learn(place, outcome);
                self.rest(place, began).await;
            }
        }
    }

    /// The answer to a question. If it takes longer than usual, all others are asked meanwhile; a promotion that has
    /// come about already is then seen before the time for the answer is over.
    async fn answer(
        &self,
        place: Place,
        line: &mut Option<A::Line>,
    ) -> Option<Result<Answer, Missed>> {
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

    fn learn(&self, place: Place, outcome: Result<Answer, Missed>) {
        let now = Instant::now().into_std();
        let calm = self.pace() == Pace::Calm;
        let mut events = Vec::new();
        if let Ok(answer) = &outcome {
            self.ask.allows(place, answer.said.allows);
            let writer = self.roles.borrow().writer();
            let changes = self.members.borrow_mut().heard(place, answer, writer, now);
            events = self.change(changes);
        }
        let view = {
            let mut roles = self.roles.borrow_mut();
            match outcome {
                // Another name of one that is asked by itself.
                Ok(_) if roles.is_leaving(place) => {}
                Ok(answer) => events.extend(roles.heard(place, answer.said, now)),
                Err(missed) => events.extend(roles.missed(place, missed, now)),
            }
            roles.view(now)
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
        self.seek();
    }

    /// Without a writer for long, the names that were configured may lead to it.
    fn seek(&self) {
        let now = Instant::now();
        if self.roles.borrow().is_settled() {
            self.settled_at.set(now);
        } else if now >= self.settled_at.get() + SEEK_AFTER {
            self.settled_at.set(now);
            let changes = self.members.borrow().seek();
            self.change(changes);
        }
    }

    fn change(&self, changes: Vec<Change>) -> Vec<Event> {
        let now = Instant::now().into_std();
        let (mut roles, mut members) = (self.roles.borrow_mut(), self.members.borrow_mut());
        let mut events = Vec::new();
        for change in changes {
            match change {
                Change::Join(at) => match roles.add(at.to_string().into()) {
                    Some(place) => {
                        tracing::info!(instance = %at, "the cluster names an instance");
                        members.joined(place, at.clone());
                        self.ask.join(place, &at);
                        if self.watched.borrow_mut().insert(place) {
                            self.unwatched.borrow_mut().push(place);
                            self.joined.notify_one();
                        }
                    }
                    None => self.full(&at),
                },
                Change::Move(place, at) => {
                    tracing::info!(instance = %at, "an instance is reached by its own name from here on");
                    events.extend(roles.rename(place, at.to_string().into()));
                    self.ask.move_to(place, &at);
                }
                Change::Alias(place) => {
                    tracing::debug!(?place, "a second name of an instance");
                    events.extend(roles.retire(place, now));
                }
                Change::Leave(place) => {
                    tracing::warn!(name = ?roles.name(place), "the cluster does not name an instance any more: it is given up");
                    members.left(place);
                    events.extend(roles.retire(place, now));
                }
                Change::Full(at) => self.full(&at),
            }
        }
        events
    }

    fn full(&self, at: &HostPort) {
        if !self.is_full.replace(true) {
            tracing::warn!(instance = %at, "the cluster has more instances than cluster.max_instances: this one, and perhaps others, are left out");
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
            // One and the same for all hints: with it an alarm would be lost that came together with a hint for another.
            let mut alarm = std::pin::pin!(self.alarm.notified());
            loop {
                let hinted = self.board.hinted.notified();
                if self.board.take_hint(place) {
                    return;
                }
                tokio::select! {
                    () = alarm.as_mut() => return,
                    () = hinted => {}
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
