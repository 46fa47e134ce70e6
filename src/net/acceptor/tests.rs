//! Handshakes with a client of our own, over loopback.
//!
//! Knows no PostgreSQL.

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::config::ClientAuthorities;

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path =
            std::env::temp_dir().join(format!("weir-acceptor-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Issued {
    der: CertificateDer<'static>,
    cert_pem: String,
    key_pem: String,
}

fn issue() -> Issued {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    Issued {
        der: cert.der().clone(),
        cert_pem: cert.pem(),
        key_pem: signing_key.serialize_pem(),
    }
}

fn files(cert: &Path, key: &Path) -> Tls {
    Tls {
        files: Some(CertificateFiles {
            cert: cert.to_owned(),
            key: key.to_owned(),
        }),
        ..Tls::default()
    }
}

/// One handshake with a client that trusts `trusted` alone.
async fn handshake(
    acceptor: &Acceptor,
    trusted: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> (io::Result<Secured>, io::Result<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let (served, dialled) = tokio::join!(
        acceptor.secure(Socket::new(accepted)),
        connector.connect(name, tcp)
    );
    (served, dialled.map(drop))
}

#[tokio::test]
async fn the_configured_certificate_is_shown_and_replaced() {
    let dir = Scratch::new("reload");
    let (first, second) = (issue(), issue());
    let cert = dir.write("cert.pem", &first.cert_pem);
    let key = dir.write("key.pem", &first.key_pem);
    let files = files(&cert, &key);
    let acceptor = Acceptor::open(&files).unwrap();

    let (served, dialled) = handshake(&acceptor, &first.der, &[b"postgresql"]).await;
    dialled.unwrap();
    let served = served.unwrap();
    assert_eq!(served.alpn, Alpn::Negotiated);
    assert_eq!(
        served.end_point.as_deref(),
        tls_server_end_point(&first.der).as_deref()
    );

    // Half a change: the key doesn't fit, the old pair stays in force.
    dir.write("cert.pem", &second.cert_pem);
    let refused = acceptor.reload(&files).unwrap_err().to_string();
    assert!(
        refused.contains("cert.pem") && refused.contains("key.pem"),
        "{refused}"
    );
    handshake(&acceptor, &first.der, &[]).await.1.unwrap();

    dir.write("key.pem", &second.key_pem);
    acceptor.reload(&files).unwrap();
    let (served, dialled) = handshake(&acceptor, &second.der, &[]).await;
    dialled.unwrap();
    assert_eq!(served.unwrap().alpn, Alpn::Absent);
    assert!(handshake(&acceptor, &first.der, &[]).await.1.is_err());
}

/// An authority, and clients that it has vouched for.
struct Authority {
    pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn make() -> Authority {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        Authority { pem, issuer }
    }

    fn vouch(&self, name: &str, serial: u64) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.serial_number = Some(serial.into());
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (certificate.der().clone(), key.into())
    }

    fn revoke(&self, serial: u64) -> String {
        let day = rcgen::date_time_ymd;
        let params = rcgen::CertificateRevocationListParams {
            this_update: day(2024, 1, 1),
            next_update: day(2124, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![rcgen::RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: day(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// A client that keeps its tickets and believes the self-signed certificate shown.
fn returning(
    acceptor: &Acceptor,
    shows: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let ours = acceptor.shown.load().pair.chain.first().unwrap().clone();
    roots.add(ours).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shows {
        Some((certificate, key)) => config
            .with_client_auth_cert(vec![certificate], key)
            .unwrap(),
        None => config.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(config))
}

/// What the server made of one visit, a byte of its each way behind the handshake.
async fn visit(
    acceptor: &Acceptor,
    client: &TlsConnector,
) -> Result<(Option<HandshakeKind>, Option<Subject>), String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let dialled = async {
        let mut stream = client.connect(name, tcp).await?;
        stream.write_all(b"x").await?;
        stream.read_u8().await
    };
    let served = async {
        let mut secured = acceptor.secure(Socket::new(accepted)).await?;
        secured.stream.receive(&mut [0]).await?;
        secured.stream.send(b"y").await?;
        io::Result::Ok(secured)
    };
    let (secured, _) = tokio::join!(served, dialled);
    let secured = secured.map_err(|error| error.to_string())?;
    let Stream::Tls(tls) = &secured.stream else {
        panic!("no TLS");
    };
    Ok((tls.get_ref().1.handshake_kind(), secured.subject))
}

const FULL: Option<HandshakeKind> = Some(HandshakeKind::Full);
const RESUMED: Option<HandshakeKind> = Some(HandshakeKind::Resumed);

#[tokio::test]
async fn a_session_is_resumed_until_something_changes() {
    let dir = Scratch::new("resumed");
    let acceptor = Acceptor::open(&Tls::default()).unwrap();
    let client = returning(&acceptor, None);
    assert_eq!(visit(&acceptor, &client).await, Ok((FULL, None)));
    assert_eq!(visit(&acceptor, &client).await, Ok((RESUMED, None)));
    acceptor.reload(&Tls::default()).unwrap();
    assert_eq!(visit(&acceptor, &client).await, Ok((RESUMED, None)));
    let clients = Some(ClientAuthorities {
        ca_file: dir.write("ca.pem", &Authority::make().pem),
        crl_file: None,
    });
    let asking = Tls {
        clients,
        ..Tls::default()
    };
    acceptor.reload(&asking).unwrap();
    assert_eq!(visit(&acceptor, &client).await, Ok((FULL, None)));
}

#[tokio::test]
async fn a_clients_certificate_is_checked_however_the_session_begins() {
    let dir = Scratch::new("clients");
    let (ours, theirs) = (Authority::make(), Authority::make());
    let with = |crl_file: Option<PathBuf>| Tls {
        clients: Some(ClientAuthorities {
            ca_file: dir.write("ca.pem", &ours.pem),
            crl_file,
        }),
        ..Tls::default()
    };
    let acceptor = Acceptor::open(&with(None)).unwrap();
    let orders = Some(Subject {
        common_name: Some("orders".to_owned()),
    });
    let known = returning(&acceptor, Some(ours.vouch("orders", 7)));
    assert_eq!(visit(&acceptor, &known).await, Ok((FULL, orders.clone())));
    assert_eq!(visit(&acceptor, &known).await, Ok((RESUMED, orders)));
    let stranger = returning(&acceptor, Some(theirs.vouch("orders", 8)));
    let refused = visit(&acceptor, &stranger).await.unwrap_err();
    assert!(refused.contains("invalid peer certificate"), "{refused}");
    let bare = returning(&acceptor, None);
    assert_eq!(visit(&acceptor, &bare).await, Ok((FULL, None)));

    // Even where its ticket could still be read.
    let mut trust = ClientTrust::read(
        &with(Some(dir.write("crl.pem", &ours.revoke(7))))
            .clients
            .unwrap(),
        &Arc::new(ring::default_provider()),
    )
    .unwrap();
    let mut shown = Arc::into_inner(acceptor.shown.swap(Arc::new(
        Shown::new(&Tls::default(), Pair::make().unwrap()).unwrap(),
    )))
    .unwrap();
    std::mem::swap(shown.clients.as_mut().unwrap(), &mut trust);
    acceptor.shown.store(Arc::new(shown));
    let refused = visit(&acceptor, &known).await.unwrap_err();
    assert!(refused.contains("Revoked"), "{refused}");
}

#[tokio::test]
async fn a_client_of_another_protocol_is_refused() {
    let dir = Scratch::new("alpn");
    let issued = issue();
    let files = files(
        &dir.write("cert.pem", &issued.cert_pem),
        &dir.write("key.pem", &issued.key_pem),
    );
    let acceptor = Acceptor::open(&files).unwrap();
    let (served, dialled) = handshake(&acceptor, &issued.der, &[b"h2"]).await;
    assert!(served.is_err() && dialled.is_err());
}

#[test]
fn what_is_wrong_names_the_file_and_repeats_nothing_of_it() {
    let dir = Scratch::new("wrong");
    let issued = issue();
    let cert = dir.write("cert.pem", &issued.cert_pem);
    let key = dir.write("key.pem", &issued.key_pem);
    let garbage = dir.write("garbage.pem", "-----BEGIN secret hunter2");
    let cases = [
        (
            files(&dir.0.join("none.pem"), &key),
            "none.pem: No such file",
        ),
        (
            files(&cert, &dir.0.join("none.key")),
            "none.key: No such file",
        ),
        (files(&key, &key), "key.pem: no PEM certificate"),
        (files(&cert, &cert), "cert.pem: no PEM private key"),
        (files(&garbage, &key), "garbage.pem: "),
        (files(&cert, &garbage), "garbage.pem: "),
    ];
    for (files, expected) in cases {
        let error = Acceptor::open(&files).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_certificate_made_at_start_stays() {
    let acceptor = Acceptor::open(&Tls::default()).unwrap();
    let before = acceptor.shown.load_full();
    assert_eq!(before.end_point.as_ref().map(|hash| hash.len()), Some(32));
    acceptor.reload(&Tls::default()).unwrap();
    assert!(Arc::ptr_eq(&before, &acceptor.shown.load_full()));
}
