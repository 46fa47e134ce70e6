//! The way to the database: the cluster's instances, the pools by database and user, and what new clients are
//! greeted with.
//!
//! Shared by all workers. Knows names; nothing of any session.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;

use super::doubts::Doubts;
use super::hidden::{self, Finds};
use super::pinboard::Pinboard;
use super::prepared::table::{self, Edition, Table};
use crate::metrics;
use crate::pool::{self, Janitor, PoolId, WorkerId};
use crate::protocol::reply::put_parameter_status;
use crate::server::dialer::{Account, Customer, Dialer};
use crate::server::{Parameters, Settings};
use crate::topology::board::Fallback;
use crate::topology::{Board, Place, Role, Route};

pub type Desk = pool::Desk<Dialer>;

/// Pools of one target: each costs memory for good, and clients may name any database.
const MAX_POOLS: usize = 4096;

/// One pool, as sessions see it.
pub struct Entry {
    pub pool: PoolId,
    pub database: Arc<str>,
    pub user: Arc<str>,
    pub target_name: Arc<str>,
    pub meters: Arc<metrics::Pool>,
    /// What clients of this pool have prepared.
    pub statements: Arc<Table>,
    pub(super) finds: Finds,
    /// All pins of the process.
    pub pinboard: Arc<Pinboard>,
    pinned: AtomicUsize,
    /// Connections of this pool that listen for sessions, and those of the whole target.
    listeners: AtomicUsize,
    target_listeners: Arc<AtomicUsize>,
    /// Values that some connection of it has refused.
    pub(super) doubts: Doubts,
    /// A client of this database has read what nextval leaves behind.
    reads_sequences: Arc<AtomicBool>,
}

/// What the pools of one database share.
#[derive(Clone, Default)]
struct Common {
    edition: Edition,
    reads_sequences: Arc<AtomicBool>,
}

impl Entry {
    /// A session is about to be pinned. `Err`: so many are already, and no more may be.
    pub(super) fn take_pin_seat(&self, limit: Option<usize>) -> Result<(), usize> {
        let one_more = |pinned: usize| {
            limit
                .is_none_or(|limit| pinned < limit)
                .then_some(pinned + 1)
        };
        self.pinned
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .map(drop)
    }

    pub(super) fn unpinned(&self) {
        self.pinned.fetch_sub(1, Ordering::Relaxed);
    }

    /// Names that lead to state which no text shows.
    pub(super) fn found(&self, names: Vec<Vec<u8>>) {
        if hidden::reads_sequences(&names) {
            self.note_sequences();
        }
        self.finds.set(names);
    }

    pub(super) fn note_sequences(&self) {
        self.reads_sequences.store(true, Ordering::Relaxed);
    }

    /// From here on nobody gets a connection to this database with another's sequence values on it.
    pub(super) fn reads_sequences(&self) -> bool {
        self.reads_sequences.load(Ordering::Relaxed)
    }

    /// Sessions that are pinned at the moment.
    pub fn pinned_now(&self) -> usize {
        self.pinned.load(Ordering::Relaxed)
    }
}

/// Leave for one connection to listen for others; given up when dropped.
pub(super) struct ListenerSeat(Arc<Entry>);

impl ListenerSeat {
    /// At least half of what the pool may have, and of what the target may have, is left to ordinary work.
    pub fn take(entry: &Arc<Entry>, cap: usize, limit: usize) -> Option<ListenerSeat> {
        let take = |count: &AtomicUsize, most: usize| {
            let next = |taken| (taken < most).then_some(taken + 1);
            count
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
                .is_ok()
        };
        if !take(&entry.target_listeners, cap / 2) {
            return None;
        }
        if !take(&entry.listeners, cap.min(limit) / 2) {
            entry.target_listeners.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(ListenerSeat(Arc::clone(entry)))
    }
}

impl Drop for ListenerSeat {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::Relaxed);
        self.0.target_listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a client that logs in is told, or refused with; and until when that holds.
#[derive(Clone)]
pub(super) struct Greeting {
    pub settings: Arc<Settings>,
    pub outcome: Result<Arc<Parameters>, Arc<[u8]>>,
    /// The parameters as they go out.
    pub told: Arc<[u8]>,
    until: Instant,
}

/// How many greetings are kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct GreetingTerms {
    pub max: usize,
    pub lasts: Duration,
}

