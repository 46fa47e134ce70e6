//! Where a session's channels are: on the server that it holds, at the shared listener ("the hub"), or between.
//!
//! Pure: events in, decisions out; it writes the Queries of the moves. Knows the order of things that loses nothing
//! and tells nothing twice; not who sends, waits or delivers.
//!
//! PostgreSQL gives all notifications of a database one order, that of their commits. A mark is a notification of
//! Weir's own on a channel that the hub always listens to, and the server only for the move: both see it at the
//! same place. What comes before it is told by where the channels were, what comes behind it by where they go.

use crate::protocol::frame::put;
use crate::protocol::reply::Notification;
use crate::protocol::tag::frontend;
use crate::server::settings::put_literal;

/// Channels, in the client's encoding, sorted.
pub type Names = Vec<Vec<u8>>;

#[derive(Debug, Default)]
pub struct Moving {
    place: Place,
    /// The channel of marks; empty until it is known.
    sync: Vec<u8>,
}

#[derive(Debug, Default)]
enum Place {
    /// The server has them, or there are none; what it says is the client's.
    #[default]
    Home,
    /// The server has them, and the hub is about to listen to them as well. -> Home, Marking
    Asking(Names),
    /// Both listen; the server is to notify the mark. -> Home, Leaving
    Marking {
        names: Names,
        mark: Vec<u8>,
        mark_from_server: Seen,
    },
    /// Behind the mark, the hub's; the server is to listen no more. -> Away, Home
    Leaving(Names),
    /// The hub has them. -> Returning
    Away(Names),
    /// The server is to listen again, and to notify the mark. -> Home, Unmarking, Away
    Returning(Return),
    /// The server has them, and is to have the channel of marks no more: the client could ask what it listens to. -> Home
    Unmarking,
}

#[derive(Debug)]
struct Return {
    names: Names,
    mark: Vec<u8>,
    way: Way,
    mark_from_server: Seen,
    mark_from_hub: Seen,
    /// Queries of ours that the server has not answered.
    unanswered: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    No,
    Yes,
}

/// How channels come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Ahead of the client's next transaction.
    Alone,
    /// Within the client's transaction, which may be rolled back.
    InTransaction,
}

/// What follows from the channels that a server says it listens to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// There are none, and none anywhere else.
    None,
    /// It is as it was.
    Settled,
    /// The hub is to be asked for them: `names`.
    Subscribe,
    /// Only the channel of marks is left there.
    Unlisten,
    /// Some are there and others at the hub: they have to be together.
    ComeHome,
}

/// What follows from the end of one of our Queries, or of the client's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// The mark was passed: the server is to be told to listen no more.
    Unlisten,
    /// The move did not come about: they stay on the server.
    Stay,
    /// They are at the hub.
    Away,
    /// They are on the server.
    Home,
    /// They are on the server, and the channel of marks is so as well.
    HomeWithMarks,
    /// The transaction that was to bring them back was rolled back: they are at the hub as before.
    StillAway,
    /// The server did not do what it can't refuse.
    Broken,
}

/// Whose a notification from the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Client,
    /// It is a mark, or the hub tells it.
    Nobody,
}

impl Moving {
    /// The hub's channel of marks.
    pub fn learn_sync(&mut self, sync: &[u8]) {
        self.sync = sync.to_vec();
    }

    /// The server, idle, says that it listens to these.
    pub fn found(&mut self, mut names: Names) -> Found {
        let all = names.len();
        names.retain(|name| *name != self.sync || self.sync.is_empty());
        let marks_left = names.len() < all;
        names.sort_unstable();
        match &self.place {
            Place::Home | Place::Asking(_) if names.is_empty() => {
                if marks_left {
                    self.place = Place::Leaving(Names::new());
                    return Found::Unlisten;
                }
                self.place = Place::Home;
                Found::None
            }
            Place::Home | Place::Asking(_) => {
                self.place = Place::Asking(names);
                Found::Subscribe
            }
            Place::Away(_) if !names.is_empty() => Found::ComeHome,
            Place::Away(_)
            | Place::Marking { .. }
            | Place::Leaving(_)
            | Place::Returning(_)
            | Place::Unmarking => Found::Settled,
        }
    }

