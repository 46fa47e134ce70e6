//! Reads a call of set_config token by token: which setting, and for how long.
//!
//! Knows the three arguments as literals; anything else in their place is a setting unseen, or one that stays.

use super::effect::Effects;
use super::lexer::Token;
use super::name::Name;
use super::report::{Act, Report};
use super::setting::names_temporary;

/// One call, behind the function's name.
#[derive(Clone, Debug)]
pub(super) struct Call {
    step: Step,
    name: Name,
    value: Value,
    /// Open brackets inside the second argument.
    depth: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Open,
    Name,
    BehindName,
    /// Behind the colons of a cast.
    Cast,
    Value,
    Local,
    /// Behind `true`.
    BehindTrue,
    Done,
}

/// The second argument, as far as it matters to a search path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Nothing,
    /// One string, without the temporary schema in it.
    Plain,
    Temporary,
    Other,
}

impl Call {
    pub(super) fn new() -> Call {
        Call {
            step: Step::Open,
            name: Name::new(),
            value: Value::Nothing,
            depth: 0,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    pub(super) fn token(&mut self, token: Token<'_>, report: &mut Report) {
        self.step = match (self.step, token) {
            (Step::Open, Token::Sign(b'(')) => Step::Name,
            (Step::Name, Token::Literal(Some(name))) => {
                self.name = Name::of(name);
                Step::BehindName
            }
            (Step::BehindName, Token::Sign(b',')) => Step::Value,
            (Step::BehindName | Step::Cast, Token::Sign(b':')) => Step::Cast,
            (Step::Cast, Token::Word(b"text" | b"varchar")) => Step::BehindName,
            (Step::Value, _) => self.value(token, report),
            (Step::Local, Token::Word(b"true")) => Step::BehindTrue,
            (Step::BehindTrue, Token::Sign(b')')) => {
                self.judge_path(report);
                Step::Done
            }
            (Step::Local | Step::BehindTrue, _) => self.commit(report),
            (Step::Open | Step::Name | Step::BehindName | Step::Cast, _) => {
                // The name could be that of the search path as well.
                report.add(Effects::UNSEEN_SETTING.with(Effects::PATH_UNSEEN));
                Step::Done
            }
            (Step::Done, _) => Step::Done,
        };
    }

    /// The statement has ended, or another call begins inside this one.
    pub(super) fn end(&mut self, report: &mut Report) {
        match self.step {
            Step::Open | Step::Name | Step::BehindName | Step::Cast => {
                report.add(Effects::UNSEEN_SETTING.with(Effects::PATH_UNSEEN));
            }
            Step::Value | Step::Local | Step::BehindTrue => {
                self.value = Value::Other;
                self.commit(report);
            }
            Step::Done => {}
        }
        self.step = Step::Done;
    }

    fn value(&mut self, token: Token<'_>, report: &mut Report) -> Step {
        match token {
            Token::Sign(b',') if self.depth == 0 => return Step::Local,
            // Two arguments only: another function of that name, which may do the same.
            Token::Sign(b')') if self.depth == 0 => return self.commit(report),
            Token::Sign(b'(' | b'[') => self.depth = self.depth.saturating_add(1),
            Token::Sign(b')' | b']') => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.value = match (self.value, token) {
            (Value::Nothing, Token::Literal(Some(text))) if !names_temporary(text) => Value::Plain,
            (Value::Nothing, Token::Literal(_)) => Value::Temporary,
            _ => Value::Other,
        };
        Step::Value
    }

    fn commit(&mut self, report: &mut Report) -> Step {
        report.setting(self.name.as_slice(), Act::Set);
        self.judge_path(report);
        Step::Done
    }

    fn judge_path(&self, report: &mut Report) {
        if !self.name.as_slice().eq_ignore_ascii_case(b"search_path") {
            return;
        }
        match self.value {
            Value::Nothing | Value::Plain => {}
            Value::Temporary => report.add(Effects::TEMPORARY),
            Value::Other => report.add(Effects::PATH_UNSEEN),
        }
    }
}
