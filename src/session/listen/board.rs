//! Who listens to what at a hub, and what it therefore has to listen to.
//!
//! Pure, but for waking whoever has news. Knows channels, their listeners and the marks from and up to which they
//! listen; not how notifications come in.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::moving::{Names, put_identifier, put_listen};
use crate::protocol::frame::{HEADER_BYTES, put};
use crate::protocol::reply::notification;
use crate::protocol::tag::frontend;

/// What an item costs beside the notification itself.
const ITEM_BYTES: usize = 32;

/// What a hub has for one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A NotificationResponse, header and all; shared by all who get it.
    Notification(Rc<[u8]>),
    /// The mark up to which the hub was to tell.
    Mark,
}

/// Why a hub has no more for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// There never was a connection for it.
    Unavailable,
    /// Its connection is gone; notifications may have been missed.
    Connection(String),
    /// The session took too little of what there was for it.
    Overflow { limit_bytes: usize },
}

/// A session's queue at a hub.
pub struct Mailbox {
    items: RefCell<VecDeque<Item>>,
    bytes: Cell<usize>,
    limit_bytes: usize,
    lost: RefCell<Option<Lost>>,
    wake: Box<dyn Fn()>,
}

impl Mailbox {
    pub fn new(limit_bytes: usize, wake: impl Fn() + 'static) -> Rc<Mailbox> {
        Rc::new(Mailbox {
            items: RefCell::default(),
            bytes: Cell::new(0),
            limit_bytes,
            lost: RefCell::default(),
            wake: Box::new(wake),
        })
    }

    pub fn take(&self) -> Option<Item> {
        let item = self.items.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - cost(&item));
        Some(item)
    }

    pub fn is_empty(&self) -> bool {
        self.items.borrow().is_empty()
    }

    pub fn lost(&self) -> Option<Lost> {
        self.lost.borrow().clone()
    }

    fn put(&self, item: Item) {
        if self.lost.borrow().is_some() {
            return;
        }
        let bytes = self.bytes.get() + cost(&item);
        if bytes > self.limit_bytes {
            return self.lose(Lost::Overflow {
                limit_bytes: self.limit_bytes,
            });
        }
        self.bytes.set(bytes);
        self.items.borrow_mut().push_back(item);
        (self.wake)();
    }

    fn lose(&self, why: Lost) {
        self.lost.borrow_mut().get_or_insert(why);
        (self.wake)();
    }
}

fn cost(item: &Item) -> usize {
    match item {
        Item::Notification(frame) => frame.len() + ITEM_BYTES,
        Item::Mark => ITEM_BYTES,
    }
}

/// What becomes of a session's hearing at a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    Begin,
    End,
}

/// Names one subscriber of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Number(u64);

struct Subscriber {
    names: Names,
    hearing: Hearing,
    mailbox: Rc<Mailbox>,
}

/// Whether a session hears what the hub hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hearing {
    Shut,
    Open,
}

#[derive(Default)]
struct Channel {
    subscribers: Vec<Number>,
    state: Listening,
}

/// Whether the hub's connection listens to a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listening {
    #[default]
    Wanted,
    Asked,
    Yes,
}

#[derive(Default)]
pub struct Board {
    subscribers: HashMap<Number, Subscriber>,
    channels: HashMap<Vec<u8>, Channel>,
    marks: HashMap<Vec<u8>, (Number, Edge)>,
    last: u64,
}

impl Board {
    pub fn subscribe(&mut self, mailbox: Rc<Mailbox>) -> Number {
        self.last += 1;
        let number = Number(self.last);
        let subscriber = Subscriber {
            names: Names::new(),
            hearing: Hearing::Shut,
            mailbox,
        };
        self.subscribers.insert(number, subscriber);
        number
    }

