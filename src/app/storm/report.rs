//! What came of a storm: percentiles by step, errors by SQLSTATE; as text for people and as JSON.
//!
//! Knows figures only; nothing of how they came about.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Options, StormError, client};

/// From a microsecond to an hour, within a thousandth.
const LOWEST_US: u64 = 1;
const HIGHEST_US: u64 = 3_600_000_000;
const DIGITS: u8 = 3;
/// Kinds of error kept apart; there are fewer SQLSTATEs that a proxy sends.
const MOST_KINDS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// From due to logged in.
    Connect,
    /// From due to the end of the first transaction: what a cold start waits for.
    FirstTransaction,
    /// From due to committed.
    Transaction,
    /// How late the generator itself was: where this is large, the other figures are its own.
    Generator,
}

const STEPS: [(Step, &str); 4] = [
    (Step::Connect, "connect"),
    (Step::FirstTransaction, "first_transaction"),
    (Step::Transaction, "transaction"),
    (Step::Generator, "generator_lag"),
];

const PERCENTILES: [(f64, &str); 4] =
    [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99_9")];

/// One client's.
#[derive(Default)]
pub struct Life {
    pub(super) times: Vec<(Step, Duration)>,
    pub(super) failure: Option<Failure>,
}

impl Life {
    pub(super) fn took(&mut self, step: Step, time: Duration) {
        self.times.push((step, time));
    }
}

/// Why a client gave up.
pub enum Failure {
    Said { sqlstate: String, message: String },
    Broken(String),
    Timeout,
}

impl Failure {
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(said) => Self::Said {
                sqlstate: said.code().code().to_owned(),
                message: said.message().to_owned(),
            },
            None => Self::Broken(client::explain(error)),
        }
    }

    fn kind(&self) -> &str {
        match self {
            Self::Said { sqlstate, .. } => sqlstate,
            Self::Broken(_) => "connection",
            Self::Timeout => "timeout",
        }
    }

    fn message(&self) -> &str {
        match self {
            Self::Said { message, .. } => message,
            Self::Broken(message) => message,
            Self::Timeout => "the client took longer than its timeout",
        }
    }
}

/// All clients' so far.
pub struct Figures {
    pub arrived: u64,
    pub failed: u64,
    /// Still there when the storm ended.
    pub unfinished: u64,
    steps: [Histogram<u64>; 4],
    /// By SQLSTATE, `connection` or `timeout`: how many, and the first one's text.
    errors: BTreeMap<String, (u64, String)>,
}

impl Default for Figures {
    fn default() -> Self {
        let empty = || {
            Histogram::new_with_bounds(LOWEST_US, HIGHEST_US, DIGITS).expect(
                "constant bounds that hdrhistogram accepts: 1 <= low, 2 * low <= high, digits <= 5",
            )
        };
        Self {
            arrived: 0,
            failed: 0,
            unfinished: 0,
            steps: [empty(), empty(), empty(), empty()],
            errors: BTreeMap::new(),
        }
    }
}

impl Figures {
    pub fn record(&mut self, step: Step, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.steps[step as usize].saturating_record(micros);
    }

    /// `None`: the client's task itself broke.
    pub fn absorb(&mut self, life: Option<Life>) {
        let life = life.unwrap_or(Life {
            times: Vec::new(),
            failure: Some(Failure::Broken("the client's task panicked".into())),
        });
        for (step, time) in life.times {
            self.record(step, time);
        }
        if let Some(failure) = life.failure {
            self.failed += 1;
            let full = self.errors.len() >= MOST_KINDS && !self.errors.contains_key(failure.kind());
            let kind = if full { "other" } else { failure.kind() };
            self.errors
                .entry(kind.to_owned())
                .or_insert_with(|| (0, failure.message().to_owned()))
                .0 += 1;
        }
    }

    /// Another thread's figures.
    pub fn add(&mut self, other: Figures) {
        self.arrived += other.arrived;
        self.failed += other.failed;
        self.unfinished += other.unfinished;
        for (mine, theirs) in self.steps.iter_mut().zip(&other.steps) {
            // Both have the same bounds, which is all that adding could trip over.
            let _ = mine.add(theirs);
        }
        for (kind, (count, text)) in other.errors {
            self.errors.entry(kind).or_insert((0, text)).0 += count;
        }
    }

    /// (how many, milliseconds at `percentile`) of a step.
    pub fn at(&self, step: Step, percentile: f64) -> (u64, f64) {
        let histogram = &self.steps[step as usize];
        (
            histogram.len(),
            histogram.value_at_percentile(percentile) as f64 / 1000.0,
        )
    }

    pub fn errors(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        self.errors
            .iter()
            .map(|(kind, (count, text))| (kind.as_str(), *count, text.as_str()))
    }
}

/// The result of one run.
pub struct Report {
    pub figures: Figures,
    took: Duration,
    asked: Value,
}

