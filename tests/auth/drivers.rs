//! Other people's clients with tokens of other people's SDKs: a Node function, a Python one and psql, by each validator.
//!
//! Who made a token: boto3, @aws-sdk/rds-signer, aws-sigv4 (`weir token`), or an issuer of JSON web tokens.

use std::process::{Command, Output};

use serde_json::json;

use crate::house::Proxy;
use crate::house::postgres::{PASSWORD, USER};
use crate::house::programs::{postgres_program, said};
use crate::scripts::{Keys, Script, here};
use crate::vectors::Folder;
use crate::weir::Weir;

const REGION: &str = "eu-west-1";
const ROLE: &str = "arn:aws:iam::123456789012:role/orders-fn";

/// Comes in with `token` in three ways; gives what each said.
fn each(weir: &Weir, user: &str, token: &str) -> Vec<(&'static str, Output)> {
    weir.hides([token.to_owned()]);
    let mut psql = Command::new(postgres_program("psql"));
    psql.args(["-X", "-q", "-t", "-A", "-c", "SELECT current_user"])
        .env("PGPASSWORD", token)
        .env("PGSSLMODE", "require");
    let mut node = Command::new("node");
    node.arg(here("tests/auth/function.cjs"))
        .env("NODE_PATH", here(".work/node/node_modules"));
    let mut python = Command::new(here(".work/python/bin/python"));
    python.arg(here("tests/auth/function.py"));
    [("psql", psql), ("node", node), ("python", python)]
        .map(|(name, mut command)| {
            command
                .env("TOKEN", token)
                .env("PGHOST", "127.0.0.1")
                .env("PGPORT", weir.proxy.address.port().to_string())
                .env("PGUSER", user)
                .env("PGDATABASE", &weir.database)
                .current_dir(std::env::temp_dir());
            (name, command.output().unwrap())
        })
        .into()
}

/// Good ones come in by each client; a wrong user, an old token and a tampered one by none.
fn try_all(weir: &Weir, good: &[String], bad: &[(&str, String)]) {
    for token in good {
        for (client, output) in each(weir, USER, token) {
            assert!(output.status.success(), "{client}: {}", said(&output));
            let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            assert_eq!(name, USER, "{client}");
        }
    }
    for (user, token) in bad {
        for (client, output) in each(weir, user, token) {
            assert!(!output.status.success(), "{client}");
            let told = format!("password authentication failed for user \"{user}\"");
            assert!(said(&output).contains(&told), "{client}: {}", said(&output));
        }
    }
}

fn by_javascript(keys: &Keys, words: &[&str]) -> String {
    let mut command = Command::new("node");
    keys.put(&mut command);
    command
        .arg(here("tests/auth/tokens.cjs"))
        .args(words)
        .env("NODE_PATH", here(".work/node/node_modules"));
    printed(&mut command)
}

/// By `weir token`, which signs with aws-sigv4.
fn by_weir(keys: &Keys, words: &[&str]) -> String {
    let mut command = Proxy::bare().command();
    keys.put(&mut command);
    printed(command.arg("token").args(words))
}

fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

/// What a signature is over, changed.
fn tampered(token: &str) -> String {
    assert!(token.contains("Expires=900"));
    token.replace("Expires=900", "Expires=899")
}

#[test]
fn by_keys_that_weir_holds() {
    let folder = Folder::new("drivers-local");
    let keys = Keys {
        id: "ASIAHHUMJP3ZETLCF5QK".into(),
        secret: "a secret of nobody, made up here".into(),
        session_token: Some("x/y+z=".repeat(150)),
    };
    let file = folder.file("keys.json", &keys.file());
    let weir = Weir::taking(&format!(
        "[auth.iam.static]\nkeys_file = {file:?}\nendpoints = [\"Weir.internal:5432\", \"weir.internal:443\"]\n"
    ));
    let words = |host, port, user| ["rds", host, port, user, REGION];
    let good = [
        keys.token(&words("weir.internal", "5432", USER)),
        by_javascript(&keys, &words("weir.internal", "5432", USER)),
        by_javascript(&keys, &words("Weir.Internal", "443", USER)),
        keys.token(&words("WEIR.internal", "443", USER)),
    ];
    let admin = keys.token(&words("weir.internal", "5432", "admin"));
    let bad = [
        (USER, admin.clone()),
        ("admin", admin),
        (USER, tampered(&good[0])),
        (USER, tampered(&good[1])),
        (USER, expired(&keys)),
    ];
    try_all(&weir, &good, &bad);
}

