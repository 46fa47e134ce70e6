//! What a client is told whose server is lost, in each state that it may be in; and that it goes on.

use crate::house::cluster::{Cluster, served_by};
use crate::house::wire::*;
use crate::house::{Client, Postgres, Proxy, eventually};

/// A single PostgreSQL whose connections can be killed, and a Weir in front of it.
struct Scene {
    postgres: &'static Postgres,
    database: String,
    proxy: Proxy,
}

impl Scene {
    fn new() -> Scene {
        let postgres = Postgres::shared();
        let database = postgres.database();
        postgres.sql_in(
            &database,
            "CREATE TABLE t (a int); GRANT ALL ON t TO PUBLIC",
        );
        let proxy = Proxy::before(postgres, &database, 3).start();
        Scene {
            postgres,
            database,
            proxy,
        }
    }

    /// Ends all connections, with a word (57P01), while nobody waits for an answer; Weir has heard it.
    fn kill(&self) {
        self.postgres.kill_backends(&self.database);
        eventually("did Weir know", || self.proxy.pooled("leased"), |n| *n == 0);
    }

    /// Kills once something runs.
    fn kill_at_work(&self) {
        eventually(
            "did it run",
            || self.postgres.busy(&self.database),
            |n| *n > 0,
        );
        self.postgres.kill_backends(&self.database);
    }

    fn rows(&self) -> String {
        self.postgres
            .sql_in(&self.database, "SELECT count(*) FROM t")
            .remove(0)
    }
}

fn goes_on(client: &mut Client) {
    assert_eq!(client.value("SELECT 'on'"), "on");
}

#[test]
fn an_idle_client_notices_nothing() {
    let scene = Scene::new();
    let mut client = scene.proxy.client();
    client.run("SET application_name = 'kept'");
    client.send(&[parse("s", "SELECT $1::int"), sync()].concat());
    client.replies(1);
    scene.kill();
    assert_eq!(client.value("SHOW application_name"), "kept");
    let answer = client.exchange(&[bind("", "s", &[Some("7")]), execute("", 0), sync()].concat());
    assert_eq!(answer.column(), ["7"]);
}

#[test]
fn a_transaction_that_waited_hears_of_it_with_its_next_statement() {
    let scene = Scene::new();
    let mut client = scene.proxy.client();
    for leaving in ["ROLLBACK", "COMMIT"] {
        client.run("BEGIN");
        client.run("INSERT INTO t VALUES (1)");
        scene.kill();
        let answer = client.ask("INSERT INTO t VALUES (2)");
        let error = answer.error().unwrap();
        assert_eq!(
            (&*error.severity, &*error.code),
            ("ERROR", "57P01"),
            "{error:?}"
        );
        assert_eq!((answer.status(), answer.closed), (Some('E'), false));
        let answer = client.ask("SELECT 1");
        assert_eq!((&*answer.code(), answer.status()), ("25P02", Some('E')));
        let answer = client.ask(leaving);
        assert_eq!(
            (answer.completed(), answer.status()),
            (vec!["ROLLBACK".to_string()], Some('I'))
        );
        goes_on(&mut client);
    }
    // Given up unheard, it is given up.
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (1)");
    scene.kill();
    let answer = client.ask("ROLLBACK");
    assert_eq!(
        (answer.completed(), answer.status()),
        (vec!["ROLLBACK".to_string()], Some('I'))
    );
    goes_on(&mut client);
    assert_eq!(scene.rows(), "0");
}

#[test]
fn a_commit_that_comes_too_late_is_no_commit() {
    let scene = Scene::new();
    let mut client = scene.proxy.client();
    let commits = [
        query("COMMIT"),
        [unnamed("COMMIT", &[]), sync()].concat(),
        [bind("", "leave", &[]), execute("", 0), sync()].concat(),
    ];
    client.send(&[parse("leave", "COMMIT"), sync()].concat());
    client.replies(1);
    for commit in commits {
        client.run("BEGIN");
        client.run("INSERT INTO t VALUES (1)");
        scene.kill();
        let answer = client.exchange(&commit);
        assert_eq!(
            (&*answer.code(), answer.status()),
            ("57P01", Some('I')),
            "{answer:?}"
        );
        assert_eq!(answer.completed(), Vec::<String>::new());
        goes_on(&mut client);
    }
    assert_eq!(scene.rows(), "0");
}

