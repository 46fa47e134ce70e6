//! Keeps counts as atomics and renders them as Prometheus text.
//!
//! Knows no metric of Weir's own. Recording is one or two relaxed additions: no lock, no allocation, nothing that
//! grows between scrapes; the lock is for making handles and for rendering.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn};

/// Upper bounds of a histogram's buckets in seconds, 50 us to 300 s; whatever is above counts in `+Inf`.
pub const BOUNDS: [f64; 22] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
];

/// Distinct label sets of one metric; a client that names ever new databases must not fill our memory, or
/// Prometheus'. What comes after counts under the label value "other".
pub const MAX_SERIES: usize = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric: its name (with unit), kind, and what it says.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// All series of a process. One for the house, passed down.
#[derive(Default)]
pub struct Registry {
    families: Mutex<BTreeMap<&'static str, Family>>,
}

struct Family {
    metric: Metric,
    /// By labels as rendered, without braces.
    series: BTreeMap<String, Series>,
}

/// One label set. Each holder of a handle has a cell of its own, so that workers don't share cache lines; what a
/// holder that has gone counted stays in `gone`.
#[derive(Default)]
struct Series {
    gone: Sum,
    cells: Vec<Arc<[AtomicU64]>>,
}

impl Registry {
    pub fn counter(&self, metric: Metric, labels: Labels<'_>) -> Counter {
        Counter::from_arc(self.shared(metric, labels, 1))
    }

    /// For what goes up and down by whole numbers; `set` is for a gauge with a single holder.
    pub fn gauge(&self, metric: Metric, labels: Labels<'_>) -> Gauge {
        Gauge::from_arc(self.shared(metric, labels, 1))
    }

    pub fn histogram(&self, metric: Metric, labels: Labels<'_>) -> Histogram {
        Histogram::from_arc(self.shared(metric, labels, BOUNDS.len() + 2))
    }

    /// A counter for one thread.
    pub fn tally(&self, metric: Metric, labels: Labels<'_>) -> Tally {
        Tally(Alone::new(self.cells(metric, labels, 1)))
    }

    /// A histogram for one thread.
    pub fn lengths(&self, metric: Metric, labels: Labels<'_>) -> Lengths {
        Lengths(Alone::new(self.cells(metric, labels, BOUNDS.len() + 2)))
    }

    /// Puts `values` in place of all series of a gauge: what is not named any more is gone.
    pub fn replace<'a>(
        &self,
        metric: Metric,
        values: impl IntoIterator<Item = (Vec<(&'static str, &'a str)>, u64)>,
    ) {
        let mut families = self.families();
        let family = families.entry(metric.name).or_insert(Family::new(metric));
        family.series.clear();
        for (labels, value) in values {
            // Adds, since several may have become "other".
            let gone = &mut family.series(&labels).gone;
            gone.resize(1);
            gone.0
                .iter_mut()
                .for_each(|sum| *sum = sum.wrapping_add(value));
        }
    }

    /// In Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(64 * 1024);
        for family in self.families().values() {
            family.render(&mut out);
        }
        out
    }

    fn shared(&self, metric: Metric, labels: Labels<'_>, len: usize) -> Arc<Cells> {
        Arc::new(Cells(self.cells(metric, labels, len)))
    }

    fn cells(&self, metric: Metric, labels: Labels<'_>, len: usize) -> Arc<[AtomicU64]> {
        let cells: Arc<[_]> = (0..len).map(|_| AtomicU64::new(0)).collect();
        let mut families = self.families();
        let family = families.entry(metric.name).or_insert(Family::new(metric));
        family.series(labels).hold(Arc::clone(&cells));
        cells
    }

    fn families(&self) -> MutexGuard<'_, BTreeMap<&'static str, Family>> {
        // Counts stay good whatever panicked.
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Family {
    fn new(metric: Metric) -> Self {
        Self {
            metric,
            series: BTreeMap::new(),
        }
    }

    fn series(&mut self, labels: Labels<'_>) -> &mut Series {
        let mut key = rendered(labels.iter().copied());
        if !self.series.contains_key(&key) && self.series.len() >= MAX_SERIES {
            key = rendered(labels.iter().map(|(name, _)| (*name, "other")));
        }
        self.series.entry(key).or_default()
    }

    fn render(&self, out: &mut String) {
        let Metric { name, kind, help } = self.metric;
        let kind_word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind_word}\n");
        for (labels, series) in &self.series {
            let sum = series.sum();
            match kind {
                Kind::Counter | Kind::Gauge => {
                    // Two's complement: a gauge that one holder raised and another lowered adds up.
                    let value = sum.0.first().copied().unwrap_or(0).cast_signed();
                    let _ = writeln!(out, "{name}{} {value}", braced(labels));
                }
                Kind::Histogram => render_histogram(out, name, labels, &sum),
            }
        }
    }
}

