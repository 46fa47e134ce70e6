//! Whether a text asks for nothing that instances of one cluster would answer otherwise, and whether it may write.
//!
//! Lexical. Errs on one side each time: a text is for any instance only where it plainly is, and does not write only
//! where it plainly doesn't. Knows nothing of what a text leaves behind: that are its effects.

use super::lexer::{Lexer, Sink, Token};

/// What a text is, as far as it matters who executes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// One query, which takes a snapshot before anything else, and that any instance answers alike, but for their lag.
    pub anywhere: bool,
    /// Something of it may be there afterwards that was not there before.
    pub may_write: bool,
    /// It may take or give back an advisory lock: each instance has its own.
    pub locks: bool,
    /// It neither begins nor ends a transaction, whatever becomes of it.
    pub stays: bool,
}

impl Reading {
    /// Of a text that can't be looked at.
    pub const UNKNOWN: Reading = Reading {
        anywhere: false,
        may_write: true,
        locks: true,
        stays: false,
    };
}

pub fn reading(text: &[u8]) -> Reading {
    let mut reader = Reader::default();
    let mut lexer = Lexer::default();
    lexer.feed(text, &mut reader);
    lexer.finish(&mut reader);
    reader.reading()
}

/// What a statement is by its first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    Query,
    Change,
    /// It has to do with the session or the transaction, and writes nothing itself.
    Session,
    Other,
}

fn lead(word: &[u8]) -> Lead {
    match word {
        b"select" | b"with" | b"values" | b"table" => Lead::Query,
        b"insert" | b"update" | b"delete" | b"merge" => Lead::Change,
        b"set" | b"show" | b"reset" | b"begin" | b"start" | b"commit" | b"end" | b"rollback"
        | b"abort" | b"savepoint" | b"release" | b"fetch" | b"move" | b"close" | b"declare"
        | b"listen" | b"unlisten" | b"discard" | b"deallocate" => Lead::Session,
        _ => Lead::Other,
    }
}

/// Words before a bracket that are no functions, or functions that only calculate. (Somebody's own function of such a name may
/// write; nobody calls one that does so.)
const PLAIN_CALLS: [&[u8]; 121] = [
    b"all",
    b"and",
    b"any",
    b"array",
    b"as",
    b"between",
    b"by",
    b"case",
    b"cast",
    b"distinct",
    b"else",
    b"except",
    b"exists",
    b"extract",
    b"filter",
    b"from",
    b"group",
    b"having",
    b"in",
    b"intersect",
    b"is",
    b"join",
    b"lateral",
    b"like",
    b"limit",
    b"materialized",
    b"not",
    b"offset",
    b"on",
    b"or",
    b"order",
    b"over",
    b"row",
    b"select",
    b"some",
    b"then",
    b"union",
    b"using",
    b"values",
    b"when",
    b"where",
    b"within",
    b"abs",
    b"age",
    b"array_agg",
    b"array_length",
    b"array_to_string",
    b"avg",
    b"bool_and",
    b"bool_or",
    b"ceil",
    b"char_length",
    b"clock_timestamp",
    b"coalesce",
    b"concat",
    b"concat_ws",
    b"count",
    b"current_database",
    b"current_schema",
    b"current_setting",
    b"date_part",
    b"date_trunc",
    b"dense_rank",
    b"first_value",
    b"floor",
    b"format",
    b"generate_series",
    b"greatest",
    b"inet_server_addr",
    b"inet_server_port",
    b"json_agg",
    b"json_build_object",
    b"jsonb_agg",
    b"jsonb_array_elements",
    b"jsonb_build_object",
    b"lag",
    b"last_value",
    b"lead",
    b"least",
    b"left",
    b"length",
    b"lower",
    b"ltrim",
    b"make_interval",
    b"max",
    b"md5",
    b"min",
    b"mod",
    b"now",
    b"nullif",
    b"octet_length",
    b"position",
    b"power",
    b"random",
    b"rank",
    b"regexp_replace",
    b"replace",
    b"right",
    b"round",
    b"row_number",
    b"row_to_json",
    b"rtrim",
    b"set_config",
    b"sqrt",
    b"string_agg",
    b"string_to_array",
    b"strpos",
    b"substr",
    b"substring",
    b"sum",
    b"to_char",
    b"to_date",
    b"to_json",
    b"to_jsonb",
    b"to_number",
    b"to_timestamp",
    b"trim",
    b"trunc",
    b"unnest",
    b"upper",
    b"version",
];

/// Of PostgreSQL's own names with `pg_`, those that mean the same everywhere.
const COMMON: [&[u8]; 12] = [
    b"pg_catalog",
    b"pg_sleep",
    b"pg_typeof",
    b"pg_class",
    b"pg_namespace",
    b"pg_type",
    b"pg_attribute",
    b"pg_index",
    b"pg_constraint",
    b"pg_proc",
    b"pg_enum",
    b"pg_description",
];

/// The beginnings of names by which an instance tells of itself, or does what only the writer can.
const OWN: [&[u8]; 4] = [b"pg_", b"txid_", b"lo_", b"aurora_"];

fn is_of_the_instance(name: &[u8]) -> bool {
    OWN.iter().any(|own| name.starts_with(own)) && !COMMON.contains(&name)
}

