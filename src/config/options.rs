//! Every option: name, default, range, environment variables, doc. The README's table is made of this file.
//!
//! Knows the file's shape, not which settings contradict each other: that is `check`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::HostPort;
use super::address::{
    Address, HostMaybePort, HostPattern, Hosts, Network, Networks, One, Pattern, Servers,
};
use super::arn::{Arn, Arns, SecretArn};
use super::given::Builtin::{Absent, Is, Required};
use super::iam::{IamAurora, IamMapping, IamMode, IamShape, JwtShape, StaticShape, StsShape};
use super::parse::{
    AnyOf, Filter, Hidden, Length, Maybe, Names, Number, Off, OneOf, Path, Size, Text, Word,
};
use super::secret::Secret;
use super::section::{Opt, Section, section};

pub(super) const KIB: usize = 1 << 10;
const GIB: usize = 1 << 30;

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
pub(super) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
const DAY: Duration = secs(86_400);

section! {
    /// The process as a whole.
    pub struct House in "" {
        /// Worker threads, each with its own listeners and event loop.
        workers: Option<usize> = Absent("the cores that the container may use"), Maybe(Number(1, 256)), ["WEIR_WORKERS"];
        /// After SIGTERM, how long transactions may take to finish before their clients are closed.
        drain_timeout: Duration = Is("30s"), Length(secs(0), secs(3_600)), [];
        /// After SIGTERM, how long Weir goes on accepting clients while `/ready` already says no, for load balancers to notice.
        drain_delay: Duration = Is("0s"), Length(secs(0), secs(300)), [];
    }
}

section! {
    /// Where Weir listens.
    pub struct Listen in "listen." {
        /// The listener for everything.
        writer: SocketAddr = Is("0.0.0.0:5432"), Address, ["WEIR_LISTEN"];
        /// The listener for readers; opens only where a reader host, more than one host, or a cluster's endpoint is given.
        reader: SocketAddr = Is("0.0.0.0:5433"), Address, ["WEIR_READER_LISTEN"];
        /// The HTTP listener: health, readiness, metrics, pools, reload. Without authentication: keep it inside.
        http: SocketAddr = Is("0.0.0.0:8080"), Address, ["WEIR_HTTP_LISTEN"];
        /// Clients at a time, over all listeners; the next one is told 53300.
        max_clients: usize = Is("10000"), Number(1, 1_000_000), [];
        /// Connections that the kernel holds until Weir accepts them.
        backlog: u32 = Is("4096"), Number(1, 65_535), [];
        /// Load balancers whose connections begin with a PROXY protocol v2 header that says who the client is: required of them, and of nobody else.
        proxy_protocol_from: Vec<Network> = Absent("none"), Networks, ["WEIR_PROXY_PROTOCOL_FROM"];
    }
}

section! {
    /// TLS for clients.
    pub(super) struct TlsShape in "tls." {
        /// Certificate chain, PEM; re-read on reload.
        cert: Option<PathBuf> = Absent("self-signed, made at start"), Maybe(Path), ["WEIR_TLS_CERT"];
        /// The certificate's private key, PEM.
        key: Option<PathBuf> = Absent("self-signed, made at start"), Maybe(Path), ["WEIR_TLS_KEY"];
        /// Whether clients without TLS are refused.
        require: TlsMode = Is("false"), OneOf::<TlsMode>::new(), ["WEIR_REQUIRE_TLS"];
        /// Authorities whose certificates clients may show, PEM; re-read on reload. Whoever shows another one is refused, whoever shows none is not.
        client_ca_file: Option<PathBuf> = Absent("clients are asked for no certificate"), Maybe(Path), ["WEIR_TLS_CLIENT_CA"];
        /// Certificates that those authorities have revoked (CRL), PEM; re-read on reload.
        crl_file: Option<PathBuf> = Absent("none"), Maybe(Path), [];
    }
}

