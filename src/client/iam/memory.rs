//! What is known of tokens that were asked about: each is asked about once, whoever else comes with it meanwhile.
//!
//! Keeps no token: they are told apart by an HMAC whose key no other process has. Knows nothing of who is asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ring::{hmac, rand};
use tokio::sync::OnceCell;

use super::map::Principal;
use super::reason::Reason;
use super::time::Seconds;

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Valid(Principal),
    Refused(Reason),
    /// Whoever knows could not be asked.
    Unanswered(Arc<str>),
}

/// A verdict and how long it holds.
#[derive(Clone, Debug)]
pub struct Known {
    pub verdict: Verdict,
    pub until: Seconds,
}

/// Names a token, a user and a database, for one validator.
pub type Name = [u8; 32];

type Slot = Arc<OnceCell<Known>>;

/// Bounded: those used longest ago make room.
#[derive(Debug)]
pub struct Memory {
    key: hmac::Key,
    max: usize,
    slots: Mutex<Generations>,
}

/// What was used lately, and what not since the last change of generations. Together at most `max`.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Name, Slot>,
    old: HashMap<Name, Slot>,
}

impl Memory {
    /// `None`: the system gives no random numbers.
    pub fn new(max: usize) -> Option<Memory> {
        let random = rand::SystemRandom::new();
        Some(Memory {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &random).ok()?,
            max,
            slots: Mutex::default(),
        })
    }

    pub fn name(&self, validator: &str, user: &str, database: &str, token: &[u8]) -> Name {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [
            validator.as_bytes(),
            user.as_bytes(),
            database.as_bytes(),
            token,
        ] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut name = [0; 32];
        name.copy_from_slice(context.sign().as_ref());
        name
    }

    /// What is known under `name`; else `question` is asked, once for all who want to know at a time.
    /// Cancel-safe: if the one who asks goes, the next one asks.
    pub async fn recall<F>(&self, name: Name, now: Seconds, question: F) -> Verdict
    where
        F: Future<Output = Known>,
    {
        let slot = self.slot(name, now);
        let known = slot.get_or_init(|| question).await;
        if let Verdict::Unanswered(_) = known.verdict {
            self.forget(&name, &slot);
        }
        known.verdict.clone()
    }

    fn slot(&self, name: Name, now: Seconds) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let found = slots.young.get(&name).cloned();
        let found = found.or_else(|| slots.old.remove(&name));
        let found = found.filter(|slot| slot.get().is_none_or(|known| now < known.until));
        let slot = found.unwrap_or_default();
        if slots.young.len() >= self.max.div_ceil(2) && !slots.young.contains_key(&name) {
            slots.old = std::mem::take(&mut slots.young);
        }
        slots.young.insert(name, Arc::clone(&slot));
        slot
    }

    fn forget(&self, name: &Name, slot: &Slot) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |other: &Slot| Arc::ptr_eq(other, slot);
        if slots.young.get(name).is_some_and(is_it) {
            slots.young.remove(name);
        }
        if slots.old.get(name).is_some_and(is_it) {
            slots.old.remove(name);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let slots = self.slots.lock().unwrap();
        slots.young.len() + slots.old.len()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn valid(until: Seconds) -> Known {
        let principal = Principal {
            name: "role".to_owned(),
            function: None,
        };
        Known {
            verdict: Verdict::Valid(principal),
            until,
        }
    }

    #[tokio::test]
    async fn one_question_for_all_who_come_at_a_time() {
        let memory = Memory::new(10).unwrap();
        let name = memory.name("sts", "app", "db", b"token");
        let asked = Cell::new(0);
        let ask = || async {
            asked.set(asked.get() + 1);
            tokio::task::yield_now().await;
            valid(100)
        };
        let (a, b) = tokio::join!(memory.recall(name, 0, ask()), memory.recall(name, 0, ask()));
        assert_eq!((a, asked.get()), (b, 1));
        memory.recall(name, 99, ask()).await;
        assert_eq!(asked.get(), 1);
        memory.recall(name, 100, ask()).await;
        assert_eq!(asked.get(), 2, "it no longer holds");
        for other in [
            memory.name("jwt", "app", "db", b"token"),
            memory.name("sts", "appd", "b", b"token"),
            memory.name("sts", "app", "db", b"tokem"),
            Memory::new(10).unwrap().name("sts", "app", "db", b"token"),
        ] {
            assert_ne!(other, name);
        }
    }

    #[tokio::test]
    async fn whoever_gives_up_leaves_the_question_to_the_next() {
        let memory = Memory::new(10).unwrap();
        let name = memory.name("sts", "app", "db", b"token");
        let never = std::future::pending::<Known>();
        let soon = std::time::Duration::from_millis(10);
        let first = tokio::time::timeout(soon, memory.recall(name, 0, never));
        let second = memory.recall(name, 0, async { valid(100) });
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_err() && matches!(second, Verdict::Valid(_)));
    }

    #[tokio::test]
    async fn no_answer_is_not_remembered() {
        let memory = Memory::new(10).unwrap();
        let name = memory.name("sts", "app", "db", b"token");
        let unanswered = Known {
            verdict: Verdict::Unanswered("down".into()),
            until: 100,
        };
        memory.recall(name, 0, async { unanswered }).await;
        let next = memory.recall(name, 0, async { valid(100) }).await;
        assert!(matches!(next, Verdict::Valid(_)));
    }

    #[tokio::test]
    async fn what_was_used_lately_stays() {
        let memory = Memory::new(10).unwrap();
        let favourite = memory.name("", "", "", b"favourite");
        memory.recall(favourite, 0, async { valid(1_000) }).await;
        for other in 0..1000_u32 {
            let name = memory.name("", "", "", &other.to_be_bytes());
            memory.recall(name, 0, async { valid(1_000) }).await;
            let again = async { panic!("asked again after {other}") };
            memory.recall(favourite, 0, again).await;
            assert!(memory.len() <= 10);
        }
    }
}
