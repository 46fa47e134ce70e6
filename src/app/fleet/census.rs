//! Who belongs to the fleet, and which part of every cap is this task's.
//!
//! Pure: time is an argument, what DNS and the others say comes in as values. Opens, asks and closes nothing.
//!
//! The promise: as long as the connections that each task has are what its census allows (those above it closed within
//! `Terms::shed_within`), all of them together never have more than the cap. It rests on three rules:
//!
//! 1. A task counts as a member whoever DNS lists, and whoever has said of himself, by the fleet's own hop, that he is
//!    there. Either way is enough to be counted.
//! 2. A member's part is the least of what all its views of the last `settle` would give it. A view without itself
//!    gives it nothing: so a newcomer opens nothing for `settle`, in which the others see it and shed; and whoever is
//!    left grows only `settle` after another has gone.
//! 3. A task that DNS does not list any more (it is being stopped, say) is a member for as long as all others answer
//!    it, since these then count it; otherwise it has nothing. Its part does not grow: of others that are not listed
//!    either it may not know.
//!
//! That two tasks' views differ does no harm: members are ranked by address, and a view with more members never gives
//! anyone a larger part (`Portion`). Every task that has connections has been in all views for long enough.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::pool::portion::{Growth, Portion};

/// The times that all of it depends on.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Between two looks at DNS; `settle` is at least three times as long.
    pub refresh: Duration,
    pub settle: Duration,
    /// Tasks that are remembered beside those that DNS lists; all of them know the key.
    pub max_heard: usize,
}

impl Terms {
    /// How soon connections above the part must be closed: DNS may take a third of `settle` to tell everybody, this
    /// takes a half, and a sixth is left for closing.
    pub fn shed_within(&self) -> Duration {
        self.settle / 2
    }

    /// How long somebody is there after he was last heard of: a hello or two may be lost.
    fn heard_for(&self) -> Duration {
        self.settle * 2 / 3
    }
}

/// What this task may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub portion: Portion,
    pub growth: Growth,
    /// Known members, this task included if it is one.
    pub members: usize,
    /// Whether this task has been found among them.
    pub place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// None of the addresses that DNS lists has turned out to be this task.
    Unknown,
    /// It is listed no more, and not all others answer.
    Lost,
    /// It is one of them, and part of this is still to pass before it has what it will have.
    Settling(Duration),
    Settled,
}

#[derive(Debug)]
pub struct Census {
    terms: Terms,
    /// The longest that a record was good for.
    ttl: Duration,
    me: Option<SocketAddr>,
    /// What DNS said last, and when.
    listed: BTreeSet<SocketAddr>,
    listed_at: Option<Instant>,
    /// When each other task last said that it is there.
    heard: BTreeMap<SocketAddr, Instant>,
    /// When each other task last answered us: it counts us for a while from then.
    answered: BTreeMap<SocketAddr, Instant>,
    /// What the views gave us, each from the time it was taken until the next; the last one holds now.
    views: VecDeque<(Instant, Portion)>,
}

impl Census {
    pub fn new(terms: Terms) -> Census {
        Census {
            terms,
            ttl: Duration::ZERO,
            me: None,
            listed: BTreeSet::new(),
            listed_at: None,
            heard: BTreeMap::new(),
            answered: BTreeMap::new(),
            views: VecDeque::new(),
        }
    }

    /// The terms, `settle` lengthened to what the records' own lifetime asks for.
    pub fn terms(&self) -> Terms {
        Terms {
            settle: self.terms.settle.max((self.terms.refresh + self.ttl) * 3),
            ..self.terms
        }
    }

    /// DNS has said who is there, with the time that its answer is good for.
    pub fn on_listed(&mut self, now: Instant, names: BTreeSet<SocketAddr>, ttl: Duration) {
        self.ttl = self.ttl.max(ttl);
        self.listed = names;
        self.listed_at = Some(now);
        self.look(now);
    }

    /// This address is ours.
    pub fn on_self(&mut self, now: Instant, name: SocketAddr) {
        // Of several, the first: it is counted once for each, which is too often but never too seldom.
        self.me = Some(self.me.map_or(name, |me| me.min(name)));
        self.look(now);
    }

    /// Another task has said that it is there, or has answered with it.
    pub fn on_heard(&mut self, now: Instant, name: SocketAddr) {
        if self.me != Some(name) && self.heard.len() < self.terms.max_heard {
            self.heard.insert(name, now);
            self.look(now);
        }
    }

    /// Another task has answered what was asked at `asked`, and so counts us.
    pub fn on_answer(&mut self, now: Instant, asked: Instant, name: SocketAddr) {
        self.answered.insert(name, asked);
        self.on_heard(now, name);
    }

