//! A Weir in front of a PostgreSQL, run as an operator would: the binary and its environment.
//!
//! Knows how to start, ask and stop one; does not know what it should answer.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{self, Page};
use super::postgres::{PASSWORD, Postgres, USER};
use super::programs::signal;
use super::{Client, Login, PATIENCE, eventually, free_port, local};

/// A Weir about to be started.
#[derive(Clone)]
pub struct Setup {
    database: String,
    variables: Vec<(String, String)>,
    file: Option<String>,
    host: IpAddr,
}

pub struct Proxy {
    pub address: SocketAddr,
    /// Open only where there may be readers.
    pub reader: SocketAddr,
    pub http: SocketAddr,
    pub pid: u32,
    pub file: Option<PathBuf>,
    child: Mutex<Child>,
    log: Arc<Mutex<String>>,
    database: String,
}

impl Setup {
    pub fn set(mut self, name: &str, value: &str) -> Setup {
        self.variables.push((name.into(), value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Setup {
        self.variables.retain(|(set, _)| set != name);
        self
    }

    /// On another of this machine's loopback addresses.
    pub fn at(mut self, host: IpAddr) -> Setup {
        self.host = host;
        self
    }

    pub fn cap(self, connections: usize) -> Setup {
        self.set("AURORA_MAX_CONNECTIONS", &connections.to_string())
    }

    /// The text of a configuration file beside the environment.
    pub fn file(mut self, toml: &str) -> Setup {
        self.file = Some(toml.into());
        self
    }

    /// Starts it and waits until it says that it is ready.
    pub fn start(self) -> Proxy {
        let proxy = self.start_unready();
        eventually(
            "was Weir ready",
            || (proxy.ready(), proxy.log()),
            |(ready, _)| *ready,
        );
        proxy
    }

    /// Starts it and waits only until it listens.
    pub fn start_unready(self) -> Proxy {
        let address = SocketAddr::new(self.host, free_port());
        let (reader, http) = (local(free_port()), local(free_port()));
        let file = self.file.as_ref().map(|text| {
            let path = std::env::temp_dir().join(format!("weir-{}.toml", address.port()));
            std::fs::write(&path, text).unwrap();
            path
        });
        let mut command = self.command();
        command
            .env("WEIR_LISTEN", address.to_string())
            .env("WEIR_READER_LISTEN", reader.to_string())
            .env("WEIR_HTTP_LISTEN", http.to_string());
        if let Some(path) = &file {
            command.env("WEIR_CONFIG", path);
        }
        let mut child = command.spawn().expect("the weir binary runs");
        let log = Arc::new(Mutex::new(String::new()));
        follow(child.stdout.take().unwrap(), log.clone());
        follow(child.stderr.take().unwrap(), log.clone());
        let proxy = Proxy {
            address,
            reader,
            http,
            pid: child.id(),
            file,
            child: Mutex::new(child),
            log,
            database: self.database,
        };
        eventually(
            "did Weir listen",
            || (proxy.get("/health").is_ok(), proxy.log()),
            |(up, _)| *up || proxy.ended().is_some(),
        );
        assert_eq!(proxy.ended(), None, "{}", proxy.log());
        proxy
    }

    /// The bare command, for those that look at exit codes.
    pub fn command(&self) -> Command {
        // Another build, such as an image's, may be put to the test.
        let built = std::env::var_os("WEIR_BIN").unwrap_or(env!("CARGO_BIN_EXE_weir").into());
        let mut command = Command::new(built);
        for (name, _) in std::env::vars() {
            if ["WEIR_", "AURORA_", "POSTGRES_", "PG", "AWS_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        command
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

impl Proxy {
    /// With nothing set but its listeners' places.
    pub fn bare() -> Setup {
        Setup {
            database: String::new(),
            variables: vec![("WEIR_LOG".into(), "info".into())],
            file: None,
            host: local(0).ip(),
        }
    }

    /// In front of one database, for the tests' usual user, with `cap` server connections.
    pub fn before(postgres: &Postgres, database: &str, cap: usize) -> Setup {
        let mut setup = Proxy::bare()
            .set("AURORA_HOST", "127.0.0.1")
            .set("AURORA_PORT", &postgres.address.port().to_string())
            .set("AURORA_DATABASE", database)
            .set("AURORA_USER", USER)
            .set("AURORA_PASSWORD", PASSWORD)
            .set("AURORA_SSL", "false")
            .cap(cap);
        setup.database = database.into();
        setup
    }

    pub fn login(&self) -> Login {
        Login::to(self.address, USER, PASSWORD, &self.database)
    }

    pub fn reader_login(&self) -> Login {
        Login::to(self.reader, USER, PASSWORD, &self.database)
    }

    pub fn client(&self) -> Client {
        self.login().connect()
    }

    pub fn get(&self, path: &str) -> std::io::Result<Page> {
        http::get(self.http, path)
    }

    pub fn ready(&self) -> bool {
        self.get("/ready").is_ok_and(|page| page.status == 200)
    }

    pub fn pools(&self) -> Value {
        self.get("/pools").unwrap().json()
    }

    /// The sum of one number (`total`, `idle`, `leased`, `waiting`, ...) over all pools.
    pub fn pooled(&self, what: &str) -> u64 {
        let pools = self.pools();
        let pools = pools["pools"].as_array().unwrap();
        pools.iter().map(|pool| pool[what].as_u64().unwrap()).sum()
    }

    pub fn clients(&self) -> u64 {
        self.pools()["clients"].as_u64().unwrap()
    }

    pub fn metrics(&self) -> String {
        self.get("/metrics").unwrap().body
    }

    pub fn rss_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        kilobytes.unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn log(&self) -> String {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid, name);
    }

    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().try_wait().unwrap()
    }

    pub fn wait_end(&self) -> ExitStatus {
        eventually("did Weir end", || self.ended(), Option::is_some).unwrap()
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(4_000);
            eprintln!("--- Weir's log ends:\n{}", log.get(start..).unwrap_or(&log));
        }
        if self.ended().is_none() {
            self.signal("TERM");
            let deadline = Instant::now() + PATIENCE;
            // A second signal ends the drain of clients that a failed test left behind.
            std::thread::sleep(Duration::from_millis(20));
            while self.ended().is_none() && Instant::now() < deadline {
                self.signal("TERM");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.child().kill();
        let _ = self.child().wait();
        if let Some(path) = &self.file {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn follow(pipe: impl std::io::Read + Send + 'static, log: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&line);
            log.push('\n');
        }
    });
}