    pub fn names(&self) -> &[Vec<u8>] {
        match &self.place {
            Place::Home | Place::Unmarking => &[],
            Place::Asking(names)
            | Place::Marking { names, .. }
            | Place::Leaving(names)
            | Place::Away(names) => names,
            Place::Returning(back) => &back.names,
        }
    }

    /// They stay on the server.
    pub fn stay(&mut self) {
        self.place = Place::Home;
    }

    pub fn is_asking(&self) -> bool {
        matches!(self.place, Place::Asking(_))
    }

    pub fn is_away(&self) -> bool {
        matches!(self.place, Place::Away(_))
    }

    /// Whether the hub's loss would be the client's.
    pub fn depends_on_hub(&self) -> bool {
        match self.place {
            Place::Home | Place::Asking(_) | Place::Unmarking => false,
            Place::Marking { .. } | Place::Leaving(_) | Place::Away(_) | Place::Returning(_) => {
                true
            }
        }
    }

    /// Whether the server can't be released on account of the channels. (What a server found at home has, pins.)
    #[inline(never)]
    pub fn holds_server(&self) -> bool {
        match self.place {
            Place::Home | Place::Away(_) => false,
            Place::Asking(_)
            | Place::Marking { .. }
            | Place::Leaving(_)
            | Place::Returning(_)
            | Place::Unmarking => true,
        }
    }

    /// Whether the client's messages must wait until the server is between two places.
    #[inline(never)]
    pub fn holds_requests(&self) -> bool {
        matches!(self.place, Place::Marking { .. } | Place::Leaving(_))
    }

    /// Whether what the server says next may go on only when the hub has come to the mark.
    #[inline(never)]
    pub fn stalls(&self) -> bool {
        match &self.place {
            Place::Returning(back) => {
                back.mark_from_server == Seen::Yes && back.mark_from_hub == Seen::No
            }
            Place::Home
            | Place::Asking(_)
            | Place::Marking { .. }
            | Place::Leaving(_)
            | Place::Away(_)
            | Place::Unmarking => false,
        }
    }

    /// The hub listens, and the server is idle: appends the Query that has the server notify the mark.
    pub fn put_mark(&mut self, mark: &[u8], out: &mut Vec<u8>) {
        if let Place::Asking(names) = &mut self.place {
            self.place = Place::Marking {
                names: std::mem::take(names),
                mark: mark.to_vec(),
                mark_from_server: Seen::No,
            };
            put_query(out, |text| {
                put_listen(text, &self.sync);
                put_notify(text, &self.sync, mark);
            });
        }
    }

    /// Appends the Query after which the server listens to nothing.
    pub fn put_unlisten(out: &mut Vec<u8>) {
        put_query(out, |text| text.extend_from_slice(b"UNLISTEN *"));
    }

    /// Appends the Query after which the server, which has all channels, has the one of marks no more.
    pub fn put_end_of_marks(&mut self, out: &mut Vec<u8>) {
        put_query(out, |text| put_unlisten(text, &self.sync));
        self.place = Place::Unmarking;
    }

    /// Appends what brings the channels back to the server, which owes nothing; says how many Queries that is.
    /// In a transaction it may have to be said again: a rollback to a savepoint undoes it.
    pub fn put_return(&mut self, way: Way, mark: &[u8], out: &mut Vec<u8>) -> usize {
        let (names, mark) = match &mut self.place {
            Place::Away(names) => (std::mem::take(names), mark.to_vec()),
            Place::Returning(back) if back.way == Way::InTransaction => {
                (std::mem::take(&mut back.names), back.mark.clone())
            }
            Place::Home
            | Place::Asking(_)
            | Place::Marking { .. }
            | Place::Leaving(_)
            | Place::Returning(_)
            | Place::Unmarking => return 0,
        };
        put_query(out, |text| {
            for name in &names {
                put_listen(text, name);
            }
            put_listen(text, &self.sync);
            put_notify(text, &self.sync, &mark);
        });
        let mut queries = 1;
        if way == Way::Alone {
            put_query(out, |text| put_unlisten(text, &self.sync));
            queries += 1;
        }
        self.place = Place::Returning(Return {
            names,
            mark,
            way,
            mark_from_server: Seen::No,
            mark_from_hub: Seen::No,
            unanswered: queries,
        });
        queries
    }

