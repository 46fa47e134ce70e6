//! Whose certificates are believed when a client shows one.
//!
//! Knows authorities and what they have revoked; does not know what a certificate lets its holder do.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::acceptor::{CertificateError, not_pem, read};
use crate::config::ClientAuthorities;

/// Asks clients for a certificate, and takes those that have none as well.
#[derive(Debug)]
pub(super) struct ClientTrust {
    pub verifier: Arc<dyn ClientCertVerifier>,
    authorities: Vec<CertificateDer<'static>>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

/// Whether the same files were read.
impl PartialEq for ClientTrust {
    fn eq(&self, other: &ClientTrust) -> bool {
        self.authorities == other.authorities && self.revoked == other.revoked
    }
}

impl ClientTrust {
    pub fn read(
        files: &ClientAuthorities,
        provider: &Arc<CryptoProvider>,
    ) -> Result<ClientTrust, CertificateError> {
        let path = &files.ca_file;
        let authorities: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
            .collect::<Result<_, _>>()
            .map_err(|_| not_pem(path, "not well-formed PEM"))?;
        if authorities.is_empty() {
            return Err(not_pem(path, "no PEM certificate in it"));
        }
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            let added = roots.add(authority.clone());
            added.map_err(|source| CertificateError::Authority {
                path: path.clone(),
                source,
            })?;
        }
        let revoked = match &files.crl_file {
            Some(path) => revoked(path)?,
            None => Vec::new(),
        };
        // Where several authorities are trusted and only some have a list, nothing of the others is revoked.
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .with_crls(revoked.iter().cloned())
                .allow_unknown_revocation_status()
                .allow_unauthenticated()
                .build()
                .map_err(|source| CertificateError::Authorities {
                    path: files.crl_file.as_ref().unwrap_or(path).clone(),
                    source,
                })?;
        Ok(ClientTrust {
            verifier,
            authorities,
            revoked,
        })
    }

    /// What the handshake of a resumed session leaves out.
    pub fn check_again(&self, shown: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let Some((certificate, intermediates)) = shown.split_first() else {
            return Ok(());
        };
        let now = UnixTime::now();
        let checked = self
            .verifier
            .verify_client_cert(certificate, intermediates, now);
        checked.map(drop)
    }
}

fn revoked(
    path: &std::path::Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, CertificateError> {
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| not_pem(path, "not well-formed PEM"))?;
    if lists.is_empty() {
        return Err(not_pem(path, "no PEM revocation list in it"));
    }
    Ok(lists)
}
