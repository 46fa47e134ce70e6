//! Every metric: its name, unit, meaning, and the handle through which it is counted.
//!
//! Knows nothing of who counts. Handles are made once by their holder (a worker, a pool on a worker), not per event.

mod registry;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::Blame;
use crate::protocol::SqlState;

pub use metrics::{Counter, Gauge, Histogram};
pub use registry::{Kind, Lengths, Metric, Registry, Tally};

/// Declares metrics, and `ALL` of them for the reference.
macro_rules! metrics {
    ($( $CONST:ident = $kind:ident $name:literal, $help:literal; )+) => {
        $( const $CONST: Metric = Metric { name: $name, kind: Kind::$kind, help: $help }; )+
        /// Every metric there is.
        pub const ALL: &[Metric] = &[$($CONST),+];
    };
}

metrics! {
    CLIENTS = Gauge "weir_client_connections", "Clients connected now, by TLS.";
    ACCEPTED = Counter "weir_client_connections_accepted_total", "Connections accepted from clients.";
    REFUSED = Counter "weir_client_connections_refused_total", "Clients refused before they were logged in, by SQLSTATE.";
    LOGINS = Counter "weir_client_logins_total", "Clients that logged in.";
    LOGINS_FAILED = Counter "weir_client_logins_failed_total", "Logins that failed, by reason.";
    AUTH = Counter "weir_auth_total", "Proofs that clients were asked for, by method, result (accepted, refused) and reason of the refusal.";
    HANDSHAKE = Histogram "weir_client_handshake_seconds", "From a client's connecting to the end of its login.";
    ERRORS = Counter "weir_client_errors_total", "Errors of Weir's own sent to clients, by SQLSTATE and by whose fault they are.";
    SERVERS_LOST = Counter "weir_client_servers_lost_total", "Clients whose connection was lost under them, by what became of their work: nothing, transaction (undone), unknown (a commit without an answer), session (closed).";
    READ_ONLY = Counter "weir_client_read_only_transactions_total", "Read-only transactions of the writer listener's clients with cluster.read_only_transactions = \"readers\", by who served them (reader, writer) and why the writer did: no_reader (none is fit), own_write (no reader has what the client itself wrote), reader_failed (at the first statement, which was not lost with it), statement (not one for readers), isolation (serializable).";
    CANCELS_RECEIVED = Counter "weir_cancels_received_total", "Cancel requests received.";
    CANCELS_FORWARDED = Counter "weir_cancels_forwarded_total", "Cancel requests passed on to a server.";
    CANCELS_IGNORED = Counter "weir_cancels_ignored_total", "Cancel requests with an unknown key or nothing to cancel.";

    FLEET_TASKS = Gauge "weir_fleet_tasks", "Tasks that divide the connections, this one included, as it sees them.";
    FLEET_CANCELS_SENT = Counter "weir_fleet_cancels_sent_total", "Cancel requests passed on to the task that has their session.";
    FLEET_CANCELS_RECEIVED = Counter "weir_fleet_cancels_received_total", "Cancel requests that other tasks passed on.";
    FLEET_STRANGERS = Counter "weir_fleet_strangers_total", "Connections to fleet.listen from somebody without its key.";

    BORROWS = Counter "weir_pool_borrows_total", "Connections asked for, whether or not one was got.";
    BORROW_SECONDS = Histogram "weir_pool_borrow_seconds", "How long clients waited for a connection they got.";
    QUERY_SECONDS = Histogram "weir_pool_query_seconds", "From a unit sent to its ReadyForQuery.";
    TRANSACTIONS = Counter "weir_pool_transactions_total", "Transactions that ended, single statements included.";
    OPENED = Counter "weir_pool_connections_opened_total", "Connections opened to the database.";
    OPEN_FAILED = Counter "weir_pool_connections_failed_total", "Connections that could not be opened, by reason.";
    CLOSED = Counter "weir_pool_connections_closed_total", "Connections closed, by reason.";
    PINS = Counter "weir_pool_pins_total", "Sessions pinned to a connection, by reason.";
    PINS_REFUSED = Counter "weir_pool_pins_refused_total", "Sessions closed because their pool had as many pinned ones as pool.pin_limit allows, by reason.";
    PIN_SECONDS = Histogram "weir_pool_pin_seconds", "How long pins lasted that have ended, by reason.";
    RESETS = Counter "weir_pool_resets_total", "Connections cleaned of what a client left.";
    LISTENING = Gauge "weir_pool_listening_connections", "Connections that listen (LISTEN) for clients, among those lent.";
    LISTEN_MOVES = Counter "weir_pool_listen_moves_total", "Clients whose channels moved to the connection that listens for them.";
    NOTIFICATIONS = Counter "weir_pool_notifications_total", "Notifications passed to clients by the connection that listens for them.";
    LISTEN_OVERFLOWS = Counter "weir_pool_listen_overflows_total", "Clients closed because they did not read their notifications.";
    RECEIVED = Counter "weir_pool_received_bytes_total", "Bytes received from clients.";
    SENT = Counter "weir_pool_sent_bytes_total", "Bytes sent to clients.";

    SECRET_FETCHES = Counter "weir_secret_fetches_total", "Rounds of fetching a secret from Secrets Manager, by outcome.";
    USER_QUERIES = Counter "weir_user_queries_total", "Users looked up in the database, by outcome.";

    IDLE = Gauge "weir_pool_idle_connections", "Connections open and lent to nobody.";
    LEASED = Gauge "weir_pool_leased_connections", "Connections lent to clients, pinned ones included.";
    PINNED = Gauge "weir_pool_pinned_connections", "Connections pinned to a client.";
    OPENING = Gauge "weir_pool_opening_connections", "Connections being opened.";
    WAITING = Gauge "weir_pool_waiting_clients", "Clients waiting for a connection.";
    TARGET_CAP = Gauge "weir_target_max_connections", "Connections that Weir may have to the target.";
    TARGET_USED = Gauge "weir_target_connections", "Connections that Weir has to the target, opening and closing ones included.";
    FAILOVERS = Counter "weir_cluster_failovers_total", "Times that another instance became the writer.";
    REFUSED_WRITERS = Counter "weir_cluster_refused_writers_total", "Times that an instance claimed to be the writer beside another, and was refused.";
    BUILD = Gauge "weir_build_info", "1, with the version as a label.";
}

