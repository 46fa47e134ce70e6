//! The unnamed protocol statement, which outlives the transaction that parsed it.
//!
//! Pure. A client may parse "" in one unit and bind it in a later one, on another server; and must never
//! bind the unnamed statement that another client has left there. Knows nothing of named statements.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::protocol::frame::{HEADER_BYTES, put, put_cstr, split_cstr};
use crate::protocol::tag::frontend;
use crate::server::ledger::Outcome;
use crate::sql::{self, Ends, Report};

/// A Parse message up to this size is kept for the next server, whatever others keep.
const SMALL_BYTES: usize = 4096;

/// Memory for the larger ones of many clients. Where there is none left, a client stays with the server that has its
/// statement.
#[derive(Clone, Debug)]
pub struct Allowance(Rc<Cell<usize>>);

impl Allowance {
    pub fn new(bytes: usize) -> Allowance {
        Allowance(Rc::new(Cell::new(bytes)))
    }

    fn portion(&self, bytes: usize) -> Option<Portion> {
        let wanted = if bytes > SMALL_BYTES { bytes } else { 0 };
        self.0.set(self.0.get().checked_sub(wanted)?);
        Some(Portion(self.clone(), wanted))
    }
}

/// Given back when dropped.
#[derive(Debug)]
struct Portion(Allowance, usize);

impl Drop for Portion {
    fn drop(&mut self) {
        let Portion(Allowance(left), bytes) = self;
        left.set(left.get() + *bytes);
    }
}

/// A whole Parse message, and what its text does to the session that runs it.
#[derive(Debug)]
struct Kept {
    frame: Vec<u8>,
    report: Report,
    /// What its text does to its transaction.
    ends: Ends,
    _portion: Portion,
}

/// What a client's unnamed statement is.
#[derive(Debug, Default)]
enum Unnamed {
    #[default]
    None,
    Kept(Rc<Kept>),
    /// Too large to keep: it lives on the server that the session is pinned to.
    OnServer,
}

/// A change on its way to the server.
#[derive(Debug)]
enum Change {
    /// A Parse of ""; `None` if it is too large to keep.
    Parsed(Option<Rc<Kept>>),
    /// A simple Query, or Close.
    Gone,
}

/// The client's unnamed statement, and what will become of it once the server has answered.
///
/// A server that the client has been given has the same one as the client from its first message on:
/// that message replaces it, or `place` goes ahead of it. So nothing that the server skips over after an
/// error can make a difference between the two.
#[derive(Debug)]
pub struct Statement {
    allowance: Allowance,
    unnamed: Unnamed,
    /// In the order they were sent.
    pending: VecDeque<Change>,
    pending_bytes: usize,
    /// Reports among all this that have effects.
    effects: usize,
    /// Counts the changes, so that a server that has an older one is told from one that has this.
    version: u64,
}

/// So many bytes of Parse messages may await their outcome before a client is read no further.
const MAX_PENDING_BYTES: usize = 256 * 1024;

/// Whether a Parse message is kept for the next server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    Kept,
    LeftOnServer,
}

impl Statement {
    pub fn new(allowance: Allowance) -> Statement {
        Statement {
            allowance,
            unnamed: Unnamed::None,
            pending: VecDeque::new(),
            pending_bytes: 0,
            effects: 0,
            version: 0,
        }
    }

