//! What a text of statements may leave behind in its session.
//!
//! Knows the statements and functions of PostgreSQL that do so; not what Weir makes of it.

use super::harmless::is_harmless;
use super::lexer::{Lexer, Token};

/// A set of things that a text may do to its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects(u16);

impl Effects {
    pub const NONE: Effects = Effects(0);
    /// SET, RESET, set_config and their like.
    pub const SETTING: Effects = Effects(1);
    /// SQL PREPARE.
    pub const PREPARE: Effects = Effects(1 << 1);
    /// DECLARE ... WITH HOLD.
    pub const HELD_CURSOR: Effects = Effects(1 << 2);
    pub const LISTEN: Effects = Effects(1 << 3);
    /// LOAD, and connections of dblink: what DISCARD ALL leaves as it is.
    pub const LOAD: Effects = Effects(1 << 4);
    /// Temporary tables, views, sequences.
    pub const TEMPORARY: Effects = Effects(1 << 5);
    /// Advisory locks that outlive the transaction.
    pub const ADVISORY_LOCK: Effects = Effects(1 << 6);
    /// DO and CALL: anything may happen inside.
    pub const ROUTINE: Effects = Effects(1 << 7);
    /// The text could not be understood with certainty.
    pub const UNSURE: Effects = Effects(1 << 8);
    /// Reads what nextval left in the session: currval, lastval.
    pub const SEQUENCE_READ: Effects = Effects(1 << 9);
    /// The whole text is DISCARD ALL.
    pub const DISCARD_ALL: Effects = Effects(1 << 10);

    /// What stays in the session, so that no other client may have the connection.
    const STAYING: u16 = Effects::SEQUENCE_READ.0 - 1;

    pub const fn with(self, other: Effects) -> Effects {
        Effects(self.0 | other.0)
    }

    pub const fn has(self, other: Effects) -> bool {
        self.0 & other.0 != 0
    }

    /// Only those that stay in the session.
    pub const fn staying(self) -> Effects {
        Effects(self.0 & Effects::STAYING)
    }

    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// How a statement begins, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    /// Nothing but blanks so far.
    None,
    /// Changes nothing by its own nature; functions inside still may.
    Harmless,
    Set,
    Prepare,
    Declare,
    Discard,
    /// What it does is said already.
    Known,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Other,
    /// CREATE, OR REPLACE, LOCAL, GLOBAL, INTO: TEMP behind them makes something temporary.
    Making,
    With,
    /// The word that leads the statement.
    Lead,
    /// SET LOCAL, TRANSACTION or CONSTRAINTS, or PREPARE TRANSACTION: harmless, unless what follows shows that
    /// the second word was a name.
    Scope,
}

/// Scans a text in pieces; `finish` tells its effects.
#[derive(Clone, Debug)]
pub struct Scanner {
    lexer: Lexer,
    statements: Statements,
}

#[derive(Clone, Copy, Debug)]
struct Statements {
    effects: Effects,
    lead: Lead,
    before: Before,
    /// UPDATE was said in this statement: pg_settings behind it is set, not read.
    updating: bool,
    /// SET LOCAL search_path or SCHEMA was said in this statement.
    local_path: bool,
    count: u32,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner {
            lexer: Lexer::default(),
            statements: Statements {
                effects: Effects::NONE,
                lead: Lead::None,
                before: Before::Other,
                updating: false,
                local_path: false,
                count: 0,
            },
        }
    }
}

impl Scanner {
    #[inline]
    pub fn feed(&mut self, text: &[u8]) {
        let Scanner { lexer, statements } = self;
        lexer.feed(text, &mut |token| statements.token(token));
    }

    /// The effects of all that was fed; the scanner is as new afterwards.
    pub fn finish(&mut self) -> Effects {
        let Scanner { lexer, statements } = self;
        lexer.finish(&mut |token| statements.token(token));
        let effects = statements.effects;
        let sole = statements.count == 1;
        *self = Scanner::default();
        if sole {
            effects
        } else {
            Effects(effects.0 & !Effects::DISCARD_ALL.0)
        }
    }
}

/// The effects of one whole text.
pub fn effects(text: &[u8]) -> Effects {
    if is_harmless(text) {
        return Effects::NONE;
    }
    scanned(text)
}

/// The effects of one whole text, the long way.
pub(super) fn scanned(text: &[u8]) -> Effects {
    let mut scanner = Scanner::default();
    scanner.feed(text);
    scanner.finish()
}

impl Statements {
    fn add(&mut self, effects: Effects) {
        self.effects = self.effects.with(effects);
    }

    fn token(&mut self, token: Token<'_>) {
        if self.before == Before::Scope {
            self.behind_scope(token);
        }
        match token {
            Token::Sign(b';') => {
                self.lead = Lead::None;
                self.before = Before::Other;
                self.updating = false;
                self.local_path = false;
            }
            Token::Word(word) => self.word(word),
            Token::Quoted(name) => {
                self.begin_if_first();
                self.name(name);
                self.second(b"");
                self.before = Before::Other;
            }
            Token::Unsure => {
                self.begin_if_first();
                self.add(Effects::UNSURE);
            }
            Token::Literal | Token::Sign(_) => {
                // pg_temp may be in it.
                if self.local_path && matches!(token, Token::Literal) {
                    self.add(Effects::TEMPORARY);
                }
                self.begin_if_first();
                self.before = Before::Other;
            }
        }
    }