/// What is counted per worker about those who dialled us.
pub struct Clients {
    in_clear: Gauge,
    over_tls: Gauge,
    /// Connections accepted.
    pub accepted: Counter,
    /// Logins that succeeded.
    pub logins: Counter,
    /// First byte to end of login, seconds.
    pub handshake: Histogram,
    pub cancels_received: Counter,
    pub cancels_forwarded: Counter,
    pub cancels_ignored: Counter,
    refused: Labelled<Counter>,
    logins_failed: Labelled<Counter>,
    errors: Labelled<Counter>,
    servers_lost: Labelled<Counter>,
    read_only: Labelled<Counter>,
}

/// What is counted about where credentials come from.
#[derive(Clone)]
pub struct Vault {
    fetches: Arc<Labelled<Counter>>,
    queries: Arc<Labelled<Counter>>,
}

impl Vault {
    pub fn new(registry: &Arc<Registry>) -> Vault {
        let labelled = |metric| Arc::new(Labelled::new(registry, metric, &[]));
        Vault {
            fetches: labelled(SECRET_FETCHES),
            queries: labelled(USER_QUERIES),
        }
    }

    pub fn fetched(&self, outcome: &'static str) {
        self.fetches.count(&[("outcome", outcome)]);
    }

    pub fn queried(&self, outcome: &'static str) {
        self.queries.count(&[("outcome", outcome)]);
    }
}

/// Whether a client came over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    InClear,
    Tls,
}

impl Clients {
    pub fn new(registry: &Arc<Registry>) -> Self {
        let labelled = |metric| Labelled::new(registry, metric, &[]);
        Self {
            in_clear: registry.gauge(CLIENTS, &[("tls", "false")]),
            over_tls: registry.gauge(CLIENTS, &[("tls", "true")]),
            accepted: registry.counter(ACCEPTED, &[]),
            logins: registry.counter(LOGINS, &[]),
            handshake: registry.histogram(HANDSHAKE, &[]),
            cancels_received: registry.counter(CANCELS_RECEIVED, &[]),
            cancels_forwarded: registry.counter(CANCELS_FORWARDED, &[]),
            cancels_ignored: registry.counter(CANCELS_IGNORED, &[]),
            refused: labelled(REFUSED),
            logins_failed: labelled(LOGINS_FAILED),
            errors: labelled(ERRORS),
            servers_lost: labelled(SERVERS_LOST),
            read_only: labelled(READ_ONLY),
        }
    }

