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

    /// What is known, and its version.
    pub fn known(&self) -> (u64, Arc<Hidden>) {
        let version = self.version.load(Ordering::Acquire);
        (version, self.hidden.load_full())
    }

    /// What is known, if it is another than that of `version`.
    #[inline]
    pub fn news(&self, version: &mut u64) -> Option<Arc<Hidden>> {
        let now = self.version.load(Ordering::Acquire);
        (std::mem::replace(version, now) != now).then(|| self.hidden.load_full())
    }
}

/// Whether something among them reads what nextval leaves behind, or may.
pub fn reads_sequences(names: &[Vec<u8>]) -> bool {
    names.len() >= MAX_NAMES || names.iter().any(Vec::is_empty)
}

fn nanoseconds(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

/// Functions whose source may change the session, and those that call these, two steps deep; with what calls them: triggers'
/// tables, views, tables with such defaults or policies; and views, defaults and policies that call PostgreSQL's own
/// functions of the kind. `set_config(..., true)` is the transaction's. A name of no letters: some of them read what nextval
/// leaves behind. Aggregates, C and built-in functions have no source
/// to read.
pub const QUERY: &str = r#"WITH own AS MATERIALIZED (
  SELECT oid FROM pg_catalog.pg_namespace
  WHERE nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['pg_catalog', 'information_schema']::pg_catalog.name[])),
s AS MATERIALIZED (
  SELECT p.oid, p.proname, p.proconfig::pg_catalog.text AS config, pg_catalog.regexp_replace(
    CASE WHEN p.prosrc OPERATOR(pg_catalog.=) '' THEN pg_catalog.pg_get_functiondef(p.oid) ELSE p.prosrc END,
    'set_config\s*\([^()]*,\s*true\s*\)', '', 'gi') AS body
  FROM pg_catalog.pg_proc p JOIN own ON own.oid OPERATOR(pg_catalog.=) p.pronamespace
  WHERE p.prolang OPERATOR(pg_catalog.<>) ALL (ARRAY[12, 13]::pg_catalog.oid[])
    AND p.prokind OPERATOR(pg_catalog.=) ANY (ARRAY['f', 'p']::pg_catalog."char"[])),
f1 AS MATERIALIZED (
  SELECT oid, proname FROM s WHERE config OPERATOR(pg_catalog.~*) 'pg_temp' OR body OPERATOR(pg_catalog.~*)
    '(^|;|\m(begin|then|else|loop|as|atomic)\M)\s*(set(?!\s+(local|transaction|constraints)\M)|reset|listen|unlisten|load|prepare|deallocate|discard)\M|set_config|\mpg_(try_)?advisory_lock|\mtemp(orary)?\M|pg_temp|\mexecute\M|\msetseed\M|\mwith\s+hold\M|dblink|_to_xml'),
f2 AS MATERIALIZED (
  SELECT oid, proname FROM f1 UNION SELECT s.oid, s.proname FROM s WHERE s.body OPERATOR(pg_catalog.~*) (
    SELECT pg_catalog.concat('\m(', pg_catalog.string_agg(DISTINCT proname::pg_catalog.text, '|'), ')\M') FROM f1
    WHERE proname::pg_catalog.text OPERATOR(pg_catalog.~) '^\w+$')),
f AS MATERIALIZED (
  SELECT oid, proname FROM f2 UNION SELECT s.oid, s.proname FROM s WHERE s.body OPERATOR(pg_catalog.~*) (
    SELECT pg_catalog.concat('\m(', pg_catalog.string_agg(DISTINCT proname::pg_catalog.text, '|'), ')\M') FROM f2
    WHERE proname::pg_catalog.text OPERATOR(pg_catalog.~) '^\w+$')),
d AS MATERIALIZED (
  SELECT d.classid, d.objid FROM pg_catalog.pg_depend d JOIN f ON d.refobjid OPERATOR(pg_catalog.=) f.oid
  WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid),
e AS MATERIALIZED (
  SELECT v.oid AS relation, pg_catalog.pg_get_viewdef(v.oid) AS source
    FROM pg_catalog.pg_class v JOIN own ON own.oid OPERATOR(pg_catalog.=) v.relnamespace WHERE v.relkind OPERATOR(pg_catalog.=) 'v'
  UNION ALL SELECT a.adrelid, pg_catalog.pg_get_expr(a.adbin, a.adrelid) FROM pg_catalog.pg_attrdef a),
t AS (
  SELECT t.tgrelid AS relation FROM pg_catalog.pg_trigger t JOIN f ON f.oid OPERATOR(pg_catalog.=) t.tgfoid WHERE NOT t.tgisinternal
  UNION SELECT r.ev_class FROM d JOIN pg_catalog.pg_rewrite r ON r.oid OPERATOR(pg_catalog.=) d.objid
    AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass::pg_catalog.oid
  UNION SELECT a.adrelid FROM d JOIN pg_catalog.pg_attrdef a ON a.oid OPERATOR(pg_catalog.=) d.objid
    AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass::pg_catalog.oid
  UNION SELECT p.polrelid FROM d JOIN pg_catalog.pg_policy p ON p.oid OPERATOR(pg_catalog.=) d.objid
    AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_policy'::pg_catalog.regclass::pg_catalog.oid
  UNION SELECT e.relation FROM e WHERE e.source
    OPERATOR(pg_catalog.~*) 'set_config|pg_(try_)?advisory_lock|setseed|dblink|_to_xml'
  UNION SELECT p.polrelid FROM pg_catalog.pg_policy p WHERE pg_catalog.concat(
      pg_catalog.pg_get_expr(p.polqual, p.polrelid), ' ', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
    OPERATOR(pg_catalog.~*) 'set_config|pg_(try_)?advisory_lock|setseed|dblink|_to_xml')
SELECT ''::pg_catalog.name AS proname WHERE EXISTS (
    SELECT FROM (SELECT body FROM s UNION ALL SELECT source FROM e) r WHERE r.body OPERATOR(pg_catalog.~*) '\m(currval|lastval)\M')
UNION SELECT proname FROM f
UNION SELECT c.relname FROM t JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.relation
LIMIT 4000"#;

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
