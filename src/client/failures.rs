//! Failed logins: who has had so many that the next attempt is refused, or has to wait.
//!
//! Knows addresses and users, by their hash alone; does not know what a proof is, nor what time it is.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::origin::Origin;

/// How many failures are too many; `None`: never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureTerms {
    /// Of one user from one address. More are refused.
    pub per_user_and_address: Option<u32>,
    /// From one address, whichever users. More are refused, but for users that have logged in from there.
    pub per_address: Option<u32>,
    /// Of one user from anywhere. More have to wait, but from addresses where the user has logged in: nobody can be
    /// locked out from elsewhere.
    pub per_user: Option<u32>,
    /// The time in which that many are forgiven, one by one.
    pub window: Duration,
    /// The wait.
    pub delay: Duration,
    /// Users, addresses and pairs of them remembered at a time.
    pub max_remembered: usize,
}

/// What is to be done with an attempt to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Welcome,
    Wait(Duration),
    TooMany { again_in: Duration },
}

/// A failure, beside those of the same user from the same address that are not forgiven yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapse {
    First,
    Another,
}

/// The failures of a process, and what is too many of them. Off the query path: a lock is taken a few times a login.
#[derive(Debug)]
pub struct Failures {
    terms: FailureTerms,
    memory: Arc<Memory>,
}

impl Failures {
    pub fn new(terms: FailureTerms) -> Failures {
        let memory = Arc::default();
        Failures { terms, memory }
    }

    /// The same memory under other terms.
    pub fn with_terms(&self, terms: FailureTerms) -> Failures {
        let memory = Arc::clone(&self.memory);
        Failures { terms, memory }
    }

    /// To be asked before a proof is asked for, and again before the client learns whether it was right: of many
    /// attempts at once, no more than the limit get an answer. It makes no difference whether there is such a user.
    pub fn verdict(&self, origin: Origin, user: &[u8], now: Instant) -> Verdict {
        let terms = &self.terms;
        let too_much = |account: Account, limit| account.too_much(self.rate(limit)?, now);
        let pair = self.recall(&(origin, user));
        if let Some(again_in) = too_much(pair, terms.per_user_and_address) {
            return Verdict::TooMany { again_in };
        }
        if pair.is_proven {
            return Verdict::Welcome;
        }
        if let Some(again_in) = too_much(self.recall(&origin), terms.per_address) {
            return Verdict::TooMany { again_in };
        }
        match too_much(self.recall(&user), terms.per_user) {
            Some(_) => Verdict::Wait(terms.delay),
            None => Verdict::Welcome,
        }
    }

    /// A proof was wrong.
    pub fn failed(&self, origin: Origin, user: &[u8], now: Instant) -> Lapse {
        let terms = &self.terms;
        let lapse = match self.recall(&(origin, user)).debt(now).is_zero() {
            true => Lapse::First,
            false => Lapse::Another,
        };
        self.charge(&(origin, user), terms.per_user_and_address, now);
        self.charge(&origin, terms.per_address, now);
        self.charge(&user, terms.per_user, now);
        lapse
    }

    /// A proof was right: what this user has failed before from this address is forgiven.
    pub fn passed(&self, origin: Origin, user: &[u8]) {
        if self.terms.per_user_and_address.is_some() || self.terms.per_address.is_some() {
            self.memory
                .change(&(origin, user), self.per_shard(), |pair| {
                    *pair = Account {
                        settled_at: None,
                        is_proven: true,
                    };
                });
        }
    }

    fn charge(&self, of: &impl std::hash::Hash, limit: Option<u32>, now: Instant) {
        if let Some(rate) = self.rate(limit) {
            let charge = |account: &mut Account| account.charge(rate, now);
            self.memory.change(of, self.per_shard(), charge);
        }
    }

    fn recall(&self, of: &impl std::hash::Hash) -> Account {
        self.memory.recall(of, self.per_shard())
    }

    fn rate(&self, limit: Option<u32>) -> Option<Rate> {
        let window = self.terms.window;
        limit.map(|limit| Rate {
            each: window / limit,
            window,
        })
    }

    fn per_shard(&self) -> usize {
        self.terms.max_remembered / SHARDS
    }
}

