//! Bounded and calm: never more connections than the cap, FIFO waiting, and errors that tell busy from down.

use std::sync::Once;
use std::thread;

use crate::house::postgres::{PASSWORD, USER};
use crate::house::programs::{postgres_program, said};
use crate::house::wire::{query, sync, unnamed};
use crate::house::{Client, Postgres, Proxy, count, eventually, proving};

fn house(cap: usize, settings: &[(&str, &str)]) -> (&'static Postgres, String, Proxy) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let setup = Proxy::before(postgres, &database, cap);
    let proxy = settings
        .iter()
        .fold(setup, |setup, (name, value)| setup.set(name, value));
    (postgres, database, proxy.start())
}

/// A client that keeps a server connection until told otherwise.
fn holder(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.run("BEGIN");
    client.run("SELECT 1");
    client
}

pub fn pgbench(port: u16, database: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(postgres_program("pgbench"));
    command
        .args(["-n", "-h", "127.0.0.1", "-p", &port.to_string(), "-U", USER])
        .args(arguments)
        .arg(database)
        .env("PGPASSWORD", PASSWORD)
        .env("PGSSLMODE", "disable");
    command
}

pub fn fill_for_pgbench(postgres: &Postgres, database: &str, scale: usize) {
    let filled = pgbench(
        postgres.address.port(),
        database,
        &["-i", "-q", "-s", &scale.to_string()],
    )
    .output();
    let filled = filled.unwrap();
    assert!(filled.status.success(), "{}", said(&filled));
}

#[test]
fn pgbench_never_exceeds_the_cap() {
    let cap = 10;
    for workers in ["1", "2"] {
        let (postgres, database, proxy) = house(cap, &[("WEIR_WORKERS", workers)]);
        fill_for_pgbench(postgres, &database, count(5, 20));
        let (clients, seconds) = (count(60, 500).to_string(), count(2, 20).to_string());
        for protocol in ["simple", "extended"] {
            let bench = ["-M", protocol, "-c", &clients, "-j", "2", "-T", &seconds];
            let mut command = pgbench(proxy.address.port(), &database, &bench);
            let running = thread::spawn(move || command.output().unwrap());
            let (mut samples, mut most) = (0, 0);
            while !running.is_finished() {
                most = most.max(postgres.connections(&database));
                samples += 1;
            }
            let done = running.join().unwrap();
            assert!(done.status.success(), "{}", said(&done));
            let words = said(&done);
            assert!(words.contains("failed transactions: 0 "), "{words}");
            assert!(
                most <= cap,
                "{most} connections in one of {samples} samples"
            );
            assert!(most > 0, "pgbench went through Weir");
            if proving() {
                println!(
                    "{workers} workers, {protocol}, {clients} clients: at most {most} connections in {samples} samples\n{words}"
                );
            }
        }
    }
}

#[test]
fn busy_and_down_are_told_apart_and_the_session_lives() {
    let postgres = Postgres::start(&[]);
    let database = postgres.database();
    let proxy = Proxy::before(&postgres, &database, 1)
        .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "400ms")
        .set("WEIR__POOL__UNAVAILABLE_TIMEOUT", "800ms")
        .start();
    let mut waiter = proxy.client();
    let mut first = holder(&proxy);
    let refused = waiter.ask("SELECT 1");
    let error = refused.error().unwrap();
    assert_eq!((&*error.code, &*error.severity), ("53300", "ERROR"));
    assert_eq!(refused.status(), Some('I'));
    let numbers = error
        .detail
        .split(|c: char| !c.is_ascii_digit())
        .filter(|word| !word.is_empty());
    assert!(numbers.count() >= 3, "used, max and waiters in {error:?}");
    assert_ne!(error.hint, "");
    first.run("COMMIT");
    assert_eq!(waiter.value("SELECT 'served'"), "served");

    postgres.stop();
    let down = eventually(
        "was it down",
        || waiter.ask("SELECT 1"),
        |answer| answer.code() == "08001",
    );
    let error = down.error().unwrap();
    assert_eq!((&*error.severity, down.status()), ("ERROR", Some('I')));
    let target = postgres.address.port().to_string();
    assert!(
        format!("{error:?}").contains(&target),
        "the target in {error:?}"
    );
    postgres.start_again();
    eventually(
        "did it recover",
        || waiter.ask("SELECT 'back'"),
        |answer| answer.column() == ["back"],
    );
}

