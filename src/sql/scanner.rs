//! Reads a text of statements and tells what it may leave behind in its session.
//!
//! Knows the statements and functions of PostgreSQL that do so; not what Weir makes of it.

use super::call::Call;
use super::database::{self, Database};
use super::effect::Effects;
use super::embedded;
use super::harmless::is_harmless;
use super::lexer::{Lexer, Sink, Token};
use super::report::{Act, Report};
use super::setting::{self, Setting};
use super::undoing::Undoing;

/// Scans a text in pieces; `finish` tells what was found.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    lexer: Lexer,
    statements: Statements,
}

impl Scanner {
    #[inline]
    pub fn feed(&mut self, text: &[u8]) {
        let Scanner { lexer, statements } = self;
        lexer.feed(text, statements);
    }

    /// What all that was fed may do. A scanner is good for one text.
    #[inline]
    pub fn finish(&mut self) -> Report {
        self.lexer.finish(&mut self.statements);
        self.statements.conclude()
    }
}

/// What one whole text may do.
pub fn report(text: &[u8]) -> Report {
    if is_harmless(text) {
        return Report::default();
    }
    let mut report = scanned(text);
    if report.effects.has(RUNS_TEXT) {
        embedded::add_settings(text, &mut report);
    }
    report
}

/// What may run a text that stands in a string.
const RUNS_TEXT: Effects = Effects::ROUTINE.with(Effects::UNSURE);

/// The same, the long way, and without what is in strings.
pub(super) fn scanned(text: &[u8]) -> Report {
    let mut scanner = Scanner::default();
    scanner.feed(text);
    scanner.finish()
}

/// The effects of one whole text.
pub fn effects(text: &[u8]) -> Effects {
    report(text).effects
}

#[derive(Clone, Debug, Default)]
struct Statements {
    found: Report,
    lead: Lead,
    before: Before,
    /// UPDATE was said in this statement: pg_settings behind it is set, not read.
    updating: bool,
    /// The next token is read by `watch` first.
    watching: bool,
    reading: Reading,
    undoing: Undoing,
    count: u32,
    /// Statements that only undo.
    undone: u32,
}

/// How a statement begins, as far as it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lead {
    /// Nothing but blanks so far.
    #[default]
    None,
    /// Changes nothing by its own nature; functions inside still may.
    Harmless,
    Select,
    Create,
    Drop,
    Alter,
    Explain,
    Prepare,
    Declare,
    Discard,
    /// SET or RESET: all that it says is read by `Setting`.
    Setting,
    /// What it does is said already.
    Known,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Before {
    #[default]
    Other,
    /// CREATE, OR REPLACE, LOCAL, GLOBAL, INTO: TEMP behind them makes something temporary.
    Making,
    With,
    /// The word that leads the statement.
    Lead,
    /// The same, and it is CREATE.
    Create,
}

/// A part of a statement that is read token by token.
#[derive(Clone, Debug, Default)]
enum Reading {
    #[default]
    Nothing,
    Setting(Setting),
    Call(Call),
    Database(Database),
    /// Behind PREPARE TRANSACTION: harmless, unless `transaction` was a name.
    PrepareTransaction,
    /// Behind EXECUTE in a CREATE: CREATE TABLE AS, or a trigger's EXECUTE FUNCTION.
    Execute {
        function: bool,
    },
}

impl Sink for Statements {
    #[inline]
    fn token(&mut self, token: Token<'_>) {
        if self.watching {
            self.watch(token);
        }
        match token {
            Token::Sign(b';') => self.end_statement(),
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
            Token::Literal(_) | Token::Sign(_) => {
                self.begin_if_first();
                self.before = Before::Other;
            }
        }
    }

    fn wants_text(&self) -> bool {
        self.watching
    }
}

impl Statements {
    fn add(&mut self, effects: Effects) {
        self.found.add(effects);
    }

    fn conclude(&mut self) -> Report {
        self.end_statement();
        let mut report = std::mem::take(&mut self.found);
        if self.count != 1 && report.effects.has(Effects::DISCARD_ALL) {
            report.effects = report.effects.without(Effects::DISCARD_ALL);
            report.add(Effects::DISCARD_IN_TEXT);
        }
        if self.count > 0 && self.undone == self.count {
            report.add(Effects::RESET_SESSION);
        }
        report
    }

    fn end_statement(&mut self) {
        if self.watching {
            self.end_reading();
            self.undone += u32::from(self.undoing.is_complete());
            self.undoing = Undoing::default();
            self.watching = false;
        }
        self.lead = Lead::None;
        self.before = Before::Other;
        self.updating = false;
    }

    /// A statement that begins with no word: `(SELECT ...)`, or nonsense.
    fn begin_if_first(&mut self) {
        if self.lead == Lead::None {
            self.count += 1;
            self.lead = Lead::Harmless;
        }
    }