/// One failure is forgiven in `each`, and no more than `window` holds may be outstanding.
#[derive(Clone, Copy)]
struct Rate {
    each: Duration,
    window: Duration,
}

/// What somebody owes.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// When all failures so far are forgiven; `None`: there are none.
    settled_at: Option<Instant>,
    is_proven: bool,
}

impl Account {
    /// How long until one more failure fits in; `None`: it does now.
    fn too_much(&self, rate: Rate, now: Instant) -> Option<Duration> {
        let again_in = (self.debt(now) + rate.each).saturating_sub(rate.window);
        (!again_in.is_zero()).then_some(again_in)
    }

    /// However many come, they are forgotten soon after the last.
    fn charge(&mut self, rate: Rate, now: Instant) {
        let debt = (self.debt(now) + rate.each).min(rate.window + rate.each);
        self.settled_at = now.checked_add(debt);
    }

    fn debt(&self, now: Instant) -> Duration {
        let settled_at = self.settled_at.unwrap_or(now);
        settled_at.saturating_duration_since(now)
    }
}

const SHARDS: usize = 16;

/// Accounts by a hash that nobody outside can compute, in shards, each with a lock of its own.
#[derive(Debug, Default)]
struct Memory {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// When the young ones are as many as fit in half the room, they become the old ones, and those are forgotten:
/// roughly, whoever was seen longest ago goes first.
#[derive(Debug, Default)]
struct Shard {
    young: Accounts,
    old: Accounts,
}

/// The keys are secret hashes already: a quick one of them will do.
type Accounts = HashMap<u64, Account, foldhash::fast::FixedState>;

impl Memory {
    fn recall(&self, of: &impl std::hash::Hash, max: usize) -> Account {
        self.with(of, |shard, hash| {
            let known = shard.find(hash, max).copied();
            known.unwrap_or_default()
        })
    }

    fn change(&self, of: &impl std::hash::Hash, max: usize, change: impl FnOnce(&mut Account)) {
        self.with(of, |shard, hash| {
            match shard.find(hash, max) {
                Some(account) => change(account),
                None => {
                    let mut account = Account::default();
                    change(&mut account);
                    shard.keep(hash, account, max);
                }
            };
        });
    }

    fn with<T>(&self, of: &impl std::hash::Hash, work: impl FnOnce(&mut Shard, u64) -> T) -> T {
        let hash = self.hasher.hash_one(of);
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of 16")]
        let shard = self.shards.get((hash % SHARDS as u64) as usize);
        let shard = shard.expect("a remainder is less than its divisor");
        work(
            &mut shard.lock().unwrap_or_else(PoisonError::into_inner),
            hash,
        )
    }
}

impl Shard {
    fn find(&mut self, hash: u64, max: usize) -> Option<&mut Account> {
        if let Some(account) = self.old.remove(&hash) {
            self.keep(hash, account, max);
        }
        self.young.get_mut(&hash)
    }

    fn keep(&mut self, hash: u64, account: Account, max: usize) {
        if self.young.len() >= (max / 2).max(1) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, account);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> FailureTerms {
        FailureTerms {
            per_user_and_address: Some(20),
            per_address: Some(100),
            per_user: Some(100),
            window: Duration::from_secs(60),
            delay: Duration::from_secs(1),
            max_remembered: 20_000,
        }
    }

    fn origin(number: u32) -> Origin {
        Origin::of((std::net::Ipv4Addr::from_bits(number), 1).into())
    }

    fn is_refused(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::TooMany { .. })
    }

    /// As the gate does it: asks, then fails. How many of so many guesses were answered.
    fn guess(
        failures: &Failures,
        from: impl Fn(u32) -> Origin,
        user: impl Fn(u32) -> String,
        count: u32,
        now: Instant,
    ) -> u32 {
        (0..count)
            .filter(|&number| {
                let (origin, user) = (from(number), user(number));
                let answered = !is_refused(failures.verdict(origin, user.as_bytes(), now));
                if answered {
                    failures.failed(origin, user.as_bytes(), now);
                }
                answered
            })
            .count()
            .try_into()
            .unwrap()
    }

