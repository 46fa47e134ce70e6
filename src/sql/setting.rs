//! Reads SET and RESET token by token: which setting, for how long, and whether to a value or back.
//!
//! Knows `VariableSetStmt` and `VariableResetStmt` of PostgreSQL's grammar; judges values only by whether
//! the temporary schema is named.

use super::effect::Effects;
use super::lexer::Token;
use super::name::Name;
use super::report::{Act, Report};

/// One SET or RESET, behind its first word.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    verb: Verb,
    scope: Scope,
    step: Step,
    name: Name,
    /// A word that stands for the default here, besides DEFAULT.
    default: &'static [u8],
    path: Path,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Set,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Session,
    Transaction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Start,
    /// Behind SESSION or LOCAL, which may also be a name.
    Scope,
    /// Behind a word that means something else than a name, unless what follows shows that it is one.
    Keyword,
    Name,
    Dot,
    /// A value, or DEFAULT.
    Value,
    /// The modes of SESSION CHARACTERISTICS.
    Modes,
    Done,
}

/// Where in the values of a search path we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    None,
    Some,
    /// Behind a string, which may go on in the next.
    String,
}

impl Setting {
    pub(super) fn new(verb: Verb) -> Setting {
        Setting {
            verb,
            scope: Scope::Session,
            step: Step::Start,
            name: Name::new(),
            default: b"default",
            path: Path::None,
        }
    }

    pub(super) fn token(&mut self, token: Token<'_>, report: &mut Report) {
        if token == Token::Unsure {
            self.step = Step::Done;
            return report.add(Effects::UNSEEN_SETTING);
        }
        match self.verb {
            Verb::Set => self.set(token, report),
            Verb::Reset => self.reset(token, report),
        }
        self.look_for_temporary(token, report);
    }

    /// The statement has ended.
    pub(super) fn end(&mut self, report: &mut Report) {
        match (self.verb, self.step) {
            (Verb::Reset, Step::Name) => report.setting(self.name.as_slice(), Act::Reset),
            (Verb::Set, Step::Keyword) if self.name.as_slice() == b"names" => {
                self.name_is(b"client_encoding");
                self.commit(Act::Reset, report);
            }
            // Anything else that is incomplete is refused.
            _ => {}
        }
    }

    fn set(&mut self, token: Token<'_>, report: &mut Report) {
        let goes_on = matches!(
            token,
            Token::Sign(b'.' | b'=') | Token::Word(b"to" | b"from")
        );
        match (self.step, token) {
            (Step::Start, Token::Word(word)) => {
                self.name = Name::identifier(word);
                self.step = first_step(word);
            }
            (Step::Start, Token::Quoted(name)) => {
                self.name = Name::identifier(name);
                self.step = Step::Name;
            }
            (Step::Scope | Step::Keyword, _) if goes_on => {
                self.step = Step::Name;
                self.set(token, report);
            }
            (Step::Scope, _) => {
                if self.name.as_slice() == b"local" {
                    self.scope = Scope::Transaction;
                }
                self.step = Step::Start;
                self.set(token, report);
            }
            (Step::Keyword, _) => self.behind_keyword(token, report),
            (Step::Name, Token::Sign(b'.')) => self.step = Step::Dot,
            (Step::Name, Token::Sign(b'=') | Token::Word(b"to")) => self.values(),
            (Step::Dot, Token::Word(part) | Token::Quoted(part)) => {
                self.name.dotted(part);
                self.step = Step::Name;
            }
            (Step::Value, Token::Word(word)) if word == b"default" || word == self.default => {
                self.commit(Act::Reset, report);
            }
            (Step::Modes, Token::Word(word)) => self.mode(word, report),
            (Step::Modes | Step::Done, _) => {}
            // FROM CURRENT, a value, or what no PostgreSQL takes that we know.
            (Step::Start | Step::Name | Step::Dot | Step::Value, _) => {
                self.commit(Act::Set, report);
            }
        }
    }

