//! A Weir that takes tokens, in front of a PostgreSQL that knows nothing of them.
//!
//! Knows how to come in and how to be refused; keeps an eye on all that Weir writes.

use std::sync::Mutex;

use crate::house::client::Security;
use crate::house::postgres::{PASSWORD, USER};
use crate::house::{Login, Postgres, Proxy, Refusal, eventually};

pub struct Weir {
    pub proxy: Proxy,
    pub database: String,
    /// What no log, page or error may show.
    secrets: Mutex<Vec<String>>,
}

impl Weir {
    /// `toml` is what stands in [auth.iam] and below.
    pub fn taking(toml: &str) -> Weir {
        let postgres = Postgres::shared();
        let database = postgres.database();
        let setup = Proxy::before(postgres, &database, 2);
        Weir::of(setup.file(toml).set("WEIR_LOG", "debug").start(), &database)
    }

    pub fn of(proxy: Proxy, database: &str) -> Weir {
        Weir {
            proxy,
            database: database.to_owned(),
            secrets: Mutex::new(vec![PASSWORD.to_owned()]),
        }
    }

    /// From now on these are secrets.
    pub fn hides(&self, secrets: impl IntoIterator<Item = String>) {
        self.secrets.lock().unwrap().extend(secrets);
    }

    pub fn login(&self, user: &str, token: &str) -> Login {
        if token.len() > 20 {
            self.hides([token.to_owned()]);
        }
        let login = Login::to(self.proxy.address, user, token, &self.database);
        login.security(Security::Tls)
    }

    /// Comes in, and does something there.
    pub fn lets_in(&self, token: &str) {
        let mut client = self.login(USER, token).connect();
        assert_eq!(client.value("SELECT current_user"), USER);
    }

    /// Is refused with PostgreSQL's own words, and for this reason alone.
    pub fn refuses(&self, user: &str, token: &str, method: &str, reason: &str) {
        let before = self.refused(method, reason);
        let refusal = self.refusal(&self.login(user, token));
        let expected = Refusal {
            severity: "FATAL".into(),
            code: "28P01".into(),
            message: format!("password authentication failed for user \"{user}\""),
            ..Refusal::default()
        };
        assert_eq!(refusal, expected, "{reason}");
        assert_eq!(
            self.refused(method, reason),
            before + 1,
            "{method} {reason}: {}\n{}",
            self.proxy.metrics(),
            self.proxy.log(),
        );
    }

    pub fn refusal(&self, login: &Login) -> Refusal {
        match login.try_connect() {
            Ok(_) => panic!("{} came in", login.user),
            Err(refusal) => refusal,
        }
    }

    fn refused(&self, method: &str, reason: &str) -> u64 {
        let labels = format!("method=\"{method}\",result=\"refused\",reason=\"{reason}\"");
        self.counted(&labels)
    }

    pub fn accepted(&self, method: &str) -> u64 {
        self.counted(&format!(
            "method=\"{method}\",result=\"accepted\",reason=\"\""
        ))
    }

    fn counted(&self, labels: &str) -> u64 {
        let line = format!("weir_auth_total{{{labels}}} ");
        let metrics = self.proxy.metrics();
        let count = metrics.lines().find_map(|it| it.strip_prefix(&line));
        count.map_or(0, |count| count.parse().unwrap())
    }
}

/// Everything that Weir wrote is searched for what it must not show.
impl Drop for Weir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut written = String::new();
        for page in ["/metrics", "/pools", "/clients", "/pins", "/targets"] {
            written.push_str(&self.proxy.get(page).unwrap().body);
        }
        eventually(
            "was its log there",
            || self.proxy.log().len(),
            |length| *length > 0,
        );
        written.push_str(&self.proxy.log());
        for secret in self.secrets.lock().unwrap().iter() {
            assert!(
                !written.contains(secret.as_str()),
                "{secret} was written:\n{written}"
            );
            // Nor a good part of one.
            let tail = secret
                .get(secret.len().saturating_sub(24)..)
                .unwrap_or(secret);
            assert!(
                tail.len() < 16 || !written.contains(tail),
                "{tail} was written"
            );
        }
    }
}
