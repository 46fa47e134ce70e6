//! Weir's own login by IAM, to a PostgreSQL that checks tokens as Aurora does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::Refused;
use crate::house::client::Security;
use crate::house::proxy::Setup;
use crate::house::{Login, Postgres, Proxy, free_port, local};

const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "not-a-real-key";

/// A PostgreSQL with TLS whose members of `rds_iam` come with tokens.
struct Aurora {
    postgres: Postgres,
    ca: std::path::PathBuf,
}

impl Aurora {
    fn start() -> Aurora {
        let postgres = Postgres::start_with_tls();
        postgres.sql("CREATE ROLE rds_iam; CREATE ROLE fn LOGIN IN ROLE rds_iam");
        postgres.stop();
        postgres.allow("hostssl all +rds_iam 127.0.0.1/32 pam pamservice=weir-test\n");
        postgres.start_again();
        let ca = std::env::temp_dir().join(format!("weir-aurora-{}.pem", postgres.address.port()));
        std::fs::write(&ca, &postgres.certificates.as_ref().unwrap().ca).unwrap();
        let hook = postgres.directory.join("data/weir_hook");
        std::fs::write(&hook, include_str!("rds_iam.py")).unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        let aurora = Aurora { postgres, ca };
        aurora.trust(KEY, SECRET, None);
        aurora
    }

    fn endpoint(&self) -> String {
        format!("localhost:{}", self.postgres.address.port())
    }

    /// Tokens of this key alone are taken from here on.
    fn trust(&self, key: &str, secret: &str, session: Option<&str>) {
        let sessions = session.map_or(json!({}), |session| json!({key: session}));
        let truth = json!({
            "endpoint": self.endpoint(), "region": "eu-west-1", "keys": {key: secret}, "sessions": sessions,
        });
        std::fs::write(
            self.postgres.directory.join("data/iam.json"),
            truth.to_string(),
        )
        .unwrap();
    }

    /// Why tokens were refused.
    fn refusals(&self) -> String {
        std::fs::read_to_string(self.postgres.directory.join("data/iam.log")).unwrap_or_default()
    }

    fn weir(&self) -> Setup {
        Proxy::before(&self.postgres, "postgres", 4)
            .without("AURORA_USER")
            .without("AURORA_PASSWORD")
            .without("AURORA_SSL")
            .set("AURORA_HOST", "localhost")
            .set("AURORA_SSL", "verify-full")
            .set("AURORA_CA_FILE", self.ca.to_str().unwrap())
            .set("AWS_REGION", "eu-west-1")
            .file("[[users]]\nname = \"fn\"\npassword = \"for clients\"\ndefault_auth_scheme = \"iam\"\n")
    }

    fn weir_with_key(&self) -> Setup {
        self.weir()
            .set("AWS_ACCESS_KEY_ID", KEY)
            .set("AWS_SECRET_ACCESS_KEY", SECRET)
    }
}

impl Drop for Aurora {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.ca);
    }
}

fn client(proxy: &Proxy) -> Login {
    Login::to(proxy.address, "fn", "for clients", "postgres")
}

/// AWS's own signer is let in here, so what this database refuses, Aurora would.
#[test]
fn the_database_takes_tokens_of_botocore() {
    let aurora = Aurora::start();
    let made = |user: &str| {
        const MAKE: &str = "import boto3, sys\n\
            rds = boto3.client('rds', region_name='eu-west-1', aws_access_key_id=sys.argv[1], aws_secret_access_key=sys.argv[2])\n\
            print(rds.generate_db_auth_token(DBHostname='localhost', Port=int(sys.argv[3]), DBUsername=sys.argv[4]))";
        let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.work/python/bin/python");
        let port = aurora.postgres.address.port().to_string();
        let output = Command::new(python)
            .args(["-c", MAKE, KEY, SECRET, &port, user])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let come = |token: &str| {
        let login =
            Login::to(aurora.postgres.address, "fn", token, "postgres").security(Security::Tls);
        login.try_connect().map(|_| ())
    };
    let token = made("fn");
    assert_eq!(come(&token), Ok(()), "{}", aurora.refusals());
    for bad in [
        made("other"),
        token.replace("eu-west-1", "eu-west-2"),
        token.replace("900", "899"),
        "secret".into(),
    ] {
        let refusal = come(&bad).unwrap_err();
        assert_eq!(refusal.code, "28000", "{refusal:?}");
        assert!(
            refusal.message.starts_with("PAM authentication failed"),
            "{refusal:?}"
        );
    }
}

#[test]
fn weir_logs_in_with_a_token_of_its_own() {
    let aurora = Aurora::start();
    let proxy = aurora
        .weir_with_key()
        .set("WEIR__POOL__SERVER_LIFETIME", "1s")
        .start();
    for _ in 0..3 {
        let mut client = client(&proxy).connect();
        assert_eq!(client.value("SELECT current_user"), "fn");
        let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        assert_eq!(client.value(encrypted), "t");
        std::thread::sleep(Duration::from_millis(1_100));
    }
    assert_eq!(aurora.refusals(), "");
    // Clients come with their password as ever, and with nothing else.
    let wrong = Login::to(proxy.address, "fn", "other", "postgres");
    assert_eq!(wrong.refusal().code, "28P01");
    assert!(!proxy.log().contains("X-Amz"), "{}", proxy.log());
}

/// Fargate's endpoint for a task's credentials.
struct Container {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    key: Arc<Mutex<(String, String, String)>>,
}

impl Container {
    fn start() -> Container {
        let listener = TcpListener::bind(local(free_port())).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<AtomicUsize>::default();
        let key = Arc::new(Mutex::new((String::new(), String::new(), String::new())));
        let (count, truth) = (Arc::clone(&asked), Arc::clone(&key));
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                if length == 0 {
                    continue;
                }
                assert!(request.starts_with("GET /task-role"), "{request}");
                count.fetch_add(1, Ordering::Relaxed);
                let (key, secret, session) = truth.lock().unwrap().clone();
                let body = json!({
                    "AccessKeyId": key, "SecretAccessKey": secret, "Token": session, "Expiration": "2099-01-01T00:00:00Z",
                })
                .to_string();
                let length = body.len();
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").unwrap();
            }
        });
        Container {
            address,
            asked,
            key,
        }
    }

    fn give(&self, aurora: &Aurora, number: usize) {
        let (key, secret, session) = (
            format!("ASIA{number:016}"),
            format!("key {number}"),
            format!("session/{number}+="),
        );
        aurora.trust(&key, &secret, Some(&session));
        *self.key.lock().unwrap() = (key, secret, session);
    }
}

