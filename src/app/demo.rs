//! `weir demo`: a throw-away PostgreSQL with a replica, Weir in front of both and a small steady load, to look at.
//!
//! Knows how to show Weir from outside, as its users run it: a child process set up by environment variables alone.

mod house;

use std::future::poll_fn;
use std::io::Write;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use super::ask::get;
use super::storm::{Ending, Figures, Plan, Step, Target, live};
use house::{DATABASE, House, USER};

const LINE_EVERY: Duration = Duration::from_secs(2);
/// About how long a client of the load lives: its transactions, then its idle time.
const LIFE: Duration = Duration::from_secs(3);
/// Of so many clients, one reads from the reader.
const READERS: u32 = 3;
const START_LIMIT: Duration = Duration::from_secs(30);

/// `println!` panics when the reader is gone (`weir demo | head`).
macro_rules! say {
    ($($words:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Lambda-like clients at a time
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub clients: u32,
    /// Connections that Weir may have to the writer, and as many to the reader
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=50))]
    pub max_connections: u32,
    /// End by itself after so many seconds, instead of with Ctrl-C
    #[arg(long)]
    pub seconds: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(
        "PostgreSQL is not installed: there is no {0} in PATH or /usr/lib/postgresql (`make demo` installs it)"
    )]
    NoPostgres(&'static str),
    #[error("PostgreSQL refuses to run as root, and there is no account `postgres` to run it as")]
    NoAccount,
    #[error("cannot {what}: {source}")]
    Io {
        what: &'static str,
        source: std::io::Error,
    },
    #[error("{what} failed:\n{output}")]
    Failed { what: &'static str, output: String },
    #[error("{what} did not start within {} s:\n{output}", START_LIMIT.as_secs())]
    NotStarted { what: &'static str, output: String },
    #[error("{what} ended by itself:\n{output}")]
    Gone { what: &'static str, output: String },
    #[error("cannot prepare the database: {0}")]
    Database(#[from] tokio_postgres::Error),
}

/// Runs until Ctrl-C, SIGTERM or the end of its time; everything it started is stopped and removed by then, on errors too.
pub async fn run(options: Options) -> Result<(), DemoError> {
    // First of all: from here on a signal ends the demo in order, whatever has been started.
    let io = |source| DemoError::Io {
        what: "watch for signals",
        source,
    };
    let mut ends = Vec::new();
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        ends.push(signal(kind).map_err(io)?);
    }
    let mut house = House::new()?;
    let outcome = tokio::select! {
        outcome = demonstrate(&options, &mut house) => outcome,
        () = any_of(&mut ends) => Ok(()),
    };
    say!("\nstopping: Weir, then PostgreSQL; the temporary directory goes with them");
    drop(house);
    outcome
}

async fn any_of(signals: &mut [Signal]) {
    poll_fn(|cx| {
        let came = signals.iter_mut().any(|s| s.poll_recv(cx).is_ready());
        if came { Poll::Ready(()) } else { Poll::Pending }
    })
    .await
}

async fn demonstrate(options: &Options, house: &mut House) -> Result<(), DemoError> {
    say!("starting PostgreSQL and Weir in {}", house.path().display());
    house.start_postgres().await?;
    house.start_weir(options.max_connections)?;
    await_ready(house).await?;
    introduce(options, house);
    for target in targets(house).await {
        say!("    {target}");
    }
    say!("");
    match options.seconds {
        None => load(options, house).await,
        Some(seconds) => timeout(Duration::from_secs(seconds), load(options, house))
            .await
            .unwrap_or(Ok(())),
    }
}

async fn await_ready(house: &mut House) -> Result<(), DemoError> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        house.check()?;
        if let Ok((200, _)) = get(house.http, "/ready").await {
            let targets = targets(house).await;
            if targets.len() == 2 && targets.iter().all(|it| it.ends_with(" AVAILABLE")) {
                return Ok(());
            }
        }
        if Instant::now() > deadline {
            return Err(DemoError::NotStarted {
                what: "Weir",
                output: house.weir_log(),
            });
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn introduce(options: &Options, house: &House) {
    let (clients, max, http) = (options.clients, options.max_connections, house.http);
    say!(
        "
Weir is up: {clients} clients share {max} connections to the writer and {max} to the reader, one of each being Weir's own,
which watches the instance. Connect yourself, to either:

    psql 'postgresql://{USER}:{password}@{listen}/{DATABASE}'
    psql 'postgresql://{USER}:{password}@{reader}/{DATABASE}'      reads only

(add ?sslmode=require for TLS). To look at:

    http://{http}/pools      who has which connections
    http://{http}/targets    which instance is what, and how it is
    http://{http}/metrics    for Prometheus
    http://{http}/ready      can it serve?      http://{http}/health    is it alive?

PostgreSQL itself is on ports {port} and {replica}. Ctrl-C ends everything. The targets:
",
        password = house.password,
        listen = house.listen,
        reader = house.reader_listen,
        port = house.writer.port(),
        replica = house.reader.port(),
    );
}

/// Clients that come, work a little, linger and go, so many at a time; a line of figures every other second.
async fn load(options: &Options, house: &mut House) -> Result<(), DemoError> {
    let side = |address, write| {
        let plan = Plan {
            transactions: 10,
            statements: 2,
            pause: Duration::from_millis(200),
            idle: Duration::from_secs(1),
            write,
            timeout: Duration::from_secs(60),
        };
        (
            Arc::new(Target::plain(house.config(address))),
            Arc::new(plan),
        )
    };
    let (writing, reading) = (side(house.listen, true), side(house.reader_listen, false));
    let mut living = JoinSet::new();
    let mut number = 0u32;
    let mut figures = Figures::default();
    let mut lines = interval(LINE_EVERY);
    lines.tick().await;
    loop {
        while living.len() < options.clients as usize {
            let side = if number.is_multiple_of(READERS) {
                &reading
            } else {
                &writing
            };
            let ((target, plan), ending) = (side.clone(), ending(number));
            // The first ones are spread over a life's length: this is the steady load, `weir bench` is the storm.
            let delay = match number < options.clients {
                true => LIFE * number / options.clients,
                false => Duration::ZERO,
            };
            number = number.wrapping_add(1);
            living.spawn(async move {
                sleep(delay).await;
                live(&target, &plan, Instant::now(), ending).await
            });
        }
        tokio::select! {
            Some(done) = living.join_next() => figures.absorb(done.ok()),
            _ = lines.tick() => {
                house.check()?;
                say!("{}", line(house, &figures).await);
                figures = Figures::default();
            }
        }
    }
}

/// Most say goodbye; of twenty, one vanishes while idle and one inside a transaction.
fn ending(number: u32) -> Ending {
    match number % 20 {
        7 => Ending::VanishIdle,
        13 => Ending::VanishInTransaction,
        _ => Ending::Goodbye,
    }
}

async fn line(house: &House, figures: &Figures) -> String {
    let (count, p50) = figures.at(Step::Transaction, 50.0);
    let (_, p99) = figures.at(Step::Transaction, 99.0);
    let rate = count as f64 / LINE_EVERY.as_secs_f64();
    let errors: String = figures
        .errors()
        .map(|(kind, count, text)| format!("; {count} x {kind}: {text}"))
        .collect();
    format!(
        "{}  |  {rate:.0} transactions/s, p50 {p50:.1} ms, p99 {p99:.1} ms{errors}",
        pools(house).await
    )
}

/// What /targets says, a line for each.
async fn targets(house: &House) -> Vec<String> {
    let said = match get(house.http, "/targets").await {
        Ok((200, body)) => serde_json::from_str(&body).unwrap_or_default(),
        Ok(_) | Err(_) => serde_json::Value::Null,
    };
    let word =
        |target: &serde_json::Value, key: &str| target[key].as_str().unwrap_or_default().to_owned();
    let line = |target| {
        let of = |key| word(target, key);
        format!("{} {} {}", of("target"), of("role"), of("state"))
    };
    said.as_array().into_iter().flatten().map(line).collect()
}

/// What /pools says, in one line.
async fn pools(house: &House) -> String {
    let Ok((200, body)) = get(house.http, "/pools").await else {
        return "/pools does not answer".into();
    };
    let Ok(said) = serde_json::from_str::<serde_json::Value>(&body) else {
        return "/pools is not JSON".into();
    };
    let sum = |list: &str, key: &str| -> u64 {
        said[list]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|entry| entry[key].as_u64())
            .sum()
    };
    let pool = |key| sum("pools", key);
    format!(
        "{} clients, {} waiting  |  connections: {} of {} used, {} leased, {} idle",
        said["clients"],
        pool("waiting"),
        sum("targets", "used"),
        sum("targets", "cap"),
        pool("leased") + pool("pinned"),
        pool("idle")
    )
}
