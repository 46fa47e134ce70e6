//! tokio-postgres against the gate, in the clear and over TLS with channel binding.
//!
//! Knows what a driver sees; does not look at bytes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding as Bound, TlsConnect, TlsStream};
use tokio_postgres::{Config, NoTls};
use tokio_rustls::TlsConnector;

use super::*;
use crate::net::acceptor::Alpn;
use crate::net::endpoint_hash::tls_server_end_point;

fn config(user: &str, password: &str) -> Config {
    let mut config = Config::new();
    config
        .user(user)
        .password(password)
        .dbname("d")
        .application_name("test");
    config
}

async fn log_in_plain(gate: Gate, config: &Config) -> Result<Authenticated, tokio_postgres::Error> {
    let (address, mut sessions) = open(Arc::new(gate)).await;
    let tcp = TcpStream::connect(address).await.unwrap();
    let _client = config.connect_raw(tcp, NoTls).await?;
    Ok(sessions.recv().await.unwrap())
}

async fn log_in_tls(
    gate: Gate,
    config: &Config,
    dialer: Dialer,
) -> Result<Authenticated, tokio_postgres::Error> {
    let (address, mut sessions) = open(Arc::new(gate)).await;
    let tcp = TcpStream::connect(address).await.unwrap();
    let _client = config.connect_raw(tcp, dialer).await?;
    Ok(sessions.recv().await.unwrap())
}

#[tokio::test]
async fn every_method_in_the_clear() {
    let md5 = || Gate {
        method: AuthMethod::Md5,
        ..gate()
    };
    for (gate, user) in [
        (gate(), "app"),
        (gate(), "hashed"),
        (md5(), "app"),
        (md5(), "hashed"),
    ] {
        let session = log_in_plain(gate, &config(user, PASSWORD)).await.unwrap();
        assert_eq!((&*session.user, session.database.as_str()), (user, "d"));
        assert!(
            session
                .settings
                .contains(&("application_name".to_owned(), b"test".to_vec()))
        );
    }
}

#[tokio::test]
async fn the_wrong_password() {
    for user in ["app", "hashed", "nobody"] {
        let refused = log_in_plain(gate(), &config(user, "wrong"))
            .await
            .unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "28P01");
    }
}

#[tokio::test]
async fn tls_with_and_without_channel_binding() {
    for negotiation in [SslNegotiation::Postgres, SslNegotiation::Direct] {
        for binding in [
            ChannelBinding::Disable,
            ChannelBinding::Prefer,
            ChannelBinding::Require,
        ] {
            let mut config = config("hashed", PASSWORD);
            config
                .ssl_mode(SslMode::Require)
                .ssl_negotiation(negotiation)
                .channel_binding(binding);
            let require = Gate {
                tls_mode: TlsMode::Require,
                ..gate()
            };
            let session = log_in_tls(require, &config, Dialer::honest())
                .await
                .unwrap();
            assert!(session.stream.is_tls());
        }
    }
}

#[tokio::test]
async fn a_client_that_sees_another_certificate_is_refused() {
    let mut config = config("app", PASSWORD);
    config
        .ssl_mode(SslMode::Require)
        .channel_binding(ChannelBinding::Require);
    let dialer = Dialer {
        end_point: EndPoint::Forged,
        ..Dialer::honest()
    };
    let refused = log_in_tls(gate(), &config, dialer).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "28000");
}

#[tokio::test]
async fn direct_tls_needs_alpn() {
    let mut config = config("app", PASSWORD);
    config
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    let dialer = Dialer {
        alpn: Alpn::Absent,
        ..Dialer::honest()
    };
    let refused = log_in_tls(gate(), &config, dialer).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "08P01");
}

/// tokio-postgres's way into TLS.
struct Dialer {
    alpn: Alpn,
    end_point: EndPoint,
}

#[derive(Clone, Copy)]
enum EndPoint {
    Seen,
    Forged,
}

impl Dialer {
    fn honest() -> Dialer {
        Dialer {
            alpn: Alpn::Negotiated,
            end_point: EndPoint::Seen,
        }
    }
}

struct Tls {
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    end_point: EndPoint,
}

impl TlsConnect<TcpStream> for Dialer {
    type Stream = Tls;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Tls>> + Send>>;

    fn connect(self, tcp: TcpStream) -> Self::Future {
        Box::pin(async move {
            let provider = Arc::new(ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
                .with_no_client_auth();
            if self.alpn == Alpn::Negotiated {
                config.alpn_protocols = vec![b"postgresql".to_vec()];
            }
            let name = ServerName::try_from("localhost").unwrap();
            let stream = TlsConnector::from(Arc::new(config))
                .connect(name, tcp)
                .await?;
            Ok(Tls {
                stream,
                end_point: self.end_point,
            })
        })
    }
}

impl TlsStream for Tls {
    fn channel_binding(&self) -> Bound {
        let certificates = self.stream.get_ref().1.peer_certificates().unwrap();
        let mut hash = tls_server_end_point(&certificates[0]).unwrap();
        if let EndPoint::Forged = self.end_point {
            hash[0] ^= 1;
        }
        Bound::tls_server_end_point(hash)
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Trusts whoever answers, as sslmode=require does.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