fn render_histogram(out: &mut String, name: &str, labels: &str, sum: &Sum) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut below = 0;
    let bounds = BOUNDS.iter().map(f64::to_string);
    for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&sum.0) {
        below += count;
        let _ = writeln!(
            out,
            "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}"
        );
    }
    let nanoseconds = sum.0.last().copied().unwrap_or(0);
    #[expect(
        clippy::cast_precision_loss,
        reason = "2^53 ns are 104 days; the rest rounds"
    )]
    let seconds = nanoseconds as f64 / 1e9;
    let _ = writeln!(out, "{name}_sum{} {seconds}", braced(labels));
    let _ = writeln!(out, "{name}_count{} {below}", braced(labels));
}

fn braced(labels: &str) -> String {
    if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    }
}

fn rendered<'a>(labels: impl Iterator<Item = (&'static str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in labels {
        let comma = if out.is_empty() { "" } else { "," };
        let _ = write!(out, "{comma}{name}=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}

impl Series {
    fn hold(&mut self, cells: Arc<[AtomicU64]>) {
        let (alive, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.cells)
            .into_iter()
            .partition(|c| Arc::strong_count(c) > 1);
        for cells in left {
            self.gone.add(&cells);
        }
        self.cells = alive;
        self.cells.push(cells);
    }

    fn sum(&self) -> Sum {
        let mut sum = self.gone.clone();
        for cells in &self.cells {
            sum.add(cells);
        }
        sum
    }
}

#[derive(Clone, Debug, Default)]
struct Sum(Vec<u64>);

impl Sum {
    fn resize(&mut self, len: usize) {
        if self.0.len() < len {
            self.0.resize(len, 0);
        }
    }

    fn add(&mut self, cells: &[AtomicU64]) {
        self.resize(cells.len());
        for (sum, cell) in self.0.iter_mut().zip(cells) {
            *sum = sum.wrapping_add(cell.load(Relaxed));
        }
    }
}

/// A count; or the buckets of a histogram, `+Inf`, and the sum in nanoseconds.
struct Cells(Arc<[AtomicU64]>);

impl Cells {
    fn add(&self, index: usize, value: u64) {
        if let Some(cell) = self.0.get(index) {
            cell.fetch_add(value, Relaxed);
        }
    }
}

/// The same with a single writer, which spares it the locked instructions: it never leaves its thread.
struct Alone {
    cells: Arc<[AtomicU64]>,
    _stays: PhantomData<*const ()>,
}

impl Alone {
    fn new(cells: Arc<[AtomicU64]>) -> Alone {
        Alone {
            cells,
            _stays: PhantomData,
        }
    }

    #[inline]
    fn add(&self, index: usize, value: u64) {
        if let Some(cell) = self.cells.get(index) {
            cell.store(cell.load(Relaxed).wrapping_add(value), Relaxed);
        }
    }
}

/// A counter for one thread.
pub struct Tally(Alone);

impl Tally {
    #[inline]
    pub fn add(&self, value: u64) {
        self.0.add(0, value);
    }
}

/// A histogram for one thread.
pub struct Lengths(Alone);

impl Lengths {
    #[inline]
    pub fn record(&self, length: Duration) {
        let nanoseconds = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NS.iter().take_while(|bound| **bound < nanoseconds);
        self.0.add(bucket.count(), 1);
        self.0.add(BOUNDS.len() + 1, nanoseconds);
    }
}

/// `BOUNDS` in nanoseconds.
const BOUNDS_NS: [u64; BOUNDS.len()] = {
    let mut bounds = [0; BOUNDS.len()];
    let mut place = 0;
    while place < bounds.len() {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small and positive"
        )]
        let nanoseconds = (BOUNDS[place] * 1e9 + 0.5) as u64;
        bounds[place] = nanoseconds;
        place += 1;
    }
    bounds
};

