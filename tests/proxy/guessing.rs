//! Who guesses is heard so many times and no more, and nobody else is the worse for it.

use std::collections::BTreeMap;

use crate::house::postgres::{PASSWORD, USER};
use crate::house::{Login, Postgres, Proxy, eventually};

/// How many were told which SQLSTATE; "" for those let in.
fn all_at_once(logins: Vec<Login>) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    let threads: Vec<_> = logins
        .into_iter()
        .map(|login| std::thread::spawn(move || login.try_connect().map(drop)))
        .collect();
    for thread in threads {
        let code = thread.join().unwrap().err().map(|refusal| refusal.code);
        *told.entry(code.unwrap_or_default()).or_default() += 1;
    }
    told
}

#[test]
fn two_hundred_guesses_at_once_are_not_two_hundred_answers() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    postgres
        .sql("DROP ROLE IF EXISTS other_function; CREATE ROLE other_function LOGIN PASSWORD 'x'");
    let proxy = Proxy::before(postgres, &database, 2)
        .file("[[users]]\nname = \"other_function\"\npassword = \"x\"\n")
        .set("WEIR__AUTH__FAILED_LOGIN_WINDOW", "40s")
        .start();
    let wrong = proxy.login().user(USER, "guessed");
    let told = all_at_once(vec![wrong.clone(); 200]);
    let heard = told["28P01"];
    // In the time that it took, some may have been forgiven: one in two seconds.
    assert!((20..35).contains(&heard), "{told:?}");
    assert_eq!(told["28000"], 200 - heard, "{told:?}");

    // The right password is not told either, for a while; another user comes in at once.
    let limited = proxy.login().try_connect().map(drop).unwrap_err();
    assert_eq!((&*limited.code, &*limited.severity), ("28000", "FATAL"));
    let expected =
        format!("too many failed logins for user \"{USER}\" from your address: try again in ");
    assert!(limited.message.starts_with(&expected), "{limited:?}");
    let other = proxy.login().user("other_function", "x");
    assert_eq!(
        other.connect().value("SELECT current_user"),
        "other_function"
    );
    let stranger = proxy.login().user("nobody", "guessed");
    assert_eq!(stranger.try_connect().map(drop).unwrap_err().code, "28P01");

    let counted = |reason: &str| {
        let line = format!(
            "weir_auth_total{{method=\"scram-sha-256\",result=\"refused\",reason=\"{reason}\"}} "
        );
        let metrics = proxy.metrics();
        let count = metrics.lines().find_map(|one| one.strip_prefix(&*line));
        count.map(|count| count.parse::<usize>().unwrap())
    };
    assert_eq!(counted("wrong_password"), Some(heard));
    assert_eq!(counted("unknown_user"), Some(1));
    assert!(proxy.log().contains("too many failed logins of user"));
    // One failure is forgiven, and a success settles the others.
    eventually(
        "was the right password heard",
        || proxy.login().try_connect().is_ok(),
        |is_heard| *is_heard,
    );
    assert_eq!(all_at_once(vec![wrong; 10])["28P01"], 10);
    proxy.login().user(USER, PASSWORD).connect().run("SELECT 1");
}

#[test]
fn who_is_guessed_at_from_elsewhere_waits_but_comes_in() {
    let postgres = Postgres::shared();
    let proxy = Proxy::before(postgres, &postgres.database(), 2)
        .set("WEIR__AUTH__MAX_FAILED_LOGINS", "off")
        .set("WEIR__AUTH__MAX_FAILED_LOGINS_PER_ADDRESS", "off")
        .set("WEIR__AUTH__MAX_FAILED_LOGINS_PER_USER", "5")
        .set("WEIR__AUTH__FAILED_LOGIN_WINDOW", "1h")
        .set("WEIR__AUTH__FAILED_LOGIN_DELAY", "700ms")
        .set("WEIR__AUTH__MAX_HANDSHAKES", "1")
        .start();
    let wrong = proxy.login().user(USER, "guessed");
    assert_eq!(all_at_once(vec![wrong; 5])["28P01"], 5);
    let started = std::time::Instant::now();
    // Two that wait at once, and the one place for logins is not theirs meanwhile.
    let told = all_at_once(vec![proxy.login(); 2]);
    let took = started.elapsed().as_millis();
    assert_eq!(told[""], 2, "{told:?}");
    assert!((700..1_400).contains(&took), "{took} ms");
}
