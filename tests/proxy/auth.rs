//! Nobody in without proof, and nobody learns why not.

use crate::house::client::Security;
use crate::house::postgres::{PASSWORD, USER};
use crate::house::tls::Certificates;
use crate::house::{Login, Postgres, Proxy, Refusal, eventually};

fn refusal(login: &Login) -> Refusal {
    match login.try_connect() {
        Ok(_) => panic!("{} came in", login.user),
        Err(refusal) => refusal,
    }
}

fn house() -> (&'static Postgres, String, Proxy) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let proxy = Proxy::before(postgres, &database, 2).start();
    (postgres, database, proxy)
}

#[test]
fn a_wrong_password_and_an_unknown_user_look_alike() {
    let (postgres, database, proxy) = house();
    let wrong = refusal(&proxy.login().user(USER, "wrong"));
    let unknown = refusal(&proxy.login().user("nobody", "wrong"));
    assert_eq!((&*wrong.code, &*wrong.severity), ("28P01", "FATAL"));
    let as_nobody = |mut refusal: Refusal| {
        refusal.message = refusal.message.replace(USER, "nobody");
        refusal
    };
    assert_eq!(as_nobody(wrong.clone()), unknown);
    let postgres_says = refusal(&postgres.login(&database).user(USER, "wrong"));
    assert_eq!(wrong.message, postgres_says.message);
    // A role of the database that Weir doesn't know is as unknown.
    assert_eq!(
        refusal(&proxy.login().user("postgres", "super-secret")).code,
        "28P01"
    );
    proxy.client().run("SELECT 1");
    assert!(!proxy.log().contains("wrong\""), "no password in the log");
}

#[test]
fn an_unknown_database_is_refused_in_postgresqls_words() {
    let (postgres, database, proxy) = house();
    let expected = refusal(&postgres.login(&database).database("nowhere"));
    let seen = refusal(&proxy.login().database("nowhere"));
    assert_eq!(expected.code, "3D000");
    assert_eq!(seen, expected);
    // A proof is asked for first: strangers don't learn which databases there are.
    let stranger = proxy.login().user(USER, "wrong").database("nowhere");
    assert_eq!(refusal(&stranger).code, "28P01");
}

#[test]
fn no_database_named_is_the_users_own() {
    let (_, _, proxy) = house();
    let mut client = crate::house::Client::dial(proxy.address).unwrap();
    let login = proxy.login();
    client.send(&crate::house::wire::startup(
        login.version,
        &[("user", USER)],
    ));
    client.log_in(&login).unwrap();
    assert_eq!(client.value("SELECT current_database()"), login.database);
}

#[test]
fn md5_on_either_side() {
    let postgres = Postgres::start(&[]);
    postgres.sql("SET password_encryption = 'md5'; CREATE ROLE legacy LOGIN PASSWORD 'old secret'");
    let proxy = Proxy::before(&postgres, "postgres", 2)
        .file("[auth]\nmethod = \"md5\"\n[[users]]\nname = \"legacy\"\npassword = \"old secret\"\n")
        .start();
    let legacy = proxy.login().user("legacy", "old secret");
    assert_eq!(legacy.connect().value("SELECT current_user"), "legacy");
    assert_eq!(proxy.client().value("SELECT current_user"), USER);
    assert_eq!(
        refusal(&proxy.login().user("legacy", "wrong")).code,
        "28P01"
    );
    assert_eq!(
        refusal(&proxy.login().user("nobody", "wrong")).code,
        "28P01"
    );
}

/// With the database's own verifier alone Weir knows no password; what it needs for the other side
/// it learns when a client proves itself.
#[test]
fn a_verifier_serves_both_sides() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    postgres.sql("DROP ROLE IF EXISTS vera; CREATE ROLE vera LOGIN PASSWORD 'only hers'");
    let verifier = &postgres.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'vera'")[0];
    let proxy = Proxy::before(postgres, &database, 2)
        .file(&format!(
            "[[users]]\nname = \"vera\"\nverifier = \"{verifier}\"\n"
        ))
        .start();
    let vera = proxy.login().user("vera", "only hers");
    assert_eq!(refusal(&vera.clone().user("vera", "guessed")).code, "28P01");
    assert_eq!(vera.connect().value("SELECT current_user"), "vera");
    assert_eq!(
        vera.clone()
            .security(Security::Tls)
            .connect()
            .value("SELECT current_user"),
        "vera"
    );
    assert!(!proxy.log().contains(verifier), "no verifier in the log");
}