section! {
    /// The database, one cluster.
    pub(super) struct DatabaseShape in "database." {
        /// A cluster endpoint, or any PostgreSQL; of several, the one that is the writer.
        host: Vec<HostMaybePort> = Absent("must be given"), Hosts, ["AURORA_HOST", "POSTGRES_HOST"];
        /// The port of hosts that name none.
        port: u16 = Is("5432"), Number(1, u16::MAX), ["AURORA_PORT"];
        /// The readers. Which host is the writer and which a reader, all of them are asked.
        reader_host: Vec<HostMaybePort> = Absent("none"), Hosts, ["AURORA_READER_HOST"];
        /// The port of reader hosts that name none.
        reader_port: Option<u16> = Absent("that of `database.port`"), Maybe(Number(1, u16::MAX)), ["AURORA_READER_PORT"];
        /// The database of clients that name none, and of Weir's own probes.
        name: String = Is("postgres"), Text::NotEmpty, ["AURORA_DATABASE"];
        /// TLS to the database; `true` means verify-full, `false` disable.
        ssl: Option<SslMode> = Absent("verify-full if a host is remote, else prefer"), Maybe(OneOf::<SslMode>::new()), ["AURORA_SSL"];
        /// Certificate authorities to trust, PEM.
        ca_file: Option<PathBuf> = Absent("for RDS its bundle, where it is found; else the public authorities built in"), Maybe(Path), ["AURORA_CA_FILE"];
        /// Time for a connection to be opened and logged in.
        connect_timeout: Duration = Is("5s"), Length(ms(10), secs(300)), [];
        /// Silence after which TCP asks whether the other end is still there; clients' ends too.
        keepalive_idle: Duration = Is("30s"), Length(secs(1), secs(7_200)), [];
        /// Time between such questions.
        keepalive_interval: Duration = Is("10s"), Length(secs(1), secs(7_200)), [];
        /// Unanswered questions after which the connection is dead.
        keepalive_retries: u32 = Is("3"), Number(1, 100), [];
        /// Time that sent data may stay unacknowledged before the connection is dead.
        tcp_user_timeout: Duration = Is("30s"), Length(secs(1), secs(7_200)), [];
    }
}

section! {
    /// How host names are resolved: those of the database, of its instances, of the fleet, and of who is asked about tokens.
    pub struct Dns in "dns." {
        /// The DNS servers to ask.
        servers: Vec<SocketAddr> = Absent("those of /etc/resolv.conf"), Servers, ["WEIR_DNS_SERVERS"];
        /// Time for an answer, twice: each question is asked once more.
        timeout: Duration = Is("2s"), Length(ms(50), secs(30)), [];
        /// An answer is used for its TTL, but no longer than this, and for no less than a second.
        max_ttl: Duration = Is("60s"), Length(secs(1), DAY), [];
        /// How long the last addresses of a name serve beyond their time while DNS can't be asked; where it says that there are none, a minute at most.
        max_stale: Duration = Is("1h"), Length(secs(0), DAY), [];
    }
}