/// A token is used again, and when the database does not take it any more, new credentials are fetched at once.
#[test]
fn the_task_role_changes_and_nobody_notices() {
    let (aurora, container) = (Aurora::start(), Container::start());
    container.give(&aurora, 1);
    let uri = format!("http://{}/task-role", container.address);
    let proxy = aurora
        .weir()
        .set("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)
        .set("AWS_EC2_METADATA_DISABLED", "true")
        .set("WEIR__POOL__SERVER_LIFETIME", "1s")
        .set("WEIR_LOG", "trace")
        .start();
    let come = || assert_eq!(client(&proxy).connect().value("SELECT current_user"), "fn");
    for _ in 0..4 {
        come();
        std::thread::sleep(Duration::from_millis(600));
    }
    assert_eq!(
        container.asked.load(Ordering::Relaxed),
        1,
        "one token for all logins"
    );
    assert_eq!(aurora.refusals(), "");
    for number in 2..4 {
        container.give(&aurora, number);
        std::thread::sleep(Duration::from_millis(1_200));
        come();
        assert_eq!(container.asked.load(Ordering::Relaxed), number);
    }
    // Whatever the SDK has to say, at any level.
    let log = proxy.log();
    assert!(log.contains("aws_"), "the SDK's log is there");
    for secret in [
        "X-Amz-Signature=",
        "session/",
        "session%2F",
        "key 1",
        "key 3",
        "for clients",
    ] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
    assert!(
        aurora.refusals().contains("signed by an unknown key"),
        "{}",
        aurora.refusals()
    );
}

#[test]
fn a_role_that_may_not_is_tried_twice_and_then_left_alone() {
    let aurora = Aurora::start();
    aurora.trust("AKIA0000000000000000", "another", None);
    let proxy = aurora.weir_with_key().start_unready();
    let refusal = client(&proxy).refusal();
    assert!(["28000", "08001"].contains(&&*refusal.code), "{refusal:?}");
    std::thread::sleep(Duration::from_secs(5));
    // Two tokens a time, and a pause of one second, of two, of four.
    let refused = aurora.refusals().lines().count();
    assert!((2..=8).contains(&refused), "{}", aurora.refusals());
    assert_eq!(proxy.get("/ready").unwrap().status, 503);
    aurora.trust(KEY, SECRET, None);
    crate::house::eventually("was Weir let in", || proxy.ready(), |ready| *ready);
    client(&proxy).connect().run("SELECT 1");
}

/// A token is for nobody but Aurora: not for a server that can't show who it is, nor one that asks for something else.
#[test]
fn a_token_is_not_sent_to_just_anybody() {
    let aurora = Aurora::start();
    for mode in ["require", "verify-ca", "prefer", "false"] {
        let output = aurora
            .weir_with_key()
            .set("AURORA_SSL", mode)
            .without("AURORA_CA_FILE");
        let file = std::env::temp_dir().join(format!(
            "weir-iam-{mode}-{}.toml",
            aurora.postgres.address.port()
        ));
        std::fs::write(
            &file,
            "[[users]]\nname = \"fn\"\ndefault_auth_scheme = \"iam\"\n",
        )
        .unwrap();
        let output = output
            .set("WEIR_CONFIG", file.to_str().unwrap())
            .command()
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("users.default_auth_scheme") && said.contains("verify-full"),
            "{said}"
        );
        let _ = std::fs::remove_file(file);
    }
    aurora
        .postgres
        .sql("REVOKE rds_iam FROM fn; ALTER ROLE fn PASSWORD 'x'");
    let proxy = aurora.weir_with_key().start_unready();
    let refusal = client(&proxy).refusal();
    assert!(
        refusal.detail.contains("IAM token") && refusal.hint.contains("rds_iam"),
        "{refusal:?}"
    );
}
