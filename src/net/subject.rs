//! Whom a certificate is about: the common name in its subject.
//!
//! Knows where that stands in a certificate; checks nothing else in it.
//! Source: RFC 5280, section 4.1.

use super::der::{OBJECT_IDENTIFIER, SEQUENCE, SET, any, element};

/// id-at-commonName, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];

const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;

/// `[0] EXPLICIT`, the version; absent in version 1.
const CONTEXT_0: u8 = 0xa0;

/// `None` if there is none, or more than one, or it is no text without control characters.
pub fn common_name(certificate_der: &[u8]) -> Option<String> {
    let (certificate, _) = element(certificate_der, SEQUENCE)?;
    let (to_be_signed, _) = element(certificate, SEQUENCE)?;
    let serial_number = match any(to_be_signed)? {
        (CONTEXT_0, _, behind) => behind,
        _ => to_be_signed,
    };
    let (_, _, algorithm) = any(serial_number)?;
    let (_, issuer) = element(algorithm, SEQUENCE)?;
    let (_, validity) = element(issuer, SEQUENCE)?;
    let (_, subject) = element(validity, SEQUENCE)?;
    let (mut names, _) = element(subject, SEQUENCE)?;
    let mut found = None;
    while !names.is_empty() {
        let (mut together, behind) = element(names, SET)?;
        names = behind;
        while !together.is_empty() {
            let (attribute, behind) = element(together, SEQUENCE)?;
            together = behind;
            let (kind, value) = element(attribute, OBJECT_IDENTIFIER)?;
            if kind == COMMON_NAME && found.replace(text(value)?).is_some() {
                return None;
            }
        }
    }
    found
}

fn text(value: &[u8]) -> Option<String> {
    match any(value)? {
        (UTF8_STRING | PRINTABLE_STRING | IA5_STRING, text, _) => {
            let text = std::str::from_utf8(text).ok()?;
            (!text.chars().any(char::is_control)).then(|| text.to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn certificate(names: &[(DnType, DnValue)]) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["not.this".into()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn utf8(text: &str) -> DnValue {
        DnValue::Utf8String(text.to_owned())
    }

    #[test]
    fn the_common_name_among_others() {
        let organization = (DnType::OrganizationName, utf8("a company"));
        let printable = DnValue::PrintableString("orders".try_into().unwrap());
        for (names, expected) in [
            (vec![(DnType::CommonName, utf8("orders"))], Some("orders")),
            (
                vec![organization.clone(), (DnType::CommonName, printable)],
                Some("orders"),
            ),
            (
                vec![(DnType::CommonName, utf8("größe")), organization.clone()],
                Some("größe"),
            ),
            (vec![organization], None),
            (vec![(DnType::CommonName, utf8("app\0.evil"))], None),
            (vec![], None),
        ] {
            let der = certificate(&names);
            assert_eq!(common_name(&der).as_deref(), expected, "{names:?}");
        }
    }

    #[test]
    fn no_part_of_a_certificate_is_taken_for_a_name() {
        let whole = certificate(&[(DnType::CommonName, utf8("orders"))]);
        for length in 0..whole.len() {
            assert_eq!(common_name(&whole[..length]), None, "{length}");
        }
        // Two names, one of which somebody may have smuggled in: rcgen makes none such, so by hand.
        let name = b"\x31\x0d\x30\x0b\x06\x03\x55\x04\x03\x0c\x04same";
        let subject = [&[SEQUENCE, 30][..], name, name].concat();
        let empty = [SEQUENCE, 0];
        let body = [&[2, 1, 1][..], &empty, &empty, &empty, &subject].concat();
        let wrap =
            |content: &[u8]| [&[SEQUENCE, u8::try_from(content.len()).unwrap()], content].concat();
        assert_eq!(common_name(&wrap(&wrap(&body))), None);
        let single = [
            &[2, 1, 1][..],
            &empty,
            &empty,
            &empty,
            &[SEQUENCE, 15],
            name,
        ]
        .concat();
        assert_eq!(common_name(&wrap(&wrap(&single))).as_deref(), Some("same"));
    }
}
