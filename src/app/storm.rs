//! `weir bench`: a storm of Lambda-like clients, arriving in an open loop whatever the server does.
//!
//! Knows when clients come and how many at once; what one of them does is `client`, what came of it `report`.

mod client;
mod report;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::net::trust::BadAuthorities;
pub use client::{Ending, Plan, Target, live, make_table};
pub use report::{Figures, Report, Step};

/// Every bound of the generator: it must not become the flood that it imitates.
const MOST_CLIENTS: u32 = 1_000_000;
const MOST_AT_ONCE: u32 = 15_000;
const LONGEST: Duration = Duration::from_secs(3600);

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where to: `postgres://user@host:port/database` or `host=.. port=.. user=..`; the password there or in PGPASSWORD
    pub target: String,
    /// How many clients come in all
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=MOST_CLIENTS as i64))]
    pub clients: u32,
    /// How many come in a second
    #[arg(long, default_value_t = 100.0, value_parser = positive)]
    pub rate: f64,
    /// How their arrivals are spaced
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    pub arrivals: Arrivals,
    /// How many may be there at once; one more waits, and its clock runs
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=MOST_AT_ONCE as i64))]
    pub at_once: u32,
    /// Transactions of one client
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub transactions: u32,
    /// Statements between BEGIN and COMMIT
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub statements: u32,
    /// From the start of one transaction of a client to the start of its next
    #[arg(long, default_value = "100ms", value_parser = duration)]
    pub pause: Duration,
    /// How long a client stays after its last transaction, doing nothing
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub idle: Duration,
    /// Per cent of the clients that vanish without a word, half of those inside a transaction
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub vanish: u8,
    /// The last statement of each transaction updates a row of a table `weir_bench`, made when missing
    #[arg(long)]
    pub write: bool,
    /// Encryption on the way to the target
    #[arg(long, value_enum, default_value_t = Tls::Off)]
    pub tls: Tls,
    /// Certificate authorities to trust (PEM) instead of the public ones
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// Take any certificate
    #[arg(long, conflicts_with = "ca")]
    pub tls_insecure: bool,
    /// Threads that play the clients
    #[arg(long, default_value_t = cores(), value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// A client that takes longer than this for its whole life is an error
    #[arg(long, default_value = "150s", value_parser = duration)]
    pub client_timeout: Duration,
    /// The storm ends after this, whoever is still there
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub longest: Duration,
    /// The same number, the same storm
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the result as JSON to this file, or to standard output with `-`
    #[arg(long)]
    pub json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// As independent callers come: in clumps
    Poisson,
    /// One every 1/rate seconds
    Even,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tls {
    Off,
    Require,
}

