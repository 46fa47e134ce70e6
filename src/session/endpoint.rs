//! The way to the database: the cluster's instances, the pools by database and user, and what new clients are
//! greeted with.
//!
//! Shared by all workers. Knows names; nothing of any session.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::task::{AbortHandle, JoinSet};

use super::doubts::Doubts;
use super::hidden::{self, Finds};
use super::pinboard::Pinboard;
use super::prepared::table::{self, Edition, Table};
use crate::metrics;
use crate::pool::portion::{Growth, Portion};
use crate::pool::{self, PoolId, WorkerId};
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
#[derive(Clone)]
pub struct Instance {
    pub place: Place,
    pub name: Arc<str>,
    pub target: Arc<pool::Target<Dialer>>,
}

/// What is made alike at all instances.
#[derive(Default)]
struct Alike {
    /// In the order of their pools' numbers.
    accounts: Vec<Account>,
    portion: Option<(Portion, Growth)>,
}

pub struct Endpoint {
    /// At least one, in the order of their places.
    instances: ArcSwap<Vec<Instance>>,
    /// Counts the changes of these.
    edition: AtomicU64,
    /// What the cluster is called.
    pub name: Arc<str>,
    /// Which instance is what.
    pub board: Arc<Board>,
    /// Held while a pool or an instance is made, so that each pool has the same number at all instances.
    alike: Mutex<Alike>,
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
    user_limits: ArcSwap<std::collections::HashMap<String, usize>>,
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
            instances: ArcSwap::from_pointee(instances),
            edition: AtomicU64::new(1),
            board,
            alike: Mutex::default(),
            registry,
            pinboard,
            entries: DashMap::new(),
            common: DashMap::new(),
            greetings: DashMap::new(),
            listeners: Arc::default(),
            greeting_terms,
            statement_terms,
            user_limits: ArcSwap::default(),
        }
    }

    /// All instances that there are, in the order of their places.
    pub fn instances(&self) -> Arc<Vec<Instance>> {
        self.instances.load_full()
    }

    pub fn instance(&self, place: Place) -> Option<Instance> {
        let instances = self.instances.load();
        let found = instances.iter().find(|one| one.place == place);
        found.cloned()
    }

    /// There is one more, or another name for one that there is; it gets the pools that all have.
    pub fn put(&self, instance: Instance) {
        let alike = self.alike();
        let known = self.instance(instance.place);
        if known.is_none_or(|known| !Arc::ptr_eq(&known.target, &instance.target)) {
            for account in &alike.accounts {
                let limit = self.user_limits.load().get(&*account.user).copied();
                self.make_pool(&instance, account, limit);
            }
            if let Some((portion, growth)) = alike.portion {
                instance.target.set_portion(portion, growth);
            }
        }
        let mut all = Vec::clone(&self.instances.load());
        all.retain(|one| one.place != instance.place);
        all.push(instance);
        all.sort_by_key(|one| one.place);
        self.set_instances(all);
    }

    /// One is given up, to which there is no connection any more.
    pub fn remove(&self, place: Place) {
        let _one = self.alike();
        let mut all = Vec::clone(&self.instances.load());
        all.retain(|one| one.place != place);
        self.set_instances(all);
    }

    fn set_instances(&self, all: Vec<Instance>) {
        self.instances.store(Arc::new(all));
        self.edition.fetch_add(1, Ordering::AcqRel);
    }

    /// This process's portion of what each instance allows.
    pub fn set_portion(&self, portion: Portion, growth: Growth) {
        let mut alike = self.alike();
        alike.portion = Some((portion, growth));
        for instance in &*self.instances() {
            instance.target.set_portion(portion, growth);
        }
    }

    fn alike(&self) -> MutexGuard<'_, Alike> {
        self.alike.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the users' own limits, for pools that exist and for those to come.
    pub fn set_user_limits(&self, limits: std::collections::HashMap<String, usize>) {
        for entry in &self.entries {
            for instance in &*self.instances() {
                let limit = limits.get(&*entry.user).copied();
                instance.target.set_limit(entry.pool, limit);
            }
        }
        self.user_limits.store(Arc::new(limits));
    }

    /// The pool of this account; `None` when there are too many already.
    pub fn entry(&self, database: &str, user: &Arc<str>) -> Option<Arc<Entry>> {
        let account = Account {
            database: database.into(),
            user: Arc::clone(user),
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
            let limit = self.user_limits.load().get(&**user).copied();
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
        let mut alike = self.alike();
        alike.accounts.push(account.clone());
        let instances = self.instances.load();
        let make = |instance: &Instance| self.make_pool(instance, account, limit);
        let numbers: Vec<PoolId> = instances.iter().map(make).collect();
        debug_assert!(numbers.windows(2).all(|two| two.first() == two.last()));
        *numbers.first().expect("there is an instance")
    }

    fn make_pool(&self, instance: &Instance, account: &Account, limit: Option<usize>) -> PoolId {
        let (database, user) = (&account.database, &account.user);
        let meters = metrics::Pool::new(&self.registry, &instance.name, database, user);
        let customer = Customer {
            account: account.clone(),
            meters: Arc::new(meters),
        };
        instance.target.add_pool(customer, limit)
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
    worker: WorkerId,
    counters: RefCell<Vec<Counter>>,
    /// The endpoint's when they were made.
    edition: Cell<u64>,
    janitors: RefCell<JoinSet<()>>,
}

struct Counter {
    place: Place,
    desk: Rc<Desk>,
    janitor: AbortHandle,
}

impl Desks {
    /// With the janitors that belong to it.
    pub fn new(endpoint: Arc<Endpoint>, worker: WorkerId) -> Rc<Desks> {
        let desks = Desks {
            endpoint,
            worker,
            counters: RefCell::default(),
            edition: Cell::new(0),
            janitors: RefCell::default(),
        };
        desks.follow();
        Rc::new(desks)
    }

    /// Takes up what instances have come, and gives up those that have gone: nobody has anything of these.
    fn follow(&self) {
        self.edition
            .set(self.endpoint.edition.load(Ordering::Acquire));
        let instances = self.endpoint.instances();
        let mut counters = self.counters.borrow_mut();
        let mut janitors = self.janitors.borrow_mut();
        counters.retain(|counter| {
            let same = |one: &Instance| Arc::ptr_eq(&one.target, counter.desk.target());
            let stays = instances.iter().any(same);
            if !stays {
                counter.janitor.abort();
            }
            stays
        });
        for instance in &*instances {
            if counters
                .iter()
                .any(|counter| counter.place == instance.place)
            {
                continue;
            }
            let (desk, janitor) = Desk::new(Arc::clone(&instance.target), self.worker);
            counters.push(Counter {
                place: instance.place,
                desk,
                janitor: janitors.spawn_local(janitor.run()),
            });
        }
        while janitors.try_join_next().is_some() {}
    }

    /// `None`: it has just gone.
    pub fn at(&self, place: Place) -> Option<Rc<Desk>> {
        if self.edition.get() != self.endpoint.edition.load(Ordering::Acquire) {
            self.follow();
        }
        let counters = self.counters.borrow();
        // As a rule each stands at its place.
        let usual = counters.get(place.0).filter(|one| one.place == place);
        let found = usual.or_else(|| counters.iter().find(|one| one.place == place));
        found.map(|counter| Rc::clone(&counter.desk))
    }

    /// Anyone's, for who has to wait and can't at any.
    pub fn any(&self) -> Rc<Desk> {
        let counters = self.counters.borrow();
        let first = counters.first().expect("there is an instance");
        Rc::clone(&first.desk)
    }

    pub fn place_of(&self, desk: &Rc<Desk>) -> Option<Place> {
        let counters = self.counters.borrow();
        let found = counters.iter().find(|one| Rc::ptr_eq(&one.desk, desk));
        found.map(|counter| counter.place)
    }

    /// Where a client of this kind is to be served.
    #[inline]
    pub fn route(&self, role: Role, fallback: Fallback) -> Route {
        let board = &self.endpoint.board;
        let load = |place| self.at(place).map_or(f64::MAX, |desk| desk.target().load());
        board.route(role, fallback, load)
    }
}