    /// Whether there is anything that a simple Query would do away with.
    #[inline]
    pub fn exists(&self) -> bool {
        !self.pending.is_empty() || !matches!(&self.unnamed, Unnamed::None)
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn is_full(&self) -> bool {
        self.pending_bytes > MAX_PENDING_BYTES
    }

    /// A Parse of "" is sent: the whole message, if it is there, and what its text does.
    pub fn parsing(&mut self, frame: Option<(&[u8], Report)>) -> Keeping {
        let kept = frame.and_then(|(frame, report)| self.keep(frame, report));
        let keeping = match &kept {
            Some(kept) => {
                self.pending_bytes += kept.frame.len();
                self.effects += usize::from(!kept.report.effects.is_none());
                Keeping::Kept
            }
            None => Keeping::LeftOnServer,
        };
        self.pending.push_back(Change::Parsed(kept));
        keeping
    }

    /// The Parse that it was made of is sent once more, and its text leaves nothing behind. What it does to its
    /// transaction.
    #[inline]
    pub fn parsing_again(&mut self) -> Ends {
        let Unnamed::Kept(kept) = &self.unnamed else {
            return Ends::No;
        };
        self.pending_bytes += kept.frame.len();
        let again = Change::Parsed(Some(Rc::clone(kept)));
        self.pending.push_back(again);
        kept.ends
    }

    fn keep(&self, frame: &[u8], report: Report) -> Option<Rc<Kept>> {
        // Drivers parse the same text time and again.
        if let Unnamed::Kept(kept) = &self.unnamed
            && kept.frame == frame
            && kept.report == report
        {
            return Some(Rc::clone(kept));
        }
        Some(Rc::new(Kept {
            frame: frame.to_vec(),
            report,
            ends: sql::ends(text(frame)),
            _portion: self.allowance.portion(frame.len())?,
        }))
    }

    /// Whether what a Bind of "" may find has no effects.
    #[inline]
    pub fn leaves_nothing(&self) -> bool {
        self.effects == 0
    }

    /// Whether this is the Parse message that it was made of, and its text leaves nothing behind.
    #[inline]
    pub fn is_harmless_again(&self, frame: &[u8]) -> bool {
        match &self.unnamed {
            Unnamed::Kept(kept) => kept.report.effects.is_none() && kept.frame == frame,
            Unnamed::None | Unnamed::OnServer => false,
        }
    }

    /// The statements that a Bind of "" sent now may find, if they do anything to the session: text and report.
    pub fn bound(&self) -> impl Iterator<Item = (&[u8], &Report)> {
        let pending = self.pending.iter().filter_map(|change| match change {
            Change::Parsed(Some(kept)) => Some(kept),
            Change::Parsed(None) | Change::Gone => None,
        });
        let kept = match &self.unnamed {
            Unnamed::Kept(kept) => Some(kept),
            Unnamed::None | Unnamed::OnServer => None,
        };
        let all = kept.into_iter().chain(pending);
        let all = all.take(if self.effects == 0 { 0 } else { usize::MAX });
        let telling = all.filter(|kept| !kept.report.effects.is_none());
        telling.map(|kept| (text(&kept.frame), &kept.report))
    }

    /// What it says, as far as that is kept.
    pub fn text(&self) -> Option<&[u8]> {
        let kept = match (self.pending.back(), &self.unnamed) {
            (Some(Change::Parsed(kept)), _) => kept.as_ref(),
            (None, Unnamed::Kept(kept)) => Some(kept),
            (Some(Change::Gone), _) | (None, Unnamed::None | Unnamed::OnServer) => None,
        };
        kept.map(|kept| text(&kept.frame))
    }

    /// A message is sent that does away with it.
    pub fn leaving(&mut self) {
        self.pending.push_back(Change::Gone);
    }

    /// The server has answered, or skipped, the oldest of these messages.
    pub fn settle(&mut self, outcome: Outcome) {
        let Some(change) = self.pending.pop_front() else {
            return;
        };
        if let Change::Parsed(Some(kept)) = &change {
            self.pending_bytes -= kept.frame.len();
        }
        if matches!(
            outcome,
            Outcome::Done | Outcome::Failed | Outcome::FailedLate
        ) {
            self.version += 1;
        }
        let before = match (outcome, change) {
            (Outcome::Skipped | Outcome::Unknown, Change::Parsed(Some(kept))) => {
                Unnamed::Kept(kept)
            }
            (Outcome::Skipped | Outcome::Unknown, _) => return,
            // PostgreSQL drops the old one before it parses the new one.
            (Outcome::Failed | Outcome::FailedLate, Change::Parsed(Some(kept))) => {
                self.effects -= usize::from(!kept.report.effects.is_none());
                std::mem::take(&mut self.unnamed)
            }
            (Outcome::Failed | Outcome::FailedLate, _) | (Outcome::Done, Change::Gone) => {
                std::mem::take(&mut self.unnamed)
            }
            (Outcome::Done, Change::Parsed(Some(kept))) => {
                std::mem::replace(&mut self.unnamed, Unnamed::Kept(kept))
            }
            (Outcome::Done, Change::Parsed(None)) => {
                std::mem::replace(&mut self.unnamed, Unnamed::OnServer)
            }
        };
        if let Unnamed::Kept(kept) = before {
            self.effects -= usize::from(!kept.report.effects.is_none());
        }
    }

    /// Another server, and the client's first message to it leaves the unnamed statement as it is: what must
    /// go ahead so that the server has the same one.
    pub fn place(&mut self, out: &mut Vec<u8>) -> Placing {
        if let Unnamed::Kept(kept) = &self.unnamed {
            out.extend_from_slice(&kept.frame);
            return Placing::Parse;
        }
        put(out, frontend::CLOSE, |body| {
            body.push(b'S');
            put_cstr(body, b"");
        });
        Placing::Close
    }
}

/// The text in a whole Parse message.
pub fn text(frame: &[u8]) -> &[u8] {
    let body = frame.get(HEADER_BYTES..).unwrap_or_default();
    let text = split_cstr(body).and_then(|(_name, rest)| split_cstr(rest));
    text.map_or(&[][..], |(text, _)| text)
}

/// What was put in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    Parse,
    Close,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unnamed_statement_follows_its_client() {
        let mut statement = Statement::new(Allowance::new(10_000));
        let mut out = Vec::new();
        assert_eq!(statement.place(&mut out), Placing::Close);
        assert_eq!(out, b"C\0\0\0\x06S\0");
        assert!(!statement.exists());

        statement.parsing(Some((b"P...", Report::default())));
        assert!(statement.exists());
        statement.settle(Outcome::Done);
        out.clear();
        assert_eq!(statement.place(&mut out), Placing::Parse);
        assert_eq!(out, b"P...");

        // Skipped messages change nothing, failed ones leave none.
        statement.parsing(Some((b"Q...", Report::default())));
        statement.leaving();
        statement.settle(Outcome::Skipped);
        statement.settle(Outcome::Skipped);
        assert_eq!(statement.place(&mut out), Placing::Parse);
        statement.parsing(None);
        statement.settle(Outcome::Failed);
        assert_eq!(statement.place(&mut out), Placing::Close);
        assert_eq!(statement.pending_bytes, 0);
    }

