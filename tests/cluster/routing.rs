//! Read-only transactions of the writer listener's clients, done by readers: which of them, that nobody notices, and that
//! a client sees its own writes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::house::cluster::Cluster;
use crate::house::postgres::{PASSWORD, USER};
use crate::house::proxy::Setup;
use crate::house::wire::{bind, describe, execute, parse, query, sync};
use crate::house::{Client, Login, Proxy, count, eventually};

const PORT: &str = "SELECT inet_server_port()";

fn routed(cluster: &Cluster, cap: usize) -> Setup {
    cluster
        .proxy(cap)
        .set("WEIR__CLUSTER__READ_ONLY_TRANSACTIONS", "readers")
        .set("WEIR__CLUSTER__PROBE_INTERVAL", "100ms")
}

fn with_readers(setup: Setup) -> Proxy {
    let proxy = setup.start();
    eventually(
        "were all available",
        || proxy.get("/targets").unwrap().json(),
        |targets| {
            let targets = targets.as_array().unwrap();
            targets.iter().all(|target| target["state"] == "AVAILABLE")
        },
    );
    proxy
}

/// One of each, and who is who.
struct Pair {
    proxy: Proxy,
    cluster: Cluster,
    writer: String,
    reader: String,
}

impl Pair {
    fn new() -> Pair {
        let cluster = Cluster::start(1);
        let proxy = with_readers(routed(&cluster, 10));
        let port = |node: usize| cluster.nodes[node].address.port().to_string();
        Pair {
            proxy,
            writer: port(0),
            reader: port(1),
            cluster,
        }
    }

