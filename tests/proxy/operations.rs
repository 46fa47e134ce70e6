//! What whoever runs Weir sees: health, figures, reload, drain, and what a wrong configuration says.

use std::thread;
use std::time::{Duration, Instant};

use super::pool::{fill_for_pgbench, pgbench};
use crate::house::programs::said;
use crate::house::wire::query;
use crate::house::{Client, Postgres, Proxy, count, eventually, proving};

#[test]
fn the_pages_have_their_shapes() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let proxy = Proxy::before(postgres, &database, 3).start();
    let mut holder = proxy.client();
    holder.run("BEGIN");
    holder.run("SELECT 1");
    let health = proxy.get("/health").unwrap();
    assert_eq!((health.status, health.body.trim()), (200, "ok"));
    let ready = proxy.get("/ready").unwrap();
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &true.into()));
    assert_eq!(proxy.get("/nowhere").unwrap().status, 404);
    let page = proxy.pools();
    let pool = &page["pools"][0];
    assert_eq!(pool["database"], *database);
    assert_eq!(pool["user"], "app");
    assert_eq!(pool["role"], "writer");
    assert_eq!(
        (&pool["leased"], &pool["pinned"], &pool["waiting"]),
        (&1.into(), &0.into(), &0.into())
    );
    for number in ["total", "idle", "opening"] {
        assert!(pool[number].is_u64(), "{number} in {pool}");
    }
    let target = &page["targets"][0];
    assert_eq!(target["cap"], 3);
    assert!(
        target["used"]
            .as_u64()
            .is_some_and(|used| (1..=3).contains(&used)),
        "{target}"
    );
    assert!(target["state"].is_string(), "{target}");
    assert_eq!(page["clients"], 1);
    let metrics = proxy.metrics();
    assert!(metrics.contains("# TYPE "), "{metrics}");
    let histograms = metrics
        .lines()
        .filter(|line| line.starts_with("# TYPE ") && line.ends_with(" histogram"));
    assert!(
        histograms.count() >= 2,
        "borrow and query time in {metrics}"
    );
    assert!(metrics.contains("_bucket{"), "{metrics}");
    assert!(metrics.contains(&database), "labels by pool in {metrics}");
}

#[test]
fn what_becomes_of_connections_is_counted() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let proxy = Proxy::before(postgres, &database, 3).start();
    let mut pinned = proxy.client();
    pinned.run("CREATE TEMP TABLE mine (a int)");
    pinned.vanish();
    let mut broken = proxy.client();
    broken.send(&query("SELECT pg_terminate_backend(pg_backend_pid())"));
    assert_eq!(broken.last_words().code(), "57P01");
    assert!(proxy.login().database("nowhere").try_connect().is_err());
    let of = format!("database=\"{database}\"");
    let counted = [
        ("opened_total", &*of),
        ("closed_total", "reason=\"broken\""),
        ("failed_total", "reason=\"no_such_database\""),
    ];
    let counted = counted.map(|(name, label)| (format!("weir_pool_connections_{name}{{"), label));
    let resets = ("weir_pool_resets_total{".to_string(), &*of);
    eventually(
        "was it all counted",
        || proxy.metrics(),
        |text| {
            counted.iter().chain([&resets]).all(|(name, label)| {
                text.lines().any(|line| {
                    line.starts_with(name) && line.contains(label) && !line.ends_with(" 0")
                })
            })
        },
    );
}

#[test]
fn a_database_that_is_down_at_the_start_is_waited_for() {
    let postgres = Postgres::start(&[]);
    postgres.stop();
    let proxy = Proxy::before(&postgres, "postgres", 2)
        .set("WEIR__POOL__UNAVAILABLE_TIMEOUT", "1s")
        .start_unready();
    let target = postgres.address.port().to_string();
    eventually(
        "did it say why",
        || proxy.get("/ready").unwrap(),
        |page| page.status == 503 && page.json()["reason"].to_string().contains(&target),
    );
    assert_eq!(proxy.get("/health").unwrap().status, 200);
    let Err(refusal) = proxy.login().try_connect() else {
        panic!("nobody can be served yet");
    };
    assert_eq!((&*refusal.code, &*refusal.severity), ("08001", "FATAL"));
    assert!(
        format!("{refusal:?}").contains(&target),
        "the target in {refusal:?}"
    );
    postgres.start_again();
    eventually("was it ready", || proxy.ready(), |ready| *ready);
    proxy.client().run("SELECT 1");
}