impl Report {
    pub fn new(options: &Options, figures: Figures, took: Duration) -> Self {
        // Never the target: a password may be in it.
        let asked = json!({
            "clients": options.clients, "rate_per_second": options.rate, "arrivals": format!("{:?}", options.arrivals).to_lowercase(),
            "at_once": options.at_once, "transactions": options.transactions, "statements": options.statements,
            "pause_ms": options.pause.as_millis() as u64, "idle_ms": options.idle.as_millis() as u64, "vanish_percent": options.vanish,
            "write": options.write, "tls": format!("{:?}", options.tls).to_lowercase(), "seed": options.seed,
        });
        Self {
            figures,
            took,
            asked,
        }
    }

    pub fn json(&self) -> Value {
        let steps: serde_json::Map<String, Value> = STEPS
            .iter()
            .map(|(step, name)| (format!("{name}_ms"), self.step_json(*step)))
            .collect();
        let errors: serde_json::Map<String, Value> = self
            .figures
            .errors()
            .map(|(kind, count, text)| (kind.to_owned(), json!({"count": count, "first": text})))
            .collect();
        json!({
            "asked": self.asked, "took_seconds": self.took.as_secs_f64(), "arrived": self.figures.arrived, "failed": self.figures.failed,
            "unfinished": self.figures.unfinished, "steps": steps, "errors": errors,
        })
    }

    fn step_json(&self, step: Step) -> Value {
        let histogram = &self.figures.steps[step as usize];
        let ms = |micros: f64| micros / 1000.0;
        let mut entry = json!({"count": histogram.len(), "mean": ms(histogram.mean()), "max": ms(histogram.max() as f64)});
        for (percentile, name) in PERCENTILES {
            entry[name] = json!(ms(histogram.value_at_percentile(percentile) as f64));
        }
        entry
    }

    /// Text to standard output, JSON to its file; JSON alone to standard output where `-` asks for it there, the text to standard error.
    pub fn publish(&self, json: Option<&Path>) -> Result<(), StormError> {
        match json {
            Some(path) if path.as_os_str() == "-" => {
                eprint!("{self}");
                println!("{:#}", self.json());
            }
            Some(path) => {
                print!("{self}");
                std::fs::write(path, format!("{:#}\n", self.json())).map_err(|source| {
                    StormError::Write {
                        path: path.to_owned(),
                        source,
                    }
                })?;
            }
            None => print!("{self}"),
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = &self.figures;
        writeln!(
            f,
            "{} clients came in {:.1} s: {} failed, {} unfinished",
            figures.arrived,
            self.took.as_secs_f64(),
            figures.failed,
            figures.unfinished
        )?;
        writeln!(
            f,
            "{:18} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "milliseconds", "count", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (step, name) in STEPS {
            let histogram = &figures.steps[step as usize];
            write!(f, "{:18} {:>9}", name.replace('_', " "), histogram.len())?;
            for (percentile, _) in PERCENTILES {
                write!(
                    f,
                    " {:>9.2}",
                    histogram.value_at_percentile(percentile) as f64 / 1000.0
                )?;
            }
            writeln!(f, " {:>9.2}", histogram.max() as f64 / 1000.0)?;
        }
        for (kind, count, text) in figures.errors() {
            writeln!(f, "error {kind}: {count} ({text})")?;
        }
        if figures.at(Step::Generator, 99.0).1 > 50.0 {
            writeln!(
                f,
                "the generator itself was late: more clients a second than this machine can play"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(sqlstate: &str) -> Life {
        Life {
            times: vec![(Step::Connect, Duration::from_millis(2))],
            failure: Some(Failure::Said {
                sqlstate: sqlstate.into(),
                message: "no".into(),
            }),
        }
    }

    #[test]
    fn errors_are_counted_by_sqlstate() {
        let mut figures = Figures::default();
        for state in ["53300", "08001", "53300"] {
            figures.absorb(Some(said(state)));
        }
        figures.absorb(Some(Life {
            times: vec![],
            failure: Some(Failure::Timeout),
        }));
        let counts: Vec<(&str, u64)> = figures
            .errors()
            .map(|(kind, count, _)| (kind, count))
            .collect();
        assert_eq!(counts, [("08001", 1), ("53300", 2), ("timeout", 1)]);
        assert_eq!((figures.failed, figures.at(Step::Connect, 50.0).0), (4, 3));
    }

    #[test]
    fn kinds_of_error_are_bounded() {
        let mut figures = Figures::default();
        for number in 0..1000 {
            figures.absorb(Some(said(&format!("{number:05}"))));
        }
        assert_eq!(figures.errors().count(), MOST_KINDS + 1);
        assert_eq!(
            figures.errors().map(|(_, count, _)| count).sum::<u64>(),
            1000
        );
    }

    #[test]
    fn a_time_out_of_range_is_recorded_at_the_edge() {
        let mut figures = Figures::default();
        figures.record(Step::Transaction, Duration::from_secs(100_000));
        figures.record(Step::Transaction, Duration::ZERO);
        assert_eq!(figures.at(Step::Transaction, 100.0).0, 2);
    }
}
