//! Load that must not notice anything: pgbench, a new connection for each transaction.
//!
//! Knows how to run it and what it says of failures.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::house::programs::postgres_program;
use crate::house::{Postgres, Proxy};

pub struct Load {
    child: Child,
    name: String,
}

/// What pgbench has counted.
#[derive(Debug)]
pub struct Counted {
    pub transactions: u64,
    pub failed: u64,
}

/// The script writes and reads, so that a connection in an odd state would show.
const SCRIPT: &str = "BEGIN;\nINSERT INTO seen (role) VALUES (current_user);\nSELECT count(*) FROM seen WHERE id > 0;\nCOMMIT;\n";

/// What the script needs. All may write, whichever role of two they log in as.
pub fn prepare(postgres: &Postgres, database: &str) {
    let table =
        "CREATE TABLE seen (id bigserial, role text); GRANT ALL ON seen, seen_id_seq TO PUBLIC";
    postgres.sql_in(database, table);
}

impl Load {
    pub fn start(
        proxy: &Proxy,
        database: &str,
        user: &str,
        password: &str,
        lasts: Duration,
    ) -> Load {
        let script = std::env::temp_dir().join(format!("weir-load-{}.sql", std::process::id()));
        std::fs::write(&script, SCRIPT).unwrap();
        let child = Command::new(postgres_program("pgbench"))
            .args([
                "--no-vacuum",
                "--connect",
                "--client=4",
                "--rate=60",
                "--file",
            ])
            .arg(&script)
            .args(["--time", &lasts.as_secs().to_string()])
            .args(["-h", "127.0.0.1", "-p", &proxy.address.port().to_string()])
            .args(["-U", user, database])
            .env("PGPASSWORD", password)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pgbench runs; tools/setup installs it");
        Load {
            child,
            name: format!("{user} with {password}"),
        }
    }

    /// Waits for its end. A connection that could not be opened ends pgbench with an error.
    pub fn end(self) -> Counted {
        let output = self.child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {text}\n{said}", self.name);
        let number = |what: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(what));
            let line = line.unwrap_or_else(|| panic!("no {what:?} in {text}"));
            let number = line.rsplit(": ").next().unwrap();
            number
                .split(' ')
                .next()
                .unwrap()
                .split('/')
                .next()
                .unwrap()
                .parse()
                .unwrap()
        };
        Counted {
            transactions: number("number of transactions actually processed"),
            failed: number("number of failed transactions"),
        }
    }
}
