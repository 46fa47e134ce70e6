//! A client's named statements, and what will become of them once the server has answered.
//!
//! Pure. Knows the client's names and which statements stand behind them; not where they are looked for in
//! messages, nor what servers call them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::table::{Sharing, Statement, Table};
use crate::server::Statements;
use crate::server::ledger::Outcome;
use crate::server::statements::Act;
use crate::sql::Report;

/// Names that one client may have. It has to keep its connection for more.
const MAX_NAMES: usize = 16 * 1024;

pub type Name = Box<[u8]>;

/// A change on its way to the server.
#[derive(Clone, Debug)]
pub enum Change {
    /// The client's Parse; the server has such a statement already, or is given it.
    Name {
        name: Name,
        statement: Arc<Statement>,
        act: Option<Act>,
    },
    /// Of a statement that a server has, for nobody's name.
    Server { id: u64, act: Act },
    /// Close or DEALLOCATE.
    Forget(Vec<Name>),
    /// Of a text of several statements that was lent these: where it fails, the server alone knows which of them it has
    /// still, and what it has under their names.
    Leave {
        names: Vec<Name>,
        all: bool,
        /// It begins with that, and does no more about them.
        first: bool,
    },
    /// DEALLOCATE ALL, DISCARD ALL.
    ForgetAll,
}

/// What stands behind a name.
#[derive(Debug, Default)]
struct Slot {
    /// Tells the name from the client's others, whatever stands behind it; not 0.
    number: u64,
    /// The name as the client says it, if PostgreSQL tells only a part of it apart.
    said: Option<Name>,
    is: Option<Arc<Statement>>,
    /// Once all that was sent is carried out.
    will_be: Option<Arc<Statement>>,
    /// Messages sent that change it and were not answered.
    open: u32,
    /// The sequence of messages (up to a Sync) with the last of these.
    sequence: u64,
}

#[derive(Debug)]
pub struct Named {
    table: Arc<Table>,
    /// The session's settings as far as they change what a text means.
    settings: Box<[u8]>,
    names: HashMap<Name, Slot, RandomState>,
    /// In the order they were sent.
    pending: VecDeque<Change>,
    /// The sequence of messages that is being sent.
    sequence: u64,
    /// Changes of all names under way, and the sequence of the last.
    sweeping: (u32, u64),
    /// What was sent may redefine objects of the database, and its transaction has not ended.
    redefining: bool,
    /// Counts the names.
    numbered: u64,
}

/// What a name means to the message that has it.
#[derive(Debug)]
pub enum Meaning<'a> {
    /// It depends on an answer that is outstanding.
    Open,
    Unknown,
    /// And the number of the name.
    Known(&'a Arc<Statement>, u64),
}

impl Named {
    pub fn new(table: Arc<Table>) -> Named {
        Named {
            table,
            settings: Box::default(),
            names: HashMap::default(),
            pending: VecDeque::new(),
            sequence: 1,
            sweeping: (0, 0),
            redefining: false,
            numbered: 0,
        }
    }

    /// A text is sent that may redefine objects of the database.
    pub fn redefine(&mut self) {
        self.redefining = true;
    }

    /// Whether texts may have another meaning to this session than to the others.
    pub fn is_redefining(&self) -> bool {
        self.redefining
    }

    /// A transaction has ended. `further`: more of the session's is on its way.
    #[inline]
    pub fn transaction_ended(&mut self, further: bool) {
        if self.redefining {
            self.redefined(further);
        }
    }

    #[cold]
    fn redefined(&mut self, further: bool) {
        self.table.redefined();
        self.redefining = further;
    }

    /// The settings that texts are parsed under from here on, in any form that tells them apart.
    pub fn parse_under(&mut self, settings: Box<[u8]>) {
        self.settings = settings;
    }

    #[inline]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What an error made the server skip ends here.
    #[inline]
    pub fn end_sequence(&mut self) {
        self.sequence += 1;
    }