fn drains(proxy: &Proxy) {
    proxy.signal("TERM");
    eventually(
        "was it unready",
        || proxy.get("/ready").map_or(0, |page| page.status),
        |status| *status == 503,
    );
}

#[test]
fn sigterm_lets_transactions_finish() {
    let postgres = Postgres::shared();
    let proxy = Proxy::before(postgres, &postgres.database(), 10).start();
    let mut idle = proxy.client();
    idle.run("CREATE TABLE work (a int)");
    let mut workers: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    for worker in &mut workers {
        worker.run("BEGIN");
        worker.run("INSERT INTO work VALUES (1)");
    }
    drains(&proxy);
    let told = idle.last_words().error().unwrap();
    assert_eq!((&*told.code, &*told.severity), ("57P01", "FATAL"));
    for worker in &mut workers {
        worker.run("INSERT INTO work VALUES (2)");
        assert_eq!(worker.ask("COMMIT").completed(), ["COMMIT"]);
        assert_eq!(worker.last_words().code(), "57P01");
    }
    let ended = proxy.wait_end();
    assert!(ended.success(), "{ended}");
    let database = proxy.login().database;
    assert_eq!(
        postgres.sql_in(&database, "SELECT count(*) FROM work"),
        ["16"]
    );
}

#[test]
fn the_drain_has_a_deadline_and_a_second_signal_ends_it() {
    let postgres = Postgres::shared();
    for (timeout, second) in [("700ms", false), ("60s", true)] {
        let proxy = Proxy::before(postgres, &postgres.database(), 2)
            .set("WEIR__DRAIN_TIMEOUT", timeout)
            .start();
        let mut stubborn = proxy.client();
        stubborn.run("BEGIN");
        stubborn.run("SELECT 1");
        drains(&proxy);
        if second {
            proxy.signal("TERM");
        }
        let words = stubborn.last_words();
        assert!(words.closed);
        let ended = Instant::now();
        proxy.wait_end();
        assert!(ended.elapsed() < Duration::from_secs(20));
        let database = proxy.login().database;
        eventually(
            "was all closed",
            || postgres.connections(&database),
            |n| *n == 0,
        );
    }
}

#[test]
fn sigterm_under_load() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let proxy = Proxy::before(postgres, &database, 10)
        .set("WEIR__DRAIN_TIMEOUT", "20s")
        .start();
    fill_for_pgbench(postgres, &database, count(2, 20));
    let clients = count(40, 300).to_string();
    let mut command = pgbench(
        proxy.address.port(),
        &database,
        &["-c", &clients, "-j", "2", "-T", "60"],
    );
    let load = thread::spawn(move || command.output().unwrap());
    let history = "SELECT count(*) > 50 FROM pgbench_history";
    eventually(
        "was there load",
        || postgres.sql_in(&database, history),
        |seen| seen == &["t"],
    );
    let rolled_back =
        format!("SELECT xact_rollback FROM pg_stat_database WHERE datname = '{database}'");
    let before = postgres.sql(&rolled_back);
    let asked = Instant::now();
    drains(&proxy);
    let ended = proxy.wait_end();
    let took = asked.elapsed();
    assert!(ended.success(), "{ended}");
    assert!(took < Duration::from_secs(20), "drained in {took:?}");
    let done = load.join().unwrap();
    let words = said(&done);
    assert!(
        words.contains("terminating connection") || words.contains("57P01"),
        "{words}"
    );
    eventually(
        "was all closed",
        || postgres.connections(&database),
        |n| *n == 0,
    );
    // Every transaction that was begun was finished.
    assert_eq!(
        postgres.sql(&rolled_back),
        before,
        "transactions rolled back"
    );
    if proving() {
        println!("drained {clients} pgbench clients in {took:?}");
    }
}