#[derive(Debug, thiserror::Error)]
pub enum StormError {
    #[error("not a target: {0}")]
    Target(#[source] tokio_postgres::Error),
    #[error("the target names {0}, which is needed")]
    Incomplete(&'static str),
    #[error("cannot read {path}: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot prepare TLS: {0}")]
    Authorities(#[from] BadAuthorities),
    #[error("cannot make the table weir_bench: {}", client::explain(.0))]
    Table(#[source] tokio_postgres::Error),
    #[error("cannot start a thread that plays clients: {0}")]
    Thread(#[source] std::io::Error),
    #[error("not one client succeeded")]
    NothingWorked,
    #[error("cannot write {path}: {source}")]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// Runs the storm; the report is printed and written as the options say.
pub async fn run(options: Options) -> Result<Report, StormError> {
    let target = Arc::new(Target::of(&options)?);
    if options.write {
        make_table(&target).await.map_err(StormError::Table)?;
    }
    let begin = Instant::now();
    let figures = storm(&options, &target, begin).await?;
    let report = Report::new(&options, figures, begin.elapsed());
    report.publish(options.json.as_deref())?;
    if report.figures.failed == report.figures.arrived {
        return Err(StormError::NothingWorked);
    }
    Ok(report)
}

/// On several threads: a login costs its client milliseconds of hashing, which must not make the other clients late.
async fn storm(
    options: &Options,
    target: &Arc<Target>,
    begin: Instant,
) -> Result<Figures, StormError> {
    let places = Arc::new(Semaphore::new(options.at_once as usize));
    let mut threads = JoinSet::new();
    for share in 0..options.threads {
        let (options, target, places) = (options.clone(), target.clone(), places.clone());
        threads.spawn_blocking(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(play(&options, target, places, begin, share)))
        });
    }
    let mut figures = Figures::default();
    while let Some(part) = threads.join_next().await {
        let part: std::io::Result<Figures> = part.map_err(std::io::Error::other).flatten();
        figures.add(part.map_err(StormError::Thread)?);
    }
    Ok(figures)
}

/// One thread's share of the open loop: each rolls the same dice, and plays every n-th client.
/// A client's clock starts when it was due, not when the generator or the server got round to it.
async fn play(
    options: &Options,
    target: Arc<Target>,
    places: Arc<Semaphore>,
    begin: Instant,
    share: u32,
) -> Figures {
    let plan = Arc::new(Plan::of(options));
    let mut figures = Figures::default();
    let mut dice = Dice(options.seed);
    let mut living = JoinSet::new();
    let end = begin + options.longest.min(LONGEST);
    let mut due = begin;
    for number in 0..options.clients {
        due += gap(options, &mut dice);
        let ending = ending(options, &mut dice, number);
        if number % options.threads != share {
            continue;
        }
        if due >= end {
            break;
        }
        sleep_until(due).await;
        figures.record(Step::Generator, due.elapsed());
        figures.arrived += 1;
        let (target, plan, places) = (target.clone(), plan.clone(), places.clone());
        living.spawn(async move {
            // The semaphore is never closed; were it, the client would simply come at once.
            let _place = places.acquire_owned().await;
            live(&target, &plan, due, ending).await
        });
        while let Some(done) = living.try_join_next() {
            figures.absorb(done.ok());
        }
    }
    while let Ok(Some(done)) = timeout_at(end, living.join_next()).await {
        figures.absorb(done.ok());
    }
    figures.unfinished = living.len() as u64;
    living.shutdown().await;
    figures
}

fn gap(options: &Options, dice: &mut Dice) -> Duration {
    let mean = 1.0 / options.rate;
    Duration::from_secs_f64(match options.arrivals {
        Arrivals::Even => mean,
        Arrivals::Poisson => -mean * (1.0 - dice.unit()).ln(),
    })
}

fn ending(options: &Options, dice: &mut Dice, number: u32) -> Ending {
    if dice.unit() * 100.0 >= f64::from(options.vanish) {
        Ending::Goodbye
    } else if number.is_multiple_of(2) {
        Ending::VanishIdle
    } else {
        Ending::VanishInTransaction
    }
}

/// SplitMix64: the same storm for the same seed, with nothing to depend on.
struct Dice(u64);

impl Dice {
    /// At least 0, less than 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(64) as u32)
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e6 => Ok(rate),
        _ => Err("a number above 0, at most 1000000".into()),
    }
}

/// `250ms`, `2s`, `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = split.map_or((text, ""), |at| text.split_at(at));
    let seconds_in = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err("a number with its unit: 250ms, 2s or 1m".into()),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("`{number}` is not a number"))?;
    let seconds = number * seconds_in;
    if seconds > LONGEST.as_secs_f64() {
        return Err("at most 60m".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, ms) in [
            ("250ms", 250),
            ("2s", 2000),
            ("1.5s", 1500),
            ("1m", 60_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "1h", "61m", "-1s", "1..2s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn dice_are_even_and_repeatable() {
        let roll = |seed| {
            let mut dice = Dice(seed);
            (0..10_000).map(move |_| dice.unit())
        };
        let mean = roll(7).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        assert!(roll(7).all(|u| (0.0..1.0).contains(&u)));
        assert!(roll(7).eq(roll(7)));
        assert!(!roll(7).eq(roll(8)));
    }
}