/// A refusal is asked for again sooner: somebody may be creating the database just now.
const REFUSAL_LASTS: Duration = Duration::from_secs(1);

/// One instance of the cluster.
pub struct Instance {
    pub name: Arc<str>,
    pub target: Arc<pool::Target<Dialer>>,
}

pub struct Endpoint {
    /// At least one, in the order of their places.
    pub instances: Vec<Instance>,
    /// What the cluster is called.
    pub name: Arc<str>,
    /// Which instance is what.
    pub board: Arc<Board>,
    /// Held while a pool is made, so that it has the same number at all instances.
    making: Mutex<()>,
    registry: Arc<metrics::Registry>,
    pinboard: Arc<Pinboard>,
    entries: DashMap<Account, Arc<Entry>>,
    /// Of each database that there is a pool for.
    common: DashMap<Arc<str>, Common>,
    greetings: DashMap<(PoolId, Role, Arc<Settings>), Greeting>,
    listeners: Arc<AtomicUsize>,
    greeting_terms: GreetingTerms,
    statement_terms: table::Terms,
    /// A user's own limit, if it has one.
    user_limits: arc_swap::ArcSwap<std::collections::HashMap<String, usize>>,
}

impl Endpoint {
    pub fn new(
        instances: Vec<Instance>,
        board: Arc<Board>,
        registry: Arc<metrics::Registry>,
        pinboard: Arc<Pinboard>,
        greeting_terms: GreetingTerms,
        statement_terms: table::Terms,
    ) -> Endpoint {
        Endpoint {
            name: instances
                .iter()
                .map(|instance| &*instance.name)
                .collect::<Vec<_>>()
                .join(",")
                .into(),
            instances,
            board,
            making: Mutex::new(()),
            registry,
            pinboard,
            entries: DashMap::new(),
            common: DashMap::new(),
            greetings: DashMap::new(),
            listeners: Arc::default(),
            greeting_terms,
            statement_terms,
            user_limits: arc_swap::ArcSwap::default(),
        }
    }

    /// Sets the users' own limits, for pools that exist and for those to come.
    pub fn set_user_limits(&self, limits: std::collections::HashMap<String, usize>) {
        for entry in &self.entries {
            for instance in &self.instances {
                let limit = limits.get(&*entry.user).copied();
                instance.target.set_limit(entry.pool, limit);
            }
        }
        self.user_limits.store(Arc::new(limits));
    }

    /// The pool of this account; `None` when there are too many already.
    pub fn entry(&self, database: &str, user: &str) -> Option<Arc<Entry>> {
        let account = Account {
            database: database.into(),
            user: user.into(),
        };
        if let Some(known) = self.entries.get(&account) {
            return Some(Arc::clone(&known));
        }
        if self.entries.len() >= MAX_POOLS {
            return None;
        }
        let common = self.common.entry(Arc::clone(&account.database));
        let common = common.or_default().clone();
        let entry = self.entries.entry(account.clone()).or_insert_with(|| {
            let limit = self.user_limits.load().get(user).copied();
            let meters = metrics::Pool::new(&self.registry, &self.name, database, user);
            Arc::new(Entry {
                meters: Arc::new(meters),
                pool: self.make_pools(&account, limit),
                database: account.database,
                user: account.user,
                target_name: Arc::clone(&self.name),
                statements: Arc::new(Table::new(self.statement_terms, common.edition)),
                finds: Finds::default(),
                pinboard: Arc::clone(&self.pinboard),
                pinned: AtomicUsize::new(0),
                listeners: AtomicUsize::new(0),
                target_listeners: Arc::clone(&self.listeners),
                doubts: Doubts::default(),
                reads_sequences: common.reads_sequences,
            })
        });
        Some(Arc::clone(&entry))
    }

