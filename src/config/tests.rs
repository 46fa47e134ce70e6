//! The configuration as people meet it: files and variables in, a `Config` or one message out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::section::Section as _;
use super::*;

/// A file in the temporary directory, gone with the test.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn with(file: Option<&Path>, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load(
        file,
        env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
    )
}

const ENOUGH: [(&str, &str); 3] = [
    ("AURORA_HOST", "127.0.0.1"),
    ("AURORA_USER", "app"),
    ("AURORA_PASSWORD", "hunter2"),
];

fn env(more: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut all = ENOUGH.to_vec();
    all.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    all.extend(more);
    with(None, &all)
}

/// The message for a file's text; the environment gives host and user.
fn refused(name: &str, text: &str) -> String {
    let file = TempFile::new(name, text);
    let message = with(Some(&file.0), &ENOUGH).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message.replace(&*file.0.to_string_lossy(), "FILE")
}

#[test]
fn the_environment_is_enough() {
    let config = env(&[
        ("AURORA_PORT", "5433"),
        ("AURORA_MAX_CONNECTIONS", "10"),
        ("AURORA_DATABASE", "orders"),
        ("WEIR_LISTEN", "127.0.0.1:6432"),
        ("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "2s"),
        ("WEIR__POOL__INIT_QUERY", ""),
        ("AURORA_READER_HOST", ""),
        ("HOME", "/root"),
        ("WEIR_SERVICE_HOST", "10.0.0.1"),
        ("WEIR_PORT", "tcp://10.0.0.1:5432"),
    ])
    .unwrap();
    assert_eq!(config.database.hosts, [host("127.0.0.1", 5433)]);
    assert_eq!(config.pool.max_connections, Some(10));
    assert_eq!(config.database.name, "orders");
    assert_eq!(config.listen.writer, "127.0.0.1:6432".parse().unwrap());
    assert_eq!(
        config.pool.connection_borrow_timeout,
        Duration::from_secs(2)
    );
    assert!(config.database.reader_hosts.is_empty());
    assert_eq!(
        config.users,
        [User {
            name: "app".into(),
            credential: Credential::Password(Secret::new("hunter2".into())),
            scheme: AuthScheme::Own,
            method: None,
            certificate_names: Vec::new(),
            pool_max_connections: None,
            iam: IamMode::Disabled,
        }]
    );
}

fn host(host: &str, port: u16) -> HostPort {
    HostPort {
        host: host.into(),
        port,
    }
}

#[test]
fn every_default_reads() {
    let config = env(&[]).unwrap();
    assert_eq!(config.listen.max_clients, 10_000);
    assert_eq!(config.tls.mode, TlsMode::Allow);
    assert_eq!(config.database.name, "postgres");
    assert_eq!(config.pool.query_timeout, None);
    assert_eq!(config.session.max_unit_bytes, 1 << 20);
    assert_eq!(config.auth.method, AuthMethod::ScramSha256);
    assert_eq!(config.log.filter, "info");
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
}

#[test]
fn remote_hosts_are_verified_and_local_ones_are_not() {
    for (hosts, ssl) in [
        ("localhost", SslMode::Prefer),
        ("127.0.0.2,::1", SslMode::Prefer),
        ("db.example", SslMode::VerifyFull),
        ("localhost,db.example", SslMode::VerifyFull),
    ] {
        let config = env(&[("AURORA_HOST", hosts)]).unwrap();
        assert_eq!(config.database.ssl, ssl, "{hosts}");
    }
    for (word, ssl) in [
        ("true", SslMode::VerifyFull),
        ("false", SslMode::Disable),
        ("require", SslMode::Require),
        ("Verify-CA", SslMode::VerifyCa),
    ] {
        let config = env(&[("AURORA_SSL", word)]).unwrap();
        assert_eq!(config.database.ssl, ssl, "{word}");
    }
}

#[test]
fn lists_of_hosts_and_ports() {
    let config = env(&[
        ("AURORA_HOST", "a:1,b"),
        ("AURORA_READER_HOST", "c,[::1]:7"),
        ("AURORA_READER_PORT", "9"),
    ])
    .unwrap();
    assert_eq!(config.database.hosts, [host("a", 1), host("b", 5432)]);
    assert_eq!(config.database.reader_hosts, [host("c", 9), host("::1", 7)]);
    let fallback = env(&[("POSTGRES_HOST", "x")]).unwrap();
    assert_eq!(fallback.database.hosts, [host("127.0.0.1", 5432)]);
}

#[test]
fn the_environment_overrides_the_file() {
    let file = TempFile::new(
        "override",
        "[database]\nhost = \"db.example\"\n[pool]\nmax_connections = 5\nidle_timeout = 60\n\
         [[users]]\nname = \"app\"\npassword = \"old\"\npool_max_connections = 3\n\
         [[users]]\nname = \"report\"\npassword = \"r\"\n",
    );
    let config = with(
        Some(&file.0),
        &[
            ("AURORA_USER", "app"),
            ("AURORA_PASSWORD", "new"),
            ("AURORA_MAX_CONNECTIONS", "7"),
            ("WEIR__USERS__1__PASSWORD", "s"),
            ("WEIR__USERS__2__NAME", "third"),
            ("WEIR__USERS__2__PASSWORD", "t"),
        ],
    )
    .unwrap();
    assert_eq!(config.pool.max_connections, Some(7));
    assert_eq!(config.pool.idle_timeout, Duration::from_secs(60));
    let users: Vec<_> = config
        .users
        .iter()
        .map(|u| {
            let Credential::Password(p) = &u.credential else {
                panic!()
            };
            (u.name.as_str(), p.expose().as_str(), u.pool_max_connections)
        })
        .collect();
    assert_eq!(
        users,
        [
            ("app", "new", Some(3)),
            ("report", "s", None),
            ("third", "t", None)
        ]
    );
    let from_env = with(None, &[("WEIR_CONFIG", file.0.to_str().unwrap())]);
    assert_eq!(from_env.unwrap().pool.max_connections, Some(5));
}

#[test]
fn a_wrong_file_is_refused_with_line_key_problem_and_range() {
    let cases = [
        (
            "[pool]\n\nmax_connections = 0",
            "FILE:3: pool.max_connections = 0 is out of range; allowed: 1 to 262143; or \"off\"",
        ),
        (
            "[pool]\nmax_connections_percent = \"many\"",
            "FILE:2: pool.max_connections_percent = \"many\" is not a whole number; allowed: 1 to 100",
        ),
        (
            "[pool]\nmax_conections = 5",
            "FILE:2: unknown key `pool.max_conections`; did you mean `pool.max_connections`?",
        ),
        (
            "[auth]\ncolour = 5",
            "FILE:2: unknown key `auth.colour`; allowed: auth.method, auth.handshake_timeout, auth.max_handshakes, \
             auth.max_handshakes_per_address, auth.max_failed_logins, auth.max_failed_logins_per_address, \
             auth.max_failed_logins_per_user, auth.failed_login_window, auth.failed_login_delay, \
             auth.max_failed_logins_remembered",
        ),
        (
            "\n[pol]\nmax_connections = 5",
            "FILE:2: unknown key `pol`; did you mean `pool`?",
        ),
        (
            "[pool]\nidle_timeout = 1.5",
            "FILE:2: pool.idle_timeout is not a length of time; allowed: 1s to 24h, as \"250ms\", \"120s\", \"5m\", \"1h\" or seconds",
        ),
        (
            "pool = 5",
            "FILE:1: pool is a section: write [...] with its keys below",
        ),
        ("[pool]\nmax_waiting = ", "FILE:2: not valid TOML: "),
        (
            "[pool]\nmax_waiting = 1\nmax_waiting = 2",
            "FILE:3: not valid TOML: duplicate key",
        ),
        (
            "[database]\nssl = \"yes\"",
            "FILE:2: database.ssl = \"yes\" is not one of the words known here; allowed: disable, allow, prefer, require, verify-ca, verify-full, true, false",
        ),
        (
            "[auth]\nmethod = \"iam\"",
            "FILE:2: auth.method = \"iam\" is said elsewhere: fill in a section of [auth.iam]",
        ),
        (
            "[fleet]\ndiscover = \"weir.internal:5434\"",
            "FILE:2: fleet.discover is set, but fleet.key is not: give all tasks the same secret (WEIR_FLEET_KEY)",
        ),
        (
            "[fleet]\ndiscover = \"weir.internal:5434\"\nkey = \"short\"",
            "FILE:3: fleet.key is shorter than 16 characters",
        ),
        (
            "[fleet]\ndiscover = \"weir.internal:5434\"\nkey = \"0123456789abcdef\"\nsettle = \"10s\"",
            "FILE:4: fleet.settle is less than three times fleet.refresh",
        ),
        (
            "[fleet]\ndiscover = \"weir.internal:5434\"\nkey = \"0123456789abcdef\"\nlisten = \"0.0.0.0:8080\"",
            "FILE:4: fleet.listen is the same address as listen.http: 0.0.0.0:8080",
        ),
        (
            "[listen]\nproxy_protocol_from = [\"10.0.0.0/40\"]",
            "FILE:2: listen.proxy_protocol_from names \"10.0.0.0/40\", which is not an address or a network",
        ),
        (
            "[auth.iam.sts]\ncolour = 1",
            "FILE:2: unknown key `auth.iam.sts.colour`; allowed: auth.iam.sts.endpoint, auth.iam.sts.weir_id",
        ),
        (
            "[auth.iam.gcp]\nx = 1",
            "FILE:1: unknown key `auth.iam.gcp`; did you mean `auth.iam.map`?",
        ),
        (
            "[auth.iam.map]\nprincipal = \"arn\"",
            "FILE:1: auth.iam.map is a section: write [[auth.iam.map]] with its keys below",
        ),
        (
            "[auth.iam.sts]\nendpoint = \"http://sts.amazonaws.com\"",
            "FILE:2: auth.iam.sts.endpoint = \"http://sts.amazonaws.com\" is not encrypted",
        ),
        (
            "[auth.iam.static]\nsecret_arns = [\"keys\"]",
            "FILE:2: auth.iam.static.secret_arns holds \"keys\", which is not the ARN of a secret",
        ),
        (
            "[auth]\nquery_secret_arn = \"w\"",
            "FILE:2: auth.query_secret_arn = \"w\" is not the ARN of a secret; allowed: arn:aws:",
        ),
        (
            "[[listen.endpoint]]\nname = \"w\"",
            "FILE:1: `listen.endpoint` is not supported yet",
        ),
        (
            "[[users]]\nname = \"x\"\nsecret_arn = \"arn\"",
            "FILE:3: users.secret_arn = \"arn\" is not the ARN of a secret",
        ),
    ];
    for (n, (text, expected)) in cases.into_iter().enumerate() {
        let message = refused(&format!("wrong{n}"), text);
        assert!(message.starts_with(expected), "{message}\nfor\n{text}");
    }
}

#[test]
fn contradictions_are_refused() {
    let cases = [
        (
            "[tls]\ncert = \"a.pem\"",
            "FILE:2: tls.cert is set, but tls.key is not",
        ),
        (
            "[tls]\nkey = \"a.pem\"",
            "FILE:2: tls.key is set, but tls.cert is not",
        ),
        (
            "[pool]\nmax_connections = 2\nmin_idle_connections = 3",
            "FILE:3: pool.min_idle_connections is more than pool.max_connections",
        ),
        (
            "[pool]\nopen_backoff_max = \"1ms\"",
            "FILE:2: pool.open_backoff_min is more than pool.open_backoff_max",
        ),
        (
            "[listen]\nwriter = \"0.0.0.0:8080\"",
            "FILE:2: listen.http is the same address as listen.writer: 0.0.0.0:8080",
        ),
        (
            "[database]\nssl = false\nca_file = \"a.pem\"",
            "FILE:3: database.ca_file is set, but database.ssl is \"disable\"",
        ),
        (
            "[database]\nreader_host = \"a,a:5432\"",
            "FILE:2: database.reader_host names a:5432 twice",
        ),
        (
            "[auth.iam]\nmode = \"required\"",
            "FILE:2: auth.iam.mode lets users come with tokens, but nothing can check one",
        ),
        (
            "[[users]]\nname = \"x\"\npassword = \"x\"\niam = \"required\"",
            "FILE:4: users.iam lets the user come with a token, but nothing can check one",
        ),
        (
            "[auth.iam.static]\nendpoints = [\"a:1\"]",
            "FILE:2: auth.iam.static.endpoints is set, but neither auth.iam.static.keys_file nor auth.iam.static.secret_arns is",
        ),
        (
            "[auth.iam.static]\nkeys_file = \"k\"\nendpoints = [\"a\"]",
            "FILE:3: auth.iam.static.endpoints names a without a port; allowed: host:port",
        ),
        (
            "[auth.iam.sts]\nweir_id = \"x\"",
            "FILE:2: auth.iam.sts.weir_id is set, but auth.iam.sts.endpoint is not",
        ),
        (
            "[auth.iam.sts]\nendpoint = \"https://sts.example\"\nweir_id = \"x\"",
            "auth.iam.sts or auth.iam.jwt is set, but nobody is mapped to a user: write [[auth.iam.map]]",
        ),
        (
            "[auth.iam.jwt]\naudience = \"x\"",
            "FILE:2: auth.iam.jwt.audience is set, but auth.iam.jwt.issuers is not",
        ),
        (
            "[auth.iam.jwt]\nissuers = [\"https://a\", \"https://b\"]\naudience = \"x\"\njwks_file = \"f\"",
            "FILE:4: auth.iam.jwt.jwks_file is of one issuer, but auth.iam.jwt.issuers has several",
        ),
        (
            "[auth.iam.aurora]\nendpoints = [\"a:1\"]",
            "FILE:2: auth.iam.aurora.endpoints is set, so clients' tokens are sent to the database",
        ),
        (
            "[[auth.iam.map]]\nprincipal = \"x\"",
            "FILE:1: auth.iam.map.users must be given",
        ),
        (
            "[[users]]\npassword = \"x\"",
            "FILE:1: users.name must be given",
        ),
        (
            "[[users]]\nname = \"x\"",
            "FILE:2: users.name \"x\" has no credential: give `password`, `verifier` or `secret_arn`",
        ),
        (
            "[[users]]\nname = \"x\"\nverifier = \"SCRAM-SHA-256$nonsense\"",
            "FILE:3: users.verifier is not a SCRAM verifier",
        ),
        (
            "[[users]]\nname = \"x\"\npassword = \"a\"\nverifier = \"b\"",
            "FILE:4: users.verifier",
        ),
        (
            "[[users]]\nname = \"x\"\npassword = \"a\"\n[[users]]\nname = \"x\"\npassword = \"b\"",
            "FILE:5: users.name \"x\" is given twice",
        ),
        (
            "[pool]\nmin_idle_connections = 3\n[[users]]\nname = \"x\"\npassword = \"a\"\npool_max_connections = 2",
            "FILE:6: users.pool_max_connections is less",
        ),
    ];
    for (n, (text, expected)) in cases.into_iter().enumerate() {
        let message = refused(&format!("clash{n}"), text);
        assert!(message.starts_with(expected), "{message}\nfor\n{text}");
    }
}

#[test]
fn wrong_variables_are_refused_by_name() {
    let cases: [(&[(&str, &str)], &str); 12] = [
        (
            &[("AURORA_PORT", "x")],
            "environment variable AURORA_PORT: database.port = \"x\" is not a whole number; allowed: 1 to 65535",
        ),
        (
            &[("AURORA_HOST", "postgres://a:geheim@h/d")],
            "environment variable AURORA_HOST: database.host looks like a connection URL; only the host belongs here; allowed: host, host:port",
        ),
        (
            &[("WEIR__POOL__MAX_CONECTIONS", "1")],
            "environment variable WEIR__POOL__MAX_CONECTIONS: no such setting; did you mean WEIR__POOL__MAX_CONNECTIONS?",
        ),
        (
            &[("WEIR__COLOUR", "1")],
            "environment variable WEIR__COLOUR: no such setting",
        ),
        (
            &[("WEIR_LISTN", "1")],
            "environment variable WEIR_LISTN: no such setting; did you mean WEIR_LISTEN?",
        ),
        (
            &[("AURORA_SECRET_ARN", "arn:x")],
            "environment variable AURORA_SECRET_ARN: secrets.arns = \"arn:x\" holds \"arn:x\", which is not the ARN of a secret; allowed:",
        ),
        (
            &[("WEIR__FLEET__DISCOVER", "x")],
            "environment variable WEIR__FLEET__DISCOVER: fleet.discover = \"x\" has no port; allowed: host:port",
        ),
        (
            &[("WEIR__DATABASE__HOST", "other")],
            "environment variable WEIR__DATABASE__HOST: database.host is set to something else by the environment variable AURORA_HOST",
        ),
        (
            &[("WEIR__USERS__5__NAME", "x")],
            "environment variable WEIR__USERS__5__NAME: users.name is of number 5, but the next one is 1",
        ),
        (
            &[("WEIR__USERS__NAME", "x")],
            "environment variable WEIR__USERS__NAME: no such setting",
        ),
        (
            &[("AURORA_PASSWORD", "")],
            "environment variable AURORA_USER: users.name \"app\" has no credential: set AURORA_PASSWORD",
        ),
        (
            &[("AURORA_USER", "")],
            "environment variable AURORA_PASSWORD: users.password is of no user: set AURORA_USER too",
        ),
    ];
    for (more, expected) in cases {
        let message = env(more).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}\nfor {more:?}");
        assert!(!message.contains("geheim"), "{message}");
    }
    let nobody = with(None, &[("AURORA_HOST", "h")]).unwrap_err();
    assert!(
        nobody
            .to_string()
            .starts_with("no user is given: set AURORA_USER")
    );
    let nowhere = with(None, &ENOUGH[1..]).unwrap_err();
    assert!(
        nowhere
            .to_string()
            .starts_with("no database host is given: set AURORA_HOST")
    );
    let missing = with(Some(Path::new("/nonexistent.toml")), &[]).unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with("/nonexistent.toml: the configuration file can't be read")
    );
}

