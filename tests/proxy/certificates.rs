//! Clients that prove themselves by a certificate, and sessions that are resumed: with psql, openssl and Node.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::house::client::Security;
use crate::house::programs::{postgres_program, said};
use crate::house::proxy::Setup;
use crate::house::tls::Authority;
use crate::house::{Postgres, Proxy, eventually};

/// Files of one test, gone afterwards.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Files {
        let path = std::env::temp_dir().join(format!("weir-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Files(path)
    }

    fn put(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        let private = name.ends_with(".key");
        let mode = if private { 0o600 } else { 0o644 };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `sslcert=... sslkey=...` of a client that the authority vouches for.
    fn client(&self, authority: &Authority, name: &str, years: (i32, i32)) -> String {
        let (cert, key) = authority.vouch(name, &[], years);
        let file = format!("{}-{}", name.replace([',', ' '], "_"), years.1);
        let cert = self.put(&format!("{file}.pem"), &cert);
        let key = self.put(&format!("{file}.key"), &key);
        format!("sslcert={cert} sslkey={key}")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const NOW: (i32, i32) = (2024, 2124);
const NO_CERTIFICATE: &str = "sslcert=/nowhere sslkey=/nowhere";

/// What psql prints, or why it fails: without the words about where it connected to.
fn psql(at: SocketAddr, user: &str, database: &str, how: &str) -> Result<String, String> {
    let target = format!(
        "host=127.0.0.1 port={} user={user} dbname={database} sslmode=require {how}",
        at.port()
    );
    let output = Command::new(postgres_program("psql"))
        .args(["-XAtw", "-c", "SELECT current_user", &target])
        .env("PGCONNECT_TIMEOUT", "20")
        .output()
        .expect("psql can be run; tools/setup installs it");
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let why = text.split_once("failed: ").map_or(&*text, |(_, why)| why);
    Err(why.trim().to_owned())
}

/// A Weir that asks users `vera`, `carl` and `ops` for certificates, with the authority in `ca.pem`.
fn before(postgres: &Postgres, files: &Files, more: &str) -> Setup {
    let users = ["vera", "carl"]
        .map(|name| format!("[[users]]\nname = \"{name}\"\npassword = \"pw\"\nauth = \"cert\"\n"));
    let ca = files.0.join("ca.pem");
    Proxy::before(postgres, "postgres", 4)
        .file(&format!(
            "[tls]\nclient_ca_file = {ca:?}\n{more}\n{}\n{}[[users]]\nname = \"ops\"\npassword = \"pw\"\nauth = \"cert\"\n\
             certificate_names = [\"Ops, Team A\", \"robot\"]\n",
            users[0], users[1]
        ))
}

fn cluster() -> Postgres {
    let postgres = Postgres::start_with_tls();
    for user in ["vera", "carl", "ops"] {
        postgres.sql(&format!("CREATE ROLE {user} LOGIN PASSWORD 'pw'"));
    }
    postgres
}

#[test]
fn a_certificate_proves_a_user_as_it_does_in_postgresql() {
    let (files, postgres) = (Files::new("cert"), cluster());
    let (ours, theirs) = (Authority::make("ours"), Authority::make("theirs"));
    let ca = files.put("ca.pem", &ours.pem);
    let proxy = before(&postgres, &files, "").start();
    // The same of PostgreSQL itself, for a role that Weir's own logins are not of: theirs go on by password.
    postgres.sql("CREATE ROLE direct LOGIN");
    postgres.allow("hostssl all direct 127.0.0.1/32 cert\n");
    postgres.sql(&format!("ALTER SYSTEM SET ssl_ca_file = '{ca}'"));
    postgres.sql("SELECT pg_reload_conf()");
    let vera = files.client(&ours, "vera", NOW);
    let direct = files.client(&ours, "direct", NOW);
    let reloaded = eventually(
        "was PostgreSQL reloaded",
        || psql(postgres.address, "direct", "postgres", &direct),
        |seen| seen.is_ok(),
    );
    assert_eq!(reloaded.as_deref(), Ok("direct"));
    assert_eq!(
        psql(proxy.address, "vera", "postgres", &vera).as_deref(),
        Ok("vera")
    );

    let expired = files.client(&ours, "vera", (2020, 2021));
    let stranger = files.client(&theirs, "vera", NOW);
    for (what, how) in [
        ("none", NO_CERTIFICATE),
        ("another name", &files.client(&ours, "other", NOW)),
        ("expired", &expired),
        ("of another authority", &stranger),
    ] {
        let expected = psql(postgres.address, "direct", "postgres", how).unwrap_err();
        let seen = psql(proxy.address, "vera", "postgres", how).unwrap_err();
        let told = |text: &str| text.replace("direct", "vera");
        assert_eq!(
            told_kind(&seen),
            told_kind(&told(&expected)),
            "{what}: {seen}\n{expected}"
        );
    }
    // Without TLS there is nothing to show; a user that nobody knows is told as little as one with another's certificate.
    let clear = proxy
        .login()
        .user("vera", "pw")
        .try_connect()
        .map(drop)
        .unwrap_err();
    assert_eq!(clear.code, "28000");
    let log = proxy.log();
    assert!(log.contains("client has shown no certificate"), "{log}");
    assert!(
        log.contains("certificate of Some(\"other\") does not prove user \"vera\""),
        "{log}"
    );
    assert!(log.contains("certificate expired"), "{log}");
    assert!(proxy.metrics().contains(
        "weir_auth_total{method=\"cert\",result=\"refused\",reason=\"wrong_certificate\"} 1"
    ));
    // Others log in by password, whatever certificate they show, or none.
    let mut client = proxy.login().security(Security::Tls).connect();
    assert_eq!(client.value("SELECT 1"), "1");
}

/// FATAL messages as they are; of TLS alerts OpenSSL words only which it was.
fn told_kind(text: &str) -> String {
    match text.rsplit_once("alert ") {
        Some((_, alert)) => format!("alert {alert}"),
        None => text.to_owned(),
    }
}

#[test]
fn names_of_certificates_may_be_mapped_to_a_user() {
    let (files, postgres) = (Files::new("map"), cluster());
    let ours = Authority::make("ours");
    files.put("ca.pem", &ours.pem);
    let proxy = before(&postgres, &files, "").start();
    for (name, user, is_let_in) in [
        ("Ops, Team A", "ops", true),
        ("robot", "ops", true),
        ("ops", "ops", false),
        ("robot", "carl", false),
        ("carl", "carl", true),
    ] {
        let shown = files.client(&ours, name, NOW);
        let seen = psql(proxy.address, user, "postgres", &shown);
        assert_eq!(seen.is_ok(), is_let_in, "{name} as {user}: {seen:?}");
    }
}

#[test]
fn authorities_of_clients_reload_and_nobody_is_dropped() {
    let (files, postgres) = (Files::new("reload"), cluster());
    let (first, second) = (Authority::make("first"), Authority::make("second"));
    files.put("ca.pem", &first.pem);
    let crl = format!(
        "crl_file = {:?}",
        files.put("crl.pem", &first.revoke("nobody at all"))
    );
    let proxy = before(&postgres, &files, &crl).start();
    let mut early = proxy.login().security(Security::Tls).connect();
    early.run("BEGIN");
    let (vera, carl) = (
        files.client(&first, "vera", NOW),
        files.client(&second, "carl", NOW),
    );
    let comes_in = |user: &str, how: &str| psql(proxy.address, user, "postgres", how).is_ok();
    assert!(comes_in("vera", &vera) && !comes_in("carl", &carl));
    // One authority more; then what is revoked; then the first one less.
    files.put("ca.pem", &format!("{}{}", first.pem, second.pem));
    proxy.signal("HUP");
    eventually("was carl let in", || comes_in("carl", &carl), |yes| *yes);
    assert!(comes_in("vera", &vera));
    files.put("crl.pem", &first.revoke("vera"));
    proxy.signal("HUP");
    eventually("was vera refused", || comes_in("vera", &vera), |yes| !yes);
    files.put("crl.pem", &first.revoke("nobody at all"));
    proxy.signal("HUP");
    eventually(
        "was vera let in again",
        || comes_in("vera", &vera),
        |yes| *yes,
    );
    files.put("ca.pem", &second.pem);
    files.put("crl.pem", &second.revoke("nobody at all"));
    proxy.signal("HUP");
    eventually(
        "was vera refused for good",
        || comes_in("vera", &vera),
        |yes| !yes,
    );
    // A broken file leaves all as it is.
    files.put("ca.pem", "no certificate");
    proxy.signal("HUP");
    eventually(
        "was it told",
        || proxy.log(),
        |log| log.contains("no PEM certificate"),
    );
    assert!(comes_in("carl", &carl));
    assert_eq!(early.value("SELECT 1"), "1");
    early.run("COMMIT");
}

/// One TLS handshake by openssl, which keeps the ticket in a file: whether it was "New" or "Reused".
fn s_client(at: SocketAddr, session: &Path, how: &[&str]) -> String {
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-starttls",
            "postgres",
            "-connect",
            &at.to_string(),
        ])
        .args(how)
        .arg(session)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl can be run; tools/setup installs it");
    // A ticket comes behind the handshake.
    if how.contains(&"-sess_out") {
        let is_there = || std::fs::metadata(session).is_ok_and(|file| file.len() > 0);
        eventually("was a ticket kept", is_there, |yes| *yes);
    } else {
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    let _ = child.stdin.take().unwrap().write_all(b"Q\n");
    let output = child.wait_with_output().unwrap();
    let text = said(&output);
    let line = text.lines().find(|line| line.contains(", Cipher is"));
    let word = line.and_then(|line| line.split_once(", "));
    word.unwrap_or_else(|| panic!("{text}")).0.to_owned()
}

#[test]
fn openssl_resumes_its_session_until_the_authorities_change() {
    let (files, postgres) = (Files::new("resume"), cluster());
    files.put("ca.pem", &Authority::make("first").pem);
    let proxy = before(&postgres, &files, "").start();
    for version in ["-tls1_3", "-tls1_2"] {
        let session = files.0.join(format!("session{version}"));
        assert_eq!(
            s_client(proxy.address, &session, &[version, "-sess_out"]),
            "New"
        );
        assert_eq!(
            s_client(proxy.address, &session, &[version, "-sess_in"]),
            "Reused"
        );
    }
    let session = files.0.join("session-tls1_3");
    files.put("ca.pem", &Authority::make("second").pem);
    proxy.signal("HUP");
    eventually(
        "was the ticket of no use",
        || s_client(proxy.address, &session, &["-tls1_3", "-sess_in"]),
        |word| word == "New",
    );
}

/// What a Lambda function would do: keep the session beside its client, for the next one.
const NODE: &str = "
const { Client } = require('pg');
let session;
async function login() {
    const ssl = { rejectUnauthorized: false, session };
    const client = new Client({ connectionString: process.env.TARGET, ssl });
    await client.connect();
    const { stream } = client.connection;
    stream.on('session', (ticket) => { session = ticket; });
    await client.query('SELECT 1');
    await new Promise((done) => setTimeout(done, 100));
    const resumed = stream.isSessionReused();
    session ??= stream.getSession();
    await client.end();
    return resumed;
}
(async () => console.log(await login(), await login(), await login()))();
";

#[test]
fn node_resumes_its_session() {
    let postgres = Postgres::shared();
    let proxy = Proxy::before(postgres, &postgres.database(), 2).start();
    let login = proxy.login();
    let target = format!(
        "postgres://{}:{}@127.0.0.1:{}/{}",
        login.user,
        percent(&login.password),
        proxy.address.port(),
        login.database
    );
    let output = Command::new("node")
        .args(["-e", NODE])
        .env(
            "NODE_PATH",
            concat!(env!("CARGO_MANIFEST_DIR"), "/.work/node/node_modules"),
        )
        .env("TARGET", target)
        .output()
        .expect("node can be run; tools/setup installs it");
    let seen = String::from_utf8_lossy(&output.stdout);
    assert_eq!(seen.trim(), "false true true", "{}", said(&output));
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