    /// Clients connected now.
    pub fn connected(&self, transport: Transport) -> &Gauge {
        match transport {
            Transport::InClear => &self.in_clear,
            Transport::Tls => &self.over_tls,
        }
    }

    /// A client was refused before it was logged in.
    pub fn refused(&self, sqlstate: SqlState) {
        self.refused.count(&[("sqlstate", sqlstate.as_str())]);
    }

    /// `reason` is one of a few fixed words, never what the client sent.
    pub fn login_failed(&self, reason: &'static str) {
        self.logins_failed.count(&[("reason", reason)]);
    }

    /// A client's connection was lost under it.
    pub fn server_lost(&self, outcome: &'static str) {
        self.servers_lost.count(&[("outcome", outcome)]);
    }

    /// A reader serves a read-only transaction of a writer's client.
    pub fn read_only_at_reader(&self) {
        self.read_only
            .count(&[("served_by", "reader"), ("reason", "")]);
    }

    /// The writer does; `reason` is one of a few fixed words.
    pub fn read_only_at_writer(&self, reason: &'static str) {
        self.read_only
            .count(&[("served_by", "writer"), ("reason", reason)]);
    }

    /// A client was sent an error of Weir's own.
    pub fn error(&self, sqlstate: SqlState, blame: Blame) {
        let blame = match blame {
            Blame::Client => "client",
            Blame::Server => "server",
            Blame::Proxy => "proxy",
        };
        self.errors
            .count(&[("sqlstate", sqlstate.as_str()), ("blame", blame)]);
    }
}

/// What is counted about the cluster.
pub struct Cluster {
    pub failovers: Counter,
    pub refused_writers: Counter,
}

impl Cluster {
    pub fn new(registry: &Arc<Registry>) -> Self {
        Self {
            failovers: registry.counter(FAILOVERS, &[]),
            refused_writers: registry.counter(REFUSED_WRITERS, &[]),
        }
    }
}

/// What is counted of a fleet.
pub struct Fleet {
    pub tasks: Gauge,
    pub cancels_sent: Counter,
    pub cancels_received: Counter,
    pub strangers: Counter,
}

impl Fleet {
    pub fn new(registry: &Arc<Registry>) -> Self {
        let counter = |metric| registry.counter(metric, &[]);
        Self {
            tasks: registry.gauge(FLEET_TASKS, &[]),
            cancels_sent: counter(FLEET_CANCELS_SENT),
            cancels_received: counter(FLEET_CANCELS_RECEIVED),
            strangers: counter(FLEET_STRANGERS),
        }
    }
}

/// What is counted with each query, by one worker of one pool.
pub struct Traffic {
    pub borrows: Tally,
    /// What those waited who got a connection.
    pub borrow_seconds: Lengths,
    /// From a unit sent to its ReadyForQuery.
    pub query_seconds: Lengths,
    pub transactions: Tally,
    /// Bytes from clients.
    pub received: Tally,
    /// Bytes to clients.
    pub sent: Tally,
}

impl Traffic {
    pub fn new(registry: &Registry, target: &str, database: &str, user: &str) -> Self {
        let labels = pool_labels(target, database, user);
        Self {
            borrows: registry.tally(BORROWS, &labels),
            borrow_seconds: registry.lengths(BORROW_SECONDS, &labels),
            query_seconds: registry.lengths(QUERY_SECONDS, &labels),
            transactions: registry.tally(TRANSACTIONS, &labels),
            received: registry.tally(RECEIVED, &labels),
            sent: registry.tally(SENT, &labels),
        }
    }
}

/// What is counted of proofs, over all workers.
pub struct Auth(Labelled<Counter>);

impl Auth {
    pub fn new(registry: &Arc<Registry>) -> Self {
        Self(Labelled::new(registry, AUTH, &[]))
    }

    /// `method` is one of a few fixed words, such as `scram-sha-256`.
    pub fn accepted(&self, method: &'static str) {
        self.count(method, "accepted", "");
    }

    /// `reason` is one of a few fixed words too, never what the client sent.
    pub fn refused(&self, method: &'static str, reason: &'static str) {
        self.count(method, "refused", reason);
    }

    fn count(&self, method: &'static str, result: &'static str, reason: &'static str) {
        let labels = [("method", method), ("result", result), ("reason", reason)];
        self.0.count(&labels);
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth")
    }
}