/// Made with a clock that is wrong: an hour ago, by the vectors' maker's own means.
fn expired(keys: &Keys) -> String {
    let token = keys.token(&["rds", "weir.internal", "5432", USER, REGION]);
    let at = token.find("X-Amz-Date=").unwrap() + "X-Amz-Date=".len();
    let year: u32 = token[at..at + 4].parse().unwrap();
    token.replace(&year.to_string(), &(year - 1).to_string())
}

#[test]
fn by_sts() {
    let sts = Script::start("tests/house/sts.py");
    let host = format!("127.0.0.1:{}", sts.port());
    let weir = Weir::taking(&format!(
        "[auth.iam.sts]\nendpoint = \"http://{host}\"\nweir_id = \"weir-test\"\n\
         [[auth.iam.map]]\nprincipal = \"{ROLE}\"\nusers = [\"{USER}\"]\n",
    ));
    let keys = Keys::of(&sts.hello["keys"]["role"]);
    let endpoint = format!("https://{host}");
    let by_python = |user| keys.token(&["sts", &endpoint, user, REGION, "weir-test"]);
    let made = |user| {
        let words = [
            "--for",
            "sts",
            "--user",
            user,
            "--weir-id",
            "weir-test",
            "--region",
            REGION,
        ];
        by_weir(&keys, &[&words[..], &["--sts-host", &host]].concat())
    };
    let good = [
        by_python(USER),
        by_javascript(&keys, &["sts", &host, USER, REGION, "weir-test"]),
        made(USER),
    ];
    let stolen = Keys {
        secret: "another secret".into(),
        ..keys.clone()
    };
    let stolen = stolen.token(&["sts", &endpoint, USER, REGION, "weir-test"]);
    let bad = [
        (USER, by_python("admin")),
        ("admin", made("admin")),
        (USER, stolen),
    ];
    try_all(&weir, &good, &bad);
}

#[test]
fn by_jwt() {
    let mut issuer = Script::start("tests/house/issuer.py");
    let weir = Weir::taking(&format!(
        "[auth.iam.jwt]\nissuers = [\"https://issuer.example\"]\naudience = \"weir://test\"\n\
         jwks_url = \"http://127.0.0.1:{}/jwks.json\"\n\
         [[auth.iam.map]]\nprincipal = \"{ROLE}\"\nusers = [\"{USER}\"]\n",
        issuer.port(),
    ));
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = since.unwrap().as_secs();
    let claims = |until: u64| {
        json!({
            "iss": "https://issuer.example", "sub": ROLE, "aud": "weir://test", "iat": now - 600, "exp": until,
        })
    };
    let good = issuer.ask(&json!({ "sign": claims(now + 300) }).to_string());
    let old = issuer.ask(&json!({ "sign": claims(now - 100) }).to_string());
    let (head, tail) = good.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", tail.chars().rev().collect::<String>());
    let bad = [("admin", good.clone()), (USER, old), (USER, forged)];
    try_all(&weir, std::slice::from_ref(&good), &bad);
}

#[test]
fn by_aurora() {
    let house = crate::aurora::House::new("");
    let good = house.tokens(USER, 1);
    let bad = [
        (USER, tampered(&good[0])),
        ("admin", house.unknown("admin", 1).remove(0)),
        (USER, PASSWORD.to_owned()),
    ];
    try_all(&house.weir, &good, &bad);
}
