//! The vault with a Secrets Manager and a database of the test's own, and a clock that stands still.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::config::Secret;
use crate::protocol::scram::{SALT_BYTES, SaltedKeys};
use crate::secrets::Patience::{Full, Little};
use crate::secrets::rotating::{FetchError, Stage, Value};
use crate::secrets::{Login, Next};

const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:app";

/// A configuration as people write it, with these lines.
fn config(lines: &str) -> Config {
    let path = std::env::temp_dir().join(format!(
        "weir-vault-{}-{}.toml",
        std::process::id(),
        RandomState::new().hash_one(0)
    ));
    let text = format!("[database]\nhost = \"db.example\"\n{lines}");
    std::fs::write(&path, text).unwrap();
    let config = config::load(Some(&path), std::iter::empty());
    let _ = std::fs::remove_file(path);
    config.unwrap()
}

fn user(name: &str, credential: &str) -> String {
    format!("[[users]]\nname = \"{name}\"\n{credential}\n")
}

fn password(name: &str, password: &str) -> String {
    user(name, &format!("password = \"{password}\""))
}

fn verifier(name: &str, password: &[u8]) -> String {
    let keys = SaltedKeys::derive(password, b"salt of database", ITERATIONS);
    user(
        name,
        &format!("verifier = \"{}\"", keys.verifier().to_text()),
    )
}

/// A Secrets Manager: values by stage; none: it is down.
#[derive(Default)]
struct Manager {
    values: Mutex<Option<HashMap<&'static str, String>>>,
    asked: AtomicUsize,
}

