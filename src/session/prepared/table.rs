//! Statements as text and parameter types, each of them once for all sessions of a database and user.
//!
//! Knows which are the same, and how many there may be; not who has them, nor which server.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::protocol::frame::split_cstr;
use crate::server::statements::server_name;
use crate::sql::Report;

/// Numbers are never used again: 64 bits last.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Counts the times that the objects of a database were redefined: the same text parsed before and after may be
/// two different statements. Shared by all who parse texts there.
#[derive(Clone, Debug, Default)]
pub struct Edition(Arc<AtomicU64>);

impl Edition {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// How much may be kept.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub max: usize,
    pub limit_bytes: usize,
}

/// A statement that some client has parsed under some name.
#[derive(Debug)]
pub struct Statement {
    pub id: u64,
    /// What it is called on servers.
    pub server_name: Box<[u8]>,
    /// What its text does to the session that runs it.
    pub report: Report,
    /// The edition and the settings that it was parsed under, then the body of Parse behind the name.
    key: Box<[u8]>,
    body_start: usize,
    usage: Arc<Usage>,
}

impl Statement {
    /// The body of Parse behind the name.
    pub fn body(&self) -> &[u8] {
        self.key.get(self.body_start..).unwrap_or_default()
    }

    pub fn text(&self) -> &[u8] {
        split_cstr(self.body()).map_or(&[][..], |(text, _)| text)
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        self.usage.count.fetch_sub(1, Ordering::Relaxed);
        let bytes = footprint(&self.key);
        self.usage.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What a statement takes, more or less.
fn footprint(key: &[u8]) -> usize {
    key.len() + size_of::<Statement>() + 64
}

/// All statements that are held by anybody.
#[derive(Debug, Default)]
struct Usage {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

/// Found by its key.
#[derive(Debug)]
struct Shared(Arc<Statement>);

impl Borrow<[u8]> for Shared {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

impl Hash for Shared {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Shared) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Shared {}

/// Whether the same text would be the same statement for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    Shared,
    /// It may mean something that only this session has.
    Own,
}

#[derive(Debug)]
pub struct Table {
    shared: DashMap<Shared, ()>,
    usage: Arc<Usage>,
    terms: Terms,
    edition: Edition,
    /// The edition that those shared are of; there may be stragglers of an older one.
    shared_of: AtomicU64,
    /// Statements to refuse before the table is looked through again for some that nobody has.
    patience: AtomicUsize,
}

/// A table full of statements in use is not looked through for each new one.
const PATIENCE: usize = 256;

impl Table {
    pub fn new(terms: Terms, edition: Edition) -> Table {
        Table {
            shared: DashMap::with_shard_amount(4),
            usage: Arc::default(),
            terms,
            edition,
            shared_of: AtomicU64::new(0),
            patience: AtomicUsize::new(0),
        }
    }

    /// The statement with this body, parsed under these settings; `None` if there is no room for it. `report`: what
    /// its text is known to do.
    pub fn intern(
        &self,
        settings: &[u8],
        body: &[u8],
        report: &Report,
        sharing: Sharing,
    ) -> Option<Arc<Statement>> {
        let edition = self.edition.now();
        if self.shared_of.load(Ordering::Relaxed) != edition
            && self.shared_of.swap(edition, Ordering::Relaxed) != edition
        {
            self.shared.clear();
        }
        let front = [&edition.to_ne_bytes(), settings].concat();
        let key = [&front, body].concat();
        if sharing == Sharing::Shared
            && let Some(known) = self.shared.get(key.as_slice())
            && known.key().0.report == *report
        {
            return Some(Arc::clone(&known.key().0));
        }
        if !self.has_room(footprint(&key)) {
            return None;
        }
        let new = self.make(key, front.len(), report.clone());
        if sharing == Sharing::Own {
            return Some(new);
        }
        // What was found out about it since the last one of its kind.
        self.shared
            .remove_if(&*new.key, |known, ()| known.0.report != *report);
        // Another worker may have been faster.
        let entry = self.shared.entry(Shared(new)).or_insert(());
        Some(Arc::clone(&entry.key().0))
    }

    fn make(&self, key: Vec<u8>, body_start: usize, report: Report) -> Arc<Statement> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        self.usage.count.fetch_add(1, Ordering::Relaxed);
        self.usage
            .bytes
            .fetch_add(footprint(&key), Ordering::Relaxed);
        Arc::new(Statement {
            id,
            server_name: server_name(id),
            report,
            key: key.into(),
            body_start,
            usage: Arc::clone(&self.usage),
        })
    }

    fn has_room(&self, bytes: usize) -> bool {
        if self.would_fit(bytes) {
            return true;
        }
        if self.patience.load(Ordering::Relaxed) > 0 {
            self.patience.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.shared
            .retain(|statement, ()| Arc::strong_count(&statement.0) > 1);
        let fits = self.would_fit(bytes);
        if !fits {
            self.patience.store(PATIENCE, Ordering::Relaxed);
        }
        fits
    }

    fn would_fit(&self, bytes: usize) -> bool {
        self.usage.count.load(Ordering::Relaxed) < self.terms.max
            && self.usage.bytes.load(Ordering::Relaxed) + bytes <= self.terms.limit_bytes
    }

    /// Objects of the database were redefined: whoever parses a text from here on gets another statement than before.
    pub fn redefined(&self) {
        self.edition.0.fetch_add(1, Ordering::AcqRel);
    }

    /// Whoever parses this text from here on gets another statement.
    pub fn retire(&self, statement: &Statement) {
        self.shared
            .remove_if(&*statement.key, |known, ()| known.0.id == statement.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(max: usize, limit_bytes: usize) -> Table {
        Table::new(Terms { max, limit_bytes }, Edition::default())
    }

    fn id(table: &Table, settings: &[u8], body: &[u8]) -> Option<u64> {
        let statement = table.intern(settings, body, &Report::default(), Sharing::Shared)?;
        assert_eq!(statement.body(), body);
        Some(statement.id)
    }

    #[test]
    fn the_same_is_the_same() {
        let table = table(10, 1 << 20);
        let one = id(&table, b"", b"SELECT 1\0\0\0");
        assert_eq!(id(&table, b"", b"SELECT 1\0\0\0"), one);
        assert_ne!(id(&table, b"", b"SELECT 1\0\0\x01"), one);
        assert_ne!(id(&table, b"settings", b"SELECT 1\0\0\0"), one);
        let own = table
            .intern(b"", b"SELECT 1\0\0\0", &Report::default(), Sharing::Own)
            .unwrap();
        assert_ne!(Some(own.id), one);
        let shared = table.intern(b"", b"SELECT 1\0\0\0", &Report::default(), Sharing::Shared);
        table.retire(&shared.unwrap());
        assert_ne!(id(&table, b"", b"SELECT 1\0\0\0"), one);
    }

    #[test]
    fn what_is_redefined_is_another_in_all_tables_of_the_database() {
        let edition = Edition::default();
        let terms = Terms {
            max: 2,
            limit_bytes: 1 << 20,
        };
        let tables = [(); 2].map(|()| Table::new(terms, edition.clone()));
        let both = || {
            let [one, other] = &tables;
            let id = |table| id(table, b"", b"SELECT 1\0\0\0");
            (id(one), id(other))
        };
        let before = both();
        assert_eq!(both(), before);
        tables[0].redefined();
        let after = both();
        assert!(before.0 != after.0 && before.1 != after.1);
        assert_eq!(both(), after);
        // Those of old editions that nobody has take no room.
        for _ in 0..4 {
            tables[1].redefined();
            assert!(both().0.is_some());
        }
        assert_eq!(tables[0].usage.count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_nobody_has_makes_room_first() {
        let table = table(2, 1 << 20);
        let held = table.intern(b"", b"a\0\0\0", &Report::default(), Sharing::Shared);
        assert!(id(&table, b"", b"b\0\0\0").is_some());
        assert!(id(&table, b"", b"c\0\0\0").is_some());
        assert_eq!(id(&table, b"", b"a\0\0\0"), held.as_ref().map(|it| it.id));
        let other = table.intern(b"", b"d\0\0\0", &Report::default(), Sharing::Own);
        assert!(other.is_some());
        assert_eq!(id(&table, b"", b"e\0\0\0"), None);
        drop(held);
        table.patience.store(0, Ordering::Relaxed);
        assert!(id(&table, b"", b"e\0\0\0").is_some());
    }

    #[test]
    fn large_ones_do_not_fit() {
        let table = table(10, 1000);
        assert!(id(&table, b"", &[b'x'; 500]).is_some());
        assert_eq!(id(&table, b"", &[b'y'; 900]), None);
    }
}
