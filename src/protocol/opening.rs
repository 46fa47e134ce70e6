//! The startup family: what a client may send before anything else, read from a whole packet.
//!
//! Knows PostgreSQL's own limits and texts; does not know which request is granted.
//! Source: PostgreSQL's `backend_startup.c` (`ProcessStartupPacket`), chapter "Message Formats".

use super::CancelKey;
use super::frame::{put, put_cstr, split_cstr};
use super::switches::{self, SwitchError};
use super::tag::backend;

/// Bytes of the length word and the code behind it: no packet is shorter.
pub const MIN_BYTES: usize = 8;

/// PostgreSQL's MAX_STARTUP_PACKET_LENGTH, which does not count the length word itself.
pub const MAX_BYTES: usize = 10_000 + 4;

/// The newest 3.x that Weir speaks, PostgreSQL 18's.
pub const NEWEST_MINOR: u16 = 2;

/// PostgreSQL cuts user and database names to what an identifier can hold (NAMEDATALEN - 1).
const MAX_NAME_BYTES: usize = 63;

const MAJOR: u16 = 3;
const CANCEL: u32 = 1234 << 16 | 5678;
const SSL: u32 = 1234 << 16 | 5679;
const GSSENC: u32 = 1234 << 16 | 5680;

/// First byte of a TLS handshake record: the client skips SSLRequest.
/// As the first byte of a length word it would announce hundreds of megabytes.
pub const TLS_HANDSHAKE: u8 = 0x16;

/// What a client opens with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    Ssl,
    Gssenc,
    Cancel(CancelKey),
    /// Boxed: it goes through many hands.
    Startup(Box<Startup>),
}

/// Who wants in, where to, and with which settings. Names are bytes: PostgreSQL knows no encoding here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// The 3.x that both sides speak from now on: what was asked for, at most [`NEWEST_MINOR`].
    pub minor: u16,
    /// Never empty.
    pub user: Vec<u8>,
    /// `None`: none named, or an empty name. PostgreSQL then takes the user's name;
    /// Weir takes the configured default database.
    pub database: Option<Vec<u8>>,
    pub replication: Option<Replication>,
    asked_minor: u16,
    /// Command-line switches, still to be split.
    options: Option<Vec<u8>>,
    /// All other parameters, in the order sent.
    parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// Names of `_pq_.` parameters. None is known, so none is granted.
    protocol_options: Vec<Vec<u8>>,
}

/// The client wants a WAL sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    Physical,
    /// `replication=database`.
    Logical,
}

/// Why a packet of the startup family is refused, in PostgreSQL's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    #[error("invalid length of startup packet")]
    Length,
    #[error(
        "unsupported frontend protocol {major}.{minor}: server supports {MAJOR}.0 to {MAJOR}.{NEWEST_MINOR}"
    )]
    Version { major: u16, minor: u16 },
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    #[error("invalid value for parameter \"replication\": \"{value}\"")]
    Replication { value: String },
}

/// Length of the whole packet from its first four bytes, checked before anyone makes room for it.
pub fn packet_bytes(length_word: [u8; 4]) -> Result<usize, OpeningError> {
    usize::try_from(u32::from_be_bytes(length_word))
        .ok()
        .filter(|bytes| (MIN_BYTES..=MAX_BYTES).contains(bytes))
        .ok_or(OpeningError::Length)
}

impl Opening {
    /// Reads one whole packet, length word included.
    pub fn parse(packet: &[u8]) -> Result<Opening, OpeningError> {
        let (length_word, rest) = packet.split_first_chunk().ok_or(OpeningError::Length)?;
        let (code, body) = rest.split_first_chunk().ok_or(OpeningError::Length)?;
        if packet_bytes(*length_word)? != packet.len() {
            return Err(OpeningError::Length);
        }
        match u32::from_be_bytes(*code) {
            SSL => Ok(Opening::Ssl),
            GSSENC => Ok(Opening::Gssenc),
            CANCEL => CancelKey::parse(body)
                .map(Opening::Cancel)
                .ok_or(OpeningError::Length),
            version => Startup::parse(version, body).map(|it| Opening::Startup(Box::new(it))),
        }
    }

    /// The code of a request that may come once only, as the protocol version PostgreSQL takes it for
    /// when it comes again.
    pub fn again(code: Again) -> OpeningError {
        let code = match code {
            Again::Ssl => SSL,
            Again::Gssenc => GSSENC,
        };
        let (major, minor) = split_version(code);
        OpeningError::Version { major, minor }
    }
}

/// The two requests that may come once only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    Ssl,
    Gssenc,
}

impl Startup {
    fn parse(version: u32, body: &[u8]) -> Result<Startup, OpeningError> {
        let (major, minor) = split_version(version);
        if major != MAJOR {
            return Err(OpeningError::Version { major, minor });
        }
        let mut startup = Startup {
            minor: minor.min(NEWEST_MINOR),
            user: Vec::new(),
            database: None,
            replication: None,
            asked_minor: minor,
            options: None,
            parameters: Vec::new(),
            protocol_options: Vec::new(),
        };
        startup.read_parameters(body)?;
        if startup.user.is_empty() {
            return Err(OpeningError::NoUser);
        }
        startup.user.truncate(MAX_NAME_BYTES);
        if let Some(database) = &mut startup.database {
            database.truncate(MAX_NAME_BYTES);
        }
        Ok(startup)
    }

