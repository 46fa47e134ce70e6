//! TLS towards whoever dialled us: the certificate we show, those that we ask for, and the handshake.
//!
//! Knows certificates and how to replace them while running; does not know what is spoken inside.
//!
//! Sessions are resumed by tickets, so that whoever comes back saves both sides the signature. Their keys are one for
//! all workers, and new whenever anything was reloaded that differs. A client's certificate is checked again when its
//! session is resumed: an authority or certificate that is not trusted any more, or out of date, is so at once.

use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError};
use rustls::{CipherSuite, HandshakeKind, ServerConfig, ServerConnection, SupportedCipherSuite};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::client_trust::ClientTrust;
use super::endpoint_hash::tls_server_end_point;
use super::stream::{Socket, Stream};
use super::subject::common_name;
use crate::config::{CertificateFiles, Tls};
use crate::random;

/// The application protocol, so that a TLS port can't be mistaken for another service's (ALPACA).
const ALPN: &[u8] = b"postgresql";

type ServerTls = tokio_rustls::server::TlsStream<Socket>;

/// Shows a certificate to clients. One for all workers.
#[derive(Debug)]
pub struct Acceptor {
    shown: ArcSwap<Shown>,
}

struct Shown {
    tls: TlsAcceptor,
    end_point: Option<Arc<[u8]>>,
    pair: Pair,
    /// `None`: clients are asked for no certificate.
    clients: Option<ClientTrust>,
}

/// Our certificate with its chain, and its key.
#[derive(PartialEq, Eq)]
struct Pair {
    origin: Origin,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Files,
    SelfSigned,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shown {{ origin: {:?} }}", self.pair.origin)
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Secured {
    pub stream: Stream,
    pub alpn: Alpn,
    /// `tls-server-end-point` of the certificate that this handshake showed; `None` if it has none.
    pub end_point: Option<Arc<[u8]>>,
    /// `None`: the client has shown no certificate. One that it has shown is of a trusted authority.
    pub subject: Option<Subject>,
}

/// Whom a client's certificate is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// `None`: it has none that can be told.
    pub common_name: Option<String>,
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
    #[error("{files}: {source}")]
    Unusable {
        files: String,
        source: rustls::Error,
    },
    #[error("self-signed certificate: {0}")]
    SelfSigned(rcgen::Error),
    #[error("{}: {source}", path.display())]
    Authority {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("{}: {source}", path.display())]
    Authorities {
        path: PathBuf,
        source: VerifierBuilderError,
    },
    #[error("tickets for resumed sessions: {0}")]
    Tickets(rustls::Error),
}

impl Acceptor {
    /// Reads the certificate; without files makes one that nobody else vouches for.
    pub fn open(tls: &Tls) -> Result<Acceptor, CertificateError> {
        let pair = match &tls.files {
            Some(files) => Pair::read(files)?,
            None => Pair::make()?,
        };
        Ok(Acceptor {
            shown: ArcSwap::from_pointee(Shown::new(tls, pair)?),
        })
    }

    /// Reads the files again, for the handshakes that follow. After an error the old ones stay.
    /// A certificate made at start stays as well, so that clients that trust it go on to.
    pub fn reload(&self, tls: &Tls) -> Result<(), CertificateError> {
        let old = self.shown.load_full();
        let pair = match &tls.files {
            Some(files) => Pair::read(files)?,
            None if old.pair.origin == Origin::SelfSigned => old.pair.again(),
            None => Pair::make()?,
        };
        let new = Shown::new(tls, pair)?;
        // Where nothing has changed, sessions may still be resumed.
        if new.pair != old.pair || new.clients != old.clients {
            self.shown.store(Arc::new(new));
        }
        Ok(())
    }

    /// Does the handshake. On failure the client has been sent an alert. Not cancel-safe.
    pub async fn secure(&self, socket: Socket) -> io::Result<Secured> {
        let shown = self.shown.load_full();
        let tls = handshake(&shown.tls, socket).await?;
        let connection = tls.get_ref().1;
        let alpn = match connection.alpn_protocol() {
            Some(_) => Alpn::Negotiated,
            None => Alpn::Absent,
        };
        let subject = shown.subject(connection)?;
        Ok(Secured {
            stream: Stream::Tls(Box::new(TlsStream::Server(tls))),
            alpn,
            end_point: shown.end_point.clone(),
            subject,
        })
    }
}

