//! Whose certificate is believed when we dial.
//!
//! Knows authorities and names; does not know why somebody wants more or less of it.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// How much a certificate has to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Anybody: keeps out who listens, not who answers in the server's place.
    Anybody,
    /// Whoever a trusted authority has signed.
    Authority,
    /// Whoever a trusted authority has signed under the name that was dialled.
    AuthorityAndName,
}

/// A bundle of authorities that is none.
#[derive(Debug, thiserror::Error)]
pub enum BadAuthorities {
    #[error("not a PEM file: {source}")]
    NotPem { source: pem::Error },
    #[error("no certificate inside")]
    Empty,
    #[error("certificate {number} of the bundle can't be used as an authority: {source}")]
    Unusable { number: usize, source: Error },
}

impl Trust {
    /// For TLS 1.2 and 1.3 over ring; no ALPN.
    pub fn client_config(self, authorities: Option<&[u8]>) -> Result<ClientConfig, BadAuthorities> {
        let provider = Arc::new(crypto::ring::default_provider());
        let verifier = Authorities::new(self, authorities, &provider)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(config)
    }
}

#[derive(Debug)]
struct Authorities {
    trust: Trust,
    roots: RootCertStore,
    /// The bundle's certificates as they are, to find a server that shows one of them.
    pinned: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Authorities {
    fn new(
        trust: Trust,
        bundle: Option<&[u8]>,
        provider: &CryptoProvider,
    ) -> Result<Authorities, BadAuthorities> {
        let mut roots = RootCertStore::empty();
        let mut pinned = Vec::new();
        match bundle {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate =
                        certificate.map_err(|source| BadAuthorities::NotPem { source })?;
                    let number = pinned.len() + 1;
                    roots
                        .add(certificate.clone())
                        .map_err(|source| BadAuthorities::Unusable { number, source })?;
                    pinned.push(certificate);
                }
                if pinned.is_empty() {
                    return Err(BadAuthorities::Empty);
                }
            }
        }
        Ok(Authorities {
            trust,
            roots,
            pinned,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    fn verify_chain(
        &self,
        parsed: &ParsedCertificate<'_>,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let verified = verify_server_cert_signed_by_trust_anchor(
            parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        );
        match verified {
            // What `openssl req -x509` makes is its own authority: webpki never takes one as a server's
            // certificate, OpenSSL (so libpq) does when exactly this one is trusted. Its dates count here too.
            Err(error) if !is_about_dates(&error) && self.pinned.contains(shown) => Ok(()),
            verified => verified,
        }
    }
}

/// webpki looks at the dates before it looks at anything else that could fail.
fn is_about_dates(error: &Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(
        error,
        Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
        )
    )
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.trust {
            Trust::Anybody => {}
            Trust::Authority => {
                let parsed = ParsedCertificate::try_from(shown)?;
                self.verify_chain(&parsed, shown, intermediates, now)?;
            }
            Trust::AuthorityAndName => {
                let parsed = ParsedCertificate::try_from(shown)?;
                self.verify_chain(&parsed, shown, intermediates, now)?;
                verify_server_name(&parsed, host)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