section! {
    /// Connections to the database, and who waits for them.
    pub struct Pool in "pool." {
        /// Connections to one target at most, over all its pools; one of them is Weir's own where there is more than one host.
        max_connections: Option<u32> = Is("off"), Off(Number(1, 262_143)), ["AURORA_MAX_CONNECTIONS"];
        /// The same as a share of what the instance itself allows (its `max_connections` less those reserved); the smaller of the two holds.
        max_connections_percent: u8 = Is("100"), Number(1, 100), [];
        /// `max_connections` of a target that is a reader.
        reader_max_connections: Option<u32> = Absent("that of `pool.max_connections`"), Maybe(Number(1, 262_143)), [];
        /// `max_connections_percent` of a target that is a reader.
        reader_max_connections_percent: Option<u8> = Absent("that of `pool.max_connections_percent`"), Maybe(Number(1, 100)), [];
        /// Idle connections kept, as a share of the target's cap; idle ones beyond it are closed after a tenth of `idle_timeout`.
        max_idle_connections_percent: u8 = Is("50"), Number(0, 100), [];
        /// Idle connections that each pool holds in reserve once it has been used.
        min_idle_connections: u32 = Is("0"), Number(0, 262_143), [];
        /// How long a client waits while the pool is busy; 0 fails at once.
        connection_borrow_timeout: Duration = Is("120s"), Length(secs(0), secs(300)), [];
        /// How long a client waits while no target can be reached.
        unavailable_timeout: Duration = Is("30s"), Length(secs(0), secs(300)), [];
        /// Clients waiting in one pool at most; the next one is told 53300.
        max_waiting: usize = Is("10000"), Number(0, 1_000_000), [];
        /// Connections being opened to one target at a time.
        max_opening: u32 = Is("8"), Number(1, 1_000), [];
        /// First pause after a connection couldn't be opened; doubles, with jitter, until `open_backoff_max`.
        open_backoff_min: Duration = Is("50ms"), Length(ms(1), secs(60)), [];
        /// Longest pause after connections couldn't be opened.
        open_backoff_max: Duration = Is("5s"), Length(ms(1), secs(300)), [];
        /// Statements that clients have prepared by name and each connection keeps; those used longest ago make room.
        max_statements_per_connection: usize = Is("500"), Number(1, 100_000), [];
        /// Statements prepared by name that each pool knows, at most; a client with one more keeps its connection.
        max_statements: usize = Is("10000"), Number(0, 1_000_000), [];
        /// Memory for them in each pool.
        statements_limit_bytes: usize = Is("64MiB"), Size(0, 16 * GIB), [];
        /// SQL run once on each new connection.
        init_query: String = Is(""), Text::MayBeEmpty, [];
        /// Time unused after which a connection is closed.
        idle_timeout: Duration = Is("5m"), Length(secs(1), DAY), [];
        /// Age at which a connection is replaced, less up to 10 per cent by chance.
        server_lifetime: Duration = Is("1h"), Length(secs(1), secs(30 * 86_400)), [];
        /// Longest time for one query before it is cancelled (57014).
        query_timeout: Option<Duration> = Is("off"), Off(Length(ms(1), DAY)), [];
        /// Longest silence of a client inside a transaction, or in the middle of reading a result, before it is closed (25P03): a frozen Lambda must not keep a connection.
        idle_in_transaction_timeout: Duration = Is("5m"), Length(ms(100), DAY), [];
        /// Time for a connection to be cleaned of what a client left, or to answer what Weir asks it about a session, before it is closed instead.
        reset_timeout: Duration = Is("10s"), Length(ms(10), secs(300)), [];
        /// Connections of one pool that pinned sessions may hold; a session that would be pinned beyond it is closed (53400).
        pin_limit: Option<usize> = Is("off"), Off(Number(0, 262_143)), [];
    }
}

section! {
    /// Which instances the cluster has, and which of them is what.
    pub struct Cluster in "cluster." {
        /// How often each instance is asked what it is, while the cluster is used.
        probe_interval: Duration = Is("1s"), Length(ms(100), secs(60)), [];
        /// The same while the writer is in doubt.
        hurried_probe_interval: Duration = Is("100ms"), Length(ms(10), secs(5)), [];
        /// Time for an answer; after it, an instance is taken to be out of reach.
        probe_timeout: Duration = Is("1s"), Length(ms(50), secs(30)), [];
        /// A reader further behind the writer gets no clients.
        max_replica_lag: Option<Duration> = Is("10s"), Off(Length(ms(10), secs(3_600))), [];
        /// Where clients of the reader listener go while no reader can be used: `none`, they wait, or are told at once that there is none; or to the `writer`.
        reader_fallback: ReaderFallback = Is("none"), OneOf::<ReaderFallback>::new(), [];
        /// Who serves read-only transactions of the writer listener's clients (BEGIN READ ONLY, or `default_transaction_read_only`): the `writer`, or `readers` that have what the client itself has written, and the writer while there is none.
        read_only_transactions: ReadOnlyTransactions = Is("writer"), OneOf::<ReadOnlyTransactions>::new(), [];
        /// How long a client that has written reads from the writer, where readers can't tell what they have replayed (Aurora).
        causal_window: Duration = Is("1s"), Length(ms(0), secs(300)), [];
        /// Clients that name a database with this behind its name get that database's readers, at any listener, as with `weir.target_session_attrs`: "@readers" makes `orders@readers` of `orders`.
        reader_suffix: Option<String> = Is("off"), Off(Text::NotEmpty), [];
        /// Whether instances are used that are not listed here but that the cluster itself names (Aurora, RDS Multi-AZ clusters). Needs a cluster's endpoint as a host, or `instance_endpoint`; and more than one connection to each.
        discover: Discover = Is("true"), OneOf::<Discover>::new(), [];
        /// How such an instance is reached, `?` standing for its name.
        instance_endpoint: Option<HostPattern> = Absent("from the cluster's endpoint"), Maybe(Pattern), [];
        /// Instances at most, those listed here counted in; any more that the cluster names are left out.
        max_instances: usize = Is("32"), Number(1, 64), [];
        /// How long an instance stays that the writer does not name any more.
        forget_after: Duration = Is("1m"), Length(ms(100), DAY), [];
    }
}