/// A client may have itself told sooner, not later.
#[test]
fn a_client_shortens_its_own_wait() {
    let (_, _, proxy) = house(1, &[("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "4s")]);
    let options = "-c weir.borrow_timeout=100ms";
    let mut at_login = proxy.login().with("options", options).connect();
    let mut client = proxy.client();
    let waits = |client: &mut Client| {
        let since = std::time::Instant::now();
        let refused = client.ask("SELECT 1");
        assert_eq!(
            (refused.code().as_str(), refused.status()),
            ("53300", Some('I'))
        );
        since.elapsed().as_secs_f32()
    };
    for (value, least, most) in [
        ("'100ms'", 0.1, 3.9),
        ("0", 0.0, 3.9),
        ("'10m'", 4.0, 30.0),
        ("'soon'", 4.0, 30.0),
        ("DEFAULT", 4.0, 30.0),
    ] {
        client.run(&format!("SET weir.borrow_timeout = {value}"));
        let mut first = holder(&proxy);
        let waited = waits(&mut client);
        assert!(least <= waited && waited < most, "{value}: {waited}");
        first.run("COMMIT");
    }
    client.run("SET weir.borrow_timeout = '1s'");
    assert_eq!(client.value("SHOW weir.borrow_timeout"), "1s");
    let _first = holder(&proxy);
    assert!(waits(&mut at_login) < 3.9);
}

/// BEGIN is answered before a connection is borrowed: when that fails, so does the transaction.
#[test]
fn a_transaction_that_finds_no_connection_fails_until_rolled_back() {
    let (_, _, proxy) = house(1, &[("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "300ms")]);
    let mut waiter = proxy.client();
    let mut first = holder(&proxy);
    assert_eq!(waiter.ask("BEGIN").status(), Some('T'));
    let refused = waiter.ask("SELECT 1");
    assert_eq!(
        (refused.code().as_str(), refused.status()),
        ("53300", Some('E'))
    );
    assert_eq!(waiter.ask("SELECT 1").code(), "25P02");
    let over = waiter.ask("COMMIT");
    assert_eq!(
        (over.completed(), over.status()),
        (vec!["ROLLBACK".to_owned()], Some('I'))
    );
    first.run("COMMIT");
    assert_eq!(waiter.value("SELECT 1"), "1");
}

#[test]
fn the_queue_is_first_in_first_out() {
    for workers in ["1", "2"] {
        let (_, _, proxy) = house(1, &[("WEIR_WORKERS", workers)]);
        let mut first = proxy.client();
        first.run("CREATE TABLE arrivals (at serial, who int)");
        first.run("BEGIN");
        first.run("SELECT 1");
        let mut clients: Vec<Client> = (0..10).map(|_| proxy.client()).collect();
        for (who, client) in clients.iter_mut().enumerate() {
            client.send(&query(&format!(
                "INSERT INTO arrivals (who) VALUES ({who})"
            )));
            let waiting = who as u64 + 1;
            eventually("did it wait", || proxy.pooled("waiting"), |n| *n == waiting);
        }
        first.run("COMMIT");
        for client in &mut clients {
            assert_eq!(client.replies(1).errors(), []);
        }
        let order = first.ask("SELECT who FROM arrivals ORDER BY at").column();
        assert_eq!(
            order,
            (0..10).map(|who| who.to_string()).collect::<Vec<_>>()
        );
    }
}

#[test]
fn pools_of_one_target_share_its_cap() {
    let (postgres, one, proxy) = house(2, &[]);
    let databases = [
        one,
        postgres.database(),
        postgres.database(),
        postgres.database(),
    ];
    let mut clients: Vec<Client> = databases
        .iter()
        .map(|name| proxy.login().database(name).connect())
        .collect();
    let named = databases.join("', '");
    let all = format!("backend_type = 'client backend' AND datname IN ('{named}')");
    let total = || postgres.count_where(&all);
    for _ in 0..10 {
        for (client, database) in clients.iter_mut().zip(&databases) {
            assert_eq!(client.value("SELECT current_database()"), *database);
            assert!(total() <= 2);
        }
    }
    // All at once, and still no more than two.
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| (0..30).for_each(|_| client.run("SELECT pg_sleep(0.002)")));
        }
        for _ in 0..30 {
            assert!(total() <= 2);
        }
    });
}

#[test]
fn the_queue_has_a_limit() {
    let (_, _, proxy) = house(1, &[("WEIR__POOL__MAX_WAITING", "2")]);
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    let mut first = holder(&proxy);
    for client in &mut clients[..2] {
        client.send(&query("SELECT 1"));
    }
    eventually("did two wait", || proxy.pooled("waiting"), |n| *n == 2);
    let refused = clients[2].ask("SELECT 1");
    assert_eq!(
        (refused.code().as_str(), refused.status()),
        ("53300", Some('I'))
    );
    first.run("COMMIT");
    for client in &mut clients[..2] {
        assert_eq!(client.replies(1).errors(), []);
    }
    clients[2].run("SELECT 1");
}

#[test]
fn a_frozen_transaction_gives_its_connection_back() {
    let (postgres, database, proxy) =
        house(1, &[("WEIR__POOL__IDLE_IN_TRANSACTION_TIMEOUT", "300ms")]);
    let mut other = proxy.client();
    let mut frozen = holder(&proxy);
    let words = frozen.last_words();
    let error = words.error().unwrap();
    assert_eq!((&*error.code, &*error.severity), ("25P03", "FATAL"));
    other.run("SELECT 1");
    eventually("was it clean", || postgres.busy(&database), |n| *n == 0);
}

#[test]
fn a_query_has_a_limit() {
    let (_, _, proxy) = house(1, &[("WEIR__POOL__QUERY_TIMEOUT", "300ms")]);
    let mut client = proxy.client();
    let stopped = client.ask("SELECT pg_sleep(60)");
    assert_eq!(
        (stopped.code().as_str(), stopped.status()),
        ("57014", Some('I'))
    );
    assert_eq!(client.value("SELECT 'lives'"), "lives");
}

#[test]
fn an_idle_client_is_told_to_go() {
    let (_, _, proxy) = house(1, &[("WEIR__SESSION__IDLE_CLIENT_TIMEOUT", "1s")]);
    let mut client = proxy.client();
    client.run("SELECT 1");
    let error = client.last_words().error().unwrap();
    assert_eq!((&*error.code, &*error.severity), ("57P05", "FATAL"));
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("session was ended"));
    let line = line.expect("why it ended is in the log");
    assert!(
        line.contains("57P05") && line.contains("client=127.0.0.1:"),
        "{line}"
    );
}

#[test]
fn a_client_has_its_age_even_if_it_is_silent() {
    let (_, _, proxy) = house(1, &[("WEIR__SESSION__CLIENT_LIFETIME", "1s")]);
    let mut client = proxy.client();
    client.run("BEGIN");
    client.run("SELECT pg_sleep(1.2)");
    client.run("COMMIT");
    let mut begun = proxy.client();
    begun.run("BEGIN");
    let mut silent = proxy.client();
    for client in [&mut client, &mut silent] {
        let error = client.last_words().error().unwrap();
        assert_eq!((&*error.code, &*error.severity), ("57P01", "FATAL"));
    }
    assert_eq!(begun.value("SELECT 'inside'"), "inside");
}

#[test]
fn clients_have_a_limit() {
    let (_, _, proxy) = house(1, &[("WEIR__LISTEN__MAX_CLIENTS", "2")]);
    let clients = [proxy.client(), proxy.client()];
    let Err(refusal) = proxy.login().try_connect() else {
        panic!("a third client came in");
    };
    assert_eq!((&*refusal.code, &*refusal.severity), ("53300", "FATAL"));
    drop(clients);
    eventually(
        "was there room",
        || proxy.login().try_connect().is_ok(),
        |ok| *ok,
    );
}

#[test]
fn idle_connections_are_trimmed() {
    let (postgres, database, proxy) = house(
        4,
        &[
            ("WEIR__POOL__IDLE_TIMEOUT", "1s"),
            ("WEIR__POOL__MAX_IDLE_CONNECTIONS_PERCENT", "0"),
        ],
    );
    let holders: Vec<Client> = (0..4).map(|_| holder(&proxy)).collect();
    assert_eq!(postgres.connections(&database), 4);
    drop(holders);
    eventually(
        "were they trimmed",
        || postgres.connections(&database),
        |n| *n == 0,
    );
    proxy.client().run("SELECT 1");
}

#[test]
fn old_connections_are_replaced() {
    let (_, _, proxy) = house(1, &[("WEIR__POOL__SERVER_LIFETIME", "1s")]);
    let mut client = proxy.client();
    let first = client.value("SELECT pg_backend_pid()");
    eventually(
        "was it replaced",
        || client.value("SELECT pg_backend_pid()"),
        |pid| *pid != first,
    );
}

#[test]
fn a_killed_connection_is_replaced_unseen() {
    let (postgres, database, proxy) = house(2, &[]);
    let mut client = proxy.client();
    client.run("SELECT 1");
    for _ in 0..5 {
        postgres.kill_backends(&database);
        assert_eq!(client.value("SELECT 'unseen'"), "unseen");
    }
    // Inside a transaction it can't be unseen, but it is said, and it is over.
    client.run("BEGIN");
    client.run("SELECT 1");
    postgres.kill_backends(&database);
    client.send(&query("SELECT 1"));
    let answer = client.replies(1);
    let code = answer.code();
    assert!(["57P01", "08006"].contains(&&*code), "{answer:?}");
    eventually(
        "did the pool recover",
        || proxy.client().ask("SELECT 1").errors(),
        Vec::is_empty,
    );
}

#[test]
fn the_first_query_of_a_connection_runs_after_init_query() {
    let (_, _, proxy) = house(
        1,
        &[("WEIR__POOL__INIT_QUERY", "SET statement_timeout = '77s'")],
    );
    assert_eq!(proxy.client().value("SHOW statement_timeout"), "77s");
}

/// Two sessions that alter a role at once are in each other's way.
fn creating_databases() -> &'static Postgres {
    static ALLOWED: Once = Once::new();
    let postgres = Postgres::shared();
    ALLOWED.call_once(|| drop(postgres.sql("ALTER ROLE app CREATEDB")));
    postgres
}