/// What the server has to say at the end, a ticket, is held back for the first message behind it: a packet less.
async fn handshake(acceptor: &TlsAcceptor, mut socket: Socket) -> io::Result<ServerTls> {
    socket.hold();
    let mut accepting = acceptor.accept(socket);
    let mut tls = poll_fn(|cx| {
        let outcome = Pin::new(&mut accepting).poll(cx);
        match accepting.get_mut().map(|socket| socket.poll_release(cx)) {
            Some(Poll::Ready(Err(error))) if outcome.is_pending() => Poll::Ready(Err(error)),
            _ => outcome,
        }
    })
    .await?;
    tls.get_mut().0.let_go();
    Ok(tls)
}

impl Shown {
    fn new(tls: &Tls, pair: Pair) -> Result<Shown, CertificateError> {
        let unusable = |source| CertificateError::Unusable {
            files: match &tls.files {
                Some(files) => format!("{} with {}", files.cert.display(), files.key.display()),
                None => "self-signed certificate".to_owned(),
            },
            source,
        };
        let provider = Arc::new(quickest_first());
        let clients = match &tls.clients {
            Some(files) => Some(ClientTrust::read(files, &provider)?),
            None => None,
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::clone(&clients.verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(pair.chain.clone(), pair.key.clone_key())
            .map_err(unusable)?;
        config.ignore_client_order = true;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Tickets keep sessions with the clients; one is enough, since it may be used again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new().map_err(CertificateError::Tickets)?;
        config.send_tls13_tickets = 1;
        let end_point = pair
            .chain
            .first()
            .and_then(|shown| tls_server_end_point(shown));
        Ok(Shown {
            tls: TlsAcceptor::from(Arc::new(config)),
            end_point: end_point.map(Arc::from),
            pair,
            clients,
        })
    }

    fn subject(&self, connection: &ServerConnection) -> io::Result<Option<Subject>> {
        let Some(shown) = connection.peer_certificates() else {
            return Ok(None);
        };
        if connection.handshake_kind() == Some(HandshakeKind::Resumed)
            && let Some(clients) = &self.clients
        {
            let checked = clients.check_again(shown);
            checked.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        Ok(shown.first().map(|certificate| Subject {
            common_name: common_name(certificate),
        }))
    }
}

impl Pair {
    fn read(files: &CertificateFiles) -> Result<Pair, CertificateError> {
        let pem = read(&files.cert)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|_| not_pem(&files.cert, "not well-formed PEM"))?;
        if chain.is_empty() {
            return Err(not_pem(&files.cert, "no PEM certificate in it"));
        }
        let pem = zeroize::Zeroizing::new(read(&files.key)?);
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| not_pem(&files.key, "no PEM private key in it that isn't encrypted"))?;
        Ok(Pair {
            origin: Origin::Files,
            chain,
            key,
        })
    }

    fn make() -> Result<Pair, CertificateError> {
        let names = own_names();
        let (certificate, key) = self_signed(&names).map_err(CertificateError::SelfSigned)?;
        tracing::warn!(
            names = names.join(","),
            "no certificate configured: clients see a self-signed one, made just now; \
             sslmode=require works, verify-ca and verify-full can't"
        );
        Ok(Pair {
            origin: Origin::SelfSigned,
            chain: vec![certificate],
            key,
        })
    }

    fn again(&self) -> Pair {
        Pair {
            origin: self.origin,
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

pub(super) fn not_pem(path: &Path, what: &'static str) -> CertificateError {
    CertificateError::NotPem {
        path: path.to_owned(),
        what,
    }
}

/// For what TLS tells the peer.
#[derive(Debug)]
struct Drawn;

impl SecureRandom for Drawn {
    fn fill(&self, into: &mut [u8]) -> Result<(), GetRandomFailed> {
        random::fill(into).map_err(|_| GetRandomFailed)
    }
}

/// OpenSSL's clients want AES-256 with SHA-384 first, which machines have no instructions for as they have for SHA-256:
/// that alone is a tenth of a login.
fn quickest_first() -> CryptoProvider {
    let mut provider = CryptoProvider {
        secure_random: &Drawn,
        ..ring::default_provider()
    };
    let is_quick = |suite: &SupportedCipherSuite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    provider
        .cipher_suites
        .sort_by_key(|suite| (suite.tls13().is_none(), !is_quick(suite)));
    provider
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
