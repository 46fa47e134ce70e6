//! Reads CREATE, DROP and ALTER DATABASE token by token: which database must have no other session.
//!
//! Knows their grammar as far as that; not what is done about it.

use super::effect::Effects;
use super::lexer::Token;
use super::report::Report;

/// One such statement, behind the word DATABASE.
#[derive(Clone, Debug)]
pub(super) struct Database {
    verb: Verb,
    step: Step,
    name: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Create,
    Drop,
    Alter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Name,
    /// Behind IF, which may also be a name.
    If,
    /// CREATE: the name of an option may follow; ALTER: what is done to it.
    Options,
    /// Behind the name of an option; whether it is TEMPLATE.
    Option {
        template: bool,
    },
    /// ALTER DATABASE name SET.
    Set,
    Done,
}

impl Database {
    pub(super) fn new(verb: Verb) -> Database {
        Database {
            verb,
            step: Step::Name,
            name: Vec::new(),
        }
    }

    pub(super) fn token(&mut self, token: Token<'_>, report: &mut Report) {
        self.step = match (self.step, token) {
            (Step::Name, Token::Word(b"if")) if self.verb == Verb::Drop => Step::If,
            (Step::If, Token::Word(b"exists")) => Step::Name,
            (Step::If, _) => self.drop_now(b"if", report),
            (Step::Name, Token::Word(name) | Token::Quoted(name)) => match self.verb {
                Verb::Create => {
                    self.name = b"template1".to_vec();
                    Step::Options
                }
                Verb::Drop => self.drop_now(name, report),
                Verb::Alter => {
                    self.name = name.to_vec();
                    Step::Options
                }
            },
            (Step::Options, Token::Word(word)) => self.option(word, report),
            // Names of options are names like any other.
            (Step::Options, Token::Quoted(name)) if self.verb == Verb::Create => Step::Option {
                template: name == b"template",
            },
            (Step::Option { template }, Token::Sign(b'=')) => Step::Option { template },
            (Step::Option { template }, _) => {
                if template {
                    self.template(token, report);
                }
                Step::Options
            }
            (Step::Set, Token::Word(b"tablespace")) => self.drop_now(&self.name, report),
            (Step::Set, _) => Step::Done,
            (step @ (Step::Name | Step::Options | Step::Done), _) => step,
        };
    }

    /// The statement has ended.
    pub(super) fn end(&mut self, report: &mut Report) {
        match (self.verb, self.step) {
            (Verb::Create, Step::Options | Step::Option { .. }) if self.name.is_empty() => {
                report.add(Effects::DATABASE_DDL);
            }
            (Verb::Create, Step::Options | Step::Option { .. }) => report.database(&self.name),
            (Verb::Drop, Step::If) => report.database(b"if"),
            _ => {}
        }
        self.step = Step::Done;
    }

    fn option(&mut self, word: &[u8], report: &mut Report) -> Step {
        match (self.verb, word) {
            (Verb::Create, b"with") => Step::Options,
            (Verb::Create, _) => Step::Option {
                template: word == b"template",
            },
            (Verb::Alter, b"rename") => self.drop_now(&self.name, report),
            (Verb::Alter, b"set") => Step::Set,
            (Verb::Alter | Verb::Drop, _) => Step::Done,
        }
    }

    fn template(&mut self, token: Token<'_>, report: &mut Report) {
        self.name = match token {
            Token::Word(b"default") => b"template1".to_vec(),
            Token::Word(name) | Token::Quoted(name) | Token::Literal(Some(name)) => name.to_vec(),
            Token::Literal(None) | Token::Sign(_) | Token::Unsure => {
                report.add(Effects::DATABASE_DDL);
                Vec::new()
            }
        };
    }

    fn drop_now(&self, name: &[u8], report: &mut Report) -> Step {
        report.database(name);
        Step::Done
    }
}