/// What else is counted per pool.
pub struct Pool {
    pub opened: Counter,
    pub resets: Counter,
    /// Connections that listen for clients now.
    pub listening: Gauge,
    pub listen_moves: Counter,
    pub notifications: Counter,
    pub listen_overflows: Counter,
    open_failed: Labelled<Counter>,
    closed: Labelled<Counter>,
    pins: Labelled<Counter>,
    pins_refused: Labelled<Counter>,
    pin_seconds: Labelled<Histogram>,
}

impl Pool {
    pub fn new(registry: &Arc<Registry>, target: &str, database: &str, user: &str) -> Self {
        let labels = pool_labels(target, database, user);
        let counter = |metric| registry.counter(metric, &labels);
        let labelled = |metric| Labelled::new(registry, metric, &labels);
        Self {
            opened: counter(OPENED),
            resets: counter(RESETS),
            listening: registry.gauge(LISTENING, &labels),
            listen_moves: counter(LISTEN_MOVES),
            notifications: counter(NOTIFICATIONS),
            listen_overflows: counter(LISTEN_OVERFLOWS),
            open_failed: labelled(OPEN_FAILED),
            closed: labelled(CLOSED),
            pins: labelled(PINS),
            pins_refused: labelled(PINS_REFUSED),
            pin_seconds: Labelled::new(registry, PIN_SECONDS, &labels),
        }
    }

    /// A connection could not be opened; `reason` is one of a few fixed words.
    pub fn open_failed(&self, reason: &'static str) {
        self.open_failed.count(&[("reason", reason)]);
    }

    pub fn closed(&self, reason: &'static str) {
        self.closed.count(&[("reason", reason)]);
    }

    pub fn pinned(&self, reason: &'static str) {
        self.pins.count(&[("reason", reason)]);
    }

    /// A session was closed that would have been pinned.
    pub fn pin_refused(&self, reason: &'static str) {
        self.pins_refused.count(&[("reason", reason)]);
    }

    pub fn pin_ended(&self, reason: &'static str, lasted: Duration) {
        self.pin_seconds
            .with(&[("reason", reason)], |seconds| seconds.record(lasted));
    }
}

fn pool_labels<'a>(
    target: &'a str,
    database: &'a str,
    user: &'a str,
) -> [(&'static str, &'a str); 3] {
    [("target", target), ("database", database), ("user", user)]
}

/// A pool at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct PoolNow<'a> {
    pub target: &'a str,
    pub database: &'a str,
    pub user: &'a str,
    pub idle: u64,
    pub leased: u64,
    pub pinned: u64,
    pub opening: u64,
    pub waiting: u64,
}

/// A target at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct TargetNow<'a> {
    pub target: &'a str,
    pub cap: u64,
    pub used: u64,
}

/// Prometheus text of all that was counted, with the state of now.
pub fn scrape(registry: &Registry, pools: &[PoolNow<'_>], targets: &[TargetNow<'_>]) -> String {
    type Read = fn(&PoolNow<'_>) -> u64;
    let of_pools: [(Metric, Read); 5] = [
        (IDLE, |p| p.idle),
        (LEASED, |p| p.leased),
        (PINNED, |p| p.pinned),
        (OPENING, |p| p.opening),
        (WAITING, |p| p.waiting),
    ];
    for (metric, read) in of_pools {
        let values = pools.iter().map(|p| {
            let labels = pool_labels(p.target, p.database, p.user);
            (labels.to_vec(), read(p))
        });
        registry.replace(metric, values);
    }
    fn named<'a>(t: &TargetNow<'a>) -> Vec<(&'static str, &'a str)> {
        vec![("target", t.target)]
    }
    registry.replace(TARGET_CAP, targets.iter().map(|t| (named(t), t.cap)));
    registry.replace(TARGET_USED, targets.iter().map(|t| (named(t), t.used)));
    registry.replace(BUILD, [(vec![("version", env!("CARGO_PKG_VERSION"))], 1)]);
    registry.render()
}

