//! Tokens that Aurora checks: a PostgreSQL that asks PAM, as Aurora does for `rds_iam`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::attack::forged;
use crate::house::postgres::{PASSWORD, SUPERUSER, USER};
use crate::house::{Postgres, Proxy, count};
use crate::scripts::Keys;
use crate::sts::crowd;
use crate::weir::Weir;

/// Connections that Weir may have.
const CAP: usize = 5;

const HOST: &str = "orders.cluster-x.eu-west-1.rds.amazonaws.com";

/// Lets in who is listed, and writes down when it was asked, and about how long a secret.
const HOOK: &str = r##"#!/bin/sh
echo "$(date +%s.%N) ${#PAM_AUTHTOK}" >>weir_asked
printf '%s %s\n' "$PAM_USER" "$PAM_AUTHTOK" | grep -qxFf - weir_tokens
"##;

/// Patient with clients that come in their thousands.
const HEAD: &str = "[auth]\nhandshake_timeout = \"60s\"\nmax_failed_logins = 1000\n\
     [auth.iam]\nrefusal_ttl = \"0s\"\nvalidation_timeout = \"60s\"\n";

pub struct House {
    pub weir: Weir,
    data: PathBuf,
    postgres: Postgres,
    keys: Keys,
}

impl House {
    pub fn new(more: &str) -> House {
        House::with(HEAD, more, &[("WEIR_LOG", "debug")])
    }

    /// One that may have more connections, half of them to try tokens with.
    fn wide(more: &str) -> House {
        House::with(HEAD, more, &[("AURORA_MAX_CONNECTIONS", "40")])
    }

    /// `head`: the sections above that of Aurora; `more`: lines of that.
    pub fn with(head: &str, more: &str, environment: &[(&str, &str)]) -> House {
        let postgres = Postgres::start_with_tls();
        let data = postgres.directory.join("data");
        postgres.allow(&format!(
            "hostssl all {USER} 127.0.0.1/32 pam pamservice=weir-test\nhost all {SUPERUSER} 127.0.0.1/32 trust\n"
        ));
        let hook = data.join("weir_hook");
        fs::write(&hook, HOOK).unwrap();
        fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for file in ["weir_asked", "weir_tokens"] {
            fs::write(data.join(file), "").unwrap();
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            fs::set_permissions(data.join(file), open).unwrap();
        }
        postgres.sql("SELECT pg_reload_conf()");
        let ca = postgres.directory.join("ca.pem");
        fs::write(&ca, &postgres.certificates.as_ref().unwrap().ca).unwrap();
        let database = postgres.database();
        let toml = format!("{head}[auth.iam.aurora]\nendpoints = [\"{HOST}:5432\"]\n{more}\n");
        // What Weir itself logs in with.
        let house = House {
            keys: Keys {
                id: "ASIAHHUMJP3ZETLCF5QK".into(),
                secret: "a secret of nobody, made up here".into(),
                session_token: Some("x/y+z=".repeat(150)),
            },
            weir: {
                fs::write(data.join("weir_tokens"), format!("{USER} {PASSWORD}\n")).unwrap();
                let setup = Proxy::before(&postgres, &database, CAP)
                    .without("AURORA_SSL")
                    .set("AURORA_SSL", "true")
                    .set("AURORA_CA_FILE", ca.to_str().unwrap());
                let setup = environment
                    .iter()
                    .fold(setup.file(&toml), |setup, (name, value)| {
                        setup.set(name, value)
                    });
                Weir::of(setup.start(), &database)
            },
            data,
            postgres,
        };
        house.forget();
        house
    }

    /// Tokens that this Aurora knows.
    pub fn tokens(&self, user: &str, count: usize) -> Vec<String> {
        let tokens = self.unknown(user, count);
        let known: String = tokens
            .iter()
            .map(|token| format!("{user} {token}\n"))
            .collect();
        let path = self.data.join("weir_tokens");
        fs::write(&path, fs::read_to_string(&path).unwrap() + &known).unwrap();
        tokens
    }

    pub fn unknown(&self, user: &str, count: usize) -> Vec<String> {
        self.keys
            .tokens(&["rds", HOST, "5432", user, "eu-west-1"], count)
    }

    fn forget(&self) {
        fs::write(self.data.join("weir_asked"), "").unwrap();
    }

    /// How often it was asked; Weir's own logins count, too.
    pub fn asked(&self) -> usize {
        self.asked_at().len()
    }

    /// How often about a token.
    pub fn tried(&self) -> usize {
        let text = fs::read_to_string(self.data.join("weir_asked")).unwrap();
        let length = |line: &str| line.split(' ').nth(1).unwrap().parse::<usize>().unwrap();
        text.lines().filter(|line| length(line) > 100).count()
    }