    /// A pool at each instance, all of the same number.
    fn make_pools(&self, account: &Account, limit: Option<usize>) -> PoolId {
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let make = |instance: &Instance| {
            let (database, user) = (&account.database, &account.user);
            let meters = metrics::Pool::new(&self.registry, &instance.name, database, user);
            let customer = Customer {
                account: account.clone(),
                meters: Arc::new(meters),
            };
            instance.target.add_pool(customer, limit)
        };
        let numbers: Vec<PoolId> = self.instances.iter().map(make).collect();
        debug_assert!(numbers.windows(2).all(|two| two.first() == two.last()));
        *numbers.first().expect("there is an instance")
    }

    /// For one worker to count by what its sessions do in this pool.
    pub(super) fn traffic(&self, entry: &Entry) -> metrics::Traffic {
        metrics::Traffic::new(
            &self.registry,
            &entry.target_name,
            &entry.database,
            &entry.user,
        )
    }

    /// The pools of a database, whoever's they are.
    pub fn pools_of(&self, database: &str) -> Vec<PoolId> {
        let entries = self.entries.iter();
        let of_it = entries.filter(|entry| &*entry.database == database);
        of_it.map(|entry| entry.pool).collect()
    }

    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.entries
            .iter()
            .map(|entry| Arc::clone(&entry))
            .collect()
    }

    /// What is known to greet clients of this pool with, who log in with these settings.
    pub(super) fn greeting(
        &self,
        pool: PoolId,
        role: Role,
        settings: &Arc<Settings>,
    ) -> Option<Greeting> {
        let known = self.greetings.get(&(pool, role, Arc::clone(settings)))?;
        (Instant::now() < known.until).then(|| known.clone())
    }

    /// The next client of each kind has a server asked again.
    pub fn forget_greetings(&self) {
        self.greetings.clear();
    }

    pub(super) fn keep_greeting(
        &self,
        pool: PoolId,
        role: Role,
        settings: &Arc<Settings>,
        outcome: Result<Arc<Parameters>, Arc<[u8]>>,
    ) -> Greeting {
        if self.greetings.len() >= self.greeting_terms.max {
            let now = Instant::now();
            self.greetings.retain(|_, greeting| now < greeting.until);
            if self.greetings.len() >= self.greeting_terms.max {
                self.greetings.clear();
            }
        }
        let lasts = match outcome {
            Ok(_) => self.greeting_terms.lasts,
            Err(_) => REFUSAL_LASTS,
        };
        let mut told = Vec::new();
        for (name, value) in outcome.iter().flat_map(|parameters| parameters.iter()) {
            put_parameter_status(&mut told, name, value);
        }
        let greeting = Greeting {
            settings: Arc::clone(settings),
            outcome,
            told: told.into(),
            until: Instant::now() + lasts,
        };
        if self.greeting_terms.max > 0 {
            self.greetings
                .insert((pool, role, Arc::clone(settings)), greeting.clone());
        }
        greeting
    }
}

/// One worker's counters, one for each instance.
pub struct Desks {
    pub endpoint: Arc<Endpoint>,
    desks: Vec<Rc<Desk>>,
}

impl Desks {
    /// And the janitors that the worker has to run.
    pub fn new(endpoint: Arc<Endpoint>, worker: WorkerId) -> (Rc<Desks>, Vec<Janitor<Dialer>>) {
        let desk = |instance: &Instance| Desk::new(Arc::clone(&instance.target), worker);
        let (desks, janitors) = endpoint.instances.iter().map(desk).unzip();
        (Rc::new(Desks { endpoint, desks }), janitors)
    }

    pub fn at(&self, Place(place): Place) -> &Rc<Desk> {
        self.desks
            .get(place)
            .expect("the board names only instances that there are")
    }

    pub fn place_of(&self, desk: &Rc<Desk>) -> Option<Place> {
        let place = self.desks.iter().position(|own| Rc::ptr_eq(own, desk));
        place.map(Place)
    }

    /// Where a client of this kind is to be served.
    #[inline]
    pub fn route(&self, role: Role, fallback: Fallback) -> Route {
        let board = &self.endpoint.board;
        board.route(role, fallback, |place| self.at(place).target().load())
    }
}