    /// The mark of the way back, while the client's transaction decides on it.
    pub fn undecided_mark(&self) -> Option<&[u8]> {
        match &self.place {
            Place::Returning(back) if back.way == Way::InTransaction => Some(&back.mark),
            Place::Home
            | Place::Asking(_)
            | Place::Marking { .. }
            | Place::Leaving(_)
            | Place::Away(_)
            | Place::Returning(_)
            | Place::Unmarking => None,
        }
    }

    /// The server notifies.
    pub fn heard(&mut self, said: &Notification<'_>) -> Owner {
        let is_sync = !self.sync.is_empty() && said.channel == self.sync;
        match &mut self.place {
            Place::Marking {
                mark,
                mark_from_server,
                ..
            } => {
                if is_sync && said.payload == mark.as_slice() {
                    *mark_from_server = Seen::Yes;
                }
                if is_sync || *mark_from_server == Seen::Yes {
                    return Owner::Nobody;
                }
            }
            Place::Returning(back) => {
                if is_sync && said.payload == back.mark.as_slice() {
                    back.mark_from_server = Seen::Yes;
                }
                if is_sync || back.mark_from_server == Seen::No {
                    return Owner::Nobody;
                }
            }
            Place::Leaving(_) => return Owner::Nobody,
            Place::Away(names) if names.iter().any(|name| name == said.channel) => {
                return Owner::Nobody;
            }
            Place::Home | Place::Asking(_) | Place::Away(_) | Place::Unmarking => {}
        }
        if is_sync {
            Owner::Nobody
        } else {
            Owner::Client
        }
    }

    /// All that the hub had to tell before the mark is told.
    pub fn hub_passed_mark(&mut self) {
        if let Place::Returning(back) = &mut self.place {
            back.mark_from_hub = Seen::Yes;
        }
    }

    /// The server has answered one of our Queries.
    pub fn concluded(&mut self, failed: bool) -> Step {
        match &mut self.place {
            Place::Marking {
                names,
                mark_from_server,
                ..
            } => {
                if failed || *mark_from_server == Seen::No {
                    self.place = Place::Home;
                    return Step::Stay;
                }
                self.place = Place::Leaving(std::mem::take(names));
                Step::Unlisten
            }
            Place::Leaving(_) if failed => Step::Broken,
            Place::Leaving(names) if names.is_empty() => {
                self.place = Place::Home;
                Step::Home
            }
            Place::Leaving(names) => {
                self.place = Place::Away(std::mem::take(names));
                Step::Away
            }
            Place::Returning(back) => {
                back.unanswered = back.unanswered.saturating_sub(1);
                let missed = back.way == Way::Alone && back.mark_from_server == Seen::No;
                if failed || missed {
                    return Step::Broken;
                }
                if back.way == Way::InTransaction || back.unanswered > 0 {
                    return Step::Nothing;
                }
                self.place = Place::Home;
                Step::Home
            }
            Place::Unmarking if failed => Step::Broken,
            Place::Unmarking => {
                self.place = Place::Home;
                Step::Home
            }
            Place::Home | Place::Asking(_) | Place::Away(_) => Step::Nothing,
        }
    }

    /// The server is outside any transaction.
    pub fn transaction_over(&mut self) -> Step {
        let Place::Returning(back) = &mut self.place else {
            return Step::Nothing;
        };
        match (back.way, back.mark_from_server) {
            (Way::Alone, _) => Step::Nothing,
            (Way::InTransaction, Seen::Yes) => {
                self.place = Place::Home;
                Step::HomeWithMarks
            }
            (Way::InTransaction, Seen::No) => {
                self.place = Place::Away(std::mem::take(&mut back.names));
                Step::StillAway
            }
        }
    }
}

