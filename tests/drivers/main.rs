//! Real drivers over Weir with a pool of two: what each suite does is written in its own language beside this.
//!
//! Knows how to run them, in the clear and over TLS; does not know what they check.

#![allow(clippy::unwrap_used)] // a test that can't go on says so by panicking

#[path = "../house/mod.rs"]
mod house;
mod tokio_postgres_suite;

use std::path::{Path, PathBuf};
use std::process::Command;

use house::postgres::{PASSWORD, USER};
use house::programs::{postgres_program, said};
use house::{Postgres, Proxy};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A suite that hangs is ended by a signal, so that it fails with what it said.
fn patient(program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "150"]).arg(program);
    command
}

/// Runs a suite against a Weir of its own, in the clear and then over TLS.
fn passes(mut suite: Command) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let proxy = Proxy::before(postgres, &database, 2).start();
    for mode in ["disable", "require"] {
        let done = suite
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", proxy.address.port().to_string())
            .env("PGUSER", USER)
            .env("PGPASSWORD", PASSWORD)
            .env("PGDATABASE", &database)
            .env("PGSSLMODE", mode)
            .output();
        let done =
            done.unwrap_or_else(|error| panic!("{suite:?}: {error}; tools/setup installs it"));
        let left = proxy.pools();
        assert!(
            done.status.success(),
            "sslmode={mode}: {}\n{left}",
            said(&done)
        );
    }
    drop(proxy);
    house::eventually(
        "was all closed",
        || postgres.connections(&database),
        |n| *n == 0,
    );
}

fn python(suite: &str) -> Command {
    let mut command = patient(&here(".work/python/bin/python"));
    command.arg(here("tests/drivers").join(suite));
    command
}

fn node(suite: &str) -> Command {
    let mut command = patient(Path::new("node"));
    command
        .arg(here("tests/drivers").join(suite))
        .env("NODE_PATH", here(".work/node/node_modules"));
    command
}

#[test]
fn psycopg() {
    passes(python("psycopg_suite.py"));
}

#[test]
fn asyncpg() {
    passes(python("asyncpg_suite.py"));
}

#[test]
fn node_postgres() {
    passes(node("node_postgres_suite.js"));
}

#[test]
fn postgres_js() {
    passes(node("postgres_js_suite.js"));
}

#[test]
fn pgjdbc() {
    let mut command = patient(Path::new("java"));
    command
        .args(["-cp", "/usr/share/java/postgresql.jar"])
        .arg(here("tests/drivers/PgjdbcSuite.java"));
    passes(command);
}

#[test]
fn libpq() {
    let mut command = patient(Path::new("bash"));
    command
        .arg(here("tests/drivers/libpq_suite.sh"))
        .arg(postgres_program("psql").parent().unwrap())
        .current_dir(std::env::temp_dir());
    passes(command);
}