/// PostgreSQL refuses to drop or copy a database that others are connected to; of Weir's idle connections its clients
/// know nothing.
#[test]
fn idle_connections_do_not_stand_in_the_way_of_database_commands() {
    let postgres = creating_databases();
    let proxy = Proxy::before(postgres, &postgres.database(), 4).start();
    let mut client = proxy.client();
    client.run("CREATE DATABASE evicted_one");
    let mut inside = proxy.login().database("evicted_one").connect();
    inside.run("CREATE TABLE t (a int)");
    inside.run("SELECT 1");
    client.run("CREATE DATABASE evicted_two TEMPLATE evicted_one");
    inside.run("SELECT 1");
    client.run("ALTER DATABASE evicted_two RENAME TO evicted_three");
    assert_eq!(
        client
            .exchange(&[unnamed("DROP DATABASE evicted_one", &[]), sync()].concat())
            .errors(),
        []
    );
    client.run("DROP DATABASE evicted_three");
    assert_eq!(inside.ask("SELECT 1").code(), "3D000");
}

/// PostgreSQL waits for others to leave. Who is at work when the command comes, and done before PostgreSQL gives up, is no
/// reason to refuse it; nor is a session that has its answer while its server is asked something yet.
#[test]
fn connections_that_become_idle_meanwhile_do_not_stand_in_the_way_either() {
    let postgres = creating_databases();
    let proxy = Proxy::before(postgres, &postgres.database(), 4).start();
    let mut client = proxy.client();
    client.run("CREATE DATABASE busy_one");
    let mut inside = proxy.login().database("busy_one").connect();
    inside.run("SELECT 1");
    inside.send(&query("SELECT pg_sleep(0.7)"));
    eventually("at work", || postgres.busy("busy_one"), |n| *n == 1);
    client.run("CREATE DATABASE busy_two TEMPLATE busy_one");
    assert_eq!(inside.replies(1).errors(), []);
    for round in 0..count(20, 300) {
        // It is asked about once it has answered.
        inside.run("DO $$BEGIN NULL; END$$");
        client.run(&format!("ALTER DATABASE busy_one RENAME TO busy_{round}"));
        client.run(&format!("ALTER DATABASE busy_{round} RENAME TO busy_one"));
        inside.run("SELECT 1");
    }
    client.run("DROP DATABASE busy_one");
    client.run("DROP DATABASE busy_two");
}