/// Handles of one metric that differ in labels known only when something happens. For rare events: a short
/// search under a lock that only this holder takes.
struct Labelled<H> {
    registry: Arc<Registry>,
    metric: Metric,
    fixed: Vec<(&'static str, String)>,
    handles: Mutex<Vec<(Vec<&'static str>, H)>>,
}

/// What counts in a series.
trait Handle: Sized {
    fn new(registry: &Registry, metric: Metric, labels: &[(&'static str, &str)]) -> Self;
}

impl Handle for Counter {
    fn new(registry: &Registry, metric: Metric, labels: &[(&'static str, &str)]) -> Self {
        registry.counter(metric, labels)
    }
}

impl Handle for Histogram {
    fn new(registry: &Registry, metric: Metric, labels: &[(&'static str, &str)]) -> Self {
        registry.histogram(metric, labels)
    }
}

impl Labelled<Counter> {
    fn count(&self, labels: &[(&'static str, &'static str)]) {
        self.with(labels, |counter| counter.increment(1));
    }
}

impl<H: Handle> Labelled<H> {
    fn new(registry: &Arc<Registry>, metric: Metric, fixed: &[(&'static str, &str)]) -> Self {
        Self {
            registry: registry.clone(),
            metric,
            fixed: fixed.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
            handles: Mutex::new(Vec::new()),
        }
    }

    fn with(&self, labels: &[(&'static str, &'static str)], record: impl Fn(&H)) {
        let key = labels.iter().map(|(_, value)| *value);
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        let known = handles
            .iter()
            .find(|(values, _)| values.iter().copied().eq(key.clone()));
        if let Some((_, handle)) = known {
            return record(handle);
        }
        let fixed = self.fixed.iter().map(|(k, v)| (*k, v.as_str()));
        let all: Vec<_> = fixed.chain(labels.iter().copied()).collect();
        let handle = H::new(&self.registry, self.metric, &all);
        record(&handle);
        // Bounded by what our own code can say: every label is a literal of it.
        handles.push((key.collect(), handle));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_have_prefix_and_unit() {
        for metric in ALL {
            assert!(metric.name.starts_with("weir_"), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            let right = match metric.kind {
                Kind::Counter => metric.name.ends_with("_total"),
                Kind::Histogram => metric.name.ends_with("_seconds"),
                Kind::Gauge => !metric.name.ends_with("_total"),
            };
            assert!(right, "{}", metric.name);
        }
        let mut names: Vec<_> = ALL.iter().map(|m| m.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn what_was_counted_is_scraped() {
        let registry = Arc::new(Registry::default());
        let (clients, pool) = (
            Clients::new(&registry),
            Pool::new(&registry, "db:5432", "orders", "app"),
        );
        let auth = Auth::new(&registry);
        auth.accepted("md5");
        auth.refused("md5", "wrong_password");
        auth.refused("md5", "wrong_password");
        let workers = [(); 2].map(|()| Traffic::new(&registry, "db:5432", "orders", "app"));
        clients.connected(Transport::Tls).increment(1);
        clients.error(SqlState::TOO_MANY_CONNECTIONS, Blame::Proxy);
        clients.error(SqlState::TOO_MANY_CONNECTIONS, Blame::Proxy);
        clients.error(SqlState::TOO_MANY_CONNECTIONS, Blame::Client);
        for worker in &workers {
            worker.borrows.add(1);
            worker.borrow_seconds.record(Duration::from_micros(80));
        }
        pool.closed("lifetime");
        pool.closed("lifetime");
        let now = PoolNow {
            target: "db:5432",
            database: "orders",
            user: "app",
            idle: 3,
            waiting: 2,
            ..PoolNow::default()
        };
        let target = TargetNow {
            target: "db:5432",
            cap: 20,
            used: 3,
        };
        let text = scrape(&registry, &[now], &[target]);
        let of = "target=\"db:5432\",database=\"orders\",user=\"app\"";
        for line in [
            "weir_auth_total{method=\"md5\",result=\"accepted\",reason=\"\"} 1".to_owned(),
            "weir_auth_total{method=\"md5\",result=\"refused\",reason=\"wrong_password\"} 2"
                .to_owned(),
            "weir_client_connections{tls=\"true\"} 1".to_owned(),
            "weir_client_connections{tls=\"false\"} 0".to_owned(),
            "weir_client_errors_total{sqlstate=\"53300\",blame=\"proxy\"} 2".to_owned(),
            "weir_client_errors_total{sqlstate=\"53300\",blame=\"client\"} 1".to_owned(),
            format!("weir_pool_borrows_total{{{of}}} 2"),
            format!("weir_pool_borrow_seconds_bucket{{{of},le=\"0.0001\"}} 2"),
            format!("weir_pool_connections_closed_total{{{of},reason=\"lifetime\"}} 2"),
            format!("weir_pool_idle_connections{{{of}}} 3"),
            format!("weir_pool_waiting_clients{{{of}}} 2"),
            "weir_target_max_connections{target=\"db:5432\"} 20".to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