impl CounterFn for Cells {
    fn increment(&self, value: u64) {
        self.add(0, value);
    }

    fn absolute(&self, value: u64) {
        if let Some(cell) = self.0.first() {
            cell.fetch_max(value, Relaxed);
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "gauges here count whole things"
)]
impl GaugeFn for Cells {
    fn increment(&self, value: f64) {
        self.add(0, (value as i64).cast_unsigned());
    }

    fn decrement(&self, value: f64) {
        self.add(0, (value as i64).wrapping_neg().cast_unsigned());
    }

    fn set(&self, value: f64) {
        if let Some(cell) = self.0.first() {
            cell.store((value as i64).cast_unsigned(), Relaxed);
        }
    }
}

impl HistogramFn for Cells {
    fn record(&self, seconds: f64) {
        self.add(BOUNDS.partition_point(|bound| *bound < seconds), 1);
        // `as` saturates; NaN and negative lengths count as none.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "said above"
        )]
        self.add(BOUNDS.len() + 1, (seconds * 1e9) as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const fn metric(name: &'static str, kind: Kind) -> Metric {
        Metric {
            name,
            kind,
            help: "For a test.",
        }
    }

    #[test]
    fn counters_of_several_holders_add_up_and_outlive_them() {
        let registry = Registry::default();
        let c = metric("c_total", Kind::Counter);
        let first = registry.counter(c, &[("a", "x\"\\\n")]);
        first.increment(2);
        let second = registry.counter(c, &[("a", "x\"\\\n")]);
        second.increment(3);
        drop(first);
        for _ in 0..100 {
            registry.counter(c, &[("a", "x\"\\\n")]).increment(1);
        }
        assert_eq!(
            registry.render(),
            "# HELP c_total For a test.\n# TYPE c_total counter\nc_total{a=\"x\\\"\\\\\\n\"} 105\n"
        );
        let held = registry.families()["c_total"]
            .series
            .values()
            .next()
            .unwrap()
            .cells
            .len();
        assert!(held <= 2, "{held} cells for one living holder");
    }

    #[test]
    fn gauges_go_down_too() {
        let registry = Registry::default();
        let g = metric("g", Kind::Gauge);
        let (one, other) = (registry.gauge(g, &[]), registry.gauge(g, &[]));
        one.increment(5);
        other.decrement(2);
        assert!(registry.render().ends_with("\ng 3\n"));
        other.decrement(4);
        assert!(registry.render().ends_with("\ng -1\n"));
    }

    #[test]
    fn histograms_are_cumulative() {
        let registry = Registry::default();
        let h = registry.histogram(metric("h_seconds", Kind::Histogram), &[("p", "q")]);
        for ms in [0, 1, 1, 30, 400_000] {
            h.record(Duration::from_millis(ms));
        }
        h.record(f64::NAN);
        let text = registry.render();
        for line in [
            "h_seconds_bucket{p=\"q\",le=\"0.00005\"} 2",
            "h_seconds_bucket{p=\"q\",le=\"0.0005\"} 2",
            "h_seconds_bucket{p=\"q\",le=\"0.001\"} 4",
            "h_seconds_bucket{p=\"q\",le=\"0.05\"} 5",
            "h_seconds_bucket{p=\"q\",le=\"300\"} 5",
            "h_seconds_bucket{p=\"q\",le=\"+Inf\"} 6",
            "h_seconds_sum{p=\"q\"} 400.032",
            "h_seconds_count{p=\"q\"} 6",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn series_are_bounded() {
        let registry = Registry::default();
        let c = metric("c_total", Kind::Counter);
        for n in 0..MAX_SERIES + 7 {
            registry
                .counter(c, &[("database", &n.to_string())])
                .increment(1);
        }
        let text = registry.render();
        assert_eq!(text.lines().count(), 2 + MAX_SERIES + 1);
        assert!(text.contains("c_total{database=\"other\"} 7\n"), "{text}");
    }

    #[test]
    fn replaced_gauges_forget_what_has_gone() {
        let registry = Registry::default();
        let g = metric("g", Kind::Gauge);
        registry.replace(g, [(vec![("a", "1")], 4), (vec![("a", "2")], 5)]);
        registry.replace(g, [(vec![("a", "2")], 6)]);
        assert!(registry.render().ends_with("gauge\ng{a=\"2\"} 6\n"));
    }
}