    pub fn unsubscribe(&mut self, number: Number) {
        self.listen(number, &[]);
        self.subscribers.remove(&number);
        self.marks.retain(|_, (owner, _)| *owner != number);
    }

    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }

    /// From here on this session listens to `names`, and to no others.
    pub fn listen(&mut self, number: Number, names: &[Vec<u8>]) {
        let Some(subscriber) = self.subscribers.get_mut(&number) else {
            return;
        };
        let before = std::mem::replace(&mut subscriber.names, names.to_vec());
        for name in before.iter().filter(|name| !names.contains(name)) {
            if let Some(channel) = self.channels.get_mut(name) {
                channel.subscribers.retain(|known| *known != number);
            }
        }
        for name in names.iter().filter(|name| !before.contains(name)) {
            let channel = self.channels.entry(name.clone()).or_default();
            channel.subscribers.push(number);
        }
    }

    /// Whether the hub's connection listens to all that this session does.
    pub fn is_heard(&self, number: Number) -> bool {
        let Some(subscriber) = self.subscribers.get(&number) else {
            return false;
        };
        let heard = |name| {
            let channel = self.channels.get(name);
            channel.is_some_and(|channel| channel.state == Listening::Yes)
        };
        subscriber.names.iter().all(heard)
    }

    /// At this mark the session begins to hear, or ceases to.
    pub fn mark(&mut self, number: Number, mark: &[u8], edge: Edge) {
        self.marks.insert(mark.to_vec(), (number, edge));
    }

    /// The mark at which the session was to hear no more will not come.
    pub fn forget_end(&mut self, number: Number) {
        self.marks.retain(|_, mark| *mark != (number, Edge::End));
    }

    /// The Query that makes the connection listen to what it should; `None`: it does. The next one is due only
    /// when this one is `done`.
    pub fn put_changes(&mut self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        self.channels.retain(|name, channel| {
            match (channel.state, channel.subscribers.is_empty()) {
                (Listening::Wanted, false) => {
                    put_listen(&mut text, name);
                    channel.state = Listening::Asked;
                }
                (Listening::Yes, true) => {
                    text.extend_from_slice(b"UNLISTEN ");
                    put_identifier(&mut text, name);
                    text.push(b';');
                }
                (Listening::Asked, _) | (Listening::Yes, false) | (Listening::Wanted, true) => {}
            }
            channel.state == Listening::Asked || !channel.subscribers.is_empty()
        });
        if text.is_empty() {
            return None;
        }
        let mut query = Vec::new();
        put(&mut query, frontend::QUERY, |body| {
            body.extend_from_slice(&text);
            body.push(0);
        });
        Some(query)
    }

    /// The connection has done what `put_changes` said.
    pub fn done(&mut self) {
        for channel in self.channels.values_mut() {
            if channel.state == Listening::Asked {
                channel.state = Listening::Yes;
                for number in &channel.subscribers {
                    if let Some(subscriber) = self.subscribers.get(number) {
                        (subscriber.mailbox.wake)();
                    }
                }
            }
        }
    }

    /// Tells a notification to all who listen, or acts on a mark. How many were told.
    pub fn hear(&mut self, sync: &[u8], frame: &Rc<[u8]>) -> usize {
        let Some(said) = frame.get(HEADER_BYTES..).and_then(notification) else {
            return 0;
        };
        if said.channel == sync {
            self.pass_mark(said.payload);
            return 0;
        }
        let Some(channel) = self.channels.get(said.channel) else {
            return 0;
        };
        let listening = channel
            .subscribers
            .iter()
            .filter_map(|number| self.subscribers.get(number))
            .filter(|subscriber| subscriber.hearing == Hearing::Open);
        let mut told = 0;
        for subscriber in listening {
            let item = Item::Notification(Rc::clone(frame));
            subscriber.mailbox.put(item);
            told += 1;
        }
        told
    }

    fn pass_mark(&mut self, mark: &[u8]) {
        let Some((number, edge)) = self.marks.remove(mark) else {
            return;
        };
        if let Some(subscriber) = self.subscribers.get_mut(&number) {
            match edge {
                Edge::Begin => subscriber.hearing = Hearing::Open,
                Edge::End => {
                    subscriber.hearing = Hearing::Shut;
                    subscriber.mailbox.put(Item::Mark);
                }
            }
        }
    }

    /// Nothing more will be heard.
    pub fn lose(&self, why: &Lost) {
        for subscriber in self.subscribers.values() {
            subscriber.mailbox.lose(why.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tag::backend;

    const SYNC: &[u8] = b"sync";

    fn frame(channel: &str, payload: &str) -> Rc<[u8]> {
        let mut out = Vec::new();
        put(&mut out, backend::NOTIFICATION_RESPONSE, |body| {
            body.extend_from_slice(&7i32.to_be_bytes());
            body.extend_from_slice(channel.as_bytes());
            body.push(0);
            body.extend_from_slice(payload.as_bytes());
            body.push(0);
        });
        out.into()
    }

    fn changes(board: &mut Board) -> String {
        match board.put_changes() {
            None => String::new(),
            Some(query) => String::from_utf8(query[5..query.len() - 1].to_vec()).unwrap(),
        }
    }

    fn names(names: &[&str]) -> Names {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    fn mailbox() -> Rc<Mailbox> {
        Mailbox::new(1000, || {})
    }

    #[test]
    fn channels_are_counted_by_their_listeners() {
        let mut board = Board::default();
        let (one, other) = (board.subscribe(mailbox()), board.subscribe(mailbox()));
        board.listen(one, &names(&["a"]));
        assert_eq!(changes(&mut board), "LISTEN \"a\";");
        assert!(!board.is_heard(one));
        board.listen(other, &names(&["a"]));
        assert_eq!(changes(&mut board), "");
        board.done();
        assert!(board.is_heard(one) && board.is_heard(other));
        board.listen(one, &names(&["b"]));
        assert_eq!(changes(&mut board), "LISTEN \"b\";");
        board.unsubscribe(one);
        assert_eq!(changes(&mut board), "", "not while it is asked for");
        board.done();
        assert_eq!(changes(&mut board), "UNLISTEN \"b\";");
        board.done();
        board.unsubscribe(other);
        assert_eq!(changes(&mut board), "UNLISTEN \"a\";");
        assert!(board.is_empty() && board.channels.is_empty());
    }

    #[test]
    fn hearing_begins_and_ends_at_marks() {
        let mut board = Board::default();
        let (one, box_of_one) = (mailbox(), mailbox());
        let other = board.subscribe(one);
        let number = board.subscribe(Rc::clone(&box_of_one));
        for listener in [number, other] {
            board.listen(listener, &names(&["a"]));
        }
        board.mark(number, b"m1", Edge::Begin);
        assert_eq!(board.hear(SYNC, &frame("a", "early")), 0);
        board.hear(SYNC, &frame("sync", "m1"));
        assert_eq!(board.hear(SYNC, &frame("a", "1")), 1);
        assert_eq!(board.hear(SYNC, &frame("b", "1")), 0);
        board.mark(number, b"m2", Edge::End);
        board.forget_end(number);
        board.hear(SYNC, &frame("sync", "m2"));
        board.mark(number, b"m3", Edge::End);
        assert_eq!(board.hear(SYNC, &frame("a", "2")), 1);
        board.hear(SYNC, &frame("sync", "m3"));
        assert_eq!(board.hear(SYNC, &frame("a", "late")), 0);
        let told: Vec<_> = std::iter::from_fn(|| box_of_one.take()).collect();
        let one = Item::Notification(frame("a", "1"));
        let two = Item::Notification(frame("a", "2"));
        assert_eq!(told, [one, two, Item::Mark]);
        assert_eq!(box_of_one.bytes.get(), 0);
    }

    #[test]
    fn a_full_mailbox_takes_no_more() {
        let mut board = Board::default();
        let mailbox = mailbox();
        let number = board.subscribe(Rc::clone(&mailbox));
        board.listen(number, &names(&["a"]));
        board.mark(number, b"m", Edge::Begin);
        board.hear(SYNC, &frame("sync", "m"));
        let long = "x".repeat(600);
        board.hear(SYNC, &frame("a", &long));
        assert_eq!(mailbox.lost(), None);
        board.hear(SYNC, &frame("a", &long));
        assert_eq!(mailbox.lost(), Some(Lost::Overflow { limit_bytes: 1000 }));
        board.hear(SYNC, &frame("a", "short"));
        assert_eq!(
            std::iter::from_fn(|| mailbox.take()).count(),
            1,
            "nothing behind what is missing"
        );
    }
}