section! {
    /// Clients' sessions.
    pub struct Session in "session." {
        /// Silence outside a transaction after which a client is closed (57P05).
        idle_client_timeout: Duration = Is("30m"), Length(secs(1), secs(28_800)), [];
        /// Age at which a client is closed, only ever between transactions.
        client_lifetime: Option<Duration> = Is("off"), Off(Length(secs(1), secs(30 * 86_400))), [];
        /// What a client may send before a connection is borrowed for it; beyond, it streams.
        max_unit_bytes: usize = Is("1MiB"), Size(8 * KIB, GIB), [];
        /// Replies held for slow clients whose connection has gone back already, over all clients of a worker.
        unflushed_limit_bytes: usize = Is("64MiB"), Size(64 * KIB, 16 * GIB), [];
        /// Unnamed statements of more than 4 KiB kept for their clients' next connection, over all clients of a worker; beyond, such a client stays with its connection.
        large_statements_limit_bytes: usize = Is("64MiB"), Size(0, 16 * GIB), [];
        /// LISTEN: `shared`, by one connection that listens for all clients of a pool; or `pin`, each by a connection of its own.
        listen: ListenMode = Is("shared"), OneOf::<ListenMode>::new(), [];
        /// Notifications held for one client that does not read them; beyond, it is closed (57P01).
        listen_queue_bytes: usize = Is("4MiB"), Size(64 * KIB, GIB), [];
        /// Logins remembered, so that the next one like it needs no connection.
        max_startup_cache: usize = Is("1024"), Number(0, 1_000_000), [];
        /// How long a login is remembered.
        startup_cache_ttl: Duration = Is("60s"), Length(secs(0), DAY), [];
        /// Whether nextval and setval pin, so that currval and lastval work in later transactions as well; otherwise they give 55000 there.
        pin_sequences: SequencePins = Is("false"), OneOf::<SequencePins>::new(), [];
        /// Whether a client is told by a NOTICE that its session is pinned, and how to avoid it.
        pin_notice: PinNotice = Is("false"), OneOf::<PinNotice>::new(), [];
        /// Reasons that do not pin: what they stand for is left on the connection, for whoever has it next.
        session_pinning_filters: Vec<PinFilter> = Is(""), AnyOf::<PinFilter>::new(), [];
    }
}

