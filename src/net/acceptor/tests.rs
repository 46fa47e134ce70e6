//! Handshakes with a client of our own, over loopback.
//!
//! Knows no PostgreSQL.

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;

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

fn files(cert: &Path, key: &Path) -> CertificateFiles {
    CertificateFiles {
        cert: cert.to_owned(),
        key: key.to_owned(),
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
    let acceptor = Acceptor::open(Some(&files)).unwrap();

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
    let refused = acceptor.reload(Some(&files)).unwrap_err().to_string();
    assert!(
        refused.contains("cert.pem") && refused.contains("key.pem"),
        "{refused}"
    );
    handshake(&acceptor, &first.der, &[]).await.1.unwrap();

    dir.write("key.pem", &second.key_pem);
    acceptor.reload(Some(&files)).unwrap();
    let (served, dialled) = handshake(&acceptor, &second.der, &[]).await;
    dialled.unwrap();
    assert_eq!(served.unwrap().alpn, Alpn::Absent);
    assert!(handshake(&acceptor, &first.der, &[]).await.1.is_err());
}

#[tokio::test]
async fn a_client_of_another_protocol_is_refused() {
    let dir = Scratch::new("alpn");
    let issued = issue();
    let files = files(
        &dir.write("cert.pem", &issued.cert_pem),
        &dir.write("key.pem", &issued.key_pem),
    );
    let acceptor = Acceptor::open(Some(&files)).unwrap();
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
        let error = Acceptor::open(Some(&files)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_certificate_made_at_start_stays() {
    let acceptor = Acceptor::open(None).unwrap();
    let before = acceptor.shown.load_full();
    assert_eq!(before.end_point.as_ref().map(|hash| hash.len()), Some(32));
    acceptor.reload(None).unwrap();
    assert!(Arc::ptr_eq(&before, &acceptor.shown.load_full()));
}
