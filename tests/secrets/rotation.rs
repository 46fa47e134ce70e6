//! Rotations under load, in the four steps that AWS's rotation functions take, and nobody notices.

use std::time::{Duration, Instant};

use crate::Refused;
use crate::house::moto::{Moto, secret, with_aws};
use crate::house::{Login, Postgres, Proxy, eventually, proving};
use crate::load::{self, Load};

/// Connections to the database live so short that there are logins at every moment of the rotation.
fn proxy(postgres: &Postgres, database: &str, moto: &Moto, arn: &str) -> Proxy {
    let setup = Proxy::before(postgres, database, 6)
        .without("AURORA_USER")
        .without("AURORA_PASSWORD")
        .set("AURORA_SECRET_ARN", arn)
        .set("WEIR__POOL__SERVER_LIFETIME", "1s");
    with_aws(setup, moto.address).start()
}

fn pause() -> Duration {
    Duration::from_secs(if proving() { 15 } else { 3 })
}

fn lasts() -> Duration {
    pause() * 4
}

fn sleep_until_end(of: Duration, since: Instant) {
    std::thread::sleep(of.saturating_sub(since.elapsed()));
}

#[test]
fn one_user_under_load() {
    let (postgres, moto) = (Postgres::shared(), Moto::start());
    let database = postgres.database();
    load::prepare(postgres, &database);
    postgres.sql("CREATE ROLE single LOGIN PASSWORD 'one'");
    let arn = moto.create("single", &secret("single", "one"));
    let proxy = proxy(postgres, &database, &moto, &arn);

    // Lambdas that keep the password they have read, for as long as this lasts.
    let since = Instant::now();
    let old = Load::start(&proxy, &database, "single", "one", lasts());
    std::thread::sleep(pause());
    let version = moto.put_pending(&arn, &secret("single", "two"));
    postgres.sql("ALTER ROLE single PASSWORD 'two'");
    // The third step tries it; AWSCURRENT is wrong meanwhile.
    std::thread::sleep(pause());
    moto.finish(&arn, &version);
    // Lambdas that read the secret now.
    let new = Load::start(&proxy, &database, "single", "two", pause());
    let new = new.end();
    sleep_until_end(lasts(), since);
    let old = old.end();
    assert_eq!((old.failed, new.failed), (0, 0));
    assert!(
        old.transactions > 100 && new.transactions > 10,
        "{old:?} {new:?}"
    );
    // Who never had a password is refused as ever, and the log has none.
    let wrong = Login::to(proxy.address, "single", "three", &database);
    assert_eq!(wrong.refusal().code, "28P01");
    let log = proxy.log();
    assert!(
        !log.contains("\"two\"") && log.contains("being rotated"),
        "{log}"
    );
    drop(proxy);
    postgres.sql_in(&database, "DROP TABLE seen; DROP ROLE single");
}

#[test]
fn alternating_users_under_load() {
    let (postgres, moto) = (Postgres::shared(), Moto::start());
    let database = postgres.database();
    load::prepare(postgres, &database);
    postgres.sql("CREATE ROLE twin LOGIN PASSWORD 'one'");
    let arn = moto.create("twin", &secret("twin", "one"));
    let proxy = proxy(postgres, &database, &moto, &arn);

    let since = Instant::now();
    let old = Load::start(&proxy, &database, "twin", "one", lasts());
    std::thread::sleep(pause());
    let version = moto.put_pending(&arn, &secret("twin_clone", "two"));
    postgres.sql("CREATE ROLE twin_clone LOGIN PASSWORD 'two' IN ROLE twin");
    std::thread::sleep(pause());
    moto.finish(&arn, &version);
    // Name and password as the secret has them.
    let new = Load::start(&proxy, &database, "twin_clone", "two", pause());
    let new = new.end();
    sleep_until_end(lasts(), since);
    let old = old.end();
    assert_eq!((old.failed, new.failed), (0, 0));
    assert!(
        old.transactions > 100 && new.transactions > 10,
        "{old:?} {new:?}"
    );
    // One pool, in which the new role takes over.
    let pools = proxy.pools();
    let users: Vec<_> = pools["pools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pool| pool["user"].clone())
        .collect();
    assert_eq!(users, ["twin"], "{pools}");
    let clone = Login::to(proxy.address, "twin_clone", "two", &database);
    eventually(
        "did the new role log in",
        || clone.connect().value("SELECT current_user"),
        |role| role == "twin_clone",
    );
    // What a DO block may have changed is asked for, and the role that it finds is the connection's own.
    let mut client = clone.connect();
    client.run("DO $$ BEGIN PERFORM set_config('work_mem', '5MB', false); END $$");
    assert_eq!(client.value("SHOW work_mem"), "5MB");
    // The next rotation is back to the first one.
    let version = moto.put_pending(&arn, &secret("twin", "three"));
    postgres.sql("ALTER ROLE twin PASSWORD 'three'");
    moto.finish(&arn, &version);
    let first = Login::to(proxy.address, "twin", "three", &database);
    eventually(
        "did the first role log in again",
        || first.connect().value("SELECT session_user"),
        |role| role == "twin",
    );
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(client.value("SHOW work_mem"), "5MB");
    assert_eq!(client.value("SELECT session_user"), "twin");
    drop(client);
    drop(proxy);
    postgres.sql_in(&database, "DROP TABLE seen; DROP ROLE twin, twin_clone");
}
