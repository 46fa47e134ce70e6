//! The throw-away PostgreSQL of a demo, a writer and a reader, and its Weir: started on loopback, stopped and removed when dropped.
//!
//! Knows processes, directories and ports; nothing of the load.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use tokio_postgres::{Client, Config, NoTls};

use super::{DemoError, START_LIMIT};
use crate::app::storm::{Target, make_table};

pub const USER: &str = "app";
pub const DATABASE: &str = "shop";
const SUPERUSER: &str = "postgres";
/// Tried first, so that what is printed is easy to type.
const FRIENDLY: [u16; 3] = [6432, 6433, 8080];
/// Longer than Weir's drain takes with clients like these.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const LOG_TAIL_BYTES: usize = 2000;

pub struct House {
    directory: PathBuf,
    account: Option<Account>,
    pub password: String,
    pub writer: SocketAddr,
    pub reader: SocketAddr,
    pub listen: SocketAddr,
    pub reader_listen: SocketAddr,
    pub http: SocketAddr,
    /// The writer, and the reader.
    databases: Vec<Child>,
    weir: Option<Child>,
}

/// Who runs PostgreSQL when we are root: it refuses to be.
#[derive(Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> DemoError {
    move |source| DemoError::Io { what, source }
}

impl House {
    /// An empty temporary directory, and ports.
    pub fn new() -> Result<Self, DemoError> {
        let account = account()?;
        let directory = std::env::temp_dir().join(format!("weir-demo-{}", std::process::id()));
        // Fails where it exists: a directory that somebody else put there is not to be trusted.
        fs::create_dir(&directory).map_err(io("make a temporary directory"))?;
        let [listen, reader_listen, http] =
            FRIENDLY.map(|port| bindable(port).or_else(|| bindable(0)));
        let none = || io("find a free port")(std::io::ErrorKind::AddrInUse.into());
        let house = Self {
            directory,
            account,
            password: random_word()?,
            writer: bindable(0).ok_or_else(none)?,
            reader: bindable(0).ok_or_else(none)?,
            listen: listen.ok_or_else(none)?,
            reader_listen: reader_listen.ok_or_else(none)?,
            http: http.ok_or_else(none)?,
            databases: Vec::new(),
            weir: None,
        };
        fs::set_permissions(&house.directory, fs::Permissions::from_mode(0o755))
            .map_err(io("open the temporary directory"))?;
        house.give(&house.directory)?;
        Ok(house)
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// How a client reaches the demo database at `address`.
    pub fn config(&self, address: SocketAddr) -> Config {
        let mut config = Config::new();
        config
            .host(address.ip().to_string())
            .port(address.port())
            .user(USER)
            .password(&self.password)
            .dbname(DATABASE);
        config
    }

    /// A writer with all that the load needs, and a reader that follows it.
    pub async fn start_postgres(&mut self) -> Result<(), DemoError> {
        let superuser = self.make_writer()?;
        self.run_postgres("data", self.writer, "postgres.log")?;
        self.furnish(&superuser).await?;
        self.make_reader(&superuser)?;
        self.run_postgres("reader", self.reader, "reader.log")?;
        // Weir asks once what it is, before anybody uses it.
        self.await_postgres(self.reader, &superuser).await.map(drop)
    }

    /// An empty cluster; its superuser's password.
    fn make_writer(&self) -> Result<String, DemoError> {
        let superuser = random_word()?;
        let secret = self.directory.join("superuser");
        fs::write(&secret, &superuser).map_err(io("write a password file"))?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))
            .map_err(io("protect a password file"))?;
        self.give(&secret)?;
        let mut initdb = self.postgres_command("initdb")?;
        initdb.args([
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--username",
            SUPERUSER,
        ]);
        initdb
            .arg("--pwfile")
            .arg(&secret)
            .arg("--pgdata")
            .arg(self.directory.join("data"));
        succeed(initdb, "initdb")?;
        Ok(superuser)
    }

    /// A copy of the writer that goes on following it.
    fn make_reader(&self, superuser: &str) -> Result<(), DemoError> {
        let mut copy = self.postgres_command("pg_basebackup")?;
        copy.env("PGPASSWORD", superuser)
            .args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf"])
            .args(["--host", &self.writer.ip().to_string()])
            .args(["--port", &self.writer.port().to_string()])
            .args(["--username", SUPERUSER, "--pgdata"])
            .arg(self.directory.join("reader"));
        succeed(copy, "pg_basebackup")
    }

    fn run_postgres(
        &mut self,
        data: &str,
        address: SocketAddr,
        log: &str,
    ) -> Result<(), DemoError> {
        let mut postgres = self.postgres_command("postgres")?;
        postgres.arg("-D").arg(self.directory.join(data));
        let port = format!("port={}", address.port());
        for setting in [
            "listen_addresses=127.0.0.1",
            &port,
            "unix_socket_directories=",
            "fsync=off",
            "shared_buffers=32MB",
            "max_connections=60",
        ] {
            postgres.args(["-c", setting]);
        }
        let child = self.spawn(&mut postgres, log, "start PostgreSQL")?;
        self.databases.push(child);
        Ok(())
    }

    /// The user, the database and the table of the load, as soon as PostgreSQL answers.
    async fn furnish(&mut self, superuser: &str) -> Result<(), DemoError> {
        let client = self.await_postgres(self.writer, superuser).await?;
        // Both words are ours, without a quote in them.
        client
            .batch_execute(&format!(
                "CREATE ROLE {USER} LOGIN PASSWORD '{}'",
                self.password
            ))
            .await?;
        client
            .batch_execute(&format!("CREATE DATABASE {DATABASE} OWNER {USER}"))
            .await?;
        make_table(&Target::plain(self.config(self.writer))).await?;
        Ok(())
    }

    /// Until PostgreSQL answers there.
    async fn await_postgres(
        &mut self,
        address: SocketAddr,
        superuser: &str,
    ) -> Result<Client, DemoError> {
        let mut config = self.config(address);
        config
            .user(SUPERUSER)
            .password(superuser)
            .dbname("postgres");
        let deadline = Instant::now() + START_LIMIT;
        loop {
            self.check()?;
            match config.connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return Ok(client);
                }
                Err(_) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => {
                    return Err(DemoError::NotStarted {
                        what: "PostgreSQL",
                        output: error.to_string(),
                    });
                }
            }
        }
    }

    /// As users do it: this binary, and the environment that a task definition would set.
    pub fn start_weir(&mut self, max_connections: u32) -> Result<(), DemoError> {
        let itself = std::env::current_exe().map_err(io("find this program"))?;
        let mut weir = Command::new(itself);
        for (name, _) in std::env::vars_os() {
            let ours = ["AURORA_", "POSTGRES_", "WEIR_"]
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix));
            if ours {
                weir.env_remove(name);
            }
        }
        weir.arg("run")
            .env("AURORA_HOST", self.writer.to_string())
            .env("AURORA_READER_HOST", self.reader.to_string())
            .env("AURORA_DATABASE", DATABASE)
            .env("AURORA_USER", USER)
            .env("AURORA_PASSWORD", &self.password)
            .env("AURORA_SSL", "false")
            .env("AURORA_MAX_CONNECTIONS", max_connections.to_string())
            .env("WEIR_LISTEN", self.listen.to_string())
            .env("WEIR_READER_LISTEN", self.reader_listen.to_string())
            .env("WEIR_HTTP_LISTEN", self.http.to_string());
        self.weir = Some(self.spawn(&mut weir, "weir.log", "start Weir")?);
        Ok(())
    }

    /// Errs when something that was started is no longer there.
    pub fn check(&mut self) -> Result<(), DemoError> {
        let gone = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        let logs = ["postgres.log", "reader.log"];
        for (child, log) in self.databases.iter_mut().zip(logs) {
            if gone(child) {
                return Err(DemoError::Gone {
                    what: "PostgreSQL",
                    output: self.tail(log),
                });
            }
        }
        if self.weir.as_mut().is_some_and(gone) {
            return Err(DemoError::Gone {
                what: "Weir",
                output: self.weir_log(),
            });
        }
        Ok(())
    }

    pub fn weir_log(&self) -> String {
        self.tail("weir.log")
    }

    fn tail(&self, log: &str) -> String {
        let text = fs::read(self.directory.join(log)).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
    }

    fn give(&self, path: &Path) -> Result<(), DemoError> {
        match self.account {
            Some(Account { uid, gid }) => {
                chown(path, Some(uid), Some(gid)).map_err(io("give a file to the account postgres"))
            }
            None => Ok(()),
        }
    }

    fn postgres_command(&self, name: &'static str) -> Result<Command, DemoError> {
        let mut command = Command::new(program(name).ok_or(DemoError::NoPostgres(name))?);
        // A home or a PGDATA of the caller's is not the demo's.
        command
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", "/usr/bin:/bin")
            .current_dir(&self.directory);
        // A Ctrl-C at the terminal is for us alone; we stop the others in order.
        command.process_group(0).stdin(Stdio::null());
        if let Some(Account { uid, gid }) = self.account {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }

    fn spawn(
        &self,
        command: &mut Command,
        log: &str,
        what: &'static str,
    ) -> Result<Child, DemoError> {
        let out = File::create(self.directory.join(log)).map_err(io(what))?;
        let err = out.try_clone().map_err(io(what))?;
        command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(io(what))
    }
}

