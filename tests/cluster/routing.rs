//! Read-only transactions of the writer listener's clients, done by readers: which of them, that nobody notices, and that
//! a client sees its own writes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::house::cluster::Cluster;
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
        let mut client = pair.proxy.client();
        for sql in *before {
            assert_eq!(client.ask(sql).code(), "", "{before:?}");
        }
        assert_eq!(client.value(PORT), **expected, "{before:?}");
        client.ask("COMMIT");
    }
    let options = pair
        .proxy
        .login()
        .with("options", "-c default_transaction_read_only=yes");
    assert_eq!(options.connect().value(PORT), reader);
    assert!(pair.counted("reader", "") >= 8);
    assert!(pair.counted("writer", "statement") >= 3);
    assert_eq!(pair.counted("writer", "isolation"), 1);
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
    pair.cluster.writer().sql(&format!(
        "SELECT 1 FROM pg_database WHERE datname = '{}'",
        pair.cluster.database
    ));
    let setup = Login {
        address: pair.cluster.writer().address,
        ..pair.proxy.login()
    };
    setup
        .connect()
        .run("CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 9)");
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
        &["BEGIN READ ONLY", "NOTIFY x", "COMMIT"],
        &["BEGIN READ ONLY", "LOCK TABLE t IN SHARE MODE", "COMMIT"],
        &["BEGIN READ ONLY", "SELECT 1", "COPY t TO STDOUT", "COMMIT"],
    ];
    for script in scripts {
        let mut direct = Login {
            address: pair.cluster.writer().address,
            ..pair.proxy.login()
        }
        .connect();
        let mut routed = pair.proxy.client();
        for sql in *script {
            let (expected, seen) = (direct.ask(sql), routed.ask(sql));
            assert_eq!(seen.frames, expected.frames, "{sql} in {script:?}");
        }
    }
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