#[test]
fn a_wrong_secret_is_not_quoted() {
    for text in [
        "[[users]]\nname = \"x\"\npassword = 471100",
        "[[users]]\nname = \"x\"\npassword = \"471100\0\"",
        "[[users]]\nname = \"x\"\npassword = \"471100",
        "[[users]]\nname = \"x\"\npassword = x471100",
        "[[users]]\nname = \"x\"\npassword = \"471100\" 471100",
        "[[users]]\nname = \"x\"\npassword = [\"471100\"]",
        "[[users]]\nname = \"x\"\nverifier = \"SCRAM-SHA-256$471100\"",
    ] {
        let message = refused("secret", text);
        assert!(!message.contains("471100"), "{message}");
    }
}

#[test]
fn what_check_prints_reads_back_the_same_and_hides_secrets() {
    let config = env(&[
        ("AURORA_READER_HOST", "r1,[::1]:7"),
        ("AURORA_CA_FILE", "/etc/ca \"quoted\".pem"),
        ("WEIR_TLS_CERT", "c.pem"),
        ("WEIR_TLS_KEY", "k.pem"),
        ("WEIR_REQUIRE_TLS", "true"),
        ("WEIR__POOL__QUERY_TIMEOUT", "90s"),
        ("WEIR__POOL__INIT_QUERY", "SET x = 'y';\nSELECT 1"),
        ("WEIR__SESSION__MAX_UNIT_BYTES", "64KiB"),
    ])
    .unwrap();
    let printed = config.redacted_toml();
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(!format!("{config:?}").contains("hunter2"));
    let file = TempFile::new("again", &printed);
    let again = with(Some(&file.0), &[]).unwrap_or_else(|e| panic!("{e}\n{printed}"));
    let mut expected = config;
    expected.users[0].credential = Credential::Password(Secret::new(REDACTED.into()));
    assert_eq!(again, expected);
}