    #[test]
    fn large_ones_share_an_allowance() {
        let allowance = Allowance::new(10_000);
        let mut statements = [(); 2].map(|()| Statement::new(allowance.clone()));
        let large = vec![0; 6000];
        let parse = |statement: &mut Statement, frame: &[u8]| {
            let keeping = statement.parsing(Some((frame, Report::default())));
            statement.settle(Outcome::Done);
            keeping
        };
        assert_eq!(parse(&mut statements[0], &large), Keeping::Kept);
        assert_eq!(parse(&mut statements[1], &large), Keeping::LeftOnServer);
        assert_eq!(parse(&mut statements[1], b"P"), Keeping::Kept);
        // The next one takes its place.
        assert_eq!(parse(&mut statements[0], b"P"), Keeping::Kept);
        assert_eq!(parse(&mut statements[1], &large), Keeping::Kept);
        drop(statements);
        assert_eq!(allowance.0.get(), 10_000);
    }

    #[test]
    fn a_bind_finds_what_any_of_them_does() {
        let parse = |text: &str| [b"P\0\0\0\0\0", text.as_bytes(), b"\0\0\0"].concat();
        let mut statement = Statement::new(Allowance::new(10_000));
        let parsing = |statement: &mut Statement, text: &str| {
            statement.parsing(Some((&parse(text), crate::sql::report(text.as_bytes()))))
        };
        let texts = |statement: &Statement| -> Vec<String> {
            let found = statement.bound();
            found
                .map(|(text, _)| String::from_utf8_lossy(text).into_owned())
                .collect()
        };
        parsing(&mut statement, "LISTEN a");
        parsing(&mut statement, "SELECT 1");
        parsing(&mut statement, "LISTEN b");
        assert_eq!(texts(&statement), ["LISTEN a", "LISTEN b"]);
        statement.settle(Outcome::Done);
        statement.settle(Outcome::Done);
        assert_eq!(texts(&statement), ["LISTEN b"]);
        statement.settle(Outcome::Failed);
        assert_eq!((texts(&statement), statement.effects), (vec![], 0));
        parsing(&mut statement, "LISTEN c");
        statement.settle(Outcome::Skipped);
        assert_eq!((texts(&statement), statement.effects), (vec![], 0));
    }
}
