//! The house itself: what the other modules stand on must hold without Weir.

use crate::house::Postgres;
use crate::house::client::Security;

#[test]
fn postgres_serves_in_the_clear_and_over_tls_and_survives_a_stop() {
    let postgres = Postgres::start_with_tls();
    let login = postgres.login("postgres");
    let mut private = login.clone().security(Security::Tls).connect();
    let mut open = login.connect();
    let secured = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(private.value(secured), "t");
    assert_eq!(open.value(secured), "f");
    postgres.stop();
    assert_eq!(open.last_words().code(), "57P01");
    postgres.start_again();
    login.connect().run("SELECT 1");
}

#[test]
fn every_database_is_its_own() {
    let postgres = Postgres::shared();
    let (one, other) = (postgres.database(), postgres.database());
    assert_ne!(one, other);
    postgres.client(&one).run("CREATE TABLE here ()");
    assert_eq!(postgres.client(&other).ask("TABLE here").code(), "42P01");
}
