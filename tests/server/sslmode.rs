//! libpq's sslmode words, with and without TLS on the other side.

use std::fs;
use std::process::Command;

use weir::config::SslMode::{self, *};
use weir::net::DialError;
use weir::server::{Channel, ConnectError, Failure, Fault};

use super::house::Postgres;
use super::house::tls::Certificates;
use super::{app, enter, postgres, target, with_pencil};

const MODES: [SslMode; 6] = [Disable, Allow, Prefer, Require, VerifyCa, VerifyFull];

fn is_tls_error(error: &ConnectError) -> bool {
    matches!(error.fault, Fault::Dial(DialError::Tls { .. }))
        && error.failure() == Failure::Unreachable
}

#[tokio::test]
async fn what_each_word_comes_to_with_a_server_that_can() {
    let house = postgres();
    let ca = house.certificates.as_ref().unwrap().ca.as_str();
    let expected = [
        Channel::Plain,
        Channel::Plain,
        Channel::Tls,
        Channel::Tls,
        Channel::Tls,
        Channel::Tls,
    ];
    for (mode, channel) in MODES.into_iter().zip(expected) {
        let connected = enter(&target(house.address, mode, Some(ca)), &app()).await;
        let connected = connected.unwrap_or_else(|error| panic!("{mode:?}: {error}"));
        assert_eq!(connected.reached.channel, channel, "{mode:?}");
        assert_eq!(
            connected.stream.is_tls(),
            channel == Channel::Tls,
            "{mode:?}"
        );
        assert_eq!(connected.reached.address, house.address);
    }
}

#[tokio::test]
async fn what_each_word_comes_to_with_a_server_that_cannot() {
    let house = Postgres::start(&[]);
    for mode in MODES {
        let connected = enter(&target(house.address, mode, None), &app()).await;
        match (mode, connected) {
            (Disable | Allow | Prefer, connected) => {
                assert_eq!(connected.unwrap().reached.channel, Channel::Plain);
            }
            (Require | VerifyCa | VerifyFull, connected) => {
                let error = connected.unwrap_err();
                assert!(matches!(error.fault, Fault::TlsNotOffered), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn pg_hba_decides_between_allow_and_prefer() {
    let house = postgres();
    let channel = async |mode, user| {
        let connected = enter(&target(house.address, mode, None), &with_pencil(user)).await;
        connected.map(|connected| connected.reached.channel)
    };
    assert_eq!(channel(Allow, "only_tls").await.unwrap(), Channel::Tls);
    assert_eq!(channel(Prefer, "only_plain").await.unwrap(), Channel::Plain);
    assert_eq!(
        channel(Disable, "only_tls").await.unwrap_err().failure(),
        Failure::Denied
    );
    assert_eq!(
        channel(Require, "only_plain").await.unwrap_err().failure(),
        Failure::Denied
    );
}

#[tokio::test]
async fn a_stranger_is_believed_only_where_nobody_is_checked() {
    let house = postgres();
    let other = Certificates::make().ca;
    // Without a bundle: the web's authorities, which have not signed this one.
    for (mode, authorities) in [
        (VerifyCa, None),
        (VerifyFull, None),
        (Require, Some(&*other)),
        (VerifyCa, Some(&other)),
        (VerifyFull, Some(&other)),
    ] {
        let error = enter(&target(house.address, mode, authorities), &app()).await;
        assert!(is_tls_error(&error.unwrap_err()), "{mode:?}");
    }
    let trusting = enter(&target(house.address, Require, None), &app()).await;
    assert_eq!(trusting.unwrap().reached.channel, Channel::Tls);
    // libpq, too: TLS failed, so prefer goes on in the clear.
    let preferring = enter(&target(house.address, Prefer, Some(&other)), &app()).await;
    assert_eq!(preferring.unwrap().reached.channel, Channel::Plain);
}

#[tokio::test]
async fn only_verify_full_looks_at_the_name() {
    let house = Postgres::start_with_tls();
    let name = rcgen::generate_simple_self_signed(vec!["db.example".to_owned()]).unwrap();
    replace_certificate(&house, &name);
    // A certificate that is its own authority, as `openssl req -x509` makes them.
    let pem = name.cert.pem();
    let by_ca = enter(&target(house.address, VerifyCa, Some(&pem)), &app()).await;
    assert!(by_ca.is_ok(), "{:?}", by_ca.err());
    let error = enter(&target(house.address, VerifyFull, Some(&pem)), &app()).await;
    assert!(is_tls_error(&error.unwrap_err()));

    let names = vec!["localhost".to_owned()];
    replace_certificate(&house, &rcgen::generate_simple_self_signed(names).unwrap());
    let error = enter(&target(house.address, VerifyCa, Some(&pem)), &app()).await;
    assert!(
        is_tls_error(&error.unwrap_err()),
        "a certificate not trusted"
    );
}

#[tokio::test]
async fn a_certificate_out_of_date_is_refused_though_it_is_trusted() {
    let house = Postgres::start_with_tls();
    let key_pair = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let cert = params.self_signed(&key_pair).unwrap();
    let pem = cert.pem();
    replace_certificate(
        &house,
        &rcgen::CertifiedKey {
            cert,
            signing_key: key_pair,
        },
    );
    for mode in [VerifyCa, VerifyFull] {
        let error = enter(&target(house.address, mode, Some(&pem)), &app()).await;
        let error = error.unwrap_err();
        assert!(is_tls_error(&error));
        assert!(error.to_string().contains("expired"), "{error}");
    }
}

fn replace_certificate(house: &Postgres, certified: &rcgen::CertifiedKey<rcgen::KeyPair>) {
    house.stop();
    let data = house.directory.join("data");
    fs::write(data.join("server.crt"), certified.cert.pem()).unwrap();
    fs::write(
        data.join("server.key"),
        certified.signing_key.serialize_pem(),
    )
    .unwrap();
    let status = Command::new("chmod")
        .arg("600")
        .arg(data.join("server.key"))
        .status();
    assert!(status.unwrap().success());
    house.start_again();
}