    /// A statement that begins with no word: `(SELECT ...)`, or nonsense.
    fn begin_if_first(&mut self) {
        if self.lead == Lead::None {
            self.count += 1;
            self.lead = Lead::Harmless;
        }
    }

    fn word(&mut self, word: &[u8]) {
        if self.lead == Lead::None {
            self.updating = word == b"update";
            self.count += 1;
            self.first(word);
            return;
        }
        if self.before != Before::Lead && !may_matter(word) {
            self.before = Before::Other;
            return;
        }
        self.updating |= word == b"update";
        self.second(word);
        self.name(word);
        if self.before == Before::Scope {
            return;
        }
        self.before = match (self.before, word) {
            (Before::Making, b"temp" | b"temporary") => {
                self.add(Effects::TEMPORARY);
                Before::Other
            }
            (Before::With, b"hold") if self.lead == Lead::Declare => {
                self.add(Effects::HELD_CURSOR);
                Before::Other
            }
            (_, b"create" | b"replace" | b"local" | b"global" | b"into") => Before::Making,
            (_, b"with") => Before::With,
            _ => Before::Other,
        };
    }

    /// The leading keyword. The list is closed: what is not on it is a syntax error, or from a
    /// PostgreSQL newer than this list.
    fn first(&mut self, word: &[u8]) {
        self.before = Before::Lead;
        self.lead = match word {
            b"select" | b"insert" | b"update" | b"delete" | b"begin" | b"commit" | b"rollback"
            | b"with" | b"values" | b"table" | b"merge" | b"end" | b"abort" | b"start"
            | b"savepoint" | b"release" | b"fetch" | b"move" | b"close" | b"show" | b"explain"
            | b"copy" | b"execute" | b"deallocate" | b"notify" | b"unlisten" | b"lock"
            | b"truncate" | b"drop" | b"alter" | b"grant" | b"revoke" | b"comment" | b"analyze"
            | b"analyse" | b"vacuum" | b"reindex" | b"cluster" | b"refresh" | b"checkpoint"
            | b"import" | b"reassign" | b"security" => Lead::Harmless,
            b"create" => {
                self.before = Before::Making;
                Lead::Harmless
            }
            b"set" => Lead::Set,
            b"prepare" => Lead::Prepare,
            b"declare" => Lead::Declare,
            b"discard" => Lead::Discard,
            b"reset" => self.known(Effects::SETTING),
            b"listen" => self.known(Effects::LISTEN),
            b"load" => self.known(Effects::LOAD),
            b"do" | b"call" => self.known(Effects::ROUTINE),
            _ => self.known(Effects::UNSURE),
        };
    }

    fn known(&mut self, effects: Effects) -> Lead {
        self.add(effects);
        Lead::Known
    }

    /// The word behind the leading one, where that decides.
    fn second(&mut self, word: &[u8]) {
        if self.before != Before::Lead {
            return;
        }
        match (self.lead, word) {
            (Lead::Set, b"local" | b"transaction" | b"constraints") => self.before = Before::Scope,
            (Lead::Set, _) => self.add(Effects::SETTING),
            (Lead::Prepare, b"transaction") => self.before = Before::Scope,
            (Lead::Prepare, _) => self.add(Effects::PREPARE),
            (Lead::Discard, b"all") => self.add(Effects::DISCARD_ALL),
            _ => {}
        }
    }

    /// `SET local.x = 1` and `PREPARE transaction AS ...` are what they would be with any other name.
    fn behind_scope(&mut self, token: Token<'_>) {
        self.before = Before::Other;
        match (self.lead, token) {
            (Lead::Set, Token::Sign(b'.' | b'=') | Token::Word(b"to")) => {
                self.add(Effects::SETTING)
            }
            (Lead::Set, Token::Word(b"search_path" | b"schema")) => self.local_path = true,
            (Lead::Prepare, Token::Sign(b'(') | Token::Word(b"as")) => self.add(Effects::PREPARE),
            _ => {}
        }
    }

    /// A name that does something wherever it stands.
    fn name(&mut self, name: &[u8]) {
        let effects = match name {
            b"set_config" => Effects::SETTING,
            b"pg_settings" if self.updating => Effects::SETTING,
            b"pg_advisory_lock"
            | b"pg_advisory_lock_shared"
            | b"pg_try_advisory_lock"
            | b"pg_try_advisory_lock_shared" => Effects::ADVISORY_LOCK,
            b"currval" | b"lastval" => Effects::SEQUENCE_READ,
            b"dblink_connect" | b"dblink_connect_u" => Effects::LOAD,
            // What stays with a connection whatever is discarded.
            b"setseed"
            | b"pg_create_physical_replication_slot"
            | b"pg_create_logical_replication_slot"
            | b"pg_replication_origin_session_setup"
            | b"pg_backup_start"
            | b"pg_start_backup" => Effects::LOAD,
            _ if runs_text(name) => Effects::ROUTINE,
            _ if name.starts_with(b"pg_temp") => Effects::TEMPORARY,
            _ => return,
        };
        self.add(effects);
    }
}

