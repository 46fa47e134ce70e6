//! Malformed, truncated, oversized, out of order: an error for whoever sent it, and nobody else notices.

use std::time::Duration;

use crate::house::client::{Next, Security};
use crate::house::sides::Sides;
use crate::house::wire::*;
use crate::house::{Answer, Client, Postgres, Proxy, eventually};

struct House {
    postgres: &'static Postgres,
    database: String,
    proxy: Proxy,
    bystander: Client,
}

impl House {
    fn new() -> House {
        let postgres = Postgres::shared();
        let database = postgres.database();
        let proxy = Proxy::before(postgres, &database, 2)
            .set("WEIR__AUTH__HANDSHAKE_TIMEOUT", "2s")
            .start();
        let bystander = proxy.client();
        House {
            postgres,
            database,
            proxy,
            bystander,
        }
    }

    /// The bystander goes on, and nothing of the others is left.
    fn is_untouched(&mut self, by: &str) {
        assert_eq!(
            self.bystander.value("SELECT 'untouched'"),
            "untouched",
            "{by}"
        );
        let proxy = &self.proxy;
        let (postgres, database) = (self.postgres, &self.database);
        eventually(
            &format!("was all clean after {by}"),
            || {
                (
                    proxy.clients(),
                    proxy.pooled("leased"),
                    postgres.busy(database),
                )
            },
            |left| *left == (1, 0, 0),
        );
        assert_eq!(proxy.ended(), None);
    }

    fn dial(&self) -> Client {
        Client::dial(self.proxy.address).unwrap()
    }
}

/// Refused: closed, with nothing said or one FATAL.
fn is_refused(answer: &Answer, what: &str) {
    assert!(answer.closed, "{what}: {answer:?}");
    let after_login = answer.frames.iter().any(|frame| frame.tag == b'Z');
    assert!(!after_login, "{what}: {answer:?}");
    for error in answer.errors() {
        assert_eq!(error.severity, "FATAL", "{what}");
        assert!(
            ["08P01", "0A000", "28000"].contains(&&*error.code),
            "{what}: {error:?}"
        );
    }
}

#[test]
fn before_the_startup_packet() {
    let mut house = House::new();
    let length = |word: u32, rest: &[u8]| [&word.to_be_bytes(), rest].concat();
    let plain = startup(PROTOCOL_3_0, &[("user", "app")]);
    let cases: &[(&str, Vec<u8>)] = &[
        ("length 0", length(0, &[0; 8])),
        ("length 3", length(3, &[0; 8])),
        ("length 4", length(4, &[])),
        ("length 7", length(7, &[0; 8])),
        ("length -1", length(u32::MAX, &[0; 8])),
        ("length 2 GiB", length(0x7fff_ffff, &[0; 8])),
        (
            "startup of more than 10,000 bytes",
            length(10_005, &[0, 3, 0, 0, b'x']),
        ),
        (
            "8 bytes of an unknown code",
            length(8, &[0x12, 0x34, 0x56, 0x78]),
        ),
        ("protocol 2.0", startup(0x0002_0000, &[("user", "app")])),
        ("protocol 4.0", startup(0x0004_0000, &[("user", "app")])),
        (
            "no user",
            startup(PROTOCOL_3_0, &[("database", "postgres")]),
        ),
        ("an empty user", startup(PROTOCOL_3_0, &[("user", "")])),
        ("no terminator", opening(b"\0\x03\0\0user\0app\0")),
        ("half a string", opening(b"\0\x03\0\0user\0ap")),
        (
            "a name without a value",
            opening(b"\0\x03\0\0user\0app\0database\0\0"),
        ),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: weir\r\n\r\n".to_vec()),
        ("zeros", vec![0; 4096]),
        (
            "plaintext behind SSLRequest",
            [ssl_request(), plain.clone()].concat(),
        ),
        ("a truncated cancel", opening(&80_877_102u32.to_be_bytes())),
        (
            "a cancel of 10,000 bytes",
            opening(&[&80_877_102u32.to_be_bytes()[..], &[0; 9_992]].concat()),
        ),
    ];
    for (what, bytes) in cases {
        let mut client = house.dial();
        client.send(bytes);
        if what.contains("SSLRequest") {
            // Answered with S, or an error; what came in the clear is never obeyed.
            let rest = match client.byte() {
                Ok(b'S' | b'E') | Err(_) => client.last_words(),
                Ok(other) => panic!("{what} answered {other}"),
            };
            assert!(
                rest.closed && !rest.tags().contains('R'),
                "{what}: {rest:?}"
            );
        } else {
            is_refused(&client.last_words(), what);
        }
        house.is_untouched(what);
    }
}