const EVERY_VALIDATOR: &str = r#"
[database]
ssl = "verify-full"
[auth.iam]
mode = "optional"
regions = ["eu-west-1", "eu-west-2"]
[auth.iam.aurora]
endpoints = ["orders.cluster-x.eu-west-1.rds.amazonaws.com:5432"]
[auth.iam.sts]
endpoint = "https://sts.eu-west-1.amazonaws.com"
weir_id = "prod-orders"
[auth.iam.jwt]
issuers = ["https://uuid.tokens.sts.global.api.aws"]
audience = "weir://prod/orders"
[auth.iam.static]
keys_file = "keys.json"
secret_arns = ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:keys"]
endpoints = ["weir.internal:5432"]
[[auth.iam.map]]
principal = "arn:aws:iam::123456789012:role/orders-fn"
functions = ["arn:aws:lambda:eu-west-1:123456789012:function:orders"]
users = ["app"]
databases = ["orders"]
[[auth.iam.map]]
principal = "arn:aws:iam::123456789012:role/reports"
users = "reports, app"
"#;

#[test]
fn every_validator_reads_and_prints() {
    let file = TempFile::new("validators", EVERY_VALIDATOR);
    let config = with(Some(&file.0), &ENOUGH).unwrap();
    let iam = &config.iam;
    assert!(iam.aurora.is_some() && iam.sts.is_some() && iam.jwt.is_some());
    assert_eq!(config.users[0].iam, IamMode::Optional);
    assert_eq!(iam.map[1].users, ["reports", "app"]);
    let JwksPlace::Url(jwks) = &iam.jwt.as_ref().unwrap().issuers[0].jwks else {
        panic!("an address");
    };
    let expected = "https://uuid.tokens.sts.global.api.aws/.well-known/jwks.json";
    assert_eq!(jwks.to_string(), expected);
    let printed = config.redacted_toml();
    let again = TempFile::new("validators-again", &printed);
    let again = with(Some(&again.0), &[]).unwrap_or_else(|e| panic!("{e}\n{printed}"));
    assert_eq!(again.iam, config.iam);
    // The environment can say all of it, too.
    let more = with(
        Some(&file.0),
        &[
            ENOUGH[0],
            ENOUGH[1],
            ENOUGH[2],
            ("WEIR__AUTH__IAM__STS__WEIR_ID", "other"),
            ("WEIR__AUTH__IAM__MAP__1__USERS", "app"),
            (
                "WEIR__AUTH__IAM__MAP__2__PRINCIPAL",
                "arn:aws:iam::1:user/ann",
            ),
            ("WEIR__AUTH__IAM__MAP__2__USERS", "app"),
        ],
    );
    let more = more.unwrap();
    assert_eq!(more.iam.sts.unwrap().weir_id, "other");
    assert_eq!((more.iam.map.len(), more.iam.map[1].users.len()), (3, 1));
}