section! {
    /// How clients prove who they are.
    pub struct Auth in "auth." {
        /// What clients are asked for. `cert`: a certificate over TLS, with the user's name as its common name.
        method: AuthMethod = Is("scram-sha-256"), OneOf::<AuthMethod>::new(), [];
        /// Time from the first byte to the end of the login.
        handshake_timeout: Duration = Is("15s"), Length(ms(100), secs(300)), [];
        /// Logins going on at a time; further clients wait, until `handshake_timeout`.
        max_handshakes: usize = Is("512"), Number(1, 100_000), [];
        /// How many of them may be from one address (IPv6: one /64), so that it does not hold all places.
        max_handshakes_per_address: Option<usize> = Absent("three quarters of `max_handshakes`"), Maybe(Number(1, 100_000)), [];
        /// Failed logins of one user from one address (IPv6: one /64) within `failed_login_window`; further ones are refused unheard (28000). A success settles them.
        max_failed_logins: Option<u32> = Is("20"), Off(Number(1, 1_000_000)), [];
        /// The same from one address, whichever users; users that have logged in from there are not refused by it.
        max_failed_logins_per_address: Option<u32> = Is("200"), Off(Number(1, 1_000_000)), [];
        /// The same of one user from anywhere; further logins wait for `failed_login_delay`, except from addresses where that user has logged in.
        max_failed_logins_per_user: Option<u32> = Is("200"), Off(Number(1, 1_000_000)), [];
        /// Time in which that many failures are forgiven, one by one.
        failed_login_window: Duration = Is("1m"), Length(secs(1), DAY), [];
        /// How long logins of a user wait whom somebody is guessing at.
        failed_login_delay: Duration = Is("1s"), Length(ms(0), secs(60)), [];
        /// Users, addresses and pairs of them remembered for these limits, about 60 bytes each; those seen longest ago are forgotten.
        max_failed_logins_remembered: usize = Is("20000"), Number(1_000, 10_000_000), [];
        /// Users that are not listed are looked up in the database, by `query` run as this role; none: they are unknown.
        query_user: Option<String> = Absent("none"), Maybe(Text::NotEmpty), [];
        /// That role's password; this or `query_secret_arn`.
        query_password: Option<Secret<String>> = Absent("none"), Maybe(Hidden), [];
        /// The secret that holds that role's password.
        query_secret_arn: Option<SecretArn> = Absent("none"), Maybe(Arn), [];
        /// Finds one user: `$1` stands for the name; one row of two columns, name and SCRAM verifier, or no row. Runs in `database.name`.
        query: String = Is(DEFAULT_QUERY), Text::NotEmpty, [];
        /// How long an answer of `query` is taken for true.
        query_ttl: Duration = Is("1m"), Length(secs(0), DAY), [];
        /// The same, where there was no such user, or a client's password was wrong.
        query_negative_ttl: Duration = Is("5s"), Length(secs(0), DAY), [];
        /// Answers of `query` kept, at most.
        max_query_cache: usize = Is("10000"), Number(1, 1_000_000), [];
        /// Users being looked up at a time; their connections count among those of `query_user`, and in the target's cap.
        max_queries: usize = Is("2"), Number(1, 100), [];
    }
}

/// As `pg_authid` is read by who may. Others ask a SECURITY DEFINER function, see the README.
const DEFAULT_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END \
    FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin";

section! {
    /// Users and passwords from AWS Secrets Manager.
    pub struct Secrets in "secrets." {
        /// Secrets of one user each, both name and password taken from there: `{"username": ..., "password": ...}`.
        arns: Vec<SecretArn> = Absent("none"), Arns, ["AURORA_SECRET_ARN"];
        /// How long a value is used before it is fetched again, give or take a fifth by chance. While it can't be fetched the old one serves.
        ttl: Duration = Is("5m"), Length(secs(1), DAY), [];
        /// After a failed login its secret is fetched at once, but no sooner than this after the last time.
        refetch_pause: Duration = Is("5s"), Length(ms(100), secs(300)), [];
        /// Time for one answer of Secrets Manager.
        timeout: Duration = Is("5s"), Length(ms(100), secs(60)), [];
        /// How long clients may still come with the password before the last rotation: programs remember secrets.
        old_password_ttl: Duration = Is("15m"), Length(secs(0), DAY), [];
    }
}

section! {
    /// Who may come in, one `[[users]]` entry each; the same credential serves clients and database.
    pub(super) struct UserShape in "users." {
        /// The role.
        name: String = Required, Text::NotEmpty, ["AURORA_USER"];
        /// Its password; this, `verifier` or `secret_arn`.
        password: Option<Secret<String>> = Absent("none"), Maybe(Hidden), ["AURORA_PASSWORD"];
        /// Its SCRAM verifier, exactly as in the database's `pg_authid.rolpassword`.
        verifier: Option<Secret<String>> = Absent("none"), Maybe(Hidden), [];
        /// The secret in AWS Secrets Manager that holds its password; see `[secrets]`.
        secret_arn: Option<SecretArn> = Absent("none"), Maybe(Arn), [];
        /// How Weir logs in to the database as this user: with the `password` from above, or by `iam`, with a token that it mints for itself.
        default_auth_scheme: AuthScheme = Is("password"), OneOf::<AuthScheme>::new(), [];
        /// What this user is asked for.
        auth: Option<AuthMethod> = Absent("that of `auth.method`"), Maybe(OneOf::<AuthMethod>::new()), [];
        /// Common names of the client certificates that prove this user to be it, with `cert`.
        certificate_names: Vec<String> = Absent("its own name"), Names, [];
        /// Connections to a target at most in each of this user's pools.
        pool_max_connections: Option<u32> = Absent("the target's cap"), Maybe(Number(1, 262_143)), [];
        /// Whether it comes with a token, as `auth.iam.mode`.
        iam: Option<IamMode> = Absent("that of `auth.iam.mode`"), Maybe(OneOf::<IamMode>::new()), [];
    }
}