fn put_query(out: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
    put(out, frontend::QUERY, |body| {
        text(body);
        body.push(0);
    });
}

pub fn put_listen(text: &mut Vec<u8>, name: &[u8]) {
    text.extend_from_slice(b"LISTEN ");
    put_identifier(text, name);
    text.push(b';');
}

fn put_unlisten(text: &mut Vec<u8>, name: &[u8]) {
    text.extend_from_slice(b"UNLISTEN ");
    put_identifier(text, name);
}

fn put_notify(text: &mut Vec<u8>, name: &[u8], payload: &[u8]) {
    text.extend_from_slice(b"NOTIFY ");
    put_identifier(text, name);
    text.push(b',');
    put_literal(text, payload);
}

/// Exactly this name, whatever it is. (In no encoding of PostgreSQL's clients is a quote a part of another character.)
pub fn put_identifier(text: &mut Vec<u8>, name: &[u8]) {
    text.push(b'"');
    for &byte in name {
        if byte == b'"' {
            text.push(b'"');
        }
        text.push(byte);
    }
    text.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: &[u8] = b"weir_sync_1";

    fn names(names: &[&str]) -> Names {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    fn said<'a>(channel: &'a str, payload: &'a str) -> Notification<'a> {
        Notification {
            pid: 1,
            channel: channel.as_bytes(),
            payload: payload.as_bytes(),
        }
    }

    /// Whose a notification on this channel, or this mark, is.
    fn hears(moving: &mut Moving, channel: &str) -> bool {
        let said = match channel.strip_prefix('!') {
            Some(mark) => said("weir_sync_1", mark),
            None => said(channel, ""),
        };
        moving.heard(&said) == Owner::Client
    }

    fn text(out: &[u8]) -> String {
        String::from_utf8_lossy(out)
            .split('\0')
            .map(|part| part.trim_start_matches(|c: char| c == 'Q' || c.is_control()))
            .filter(|part| part.len() > 1)
            .map(|part| part.get(1..).unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
            .join(" | ")
    }

    fn asking() -> Moving {
        let mut moving = Moving::default();
        moving.learn_sync(SYNC);
        assert_eq!(moving.found(names(&["b", "a"])), Found::Subscribe);
        assert_eq!(moving.names(), names(&["a", "b"]));
        moving
    }

    fn away() -> Moving {
        let mut moving = asking();
        moving.put_mark(b"m1", &mut Vec::new());
        hears(&mut moving, "!m1");
        assert_eq!(moving.concluded(false), Step::Unlisten);
        assert_eq!(moving.concluded(false), Step::Away);
        moving
    }

    #[test]
    fn channels_go_away_at_the_mark() {
        let mut moving = asking();
        assert!(hears(&mut moving, "a") && moving.holds_server() && !moving.holds_requests());
        let mut out = Vec::new();
        moving.put_mark(b"m1", &mut out);
        let query = String::from_utf8_lossy(&out).into_owned();
        assert!(
            query.contains("LISTEN \"weir_sync_1\";NOTIFY \"weir_sync_1\",E'm1'"),
            "{query}"
        );
        assert!(hears(&mut moving, "a"), "before the mark");
        assert!(!hears(&mut moving, "!another"));
        assert!(!hears(&mut moving, "!m1"));
        assert!(!hears(&mut moving, "a"), "behind the mark");
        assert!(moving.holds_requests());
        assert_eq!(moving.concluded(false), Step::Unlisten);
        assert!(!hears(&mut moving, "a") && moving.holds_requests());
        assert_eq!(moving.concluded(false), Step::Away);
        assert!(moving.is_away() && !moving.holds_server() && !moving.holds_requests());
    }

    #[test]
    fn without_a_mark_they_stay() {
        for failed in [true, false] {
            let mut moving = asking();
            moving.put_mark(b"m1", &mut Vec::new());
            assert_eq!(moving.concluded(failed), Step::Stay);
            assert!(hears(&mut moving, "a") && !moving.is_away());
        }
    }

    #[test]
    fn they_come_back_at_the_mark_of_both() {
        let mut moving = away();
        let mut out = Vec::new();
        assert_eq!(moving.put_return(Way::Alone, b"m2", &mut out), 2);
        let query = text(&out);
        assert!(query.contains("LISTEN \"a\";LISTEN \"b\";"), "{query}");
        assert!(!hears(&mut moving, "a"), "the hub tells it");
        assert!(!moving.stalls());
        assert!(!hears(&mut moving, "!m2"));
        assert!(moving.stalls(), "the hub is behind");
        moving.hub_passed_mark();
        assert!(!moving.stalls());
        assert!(hears(&mut moving, "a"));
        assert_eq!(moving.concluded(false), Step::Nothing);
        assert_eq!(moving.concluded(false), Step::Home);
        assert!(hears(&mut moving, "a") && !hears(&mut moving, "!m3"));
    }

    #[test]
    fn a_way_back_without_a_mark_is_broken() {
        let mut moving = away();
        moving.put_return(Way::Alone, b"m2", &mut Vec::new());
        assert_eq!(moving.concluded(false), Step::Broken);
    }

    #[test]
    fn a_transaction_decides() {
        // Committed: the mark comes ahead of its end.
        let mut moving = away();
        assert_eq!(
            moving.put_return(Way::InTransaction, b"m2", &mut Vec::new()),
            1
        );
        assert_eq!(moving.concluded(false), Step::Nothing);
        // Said once more, with the same mark.
        let mut again = Vec::new();
        assert_eq!(moving.put_return(Way::InTransaction, b"m3", &mut again), 1);
        assert!(String::from_utf8_lossy(&again).contains("m2"));
        assert_eq!(moving.undecided_mark(), Some(&b"m2"[..]));
        assert!(!hears(&mut moving, "!m2"));
        moving.hub_passed_mark();
        assert!(hears(&mut moving, "a"), "its own");
        assert_eq!(moving.transaction_over(), Step::HomeWithMarks);
        let left = names(&["a", "b", "weir_sync_1"]);
        assert_eq!(moving.found(left), Found::Subscribe);
        assert_eq!(moving.names(), names(&["a", "b"]));

        // Only the client's are left on the server, and what it says meanwhile is the client's.
        let mut out = Vec::new();
        moving.put_end_of_marks(&mut out);
        let query = String::from_utf8_lossy(&out).into_owned();
        assert!(query.ends_with("UNLISTEN \"weir_sync_1\"\0"), "{query}");
        assert!(moving.holds_server() && !moving.stalls() && hears(&mut moving, "a"));
        assert!(!moving.depends_on_hub() && !hears(&mut moving, "!m3"));
        assert_eq!(moving.concluded(false), Step::Home);

        // Rolled back: as if nothing had been said.
        let mut moving = away();
        moving.put_return(Way::InTransaction, b"m2", &mut Vec::new());
        assert_eq!(moving.transaction_over(), Step::StillAway);
        assert!(moving.is_away() && !hears(&mut moving, "a"));
        assert_eq!(moving.transaction_over(), Step::Nothing);
    }

    #[test]
    fn what_a_server_says_it_has() {
        let mut moving = Moving::default();
        assert_eq!(moving.found(Names::new()), Found::None);
        moving.learn_sync(SYNC);
        assert_eq!(moving.found(names(&["weir_sync_1"])), Found::Unlisten);
        assert_eq!(moving.concluded(false), Step::Home);
        let mut moving = away();
        assert_eq!(moving.found(Names::new()), Found::Settled);
        assert_eq!(moving.found(names(&["c"])), Found::ComeHome);
        let mut moving = asking();
        assert_eq!(moving.found(Names::new()), Found::None);
        assert!(!moving.holds_server());
    }

    #[test]
    fn names_can_not_break_out() {
        let mut text = Vec::new();
        put_listen(&mut text, "a\"b;é".as_bytes());
        assert_eq!(String::from_utf8(text).unwrap(), "LISTEN \"a\"\"b;é\";");
    }
}
