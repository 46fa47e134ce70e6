//! A throw-away PostgreSQL cluster on a free port, gone when its last user is.
//!
//! Knows how to run and break one; does not know of Weir.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::network::Host;
use super::programs::{postgres_program, said};
use super::tls::Certificates;
use super::{Client, Login, eventually, free_port, local};

pub const SUPERUSER: &str = "postgres";
pub const SUPERUSER_PASSWORD: &str = "super-secret";
/// The user that tests come as: no superuser, owner of its databases.
pub const USER: &str = "app";
pub const PASSWORD: &str = "app secret'\\";

pub struct Postgres {
    pub address: SocketAddr,
    pub directory: PathBuf,
    pub certificates: Option<Certificates>,
    running: Mutex<Option<Child>>,
    settings: Vec<String>,
    /// A machine of its own; `None`: this one.
    pub host: Option<Host>,
}

/// Ends PostgreSQL when this process ends, however it does: our end of the pipe closes then.
const KEEPER: &str = r#"
"$@" >>"$LOG" 2>&1 </dev/null &
child=$!
read -r signal
kill -"${signal:-QUIT}" $child
wait $child
[ -n "$signal" ] || rm -rf "$DIRECTORY"
"#;

impl Postgres {
    /// A cluster of one's own, to stop, to fill, or to set up in a special way.
    pub fn start(settings: &[&str]) -> Postgres {
        Postgres::start_at(local(free_port()), None, settings)
    }

    pub fn start_at(address: SocketAddr, host: Option<Host>, settings: &[&str]) -> Postgres {
        Postgres::create(address, host, settings, None)
    }

    /// One that answers SSLRequest with S, and takes clear-text connections too.
    pub fn start_with_tls() -> Postgres {
        Postgres::create(local(free_port()), None, &[], Some(Certificates::make()))
    }