#[test]
fn validators_alone_need_no_database() {
    let text = "[auth.iam]\nclock_skew = \"60s\"\n[auth.iam.static]\nkeys_file = \"k.json\"\nendpoints = \"a:1\"\n";
    let file = TempFile::new("alone", text);
    let iam = load_iam(Some(&file.0), std::iter::empty()).unwrap();
    assert_eq!(iam.mode, IamMode::Required);
    assert_eq!(iam.static_keys.unwrap().endpoints, [host("a", 1)]);
    let nothing = load_iam(None, std::iter::empty()).unwrap();
    assert_eq!(
        (nothing.mode, nothing.has_validator()),
        (IamMode::Disabled, false)
    );
}

#[test]
fn every_example_parses() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut count = 0;
    for entry in std::fs::read_dir(&examples).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        count += 1;
        // Examples leave the password to the environment, as everyone should.
        with(
            Some(&path),
            &[("AURORA_USER", "app"), ("AURORA_PASSWORD", "x")],
        )
        .unwrap_or_else(|e| panic!("{e}"));
    }
    assert!(count >= 3, "{count} examples");
}

#[test]
fn the_readme_has_the_reference() {
    let readme = include_str!("../../README.md");
    let block = readme
        .split_once("<!-- config:begin -->\n")
        .and_then(|(_, rest)| rest.split_once("<!-- config:end -->"))
        .map_or("", |(block, _)| block);
    let fresh = reference_markdown();
    let stale = fresh
        .lines()
        .find(|line| !block.contains(line))
        .or_else(|| block.lines().find(|line| !fresh.contains(line)));
    assert!(
        block.trim() == fresh.trim(),
        "README.md is out of date (at {stale:?}): put what `cargo run -- check --reference` prints between its config markers"
    );
}

#[test]
fn keys_and_variables_are_unique_and_documented() {
    let known = known::Known::new();
    let mut keys: Vec<_> = known.options.iter().map(|o| o.key).collect();
    let mut variables: Vec<_> = known.options.iter().flat_map(|o| o.env).collect();
    let (all_keys, all_variables) = (keys.len(), variables.len());
    keys.sort_unstable();
    keys.dedup();
    variables.sort_unstable();
    variables.dedup();
    assert_eq!((keys.len(), variables.len()), (all_keys, all_variables));
    for option in &known.options {
        assert!(option.doc.trim().ends_with('.'), "{}", option.key);
    }
    assert!(!options::House::options().is_empty());
}
