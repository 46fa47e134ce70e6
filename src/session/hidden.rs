//! State that functions and triggers change unseen: which names lead to it, asked of the database now and then.
//!
//! Knows the catalogue and when it is to be asked; what a name in a text leads to, `core` decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::sql::Hidden;

/// How old the names may become before they are asked for again.
const LASTS: Duration = Duration::from_secs(60);

/// More than so many make every text suspicious that has one of these.
pub const MAX_NAMES: usize = 4000;

/// What was found in one database, shared by its sessions.
#[derive(Debug)]
pub struct Finds {
    hidden: ArcSwap<Hidden>,
    /// Counts the answers.
    version: AtomicU64,
    born: Instant,
    /// When they are to be asked for again, in nanoseconds from then.
    due_ns: AtomicU64,
}

impl Default for Finds {
    fn default() -> Finds {
        Finds {
            hidden: ArcSwap::default(),
            version: AtomicU64::new(0),
            born: Instant::now(),
            due_ns: AtomicU64::new(0),
        }
    }
}

impl Finds {
    /// Whether it is time to ask; whoever is told so has to.
    #[inline]
    pub fn take_due(&self, now: Instant) -> bool {
        let now_ns = nanoseconds(now.saturating_duration_since(self.born));
        let due_ns = self.due_ns.load(Ordering::Relaxed);
        now_ns >= due_ns && self.take(due_ns, now_ns)
    }

    #[cold]
    fn take(&self, due_ns: u64, now_ns: u64) -> bool {
        let next_ns = now_ns + nanoseconds(LASTS);
        let taken =
            self.due_ns
                .compare_exchange(due_ns, next_ns, Ordering::Relaxed, Ordering::Relaxed);
        taken.is_ok()
    }

    pub fn set(&self, names: Vec<Vec<u8>>) {
        self.hidden.store(Arc::new(Hidden::new(names)));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// What is known, if it is another than that of `version`.
    #[inline]
    pub fn news(&self, version: &mut u64) -> Option<Arc<Hidden>> {
        let now = self.version.load(Ordering::Acquire);
        (std::mem::replace(version, now) != now).then(|| self.hidden.load_full())
    }
}

fn nanoseconds(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

/// Functions whose source may change the session, with what calls them: triggers' tables, views, and tables with such
/// defaults. `set_config(..., true)` is the transaction's. Aggregates, C and built-in functions have no source to read.
pub const QUERY: &str = r"WITH f AS MATERIALIZED (
  SELECT p.oid, p.proname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
  WHERE n.nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['pg_catalog', 'information_schema']::pg_catalog.name[])
    AND p.prolang OPERATOR(pg_catalog.<>) ALL (ARRAY[12, 13]::pg_catalog.oid[])
    AND pg_catalog.regexp_replace(p.prosrc, 'set_config\s*\([^()]*,\s*true\s*\)', '', 'gi') OPERATOR(pg_catalog.~*)
      '(^|;|\m(begin|then|else|loop|as)\M)\s*(set(?!\s+(local|transaction|constraints)\M)|reset|listen|unlisten|load|prepare|deallocate|discard)\M|set_config|\mpg_(try_)?advisory_lock|\mtemp(orary)?\M|pg_temp|\mexecute\M|\msetseed\M|\mwith\s+hold\M|dblink')
SELECT proname FROM f
UNION SELECT c.relname FROM pg_catalog.pg_trigger t JOIN f ON f.oid OPERATOR(pg_catalog.=) t.tgfoid
  JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid WHERE NOT t.tgisinternal
UNION SELECT c.relname FROM pg_catalog.pg_depend d JOIN f ON d.refobjid OPERATOR(pg_catalog.=) f.oid
  JOIN pg_catalog.pg_rewrite r ON r.oid OPERATOR(pg_catalog.=) d.objid JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) r.ev_class
  WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
    AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass::pg_catalog.oid
UNION SELECT c.relname FROM pg_catalog.pg_depend d JOIN f ON d.refobjid OPERATOR(pg_catalog.=) f.oid
  JOIN pg_catalog.pg_attrdef a ON a.oid OPERATOR(pg_catalog.=) d.objid JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.adrelid
  WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
    AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass::pg_catalog.oid
LIMIT 4000";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asks_for_all() {
        let finds = Finds::default();
        let now = Instant::now();
        assert!(finds.take_due(now));
        assert!(!finds.take_due(now));
        assert!(finds.take_due(now + LASTS));
        let mut version = 0;
        assert!(finds.news(&mut version).is_none());
        finds.set(vec![b"f".to_vec()]);
        assert!(finds.news(&mut version).unwrap().is_named_in(b"SELECT f()"));
        assert!(finds.news(&mut version).is_none());
    }

    #[test]
    fn the_query_is_bounded() {
        assert!(QUERY.ends_with(&format!("LIMIT {MAX_NAMES}")));
    }
}
