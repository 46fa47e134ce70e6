//! TLS towards whoever dialled us: the certificate we show, and the handshake.
//!
//! Knows certificates and how to replace them while running; does not know what is spoken inside.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::endpoint_hash::tls_server_end_point;
use super::stream::{Socket, Stream};
use crate::config::CertificateFiles;

/// The application protocol, so that a TLS port can't be mistaken for another service's (ALPACA).
const ALPN: &[u8] = b"postgresql";

/// Shows a certificate to clients. One for all workers.
#[derive(Debug)]
pub struct Acceptor {
    shown: ArcSwap<Shown>,
}

struct Shown {
    tls: TlsAcceptor,
    end_point: Option<Arc<[u8]>>,
    origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Files,
    SelfSigned,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shown {{ origin: {:?} }}", self.origin)
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Secured {
    pub stream: Stream,
    pub alpn: Alpn,
    /// `tls-server-end-point` of the certificate that this handshake showed; `None` if it has none.
    pub end_point: Option<Arc<[u8]>>,
}

/// Whether the client named the application protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    Negotiated,
    Absent,
}

/// Why a certificate can't be used. Never repeats what stands in a file.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: {what}", path.display())]
    NotPem { path: PathBuf, what: &'static str },
    #[error("{} with {}: {source}", files.cert.display(), files.key.display())]
    Unusable {
        files: CertificateFiles,
        source: rustls::Error,
    },
    #[error("self-signed certificate: {0}")]
    SelfSigned(rcgen::Error),
    #[error("self-signed certificate: {0}")]
    SelfSignedUnusable(rustls::Error),
}

impl Acceptor {
    /// Reads the certificate; without files makes one that nobody else vouches for.
    pub fn open(files: Option<&CertificateFiles>) -> Result<Acceptor, CertificateError> {
        let shown = match files {
            Some(files) => Shown::read(files)?,
            None => Shown::make()?,
        };
        Ok(Acceptor {
            shown: ArcSwap::from_pointee(shown),
        })
    }

    /// Reads the certificate again, for the handshakes that follow. After an error the old one stays.
    /// A certificate made at start stays as well, so that clients that trust it go on to.
    pub fn reload(&self, files: Option<&CertificateFiles>) -> Result<(), CertificateError> {
        let shown = match files {
            Some(files) => Shown::read(files)?,
            None if self.shown.load().origin == Origin::SelfSigned => return Ok(()),
            None => Shown::make()?,
        };
        self.shown.store(Arc::new(shown));
        Ok(())
    }

    /// Does the handshake. On failure the client has been sent an alert. Not cancel-safe.
    pub async fn secure(&self, socket: Socket) -> io::Result<Secured> {
        let shown = self.shown.load_full();
        let tls = shown.tls.accept(socket).await?;
        let alpn = match tls.get_ref().1.alpn_protocol() {
            Some(_) => Alpn::Negotiated,
            None => Alpn::Absent,
        };
        Ok(Secured {
            stream: Stream::Tls(Box::new(TlsStream::Server(tls))),
            alpn,
            end_point: shown.end_point.clone(),
        })
    }
}

impl Shown {
    fn read(files: &CertificateFiles) -> Result<Shown, CertificateError> {
        let pem = read(&files.cert)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|_| not_pem(&files.cert, "not well-formed PEM"))?;
        if chain.is_empty() {
            return Err(not_pem(&files.cert, "no PEM certificate in it"));
        }
        let pem = read(&files.key)?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| not_pem(&files.key, "no PEM private key in it that isn't encrypted"))?;
        Shown::new(chain, key, Origin::Files).map_err(|source| CertificateError::Unusable {
            files: files.clone(),
            source,
        })
    }

    fn make() -> Result<Shown, CertificateError> {
        let names = own_names();
        let (certificate, key) = self_signed(&names).map_err(CertificateError::SelfSigned)?;
        tracing::warn!(
            names = names.join(","),
            "no certificate configured: clients see a self-signed one, made just now; \
             sslmode=require works, verify-ca and verify-full can't"
        );
        Shown::new(vec![certificate], key, Origin::SelfSigned)
            .map_err(CertificateError::SelfSignedUnusable)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        origin: Origin,
    ) -> Result<Shown, rustls::Error> {
        let end_point = chain
            .first()
            .and_then(|certificate| tls_server_end_point(certificate))
            .map(Arc::from);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // As PostgreSQL: no tickets and no cache. Drivers don't resume, and both cost memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Shown {
            tls: TlsAcceptor::from(Arc::new(config)),
            end_point,
            origin,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn not_pem(path: &Path, what: &'static str) -> CertificateError {
    CertificateError::NotPem {
        path: path.to_owned(),
        what,
    }
}

fn self_signed(
    names: &[String],
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "weir, self-signed");
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((certificate.der().clone(), key))
}

fn own_names() -> Vec<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let mut names = vec!["localhost".to_owned()];
    if host.is_ascii() && !host.is_empty() && host != "localhost" {
        names.push(host.to_owned());
    }
    names
}

#[cfg(test)]
mod tests;
