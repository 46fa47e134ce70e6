//! The prepared statements that one connection has, by number.
//!
//! Pure. Knows what was asked of the server and what came of it; not what the statements say, nor whose they are.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

use super::ledger::Outcome;

/// Begins the names of all statements that Weir gives a server; different in each process, so that no client
/// can guess them.
static PREFIX: LazyLock<Box<str>> = LazyLock::new(|| {
    let random = RandomState::new().build_hasher().finish();
    format!("weir_{:08x}_", random & 0xffff_ffff).into()
});

/// The name that a statement has on all servers.
pub fn server_name(id: u64) -> Box<[u8]> {
    format!("{}{id}", &**PREFIX).into_bytes().into()
}

/// In place of a name of Weir's that a client says: one that nobody else's statement has.
pub fn clients_name(name: &[u8]) -> Option<Box<[u8]>> {
    let rest = name.strip_prefix(PREFIX.as_bytes())?;
    Some([PREFIX.as_bytes(), b"client_", rest].concat().into())
}

/// As long as the beginning of Weir's names, and the beginning of none of them.
pub const NOBODYS: &[u8] = b"weir_nobodys__";

/// Where a text first has the beginning of Weir's names in it, in whatever case.
pub fn find_mention(text: &[u8]) -> Option<usize> {
    let mut parts = text.windows(PREFIX.len());
    parts.position(|part| part.eq_ignore_ascii_case(PREFIX.as_bytes()))
}

/// Finds a name of Weir's in a server's words: where it stands, and which it is.
pub fn find_name(text: &[u8]) -> Option<(std::ops::Range<usize>, u64)> {
    let start = text
        .windows(PREFIX.len())
        .position(|part| part == PREFIX.as_bytes())?;
    let digits = text.get(start + PREFIX.len()..)?;
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let count = count.count();
    let id = std::str::from_utf8(digits.get(..count)?).ok()?;
    Some((start..start + PREFIX.len() + count, id.parse().ok()?))
}

/// Whether the server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Absent,
    There,
    /// It may be there, but must not be used: to be closed before it is parsed.
    Stale,
}

/// What a message meets that names a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// What an earlier sequence does to it is not known yet: the message must wait.
    Open,
    Known(Presence),
}

/// What a message does to a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Parse,
    Close,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    id: u64,
    /// What the server has said.
    has: Presence,
    /// What it will have once all that was sent is carried out.
    will_have: Presence,
    /// Messages sent that change it and were not answered.
    open: u32,
    /// So many of these went before something that may have taken it away.
    doubted: u32,
    /// The sequence of messages (up to a Sync) with the last of these.
    sequence: u64,
    /// The time it was last named.
    used: u64,
}

#[derive(Debug)]
pub struct Statements {
    /// By their numbers; new ones come in at the end as a rule.
    known: Vec<Known>,
    limit: usize,
    /// Messages sent that change any of them and were not answered.
    open: u32,
    /// Counts uses.
    time: u64,
}

impl Statements {
    pub fn new(limit: usize) -> Statements {
        Statements {
            known: Vec::new(),
            limit,
            open: 0,
            time: 0,
        }
    }

    fn place(&self, id: u64) -> Result<usize, usize> {
        self.known.binary_search_by_key(&id, |known| known.id)
    }

    fn find(&mut self, id: u64) -> Option<&mut Known> {
        let place = self.place(id).ok()?;
        self.known.get_mut(place)
    }

    /// Nothing that was sent to it is outstanding any more, whoever sent it.
    #[inline]
    pub fn begin(&mut self) {
        if self.open > 0 {
            self.open = 0;
            self.give_up();
        }
    }

    #[cold]
    fn give_up(&mut self) {
        for known in &mut self.known {
            if known.open > 0 {
                (known.has, known.will_have) = (Presence::Stale, Presence::Stale);
                (known.open, known.doubted) = (0, 0);
            }
        }
    }

