//! The oracle: the same bytes to PostgreSQL and through Weir, and the replies side by side.
//!
//! Knows what must differ between two sessions of PostgreSQL; does not know what is asked.

use std::io::Write;
use std::thread;
use std::time::Duration;

use super::client::Next;
use super::postgres::USER;
use super::proxy::Setup;
use super::wire::{self, terminate};
use super::{Client, Frame, Login, Postgres, Proxy};

pub struct Sides {
    pub postgres: &'static Postgres,
    pub database: String,
    pub proxy: Proxy,
    pub direct: Login,
    pub through: Login,
}

/// Bytes to send at once, and how much of an answer to wait for before going on.
#[derive(Clone)]
pub struct Step {
    bytes: Vec<u8>,
    wait: Wait,
}

#[derive(Clone)]
enum Wait {
    Ready(usize),
    Tag(u8),
    /// For what was sent to arrive by itself.
    Pause,
    End,
}

/// What is sent later arrives later.
const PAUSE: Duration = Duration::from_millis(3);

impl Step {
    pub fn then_ready(bytes: impl Into<Vec<u8>>, times: usize) -> Step {
        let wait = Wait::Ready(times);
        Step {
            bytes: bytes.into(),
            wait,
        }
    }

    pub fn then_tag(bytes: impl Into<Vec<u8>>, tag: u8) -> Step {
        let wait = Wait::Tag(tag);
        Step {
            bytes: bytes.into(),
            wait,
        }
    }

    pub fn then_pause(bytes: impl Into<Vec<u8>>) -> Step {
        let wait = Wait::Pause;
        Step {
            bytes: bytes.into(),
            wait,
        }
    }

    pub fn then_end(bytes: impl Into<Vec<u8>>) -> Step {
        let wait = Wait::End;
        Step {
            bytes: bytes.into(),
            wait,
        }
    }
}

/// One simple query and its answer.
pub fn ask(sql: &str) -> Step {
    Step::then_ready(wire::query(sql), 1)
}

impl Sides {
    /// A database of their own with a table `t (a int, b text)`, and a Weir with `cap` connections to it.
    pub fn new(cap: usize) -> Sides {
        Sides::with(cap, |setup| setup)
    }

    /// The same with a Weir that is set up otherwise.
    pub fn with(cap: usize, change: impl FnOnce(Setup) -> Setup) -> Sides {
        let postgres = Postgres::shared();
        let database = postgres.database();
        postgres.sql_in(&database, "CREATE TABLE t (a int, b text)");
        postgres.sql_in(&database, &format!("ALTER TABLE t OWNER TO {USER}"));
        let proxy = change(Proxy::before(postgres, &database, cap)).start();
        Sides {
            direct: postgres.login(&database),
            through: proxy.login(),
            postgres,
            database,
            proxy,
        }
    }

    /// The pins that there have been, as the metrics have them.
    pub fn pins(&self) -> String {
        let metrics = self.proxy.metrics();
        let pins = metrics.lines();
        let pins: Vec<&str> = pins
            .filter(|line| line.starts_with("weir_pool_pins_total{") && !line.ends_with(" 0"))
            .collect();
        pins.join("\n")
    }

    /// Both sides prepared alike, then the same conversation with both.
    pub fn agree(&self, prepare: &str, steps: &[Step]) {
        let expected = self.alone(&self.direct, prepare, steps);
        let seen = self.alone(&self.through, prepare, steps);
        assert_same(&expected, &seen, || describe(steps));
    }

    /// All of `bytes` and Terminate in one go: every reply up to the end of the connection.
    pub fn agree_to_the_end(&self, prepare: &str, bytes: &[u8]) {
        let bytes = [bytes, &terminate()].concat();
        self.agree(prepare, &[Step::then_end(bytes)]);
    }

