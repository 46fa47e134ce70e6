//! Frames in, steps out: whole conversations, cut at every byte.
//!
//! The server is a script of reply tags; nothing here is a socket.

use super::*;
use crate::protocol::SqlState;
use crate::protocol::reply::{ErrorReply, Severity};
use crate::server::statements::NOBODYS;
use crate::session::prepared::table::{Edition, Terms};
use crate::session::questions::Defaults;

mod lost;
mod named;
mod refusing;
mod streaming;

const MAX_UNIT_BYTES: usize = 400;

/// A client, the core, and a server as far as needed.
struct Talk {
    core: Core,
    /// The server in use, if any.
    ledger: Option<Ledger>,
    /// What that server has prepared; all servers are one as far as this goes, until it is taken away.
    statements: Statements,
    pending: Vec<u8>,
    /// What the client was told by Weir itself.
    told: Vec<u8>,
    /// What the server says when it is asked for the session's state.
    answer: Vec<u8>,
    /// What the server was sent, in order.
    sent: Vec<u8>,
    log: String,
}

fn core(table: &Arc<Table>) -> Core {
    let bounds = Bounds {
        max_unit_bytes: MAX_UNIT_BYTES,
    };
    Core::new(
        bounds,
        Arc::clone(table),
        Allowance::new(1000),
        Arc::default(),
    )
}

fn table() -> Arc<Table> {
    Arc::new(Table::new(
        Terms {
            max: 100,
            limit_bytes: 1 << 20,
        },
        Edition::default(),
    ))
}

fn talk() -> Talk {
    talk_with(&table())
}

fn talk_with(table: &Arc<Table>) -> Talk {
    Talk {
        core: core(table),
        ledger: None,
        statements: Statements::new(3),
        pending: Vec::new(),
        told: Vec::new(),
        answer: Vec::new(),
        sent: Vec::new(),
        log: String::new(),
    }
}

impl Talk {
    /// The client sends, and all that can be done is done.
    fn client(&mut self, bytes: &[u8]) -> &mut Self {
        self.pending.extend_from_slice(bytes);
        self.drive();
        self
    }