    /// Behind a first word that isn't a name.
    fn behind_keyword(&mut self, token: Token<'_>, report: &mut Report) {
        match (self.name.as_slice(), token) {
            (b"time", Token::Word(b"zone")) => {
                self.name_is(b"timezone");
                self.default = b"local";
                self.step = Step::Value;
            }
            (b"xml", Token::Word(b"option")) => {
                self.name_is(b"xmloption");
                self.commit(Act::Set, report);
            }
            (b"characteristics", Token::Word(b"as")) => self.step = Step::Modes,
            (b"schema" | b"names" | b"role" | b"authorization", _) => {
                match self.name.as_slice() {
                    b"schema" => self.name_is(b"search_path"),
                    b"names" => self.name_is(b"client_encoding"),
                    b"authorization" => self.name_is(b"session_authorization"),
                    _ => self.default = b"none",
                }
                self.values();
                self.set(token, report);
            }
            // SET TRANSACTION, SET CONSTRAINTS; SET CATALOG, which always fails.
            _ => self.step = Step::Done,
        }
    }

    fn mode(&mut self, word: &[u8], report: &mut Report) {
        let name: &[u8] = match word {
            b"isolation" => b"default_transaction_isolation",
            // READ alone is also the first half of an isolation level.
            b"only" | b"write" => b"default_transaction_read_only",
            b"deferrable" => b"default_transaction_deferrable",
            _ => return,
        };
        if self.scope == Scope::Session {
            report.setting(name, Act::Set);
        }
    }

    fn reset(&mut self, token: Token<'_>, report: &mut Report) {
        self.step = match (self.step, token) {
            (Step::Start, Token::Word(b"all")) => {
                report.add(Effects::RESET_ALL);
                Step::Done
            }
            (Step::Start, Token::Word(name) | Token::Quoted(name)) => {
                self.name = Name::identifier(name);
                Step::Name
            }
            (Step::Name, Token::Sign(b'.')) => Step::Dot,
            (Step::Dot, Token::Word(part) | Token::Quoted(part)) => {
                self.name.dotted(part);
                Step::Name
            }
            (Step::Name, Token::Word(word)) => {
                match (self.name.as_slice(), word) {
                    (b"time", b"zone") => self.name_is(b"timezone"),
                    (b"session", b"authorization") => self.name_is(b"session_authorization"),
                    (b"transaction", b"isolation") => self.name_is(b"transaction_isolation"),
                    _ => {}
                }
                Step::Name
            }
            (step, _) => step,
        };
    }

    fn name_is(&mut self, name: &[u8]) {
        self.name = Name::of(name);
    }

    /// What follows are values.
    fn values(&mut self) {
        if self.name.as_slice().eq_ignore_ascii_case(b"search_path") {
            self.path = Path::Some;
        }
        self.step = Step::Value;
    }

    fn commit(&mut self, act: Act, report: &mut Report) {
        self.step = Step::Done;
        if self.scope == Scope::Session {
            report.setting(self.name.as_slice(), act);
        }
    }

    /// What is made in the temporary schema is temporary, and a search path may lead there.
    fn look_for_temporary(&mut self, token: Token<'_>, report: &mut Report) {
        let found = match token {
            Token::Word(name) | Token::Quoted(name) => name.starts_with(b"pg_temp"),
            Token::Literal(text) => {
                let goes_on = self.path == Path::String;
                self.path != Path::None && (goes_on || text.is_none_or(names_temporary))
            }
            Token::Sign(_) | Token::Unsure => false,
        };
        if found {
            report.add(Effects::TEMPORARY);
        }
        if self.path != Path::None {
            self.path = match token {
                Token::Literal(_) => Path::String,
                _ => Path::Some,
            };
        }
    }
}

fn first_step(word: &[u8]) -> Step {
    match word {
        b"session" | b"local" => Step::Scope,
        b"time" | b"xml" | b"characteristics" | b"schema" | b"names" | b"role"
        | b"authorization" | b"transaction" | b"constraints" | b"catalog" => Step::Keyword,
        _ => Step::Name,
    }
}

/// Whether a search path, written as a string, may name the temporary schema.
pub(super) fn names_temporary(path: &[u8]) -> bool {
    const PREFIX: &[u8] = b"pg_temp";
    path.windows(PREFIX.len())
        .any(|part| part.eq_ignore_ascii_case(PREFIX))
}