#[derive(Debug)]
struct Reader {
    /// Of the first statement.
    first: Option<Lead>,
    /// A statement begins with what comes next.
    begins: bool,
    /// The first one has ended.
    ended: bool,
    many: bool,
    instance: bool,
    /// A statement neither reads nor changes rows.
    other: bool,
    may_write: bool,
    locks: bool,
    /// The token before: a name that is a function's if a bracket follows, and a plain one.
    called: Option<bool>,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            first: None,
            begins: true,
            ended: false,
            many: false,
            instance: false,
            other: false,
            may_write: false,
            locks: false,
            called: None,
        }
    }
}

impl Reader {
    fn reading(&self) -> Reading {
        let alone = !self.many && !self.other;
        Reading {
            anywhere: alone && self.first == Some(Lead::Query) && !self.instance,
            may_write: self.may_write,
            locks: self.locks,
            stays: alone && matches!(self.first, Some(Lead::Query | Lead::Change)),
        }
    }

    fn begin(&mut self, lead: Lead) {
        self.begins = false;
        self.many |= self.ended;
        self.first.get_or_insert(lead);
        self.other |= matches!(lead, Lead::Session | Lead::Other);
        self.may_write |= matches!(lead, Lead::Change | Lead::Other);
    }

    fn name(&mut self, name: &[u8]) {
        self.instance |= is_of_the_instance(name);
        self.locks |= name.windows(8).any(|part| part == b"advisory");
    }

    fn give_up(&mut self) {
        (self.many, self.instance, self.may_write, self.locks) = (true, true, true, true);
    }
}

impl Sink for Reader {
    fn token(&mut self, token: Token<'_>) {
        let called = self.called.take();
        match token {
            Token::Word(word) => {
                if self.begins {
                    self.begin(lead(word));
                } else {
                    self.may_write |= lead(word) == Lead::Change;
                }
                self.called = Some(PLAIN_CALLS.contains(&word));
                self.name(word);
            }
            Token::Quoted(name) => {
                if self.begins {
                    self.begin(Lead::Other);
                }
                self.called = Some(false);
                self.name(name);
            }
            Token::Sign(b';') => {
                self.ended |= self.first.is_some();
                self.begins = true;
            }
            // A query in brackets.
            Token::Sign(b'(') if self.begins => {}
            Token::Sign(sign) => {
                if self.begins {
                    self.begin(Lead::Other);
                }
                self.may_write |= sign == b'(' && called == Some(false);
            }
            Token::Literal(_) if self.begins => self.begin(Lead::Other),
            Token::Literal(_) => {}
            Token::Unsure => self.give_up(),
        }
    }

    fn wants_text(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a`nywhere, may `w`rite, `l`ocks, `s`tays.
    fn told(text: &str) -> String {
        let reading = reading(text.as_bytes());
        let all = [
            (reading.anywhere, 'a'),
            (reading.may_write, 'w'),
            (reading.locks, 'l'),
            (reading.stays, 's'),
        ];
        let told = all.iter().filter(|(is, _)| *is).map(|(_, letter)| letter);
        told.collect()
    }

    #[test]
    fn texts_are_told_apart() {
        let cases = [
            ("SELECT 1", "as"),
            ("select count(*) from t where a in (1, 2) -- x", "as"),
            ("/* trace */ SELECT E'a;b' ;", "as"),
            ("(SELECT 1) UNION (VALUES (2))", "as"),
            ("WITH x AS (SELECT 1) SELECT * FROM x", "as"),
            ("TABLE t", "as"),
            ("SELECT pg_catalog.pg_typeof(1)", "aws"),
            ("SELECT inet_server_port(), current_setting('a.b')", "as"),
            ("SELECT f(1)", "aws"),
            ("SELECT \"F\"(1)", "aws"),
            (
                "WITH x AS (INSERT INTO t VALUES (1) RETURNING a) SELECT a FROM x",
                "aws",
            ),
            ("SELECT pg_is_in_recovery()", "ws"),
            ("SELECT * FROM pg_stat_activity", "s"),
            ("SELECT \"pg_stat_activity\"", "s"),
            ("SELECT txid_current()", "ws"),
            ("SELECT pg_advisory_xact_lock(1)", "wls"),
            ("SELECT pg_catalog.pg_try_advisory_lock(1)", "wls"),
            ("SELECT 'pg_advisory_lock'", "as"),
            ("INSERT INTO t VALUES (1)", "ws"),
            ("UPDATE t SET a = 1;", "ws"),
            ("SELECT 1; SELECT 2", ""),
            ("SELECT 1; COMMIT", ""),
            ("SELECT 1; CREATE TABLE t (a int)", "w"),
            ("BEGIN READ ONLY", ""),
            ("COMMIT", ""),
            ("SET LOCAL a.b = 1", ""),
            ("SET TRANSACTION READ WRITE", ""),
            ("LOCK TABLE t", "w"),
            ("CALL p()", "w"),
            ("DO 'x'", "w"),
            ("COPY t TO STDOUT", "w"),
            ("EXPLAIN ANALYZE SELECT 1", "w"),
            ("", ""),
            (";", ""),
            ("'x'", "w"),
            ("SELECT 'a\\' || pg_sleep(1) --'", "wl"),
        ];
        for (text, expected) in cases {
            assert_eq!(told(text), expected, "{text}");
        }
    }
}
