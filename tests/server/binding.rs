//! SCRAM-SHA-256-PLUS: a login is worth nothing on any other TLS connection.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weir::config::SslMode::Require;
use weir::server::Failure;

use super::house::tls::{Certificates, trusting};
use super::{app, enter, postgres, target};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

#[tokio::test]
async fn who_listens_in_between_can_not_pass_a_login_on() {
    let house = postgres();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let between = target(listener.local_addr().unwrap(), Require, None);
    let relay = tokio::spawn(relay(listener, house.address));
    let error = enter(&between, &app()).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Denied);
    assert!(error.to_string().contains("channel binding"), "{error}");
    relay.abort();
    // Without anybody in between the same login goes through.
    enter(&target(house.address, Require, None), &app())
        .await
        .unwrap();
}

/// Takes a connection in TLS with a certificate of its own, and passes it on in TLS.
async fn relay(listener: TcpListener, to: SocketAddr) {
    let own = Certificates::make();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(
        vec![CertificateDer::from_pem_slice(own.cert.as_bytes()).unwrap()],
        PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
    )
    .unwrap();
    let (mut client, _) = listener.accept().await.unwrap();
    client.read_exact(&mut [0; 8]).await.unwrap();
    client.write_all(b"S").await.unwrap();
    let mut client = TlsAcceptor::from(Arc::new(config))
        .accept(client)
        .await
        .unwrap();
    let mut server = TcpStream::connect(to).await.unwrap();
    server.write_all(&SSL_REQUEST).await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut server = TlsConnector::from(trusting(&["postgresql"]))
        .connect(name, server)
        .await
        .unwrap();
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