/// Functions that come with PostgreSQL and run a text given to them, or one found in a table.
fn runs_text(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 9] = [
        b"query_to_xml",
        b"cursor_to_xml",
        b"table_to_xml",
        b"schema_to_xml",
        b"database_to_xml",
        b"ts_stat",
        b"ts_rewrite",
        b"crosstab",
        b"dblink",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || matches!(name, b"connectby" | b"xpath_table")
}

/// By its first letter, whether a word inside a statement can be one that is looked for.
#[inline]
fn may_matter(word: &[u8]) -> bool {
    let letter = word.first().copied().unwrap_or_default();
    matches!(
        letter,
        b'c' | b'd' | b'g'..=b'i' | b'l' | b'p'..=b'u' | b'w' | b'x'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_and_what_they_leave_behind() {
        let cases = [
            ("SELECT * FROM t WHERE a = $1", Effects::NONE),
            ("", Effects::NONE),
            (";;", Effects::NONE),
            ("(SELECT 1) UNION SELECT 2", Effects::NONE),
            ("SELECT 'SET x' -- set y\n /* listen */", Effects::NONE),
            ("SELECT 1; SET x = 1", Effects::SETTING),
            ("sEt search_path TO a", Effects::SETTING),
            ("SET \"Weird\" = 1", Effects::SETTING),
            (
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                Effects::SETTING,
            ),
            ("SET ROLE x", Effects::SETTING),
            ("SET local.tenant = '42'", Effects::SETTING),
            ("SET transaction.x TO 1", Effects::SETTING),
            ("PREPARE transaction AS SELECT 1", Effects::PREPARE),
            ("SET LOCAL x = 1", Effects::NONE),
            ("SET TRANSACTION READ ONLY", Effects::NONE),
            ("SET CONSTRAINTS ALL DEFERRED", Effects::NONE),
            ("RESET ALL", Effects::SETTING),
            (
                "SELECT pg_catalog.set_config('a', 'b', true)",
                Effects::SETTING,
            ),
            ("SELECT \"set_config\"('a', 'b', true)", Effects::SETTING),
            (
                "SELECT U&\"s\\0065t_config\"('a', 'b', true)",
                Effects::UNSURE,
            ),
            ("UPDATE pg_settings SET setting = '1'", Effects::SETTING),
            ("SELECT * FROM pg_settings FOR UPDATE", Effects::NONE),
            ("PREPARE a AS SELECT 1", Effects::PREPARE),
            ("PREPARE TRANSACTION 'a'", Effects::NONE),
            (
                "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
                Effects::HELD_CURSOR,
            ),
            ("DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1", Effects::NONE),
            ("LISTEN a", Effects::LISTEN),
            ("NOTIFY a", Effects::NONE),
            ("LOAD 'auto_explain'", Effects::LOAD),
            ("CREATE TEMP TABLE t (a int)", Effects::TEMPORARY),
            (
                "CREATE OR REPLACE LOCAL TEMPORARY VIEW v AS SELECT 1",
                Effects::TEMPORARY,
            ),
            (
                "EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1",
                Effects::TEMPORARY,
            ),
            ("SELECT 1 INTO TEMP t", Effects::TEMPORARY),
            ("SELECT temp, t.temporary FROM weather", Effects::NONE),
            ("CREATE TABLE pg_temp.t (a int)", Effects::TEMPORARY),
            ("SELECT pg_advisory_lock(1)", Effects::ADVISORY_LOCK),
            (
                "SELECT pg_try_advisory_lock_shared(1)",
                Effects::ADVISORY_LOCK,
            ),
            ("SELECT pg_advisory_xact_lock(1)", Effects::NONE),
            ("DO $$ BEGIN SET x = 1; END $$", Effects::ROUTINE),
            ("CALL p()", Effects::ROUTINE),
            ("SELECT currval('s')", Effects::SEQUENCE_READ),
            ("SET LOCAL search_path = 'pg_temp'", Effects::TEMPORARY),
            ("SET LOCAL search_path TO tenant_1", Effects::NONE),
            ("SELECT query_to_xml('x', true, true, '')", Effects::ROUTINE),
            ("SELECT setseed(0.5)", Effects::LOAD),
            ("DISCARD ALL", Effects::DISCARD_ALL),
            ("DISCARD ALL;", Effects::DISCARD_ALL),
            ("DISCARD ALL; SELECT 1", Effects::NONE),
            ("DISCARD PLANS", Effects::NONE),
            ("FROBNICATE", Effects::UNSURE),
        ];
        for (text, expected) in cases {
            assert_eq!(effects(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_stays_is_told_from_what_does_not() {
        assert!(
            Effects::DISCARD_ALL
                .with(Effects::SEQUENCE_READ)
                .staying()
                .is_none()
        );
        assert!(Effects::SETTING.staying().has(Effects::SETTING));
        assert!(Effects::UNSURE.staying().has(Effects::UNSURE));
    }
}