    fn read_parameters(&mut self, mut rest: &[u8]) -> Result<(), OpeningError> {
        loop {
            match rest {
                // PostgreSQL doesn't look at what the last byte is, only that it is alone.
                [_] => return Ok(()),
                [] | [0, ..] => return Err(OpeningError::Layout),
                _ => {}
            }
            let (name, behind) = split_cstr(rest).ok_or(OpeningError::Layout)?;
            let (value, behind) = split_cstr(behind).ok_or(OpeningError::Layout)?;
            self.take(name, value)?;
            rest = behind;
        }
    }

    /// One parameter; of those with a place of their own the last one counts, as in PostgreSQL.
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), OpeningError> {
        match name {
            b"user" => self.user = value.to_vec(),
            b"database" => self.database = (!value.is_empty()).then(|| value.to_vec()),
            b"options" => self.options = Some(value.to_vec()),
            b"replication" => self.replication = parse_replication(value)?,
            [b'_', b'p', b'q', b'_', b'.', ..] => self.protocol_options.push(name.to_vec()),
            _ => self.parameters.push((name.to_vec(), value.to_vec())),
        }
        Ok(())
    }

    /// Appends NegotiateProtocolVersion if something was asked for that Weir doesn't speak.
    /// It goes in front of the authentication request.
    pub fn put_negotiation(&self, out: &mut Vec<u8>) {
        if self.asked_minor <= NEWEST_MINOR && self.protocol_options.is_empty() {
            return;
        }
        put(out, backend::NEGOTIATE_PROTOCOL_VERSION, |body| {
            body.extend_from_slice(&MAJOR.to_be_bytes());
            body.extend_from_slice(&self.minor.to_be_bytes());
            let count = u32::try_from(self.protocol_options.len())
                .expect("a packet of ten thousand bytes holds few names");
            body.extend_from_slice(&count.to_be_bytes());
            for name in &self.protocol_options {
                put_cstr(body, name);
            }
        });
    }

    /// The client's settings, names in lower case: first those of `options`, then the others, in the
    /// order sent. Where a name comes twice the later one counts.
    /// PostgreSQL looks at them only once the client has proven who it is.
    pub fn settings(&self) -> Result<Vec<(String, Vec<u8>)>, SwitchError> {
        let mut settings = match &self.options {
            Some(options) => switches::settings(options)?,
            None => Vec::new(),
        };
        for (name, value) in &self.parameters {
            settings.push((switches::setting_name(name)?, value.clone()));
        }
        Ok(settings)
    }
}

