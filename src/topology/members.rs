//! Who belongs to the cluster: conclusions from what its instances tell of each other.
//!
//! Pure: time is an argument. Knows where instances are reached and what they are called; which of them is the writer,
//! `roles` knows.
//!
//! A host that was configured may be a name that leads now to this instance, now to that (a cluster's endpoint). As soon
//! as the instance behind it answers at an address of its own, that takes the name's place: from there on what DNS makes
//! of the name is of no account.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use super::probe::{Answer, Member};
use super::roles::Place;
use crate::config::{HostPattern, HostPort};

#[derive(Clone, Debug)]
pub struct Terms {
    /// How an instance is reached that is known by its name; `None`: only those are used that are configured.
    pub reached_at: Option<HostPattern>,
    /// Whether that holds against what the cluster says itself.
    pub overrides: bool,
    /// Instances at most.
    pub max: usize,
    /// How long one stays that the writer does not name any more.
    pub forget_after: Duration,
}

#[derive(Debug)]
struct Known {
    at: HostPort,
    /// A name that may lead elsewhere later, or to several.
    configured: bool,
    /// What it says that it is called.
    id: Option<String>,
    /// Since when the writer has not named it.
    missing_since: Option<Instant>,
}

/// What is to be done about who belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// There may be an instance.
    Join(HostPort),
    /// The instance at this place is reached here from now on.
    Move(Place, HostPort),
    /// The same instance as another place's.
    Alias(Place),
    /// It does not belong to the cluster any more.
    Leave(Place),
    /// There are more than there may be.
    Full(HostPort),
}

#[derive(Debug)]
pub struct Members {
    terms: Terms,
    known: BTreeMap<Place, Known>,
    configured: Vec<HostPort>,
}

impl Members {
    pub fn new(terms: Terms) -> Members {
        Members {
            terms,
            known: BTreeMap::new(),
            configured: Vec::new(),
        }
    }

    /// One that was configured.
    pub fn begin_with(&mut self, place: Place, at: HostPort) {
        self.configured.push(at.clone());
        self.joined(place, at);
    }

    /// A place was found for it.
    pub fn joined(&mut self, place: Place, at: HostPort) {
        let known = Known {
            configured: self.configured.contains(&at),
            at,
            id: None,
            missing_since: None,
        };
        self.known.insert(place, known);
    }

    /// An instance has answered. `writer`: which one is, as far as is known.
    pub fn heard(
        &mut self,
        place: Place,
        answer: &Answer,
        writer: Option<Place>,
        now: Instant,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.terms.reached_at.is_none() || !self.known.contains_key(&place) {
            return changes;
        }
        if let Some(id) = &answer.id
            && let Some(other) = self.another_called(place, id)
        {
            return self.merge(place, other);
        }
        if let Some(known) = self.known.get_mut(&place) {
            known.id.clone_from(&answer.id);
        }
        // Others may lag behind in what they know.
        if !answer.members.is_empty() && writer.is_none_or(|writer| writer == place) {
            self.compare(place, &answer.members, writer, now, &mut changes);
        }
        changes
    }

    fn another_called(&self, place: Place, id: &str) -> Option<Place> {
        let mut others = self.known.iter().filter(|(other, _)| **other != place);
        let (other, _) = others.find(|(_, known)| known.id.as_deref() == Some(id))?;
        Some(*other)
    }

    /// The server that answers here has another place, which may have clients already: that one stays.
    fn merge(&mut self, place: Place, other: Place) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(newcomer) = self.known.remove(&place)
            && let Some(other_known) = self.known.get_mut(&other)
            && other_known.configured
            && !newcomer.configured
        {
            other_known.configured = false;
            other_known.at.clone_from(&newcomer.at);
            changes.push(Change::Move(other, newcomer.at));
        }
        changes.push(Change::Alias(place));
        changes
    }

    fn compare(
        &mut self,
        teller: Place,
        members: &[Member],
        writer: Option<Place>,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        let Some(port) = self.known.get(&teller).map(|known| known.at.port) else {
            return;
        };
        let ids: HashSet<&str> = members.iter().map(|member| &*member.id).collect();
        let addresses = members
            .iter()
            .filter_map(|member| self.address(member, port));
        let addresses: Vec<HostPort> = addresses.collect();
        // The name that led to one of them will give up its place.
        let another = |known: &&Known| known.id.as_deref().is_none_or(|id| !ids.contains(id));
        let counted = |known: &&Known| addresses.contains(&known.at) || another(known);
        let mut count = self.known.values().filter(counted).count();
        for at in &addresses {
            if self.known.values().any(|known| known.at == *at) {
                continue;
            }
            if count < self.terms.max {
                count += 1;
                changes.push(Change::Join(at.clone()));
            } else {
                changes.push(Change::Full(at.clone()));
            }
        }
        if writer.is_none() {
            return;
        }
        for (place, known) in &mut self.known {
            let named = known.id.as_deref().is_some_and(|id| ids.contains(id))
                || addresses.contains(&known.at)
                || writer == Some(*place);
            if named {
                known.missing_since = None;
                continue;
            }
            let since = *known.missing_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= self.terms.forget_after {
                changes.push(Change::Leave(*place));
            }
        }
    }

    fn address(&self, member: &Member, port: u16) -> Option<HostPort> {
        let pattern = self.terms.reached_at.as_ref()?;
        let port = member.port.unwrap_or(port);
        match &member.host {
            None => pattern.of(&member.id, port),
            Some(host) if self.terms.overrides => pattern.of(host.split('.').next()?, port),
            Some(host) => Some(HostPort {
                host: host.clone(),
                port,
            }),
        }
    }

    /// There has been no writer for long: whoever was configured may know more.
    pub fn seek(&self) -> Vec<Change> {
        let known = |at: &&HostPort| self.known.values().any(|known| known.at == **at);
        let unknown = self.configured.iter().filter(|at| !known(at));
        let room = self.terms.max.saturating_sub(self.known.len());
        unknown.take(room).cloned().map(Change::Join).collect()
    }

    /// Its place is given up.
    pub fn left(&mut self, place: Place) {
        self.known.remove(&place);
    }
}

#[cfg(test)]
mod tests;