    /// The same in two parts, one after the other: cut at every `stride`th byte.
    pub fn agree_in_parts(&self, prepare: &str, bytes: &[u8], stride: usize) {
        let bytes = [bytes, &terminate()].concat();
        for cut in (1..bytes.len()).step_by(stride) {
            let (first, second) = bytes.split_at(cut);
            self.agree(prepare, &[Step::then_pause(first), Step::then_end(second)]);
        }
    }

    /// The same startup packet to both: the whole greeting, or the same refusal.
    pub fn agree_on_login(&self, change: impl Fn(Login) -> Login) {
        let both = [&self.direct, &self.through].map(|login| {
            let login = change(login.clone());
            match login.try_connect() {
                Ok(client) => Ok(normal(client.greeting)),
                Err(refusal) => Err(Box::new(refusal)),
            }
        });
        let [direct, through] = both;
        match (&direct, &through) {
            (Ok(expected), Ok(seen)) => assert_same(expected, seen, || "a login".into()),
            _ => assert_eq!(direct, through),
        }
    }

    fn alone(&self, login: &Login, prepare: &str, steps: &[Step]) -> Vec<Frame> {
        if !prepare.is_empty() {
            self.postgres.sql_in(&self.database, prepare);
        }
        converse(&mut login.connect(), steps)
    }
}

/// Speaks and listens at once: a long pipeline fills both directions.
pub fn converse(client: &mut Client, steps: &[Step]) -> Vec<Frame> {
    let mut all = Vec::new();
    for step in steps {
        let mut writer = client.socket().try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                let _ = writer.write_all(&step.bytes);
            });
            all.extend(hear(client, &step.wait));
        });
    }
    normal(all)
}

fn hear(client: &mut Client, wait: &Wait) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut ready = 0;
    if let Wait::Pause = wait {
        thread::sleep(PAUSE);
        return frames;
    }
    loop {
        match client.next() {
            Next::Frame(frame) => frames.push(frame),
            Next::Closed => {
                let body = Vec::new();
                frames.push(Frame { tag: b'.', body });
                return frames;
            }
            Next::Silence => {
                let body = b"silence".to_vec();
                frames.push(Frame { tag: b'?', body });
                return frames;
            }
        }
        let tag = frames.last().map_or(0, |frame| frame.tag);
        ready += usize::from(tag == b'Z');
        let heard = match wait {
            Wait::Ready(times) => ready == *times,
            Wait::Tag(wanted) => tag == *wanted,
            Wait::Pause => true,
            Wait::End => false,
        };
        if heard {
            return frames;
        }
    }
}

/// Blanks what no two sessions have in common: process ids, keys, and SCRAM's random parts.
pub fn normal(mut frames: Vec<Frame>) -> Vec<Frame> {
    for frame in &mut frames {
        match frame.tag {
            b'K' => frame.body.clear(),
            b'A' => frame.body[..4].fill(0),
            b'R' => frame.body.truncate(4),
            _ => {}
        }
    }
    frames
}

pub fn assert_same(expected: &[Frame], seen: &[Frame], asked: impl Fn() -> String) {
    if expected == seen {
        return;
    }
    let first = expected
        .iter()
        .zip(seen)
        .take_while(|(a, b)| a == b)
        .count();
    let window = |frames: &[Frame]| -> String {
        let start = first.saturating_sub(3);
        let shown = frames.iter().enumerate().skip(start).take(9);
        shown
            .map(|(at, frame)| format!("  {at:3} {frame:?}\n"))
            .collect()
    };
    panic!(
        "answers part at frame {first}\nasked:\n{}\nPostgreSQL ({} frames):\n{}Weir ({} frames):\n{}",
        asked(),
        expected.len(),
        window(expected),
        seen.len(),
        window(seen),
    );
}

fn describe(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let mut rest = step.bytes.clone();
        while let Some(frame) = Frame::cut(&mut rest) {
            text.push_str(&format!("  {frame:?}\n"));
        }
        if !rest.is_empty() {
            text.push_str(&format!("  (and {} bytes of no whole frame)\n", rest.len()));
        }
        text.push_str("  --\n");
    }
    text
}