    #[test]
    fn ten_thousand_guesses_from_one_address() {
        let (failures, now) = (Failures::new(terms()), Instant::now());
        let one = |_| origin(1);
        assert_eq!(guess(&failures, one, |_| "app".into(), 10_000, now), 20);
        let Verdict::TooMany { again_in } = failures.verdict(origin(1), b"app", now) else {
            panic!("limited");
        };
        assert_eq!(again_in, Duration::from_secs(3));
        let later = now + again_in;
        assert_eq!(failures.verdict(origin(1), b"app", later), Verdict::Welcome);
        assert_eq!(guess(&failures, one, |_| "app".into(), 100, later), 1);
        // Other users of that address, and that user elsewhere, are not touched.
        assert_eq!(failures.verdict(origin(1), b"b", now), Verdict::Welcome);
        assert_eq!(failures.verdict(origin(2), b"app", now), Verdict::Welcome);
        // Nor does it help to change the name each time.
        let names = |number| format!("user{number}");
        assert_eq!(guess(&failures, one, names, 10_000, now), 79);
    }

    #[test]
    fn who_has_logged_in_from_an_address_is_not_shut_out_by_its_neighbours() {
        let (failures, now) = (Failures::new(terms()), Instant::now());
        failures.passed(origin(1), b"good");
        guess(
            &failures,
            |_| origin(1),
            |number| format!("user{number}"),
            1_000,
            now,
        );
        assert!(is_refused(failures.verdict(origin(1), b"new", now)));
        assert_eq!(failures.verdict(origin(1), b"good", now), Verdict::Welcome);
        // A limit of its own holds for it all the same, and a success settles it.
        assert_eq!(
            guess(&failures, |_| origin(1), |_| "good".into(), 100, now),
            20
        );
        assert!(is_refused(failures.verdict(origin(1), b"good", now)));
        failures.passed(origin(1), b"good");
        assert_eq!(failures.verdict(origin(1), b"good", now), Verdict::Welcome);
    }

    #[test]
    fn a_user_guessed_at_from_everywhere_is_slow_but_never_shut_out() {
        let (failures, now) = (Failures::new(terms()), Instant::now());
        failures.passed(origin(7), b"app");
        assert_eq!(
            guess(&failures, origin, |_| "app".into(), 3_000, now),
            3_000
        );
        let wait = Verdict::Wait(Duration::from_secs(1));
        assert_eq!(failures.verdict(origin(99_999), b"app", now), wait);
        assert_eq!(failures.verdict(origin(7), b"app", now), Verdict::Welcome);
        // Over soon after the last guess, however many there were.
        let later = now + Duration::from_secs(2);
        assert_eq!(
            failures.verdict(origin(99_999), b"app", later),
            Verdict::Welcome
        );
    }

    #[test]
    fn memory_is_bounded_and_old_ones_go_first() {
        let now = Instant::now();
        let failures = Failures::new(FailureTerms {
            max_remembered: 1_600,
            ..terms()
        });
        for number in 0..100_000 {
            failures.failed(origin(number), b"app", now);
        }
        let kept = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap();
            shard.young.len() + shard.old.len()
        };
        let kept: usize = failures.memory.shards.iter().map(kept).sum();
        assert!(kept <= 1_600, "{kept}");
        // The user was seen with each of them.
        let wait = Verdict::Wait(Duration::from_secs(1));
        assert_eq!(failures.verdict(origin(200_000), b"app", now), wait);
    }

    #[test]
    fn limits_can_be_off_and_change() {
        let now = Instant::now();
        let off = FailureTerms {
            per_user_and_address: None,
            per_address: None,
            per_user: None,
            ..terms()
        };
        let failures = Failures::new(off.clone());
        assert_eq!(
            guess(&failures, |_| origin(1), |_| "app".into(), 500, now),
            500
        );
        let failures = failures.with_terms(terms());
        assert_eq!(
            guess(&failures, |_| origin(1), |_| "app".into(), 500, now),
            20
        );
        let failures = failures.with_terms(off);
        assert_eq!(failures.verdict(origin(1), b"app", now), Verdict::Welcome);
    }
}