    /// Whether there is anything that a text could refer to.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.pending.is_empty()
    }

    /// Whether all that was sent has been answered.
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether something that an earlier sequence has changed is not known yet.
    pub fn is_open(&self) -> bool {
        let open = |slot: &Slot| slot.open > 0 && slot.sequence != self.sequence;
        self.is_sweeping() || self.names.values().any(open)
    }

    #[inline]
    fn is_sweeping(&self) -> bool {
        self.sweeping.0 > 0 && self.sweeping.1 != self.sequence
    }

    #[inline]
    pub fn meaning(&self, name: &[u8]) -> Meaning<'_> {
        if self.is_sweeping() {
            return Meaning::Open;
        }
        match self.names.get(name) {
            None => Meaning::Unknown,
            Some(slot) if slot.open > 0 && slot.sequence != self.sequence => Meaning::Open,
            Some(slot) => match &slot.will_be {
                None => Meaning::Unknown,
                Some(statement) => Meaning::Known(statement, slot.number),
            },
        }
    }

    /// The statement that a Parse with this body makes; `None` if there is no room for it.
    pub fn intern(&self, body: &[u8], report: &Report, sharing: Sharing) -> Option<Arc<Statement>> {
        if self.names.len() >= MAX_NAMES {
            return None;
        }
        self.table.intern(&self.settings, body, report, sharing)
    }

    /// Live names, and what stands behind them.
    pub fn live(&self) -> impl Iterator<Item = (&[u8], &Arc<Statement>)> {
        self.names
            .iter()
            .filter_map(|(name, slot)| Some((&**name, slot.will_be.as_ref()?)))
    }

    /// A name as the client says it: the one with this number, or else one that it has for this statement.
    pub fn name_of(&self, number: u64, id: u64) -> Option<&[u8]> {
        let is = |slot: &Slot| {
            let both = [&slot.is, &slot.will_be];
            both.into_iter()
                .flatten()
                .any(|statement| statement.id == id)
        };
        let mut names = self.names.iter();
        let by_number = names.find(|(_, slot)| slot.number == number);
        let found = by_number.or_else(|| self.names.iter().find(|(_, slot)| is(slot)));
        found.map(|(name, slot)| slot.said.as_deref().unwrap_or(name))
    }

    /// The client says a name of which PostgreSQL tells only a part apart, but repeats it all.
    pub fn says(&mut self, told: &[u8], whole: &[u8]) {
        if let Some(slot) = self.names.get_mut(told) {
            slot.said = (told != whole).then(|| whole.into());
        }
    }

    /// The number of a name, or 0.
    pub fn number(&self, name: &[u8]) -> u64 {
        self.names.get(name).map_or(0, |slot| slot.number)
    }

    /// A statement that doesn't mean any more what it meant: whoever parses its text anew gets another.
    pub fn retire(&self, id: u64) {
        let both = |slot: &Slot| [slot.is.clone(), slot.will_be.clone()];
        let mut all = self.names.values().flat_map(both).flatten();
        if let Some(statement) = all.find(|statement| statement.id == id) {
            self.table.retire(&statement);
        }
    }

    /// A message that changes something is sent.
    pub fn sent(&mut self, change: Change, statements: &mut Statements) {
        match &change {
            Change::Name {
                name,
                statement,
                act,
            } => {
                if let Some(act) = act {
                    statements.sent(statement.id, *act, self.sequence);
                }
                let slot = self.names.entry(name.clone()).or_default();
                if slot.number == 0 {
                    self.numbered += 1;
                    slot.number = self.numbered;
                }
                slot.will_be = Some(Arc::clone(statement));
                (slot.open, slot.sequence) = (slot.open + 1, self.sequence);
            }
            Change::Server { id, act } => statements.sent(*id, *act, self.sequence),
            Change::Forget(names)
            | Change::Leave {
                names, all: false, ..
            } => {
                for name in names {
                    if let Some(slot) = self.names.get_mut(name) {
                        slot.will_be = None;
                        (slot.open, slot.sequence) = (slot.open + 1, self.sequence);
                    }
                }
            }
            Change::ForgetAll | Change::Leave { all: true, .. } => {
                statements.doubt();
                self.sweeping = (self.sweeping.0 + 1, self.sequence);
            }
        }
        self.pending.push_back(change);
    }

    /// The server has answered, or skipped, the oldest of these. Names that only the server knows any more.
    pub fn settle(&mut self, outcome: Outcome, statements: &mut Statements) -> Vec<Name> {
        let Some(change) = self.pending.pop_front() else {
            return Vec::new();
        };
        let mut left = Vec::new();
        match change {
            Change::Name {
                name,
                statement,
                act,
            } => {
                if let Some(act) = act {
                    statements.settle(statement.id, act, outcome);
                }
                self.close(&name, |slot| {
                    // PostgreSQL has left a name unused whose Parse failed. Where nobody can tell, it has the last
                    // word on the name that the server would have it under.
                    if matches!(outcome, Outcome::Done | Outcome::Unknown) {
                        slot.is = Some(statement);
                    }
                });
            }
            Change::Server { id, act } => statements.settle(id, act, outcome),
            Change::Forget(names) => self.forget_these(&names, outcome == Outcome::Done),
            Change::Leave {
                names,
                all: false,
                first,
            } => {
                self.forget_these(
                    &names,
                    matches!(outcome, Outcome::Done | Outcome::FailedLate),
                );
                if outcome == Outcome::FailedLate && !first {
                    left = names;
                }
            }
            Change::ForgetAll | Change::Leave { all: true, .. } => {
                self.sweeping.0 = self.sweeping.0.saturating_sub(1);
                let late = outcome == Outcome::FailedLate;
                let first = matches!(change, Change::Leave { first: true, .. });
                if outcome == Outcome::Done || (late && first) {
                    statements.suspect();
                    self.forget_all();
                } else if late {
                    // Part of a text that failed it may have been carried out.
                    statements.suspect();
                    if let Change::Leave { names, .. } = change {
                        for name in &names {
                            self.forget(name);
                        }
                        left = names;
                    }
                } else if self.sweeping.0 == 0 {
                    statements.undoubt();
                }
            }
        }
        left
    }

    fn forget_these(&mut self, names: &[Name], are_gone: bool) {
        for name in names {
            self.close(name, |slot| {
                if are_gone {
                    slot.is = None;
                }
            });
        }
    }

    /// One message fewer changes this name.
    fn close(&mut self, name: &[u8], change: impl FnOnce(&mut Slot)) {
        let Some(slot) = self.names.get_mut(name) else {
            return;
        };
        change(slot);
        slot.open = slot.open.saturating_sub(1);
        if slot.open == 0 {
            slot.will_be.clone_from(&slot.is);
            if slot.is.is_none() {
                self.names.remove(name);
            }
        }
    }

    fn forget_all(&mut self) {
        self.names.retain(|_, slot| {
            slot.is = None;
            if slot.open == 0 {
                slot.will_be = None;
            }
            slot.open > 0
        });
    }

    /// The client has closed a name while it had no server.
    pub fn forget(&mut self, name: &[u8]) {
        self.names.remove(name);
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // What became of it, nobody has heard.
        self.transaction_ended(false);
    }
}