#[test]
fn truncated_openings() {
    let mut house = House::new();
    let whole = startup(PROTOCOL_3_0, &[("user", "app"), ("database", "postgres")]);
    for cut in [0, 1, 4, 8, whole.len() - 1] {
        let mut client = house.dial();
        client.send(&whole[..cut]);
        client.stop_sending();
        is_refused(&client.last_words(), &format!("{cut} bytes, then closed"));
    }
    house.is_untouched("truncated openings");
    // And one that just never goes on: the handshake has a deadline.
    for start in [&whole[..0], &whole[..1], &whole[..9], &ssl_request()[..]] {
        let mut slow = house.dial();
        slow.send(start);
        if start.len() == 8 {
            assert_eq!(slow.byte().unwrap(), b'S');
        }
        let closed = slow.last_words();
        assert!(closed.closed);
    }
    let mut silent = house.dial();
    silent.send(&whole);
    assert!(silent.last_words().closed, "no proof was given in time");
    house.is_untouched("slow openings");
}

#[test]
fn during_authentication() {
    let mut house = House::new();
    let login = house.proxy.login();
    let sasl = |body: &[u8]| message(b'p', body);
    let huge = [&b"p"[..], &0x3fff_ffffu32.to_be_bytes(), b"SCRAM-SHA-256\0"].concat();
    let negative = [&b"p"[..], &u32::MAX.to_be_bytes()].concat();
    let cases: &[(&str, Vec<u8>)] = &[
        ("a query instead", query("SELECT 1")),
        ("terminate", terminate()),
        ("an unknown mechanism", sasl(b"PLAIN\0\0\0\0\0")),
        ("no terminator", sasl(b"SCRAM-SHA-256")),
        (
            "a length beyond the message",
            sasl(b"SCRAM-SHA-256\0\0\0\xff\xff"),
        ),
        (
            "a negative length",
            sasl(b"SCRAM-SHA-256\0\xff\xff\xff\xfe"),
        ),
        ("no SCRAM at all", sasl(b"SCRAM-SHA-256\0\0\0\0\x07garbage")),
        ("an empty nonce", sasl(b"SCRAM-SHA-256\0\0\0\0\x09n,,n=,r=")),
        ("a gigabyte", huge),
        ("a negative frame", negative),
    ];
    for (what, bytes) in cases {
        let mut client = house.dial();
        client.send(&login.startup());
        assert_eq!(client.frame().tag, b'R', "{what}");
        client.send(bytes);
        let answer = client.last_words();
        assert!(
            answer.closed && !answer.tags().contains('R'),
            "{what}: {answer:?}"
        );
        let codes = ["", "08P01", "28P01", "28000"];
        assert!(codes.contains(&&*answer.code()), "{what}: {answer:?}");
        house.is_untouched(what);
    }
}

#[test]
fn after_the_login() {
    let mut house = House::new();
    let raw =
        |tag: u8, length: u32, rest: &[u8]| [&[tag], &length.to_be_bytes()[..], rest].concat();
    let cases: &[(&str, Vec<u8>)] = &[
        ("an unknown tag", raw(b'!', 4, b"")),
        ("tag zero", raw(0, 4, b"")),
        ("a backend's tag", raw(b'Z', 5, b"I")),
        ("a password", message(b'p', b"secret\0")),
        ("length 0", raw(b'Q', 0, b"")),
        ("length 3", raw(b'Q', 3, b"")),
        ("length -1", raw(b'Q', u32::MAX, b"")),
        ("length of 2 GiB", raw(b'Q', 0x7fff_ffff, b"SELECT 1\0")),
        ("a Sync of 1 GiB", raw(b'S', 0x4000_0000, b"")),
        ("an Execute of 2 GiB", raw(b'E', 0x7fff_ffff, b"")),
        (
            "a second startup",
            startup(PROTOCOL_3_0, &[("user", "app")]),
        ),
    ];
    for (what, bytes) in cases {
        for first in ["", "BEGIN", "BEGIN; SELECT 1"] {
            let mut client = house.proxy.client();
            client.run(first);
            client.send(bytes);
            let answer = client.last_words();
            let error = answer
                .error()
                .unwrap_or_else(|| panic!("{what}: {answer:?}"));
            assert_eq!(
                (&*error.code, &*error.severity),
                ("08P01", "FATAL"),
                "{what}"
            );
            house.is_untouched(what);
        }
    }
}