impl Manager {
    fn set(&self, values: &[(Stage, &str, &str)]) {
        let value = |&(stage, role, password): &(Stage, &str, &str)| {
            (
                stage.name(),
                format!(r#"{{"username":"{role}","password":"{password}"}}"#),
            )
        };
        *self.values.lock().unwrap() = Some(values.iter().map(value).collect());
    }

    fn stop(&self) {
        *self.values.lock().unwrap() = None;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn fetch(self: &Arc<Manager>) -> Arc<Fetch> {
        let manager = Arc::clone(self);
        Arc::new(move |_, stage: Stage| {
            let manager = Arc::clone(&manager);
            let answer = async move {
                if stage == Stage::Current {
                    manager.asked.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                let values = manager.values.lock().unwrap();
                let values = values.as_ref().ok_or(FetchError::Failed("down".into()))?;
                let text = values.get(stage.name()).ok_or(FetchError::NoValue)?;
                Ok(Value {
                    text: Secret::new(text.clone()),
                    age: Some(Duration::from_secs(86_400)),
                })
            };
            Box::pin(answer) as _
        })
    }
}

fn outside(fetch: Arc<Fetch>, ask: Option<Ask>) -> Outside {
    Outside {
        fetch,
        ask,
        aws: Arc::new(Aws::new(None, Duration::from_secs(1))),
        meters: metrics::Vault::new(&Arc::default()),
    }
}

fn vault(lines: &str) -> Vault {
    let manager = Arc::new(Manager::default());
    Vault::new(&config(lines), outside(manager.fetch(), None)).unwrap()
}

/// A vault with one secret that is being looked after.
fn kept(lines: &str) -> (Arc<Manager>, Arc<Vault>) {
    let manager = Arc::new(Manager::default());
    let outside = outside(manager.fetch(), None);
    let vault = Arc::new(Vault::new(&config(lines), outside).unwrap());
    let keeper = Arc::clone(&vault);
    tokio::spawn(async move { keeper.keep().await });
    (manager, vault)
}

fn in_secret() -> String {
    format!("[secrets]\narns = [\"{ARN}\"]\n")
}

fn fits(credential: &Credential, password: &str) -> bool {
    credential
        .verifiers()
        .any(|verifier| verifier.fits(password.as_bytes()))
}

/// Role and password of a login.
async fn login(attempts: &mut Attempts) -> (String, String) {
    let at = config::HostPort {
        host: "db.example".into(),
        port: 5432,
    };
    let Login::Password(password) = attempts.login(&at).await.unwrap() else {
        panic!("a password");
    };
    (
        attempts.role().to_string(),
        password.text().expose().clone(),
    )
}

fn shared_by_workers<T: Send + Sync>(_: &T) {}

#[tokio::test]
async fn a_password_serves_both_sides() {
    let vault = vault(&password("app", "hunter2"));
    shared_by_workers(&vault);
    let app = vault.find("app").await.unwrap().unwrap();
    assert!(fits(&app, "hunter2") && app.passwords().len() == 1);
    let mut attempts = vault.attempts(&"app".into()).unwrap();
    assert_eq!(login(&mut attempts).await.1, "hunter2");
    assert_eq!(attempts.refused().await, Next::GiveUp);
    assert!(vault.find("App").await.unwrap().is_none());
    assert!(vault.attempts(&"other".into()).is_err());
    assert!(vault.doubt("app", Full).await.is_none());
    assert!(!format!("{vault:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_verifier_serves_the_server_side_once_the_key_is_learnt() {
    let vault = vault(&verifier("app", b"hunter2"));
    let app = vault.find("app").await.unwrap().unwrap();
    assert!(app.passwords().is_empty() && app.login().is_none());
    assert!(matches!(
        vault.attempts(&"app".into()),
        Err(NoLogin::Nothing { .. })
    ));
}

#[tokio::test]
async fn reload_keeps_what_is_the_same() {
    let before = [
        password("a", "1"),
        password("b", "1"),
        verifier("c", b"1"),
        password("d", "1"),
    ];
    let vault = vault(&before.concat());
    let mut old = HashMap::new();
    for name in ["a", "b", "c", "d"] {
        old.insert(name, vault.find(name).await.unwrap().unwrap());
    }
    let after = [
        password("a", "1"),
        password("b", "2"),
        verifier("c", b"1"),
        verifier("e", b"1"),
    ];
    vault.install(vault.prepare(&config(&after.concat())).unwrap());
    for (name, kept) in [("a", true), ("b", false), ("c", true)] {
        let new = vault.find(name).await.unwrap().unwrap();
        assert_eq!(Arc::ptr_eq(&new, &old[name]), kept, "{name}");
    }
    assert!(fits(&vault.find("b").await.unwrap().unwrap(), "2"));
    assert!(vault.find("d").await.unwrap().is_none() && vault.find("e").await.unwrap().is_some());
}

#[test]
fn an_unknown_user_looks_the_same_every_time() {
    let vault_of = vault;
    let vault = vault_of(&password("a", "1"));
    assert_eq!(vault.doomed(b"who"), vault.doomed(b"who"));
    assert_ne!(vault.doomed(b"who"), vault.doomed(b"else"));
    assert_ne!(
        vault.doomed(b"who"),
        vault_of(&password("a", "1")).doomed(b"who")
    );
    let unknown = vault.doomed(b"a");
    assert_eq!(
        (SALT_BYTES, ITERATIONS),
        (unknown.salt().len(), unknown.iterations())
    );
}

#[tokio::test(start_paused = true)]
async fn a_secret_serves_both_sides_and_is_waited_for() {
    let (manager, vault) = kept(&in_secret());
    manager.set(&[(Stage::Current, "app", "one")]);
    assert!(vault.lacks().unwrap().contains(ARN));
    assert!(matches!(
        vault.attempts(&"app".into()),
        Err(NoLogin::Nothing { .. })
    ));
    let app = vault.find("app").await.unwrap().unwrap();
    assert!(fits(&app, "one") && **app.user() == *"app");
    assert_eq!(vault.lacks(), None);
    assert_eq!(
        login(&mut vault.attempts(&"app".into()).unwrap()).await,
        ("app".into(), "one".into())
    );
    assert_eq!(vault.first_user(&[]).as_deref(), Some("app"));
    assert!(vault.find("other").await.unwrap().is_none());
    assert!(!format!("{vault:?}").contains("one\""));
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_cannot_be_fetched_is_not_an_unknown_user() {
    let (manager, vault) = kept(&in_secret());
    let NotYet(why) = vault.find("app").await.unwrap_err();
    assert!(why.contains(ARN) && why.contains("down"), "{why}");
    manager.set(&[(Stage::Current, "app", "one")]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(vault.find("app").await.unwrap().is_some());
    // Known once, it serves while Secrets Manager is away.
    manager.stop();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(fits(&vault.find("app").await.unwrap().unwrap(), "one"));
    assert_eq!(vault.lacks(), None);
}

#[tokio::test(start_paused = true)]
async fn a_secret_says_what_it_lacks() {
    let (manager, vault) = kept(&in_secret());
    *manager.values.lock().unwrap() =
        Some([("AWSCURRENT", r#"{"username":"app","pass":"s3cr3t"}"#.into())].into());
    let NotYet(why) = vault.find("app").await.unwrap_err();
    assert!(
        why.contains(ARN) && why.contains("\"password\"") && !why.contains("s3cr3t"),
        "{why}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rotated_password_is_found_by_the_client_who_has_it() {
    let (manager, vault) = kept(&in_secret());
    manager.set(&[(Stage::Current, "app", "one")]);
    let before = vault.find("app").await.unwrap().unwrap();
    manager.set(&[
        (Stage::Current, "app", "two"),
        (Stage::Previous, "app", "one"),
    ]);
    let after = vault.doubt("app", Full).await.unwrap();
    assert_eq!(before.verifier().salt(), after.verifier().salt());
    assert!(fits(&after, "two") && fits(&after, "one"));
    tokio::time::sleep(Duration::from_secs(900)).await;
    let later = vault.find("app").await.unwrap().unwrap();
    assert!(fits(&later, "two") && !fits(&later, "one"));
}

#[tokio::test(start_paused = true)]
async fn doubts_share_a_fetch_and_strangers_wait_as_long() {
    let (manager, vault) = kept(&in_secret());
    manager.set(&[(Stage::Current, "app", "one")]);
    vault.find("app").await.unwrap().unwrap();
    let before = (manager.asked(), Instant::now());
    let mut doubts = JoinSet::new();
    for n in 0..1000 {
        let vault = Arc::clone(&vault);
        doubts.spawn(async move {
            let user = if n % 2 == 0 {
                "app".to_owned()
            } else {
                format!("stranger {n}")
            };
            (user == "app", vault.doubt(&user, Full).await.is_some())
        });
    }
    while let Some(doubt) = doubts.join_next().await {
        let (is_user, found) = doubt.unwrap();
        assert_eq!(is_user, found);
    }
    assert_eq!(manager.asked(), before.0 + 1);
    // One came sooner than `refetch_pause` after the first, and was waited for.
    let waited = before.1.elapsed();
    assert!(
        waited >= Duration::from_secs(4) && waited < Duration::from_secs(6),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn with_little_patience_only_what_is_at_hand_is_waited_for() {
    let (manager, vault) = kept(&in_secret());
    manager.set(&[(Stage::Current, "app", "one")]);
    vault.find("app").await.unwrap().unwrap();
    manager.set(&[(Stage::Current, "app", "two")]);
    // The first round has just been: the next is not due for seconds.
    let before = Instant::now();
    let known = vault.doubt("app", Little).await.unwrap();
    assert!(before.elapsed() < Duration::from_millis(1) && !fits(&known, "two"));
    // But it was asked for.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(fits(&vault.find("app").await.unwrap().unwrap(), "two"));
    manager.set(&[(Stage::Current, "app", "three")]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    // One is due, and another joins it on its way.
    let late = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        vault.doubt("app", Little).await.unwrap()
    };
    let (first, late) = tokio::join!(vault.doubt("app", Little), late);
    assert!(fits(&first.unwrap(), "three") && fits(&late, "three"));
}

#[tokio::test(start_paused = true)]
async fn logins_try_pending_and_previous_once() {
    let (manager, vault) = kept(&in_secret());
    manager.set(&[(Stage::Current, "app", "one")]);
    vault.find("app").await.unwrap();
    manager.set(&[
        (Stage::Current, "app", "one"),
        (Stage::Pending, "app_clone", "two"),
        (Stage::Previous, "app", "zero"),
    ]);
    let user: Arc<str> = "app".into();
    let mut tried = Vec::new();
    let mut attempts = vault.attempts(&user).unwrap();
    loop {
        tried.push(login(&mut attempts).await);
        if attempts.refused().await == Next::GiveUp {
            break;
        }
    }
    let expected = [("app", "one"), ("app_clone", "two"), ("app", "zero")];
    assert_eq!(
        tried,
        expected.map(|(role, text)| (role.to_owned(), text.to_owned()))
    );
    // Then the database is left alone for a while.
    assert!(matches!(vault.attempts(&user), Err(NoLogin::Pause { .. })));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut attempts = vault.attempts(&user).unwrap();
    assert_eq!(attempts.refused().await, Next::TryAgain);
    attempts.taken();
    // What the database took is what the next login begins with, and good enough for clients.
    assert_eq!(login(&mut vault.attempts(&user).unwrap()).await.1, "two");
    assert!(fits(&vault.find("app").await.unwrap().unwrap(), "two"));
    assert_eq!(
        **vault.find("app_clone").await.unwrap().unwrap().user(),
        *"app"
    );
}

#[tokio::test(start_paused = true)]
async fn a_login_that_outlasts_a_rotation_does_not_undo_it() {
    let (manager, vault) = kept(&in_secret());
    manager.set(&[(Stage::Current, "app", "one")]);
    vault.find("app").await.unwrap();
    let user: Arc<str> = "app".into();
    let slow = vault.attempts(&user).unwrap();
    manager.set(&[
        (Stage::Current, "app_clone", "two"),
        (Stage::Previous, "app", "one"),
    ]);
    vault.doubt("app", Full).await.unwrap();
    // The database takes the old value still.
    slow.taken();
    assert_eq!(login(&mut vault.attempts(&user).unwrap()).await.1, "two");
}

/// A database that knows `vera`, and can be down.
fn database(verifier: Arc<Mutex<Option<String>>>, asked: Arc<AtomicUsize>) -> Ask {
    Arc::new(move |user: String| {
        let (verifier, asked) = (Arc::clone(&verifier), Arc::clone(&asked));
        let answer = async move {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            let verifier = verifier.lock().unwrap().clone().ok_or("down")?;
            Ok((user == "vera").then(|| Secret::new(verifier)))
        };
        Box::pin(answer) as _
    })
}

#[tokio::test(start_paused = true)]
async fn the_database_is_asked_for_users_who_are_not_listed() {
    let text = |password: &[u8]| {
        SaltedKeys::derive(password, b"its salt", ITERATIONS)
            .verifier()
            .to_text()
    };
    let (holds, asked) = (
        Arc::new(Mutex::new(Some(text(b"one")))),
        Arc::<AtomicUsize>::default(),
    );
    let ask = database(Arc::clone(&holds), Arc::clone(&asked));
    let lines = "[auth]\nquery_user = \"asker\"\nquery_password = \"x\"\n";
    let manager = Arc::new(Manager::default());
    let vault = Arc::new(Vault::new(&config(lines), outside(manager.fetch(), Some(ask))).unwrap());
    let count = || asked.load(Ordering::Relaxed);

    let mut finds = JoinSet::new();
    for _ in 0..100 {
        let vault = Arc::clone(&vault);
        finds.spawn(async move { vault.find("vera").await.unwrap().is_some() });
    }
    while let Some(found) = finds.join_next().await {
        assert!(found.unwrap());
    }
    assert_eq!(count(), 1, "one question for all");
    assert!(vault.find("nobody").await.unwrap().is_none());
    assert!(vault.find("nobody").await.unwrap().is_none());
    assert!(vault.find(&"x".repeat(64)).await.unwrap().is_none());
    assert_eq!(count(), 2, "that there is no such user is remembered, too");
    // The asker does not come in as itself, but can log in.
    assert!(vault.find("asker").await.unwrap().is_none());
    assert!(vault.attempts(&"asker".into()).is_ok());

    // What a client shows logs us in, as long as the verifier is the database's.
    let vera = vault.find("vera").await.unwrap().unwrap();
    assert!(matches!(
        vault.attempts(&"vera".into()),
        Err(NoLogin::Nothing { .. })
    ));
    tokio::time::sleep(Duration::from_secs(61)).await;
    let again = vault.find("vera").await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&vera, &again), "what was learnt for it is kept");
    // A wrong proof has it looked up again sooner.
    let before = count();
    *holds.lock().unwrap() = Some(text(b"two"));
    tokio::time::sleep(Duration::from_secs(6)).await;
    vault.find("vera").await.unwrap();
    assert_eq!(count(), before);
    vault.doubt("vera", Full).await;
    assert!(fits(&vault.find("vera").await.unwrap().unwrap(), "two"));
    // An old answer serves while the database is away; of strangers nothing can be said.
    *holds.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(vault.find("vera").await.unwrap().is_some());
    assert!(vault.find("stranger").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn guessed_names_do_not_drive_out_users() {
    let text = SaltedKeys::derive(b"one", b"its salt", ITERATIONS)
        .verifier()
        .to_text();
    let asked = Arc::<AtomicUsize>::default();
    let ask = database(Arc::new(Mutex::new(Some(text))), Arc::clone(&asked));
    let lines = "[auth]\nquery_user = \"asker\"\nquery_password = \"x\"\nmax_query_cache = 50\nquery_ttl = \"1h\"\n";
    let manager = Arc::new(Manager::default());
    let vault = Vault::new(&config(lines), outside(manager.fetch(), Some(ask))).unwrap();
    vault.find("vera").await.unwrap();
    for n in 0..500 {
        vault.find(&format!("guess {n}")).await.unwrap();
    }
    let before = asked.load(Ordering::Relaxed);
    vault.find("vera").await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), before);
}