fn split_version(version: u32) -> (u16, u16) {
    let [a, b, c, d] = version.to_be_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

fn parse_replication(value: &[u8]) -> Result<Option<Replication>, OpeningError> {
    if value == b"database" {
        return Ok(Some(Replication::Logical));
    }
    match parse_bool(value) {
        Some(true) => Ok(Some(Replication::Physical)),
        Some(false) => Ok(None),
        None => Err(OpeningError::Replication {
            value: String::from_utf8_lossy(value).into_owned(),
        }),
    }
}

/// PostgreSQL's `parse_bool`: any unambiguous beginning of a word.
fn parse_bool(value: &[u8]) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| {
        value.len() >= least && word.as_bytes().starts_with(value.as_slice())
    };
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == b"1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || value == b"0" {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::put_untagged;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_untagged(&mut out, |out| {
            out.extend_from_slice(&code.to_be_bytes());
            out.extend_from_slice(body);
        });
        out
    }

    const V3_0: u32 = 3 << 16;

    fn startup(code: u32, body: &[u8]) -> Startup {
        match Opening::parse(&packet(code, body)) {
            Ok(Opening::Startup(startup)) => *startup,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_read() {
        let cases: &[(i32, Option<usize>)] = &[
            (-1, None),
            (0, None),
            (7, None),
            (8, Some(8)),
            (10_004, Some(10_004)),
            (10_005, None),
            (i32::MAX, None),
            (i32::from_be_bytes(*b"GET "), None),
        ];
        for (word, expected) in cases {
            assert_eq!(packet_bytes(word.to_be_bytes()).ok(), *expected, "{word}");
        }
    }

    #[test]
    fn requests() {
        assert_eq!(Opening::parse(&packet(SSL, b"")), Ok(Opening::Ssl));
        assert_eq!(Opening::parse(&packet(GSSENC, b"")), Ok(Opening::Gssenc));
        let key = CancelKey::new(7, &[1, 2, 3, 4]).unwrap();
        assert_eq!(
            Opening::parse(&packet(CANCEL, &[0, 0, 0, 7, 1, 2, 3, 4])),
            Ok(Opening::Cancel(key))
        );
        let key = CancelKey::new(7, &[9; 32]).unwrap();
        let long = [&[0, 0, 0, 7][..], &[9; 32]].concat();
        assert_eq!(
            Opening::parse(&packet(CANCEL, &long)),
            Ok(Opening::Cancel(key))
        );
    }

    #[test]
    fn refusals() {
        let unsupported = |major, minor| OpeningError::Version { major, minor };
        let cases: &[(u32, &[u8], OpeningError)] = &[
            (CANCEL, &[0, 0, 0, 7, 1, 2, 3], OpeningError::Length),
            (2 << 16, b"", unsupported(2, 0)),
            (4 << 16 | 1, b"user\0a\0\0", unsupported(4, 1)),
            (V3_0, b"", OpeningError::Layout),
            (V3_0, b"\0", OpeningError::NoUser),
            (V3_0, b"user\0\0\0", OpeningError::NoUser),
            (V3_0, b"database\0d\0\0", OpeningError::NoUser),
            (V3_0, b"user\0a\0", OpeningError::Layout),
            (V3_0, b"user\0a", OpeningError::Layout),
            (V3_0, b"user\0", OpeningError::Layout),
            (V3_0, b"user\0a\0\0\0", OpeningError::Layout),
            (V3_0, b"user\0a\0\0rest", OpeningError::Layout),
            (
                V3_0,
                b"user\0a\0replication\0maybe\0\0",
                OpeningError::Replication {
                    value: "maybe".into(),
                },
            ),
        ];
        for (code, body, expected) in cases {
            let read = Opening::parse(&packet(*code, body));
            assert_eq!(read.as_ref(), Err(expected), "{body:?}");
        }
        assert_eq!(
            unsupported(2, 0).to_string(),
            "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"
        );
        assert_eq!(
            Opening::again(Again::Ssl).to_string(),
            "unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2"
        );
        assert_eq!(
            Opening::parse(b"\0\0\0\x09\0\x03\0\0"),
            Err(OpeningError::Length)
        );
    }

    #[test]
    fn parameters_find_their_places() {
        let read = startup(
            V3_0,
            b"user\0app\0database\0orders\0options\0-c a=1\0replication\0off\0TimeZone\0UTC\0\
              Application_Name\0caf\xe9\0_pq_.new\0on\0\0",
        );
        assert_eq!(read.user, b"app");
        assert_eq!(read.database.as_deref(), Some(&b"orders"[..]));
        assert_eq!(read.replication, None);
        assert_eq!(read.minor, 0);
        assert_eq!(
            read.settings().unwrap(),
            [
                ("a".to_owned(), b"1".to_vec()),
                ("timezone".to_owned(), b"UTC".to_vec()),
                ("application_name".to_owned(), b"caf\xe9".to_vec()),
            ]
        );
        let mut out = Vec::new();
        read.put_negotiation(&mut out);
        assert_eq!(out, b"v\0\0\0\x15\0\x03\0\0\0\0\0\x01_pq_.new\0");
    }

    #[test]
    fn the_last_of_a_kind_counts_and_an_empty_database_is_none() {
        let read = startup(V3_0, b"user\0a\0database\0d\0user\0b\0database\0\0\0");
        assert_eq!((&read.user[..], read.database), (&b"b"[..], None));
        let long = [&b"user\0"[..], &[b'u'; 80], b"\0\0"].concat();
        assert_eq!(startup(V3_0, &long).user, [b'u'; 63]);
    }

    #[test]
    fn versions() {
        let newest = [0x76, 0, 0, 0, 12, 0, 3, 0, 2, 0, 0, 0, 0];
        // 3.1 was never anybody's version; PostgreSQL 18 takes it as it is.
        let cases: &[(u16, u16, &[u8])] = &[
            (0, 0, &[]),
            (1, 1, &[]),
            (2, 2, &[]),
            (3, 2, &newest),
            (9999, 2, &newest),
        ];
        for (asked, spoken, negotiation) in cases {
            let read = startup(V3_0 | u32::from(*asked), b"user\0a\0\0");
            let mut out = Vec::new();
            read.put_negotiation(&mut out);
            assert_eq!((read.minor, &out[..]), (*spoken, *negotiation), "3.{asked}");
        }
    }

    #[test]
    fn replication_words() {
        let cases: &[(&[u8], Option<Replication>)] = &[
            (b"database", Some(Replication::Logical)),
            (b"TR", Some(Replication::Physical)),
            (b"on", Some(Replication::Physical)),
            (b"1", Some(Replication::Physical)),
            (b"of", None),
            (b"n", None),
            (b"0", None),
        ];
        for (word, expected) in cases {
            assert_eq!(parse_replication(word), Ok(*expected), "{word:?}");
        }
        for word in [&b""[..], b"o", b"2", b"truer"] {
            assert!(parse_replication(word).is_err(), "{word:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Opening::parse(&bytes);
            if let Ok(Opening::Startup(startup)) = Opening::parse(&packet(V3_0, &bytes)) {
                let _ = startup.settings();
            }
        }
    }
}
