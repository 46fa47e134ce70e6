//! Ways to log in, what is learnt on the way, and what PostgreSQL says when it refuses.

use std::num::NonZeroU32;
use std::sync::Arc;

use weir::config::SslMode::{Disable, Require};
use weir::error::ToClient;
use weir::protocol::scram::{SaltedKeys, Verifier};
use weir::secrets;
use weir::server::{ConnectError, Failure, Fault, Login, cancel, connect, simple};

use super::house::postgres::{PASSWORD, USER};
use super::{app, enter, login, password, postgres, target, with_pencil};

#[tokio::test]
async fn every_method_that_weir_does() {
    let house = postgres();
    for mode in [Disable, Require] {
        for who in [app(), with_pencil("legacy"), with_pencil("free")] {
            let connected = enter(&target(house.address, mode, None), &who).await;
            let connected = connected.unwrap_or_else(|error| panic!("{mode:?} {who:?}: {error}"));
            assert!(!connected.in_recovery);
            assert_eq!(connected.limits.max_connections, 100);
            assert_eq!(connected.limits.ordinary(), 97);
            assert!(connected.key.pid > 0);
            let parameters = connected.parameters;
            assert_eq!(parameters.value(b"TimeZone"), Some(&b"UTC"[..]));
            assert_eq!(parameters.value(b"application_name"), Some(&b"weir"[..]));
            let user = parameters.value(b"session_authorization");
            assert_eq!(user, Some(who.0.as_bytes()));
        }
    }
}

#[tokio::test]
async fn a_password_in_clear_text_goes_over_tls_alone() {
    let house = postgres();
    let who = with_pencil("clear");
    assert!(
        enter(&target(house.address, Require, None), &who)
            .await
            .is_ok()
    );
    let error = enter(&target(house.address, Disable, None), &who).await;
    let error = error.unwrap_err();
    assert!(matches!(error.fault, Fault::CleartextWithoutTls), "{error}");
    assert_eq!(error.failure(), Failure::Denied);
}

#[tokio::test]
async fn what_weir_does_not_do_is_named() {
    let who = with_pencil("kerberos");
    let error = enter(&target(postgres().address, Disable, None), &who).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("GSSAPI"), "{error}");
}

#[tokio::test]
async fn keys_learnt_from_a_client_log_in_without_a_password() {
    let house = postgres();
    let stored = &house.sql(&format!(
        "SELECT rolpassword FROM pg_authid WHERE rolname = '{USER}'"
    ))[0];
    let verifier = Verifier::parse(stored).unwrap();
    assert!(verifier.fits(PASSWORD.as_bytes()));
    let keys = SaltedKeys::derive(PASSWORD.as_bytes(), verifier.salt(), verifier.iterations());
    let target = target(house.address, Require, None);
    let learnt = secrets::Login::Keys(Arc::new(keys.clone()));
    for _ in 0..2 {
        enter(&target, &(USER, learnt.clone())).await.unwrap();
    }
    let error = enter(&target, &("legacy", learnt)).await.unwrap_err();
    assert!(matches!(error.fault, Fault::NoPassword { .. }), "{error}");

    let stale = SaltedKeys::derive(PASSWORD.as_bytes(), b"salt", NonZeroU32::MIN);
    let stale = (USER, secrets::Login::Keys(Arc::new(stale)));
    let error = enter(&target, &stale).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Denied);
    assert!(error.hint().unwrap().contains("verifier"), "{error}");
}

#[tokio::test]
async fn a_refusal_says_what_kind_it_is() {
    let house = postgres();
    let target = target(house.address, Disable, None);
    let refused =
        async |login: Login<'_>| -> ConnectError { connect(&target, &login).await.unwrap_err() };
    let (wrong, pencil) = (password("wrong"), password("pencil"));

    let error = refused(login(USER, &wrong)).await;
    assert_eq!(error.failure(), Failure::Denied);
    assert_eq!(error.sqlstate().as_str(), "28P01");
    let error = refused(login("nobody", &wrong)).await;
    assert_eq!(error.failure(), Failure::Denied);
    let error = refused(login("crowded", &pencil)).await;
    assert_eq!(error.failure(), Failure::Busy);
    assert_eq!(error.sqlstate().as_str(), "53300");

    let (user, credential) = app();
    let nix = Login {
        database: "nix",
        ..login(user, &credential)
    };
    let error = refused(nix).await;
    assert_eq!(error.failure(), Failure::NoSuchDatabase);
    assert_eq!(error.message(), "database \"nix\" does not exist");
    let mut out = Vec::new();
    error.refusal().unwrap().put(&mut out);
    assert!(out.starts_with(b"E\0\0\0"));
    assert!(out.windows(15).any(|fields| fields == b"SFATAL\0VFATAL\0C"));
}

#[tokio::test]
async fn init_query_runs_before_anybody_gets_the_connection() {
    let house = postgres();
    let target = target(house.address, Disable, None);
    let (user, credential) = app();
    let with = |init_query| Login {
        init_query,
        ..login(user, &credential)
    };
    let several = with("SET TimeZone = 'Europe/Vienna'; SET search_path = nowhere; SELECT 1");
    let mut connected = connect(&target, &several).await.unwrap();
    let zone = connected.parameters.value(b"TimeZone");
    assert_eq!(zone, Some(&b"Europe/Vienna"[..]));
    let answer = simple::query(&mut connected.stream, "SHOW search_path").await;
    assert_eq!(answer.unwrap().rows, [[Some(b"nowhere".to_vec())]]);

    for (wrong, expected) in [
        ("SELECT 1/0", "division by zero"),
        ("nonsense", "syntax error"),
        ("BEGIN", "transaction open"),
        ("COPY pg_class TO STDOUT", "protocol"),
    ] {
        let error = connect(&target, &with(wrong)).await.unwrap_err();
        assert_eq!(error.failure(), Failure::Other, "{wrong}");
        assert!(error.to_string().contains(expected), "{wrong}: {error}");
    }
}

#[tokio::test]
async fn a_cancel_hits_its_query_in_the_clear_and_in_tls() {
    let house = postgres();
    for mode in [Disable, Require] {
        let target = target(house.address, mode, None);
        let mut connected = enter(&target, &app()).await.unwrap();
        let (reached, key) = (connected.reached, connected.key);
        let sleep = simple::query(&mut connected.stream, "SELECT pg_sleep(60)");
        let cancel = async {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            cancel(&target, reached, &key).await
        };
        let (slept, cancelled) = tokio::join!(sleep, cancel);
        cancelled.unwrap();
        match slept.unwrap_err() {
            simple::AskError::Refused(refusal) => assert_eq!(&refusal.sqlstate(), b"57014"),
            other => panic!("{other}"),
        }
        let again = simple::query(&mut connected.stream, "SELECT 1").await;
        assert_eq!(again.unwrap().rows, [[Some(b"1".to_vec())]]);
    }
}