    #[inline]
    pub fn outlook(&self, id: u64, sequence: u64) -> Outlook {
        match self.place(id).ok().and_then(|place| self.known.get(place)) {
            None => Outlook::Known(Presence::Absent),
            Some(known) if known.open > 0 && known.sequence != sequence => Outlook::Open,
            Some(known) => Outlook::Known(known.will_have),
        }
    }

    /// It is named in a message.
    #[inline]
    pub fn used(&mut self, id: u64) {
        self.time += 1;
        let time = self.time;
        if let Some(known) = self.find(id) {
            known.used = time;
        }
    }

    /// A message goes to the server that changes it.
    pub fn sent(&mut self, id: u64, act: Act, sequence: u64) {
        self.time += 1;
        let will_have = match act {
            Act::Parse => Presence::There,
            Act::Close => Presence::Absent,
        };
        let place = match self.place(id) {
            Ok(place) => place,
            Err(place) => {
                let new = Known {
                    id,
                    has: Presence::Absent,
                    will_have,
                    open: 0,
                    doubted: 0,
                    sequence,
                    used: 0,
                };
                self.known.insert(place, new);
                place
            }
        };
        let time = self.time;
        if let Some(known) = self.known.get_mut(place) {
            (known.will_have, known.sequence, known.used) = (will_have, sequence, time);
            known.open += 1;
            self.open += 1;
        }
    }

    /// The server has answered it, or skipped it.
    pub fn settle(&mut self, id: u64, act: Act, outcome: Outcome) {
        let Ok(place) = self.place(id) else {
            return;
        };
        let Some(known) = self.known.get_mut(place) else {
            return;
        };
        known.open = known.open.saturating_sub(1);
        let is_doubted = known.doubted > 0;
        known.doubted = known.doubted.saturating_sub(1);
        self.open = self.open.saturating_sub(1);
        match (act, outcome) {
            (_, Outcome::Skipped) | (Act::Close, Outcome::Unknown) => {}
            (Act::Parse, Outcome::Done | Outcome::Unknown) => {
                known.has = match is_doubted {
                    true => Presence::Stale,
                    false => Presence::There,
                }
            }
            (Act::Parse, Outcome::Failed | Outcome::FailedLate)
            | (Act::Close, Outcome::Done | Outcome::Failed | Outcome::FailedLate) => {
                known.has = Presence::Absent
            }
        }
        if known.open == 0 {
            known.will_have = known.has;
            if known.has == Presence::Absent {
                self.known.remove(place);
            }
        }
    }

    /// The one to be closed before another is parsed: the one that was not used for the longest time.
    pub fn victim(&self, sequence: u64) -> Option<u64> {
        if self.known.len() < self.limit {
            return None;
        }
        let staying = self.known.iter();
        let staying = staying.filter(|known| known.will_have != Presence::Absent);
        if staying.clone().count() < self.limit {
            return None;
        }
        let known = staying.filter(|known| known.open == 0 || known.sequence == sequence);
        known.min_by_key(|known| known.used).map(|known| known.id)
    }

    /// It is of no more use as it is.
    pub fn spoil(&mut self, id: u64) {
        if let Some(known) = self.find(id) {
            (known.has, known.will_have) = (Presence::Stale, Presence::Stale);
        }
    }

    /// The server has it after all, whoever gave it that.
    pub fn found(&mut self, id: u64) {
        if let Err(place) = self.place(id) {
            let new = Known {
                id,
                has: Presence::Stale,
                will_have: Presence::Stale,
                open: 0,
                doubted: 0,
                sequence: 0,
                used: self.time,
            };
            self.known.insert(place, new);
        }
    }

    /// What was sent last may have taken all statements away.
    #[cold]
    pub fn suspect(&mut self) {
        for known in &mut self.known {
            (known.has, known.will_have) = (Presence::Stale, Presence::Stale);
            known.doubted = known.open;
        }
    }