    /// What the writer tells of itself that is counted: reads at the writer by reason, or at the reader.
    fn counted(&self, served_by: &str, reason: &str) -> u64 {
        let series = format!(
            "weir_client_read_only_transactions_total{{served_by=\"{served_by}\",reason=\"{reason}\"}} "
        );
        let metrics = self.proxy.metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix(&*series));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

/// Waits for the reader to have all: then a client that wrote may be sent there.
fn catch_up(pair: &Pair) {
    pair.cluster.catch_up(1);
}

#[test]
fn read_only_transactions_go_to_readers_and_nothing_else_does() {
    let pair = Pair::new();
    let (writer, reader) = (&*pair.writer, &*pair.reader);
    let cases: &[(&[&str], &str)] = &[
        (&[], writer),
        (&["BEGIN"], writer),
        (&["BEGIN READ ONLY"], reader),
        (&["START TRANSACTION READ ONLY;"], reader),
        (
            &["BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"],
            reader,
        ),
        (&["BEGIN READ WRITE"], writer),
        (&["BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY"], writer),
        (&["BEGIN READ ONLY", "SET TRANSACTION READ WRITE"], writer),
        (&["BEGIN READ ONLY", "SET LOCAL work_mem = '1MB'"], writer),
        (
            &["BEGIN READ ONLY", "SELECT pg_advisory_xact_lock(1)"],
            writer,
        ),
        (
            &["BEGIN READ ONLY", "SELECT 1", "SET LOCAL work_mem = '1MB'"],
            reader,
        ),
        (&["SET default_transaction_read_only = on"], reader),
        (&["SET default_transaction_read_only = on", "BEGIN"], reader),
        (
            &["SET default_transaction_read_only = on", "BEGIN READ WRITE"],
            writer,
        ),
        (
            &["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"],
            reader,
        ),
        (
            &[
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                "RESET default_transaction_read_only",
            ],
            writer,
        ),
        (
            &[
                "SET default_transaction_isolation = serializable",
                "BEGIN READ ONLY",
            ],
            writer,
        ),
        (
            &[
                "SET default_transaction_isolation = serializable",
                "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
            ],
            reader,
        ),
    ];
    for (before, expected) in cases {
        let served = || {
            let mut client = pair.proxy.client();
            for sql in *before {
                assert_eq!(client.ask(sql).code(), "", "{before:?}");
            }
            client.value(PORT)
        };
        if *expected == writer {
            assert_eq!(served(), writer, "{before:?}");
        } else {
            // On a machine that is busy with something else, a reader may be slow to say that it is there.
            let what = format!("did a reader serve {before:?}");
            eventually(&what, served, |port| *port == reader);
        }
    }
    let options = pair
        .proxy
        .login()
        .with("options", "-c default_transaction_read_only=yes");
    let served = || options.connect().value(PORT);
    eventually("did a reader serve it", served, |port| *port == reader);
    assert!(pair.counted("reader", "") >= 8);
    assert!(pair.counted("writer", "statement") >= 3);
    assert!(pair.counted("writer", "isolation") >= 1);
}

#[test]
fn the_extended_protocol_too() {
    let pair = Pair::new();
    let mut client = pair.proxy.client();
    // As JDBC does it: BEGIN and the first statement in one, and BEGIN prepared at some time.
    let one = |client: &mut Client, bytes: Vec<u8>| client.exchange(&bytes).column();
    let unit = |begin: Vec<u8>, sql: &str| {
        let rest = [
            parse("", sql),
            bind("", "", &[]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ];
        [begin, rest.concat()].concat()
    };
    let begin = |name: &str| [bind("", name, &[]), execute("", 0)].concat();
    let prepared = [parse("S_1", "BEGIN READ ONLY"), begin("S_1")].concat();
    assert_eq!(one(&mut client, unit(prepared, PORT)), [&*pair.reader]);
    client.run("COMMIT");
    assert_eq!(one(&mut client, unit(begin("S_1"), PORT)), [&*pair.reader]);
    client.run("COMMIT");
    let unnamed = [parse("", "BEGIN"), begin("")].concat();
    assert_eq!(one(&mut client, unit(unnamed, PORT)), [&*pair.writer]);
    client.run("COMMIT");
    // Prepared at the writer, used at the reader, with the session's settings.
    client.run("SET application_name = 'carried'");
    client.exchange(
        &[
            parse(
                "s",
                "SELECT inet_server_port() || current_setting('application_name')",
            ),
            sync(),
        ]
        .concat(),
    );
    client.run("BEGIN READ ONLY");
    let used = [bind("", "s", &[]), execute("", 0), sync()].concat();
    assert_eq!(
        one(&mut client, used.clone()),
        [format!("{}carried", pair.reader)]
    );
    client.run("COMMIT");
    assert_eq!(one(&mut client, used), [format!("{}carried", pair.writer)]);
    // All at once: what is behind the transaction is not the reader's.
    let batch = [
        "BEGIN READ ONLY",
        PORT,
        "COMMIT",
        "CREATE TABLE batch (a int)",
        PORT,
    ];
    let batch: Vec<u8> = batch.iter().flat_map(|sql| query(sql)).collect();
    client.send(&batch);
    let answer = client.replies(5);
    assert_eq!(answer.errors(), []);
    assert_eq!(answer.column(), [&*pair.reader, &*pair.writer]);
}

/// What PostgreSQL's writer answers, it answers through Weir as well, whoever was asked.
#[test]
fn a_client_can_not_tell() {
    let pair = Pair::new();
    owner(&pair.cluster).run("CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 9)");
    owner(&pair.cluster).run("CREATE UNLOGGED TABLE u (a int); INSERT INTO u VALUES (5)");
    owner(&pair.cluster).run("CREATE FUNCTION shout() RETURNS int LANGUAGE plpgsql AS $$BEGIN PERFORM pg_notify('x', ''); RETURN 1; END$$");
    catch_up(&pair);
    let scripts: &[&[&str]] = &[
        &[
            "BEGIN READ ONLY",
            "SELECT sum(a) FROM t",
            "SELECT a FROM t WHERE a = 3",
            "COMMIT",
        ],
        &[
            "BEGIN READ ONLY",
            "SELECT 1",
            "INSERT INTO t VALUES (1)",
            "SELECT 1",
            "ROLLBACK",
        ],
        &["BEGIN READ ONLY", "SELECT a FROM t FOR UPDATE", "ROLLBACK"],
        &[
            "BEGIN READ ONLY",
            "SELECT 1",
            "CREATE TEMP TABLE x (a int)",
            "ROLLBACK",
            "CREATE TEMP TABLE x (a int)",
            "INSERT INTO x VALUES (1)",
        ],
        &[
            "BEGIN READ ONLY",
            "SELECT 1",
            "SET TRANSACTION READ WRITE",
            "ROLLBACK",
        ],
        &[
            "BEGIN READ ONLY",
            "SET TRANSACTION READ WRITE",
            "INSERT INTO t VALUES (10)",
            "ROLLBACK",
        ],
        &["BEGIN READ ONLY", "SELECT nothing", "COMMIT"],
        &["BEGIN READ ONLY", "SELECT 1; SELECT 2", "COMMIT"],
        &[
            "BEGIN READ ONLY",
            "SELECT 1",
            "COMMIT AND CHAIN",
            "INSERT INTO t VALUES (1)",
            "ROLLBACK",
        ],
        &[
            "BEGIN READ ONLY",
            "SELECT 1",
            "DECLARE c CURSOR FOR SELECT a FROM t ORDER BY a",
            "FETCH 2 FROM c",
            "COMMIT",
        ],
        &[
            "BEGIN READ ONLY",
            "SELECT 1",
            "SAVEPOINT s",
            "SELECT 1 / 0",
            "ROLLBACK TO s",
            "SELECT 2",
            "COMMIT",
        ],
        &[
            "BEGIN READ ONLY",
            "SELECT 1",
            "SET work_mem = '3MB'",
            "COMMIT",
            "SHOW work_mem",
        ],
        &[
            "BEGIN READ ONLY",
            "SELECT 1",
            "SET work_mem = '3MB'",
            "ROLLBACK",
            "SHOW work_mem",
        ],
        &[
            "SET default_transaction_read_only = on",
            "SELECT 1",
            "INSERT INTO t VALUES (1)",
            "SHOW transaction_read_only",
        ],
        &["BEGIN READ ONLY", "SELECT a FROM u", "SELECT 1", "COMMIT"],
        &["BEGIN READ ONLY", "SELECT shout()", "SELECT 1", "COMMIT"],
        &[
            "BEGIN READ ONLY",
            "SELECT a FROM u WHERE a = 1 / 0",
            "SELECT 1",
            "COMMIT",
            "SELECT 1",
        ],
        &["BEGIN READ ONLY", "NOTIFY x", "COMMIT"],
        &["BEGIN READ ONLY", "LOCK TABLE t IN SHARE MODE", "COMMIT"],
        &["BEGIN READ ONLY", "SELECT 1", "COPY t TO STDOUT", "COMMIT"],
    ];
    for script in scripts {
        let mut direct = owner(&pair.cluster);
        let mut routed = pair.proxy.client();
        for sql in *script {
            let (expected, seen) = (direct.ask(sql), routed.ask(sql));
            assert_eq!(seen.frames, expected.frames, "{sql} in {script:?}");
        }
    }
}

/// What a reader refuses at first, or is lost with, the writer does, and nobody notices.
#[test]
fn a_transaction_that_a_reader_fails_at_first_is_the_writers() {
    let pair = Pair::new();
    let mut direct = owner(&pair.cluster);
    direct.run("CREATE UNLOGGED TABLE u (a int); INSERT INTO u VALUES (5)");
    catch_up(&pair);
    let mut client = pair.proxy.client();
    let unit = |name: &str| {
        let rest = [
            bind("", name, &[]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ];
        [parse(name, "SELECT a FROM u"), rest.concat()].concat()
    };
    for name in ["", "s"] {
        for side in [&mut direct, &mut client] {
            side.run("BEGIN READ ONLY");
        }
        let (expected, seen) = (direct.exchange(&unit(name)), client.exchange(&unit(name)));
        assert_eq!(seen.frames, expected.frames);
        for side in [&mut direct, &mut client] {
            side.run("COMMIT");
        }
    }
    let again = [bind("", "s", &[]), execute("", 0), sync()].concat();
    assert_eq!(client.exchange(&again).column(), ["5"]);
    // Killed under its first statement, which is a long one.
    client.run("BEGIN READ ONLY");
    client.send(&query("SELECT inet_server_port() FROM pg_sleep(1)"));
    std::thread::sleep(Duration::from_millis(200));
    pair.cluster.nodes[1].kill();
    assert_eq!(client.replies(1).column(), [&*pair.writer]);
    client.run("COMMIT");
    assert!(pair.counted("writer", "reader_failed") >= 1);
}

#[test]
fn what_only_the_writer_can_do_is_refused_at_a_reader() {
    let pair = Pair::new();
    let mut client = pair.proxy.client();
    for sql in [
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_advisory_lock(1)",
        "PREPARE p AS SELECT 1",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "LISTEN x",
        "DO 'BEGIN END'",
    ] {
        client.run("BEGIN READ ONLY");
        let port = client.value(PORT);
        assert_eq!(port, pair.reader, "{}", pair.proxy.metrics());
        let refusal = client.ask(sql);
        assert_eq!(
            (refusal.code(), refusal.status()),
            ("0A000".into(), Some('E')),
            "{sql}"
        );
        assert!(
            refusal
                .error()
                .unwrap()
                .hint
                .contains("Begin the transaction with it")
        );
        assert_eq!(client.ask("SELECT 1").code(), "25P02");
        client.run("ROLLBACK");
        assert_eq!(client.value(PORT), pair.writer);
    }
    // Begun with it, it holds for everybody.
    client.run("BEGIN READ ONLY");
    client.run("SELECT pg_advisory_xact_lock(7)");
    let mut other = pair.proxy.client();
    assert_eq!(other.value("SELECT pg_try_advisory_lock(7)"), "f");
    client.run("COMMIT");
    assert_eq!(pair.proxy.pooled("pinned"), 0);
}

#[test]
fn a_client_sees_what_it_has_written() {
    let pair = Pair::new();
    let mut client = pair.proxy.client();
    client.run("CREATE TABLE t (a int)");
    catch_up(&pair);
    pair.cluster.nodes[1].sql("SELECT pg_wal_replay_pause()");
    let mut reader = pair.proxy.client();
    let ways: [&[&str]; 5] = [
        &["INSERT INTO t VALUES (1)"],
        &["BEGIN", "INSERT INTO t VALUES (1)", "COMMIT"],
        &[
            "BEGIN",
            "INSERT INTO t VALUES (1)",
            "SELECT 1",
            "COMMIT AND CHAIN",
            "COMMIT",
        ],
        &["INSERT INTO t VALUES (1); SELECT 1"],
        &["WITH x AS (INSERT INTO t VALUES (1) RETURNING a) SELECT count(*) FROM x"],
    ];
    for (written, way) in ways.iter().enumerate() {
        for sql in *way {
            client.run(sql);
        }
        client.run("BEGIN READ ONLY");
        assert_eq!(
            client.value("SELECT count(*) FROM t"),
            (written + 1).to_string(),
            "{way:?}"
        );
        client.run("COMMIT");
        // Somebody else sees what the reader has.
        reader.run("BEGIN READ ONLY");
        assert_eq!(reader.value("SELECT count(*) FROM t"), "0");
        reader.run("COMMIT");
    }
    assert!(pair.counted("writer", "own_write") >= ways.len() as u64);
    pair.cluster.nodes[1].sql("SELECT pg_wal_replay_resume()");
    catch_up(&pair);
    // The reader is asked, and has it now; from then on it is known to.
    eventually(
        "was the reader used again",
        || {
            client.run("BEGIN READ ONLY");
            let port = client.value(PORT);
            client.run("COMMIT");
            port
        },
        |port| *port == pair.reader,
    );
}

#[test]
fn a_client_says_which_servers_it_wants() {
    let cluster = Cluster::start(1);
    let proxy = with_readers(
        cluster
            .proxy(10)
            .set("WEIR__CLUSTER__READER_SUFFIX", "@readers"),
    );
    let (writer, reader) = (
        cluster.nodes[0].address.port().to_string(),
        cluster.nodes[1].address.port().to_string(),
    );
    let wish = |login: Login, word: &str| {
        login.with(
            "options",
            &format!("-c weir.target_session_attrs={word} -c work_mem=2MB"),
        )
    };
    for (word, expected) in [
        ("any", &writer),
        ("read-write", &writer),
        ("primary", &writer),
        ("read-only", &reader),
        ("standby", &reader),
        ("prefer-standby", &reader),
    ] {
        let mut client = wish(proxy.login(), word).connect();
        assert_eq!(client.value(PORT), *expected, "{word}");
        assert_eq!(client.value("SHOW work_mem"), "2MB");
    }
    let suffixed = format!("{}@readers", cluster.database);
    let mut client = proxy.login().database(&suffixed).connect();
    assert_eq!(client.value(PORT), reader);
    assert_eq!(client.value("SELECT current_database()"), cluster.database);
    let refusals = [
        (wish(proxy.login(), "nonsense"), "22023", "prefer-standby"),
        (
            wish(proxy.reader_login(), "read-write"),
            "08001",
            "the writer's listener",
        ),
        (
            wish(proxy.login().database(&suffixed), "primary"),
            "08001",
            "own name",
        ),
    ];
    for (login, code, hint) in refusals {
        let refusal = login.try_connect().err().unwrap();
        assert_eq!(
            (&*refusal.severity, &*refusal.code),
            ("FATAL", code),
            "{refusal:?}"
        );
        assert!(refusal.hint.contains(hint), "{refusal:?}");
    }
    // Off, the name is one like any other.
    let plain = with_readers(cluster.proxy(10));
    let refusal = plain
        .login()
        .database(&suffixed)
        .try_connect()
        .err()
        .unwrap();
    assert_eq!(refusal.code, "3D000");
}

#[test]
fn who_wants_a_reader_is_told_that_there_is_none() {
    let postgres = crate::house::Postgres::shared();
    let proxy = Proxy::before(postgres, &postgres.database(), 5).start();
    let standby = ("options", "-c weir.target_session_attrs=standby");
    let refusal = proxy
        .login()
        .with(standby.0, standby.1)
        .try_connect()
        .err()
        .unwrap();
    assert_eq!(refusal.code, "08001");
    assert!(refusal.message.contains("no reader"), "{refusal:?}");
    let rather = ("options", "-c weir.target_session_attrs=prefer-standby");
    assert_eq!(
        proxy
            .login()
            .with(rather.0, rather.1)
            .connect()
            .value("SELECT 1"),
        "1"
    );
}

#[test]
fn readers_have_a_limit_of_their_own() {
    let mut cluster = Cluster::start(1);
    let proxy = with_readers(
        cluster
            .proxy(10)
            .set("WEIR__POOL__READER_MAX_CONNECTIONS", "4")
            .set("WEIR__CLUSTER__PROBE_INTERVAL", "100ms"),
    );
    // One connection to each is Weir's own.
    let caps = |proxy: &Proxy| -> Vec<u64> {
        let pools = proxy.pools();
        let targets = pools["targets"].as_array().unwrap();
        targets
            .iter()
            .map(|target| target["cap"].as_u64().unwrap_or(0))
            .collect()
    };
    let _clients = [proxy.client(), proxy.reader_login().connect()];
    eventually(
        "were they told apart",
        || caps(&proxy),
        |caps| *caps == [9, 3],
    );
    cluster.nodes[0].kill();
    cluster.nodes[1].sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    cluster.fail_over();
    eventually(
        "did the limit follow the role",
        || caps(&proxy)[1],
        |cap| *cap == 9,
    );
}

/// One client's row: written, and read again as often as is asked for.
fn write_and_read(proxy: &Proxy, id: usize, until: &AtomicBool, figures: &Figures) {
    let mut client = proxy.client();
    let mut value = 0_u64;
    while !until.load(Ordering::Relaxed) {
        value += 1;
        client.run(&format!("UPDATE own SET value = {value} WHERE id = {id}"));
        figures.writes.fetch_add(1, Ordering::Relaxed);
        for pause in [0, 1, 3, 10] {
            std::thread::sleep(Duration::from_millis(pause));
            client.run("BEGIN READ ONLY");
            let read = client.value(&format!(
                "SELECT value || ' ' || inet_server_port() FROM own WHERE id = {id}"
            ));
            client.run("COMMIT");
            let (seen, port) = read.split_once(' ').unwrap();
            figures.note(seen.parse::<u64>().unwrap() == value, port);
        }
    }
}

/// A client of the writer itself.
fn owner(cluster: &Cluster) -> Client {
    Login::to(cluster.writer().address, USER, PASSWORD, &cluster.database).connect()
}

#[derive(Default)]
struct Figures {
    writes: AtomicUsize,
    stale: AtomicUsize,
    reads: std::sync::Mutex<std::collections::BTreeMap<String, usize>>,
}

impl Figures {
    fn note(&self, current: bool, port: &str) {
        self.stale
            .fetch_add(usize::from(!current), Ordering::Relaxed);
        *self.reads.lock().unwrap().entry(port.into()).or_default() += 1;
    }
}

#[test]
fn nobody_reads_less_than_he_wrote() {
    let cluster = Cluster::start(2);
    let mut setup = owner(&cluster);
    setup.run("CREATE TABLE own (id int PRIMARY KEY, value bigint)");
    setup.run("INSERT INTO own SELECT i, 0 FROM generate_series(0, 63) AS x(i)");
    for node in cluster.others() {
        cluster.catch_up(node);
    }
    let slow = cluster.others()[1];
    cluster.nodes[slow].sql("ALTER SYSTEM SET recovery_min_apply_delay = '1s'");
    cluster.nodes[slow].sql("SELECT pg_reload_conf()");
    let proxy = with_readers(routed(&cluster, 20));
    let (over, figures) = (AtomicBool::new(false), Figures::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for id in 0..64 {
            let (proxy, over, figures) = (&proxy, &over, &figures);
            scope.spawn(move || write_and_read(proxy, id, over, figures));
        }
        std::thread::sleep(Duration::from_secs(count(3, 30) as u64));
        over.store(true, Ordering::Relaxed);
    });
    let reads = figures.reads.into_inner().unwrap();
    let of = |node: usize| {
        let port = cluster.nodes[node].address.port().to_string();
        reads.get(&port).copied().unwrap_or(0)
    };
    let all: usize = reads.values().sum();
    let (stale, fast) = (figures.stale.into_inner(), cluster.others()[0]);
    println!(
        "64 clients, {:.0?}: {} writes, {all} reads of one's own row, {stale} stale; served by the writer {:.1} %, by the reader {:.1} %, \
         by the reader that is 1 s behind {:.1} %",
        began.elapsed(),
        figures.writes.into_inner(),
        of(0) as f64 * 100.0 / all as f64,
        of(fast) as f64 * 100.0 / all as f64,
        of(slow) as f64 * 100.0 / all as f64,
    );
    let metrics = proxy.metrics();
    for line in metrics
        .lines()
        .filter(|line| line.starts_with("weir_client_read_only"))
    {
        println!("{line}");
    }
    assert_eq!(stale, 0);
    assert!(all > 0 && of(fast) > 0, "{reads:?}");
}

/// Where positions can't be asked for, as on Aurora, time has to do.
#[test]
fn where_nobody_can_tell_the_writer_serves_for_a_while() {
    let cluster = Cluster::with(1, &["allow_system_table_mods=on"]);
    let double = [
        "CREATE FUNCTION pg_catalog.aurora_db_instance_identifier() RETURNS text LANGUAGE sql AS $$ SELECT 'i' || inet_server_port() $$",
        "CREATE FUNCTION pg_catalog.aurora_replica_status() RETURNS TABLE (server_id text, session_id text, \
         replica_lag_in_msec float8, last_update_timestamp timestamptz) LANGUAGE sql AS \
         $$ SELECT 'i' || inet_server_port(), CASE WHEN NOT pg_is_in_recovery() THEN 'MASTER_SESSION_ID' ELSE 'x' END, 0::float8, now() $$",
        "CREATE TABLE t (a int)",
        "GRANT ALL ON t TO PUBLIC",
    ];
    let mut owner = cluster
        .writer()
        .superuser()
        .database(&cluster.database)
        .connect();
    double.iter().for_each(|sql| owner.run(sql));
    cluster.catch_up(1);
    let window = Duration::from_secs(2);
    let proxy = with_readers(routed(&cluster, 10).set("WEIR__CLUSTER__CAUSAL_WINDOW", "2s"));
    let mut client = proxy.client();
    let (writer, reader) = (
        cluster.nodes[0].address.port(),
        cluster.nodes[1].address.port(),
    );
    let mut served = || {
        client.run("BEGIN READ ONLY");
        let port = client.value(PORT);
        client.run("COMMIT");
        port
    };
    assert_eq!(served(), reader.to_string());
    let mut other = proxy.client();
    other.run("INSERT INTO t VALUES (1)");
    let wrote = Instant::now();
    let mut served = || {
        other.run("BEGIN READ ONLY");
        let port = other.value(PORT);
        other.run("COMMIT");
        port
    };
    let first = served();
    if wrote.elapsed() < window {
        assert_eq!(first, writer.to_string());
    }
    eventually("was the window over", served, |port| {
        *port == reader.to_string()
    });
    assert!(wrote.elapsed() >= window);
}
