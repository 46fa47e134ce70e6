//! Who is pinned at the moment and since when, and what sessions were pinned for since the start.
//!
//! Shared by all workers; touched only when a pin begins or ends, never on the path of a query. Bounded: what can't be
//! listed any more is still counted. Knows nothing of how pins come about.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pins::Reason;

/// Pins that are kept to be listed; further ones are only counted.
const MAX_LISTED: usize = 10_000;
/// Digests that are counted; for a new one, the one seen least gives way.
const MAX_DIGESTS: usize = 100;

/// One pin, as operators are told.
#[derive(Clone, Debug)]
pub struct Pin {
    pub reason: Reason,
    /// Of the statement that gave rise to it; `None` for what the client logged in with.
    pub digest: Option<Arc<str>>,
    /// The process id that the client knows.
    pub pid: i32,
    /// That of the connection it holds.
    pub server_pid: Option<i32>,
    pub client: Option<SocketAddr>,
    pub application_name: Arc<str>,
    pub target: Arc<str>,
    pub database: Arc<str>,
    pub user: Arc<str>,
    pub since: Instant,
}

#[derive(Debug, Default)]
pub struct Pinboard {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// In the order in which they began.
    now: BTreeMap<u64, Pin>,
    unlisted: usize,
    next: u64,
    reasons: [u64; Reason::ALL.len()],
    digests: HashMap<(u8, Option<Arc<str>>), Times>,
}

/// How often a digest was seen, and when for the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Times {
    count: u64,
    last: u64,
}

/// A pin that holds; it ends when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    board: Arc<Pinboard>,
    /// `None`: it is not listed.
    place: Option<u64>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut seen = self.board.seen();
        match self.place {
            Some(place) => _ = seen.now.remove(&place),
            None => seen.unlisted -= 1,
        }
    }
}

/// What the board says.
#[derive(Debug)]
pub struct Listing {
    /// The longest first.
    pub pins: Vec<Pin>,
    /// All that hold, listed or not.
    pub total: usize,
    /// Since the start, the most frequent first.
    pub reasons: Vec<(Reason, u64)>,
    pub digests: Vec<(Reason, Option<Arc<str>>, u64)>,
}

impl Pinboard {
    pub fn begin(self: &Arc<Self>, pin: Pin) -> Ticket {
        let mut seen = self.seen();
        seen.count(&pin);
        let place = if seen.now.len() < MAX_LISTED {
            let place = seen.next;
            seen.now.insert(place, pin);
            Some(place)
        } else {
            seen.unlisted += 1;
            None
        };
        drop(seen);
        Ticket {
            board: Arc::clone(self),
            place,
        }
    }

    /// At most `max` pins of those that hold.
    pub fn list(&self, max: usize) -> Listing {
        let seen = self.seen();
        let pins = seen.now.values().take(max).cloned().collect();
        let total = seen.now.len() + seen.unlisted;
        let mut reasons: Vec<(Reason, u64)> = Reason::ALL.into_iter().zip(seen.reasons).collect();
        let known = seen.digests.iter();
        let mut digests: Vec<(Reason, Option<Arc<str>>, u64)> = known
            .filter_map(|((reason, digest), times)| {
                let reason = *Reason::ALL.get(usize::from(*reason))?;
                Some((reason, digest.clone(), times.count))
            })
            .collect();
        drop(seen);
        reasons.retain(|(_, count)| *count > 0);
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        digests.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.1.cmp(&b.1)));
        Listing {
            pins,
            total,
            reasons,
            digests,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Counts and lists stay good whatever panicked.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn count(&mut self, pin: &Pin) {
        self.next += 1;
        if let Some(count) = self.reasons.get_mut(pin.reason as usize) {
            *count += 1;
        }
        let key = (pin.reason as u8, pin.digest.clone());
        if self.digests.len() >= MAX_DIGESTS && !self.digests.contains_key(&key) {
            let least = self.digests.iter().min_by_key(|(_, times)| **times);
            if let Some(least) = least.map(|(key, _)| key.clone()) {
                self.digests.remove(&least);
            }
        }
        let times = self
            .digests
            .entry(key)
            .or_insert(Times { count: 0, last: 0 });
        times.count += 1;
        times.last = self.next;
    }
}

impl Pin {
    pub fn lasted(&self) -> Duration {
        self.since.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(pid: i32, reason: Reason, digest: &str) -> Pin {
        Pin {
            reason,
            digest: Some(digest.into()),
            pid,
            server_pid: None,
            client: None,
            application_name: "".into(),
            target: "db:5432".into(),
            database: "orders".into(),
            user: "app".into(),
            since: Instant::now(),
        }
    }

    #[test]
    fn pins_are_listed_while_they_hold_and_counted_for_good() {
        let board = Arc::new(Pinboard::default());
        let first = board.begin(pin(1, Reason::Listen, "LISTEN a"));
        let _second = board.begin(pin(2, Reason::Listen, "LISTEN b"));
        let third = board.begin(pin(3, Reason::Load, "LOAD ?"));
        drop(board.begin(pin(4, Reason::Listen, "LISTEN b")));
        let pids = |listing: &Listing| listing.pins.iter().map(|pin| pin.pid).collect::<Vec<_>>();
        assert_eq!(pids(&board.list(10)), [1, 2, 3]);
        assert_eq!((pids(&board.list(2)), board.list(2).total), (vec![1, 2], 3));
        drop((first, third));
        let listing = board.list(10);
        assert_eq!((pids(&listing), listing.total), (vec![2], 1));
        assert_eq!(listing.reasons, [(Reason::Listen, 3), (Reason::Load, 1)]);
        let digests: Vec<_> = listing
            .digests
            .iter()
            .map(|(_, digest, count)| (digest.as_deref().unwrap(), *count))
            .collect();
        assert_eq!(digests, [("LISTEN b", 2), ("LISTEN a", 1), ("LOAD ?", 1)]);
    }

    #[test]
    fn it_is_bounded() {
        let board = Arc::new(Pinboard::default());
        let often = board.begin(pin(0, Reason::Listen, "often"));
        drop(board.begin(pin(0, Reason::Listen, "often")));
        let mut held = vec![often];
        for n in 0..i32::try_from(MAX_LISTED).unwrap() + 5 {
            held.push(board.begin(pin(n, Reason::Temporary, &format!("t{n}"))));
        }
        let listing = board.list(usize::MAX);
        assert_eq!(
            (listing.pins.len(), listing.total),
            (MAX_LISTED, held.len())
        );
        assert_eq!(listing.digests.len(), MAX_DIGESTS);
        assert_eq!(listing.digests[0].1.as_deref(), Some("often"));
        drop(held);
        assert_eq!(board.list(1).total, 0);
    }
}