    /// A message goes to the server that will take all statements away, or not.
    pub fn doubt(&mut self) {
        for known in &mut self.known {
            known.will_have = Presence::Stale;
        }
    }

    /// It did not.
    pub fn undoubt(&mut self) {
        for known in self.known.iter_mut().filter(|known| known.open == 0) {
            known.will_have = known.has;
        }
    }

    /// The server has none any more.
    pub fn clear(&mut self) {
        self.known.retain_mut(|known| {
            known.has = Presence::Absent;
            known.open > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_a_servers_words() {
        let name = server_name(42);
        let text = [b"statement \"", &*name, b"\" requires"].concat();
        let (range, id) = find_name(&text).unwrap();
        assert_eq!((&text[range], id), (&*name, 42));
        assert_eq!(find_name(format!("{}none", &**PREFIX).as_bytes()), None);
        assert_eq!(find_name(b"weir_"), None);
        assert_eq!(find_mention(&text.to_ascii_uppercase()), Some(11));
        assert_eq!(NOBODYS.len(), PREFIX.len());
        assert_eq!(find_mention(&[b"\"", NOBODYS, b"42"].concat()), None);
    }

    /// `+n` and `-n` send Parse and Close, `!`, `x` and `~` behind them their outcome: done, failed, skipped.
    fn run(script: &str) -> Statements {
        let mut statements = Statements::new(2);
        for word in script.split_whitespace() {
            let (act, rest) = word.split_at(1);
            let (id, outcome) = rest.split_at(1);
            let id = id.parse().unwrap();
            let act = if act == "+" { Act::Parse } else { Act::Close };
            statements.sent(id, act, 1);
            let outcome = match outcome {
                "!" => Outcome::Done,
                "x" => Outcome::Failed,
                "~" => Outcome::Skipped,
                _ => continue,
            };
            statements.settle(id, act, outcome);
        }
        statements
    }

    #[test]
    fn what_is_there_follows_from_the_outcomes() {
        let here = Outlook::Known(Presence::There);
        let gone = Outlook::Known(Presence::Absent);
        let cases = [
            ("", gone, gone),
            ("+1", here, Outlook::Open),
            ("+1!", here, here),
            ("+1x", gone, gone),
            ("+1~", gone, gone),
            ("+1! -1", gone, Outlook::Open),
            ("+1! -1~", here, here),
            ("+1! -1! +1x", gone, gone),
            ("+1! -1!", gone, gone),
        ];
        for (script, same_sequence, later) in cases {
            let statements = run(script);
            assert_eq!(statements.outlook(1, 1), same_sequence, "{script}");
            assert_eq!(statements.outlook(1, 2), later, "{script}");
        }
    }

    #[test]
    fn the_one_longest_unused_makes_room() {
        let mut statements = run("+1!");
        assert_eq!(statements.victim(2), None);
        statements.sent(2, Act::Parse, 1);
        assert_eq!(statements.victim(2), Some(1), "the other one is on its way");
        statements.used(1);
        assert_eq!(statements.victim(2), Some(1));
        assert_eq!(statements.victim(1), Some(2), "what comes behind finds it");
        statements.settle(2, Act::Parse, Outcome::Done);
        assert_eq!(statements.victim(2), Some(2));
        statements.sent(2, Act::Close, 2);
        assert_eq!(statements.victim(2), None);
    }

    #[test]
    fn what_a_session_left_open_is_not_trusted() {
        let stale = Outlook::Known(Presence::Stale);
        let mut statements = run("+1 +2!");
        statements.begin();
        assert_eq!(statements.outlook(1, 9), stale);
        assert_eq!(statements.outlook(2, 9), Outlook::Known(Presence::There));
        statements.doubt();
        assert_eq!(statements.outlook(2, 9), stale);
        statements.undoubt();
        assert_eq!(statements.outlook(2, 9), Outlook::Known(Presence::There));
        statements.clear();
        assert_eq!(statements.outlook(2, 9), Outlook::Known(Presence::Absent));
    }
}
