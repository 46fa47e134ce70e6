//! Tokens that Weir checks by itself, with keys that it holds.

use std::time::Duration;

use crate::house::client::{Next, Security};
use crate::house::moto::{Moto, with_aws};
use crate::house::postgres::{PASSWORD, USER};
use crate::house::wire::message;
use crate::house::{Client, Login, Postgres, Proxy, eventually, http};
use crate::scripts::Keys;
use crate::vectors::Folder;
use crate::weir::Weir;

const ENDPOINT: &str = "weir.internal:5432";

fn keys() -> Keys {
    Keys {
        id: "AKIAHHUMJP3ZETLCF5QK".into(),
        secret: "a secret of nobody, made up here".into(),
        session_token: None,
    }
}

/// Configuration with one key.
fn toml(folder: &Folder, more: &str) -> String {
    let file = folder.file("keys.json", &keys().file());
    format!(
        "[auth.iam]\nregions = [\"eu-west-1\"]\n{more}[auth.iam.static]\nkeys_file = {file:?}\nendpoints = [\"{ENDPOINT}\"]\n"
    )
}

fn token(user: &str) -> String {
    keys().token(&["rds", "weir.internal", "5432", user, "eu-west-1"])
}

#[test]
fn a_token_of_botocore_comes_in_and_what_is_wrong_with_others_the_log_alone_says() {
    let folder = Folder::new("local");
    let weir = Weir::taking(&toml(&folder, ""));
    weir.hides([keys().secret]);
    let good = token(USER);
    weir.lets_in(&good);
    weir.lets_in(&good);
    assert_eq!(weir.accepted("iam-static"), 2);
    let elsewhere = keys().token(&["rds", "other.internal", "5432", USER, "eu-west-1"]);
    let region = keys().token(&["rds", "weir.internal", "5432", USER, "eu-west-2"]);
    let other = Keys {
        secret: "another secret".into(),
        ..keys()
    };
    let forged = other.token(&["rds", "weir.internal", "5432", USER, "eu-west-1"]);
    let tampered = good.replace("Expires=900", "Expires=899");
    for (token, method, reason) in [
        ("", "iam", "empty"),
        (PASSWORD, "iam", "bad_byte"),
        ("hunter2", "iam", "not_a_token"),
        (&*token("admin"), "iam", "user_mismatch"),
        (&elsewhere, "iam", "host_mismatch"),
        (&region, "iam", "wrong_region"),
        (&forged, "iam-static", "bad_signature"),
        (&tampered, "iam-static", "bad_signature"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.", "iam", "not_a_token"),
    ] {
        weir.refuses(USER, token, method, reason);
    }
    weir.refuses("nobody", &token("nobody"), "iam", "unknown_user");
    // Nothing of that has reached the database.
    let log = weir.proxy.log();
    assert!(
        log.contains("token of user \"app\" refused: bad_signature"),
        "{log}"
    );
    assert!(
        log.contains("let in by keys of its own"),
        "a warning at start: {log}"
    );
}

#[test]
fn without_tls_nobody_is_asked_for_a_token() {
    let folder = Folder::new("local-clear");
    let weir = Weir::taking(&toml(&folder, ""));
    for user in [USER, "nobody"] {
        let login = weir.login(user, &token(user)).security(Security::Clear);
        let refusal = weir.refusal(&login);
        assert_eq!(refusal.code, "28000");
        assert_eq!(
            refusal.message,
            format!("user \"{user}\" must connect with TLS")
        );
    }
}

/// A client that has been asked for its token.
fn asked(weir: &Weir, user: &str) -> Client {
    let mut client = Client::dial(weir.proxy.address).unwrap();
    client.ask_for_tls().unwrap();
    client.send(&weir.login(user, "").startup());
    let Next::Frame(asked) = client.next() else {
        panic!("{user} is asked for something");
    };
    assert_eq!((asked.tag, &*asked.body), (b'R', &[0, 0, 0, 3][..]));
    client
}

fn told(client: &mut Client) -> (String, String) {
    match client.next_within(Duration::from_secs(5)) {
        Next::Frame(frame) => (frame.field(b'C').unwrap(), frame.field(b'M').unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_token_too_long_is_not_even_read() {
    let folder = Folder::new("local-long");
    let weir = Weir::taking(&toml(&folder, ""));
    let mut client = asked(&weir, USER);
    // Only the head of 8,193 bytes and their zero is sent: who waited for the rest would wait for ever.
    client.send(&[b'p', 0, 0, 0x20, 6]);
    let (code, text) = told(&mut client);
    assert_eq!((&*code, &*text), ("08P01", "invalid message length"));
    let mut client = asked(&weir, USER);
    client.send(&message(b'p', &[&*vec![b'a'; 8192], b"\0"].concat()));
    assert_eq!(told(&mut client).0, "28P01");
}

#[test]
fn where_both_are_taken_each_is_checked_as_what_it_looks_like() {
    let folder = Folder::new("local-both");
    let weir = Weir::taking(&toml(&folder, "mode = \"optional\"\n"));
    weir.lets_in(&token(USER));
    weir.lets_in(PASSWORD);
    weir.refuses(USER, "wrong", "scram-sha-256", "wrong_password");
    weir.refuses(USER, &token("admin"), "iam", "user_mismatch");
    // In the clear there is SCRAM as ever.
    let clear = Login::to(weir.proxy.address, USER, PASSWORD, &weir.database);
    assert_eq!(clear.connect().value("SELECT 1"), "1");
}

#[test]
fn a_user_may_be_an_exception() {
    let folder = Folder::new("local-user");
    let postgres = Postgres::shared();
    let database = postgres.database();
    let setup = Proxy::before(postgres, &database, 2)
        .without("AURORA_USER")
        .without("AURORA_PASSWORD")
        .file(&format!(
            "{}[[users]]\nname = \"{USER}\"\npassword = {PASSWORD:?}\niam = \"disabled\"\n\
             [[users]]\nname = \"a\"\npassword = \"a\"\n[[users]]\nname = \"b\"\npassword = \"b\"\n",
            toml(&folder, "")
        ));
    let weir = Weir::of(setup.start(), &database);
    let plain = Login::to(weir.proxy.address, USER, PASSWORD, &weir.database);
    assert_eq!(plain.connect().value("SELECT 1"), "1");
    assert_eq!(weir.refusal(&weir.login(USER, &token(USER))).code, "28P01");
    // Who is not there is asked for what most come with.
    asked(&weir, "stranger");
}

/// Keys of Secrets Manager, which are read again by themselves.
#[test]
fn keys_may_be_in_secrets() {
    let mut moto = Moto::start();
    let other = Keys {
        id: "AKIAHHUMJP3ZETLCF5QL".into(),
        secret: "another secret of nobody".into(),
        session_token: None,
    };
    let arn = moto.create("keys", &keys().file());
    let postgres = Postgres::shared();
    let database = postgres.database();
    let setup = Proxy::before(postgres, &database, 2).set("WEIR_LOG", "trace");
    let setup = setup.file(&format!(
        "[auth]\nmax_failed_logins = \"off\"\nmax_failed_logins_per_address = \"off\"\nmax_failed_logins_per_user = \"off\"\n[secrets]\nrefetch_pause = \"1s\"\nttl = \"1m\"\n[auth.iam.static]\nsecret_arns = [{arn:?}]\nendpoints = [{ENDPOINT:?}]\n"
    ));
    let weir = Weir::of(with_aws(setup, moto.address).start(), &database);
    weir.hides([keys().secret, other.secret.clone()]);
    weir.lets_in(&token(USER));
    let fresh = other.token(&["rds", "weir.internal", "5432", USER, "eu-west-1"]);
    weir.refuses(USER, &fresh, "iam-static", "unknown_key");
    moto.put(&arn, &other.file());
    // Who comes with a key that is not known has the secret read again.
    let comes_in = || weir.login(USER, &fresh).try_connect().is_ok();
    eventually("was the new key read", comes_in, |came| *came);
    weir.refuses(USER, &token(USER), "iam-static", "unknown_key");
    // What is no use is named and not quoted; what was known before serves on, and so it does while nobody answers.
    moto.put(&arn, "{\"x\": \"s3cr3t-value\"}");
    let said = |log: &String| log.contains(&arn) && log.contains("not what is expected");
    let again = || {
        weir.refuses(USER, &token(USER), "iam-static", "unknown_key");
        weir.proxy.log()
    };
    eventually("did Weir say why", again, said);
    assert!(!weir.proxy.log().contains("s3cr3t-value"));
    moto.kill();
    weir.lets_in(&fresh);
}

fn reload(weir: &Weir) -> u16 {
    let page = http::request(weir.proxy.http, "POST", "/reload");
    page.unwrap().status
}

#[test]
fn keys_are_read_anew_on_reload() {
    let folder = Folder::new("local-reload");
    let weir = Weir::taking(&toml(&folder, ""));
    let token = token(USER);
    weir.lets_in(&token);
    folder.file("keys.json", &keys().file().replace("true", "false"));
    assert_eq!(reload(&weir), 200);
    weir.refuses(USER, &token, "iam-static", "unknown_key");
    folder.file("keys.json", "nonsense");
    assert_ne!(reload(&weir), 200);
    folder.file("keys.json", &keys().file());
    assert_eq!(reload(&weir), 200);
    weir.lets_in(&token);
}
