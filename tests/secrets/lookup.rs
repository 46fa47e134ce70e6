//! auth_query: users whom nobody has listed.

use std::time::{Duration, Instant};

use crate::Refused;
use crate::house::client::Security;
use crate::house::{Login, Postgres, Proxy, count};

/// As the README says to do it: a role that can do nothing but ask this function.
const FUNCTION: &str = "CREATE ROLE asker LOGIN PASSWORD 'may ask'; CREATE SCHEMA weir AUTHORIZATION postgres; \
    CREATE FUNCTION weir.user_lookup(name text) RETURNS TABLE (username name, verifier text) \
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$ \
    SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid \
    WHERE rolname = name AND rolcanlogin AND NOT rolsuper $$; \
    REVOKE ALL ON FUNCTION weir.user_lookup FROM PUBLIC; \
    GRANT USAGE ON SCHEMA weir TO asker; GRANT EXECUTE ON FUNCTION weir.user_lookup TO asker";

fn house(more: &str) -> (Postgres, Proxy) {
    let postgres = Postgres::start(&[]);
    postgres.sql(FUNCTION);
    let proxy = Proxy::before(&postgres, "postgres", 4)
        .without("AURORA_USER")
        .without("AURORA_PASSWORD")
        .file(&format!(
            "[auth]\nquery_user = \"asker\"\nquery_password = \"may ask\"\n\
             query = \"SELECT * FROM weir.user_lookup($1)\"\n{more}"
        ))
        .start();
    (postgres, proxy)
}

#[test]
fn whoever_the_database_knows_gets_in() {
    let (postgres, proxy) = house("");
    postgres.sql(
        "CREATE ROLE vera LOGIN PASSWORD 'hers'; CREATE ROLE nologin PASSWORD 'x'; CREATE ROLE bare LOGIN; \
         CREATE ROLE late LOGIN PASSWORD 'x' VALID UNTIL '2001-01-01'; CREATE ROLE \"o'Neil $1\" LOGIN PASSWORD 'y'",
    );
    let come = |user: &str, password: &str| Login::to(proxy.address, user, password, "postgres");
    for (user, password) in [("vera", "hers"), ("o'Neil $1", "y")] {
        for security in [Security::Clear, Security::Tls] {
            let login = come(user, password).security(security);
            assert_eq!(login.connect().value("SELECT current_user"), user);
        }
    }
    let wrong = come("vera", "guessed").refusal();
    for user in [
        "nobody",
        "nologin",
        "bare",
        "late",
        "postgres",
        "asker",
        "vera' OR true --",
    ] {
        let mut refusal = come(user, "x").refusal();
        refusal.message = refusal.message.replace(user, "vera");
        assert_eq!(refusal, wrong, "{user}");
    }
    // Superusers are left out by the function, whatever their password.
    assert_eq!(come("postgres", "super-secret").refusal(), {
        let mut refusal = wrong.clone();
        refusal.message = refusal.message.replace("vera", "postgres");
        refusal
    });
    let log = proxy.log();
    assert!(
        log.contains("unknown user \"nobody\"") && !log.contains("SCRAM-SHA-256$"),
        "{log}"
    );
}

#[test]
fn a_changed_password_is_found_out_after_one_failure() {
    let (postgres, proxy) = house("query_negative_ttl = \"100ms\"\n");
    postgres.sql("CREATE ROLE vera LOGIN PASSWORD 'one'");
    let come = |password: &str| Login::to(proxy.address, "vera", password, "postgres");
    come("one").connect().run("SELECT 1");
    postgres.sql("ALTER ROLE vera PASSWORD 'two'");
    let _ = come("two").try_connect();
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(come("two").connect().value("SELECT current_user"), "vera");
    assert_eq!(come("one").refusal().code, "28P01");
}

/// Many at once for the same user cost one question; it goes over connections that are counted and bounded.
#[test]
fn a_storm_of_new_users_stays_within_the_cap() {
    let (postgres, proxy) = house("");
    let users = count(20, 100);
    for n in 0..users {
        postgres.sql(&format!("CREATE ROLE storm_{n} LOGIN PASSWORD 'x'"));
    }
    let address = proxy.address;
    let clients: Vec<_> = (0..users * 3)
        .map(|n| {
            std::thread::spawn(move || {
                let user = format!("storm_{}", n % users);
                let mut client = Login::to(address, &user, "x", "postgres").connect();
                assert_eq!(client.value("SELECT current_user"), user);
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    let metrics = proxy.metrics();
    let found = format!("weir_user_queries_total{{outcome=\"found\"}} {users}");
    assert!(metrics.contains(&found), "{metrics}");
    assert!(postgres.count_where("usename = 'asker'") <= 2);
    assert!(postgres.count_where("backend_type = 'client backend' AND usename <> 'postgres'") <= 4);
}

/// A stranger waits for the database just as a user does whom nobody has asked for yet; asked again soon, neither does.
#[test]
fn strangers_and_users_take_the_same_time() {
    let (postgres, proxy) = house("");
    let slow = "CREATE OR REPLACE FUNCTION weir.user_lookup(name text) RETURNS TABLE (username name, verifier text) \
        LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN QUERY \
        SELECT rolname, rolpassword FROM pg_authid WHERE rolname = name AND rolcanlogin; END $$";
    postgres.sql(slow);
    postgres.sql("CREATE ROLE vera LOGIN PASSWORD 'x'");
    let takes = |user: &str| {
        let since = Instant::now();
        let refusal = Login::to(proxy.address, user, "wrong", "postgres").refusal();
        assert_eq!(refusal.code, "28P01");
        since.elapsed() > Duration::from_millis(500)
    };
    for user in ["vera", "nobody"] {
        assert_eq!(
            [takes(user), takes(user), takes(user)],
            [true, false, false],
            "{user}"
        );
    }
}

#[test]
fn while_it_cannot_be_asked_nobody_is_called_unknown() {
    let (postgres, proxy) = house("query_ttl = \"1s\"\n");
    postgres.sql("CREATE ROLE vera LOGIN PASSWORD 'x'");
    let vera = Login::to(proxy.address, "vera", "x", "postgres");
    vera.connect().run("SELECT 1");
    postgres.sql("REVOKE EXECUTE ON FUNCTION weir.user_lookup FROM asker");
    std::thread::sleep(Duration::from_millis(1_100));
    vera.connect().run("SELECT 1");
    let refusal = Login::to(proxy.address, "nobody", "x", "postgres").refusal();
    assert_eq!(refusal.code, "57P03");
    assert!(
        proxy.log().contains("permission denied for function"),
        "{}",
        proxy.log()
    );
}