section! {
    /// More than one task before the same database: they divide its connections among them.
    pub(super) struct FleetShape in "fleet." {
        /// The name under which DNS lists the addresses of all tasks, this one's too, and the port of their `fleet.listen`.
        discover: Option<HostPort> = Absent("off: this task is the only one"), Maybe(One), ["WEIR_FLEET_DISCOVER"];
        /// Where other tasks say hello and bring cancel requests; opens only with `fleet.discover`.
        listen: SocketAddr = Is("0.0.0.0:5434"), Address, ["WEIR_FLEET_LISTEN"];
        /// What all tasks know and nobody else: 16 characters at least.
        key: Option<Secret<String>> = Absent("none; must be given with `fleet.discover`"), Maybe(Hidden), ["WEIR_FLEET_KEY"];
        /// How often the name is looked up, and the others are told that this task is here.
        refresh: Duration = Is("5s"), Length(ms(50), secs(60)), [];
        /// How long a new task opens nothing while the others shed, and how long these wait before they take over what another has left. At least three times `fleet.refresh`; three times `fleet.refresh` and the records' TTL together, if that is longer.
        settle: Duration = Is("30s"), Length(ms(200), secs(1_800)), [];
        /// Cancel requests being passed on to other tasks at a time, and connections of other tasks being answered; what is beyond is dropped.
        max_requests: usize = Is("64"), Number(1, 10_000), [];
        /// Other tasks remembered, beside those that DNS lists.
        max_tasks: usize = Is("1024"), Number(1, 100_000), [];
        /// Time for DNS and for other tasks to answer; no longer than `fleet.refresh` where that is less.
        answer_timeout: Duration = Is("2s"), Length(ms(10), secs(60)), [];
        /// Time for a cancel request at another task until its client is told that it is over; the other task goes on with it.
        cancel_timeout: Duration = Is("10s"), Length(ms(100), secs(300)), [];
    }
}

section! {
    /// What Weir writes about itself, to standard error.
    pub struct Log in "log." {
        /// What is logged: a level, or a tracing filter such as `info,weir::session=debug`.
        filter: String = Is("info"), Filter, ["WEIR_LOG"];
        /// One line of text, or one JSON object, for each event.
        format: LogFormat = Is("text"), OneOf::<LogFormat>::new(), ["WEIR_LOG_FORMAT"];
        /// Lines about clients that are refused, a second; how many more there were, one line says. Metrics count all.
        refusals_per_second: Option<u32> = Is("100"), Off(Number(1, 1_000_000)), [];
    }
}

/// The sections in the order people read them; a section of users is one entry.
pub fn sections() -> [(&'static str, &'static str, Vec<Opt>); 19] {
    fn row<S: Section>(name: &'static str) -> (&'static str, &'static str, Vec<Opt>) {
        (name, S::ABOUT.trim(), S::options())
    }
    [
        row::<House>(""),
        row::<Listen>("[listen]"),
        row::<TlsShape>("[tls]"),
        row::<DatabaseShape>("[database]"),
        row::<Dns>("[dns]"),
        row::<Pool>("[pool]"),
        row::<Cluster>("[cluster]"),
        row::<Session>("[session]"),
        row::<Auth>("[auth]"),
        row::<Secrets>("[secrets]"),
        row::<IamShape>("[auth.iam]"),
        row::<IamAurora>("[auth.iam.aurora]"),
        row::<StsShape>("[auth.iam.sts]"),
        row::<JwtShape>("[auth.iam.jwt]"),
        row::<StaticShape>("[auth.iam.static]"),
        row::<IamMapping>("[[auth.iam.map]]"),
        row::<UserShape>("[[users]]"),
        row::<FleetShape>("[fleet]"),
        row::<Log>("[log]"),
    ]
}