#[test]
fn users_have_pools_of_their_own() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    postgres.sql("DROP ROLE IF EXISTS other_user; CREATE ROLE other_user LOGIN PASSWORD 'other'");
    let proxy = Proxy::before(postgres, &database, 4)
        .file("[[users]]\nname = \"other_user\"\npassword = \"other\"\npool_max_connections = 1\n")
        .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "300ms")
        .start();
    let other = proxy.login().user("other_user", "other");
    let mut one = other.connect();
    let mut two = other.connect();
    one.run("BEGIN");
    one.run("SELECT 1");
    assert_eq!(two.ask("SELECT 1").code(), "53300");
    assert_eq!(proxy.client().value("SELECT current_user"), USER);
    one.run("COMMIT");
    assert_eq!(two.value("SELECT current_user"), "other_user");
}

#[test]
fn tls_can_be_required() {
    let postgres = Postgres::shared();
    let proxy = Proxy::before(postgres, &postgres.database(), 2)
        .set("WEIR_REQUIRE_TLS", "true")
        .start();
    let open = refusal(&proxy.login());
    assert_eq!((&*open.code, &*open.severity), ("28000", "FATAL"));
    for security in [Security::Tls, Security::DirectTls] {
        let mut client = proxy.login().security(security).connect();
        assert_eq!(client.value("SELECT 1"), "1");
    }
}

#[test]
fn tls_to_the_database_with_every_sslmode() {
    let postgres = Postgres::start_with_tls();
    let ca = std::env::temp_dir().join(format!("weir-ca-{}.pem", postgres.address.port()));
    std::fs::write(&ca, &postgres.certificates.as_ref().unwrap().ca).unwrap();
    let secured = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    for (mode, expected) in [
        ("false", "f"),
        ("disable", "f"),
        ("allow", "f"),
        ("prefer", "t"),
        ("require", "t"),
        ("verify-ca", "t"),
        ("verify-full", "t"),
        ("true", "t"),
    ] {
        let setup = Proxy::before(&postgres, "postgres", 2).set("AURORA_SSL", mode);
        let proxy = match mode {
            "verify-ca" | "verify-full" | "true" => {
                setup.set("AURORA_CA_FILE", ca.to_str().unwrap())
            }
            _ => setup,
        };
        let proxy = proxy.start();
        assert_eq!(proxy.client().value(secured), expected, "{mode}");
    }
    // A certificate that nobody vouches for.
    let proxy = Proxy::before(&postgres, "postgres", 2)
        .set("AURORA_SSL", "verify-full")
        .set("WEIR__POOL__UNAVAILABLE_TIMEOUT", "1s")
        .start_unready();
    assert_eq!(refusal(&proxy.login()).code, "08001");
    assert_eq!(proxy.get("/ready").unwrap().status, 503);
    let _ = std::fs::remove_file(ca);
}

#[test]
fn the_clients_certificate_is_ours_and_reloads() {
    let postgres = Postgres::shared();
    let [first, second] = [Certificates::make(), Certificates::make()];
    let directory = std::env::temp_dir().join(format!("weir-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let put = |certificates: &Certificates| {
        std::fs::write(directory.join("cert.pem"), &certificates.cert).unwrap();
        std::fs::write(directory.join("key.pem"), &certificates.key).unwrap();
    };
    put(&first);
    let proxy = Proxy::before(postgres, &postgres.database(), 1)
        .set(
            "WEIR_TLS_CERT",
            directory.join("cert.pem").to_str().unwrap(),
        )
        .set("WEIR_TLS_KEY", directory.join("key.pem").to_str().unwrap())
        .start();
    let login = proxy.login().security(Security::Tls);
    let shown = login.connect().certificate();
    assert!(!shown.is_empty());
    put(&second);
    proxy.signal("HUP");
    eventually(
        "was the new one shown",
        || login.connect().certificate() != shown,
        |new| *new,
    );
    let _ = std::fs::remove_dir_all(directory);
}

#[test]
fn a_new_password_is_taken_on_reload() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    postgres.sql("DROP ROLE IF EXISTS rotating; CREATE ROLE rotating LOGIN PASSWORD 'first'");
    let users =
        |password: &str| format!("[[users]]\nname = \"rotating\"\npassword = \"{password}\"\n");
    let proxy = Proxy::before(postgres, &database, 2)
        .file(&users("first"))
        .start();
    let mut early = proxy.login().user("rotating", "first").connect();
    early.run("SELECT 1");
    postgres.sql("ALTER ROLE rotating PASSWORD 'second'");
    std::fs::write(proxy.file.as_ref().unwrap(), users("second")).unwrap();
    proxy.signal("HUP");
    let late = proxy.login().user("rotating", "second");
    eventually(
        "was the new one taken",
        || late.try_connect().is_ok(),
        |ok| *ok,
    );
    assert_eq!(
        refusal(&proxy.login().user("rotating", PASSWORD)).code,
        "28P01"
    );
    early.run("SELECT 1");
}