#[test]
fn a_statement_at_work_is_told() {
    let scene = Scene::new();
    let mut client = scene.proxy.client();
    // By itself: PostgreSQL's own words, no transaction.
    client.send(&query("SELECT pg_sleep(30)"));
    scene.kill_at_work();
    let answer = client.replies(1);
    let error = answer.error().unwrap();
    assert_eq!(
        (&*error.severity, &*error.code),
        ("ERROR", "57P01"),
        "{error:?}"
    );
    assert_eq!(answer.status(), Some('I'));
    goes_on(&mut client);
    // The first of a transaction, and a later one.
    for before in [&["BEGIN"][..], &["BEGIN", "SELECT 1"]] {
        before.iter().for_each(|statement| client.run(statement));
        client.send(&query("SELECT pg_sleep(30)"));
        scene.kill_at_work();
        let answer = client.replies(1);
        assert_eq!((&*answer.code(), answer.status()), ("57P01", Some('E')));
        client.run("ROLLBACK");
        goes_on(&mut client);
    }
    // In the extended protocol: what was sent behind it is passed over, up to the Sync.
    client.run("BEGIN");
    client.send(&[unnamed("SELECT pg_sleep(30)", &[]), flush()].concat());
    scene.kill_at_work();
    client.until(b'E');
    let answer = client.exchange(&[unnamed("SELECT 1", &[]), sync()].concat());
    assert_eq!(
        (answer.tags(), answer.status()),
        ("Z".to_string(), Some('E'))
    );
    client.run("ROLLBACK");
    goes_on(&mut client);
    // A pipeline: each Sync has its answer.
    let unit = [unnamed("SELECT pg_sleep(30)", &[]), sync()].concat();
    client.send(&unit.repeat(3));
    scene.kill_at_work();
    let answer = client.replies(3);
    assert_eq!(
        (answer.errors().len(), answer.status()),
        (3, Some('I')),
        "{answer:?}"
    );
    goes_on(&mut client);
    // COPY in the midst of it.
    client.send(&query("COPY t FROM STDIN"));
    client.until(b'G');
    client.send(&copy_data(b"1\n2\n"));
    scene.kill_at_work();
    let answer = client.exchange(&[copy_data(b"3\n"), copy_done()].concat());
    assert_eq!((&*answer.code(), answer.status()), ("57P01", Some('I')));
    goes_on(&mut client);
    assert_eq!(scene.rows(), "0");
}

#[test]
fn half_a_message_ends_the_connection_and_lost_state_is_told() {
    let scene = Scene::new();
    let mut client = scene.proxy.client();
    client.send(&query("SELECT repeat('x', 100000000)"));
    client.until(b'T');
    scene.kill_at_work();
    loop {
        match client.next() {
            crate::house::client::Next::Closed => break,
            crate::house::client::Next::Silence => panic!("neither a word nor an end"),
            crate::house::client::Next::Frame(frame) => assert_ne!(frame.tag, b'Z'),
        }
    }
    let mut pinned = scene.proxy.client();
    pinned.run("CREATE TEMP TABLE mine (a int)");
    scene.kill();
    let answer = pinned.last_words();
    let error = answer.error().unwrap();
    assert_eq!(
        (&*error.severity, &*error.code),
        ("FATAL", "08006"),
        "{error:?}"
    );
    assert!(error.detail.contains("temporary_object"), "{error:?}");
}

/// A COMMIT that waits for a replica which never confirms, on a server that is killed.
#[test]
fn a_commit_without_an_answer_is_of_unknown_outcome() {
    let mut cluster = Cluster::start(1);
    let proxy = cluster.proxy(5).start();
    let mut client = proxy.client();
    client.run("CREATE TABLE t (a int)");
    cluster.catch_up(1);
    cluster.nodes[1].signal_all("STOP");
    let mut single = proxy.client();
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (1)");
    client.send(&query("COMMIT"));
    single.send(&query("INSERT INTO t VALUES (2)"));
    let database = cluster.database.clone();
    eventually(
        "did both wait",
        || {
            cluster.writer().count_where(&format!(
                "datname = '{database}' AND wait_event = 'SyncRep'"
            ))
        },
        |waiting| *waiting == 2,
    );
    cluster.writer().kill();
    for client in [&mut client, &mut single] {
        let answer = client.replies(1);
        let error = answer.error().unwrap();
        assert_eq!(
            (&*error.severity, &*error.code),
            ("ERROR", "08007"),
            "{error:?}"
        );
        assert!(error.hint.contains("Find out"), "{error:?}");
        assert_eq!((answer.status(), answer.closed), (Some('I'), false));
    }
    cluster.nodes[1].signal_all("CONT");
    cluster.nodes[1].sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    cluster.nodes[1].sql("SELECT pg_reload_conf()");
    let _ = cluster.fail_over();
    served_by(&proxy, cluster.writer());
    goes_on(&mut client);
    let metrics = proxy.metrics();
    assert!(
        metrics.contains("weir_client_servers_lost_total{outcome=\"unknown\"} 2"),
        "{metrics}"
    );
}
