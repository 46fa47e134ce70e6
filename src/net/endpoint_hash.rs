//! The hash of a certificate that ties a login to its TLS connection (`tls-server-end-point`).
//!
//! Knows where a certificate names its signature algorithm; checks nothing else in it.
//! Source: RFC 5929, section 4.1.

use ring::digest::{self, Algorithm, SHA256, SHA384, SHA512};

use super::der::{OBJECT_IDENTIFIER, SEQUENCE, element};

/// `[0] EXPLICIT`, where RSASSA-PSS parameters name their hash.
const CONTEXT_0: u8 = 0xa0;

/// `None` for a certificate whose signature algorithm has no single hash (Ed25519) or one unknown here:
/// then there is no channel binding with it.
pub fn tls_server_end_point(certificate_der: &[u8]) -> Option<Vec<u8>> {
    let algorithm = signature_hash(certificate_der)?;
    Some(digest::digest(algorithm, certificate_der).as_ref().to_vec())
}

fn signature_hash(certificate_der: &[u8]) -> Option<&'static Algorithm> {
    let (certificate, _) = element(certificate_der, SEQUENCE)?;
    let (_to_be_signed, rest) = element(certificate, SEQUENCE)?;
    let (signature_algorithm, _) = element(rest, SEQUENCE)?;
    let (identifier, parameters) = element(signature_algorithm, OBJECT_IDENTIFIER)?;
    match identifier {
        // rsaEncryption's family, 1.2.840.113549.1.1.x: MD5 and SHA-1 give way to SHA-256.
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4 | 5 | 11] => Some(&SHA256),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12] => Some(&SHA384),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13] => Some(&SHA512),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10] => pss_hash(parameters),
        // ecdsa-with-SHA1, 1.2.840.10045.4.1, and ecdsa-with-SHA2, 1.2.840.10045.4.3.x.
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1] => Some(&SHA256),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2] => Some(&SHA256),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3] => Some(&SHA384),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4] => Some(&SHA512),
        _ => None,
    }
}

/// RFC 4055: the hash is the first parameter, SHA-1 when it is absent.
fn pss_hash(parameters: &[u8]) -> Option<&'static Algorithm> {
    let (parameters, _) = element(parameters, SEQUENCE)?;
    let Some((hash, _)) = element(parameters, CONTEXT_0) else {
        return Some(&SHA256);
    };
    let (hash, _) = element(hash, SEQUENCE)?;
    let (identifier, _) = element(hash, OBJECT_IDENTIFIER)?;
    match identifier {
        // id-sha1, then 2.16.840.1.101.3.4.2.x.
        [0x2b, 0x0e, 3, 2, 0x1a] => Some(&SHA256),
        [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1] => Some(&SHA256),
        [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2] => Some(&SHA384),
        [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3] => Some(&SHA512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    fn self_signed(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_signature_decides() {
        let p256 = self_signed(&rcgen::PKCS_ECDSA_P256_SHA256);
        let expected = digest::digest(&SHA256, &p256);
        assert_eq!(
            tls_server_end_point(&p256).as_deref(),
            Some(expected.as_ref())
        );
        let p384 = self_signed(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(tls_server_end_point(&p384).map(|hash| hash.len()), Some(48));
        assert_eq!(
            tls_server_end_point(&self_signed(&rcgen::PKCS_ED25519)),
            None
        );
    }

    #[test]
    fn a_short_certificate_has_no_hash() {
        let whole = self_signed(&rcgen::PKCS_ECDSA_P256_SHA256);
        // The signature itself isn't looked at, but the outer length must be right.
        for length in 0..whole.len() {
            assert_eq!(tls_server_end_point(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn pss_parameters() {
        let sha512 = [
            &[0x30, 15, CONTEXT_0, 13, SEQUENCE, 11, 6, 9][..],
            &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3],
        ]
        .concat();
        assert_eq!(pss_hash(&sha512), Some(&SHA512));
        assert_eq!(pss_hash(&[0x30, 0]), Some(&SHA256));
        assert_eq!(pss_hash(&[]), None);
    }
}