    /// The suite's common cluster: ask it for a database of your own.
    pub fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Postgres::start(&["max_connections=300"]))
    }

    /// A copy that follows this one.
    pub fn replica(&self, settings: &[&str]) -> Postgres {
        self.replica_at(local(free_port()), None, settings)
    }

    pub fn replica_at(
        &self,
        address: SocketAddr,
        host: Option<Host>,
        settings: &[&str],
    ) -> Postgres {
        let replica = Postgres {
            address,
            running: Mutex::new(None),
            settings: settings.iter().map(|setting| setting.to_string()).collect(),
            directory: new_directory(),
            certificates: None,
            host,
        };
        replica.clone_from(self);
        replica
    }

    /// Forgets all it has and follows `writer`, as a copy of it.
    pub fn clone_from(&self, writer: &Postgres) {
        self.stop_by("QUIT");
        let data = self.directory.join("data");
        let _ = fs::remove_dir_all(&data);
        let copied = as_postgres(&postgres_program("pg_basebackup"))
            .args(["-h", &writer.address.ip().to_string()])
            .args(["-p", &writer.address.port().to_string()])
            .args([
                "-U",
                SUPERUSER,
                "-X",
                "stream",
                "-c",
                "fast",
                "--no-sync",
                "-R",
                "-D",
            ])
            .arg(&data)
            .output()
            .expect("pg_basebackup can be run");
        assert!(copied.status.success(), "pg_basebackup: {}", said(&copied));
        self.start_again();
    }

    /// Follows nobody from here on, and has all that it will ever have received.
    pub fn follow_nobody(&self) {
        self.sql("ALTER SYSTEM SET primary_conninfo = ''");
        self.sql("SELECT pg_reload_conf()");
        eventually(
            "was it alone",
            || {
                self.sql("SELECT count(*) FROM pg_stat_wal_receiver")
                    .remove(0)
            },
            |count| count == "0",
        );
    }

    /// Follows another writer from here on.
    pub fn follow(&self, writer: &Postgres) {
        self.sql(&format!(
            "ALTER SYSTEM SET primary_conninfo = 'host={} port={} user={SUPERUSER}'",
            writer.address.ip(),
            writer.address.port()
        ));
        self.sql("SELECT pg_reload_conf()");
    }

    /// All of its processes, the postmaster first.
    pub fn processes(&self) -> Vec<u32> {
        let file = self.directory.join("data/postmaster.pid");
        let file = fs::read_to_string(file).unwrap_or_default();
        let Some(postmaster) = file.lines().next().and_then(|pid| pid.parse().ok()) else {
            return Vec::new();
        };
        let postmaster: u32 = postmaster;
        // The file outlives a kill, and its number may be somebody else's by then.
        let command = fs::read(format!("/proc/{postmaster}/cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&command).contains(&*self.directory.to_string_lossy()) {
            return Vec::new();
        }
        let mut all = vec![postmaster];
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // pid (name) state ppid ...
            let parent = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_whitespace().nth(1));
            if parent == Some(&postmaster.to_string()) {
                all.push(pid);
            }
        }
        all
    }

    pub fn signal_all(&self, name: &str) {
        for pid in self.processes() {
            super::programs::signal(pid, name);
        }
    }

    /// As if the power had failed; over when the last of its processes is gone, and its connections with it.
    pub fn kill(&self) {
        let processes = self.processes();
        for pid in &processes {
            super::programs::signal(*pid, "KILL");
        }
        let lives = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.chars().next());
            state.is_some_and(|state| state != 'Z')
        };
        eventually(
            "were all gone",
            || processes.iter().filter(|pid| lives(pid)).count(),
            |left| *left == 0,
        );
        self.stop_by("KILL");
    }

    fn create(
        address: SocketAddr,
        host: Option<Host>,
        settings: &[&str],
        certificates: Option<Certificates>,
    ) -> Postgres {
        let directory = new_directory();
        let password_file = directory.join("password");
        fs::write(&password_file, SUPERUSER_PASSWORD).unwrap();
        give_to_postgres(&password_file);
        let made = as_postgres(&postgres_program("initdb"))
            .args([
                "--no-sync",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
            ])
            .args([
                "--encoding=UTF8",
                "--locale=C",
                "--username",
                SUPERUSER,
                "--pwfile",
            ])
            .arg(&password_file)
            .arg("--pgdata")
            .arg(directory.join("data"))
            .output()
            .expect("initdb can be run; tools/setup installs it");
        assert!(made.status.success(), "initdb: {}", said(&made));
        if let Some(certificates) = &certificates {
            for (name, text) in [
                ("server.crt", &certificates.cert),
                ("server.key", &certificates.key),
            ] {
                let path = directory.join("data").join(name);
                fs::write(&path, text).unwrap();
                give_to_postgres(&path);
                Command::new("chmod")
                    .arg("600")
                    .arg(&path)
                    .status()
                    .unwrap();
            }
        }
        let tls = if certificates.is_some() {
            "ssl=on"
        } else {
            "ssl=off"
        };
        let postgres = Postgres {
            address,
            running: Mutex::new(None),
            settings: settings
                .iter()
                .copied()
                .chain([tls])
                .map(String::from)
                .collect(),
            directory,
            certificates,
            host,
        };
        postgres.allow(
            "host all,replication postgres 127.0.0.0/8 trust\nhost all legacy 127.0.0.1/32 md5\n\
             host all,replication postgres 198.18.0.0/15 trust\n\
             host all all 127.0.0.0/8 scram-sha-256\nhost all all 198.18.0.0/15 scram-sha-256\n",
        );
        postgres.start_again();
        postgres.sql(&format!(
            "CREATE ROLE {USER} LOGIN PASSWORD '{}'; GRANT pg_read_all_stats, pg_signal_backend TO {USER};",
            PASSWORD.replace('\'', "''"),
        ));
        postgres
    }

    /// Puts lines in front of pg_hba.conf.
    pub fn allow(&self, lines: &str) {
        let path = self.directory.join("data/pg_hba.conf");
        let old = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{lines}{old}")).unwrap();
    }

    /// Starts it, on the same port as before, and waits until it answers.
    pub fn start_again(&self) {
        let mut command = match &self.host {
            None => as_postgres(Path::new("env")),
            Some(host) if is_root() => host.run_as(&["runuser", "-u", "postgres", "--", "env"]),
            Some(host) => {
                let me = std::env::var("USER").unwrap();
                host.run_as(&["sudo", "-n", "-u", &me, "env"])
            }
        };
        command
            .arg(format!("LOG={}", self.directory.join("log").display()))
            .arg(format!("DIRECTORY={}", self.directory.display()))
            .args(["sh", "-c", KEEPER, "keeper"])
            .arg(postgres_program("postgres"))
            .arg("-D")
            .arg(self.directory.join("data"))
            .arg("-k")
            .arg(&self.directory)
            .arg("-p")
            .arg(self.address.port().to_string());
        let listen = format!("listen_addresses={}", self.address.ip());
        let usual = [
            &*listen,
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            "max_connections=100",
            "timezone=UTC",
            "log_line_prefix=%m [%p] %q%u@%d %a ",
        ];
        for setting in usual
            .into_iter()
            .chain(self.settings.iter().map(String::as_str))
        {
            command.arg("-c").arg(setting);
        }
        let keeper = command
            .stdin(Stdio::piped())
            .spawn()
            .expect("PostgreSQL can be run");
        *self.running() = Some(keeper);
        eventually(
            "did PostgreSQL come up",
            || {
                self.superuser()
                    .try_connect()
                    .map(|_| ())
                    .map_err(|refusal| format!("{refusal:?}\n{}", self.log()))
            },
            Result::is_ok,
        )
        .unwrap();
    }

    /// Stops it at once, sessions cut off with 57P01.
    pub fn stop(&self) {
        self.stop_by("INT");
    }

    fn stop_by(&self, signal: &str) {
        if let Some(mut keeper) = self.running().take() {
            // One that a test has frozen would not hear it.
            self.signal_all("CONT");
            let mut pipe = keeper.stdin.take().unwrap();
            let _ = writeln!(pipe, "{signal}");
            let _ = keeper.wait();
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    pub fn superuser(&self) -> Login {
        Login::to(self.address, SUPERUSER, SUPERUSER_PASSWORD, "postgres")
    }

    /// Straight to PostgreSQL, as the tests' usual user.
    pub fn login(&self, database: &str) -> Login {
        Login::to(self.address, USER, PASSWORD, database)
    }

    /// As the superuser: must succeed. Gives the first column of each row.
    pub fn sql(&self, sql: &str) -> Vec<String> {
        self.sql_in("postgres", sql)
    }

    pub fn sql_in(&self, database: &str, sql: &str) -> Vec<String> {
        let answer = self.superuser().database(database).connect().ask(sql);
        assert_eq!(answer.error(), None, "{sql}");
        answer.column()
    }

    /// A new, empty database that belongs to the tests' usual user.
    pub fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("house_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!(
            "CREATE DATABASE {name} OWNER {USER} STRATEGY file_copy"
        ));
        name
    }

    /// Connections of clients to `database`, as `state` counted.
    pub fn connections(&self, database: &str) -> usize {
        // Autovacuum's workers have a database, too, and are nobody's connection.
        self.count_where(&format!(
            "datname = '{database}' AND backend_type = 'client backend'"
        ))
    }

    /// Connections to `database` that work, or that sit in a transaction.
    pub fn busy(&self, database: &str) -> usize {
        self.count_where(&format!("datname = '{database}' AND state <> 'idle'"))
    }

    pub fn count_where(&self, condition: &str) -> usize {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {condition}");
        self.sql(&sql)[0].parse().unwrap()
    }

    /// They are gone when this returns.
    pub fn kill_backends(&self, database: &str) -> usize {
        let killed = self.sql(&format!(
            "SELECT CASE WHEN pg_terminate_backend(pid) THEN pid ELSE 0 END FROM pg_stat_activity WHERE datname = '{database}'"
        ));
        if !killed.is_empty() {
            let they = format!("pid IN ({})", killed.join(", "));
            eventually("were they gone", || self.count_where(&they), |n| *n == 0);
        }
        killed.len()
    }

    pub fn client(&self, database: &str) -> Client {
        self.login(database).connect()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The keeper does the same for the shared cluster, which lives in a static that nothing drops.
        self.stop_by("QUIT");
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn new_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let directory = std::env::temp_dir().join(format!(
        "weir-test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    fs::create_dir_all(&directory).unwrap();
    give_to_postgres(&directory);
    directory
}

/// `Arc` for tests that hand a cluster of their own to threads.
pub fn arc(settings: &[&str]) -> Arc<Postgres> {
    Arc::new(Postgres::start(settings))
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program);
    command.current_dir("/");
    command
}

fn give_to_postgres(path: &Path) {
    if is_root() {
        let given = Command::new("chown").arg("postgres:").arg(path).status();
        assert!(given.unwrap().success(), "{path:?} goes to postgres");
    }
}

pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}
