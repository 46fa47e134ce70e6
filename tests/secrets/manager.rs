//! Secrets Manager itself: away, slow, or with something in it that is no use.

use std::time::{Duration, Instant};

use crate::Refused;
use crate::house::moto::{Moto, secret, with_aws};
use crate::house::proxy::Setup;
use crate::house::{Login, Postgres, Proxy, eventually, free_port, local, proving};

const NOWHERE: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:nowhere-AbCdEf";

fn setup(postgres: &Postgres, database: &str) -> Setup {
    Proxy::before(postgres, database, 4)
        .without("AURORA_USER")
        .without("AURORA_PASSWORD")
}

/// A role of its own, and its secret.
fn role(postgres: &Postgres, moto: &Moto, name: &str) -> String {
    postgres.sql(&format!(
        "DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN PASSWORD 'one'"
    ));
    moto.create(name, &secret(name, "one"))
}

/// Why it is not ready.
fn reason(proxy: &Proxy) -> String {
    let page = proxy.get("/ready").unwrap().json();
    page["reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn several_secrets_of_one_user_each() {
    let (postgres, moto) = (Postgres::shared(), Moto::start());
    let database = postgres.database();
    let arns = [
        role(postgres, &moto, "first"),
        role(postgres, &moto, "second"),
    ];
    let third = role(postgres, &moto, "third");
    let proxy = setup(postgres, &database)
        .set("AURORA_SECRET_ARN", &arns.join(","))
        .file(&format!(
            "[[users]]\nname = \"third\"\nsecret_arn = \"{third}\"\npool_max_connections = 1\n"
        ));
    let proxy = with_aws(proxy, moto.address).start();
    for user in ["first", "second", "third"] {
        let login = Login::to(proxy.address, user, "one", &database);
        assert_eq!(login.connect().value("SELECT current_user"), user);
        let wrong = Login::to(proxy.address, user, "two", &database);
        assert_eq!(wrong.refusal().code, "28P01");
    }
    let metrics = proxy.metrics();
    assert!(
        metrics.contains("weir_secret_fetches_total{outcome=\"ok\"}"),
        "{metrics}"
    );
}

/// The password is changed by hand, without any rotation: whoever has the new one gets in.
#[test]
fn a_value_changed_by_hand_is_found_out() {
    let (postgres, moto) = (Postgres::shared(), Moto::start());
    let database = postgres.database();
    let arn = role(postgres, &moto, "byhand");
    let proxy = setup(postgres, &database)
        .set("AURORA_SECRET_ARN", &arn)
        .set("WEIR_LOG", "trace");
    let proxy = with_aws(proxy, moto.address).start();
    Login::to(proxy.address, "byhand", "one", &database)
        .connect()
        .run("SELECT 1");
    postgres.sql("ALTER ROLE byhand PASSWORD 's3cr3t-value'");
    moto.put(&arn, &secret("byhand", "s3cr3t-value"));
    let new = Login::to(proxy.address, "byhand", "s3cr3t-value", &database);
    assert_eq!(new.connect().value("SELECT current_user"), "byhand");
    // Whatever the SDK has to say of its requests and answers, at any level.
    let log = proxy.log();
    assert!(log.contains("aws_"), "the SDK's log is there");
    for secret in ["s3cr3t-value", "not-a-real-key"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}

#[test]
fn while_it_is_away_everybody_who_is_known_gets_in() {
    let (postgres, mut moto) = (Postgres::shared(), Moto::start());
    let database = postgres.database();
    let arn = role(postgres, &moto, "known");
    let proxy = setup(postgres, &database)
        .set("AURORA_SECRET_ARN", &arn)
        .set("WEIR__SECRETS__TTL", "1s")
        .set("WEIR__SECRETS__TIMEOUT", "1s")
        .set("WEIR__POOL__SERVER_LIFETIME", "1s");
    let proxy = with_aws(proxy, moto.address).start();
    let login = Login::to(proxy.address, "known", "one", &database);
    let come = |lasts: Duration| {
        let (since, mut logins) = (Instant::now(), 0);
        while since.elapsed() < lasts {
            assert_eq!(login.connect().value("SELECT current_user"), "known");
            logins += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(logins > 20, "{logins}");
    };
    let away = Duration::from_secs(if proving() { 60 } else { 4 });
    moto.freeze();
    come(away);
    moto.thaw();
    come(Duration::from_secs(2));
    moto.kill();
    come(away);
    assert!(proxy.ready(), "an old value serves");
    assert!(
        proxy.log().contains("could not be fetched"),
        "{}",
        proxy.log()
    );
    assert!(
        proxy
            .metrics()
            .contains("weir_secret_fetches_total{outcome=\"failed\"}")
    );
}

#[test]
fn weir_starts_without_it_and_says_what_it_waits_for() {
    let (postgres, moto) = (Postgres::shared(), Moto::start());
    let database = postgres.database();
    let arn = role(postgres, &moto, "late");
    // Nobody listens there yet: a relay is put there later.
    let place = local(free_port());
    let proxy = with_aws(
        setup(postgres, &database).set("AURORA_SECRET_ARN", &arn),
        place,
    );
    let proxy = proxy.start_unready();
    let login = Login::to(proxy.address, "late", "one", &database);
    let refusal = login.refusal();
    assert_eq!((&*refusal.code, &*refusal.severity), ("57P03", "FATAL"));
    assert!(!format!("{refusal:?}").contains("arn:"), "{refusal:?}");
    let page = proxy.get("/ready").unwrap();
    assert_eq!(page.status, 503);
    assert!(page.body.contains(&arn), "{page:?}");
    let relay = Relay::start(place, moto.address);
    eventually("was the secret fetched", || proxy.ready(), |ready| *ready);
    assert_eq!(login.connect().value("SELECT current_user"), "late");
    drop(relay);
}

/// Passes on what comes to one port to another.
struct Relay(std::process::Child);

impl Relay {
    fn start(from: std::net::SocketAddr, to: std::net::SocketAddr) -> Relay {
        const RELAY: &str = "import socket, sys, threading\n\
            listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n\
            def pass_on(a, b):\n    \
                while data := a.recv(65536): b.sendall(data)\n    \
                b.shutdown(socket.SHUT_WR)\n\
            def serve():\n    \
                while True:\n        \
                    a, b = listener.accept()[0], socket.create_connection(('127.0.0.1', int(sys.argv[2])))\n        \
                    for pair in ((a, b), (b, a)): threading.Thread(target=pass_on, args=pair, daemon=True).start()\n\
            threading.Thread(target=serve, daemon=True).start()\n\
            sys.stdin.read()\n";
        let child = std::process::Command::new("python3")
            .args([
                "-c",
                RELAY,
                &from.port().to_string(),
                &to.port().to_string(),
            ])
            .stdin(std::process::Stdio::piped())
            .spawn();
        Relay(child.expect("python3 runs"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn a_secret_that_is_no_use_is_named_and_not_quoted() {
    let (postgres, moto) = (Postgres::shared(), Moto::start());
    let database = postgres.database();
    for (name, text, why) in [
        (
            "nokey",
            r#"{"username":"app","passwd":"s3cr3t-value"}"#,
            "no key \"password\"",
        ),
        ("nojson", "s3cr3t-value", "no JSON object"),
        (
            "empty",
            r#"{"username":"","password":"s3cr3t-value"}"#,
            "key \"username\"",
        ),
    ] {
        let arn = moto.create(name, text);
        let setup = setup(postgres, &database).set("AURORA_SECRET_ARN", &arn);
        let proxy = with_aws(setup, moto.address).start_unready();
        let said = eventually(
            "did Weir say why",
            || reason(&proxy),
            |reason| reason.contains(why),
        );
        assert!(said.contains(&arn), "{said}");
        let log = proxy.log();
        assert!(
            log.contains(&arn) && log.contains("could not be fetched"),
            "{log}"
        );
        assert!(
            !log.contains("s3cr3t-value") && !said.contains("s3cr3t-value"),
            "{log}"
        );
    }
    let setup = setup(postgres, &database).set("AURORA_SECRET_ARN", NOWHERE);
    let proxy = with_aws(setup, moto.address).start_unready();
    eventually(
        "did Weir say why",
        || reason(&proxy),
        |reason| reason.contains("no such secret") && reason.contains(NOWHERE),
    );
}

#[test]
fn what_is_no_arn_stops_the_start() {
    let postgres = Postgres::shared();
    for (arn, why) in [
        ("orders", "is not the ARN of a secret"),
        (
            "arn:aws:secretsmanager:eu-west-1:1234:secret:x",
            "names no account",
        ),
    ] {
        let output = setup(postgres, "postgres")
            .set("AURORA_SECRET_ARN", arn)
            .command()
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("AURORA_SECRET_ARN") && said.contains(why),
            "{said}"
        );
    }
}