    /// As `client`, a byte at a time.
    fn client_slowly(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            self.client(&[*byte]);
        }
        self
    }

    /// What went to the server since this was last asked, and what else happened.
    fn done(&mut self) -> String {
        self.note();
        std::mem::take(&mut self.log)
    }

    /// Notes what went each way since the last note, in words.
    fn note(&mut self) {
        for (bytes, way) in [(&mut self.told, "<"), (&mut self.sent, ">")] {
            if !bytes.is_empty() {
                word(&mut self.log, &format!("{way}{}", shown(bytes)));
                bytes.clear();
            }
        }
    }

    fn happened(&mut self, what: &str) {
        self.note();
        word(&mut self.log, what);
    }

    fn drive(&mut self) {
        loop {
            let mut prologue = Vec::new();
            let step = match &mut self.ledger {
                None => self.core.without_server(&self.pending, &mut self.told),
                Some(ledger) => self.core.with_server(
                    &self.pending,
                    ledger,
                    &mut self.statements,
                    &mut prologue,
                ),
            };
            self.sent.extend_from_slice(&prologue);
            match step {
                Ok(Step::Wait) => return,
                Ok(Step::Borrow) => {
                    self.happened("borrow");
                    let mut ledger = Ledger::default();
                    // Each time another server, which another session has used.
                    let before = Before {
                        unnamed: Owner::Another,
                        sequences: Sequences::Own,
                    };
                    self.core.begin(before, &mut ledger, &mut self.sent);
                    self.ledger = Some(ledger);
                }
                Ok(Step::Forward { consumed, forward }) => {
                    self.pending.drain(..consumed);
                    self.sent.extend(self.pending.drain(..forward));
                }
                Ok(Step::Consume(count)) => drop(self.pending.drain(..count)),
                Ok(Step::Terminate) => return self.end("left"),
                Ok(Step::Disown(place)) => {
                    let end = place + NOBODYS.len();
                    self.pending[place..end].copy_from_slice(NOBODYS);
                }
                Ok(Step::ComeHome) => {
                    self.happened("home");
                    self.core.set_outside(Outside::Seen);
                }
                Err(violation) => return self.end(&format!("{violation:?}")),
            }
        }
    }

    /// As the pump does it: not before all is answered.
    fn end(&mut self, why: &str) {
        if !self.ledger.as_ref().is_some_and(Ledger::owes) {
            self.happened(why);
            self.pending.clear();
        }
    }

    /// The server replies: tags, with `Z`, `z` and `f` for ReadyForQuery when idle, in a transaction, in a failed one.
    fn server(&mut self, replies: &str) -> &mut Self {
        for reply in replies.bytes() {
            let ledger = self.ledger.as_mut().expect("a server");
            match reply {
                b'E' => drop(ledger.error()),
                b'Z' | b'z' | b'f' => {
                    let status = match reply {
                        b'Z' => TxStatus::Idle,
                        b'z' => TxStatus::InTransaction,
                        _ => TxStatus::Failed,
                    };
                    let concluded = ledger.ready(status).expect("in step");
                    match self.core.concluded(concluded, ledger) {
                        Conclusion::Ordinary => {}
                        Conclusion::Discarded => self.happened("discarded"),
                        Conclusion::SettingsReset => self.happened("reset"),
                        Conclusion::Answered { .. } => panic!("nobody asked"),
                        Conclusion::Moved { .. } | Conclusion::Position { .. } => {
                            panic!("nothing moves")
                        }
                        Conclusion::OwnFailed => self.happened("own failed"),
                    }
                }
                tag => ledger.reply(tag, None).map(drop).expect("in step"),
            }
            if let Some(ledger) = &mut self.ledger {
                self.core.note_outcomes(ledger, &mut self.statements);
            }
        }
        if let Some(ledger) = &mut self.ledger {
            self.core.tidy(ledger, &mut self.sent);
        }
        if let Some(ledger) = self.ledger.as_mut().filter(|ledger| ledger.is_idle())
            && self
                .core
                .ask([].into_iter(), Defaults::Plain, ledger, &mut Vec::new())
        {
            let concluded = ledger.ready(TxStatus::Idle).expect("in step");
            assert_eq!(
                self.core.concluded(concluded, ledger),
                Conclusion::Answered { failed: false }
            );
            self.core.answered(Some(&self.answer));
            self.happened("asked");
        }
        let may_release = |ledger: &Ledger| self.core.may_release(ledger);
        if self.ledger.as_ref().is_some_and(may_release) {
            self.ledger = None;
            self.happened("release");
        }
        self.drive();
        self
    }

    fn refuse(&mut self) -> &mut Self {
        assert!(self.log.contains("borrow"), "{}", self.log);
        (self.ledger, self.sent) = (None, Vec::new());
        let error = ErrorReply {
            severity: Severity::Error,
            sqlstate: SqlState::TOO_MANY_CONNECTIONS,
            message: "busy".into(),
            detail: None,
            hint: None,
        };
        let mut told = Vec::new();
        error.put(&mut told);
        self.core.refuse(&self.pending, &told, &mut self.told);
        self.drive();
        self
    }

    /// What the server will say when it is asked: one kind of state, by its letter.
    fn finds(&mut self, kind: &str) -> &mut Self {
        self.answer.clear();
        if !kind.is_empty() {
            put(&mut self.answer, b'D', |body| {
                body.extend_from_slice(b"\0\x03\0\0\0\x01");
                body.extend_from_slice(kind.as_bytes());
                body.extend_from_slice(&[0; 8]);
            });
        }
        self
    }

    fn reasons(&self) -> Vec<&'static str> {
        let pins = self.core.pins().since(Pins::default());
        pins.map(Reason::as_str).collect()
    }
}

fn word(log: &mut String, word: &str) {
    if !log.is_empty() {
        log.push(' ');
    }
    log.push_str(word);
}