    /// Everybody whom it makes sense to greet.
    pub fn others(&self) -> BTreeSet<SocketAddr> {
        let heard = self.heard.keys().copied();
        let mut all: BTreeSet<SocketAddr> = self.listed.iter().copied().chain(heard).collect();
        if let Some(me) = self.me {
            all.remove(&me);
        }
        all
    }

    pub fn me(&self) -> Option<SocketAddr> {
        self.me
    }

    /// What this task may have from now on.
    pub fn standing(&mut self, now: Instant) -> Standing {
        self.look(now);
        let settle = self.terms().settle;
        let portion = self.least(now);
        let newest = self.views.back().map_or(Portion::Nothing, |view| view.1);
        let members = self.members(now);
        let place = match (self.me, newest) {
            (None, _) => Place::Unknown,
            (Some(_), Portion::Nothing) => Place::Lost,
            (Some(_), Portion::Part { .. }) if portion == newest => Place::Settled,
            (Some(_), Portion::Part { .. }) => {
                let until = self.views.back().map_or(now, |view| view.0) + settle;
                Place::Settling(until.saturating_duration_since(now))
            }
        };
        Standing {
            portion,
            growth: self.growth(now, &members),
            members: members.len(),
            place,
        }
    }

    /// What none of the views of the last `settle` gave more than.
    fn least(&self, now: Instant) -> Portion {
        let since = now.checked_sub(self.terms().settle);
        let counts = |until: Instant| since.is_none_or(|since| until > since);
        let first = match self.views.front() {
            Some((first, _)) if !counts(*first) => Portion::WHOLE,
            // Before its first view it had nothing.
            Some(_) | None => Portion::Nothing,
        };
        let ends = self.views.iter().skip(1).map(|view| view.0);
        let ended = self.views.iter().zip(ends);
        let ended = ended.filter(|(_, until)| counts(*until));
        let newest = self.views.back().map(|view| view.1);
        let views = ended.map(|(view, _)| view.1).chain(newest);
        views.fold(first, Portion::or_less)
    }

    /// Takes a view, and keeps it if it says something new.
    fn look(&mut self, now: Instant) {
        let terms = self.terms();
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < terms.heard_for();
        self.heard.retain(|_, at| fresh(at));
        self.answered.retain(|_, at| fresh(at));
        let members = self.members(now);
        let rank = self
            .me
            .and_then(|me| members.iter().position(|name| *name == me));
        let portion = match rank {
            Some(rank) => Portion::Part {
                rank,
                of: members.len(),
            },
            None => Portion::Nothing,
        };
        let portion = match portion {
            Portion::Part { .. } if !self.is_listed() => self.least(now).or_less(portion),
            Portion::Part { .. } | Portion::Nothing => portion,
        };
        if self.views.back().is_none_or(|view| view.1 != portion) {
            self.views.push_back((now, portion));
        }
        // What was over before the time that counts is of no more interest.
        while let Some((until, _)) = self.views.get(1)
            && now.saturating_duration_since(*until) > terms.settle
        {
            self.views.pop_front();
        }
        self.bound_views();
    }

    /// However often members come and go, so many views are enough: two old ones become one that is no better.
    fn bound_views(&mut self) {
        while self.views.len() > MAX_VIEWS {
            let first = self.views.pop_front();
            if let (Some((since, one)), Some((from, two))) = (first, self.views.front_mut()) {
                *two = two.or_less(one);
                *from = since;
            }
        }
    }

    fn members(&self, now: Instant) -> BTreeSet<SocketAddr> {
        let mut members = self.others();
        if let Some(me) = self.me
            && (self.is_listed() || self.is_counted_by(&members, now))
        {
            members.insert(me);
        }
        members
    }

    fn is_listed(&self) -> bool {
        self.me.is_some_and(|me| self.listed.contains(&me))
    }

    /// Whether each of these has answered lately, and so counts us.
    fn is_counted_by(&self, others: &BTreeSet<SocketAddr>, now: Instant) -> bool {
        let heard_for = self.terms().heard_for();
        others.iter().all(|name| {
            let asked = self.answered.get(name);
            asked.is_some_and(|asked| now.saturating_duration_since(*asked) < heard_for)
        })
    }

    /// A newcomer that DNS can't tell us of may not be able to reach us either, if others can't.
    fn growth(&self, now: Instant, members: &BTreeSet<SocketAddr>) -> Growth {
        let settle = self.terms().settle;
        let fresh = |at| now.saturating_duration_since(at) < settle;
        let others = members.iter().copied();
        let others: BTreeSet<SocketAddr> = others.filter(|name| self.me != Some(*name)).collect();
        let by_dns = self.listed_at.is_some_and(fresh);
        if by_dns || !others.is_empty() && self.is_counted_by(&others, now) {
            Growth::Free
        } else {
            Growth::Frozen
        }
    }
}

/// Views that are kept one by one.
const MAX_VIEWS: usize = 256;

#[cfg(test)]
mod tests;