/// Wrong only inside: PostgreSQL's to judge, and Weir passes the judgement on.
#[test]
fn malformed_bodies() {
    let sides = Sides::new(1);
    let bodies: &[(u8, &[u8])] = &[
        (b'Q', b"no terminator"),
        (b'Q', b""),
        (b'Q', b"two\0strings\0"),
        (b'P', b""),
        (b'P', b"name\0no terminator"),
        (b'P', b"\0SELECT 1\0\0\x05"),
        (b'P', b"\0SELECT 1\0"),
        (b'B', b""),
        (b'B', b"\0\0\0\x01\0\x07\0\0\0\0"),
        (b'B', b"\0\0\0\0\0\x01\0\0\0\x09x"),
        (b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xf0"),
        (b'D', b""),
        (b'D', b"Xname\0"),
        (b'D', b"S"),
        (b'C', b"Xname\0"),
        (b'C', b"S"),
        (b'E', b"\0"),
        (b'E', b"no terminator"),
        (b'E', b"\0\0\0\0\0\0\0"),
        (b'F', b"\0\0"),
        (b'S', b"more"),
        (b'H', b"more"),
    ];
    for (tag, body) in bodies {
        let bad = message(*tag, body);
        let after = [sync(), query("SELECT 'after'")].concat();
        sides.agree_to_the_end("", &[&bad[..], &after].concat());
        sides.agree_to_the_end("", &[&unnamed("SELECT 1", &[])[..], &bad, &after].concat());
        sides.agree_to_the_end(
            "",
            &[&query("BEGIN")[..], &bad, &after, &query("ROLLBACK")].concat(),
        );
    }
}

#[test]
fn every_way_into_a_session() {
    let house = House::new();
    let login = house.proxy.login();
    let mut client = house.dial();
    client.send(&gssenc_request());
    assert_eq!(client.byte().unwrap(), b'N');
    client.ask_for_tls().unwrap();
    client.send(&login.startup());
    client.log_in(&login).unwrap();
    client.run("SELECT 1");
    // GSSENCRequest refused, then on in the clear.
    let mut client = house.dial();
    client.send(&gssenc_request());
    assert_eq!(client.byte().unwrap(), b'N');
    client.send(&login.startup());
    client.log_in(&login).unwrap();
    client.run("SELECT 1");
    login
        .clone()
        .security(Security::DirectTls)
        .connect()
        .run("SELECT 1");
    // Direct TLS for something else, or for nothing in particular, is not for us.
    for alpn in [&["h2"][..], &[]] {
        let mut client = house.dial();
        let came_in = client.begin_tls(alpn).is_ok() && {
            client.send(&login.startup());
            client.log_in(&login).is_ok()
        };
        assert!(!came_in, "ALPN {alpn:?}");
    }
}

#[test]
fn protocol_versions() {
    let house = House::new();
    let negotiated = |client: &Client| {
        client
            .greeting
            .iter()
            .find(|frame| frame.tag == b'v')
            .cloned()
    };
    let classic = house.proxy.client();
    assert_eq!(negotiated(&classic), None);
    assert_eq!(classic.secret.len(), 4);
    let mut newer = house.proxy.login().version(3, 2).connect();
    assert_eq!(negotiated(&newer), None);
    assert!(
        newer.secret.len() > 4,
        "protocol 3.2 has room for a longer key"
    );
    newer.run("SELECT 1");
    let mut newest = house.proxy.login().version(3, 9).connect();
    let offer = negotiated(&newest).expect("NegotiateProtocolVersion");
    assert_eq!(offer.body, [0, 3, 0, 2, 0, 0, 0, 0]);
    newest.run("SELECT 1");
    let mut optional = house.proxy.login().with("_pq_.nonsense", "1").connect();
    let offer = negotiated(&optional).expect("NegotiateProtocolVersion");
    assert!(
        offer.body.ends_with(b"\0\0\0\x01_pq_.nonsense\0"),
        "{offer:?}"
    );
    optional.run("SELECT 1");
}

/// Never more than nothing for a client that only fills its half of the wire.
#[test]
fn a_message_without_end_holds_no_connection() {
    let mut house = House::new();
    let mut slow = house.proxy.client();
    let message = query(&format!("SELECT '{}'", "x".repeat(100_000)));
    slow.send(&message[..50_000]);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(house.proxy.pooled("leased"), 0);
    assert_eq!(house.bystander.value("SELECT 1"), "1");
    slow.send(&message[50_000..]);
    assert_eq!(slow.replies(1).errors(), []);
    assert_eq!(slow.next_within(Duration::from_millis(50)), Next::Silence);
}