/// Frames by their tags; with the text of a Query, and the status of a ReadyForQuery. What is cut off: `~`.
fn shown(mut bytes: &[u8]) -> String {
    let mut out = String::new();
    while let Some(Ok(head)) = Head::parse(bytes) {
        let Some(frame) = bytes.get(..head.frame_bytes()) else {
            break;
        };
        out.push(head.tag as char);
        let body = &frame[HEADER_BYTES..];
        let text = body.strip_suffix(b"\0").unwrap_or(body);
        match head.tag {
            b'Q' => out.push_str(&format!("({})", String::from_utf8_lossy(text))),
            b'Z' => out.push((body[0] as char).to_ascii_lowercase()),
            _ => {}
        }
        bytes = &bytes[frame.len()..];
    }
    if !bytes.is_empty() {
        out.push('~');
    }
    out
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, tag, |to| to.extend_from_slice(body));
    out
}

fn query(text: &str) -> Vec<u8> {
    frame(b'Q', &[text.as_bytes(), b"\0"].concat())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    let body = [name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"].concat();
    frame(b'P', &body)
}

fn bind(name: &str) -> Vec<u8> {
    frame(b'B', &[b"\0", name.as_bytes(), b"\0\0\0\0\0\0\0"].concat())
}

fn execute() -> Vec<u8> {
    frame(b'E', b"\0\0\0\0\0")
}

fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

fn terminate() -> Vec<u8> {
    frame(b'X', b"")
}

#[test]
fn a_server_is_borrowed_for_one_transaction() {
    let mut talk = talk();
    talk.client(&query("SELECT 1"));
    assert_eq!(talk.done(), "borrow >Q(SELECT 1)");
    talk.server("TDCZ");
    assert_eq!(talk.done(), "release");
    talk.client(&query("BEGIN; SELECT 1")).server("CTDCz");
    talk.client(&query("SELECT 2")).server("TDCz");
    talk.client(&query("COMMIT")).server("CZ");
    assert_eq!(
        talk.done(),
        "borrow >Q(BEGIN; SELECT 1)Q(SELECT 2)Q(COMMIT) release"
    );
}

#[test]
fn nothing_is_borrowed_before_a_unit_is_whole() {
    let extended = [
        parse("", "SELECT 1"),
        bind(""),
        frame(b'D', b"P\0"),
        execute(),
        sync(),
    ]
    .concat();
    let flushed = [parse("", "SELECT 1"), frame(b'H', b"")].concat();
    for unit in [query("SELECT 1"), extended, flushed] {
        let mut talk = talk();
        talk.client_slowly(&unit[..unit.len() - 1]);
        assert_eq!(talk.done(), "");
        talk.client_slowly(&unit[unit.len() - 1..]);
        assert_eq!(talk.done(), format!("borrow >{}", shown(&unit)));
    }
}

/// However a conversation is cut: the same goes to the server and to the client.
#[test]
fn the_cuts_between_reads_change_nothing() {
    let conversation = [
        query("BEGIN"),
        query("SELECT 1"),
        parse("", "SELECT 2"),
        bind(""),
        execute(),
        sync(),
        query("LISTEN a"),
    ]
    .concat();
    let expected = "borrow <CZt >Q(BEGIN)Q(SELECT 1)PBESQ(LISTEN a)";
    for cut in 0..=conversation.len() {
        let mut talk = talk();
        talk.client(&conversation[..cut])
            .client(&conversation[cut..]);
        let mut order: Vec<String> = talk.done().split(' ').map(String::from).collect();
        let sent: Vec<String> = order.extract_if(.., |word| word.starts_with('>')).collect();
        let sent = sent.concat().replace('>', "");
        order.sort();
        let sent = format!("{} >{sent}", order.join(" "));
        // Statements are shown whole once the rest has come.
        assert_eq!(sort(&sent), sort(expected), "cut at {cut}");
        assert!(talk.core.wonders(), "cut at {cut}");
    }
}

fn sort(words: &str) -> Vec<&str> {
    let mut words: Vec<&str> = words.split(' ').collect();
    words.sort();
    words
}

#[test]
fn a_begin_is_answered_and_goes_with_the_first_statement() {
    let mut talk = talk();
    talk.client(&query("BEGIN"));
    assert_eq!(talk.done(), "<CZt");
    talk.client(&query("SELECT 1"));
    assert_eq!(talk.done(), "borrow >Q(BEGIN)Q(SELECT 1)");
    // The answer to the first of these is Weir's own business.
    assert_eq!(
        talk.ledger.as_ref().map(Ledger::fate),
        Some(crate::server::ledger::Fate::Withhold)
    );
    talk.server("CzTDCz");
    talk.client(&query("COMMIT")).server("CZ");
    assert_eq!(talk.done(), ">Q(COMMIT) release");
}

#[test]
fn a_begin_that_the_server_refuses_is_our_failure() {
    let mut talk = talk();
    talk.client(&query("BEGIN")).client(&query("SELECT 1"));
    talk.done();
    talk.server("EZ");
    assert_eq!(talk.done(), "own failed");
}

#[test]
fn an_empty_transaction_never_gets_a_server() {
    let mut talk = talk();
    talk.client(&[query("BEGIN"), query("COMMIT"), sync(), terminate()].concat());
    assert_eq!(talk.done(), "<CZtCZiZi left");
}

#[test]
fn the_unnamed_statement_follows_its_client() {
    let mut talk = talk();
    talk.client(&[parse("", "SELECT 1"), sync()].concat())
        .server("1Z");
    assert_eq!(talk.done(), "borrow >PS release");
    // On another server: parsed there first, and the client does not see it.
    talk.client(&[bind(""), execute(), sync()].concat())
        .server("12DCZ");
    assert_eq!(talk.done(), "borrow >PBES release");
    // A simple query does away with it: nobody else's is used.
    talk.client(&query("SELECT 1")).server("TDCZ");
    talk.client(&[bind(""), sync()].concat()).server("3EZ");
    assert_eq!(
        talk.done(),
        "borrow >Q(SELECT 1) release borrow >CBS release"
    );
}

#[test]
fn what_an_error_made_the_server_skip_changes_no_statement() {
    let mut talk = talk();
    talk.client(&[parse("", "SELECT 1"), sync()].concat())
        .server("1Z");
    talk.done();
    // The first message to the next server is skipped by nobody: what the client has goes ahead of it.
    let unit = [
        bind("none"),
        parse("", "SELECT 2"),
        query("SELECT 3"),
        sync(),
    ]
    .concat();
    talk.client(&unit).server("1EZ");
    assert_eq!(talk.done(), "borrow >PBPQ(SELECT 3)S release");
    // Neither the Parse nor the Query was carried out: the statement is the old one.
    talk.client(&[bind(""), sync()].concat());
    assert_eq!(talk.done(), "borrow >PBS");
}

#[test]
fn what_pins_and_what_frees() {
    let large = format!("SELECT {}", "1+".repeat(2500));
    let cases = [
        (query("LISTEN a"), "l", vec!["listen"]),
        (query("LISTEN a; UNLISTEN a"), "", vec![]),
        (query("SET x.y = 1"), "", vec![]),
        (
            query("SELECT set_config($1, '1', false)"),
            "",
            vec!["setting"],
        ),
        (query("SELECT 1"), "", vec![]),
        (query("SET LOCAL x.y = 1"), "", vec![]),
        (
            query("CREATE TEMP TABLE t ()"),
            "t",
            vec!["temporary_object"],
        ),
        (query("CALL p()"), "a", vec!["advisory_lock"]),
        (parse("s", "SELECT 1"), "", vec![]),
        (parse("", "LISTEN a"), "l", vec![]),
        (parse("s", "LISTEN a"), "l", vec![]),
        (
            [parse("", "LISTEN a"), bind("")].concat(),
            "l",
            vec!["listen"],
        ),
        (
            [parse("s", "LISTEN a"), bind("s")].concat(),
            "l",
            vec!["listen"],
        ),
        (parse("", &large), "", vec!["large_unnamed_statement"]),
    ];
    for (message, found, reasons) in cases {
        let mut talk = talk();
        talk.finds(found);
        let extended = message[0] == b'P';
        talk.client(&message);
        if extended {
            // Ahead of a message that leaves the unnamed statement alone, that is cleared away.
            let named = message.get(5) != Some(&0);
            let bound = message.ends_with(&bind(if named { "s" } else { "" }));
            let replies = match (named, bound) {
                (true, true) => "312Z",
                (true, false) => "31Z",
                (false, true) => "12Z",
                (false, false) => "1Z",
            };
            talk.client(&sync()).server(replies);
        } else {
            talk.server("CZ");
        }
        assert_eq!(talk.reasons(), reasons, "{}", shown(&message));
        assert_eq!(talk.ledger.is_some(), !reasons.is_empty());
        if talk.ledger.is_some() {
            talk.done();
            talk.client(&query("DISCARD ALL")).server("CZ");
            assert_eq!(talk.done(), ">Q(DISCARD ALL) discarded release");
            assert!(talk.reasons().is_empty());
        }
    }
}

#[test]
fn a_pin_is_lifted_as_soon_as_its_reason_is_gone() {
    let mut talk = talk();
    talk.finds("t").client(&query("CREATE TEMP TABLE t ()"));
    talk.server("CZ").client(&query("SELECT 1")).server("TDCZ");
    assert_eq!(talk.reasons(), ["temporary_object"]);
    talk.finds("").client(&query("DROP TABLE t"));
    talk.done();
    talk.server("CZ");
    assert_eq!(talk.done(), "asked release");
}

#[test]
fn what_only_undoes_is_not_asked_about() {
    let mut talk = talk();
    let pool_reset = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;";
    talk.client(&query(pool_reset)).server("TDCCCCZ");
    assert!(talk.done().ends_with(" reset release"));
    // In a transaction it may be rolled back.
    talk.client(&query("BEGIN; SELECT 1")).server("CTDCz");
    talk.client(&query("RESET ALL")).server("Cz");
    talk.done();
    talk.client(&query("ROLLBACK")).server("CZ");
    assert_eq!(talk.done(), ">Q(ROLLBACK) asked release");
}

#[test]
fn a_discard_that_fails_frees_nothing() {
    let mut talk = talk();
    talk.finds("l").client(&query("LISTEN a")).server("CZ");
    talk.client(&query("DISCARD ALL")).server("EZ");
    assert_eq!(talk.reasons(), ["listen"]);
    assert!(talk.ledger.is_some());
}

#[test]
fn goodbye_waits_for_what_was_asked_before() {
    let mut talk = talk();
    talk.client(&[query("SELECT 1"), query("SELECT 2"), terminate()].concat());
    assert_eq!(talk.done(), "borrow >Q(SELECT 1)Q(SELECT 2)");
    talk.server("TDCZ");
    assert_eq!(talk.done(), "");
    talk.server("TDCZ");
    assert_eq!(talk.done(), "release left");
}

#[test]
fn the_server_is_asked_for_what_it_holds_back_when_the_end_is_near() {
    for (end, why) in [(terminate(), "left"), (b"y".to_vec(), "Type(121)")] {
        let mut talk = talk();
        talk.client(&[parse("", "SELECT 1"), bind(""), end].concat());
        assert_eq!(talk.done(), "borrow >PBH");
        talk.client(b"").server("12");
        assert_eq!(talk.done(), why);
    }
}

#[test]
fn violations_wait_for_what_stands_before_them() {
    let too_long_a_name = frame(b'P', &[b'x'; 3000]);
    let cut = too_long_a_name[..2500].to_vec();
    let cases = [
        (b"y".to_vec(), "Type(121)"),
        (b"Q\0\0\0\x03".to_vec(), "Length("),
        (b"S\0\0\xff\xff".to_vec(), "Length("),
        (cut, "Body(80)"),
    ];
    for (wrong, why) in cases {
        for before in [query("SELECT 1"), [parse("", "SELECT 1"), sync()].concat()] {
            let mut talk = talk();
            talk.client(&[&before[..], &wrong].concat());
            assert_eq!(talk.done(), format!("borrow >{}", shown(&before)), "{why}");
            talk.server(if before[0] == b'Q' { "TDCZ" } else { "1Z" });
            let done = talk.done();
            assert!(done.contains(why), "{done} for {why}");
        }
    }
}

#[test]
fn the_limit_of_open_answers_holds_the_client_up() {
    let mut talk = talk();
    let many = crate::server::ledger::MAX_OUTSTANDING + 10;
    talk.finds("l").client(&query("LISTEN a")).server("CZ");
    talk.done();
    talk.client(&query("").repeat(many));
    assert_eq!(talk.sent.len(), query("").len() * (many - 10));
    talk.server("ZZ");
    assert_eq!(talk.sent.len(), query("").len() * (many - 8));
}