    /// When, in whole seconds.
    fn asked_at(&self) -> Vec<u64> {
        let text = fs::read_to_string(self.data.join("weir_asked")).unwrap();
        let second = |line: &str| line.split('.').next().unwrap().parse().unwrap();
        text.lines().map(second).collect()
    }
}

#[test]
fn aurora_decides_and_is_asked_once() {
    let house = House::new("");
    let token = house.tokens(USER, 1).remove(0);
    assert!(token.len() > 1000, "as long as a role's");
    house.weir.lets_in(&token);
    let asked = house.asked();
    house.weir.lets_in(&token);
    assert_eq!(house.asked(), asked);
    assert_eq!(house.weir.accepted("iam-aurora"), 2);
    // Garbage is not shown to it.
    let tampered = token.replace("Expires=900", "Expires=901");
    house.weir.refuses(USER, &tampered, "iam", "bad_expires");
    let elsewhere = house
        .keys
        .token(&["rds", "other.example", "5432", USER, "eu-west-1"]);
    house.weir.refuses(USER, &elsewhere, "iam", "host_mismatch");
    house.weir.refuses(USER, PASSWORD, "iam", "bad_byte");
    assert_eq!(house.asked(), asked);
    let unknown = token.replace("Signature=", "Signature=0");
    let unknown = unknown[..unknown.len() - 1].to_owned();
    house
        .weir
        .refuses(USER, &unknown, "iam-aurora", "refused_by_aurora");
    assert_eq!(house.asked(), asked + 1);
}

#[test]
fn aurora_down_is_no_failed_login() {
    let house = House::new("");
    let (known, other) = {
        let mut tokens = house.tokens(USER, 2);
        (tokens.remove(0), tokens.remove(0))
    };
    house.weir.lets_in(&known);
    house.postgres.stop();
    let refusal = house.weir.refusal(&house.weir.login(USER, &other));
    assert_eq!(refusal.code, "57P03", "{}", refusal.message);
    house.postgres.start_again();
    house.weir.lets_in(&other);
}

#[test]
fn many_tokens_at_once_stay_within_the_limits() {
    let rate = count(40, 100);
    let house = House::wide(&format!("max_probes = 16\nprobes_per_second = {rate}"));
    let tokens = house.tokens(USER, count(300, 2_000));
    house.forget();
    crowd(&house.weir, &tokens);
    let asked = house.asked_at();
    // Weir's own connections count as well.
    assert!(
        asked.len() >= tokens.len() && asked.len() <= tokens.len() + 40,
        "{}",
        asked.len()
    );
    let mut seconds = BTreeMap::new();
    for second in asked {
        *seconds.entry(second).or_insert(0) += 1;
    }
    let most = seconds.values().max().unwrap();
    assert!(*most <= rate + 10, "{seconds:?}");
}

#[test]
fn a_login_that_tried_a_token_serves_its_user() {
    let house = House::new("");
    let token = house.tokens(USER, 1).remove(0);
    let elsewhere = house.postgres.database();
    house.forget();
    // There is no connection to this database yet: the one that comes of the trial is all it takes.
    let mut client = house
        .weir
        .login(USER, &token)
        .database(&elsewhere)
        .connect();
    assert_eq!(client.value("SELECT current_database()"), elsewhere);
    assert_eq!(house.asked(), 1);
    assert_eq!(house.postgres.connections(&elsewhere), 1);
}

#[test]
fn tokens_are_tried_under_the_cap() {
    let house = House::new("max_probes = 16\nprobes_per_second = 1000");
    let tokens = house.tokens(USER, count(150, 300));
    let bad: Vec<String> = (0..20).map(|number| forged(&tokens[0], number)).collect();
    let over = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut superuser = house.postgres.superuser().connect();
            let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'");
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(superuser.value(&sql).parse::<usize>().unwrap());
            }
            most
        });
        let guessing = scope.spawn(|| {
            for token in &bad {
                assert_eq!(
                    house.weir.refusal(&house.weir.login(USER, token)).code,
                    "28P01"
                );
            }
        });
        crowd(&house.weir, &tokens);
        guessing.join().unwrap();
        over.store(true, Ordering::Relaxed);
        watching.join().unwrap()
    });
    assert!((3..=CAP).contains(&most), "{most} connections");
}

#[test]
fn one_login_for_a_token_however_many_come_with_it() {
    let house = House::new("");
    let token = house.tokens(USER, 1).remove(0);
    house.weir.lets_in(&token);
    let before = house.asked();
    let other = house.tokens(USER, 2).remove(1);
    crowd(&house.weir, &vec![other; count(200, 1_000)]);
    // Its pool may have grown meanwhile.
    let asked = house.asked() - before;
    assert!((1..=5).contains(&asked), "{asked}");
}