#[test]
fn reload_is_all_or_nothing() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let setup = Proxy::before(postgres, &database, 9).without("AURORA_MAX_CONNECTIONS");
    let proxy = setup.file("[pool]\nmax_connections = 3\n").start();
    let mut client = proxy.client();
    let cap = || proxy.pools()["targets"][0]["cap"].clone();
    client.run("SELECT 1");
    assert_eq!(cap(), 3);
    let path = proxy.file.clone().unwrap();
    std::fs::write(&path, "[pool]\nmax_connections = 5\n").unwrap();
    proxy.signal("HUP");
    eventually("was the new cap in force", cap, |cap| *cap == 5);
    client.run("SELECT 1");
    std::fs::write(&path, "[pool]\nmax_connections = 7\nnonsense = 1\n").unwrap();
    proxy.signal("HUP");
    eventually(
        "was it said",
        || proxy.log(),
        |log| log.contains("nonsense"),
    );
    assert!(
        proxy.log().contains(path.to_str().unwrap()),
        "{}",
        proxy.log()
    );
    assert_eq!(cap(), 5);
    client.run("SELECT 1");
    // The same, asked for by HTTP.
    let asked = crate::house::http::request(proxy.http, "POST", "/reload").unwrap();
    assert!(
        asked.status >= 400 && asked.body.contains("nonsense"),
        "{asked:?}"
    );
    std::fs::write(&path, "[pool]\nmax_connections = 4\n").unwrap();
    let asked = crate::house::http::request(proxy.http, "POST", "/reload").unwrap();
    assert_eq!(asked.status, 200, "{asked:?}");
    eventually("was the new cap in force", cap, |cap| *cap == 4);
}

#[test]
fn a_wrong_configuration_says_what_and_where() {
    let path = std::env::temp_dir().join(format!("weir-wrong-{}.toml", std::process::id()));
    let cases: &[(&str, &[&str])] = &[
        (
            "[pool]\nmax_conections = 5\n",
            &[":2", "max_conections", "max_connections"],
        ),
        (
            "[pool]\nmax_connections = 0\n",
            &[":2", "max_connections", "262143"],
        ),
        (
            "[pool]\n\nconnection_borrow_timeout = \"soon\"\n",
            &[":3", "connection_borrow_timeout"],
        ),
        ("[pool\n", &[":1"]),
        ("[nonsense]\n", &[":1", "nonsense"]),
    ];
    for (text, wanted) in cases {
        std::fs::write(&path, text).unwrap();
        let run = |command: &str| {
            let setup = Proxy::bare()
                .set("AURORA_HOST", "127.0.0.1")
                .set("AURORA_USER", "app");
            let mut weir = setup.set("AURORA_PASSWORD", "s").command();
            weir.arg(command)
                .env("WEIR_CONFIG", &path)
                .output()
                .unwrap()
        };
        for command in ["check", "run"] {
            let ended = run(command);
            let words = said(&ended);
            assert_eq!(ended.status.code(), Some(2), "{words}");
            assert!(words.contains(path.to_str().unwrap()), "{words}");
            for word in *wanted {
                assert!(words.contains(word), "{word} in {words}");
            }
        }
    }
    let _ = std::fs::remove_file(path);
}

#[test]
fn a_wrong_variable_names_itself() {
    let setup = Proxy::bare()
        .set("AURORA_HOST", "127.0.0.1")
        .set("AURORA_USER", "app");
    let ended = setup
        .set("AURORA_PASSWORD", "s")
        .set("AURORA_PORT", "none")
        .command()
        .output()
        .unwrap();
    let words = said(&ended);
    assert_eq!(ended.status.code(), Some(2), "{words}");
    assert!(words.contains("AURORA_PORT"), "{words}");
    let ended = Proxy::bare().command().output().unwrap();
    assert_eq!(ended.status.code(), Some(2), "{}", said(&ended));
}

#[test]
fn check_prints_no_secret() {
    let postgres = Postgres::shared();
    let ended = Proxy::before(postgres, "postgres", 3)
        .command()
        .arg("check")
        .output()
        .unwrap();
    let words = said(&ended);
    assert!(ended.status.success(), "{words}");
    assert!(!words.contains("app secret"), "{words}");
    assert!(words.contains("max_connections"), "{words}");
}

/// Clients with TLS and without, many at once: none is refused and all get their own answers.
#[test]
fn a_storm_of_logins_is_served() {
    use crate::house::client::Security;
    let postgres = Postgres::shared();
    let proxy = Proxy::before(postgres, &postgres.database(), 3).start();
    thread::scope(|scope| {
        for n in 0..count(24, 200) {
            let security = if n % 2 == 0 {
                Security::Tls
            } else {
                Security::Clear
            };
            let login = proxy.login().security(security);
            scope.spawn(move || {
                for turn in 0..3 {
                    let mut client = login.connect();
                    assert_eq!(
                        client.value(&format!("SELECT {n} + {turn}")),
                        (n + turn).to_string()
                    );
                }
            });
        }
    });
    eventually("were all gone", || proxy.clients(), |n| *n == 0);
}
