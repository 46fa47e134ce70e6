//! The ledger against a model of PostgreSQL's main loop (`PostgresMain`, `CopyGetData`), at any timing of what is sent, carried
//! out and heard.
//!
//! Unless it says that it is in doubt, it knows whose each reply is; and when it says that nothing is owed, nothing is.

use proptest::prelude::*;

use super::*;

/// What comes of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Done,
    Fails,
    Copies,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    tag: u8,
    asker: Asker,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Send(Sent),
    /// The server reads one message.
    Works,
    /// One reply arrives.
    Hears,
}

#[derive(Debug, Default)]
struct Server {
    inbox: VecDeque<Sent>,
    outbox: VecDeque<(u8, Asker)>,
    /// The message that copies in.
    copying: Option<Sent>,
    skipping: bool,
    /// Messages without their Sync were carried out.
    open: bool,
    dead: bool,
}

impl Server {
    fn works(&mut self) {
        let Some(sent) = self.inbox.pop_front() else {
            return;
        };
        if let Some(copy) = self.copying {
            return self.copies(sent, copy);
        }
        if self.skipping && sent.tag != frontend::SYNC {
            return;
        }
        let own = sent.asker;
        match (sent.tag, sent.outcome) {
            (frontend::SYNC, _) => {
                (self.skipping, self.open) = (false, false);
                self.says(b"Z", own);
            }
            (frontend::QUERY, Outcome::Done) => self.ends(b"CZ", own),
            (frontend::QUERY, Outcome::Fails) => self.ends(b"EZ", own),
            (frontend::QUERY | frontend::EXECUTE, Outcome::Copies) => {
                self.says(b"G", own);
                self.copying = Some(sent);
            }
            (
                frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL | frontend::FLUSH,
                _,
            ) => {}
            (_, Outcome::Fails) => self.skips(own),
            (frontend::PARSE, _) => self.answers(b"1", own),
            (frontend::BIND, _) => self.answers(b"2", own),
            (frontend::CLOSE, _) => self.answers(b"3", own),
            (frontend::DESCRIBE, _) => self.answers(b"n", own),
            (frontend::EXECUTE, _) => self.answers(b"C", own),
            (tag, _) => unreachable!("{tag}"),
        }
    }

    fn copies(&mut self, sent: Sent, copy: Sent) {
        let by_query = copy.tag == frontend::QUERY;
        let fails = match (sent.tag, sent.outcome) {
            (frontend::SYNC | frontend::FLUSH, _) => return,
            (frontend::COPY_DATA, Outcome::Fails) | (frontend::COPY_FAIL, _) => true,
            (frontend::COPY_DATA, _) => return,
            (frontend::COPY_DONE, outcome) => outcome == Outcome::Fails,
            _ => {
                self.dead = true;
                return;
            }
        };
        self.copying = None;
        match (fails, by_query) {
            (false, true) => self.ends(b"CZ", copy.asker),
            (true, true) => self.ends(b"EZ", copy.asker),
            (false, false) => self.answers(b"C", copy.asker),
            (true, false) => self.skips(copy.asker),
        }
    }

    fn says(&mut self, tags: &[u8], asker: Asker) {
        self.outbox.extend(tags.iter().map(|tag| (*tag, asker)));
    }

    fn answers(&mut self, tags: &[u8], asker: Asker) {
        self.open = true;
        self.says(tags, asker);
    }

    fn ends(&mut self, tags: &[u8], asker: Asker) {
        self.open = false;
        self.says(tags, asker);
    }

    fn skips(&mut self, asker: Asker) {
        self.skipping = true;
        self.says(b"E", asker);
    }

    fn is_quiet(&self) -> bool {
        let unanswered = |tag| {
            matches!(
                tag,
                frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL | frontend::FLUSH
            )
        };
        self.inbox.iter().all(|sent| unanswered(sent.tag))
            && self.outbox.is_empty()
            && self.copying.is_none()
            && !self.skipping
            && !self.open
    }
}

/// Whether the session would send a message of its own now.
fn may_be_sent(sent: Sent, ledger: &Ledger) -> bool {
    if !sent.asker.is_own() {
        return true;
    }
    let in_doubt = ledger.is_copying_in() || ledger.is_doubtful() || ledger.may_become_doubtful();
    match sent.tag {
        frontend::QUERY => ledger.is_settled() || (!in_doubt && ledger.is_asked_by_us()),
        _ => !in_doubt,
    }
}

fn run(events: &[Event]) -> Result<(), TestCaseError> {
    let (mut ledger, mut server) = (Ledger::default(), Server::default());
    let end = [Event::Works, Event::Hears].repeat(3 * events.len());
    for event in events.iter().chain(&end) {
        match *event {
            Event::Send(sent) => {
                if !may_be_sent(sent, &ledger) {
                    continue;
                }
                if let Some(owed) = Owed::by(sent.tag) {
                    ledger.send(owed, sent.asker);
                }
                server.inbox.push_back(sent);
            }
            Event::Works => server.works(),
            Event::Hears => hear(&mut ledger, &mut server)?,
        }
        if server.dead || ledger.is_doubtful() {
            // The connection goes no further than this session.
            return Ok(());
        }
        prop_assert!(
            !ledger.is_settled() || server.is_quiet(),
            "settled, and {server:?} is not: {ledger:?}"
        );
    }
    prop_assert!(
        ledger.is_settled() == server.is_quiet(),
        "at the end {server:?} and {ledger:?}"
    );
    Ok(())
}

fn hear(ledger: &mut Ledger, server: &mut Server) -> Result<(), TestCaseError> {
    let Some((tag, asker)) = server.outbox.pop_front() else {
        return Ok(());
    };
    let fate = match tag {
        backend::ERROR_RESPONSE => ledger.error(),
        backend::READY_FOR_QUERY => {
            let concluded = ledger.ready(TxStatus::Idle);
            let Ok(concluded) = concluded else {
                return Err(TestCaseError::fail(format!("a Z too many: {ledger:?}")));
            };
            concluded.asker.fate()
        }
        tag => {
            let fate = ledger.reply(tag, None);
            let Ok(Some(fate)) = fate else {
                return Err(TestCaseError::fail(format!("{tag} {fate:?}: {ledger:?}")));
            };
            fate
        }
    };
    prop_assert!(
        ledger.is_doubtful() || fate == asker.fate(),
        "{} of {asker:?}: {fate:?}, {ledger:?}",
        tag as char
    );
    Ok(())
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Done),
        1 => Just(Outcome::Fails),
        1 => Just(Outcome::Copies)
    ];
    let clients =
        (prop::sample::select(&b"QQPBDECSSSHddcf"[..]), outcome).prop_map(|(tag, outcome)| {
            Event::Send(Sent {
                tag,
                asker: Asker::Client,
                outcome,
            })
        });
    let own = prop::sample::select(&b"QQPC"[..]).prop_map(|tag| {
        Event::Send(Sent {
            tag,
            asker: Asker::Weir,
            outcome: Outcome::Done,
        })
    });
    let event = prop_oneof![
        8 => clients,
        2 => own,
        5 => Just(Event::Works),
        5 => Just(Event::Hears),
    ];
    prop::collection::vec(event, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_knows_whose_each_reply_is(events in events()) {
        run(&events)?;
    }
}