impl Drop for House {
    fn drop(&mut self) {
        stop(self.weir.take(), "TERM");
        // SIGINT is PostgreSQL's fast shutdown.
        for child in self.databases.drain(..).rev() {
            stop(Some(child), "INT");
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn succeed(mut command: Command, what: &'static str) -> Result<(), DemoError> {
    let output = command.output().map_err(io(what))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(DemoError::Failed {
            what,
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
    }
}

fn stop(child: Option<Child>, signal: &str) {
    let Some(mut child) = child else { return };
    // The standard library can only kill; the shell's own `kill` is everywhere.
    let asked = Command::new("sh")
        .args([
            "-c",
            "kill -s \"$0\" \"$1\"",
            signal,
            &child.id().to_string(),
        ])
        .stderr(Stdio::null())
        .status();
    let deadline = Instant::now() + STOP_LIMIT;
    while asked.is_ok() && Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn account() -> Result<Option<Account>, DemoError> {
    let me = fs::metadata("/proc/self")
        .map_err(io("see who we are"))?
        .uid();
    if me != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(io("read /etc/passwd"))?;
    users
        .lines()
        .find_map(parse_account)
        .map(Some)
        .ok_or(DemoError::NoAccount)
}

fn parse_account(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    (name == "postgres").then_some(Account { uid, gid })
}

/// In PATH, or where Debian keeps it: the newest version.
fn program(name: &str) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut debian: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    debian.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(debian.into_iter().map(|(_, folder)| folder));
    folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// `port` on loopback, if nobody has it; 0 for any.
fn bindable(port: u16) -> Option<SocketAddr> {
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), port)).ok()?;
    listener.local_addr().ok()
}

fn random_word() -> Result<String, DemoError> {
    let mut bytes = [0u8; 8];
    let random = SystemRandom::new().fill(&mut bytes);
    random.map_err(|_| io("get random bytes")(std::io::ErrorKind::Other.into()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_is_found_by_name() {
        let line = "postgres:x:104:110:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash";
        assert!(matches!(
            parse_account(line),
            Some(Account { uid: 104, gid: 110 })
        ));
        for other in [
            "",
            "postgres",
            "postgres:x:a:b",
            "root:x:0:0:root:/root:/bin/bash",
        ] {
            assert!(parse_account(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_not_offered() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(bindable(taken.local_addr().unwrap().port()), None);
        assert!(bindable(0).is_some());
    }
}