/// Whether clients must use TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    #[default]
    Allow,
    Require,
}

impl Word for TlsMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("false", Self::Allow),
        ("true", Self::Require),
        ("0", Self::Allow),
        ("1", Self::Require),
    ];
}

/// TLS to the database, with libpq's words and meanings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    /// In the clear; with TLS only when the server refuses that.
    Allow,
    /// With TLS if the server can, else in the clear.
    Prefer,
    /// With TLS, whoever answers.
    Require,
    /// With TLS, and the certificate leads to a trusted authority.
    VerifyCa,
    /// The same, and the certificate names the host.
    VerifyFull,
}

impl Word for SslMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
        ("true", Self::VerifyFull),
        ("false", Self::Disable),
    ];
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    ScramSha256,
    Md5,
    /// A client's certificate.
    Cert,
}

impl Word for AuthMethod {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("scram-sha-256", Self::ScramSha256),
        ("md5", Self::Md5),
        ("cert", Self::Cert),
    ];
    const ELSEWHERE: &'static [(&'static str, &'static str)] = &[(
        "iam",
        "is said elsewhere: fill in a section of [auth.iam], which has a `mode`, as users have `iam`",
    )];
}

impl Auth {
    /// Logins going on at a time from one address.
    pub fn max_handshakes_per_address(&self) -> usize {
        let share = (self.max_handshakes * 3).div_ceil(4);
        self.max_handshakes_per_address.unwrap_or(share)
    }
}

impl AuthMethod {
    /// As the configuration says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha256 => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Cert => "cert",
        }
    }
}

/// Where readers' clients go without a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderFallback {
    None,
    Writer,
}

impl Word for ReaderFallback {
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("writer", Self::Writer)];
}

/// Who serves read-only transactions of the writer listener's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOnlyTransactions {
    Writer,
    Readers,
}

impl Word for ReadOnlyTransactions {
    const WORDS: &'static [(&'static str, Self)] =
        &[("writer", Self::Writer), ("readers", Self::Readers)];
}

/// Whether the cluster's own word is taken for who belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discover {
    Never,
    Members,
}

impl Word for Discover {
    const WORDS: &'static [(&'static str, Self)] =
        &[("true", Self::Members), ("false", Self::Never)];
}

/// What Weir proves itself with to the database; RDS Proxy's word, and its values beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthScheme {
    /// What the user has been given: a password, a verifier or a secret.
    Own,
    /// A token of AWS IAM, made for the occasion.
    Iam,
}

impl Word for AuthScheme {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("password", Self::Own),
        ("iam", Self::Iam),
        ("none", Self::Own),
        ("iam_auth", Self::Iam),
    ];
}

/// Whether what nextval leaves behind keeps a session at its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequencePins {
    Never,
    Always,
}

impl Word for SequencePins {
    const WORDS: &'static [(&'static str, Self)] =
        &[("false", Self::Never), ("true", Self::Always)];
}

/// Whether clients hear of their pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinNotice {
    Silent,
    Told,
}

impl Word for PinNotice {
    const WORDS: &'static [(&'static str, Self)] = &[("false", Self::Silent), ("true", Self::Told)];
}

/// A reason for pins that may be ignored. Those that can't be: what nothing undoes, what is not understood, and
/// statements of the protocol, without which a client's next message would fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinFilter {
    Setting,
    SqlPrepare,
    HeldCursor,
    Listen,
    Temporary,
    AdvisoryLock,
}

impl Word for PinFilter {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("setting", Self::Setting),
        ("sql_prepare", Self::SqlPrepare),
        ("held_cursor", Self::HeldCursor),
        ("listen", Self::Listen),
        ("temporary_object", Self::Temporary),
        ("advisory_lock", Self::AdvisoryLock),
    ];
}

/// How a client that listens is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenMode {
    /// By one connection for all.
    Shared,
    /// By a connection of its own, that it is pinned to.
    Pin,
}

impl Word for ListenMode {
    const WORDS: &'static [(&'static str, Self)] = &[("shared", Self::Shared), ("pin", Self::Pin)];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}
