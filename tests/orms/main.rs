//! Frameworks over Weir with one connection for two sessions: none of what they say on connecting, in a transaction or
//! between two may pin. The real ones where they can be installed, else what they are known to say, in `said`.
//!
//! Knows how to run them and what must hold afterwards; what each does is written in its own language beside this.

#![allow(clippy::unwrap_used)] // a test that can't go on says so by panicking
#![allow(dead_code)] // not all of the house is needed here

#[path = "../house/mod.rs"]
mod house;
mod said;

use std::path::{Path, PathBuf};
use std::process::Command;

use house::postgres::{PASSWORD, USER};
use house::programs::said as words;
use house::{Postgres, Proxy, count};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Transactions of each of the two sessions.
fn transactions() -> usize {
    count(100, 1_000)
}

/// A database of its own, and in front of it a Weir with one connection, which a session that is pinned keeps from the other:
/// that one is told soon.
fn house() -> (String, Proxy) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let setup = Proxy::before(postgres, &database, 1);
    let proxy = setup
        .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "3s")
        .start();
    (database, proxy)
}

/// What this is about.
fn nothing_pinned(proxy: &Proxy) {
    assert_eq!(proxy.pooled("pinned"), 0, "{}", proxy.pools());
    assert_eq!(pins(proxy), "");
}

fn pins(proxy: &Proxy) -> String {
    let metrics = proxy.metrics();
    let pins = metrics
        .lines()
        .filter(|line| line.starts_with("weir_pool_pins_total") && !line.ends_with(" 0"));
    pins.collect::<Vec<_>>().join("\n")
}

/// Runs a program of two sessions that take turns: a little straight to PostgreSQL, to see that it is right, then over Weir.
fn never_pins(mut program: Command) {
    let (database, proxy) = house();
    let direct = Postgres::shared().address;
    for (address, transactions) in [(direct, 11), (proxy.address, transactions())] {
        let done = program
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", address.port().to_string())
            .env("PGUSER", USER)
            .env("PGPASSWORD", PASSWORD)
            .env("PGDATABASE", &database)
            .env("PGSSLMODE", "disable")
            .env("TRANSACTIONS", transactions.to_string())
            .output();
        let done =
            done.unwrap_or_else(|error| panic!("{program:?}: {error}; tools/setup installs it"));
        let way = if address == direct {
            "PostgreSQL"
        } else {
            "Weir"
        };
        assert!(
            done.status.success(),
            "over {way}: {}\n{}",
            words(&done),
            pins(&proxy)
        );
    }
    nothing_pinned(&proxy);
}

/// A program that hangs is ended by a signal, so that it fails with what it said.
fn patient(program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "150"]).arg(program);
    command
}

fn python(program: &str, argument: &str) -> Command {
    let mut command = patient(&here(".work/python/bin/python"));
    command.arg(here("tests/orms").join(program)).arg(argument);
    command
}

#[test]
fn sqlalchemy_over_psycopg() {
    never_pins(python("sqlalchemy_sessions.py", "psycopg"));
}

#[test]
fn sqlalchemy_over_asyncpg() {
    never_pins(python("sqlalchemy_sessions.py", "asyncpg"));
}

#[test]
fn asyncpg_pool() {
    never_pins(python("asyncpg_pool.py", "1"));
}

#[test]
fn django() {
    never_pins(python("django_sessions.py", "1"));
}

#[test]
fn sequelize() {
    let mut command = patient(Path::new("node"));
    command
        .arg(here("tests/orms/sequelize_sessions.js"))
        .env("NODE_PATH", here(".work/node/node_modules"));
    never_pins(command);
}

#[test]
fn hikari_and_pgjdbc_as_hibernate_uses_them() {
    let jars =
        ["HikariCP", "slf4j-api", "postgresql"].map(|jar| format!("/usr/share/java/{jar}.jar"));
    let mut command = patient(Path::new("java"));
    command
        .args(["-cp", &jars.join(":")])
        .arg(here("tests/orms/HikariSessions.java"));
    never_pins(command);
}