    #[inline]
    fn word(&mut self, word: &[u8]) {
        if self.lead == Lead::None {
            self.updating = word == b"update";
            self.count += 1;
            self.first(word);
            return;
        }
        if !matches!(self.before, Before::Lead | Before::Create) && !may_matter(word) {
            self.before = Before::Other;
            return;
        }
        self.inner(word);
    }

    /// A word inside a statement that may matter.
    fn inner(&mut self, word: &[u8]) {
        self.updating |= word == b"update";
        self.second(word);
        self.name(word);
        self.before = match (self.before, word) {
            (_, b"execute") => {
                self.execute();
                Before::Other
            }
            (Before::Making | Before::Create, b"temp" | b"temporary") => {
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
            b"select" => Lead::Select,
            b"insert" | b"update" | b"delete" | b"begin" | b"commit" | b"rollback" | b"with"
            | b"values" | b"table" | b"merge" | b"end" | b"abort" | b"start" | b"savepoint"
            | b"release" | b"fetch" | b"move" | b"show" | b"copy" | b"lock" | b"truncate"
            | b"grant" | b"revoke" | b"comment" | b"analyze" | b"analyse" | b"vacuum"
            | b"reindex" | b"cluster" | b"refresh" | b"checkpoint" | b"import" | b"reassign"
            | b"security" => Lead::Harmless,
            // Stands only in the body of a function written in SQL, between BEGIN ATOMIC and END.
            b"return" => Lead::Harmless,
            b"create" => {
                self.before = Before::Create;
                Lead::Create
            }
            b"alter" => {
                self.add(Effects::DEFINES);
                Lead::Alter
            }
            b"explain" => Lead::Explain,
            b"prepare" => Lead::Prepare,
            b"declare" => Lead::Declare,
            b"execute" => self.known(Effects::EXECUTE),
            b"notify" => self.known(Effects::NOTIFY),
            b"listen" => self.known(Effects::LISTEN),
            b"load" => self.known(Effects::LOAD),
            b"do" => self.known(Effects::ROUTINE.with(Effects::DEFINES)),
            b"call" => self.known(Effects::ROUTINE),
            b"set" | b"reset" | b"drop" | b"close" | b"unlisten" | b"deallocate" | b"discard" => {
                self.first_that_frees(word)
            }
            _ => self.known(Effects::UNSURE),
        };
    }

    /// Those that give something up, and SET, which may.
    fn first_that_frees(&mut self, word: &[u8]) -> Lead {
        self.watching = true;
        if word == b"set" {
            self.reading = Reading::Setting(Setting::new(setting::Verb::Set));
            return Lead::Setting;
        }
        self.undoing = Undoing::begin(word);
        let (lead, effects) = match word {
            b"reset" => {
                self.reading = Reading::Setting(Setting::new(setting::Verb::Reset));
                (Lead::Setting, Effects::NONE)
            }
            b"unlisten" => (Lead::Known, Effects::UNLISTEN),
            b"deallocate" => (Lead::Known, Effects::DEALLOCATE),
            b"discard" => (Lead::Discard, Effects::NONE),
            b"drop" => (Lead::Drop, Effects::DEFINES),
            _ => (Lead::Known, Effects::NONE),
        };
        self.add(effects.with(Effects::FREES));
        lead
    }

    fn known(&mut self, effects: Effects) -> Lead {
        self.add(effects);
        Lead::Known
    }

    /// The word behind the leading one, where that decides.
    fn second(&mut self, word: &[u8]) {
        if !matches!(self.before, Before::Lead | Before::Create) {
            return;
        }
        // Temporary things are the session's own.
        if self.lead == Lead::Create && !matches!(word, b"temp" | b"temporary") {
            self.add(Effects::DEFINES);
        }
        match (self.lead, word) {
            (Lead::Select, b"pg_advisory_unlock_all" | b"pg_catalog") => {
                self.may_undo(b"select", word);
            }
            (Lead::Setting, b"session") if !self.undoing.is_possible() => {
                self.may_undo(b"set", word);
            }
            (Lead::Create, b"database") => self.database(database::Verb::Create),
            (Lead::Drop, b"database") => self.database(database::Verb::Drop),
            (Lead::Alter, b"database") => self.database(database::Verb::Alter),
            (Lead::Prepare, b"transaction") => self.read(Reading::PrepareTransaction),
            (Lead::Prepare, _) => self.add(Effects::PREPARE),
            (Lead::Discard, b"all") => self.add(Effects::DISCARD_ALL),
            (Lead::Discard, _) => self.add(Effects::DISCARD_IN_TEXT),
            _ => {}
        }
    }

    /// The first two words are those of a statement that only undoes.
    fn may_undo(&mut self, first: &[u8], second: &[u8]) {
        self.undoing = Undoing::begin(first);
        self.undoing.token(Token::Word(second));
        self.watching = true;
    }

    fn database(&mut self, verb: database::Verb) {
        self.read(Reading::Database(Database::new(verb)));
    }

    /// EXECUTE inside a statement.
    fn execute(&mut self) {
        match self.lead {
            Lead::Explain => self.add(Effects::EXECUTE),
            Lead::Create => self.read(Reading::Execute { function: false }),
            _ => {}
        }
    }

    /// A name that does something wherever it stands.
    fn name(&mut self, name: &[u8]) {
        if self.lead == Lead::Setting {
            return;
        }
        let effects = match name {
            b"set_config" => return self.read(Reading::Call(Call::new())),
            // pg_trgm's way to set what is a setting by now.
            b"set_limit" => {
                let name = b"pg_trgm.similarity_threshold";
                return self.found.setting(name, Act::Set);
            }
            b"pg_settings" if self.updating => Effects::UNSEEN_SETTING.with(Effects::PATH_UNSEEN),
            b"pg_advisory_lock"
            | b"pg_advisory_lock_shared"
            | b"pg_try_advisory_lock"
            | b"pg_try_advisory_lock_shared" => Effects::ADVISORY_LOCK,
            b"currval" | b"lastval" => Effects::SEQUENCE_READ,
            b"nextval" | b"setval" => Effects::NEXTVAL,
            b"setseed" => Effects::SEED,
            b"pg_notify" => Effects::NOTIFY,
            b"pg_terminate_backend" => Effects::ENDS_SERVERS,
            b"dblink_connect" | b"dblink_connect_u" => Effects::LOAD,
            // What stays with a connection whatever is discarded.
            b"pg_create_physical_replication_slot"
            | b"pg_create_logical_replication_slot"
            | b"pg_copy_physical_replication_slot"
            | b"pg_copy_logical_replication_slot"
            | b"pg_replication_origin_session_setup"
            | b"pg_backup_start"
            | b"pg_start_backup" => Effects::LOAD,
            _ if name.starts_with(b"pg_advisory_unlock") => Effects::FREES,
            _ if runs_text(name) => Effects::ROUTINE,
            _ if name.starts_with(b"pg_temp") => Effects::TEMPORARY,
            _ => return,
        };
        self.add(effects);
    }

    /// From the next token on, a part is read by itself.
    fn read(&mut self, part: Reading) {
        self.end_reading();
        self.reading = part;
        self.watching = true;
    }

    /// A token inside something that is read by itself, or of a statement that may only undo.
    #[cold]
    fn watch(&mut self, token: Token<'_>) {
        if token == Token::Sign(b';') {
            return;
        }
        if self.undoing.is_possible() {
            self.undoing.token(token);
        }
        let found = &mut self.found;
        let done = match &mut self.reading {
            Reading::Nothing => true,
            Reading::Setting(setting) => {
                setting.token(token, found);
                false
            }
            Reading::Database(database) => {
                database.token(token, found);
                false
            }
            Reading::Call(call) => {
                call.token(token, found);
                call.is_done()
            }
            Reading::PrepareTransaction => {
                if matches!(token, Token::Sign(b'(') | Token::Word(b"as")) {
                    found.add(Effects::PREPARE);
                }
                true
            }
            Reading::Execute { function } => {
                let named = matches!(token, Token::Quoted(_) | Token::Word(_));
                match token {
                    Token::Word(b"function" | b"procedure") if !*function => *function = true,
                    // EXECUTE FUNCTION name
                    _ if *function && named && token != Token::Word(b"with") => {
                        self.reading = Reading::Nothing;
                    }
                    _ => self.end_reading(),
                }
                matches!(self.reading, Reading::Nothing)
            }
        };
        if done {
            self.reading = Reading::Nothing;
            self.watching = self.undoing.is_possible();
        }
    }

    /// What was read has ended, or its statement has.
    fn end_reading(&mut self) {
        let found = &mut self.found;
        match std::mem::take(&mut self.reading) {
            Reading::Nothing | Reading::PrepareTransaction => {}
            Reading::Setting(mut setting) => setting.end(found),
            Reading::Call(mut call) => call.end(found),
            Reading::Database(mut database) => database.end(found),
            Reading::Execute { .. } => found.add(Effects::EXECUTE),
        }
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

/// By its first letter and its length, whether a word inside a statement can be one that is looked for.
#[inline]
fn may_matter(word: &[u8]) -> bool {
    const fn of(bytes: u32) -> u32 {
        1 << bytes
    }
    /// That long or longer.
    const fn from(bytes: u32) -> u32 {
        u32::MAX << bytes
    }
    let lengths = match word.first().copied().unwrap_or_default() {
        b'c' => of(6) | from(7),
        b'd' => from(6),
        b'e' => of(7),
        b'g' => of(6),
        b'h' | b'i' => of(4),
        b'l' => of(5) | of(7),
        b'n' | b'r' => of(7),
        b'p' => from(7),
        b'q' => from(12),
        b's' => of(6) | of(7) | of(9) | of(10) | from(13),
        b't' => of(4) | from(7),
        b'u' => of(6),
        b'w' => of(4),
        b'x' => of(11),
        _ => 0,
    };
    lengths >> word.len().min(31) & 1 != 0
}

#[cfg(test)]
mod tests;
