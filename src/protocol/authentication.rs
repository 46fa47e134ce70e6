//! What a server asks for before it lets anyone in: the bodies of message 'R'.
//!
//! Knows their shapes; does not know which of them anyone should answer.

use super::frame::split_cstr;

/// One authentication request. pgwire's type of that name panics on a body cut short, hence this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    Ok,
    CleartextPassword,
    Md5Password {
        salt: [u8; 4],
    },
    Sasl(Mechanisms<'a>),
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    /// Kerberos, GSSAPI, SSPI, SCM or something newer.
    Other {
        code: i32,
    },
}

impl<'a> Authentication<'a> {
    pub fn parse(body: &'a [u8]) -> Option<Authentication<'a>> {
        let (code, rest) = body.split_first_chunk::<4>()?;
        Some(match i32::from_be_bytes(*code) {
            0 => Authentication::Ok,
            3 => Authentication::CleartextPassword,
            5 => Authentication::Md5Password {
                salt: rest.try_into().ok()?,
            },
            10 => Authentication::Sasl(Mechanisms(rest)),
            11 => Authentication::SaslContinue(rest),
            12 => Authentication::SaslFinal(rest),
            code => Authentication::Other { code },
        })
    }

    /// As the documentation calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Authentication::Ok => "none",
            Authentication::CleartextPassword => "password in clear text",
            Authentication::Md5Password { .. } => "md5",
            Authentication::Sasl(_) => "SASL",
            Authentication::SaslContinue(_) => "SASL (continued)",
            Authentication::SaslFinal(_) => "SASL (final)",
            Authentication::Other { code: 2 } => "Kerberos V5",
            Authentication::Other { code: 6 } => "SCM credentials",
            Authentication::Other { code: 7 | 8 } => "GSSAPI",
            Authentication::Other { code: 9 } => "SSPI",
            Authentication::Other { .. } => "an unknown method",
        }
    }
}

/// The SASL mechanisms on offer, zero-terminated, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanisms<'a>(&'a [u8]);

impl<'a> Iterator for Mechanisms<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (name, rest) = split_cstr(self.0)?;
        self.0 = rest;
        (!name.is_empty()).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_ask_for() {
        let cases: &[(&[u8], Option<Authentication<'_>>)] = &[
            (b"", None),
            (b"\0\0\0", None),
            (b"\0\0\0\0", Some(Authentication::Ok)),
            (b"\0\0\0\x03", Some(Authentication::CleartextPassword)),
            (
                b"\0\0\0\x05salt",
                Some(Authentication::Md5Password { salt: *b"salt" }),
            ),
            (b"\0\0\0\x05sal", None),
            (b"\0\0\0\x0cv=x", Some(Authentication::SaslFinal(b"v=x"))),
            (b"\0\0\0\x07", Some(Authentication::Other { code: 7 })),
        ];
        for (body, expected) in cases {
            assert_eq!(&Authentication::parse(body), expected, "{body:?}");
        }
    }

    #[test]
    fn mechanisms_end_with_an_empty_one() {
        let body = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0rest\0";
        let Some(Authentication::Sasl(mechanisms)) = Authentication::parse(body) else {
            panic!("SASL");
        };
        let names: Vec<_> = mechanisms.collect();
        assert_eq!(names, [&b"SCRAM-SHA-256-PLUS"[..], b"SCRAM-SHA-256"]);
        assert_eq!(Mechanisms(b"SCRAM").count(), 0);
    }
}
