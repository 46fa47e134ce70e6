//! Bytes of our own making against the gate: order, bounds, refusals, splits.
//!
//! Knows the wire; real drivers are next door.

use super::*;
use crate::protocol::frame::put;
use crate::protocol::scram::{Binding, Hello};

fn answer(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, b'p', |out| out.extend_from_slice(body));
    out
}

fn choice(mechanism: &str, first: &[u8]) -> Vec<u8> {
    let mut body = [mechanism.as_bytes(), b"\0"].concat();
    body.extend_from_slice(&(first.len() as u32).to_be_bytes());
    body.extend_from_slice(first);
    answer(&body)
}

/// Logs in with SCRAM in the clear; gives back the message that comes behind the proof.
async fn scram(client: &mut TcpStream, password: &str, behind: &[u8]) -> (u8, Vec<u8>) {
    let (tag, offer) = message(client).await;
    assert_eq!(
        (tag, &offer[..]),
        (b'R', &b"\0\0\0\x0aSCRAM-SHA-256\0\0"[..])
    );
    let (hello, first) = Hello::new(Binding::Unsupported, "fyko+d2lbbFgONRv9qkxdawL".to_owned());
    client
        .write_all(&choice("SCRAM-SHA-256", &first))
        .await
        .unwrap();
    let (_, body) = message(client).await;
    let challenge = hello.challenged(&body[4..]).unwrap();
    let keys = SaltedKeys::derive(
        password.as_bytes(),
        challenge.salt(),
        challenge.iterations(),
    );
    let (_, proof) = challenge.prove(&keys).unwrap();
    client
        .write_all(&[&answer(&proof)[..], behind].concat())
        .await
        .unwrap();
    message(client).await
}

#[tokio::test]
async fn a_login_gives_all_that_a_session_needs() {
    let (mut client, outcome) = knock(gate()).await;
    client
        .write_all(&startup(
            b"user\0hashed\0options\0-c geqo=off\0TimeZone\0UTC\0\0",
        ))
        .await
        .unwrap();
    let password = PASSWORD;
    let scram = async { scram(&mut client, password, b"Q\0\0\0\x05\0").await };
    let login = tokio::spawn(outcome);
    // AuthenticationOk is the session's to send, so nothing comes behind the proof yet.
    let silence = tokio::time::timeout(Duration::from_millis(200), scram).await;
    assert!(silence.is_err());
    let session = session(login.await.unwrap().unwrap());
    assert_eq!(
        (&*session.user, session.database.as_str()),
        ("hashed", "orders")
    );
    assert_eq!(
        session.settings,
        [
            ("geqo".to_owned(), b"off".to_vec()),
            ("timezone".to_owned(), b"UTC".to_vec())
        ]
    );
    assert_eq!(session.unread, b"Q\0\0\0\x05\0");
    assert!(session.greeting.ends_with(b"R\0\0\0\x08\0\0\0\0"));
    assert_eq!((session.minor, session.replication), (0, None));
}

#[tokio::test]
async fn a_verifiers_key_is_learnt_at_login() {
    let vault = Arc::new(Vault::of_users(users()));
    let gate = Gate {
        vault: Arc::clone(&vault),
        ..gate()
    };
    assert!(vault.attempts(&"hashed".into()).is_err());
    let (mut client, outcome) = knock(gate).await;
    client
        .write_all(&startup(b"user\0hashed\0\0"))
        .await
        .unwrap();
    let login = async { scram(&mut client, PASSWORD, b"").await };
    let _ = tokio::time::timeout(Duration::from_millis(200), login).await;
    session(outcome.await.unwrap());
    assert!(vault.attempts(&"hashed".into()).is_ok());
}

#[tokio::test]
async fn wrong_password_and_unknown_user_are_told_the_same() {
    for method in [AuthMethod::ScramSha256, AuthMethod::Md5] {
        for (user, reason) in [("app", "wrong password"), ("nobody", "unknown user")] {
            let (mut client, outcome) = knock(Gate { method, ..gate() }).await;
            let hello = format!("user\0{user}\0\0");
            client.write_all(&startup(hello.as_bytes())).await.unwrap();
            let (tag, body) = match method {
                AuthMethod::ScramSha256 => scram(&mut client, "wrong", b"").await,
                AuthMethod::Cert => unreachable!("not asked here"),
                AuthMethod::Md5 => {
                    let (_, asked) = message(&mut client).await;
                    assert_eq!((asked.len(), &asked[..4]), (8, &b"\0\0\0\x05"[..]));
                    client
                        .write_all(&answer(b"md50123456789abcdef0123456789abcdef\0"))
                        .await
                        .unwrap();
                    message(&mut client).await
                }
            };
            let mut expected = Vec::new();
            for field in ["SFATAL", "VFATAL", "C28P01"] {
                expected.extend_from_slice(field.as_bytes());
                expected.push(0);
            }
            let text = format!("Mpassword authentication failed for user \"{user}\"\0\0");
            expected.extend_from_slice(text.as_bytes());
            assert_eq!((tag, body), (b'E', expected));
            drop(client);
            let refused = outcome.await.unwrap().unwrap_err();
            assert!(refused.to_string().starts_with(reason), "{refused}");
        }
    }
}

#[tokio::test]
async fn refusals_before_anyone_is_asked() {
    let ssl_twice = [ssl_request(), ssl_request()];
    let unsupported = "unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2";
    let cases: Vec<(Vec<Vec<u8>>, &str, &str)> = vec![
        (
            vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()],
            "08P01",
            "invalid length of startup packet",
        ),
        (
            vec![b"\0\0\0\x04".to_vec()],
            "08P01",
            "invalid length of startup packet",
        ),
        (
            vec![packet(2 << 16, b"")],
            "0A000",
            "unsupported frontend protocol 2.0: server supports 3.0 to 3.2",
        ),
        (
            vec![startup(b"database\0d\0\0")],
            "28000",
            "no PostgreSQL user name specified in startup packet",
        ),
        (
            vec![startup(b"user\0app\0")],
            "08P01",
            "invalid startup packet layout: expected terminator as last byte",
        ),
        (
            vec![[ssl_request(), startup(b"user\0app\0\0")].concat()],
            "08P01",
            "received unencrypted data after SSL request",
        ),
        (
            vec![[gssenc_request(), b"x".to_vec()].concat()],
            "08P01",
            "received unencrypted data after GSSAPI encryption request",
        ),
        (ssl_twice.to_vec(), "0A000", unsupported),
        (
            vec![gssenc_request(), ssl_request(), ssl_request()],
            "0A000",
            unsupported,
        ),
    ];
    for (steps, sqlstate, text) in cases {
        // Without TLS, so that N is the answer to both requests.
        let (mut client, outcome) = knock(Gate {
            tls: None,
            ..gate()
        })
        .await;
        for (number, step) in steps.iter().enumerate() {
            if number > 0 {
                assert_eq!(client.read_u8().await.unwrap(), b'N');
            }
            client.write_all(step).await.unwrap();
        }
        let told = last_words(&mut client).await;
        assert_eq!((told.0.as_str(), told.1.as_str()), (sqlstate, text));
        drop(client);
        assert!(outcome.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn refusals_of_what_should_be_an_answer() {
    let too_long = |bytes: u32| [&b"p"[..], &bytes.to_be_bytes()].concat();
    let plus = choice("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc");
    let cases: Vec<(Vec<u8>, &str, &str)> = vec![
        (
            b"Q".to_vec(),
            "08P01",
            "expected password response, got message type 81",
        ),
        (too_long(1029), "08P01", "invalid message length"),
        (too_long(u32::MAX), "08P01", "invalid message length"),
        (too_long(3), "08P01", "invalid message length"),
        (answer(b"no end"), "08P01", "invalid password packet size"),
        (
            answer(b"SCRAM-SHA-256\0\0\0\0\x09n,,n="),
            "08P01",
            "invalid password packet size",
        ),
        (
            choice("SCRAM-SHA-1", b""),
            "08P01",
            "client selected an invalid SASL authentication mechanism",
        ),
        (
            plus,
            "08P01",
            "client selected an invalid SASL authentication mechanism",
        ),
        (
            choice("SCRAM-SHA-256", b"n,,x"),
            "08P01",
            "malformed SCRAM message",
        ),
        (
            choice("SCRAM-SHA-256", b"n,,n=,m=1"),
            "0A000",
            "client requires an unsupported SCRAM extension",
        ),
        (
            choice("SCRAM-SHA-256", b"n,a=root,n=,r=abc"),
            "0A000",
            "client uses authorization identity, but it is not supported",
        ),
    ];
    for (bytes, sqlstate, text) in cases {
        let (mut client, outcome) = knock(gate()).await;
        client.write_all(&startup(b"user\0app\0\0")).await.unwrap();
        assert_eq!(message(&mut client).await.0, b'R');
        client.write_all(&bytes).await.unwrap();
        let told = last_words(&mut client).await;
        assert_eq!(
            (told.0.as_str(), told.1.as_str()),
            (sqlstate, text),
            "{bytes:?}"
        );
        drop(client);
        assert!(outcome.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn what_postgresql_finds_wrong_behind_the_password_comes_behind_it() {
    for (body, sqlstate) in [
        (&b"user\0app\0options\0-x\0\0"[..], "42601"),
        (b"user\0app\0database\0\xff\0\0", "3D000"),
        (b"user\0app\0na\xffme\0x\0\0", "42704"),
    ] {
        let (mut client, outcome) = knock(gate()).await;
        client.write_all(&startup(body)).await.unwrap();
        let (tag, last) = scram(&mut client, PASSWORD, b"").await;
        assert_eq!((tag, &last[..4]), (b'R', &b"\0\0\0\x0c"[..]));
        assert_eq!(message(&mut client).await, (b'R', vec![0; 4]));
        assert_eq!(last_words(&mut client).await.0, sqlstate);
        drop(client);
        assert!(outcome.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn newer_protocols_are_negotiated_in_front_of_the_challenge() {
    let (mut client, _outcome) = knock(gate()).await;
    client
        .write_all(&packet(3 << 16 | 9, b"user\0app\0_pq_.x\0y\0\0"))
        .await
        .unwrap();
    assert_eq!(
        message(&mut client).await,
        (b'v', b"\0\x03\0\x02\0\0\0\x01_pq_.x\0".to_vec())
    );
    assert_eq!(message(&mut client).await.0, b'R');
}

#[tokio::test]
async fn cancel_requests_come_through() {
    let request = packet(1234 << 16 | 5678, &[0, 0, 0, 7, 1, 2, 3, 4]);
    let require = Gate {
        tls_mode: TlsMode::Require,
        ..gate()
    };
    let (mut client, outcome) = knock(require).await;
    client.write_all(&request).await.unwrap();
    let Ok(Admission::Cancel { key, stream }) = outcome.await.unwrap() else {
        panic!("a cancel");
    };
    assert_eq!((key.pid, key.secret()), (7, &[1, 2, 3, 4][..]));
    drop(stream);
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn tls_can_be_required() {
    let require = Gate {
        tls_mode: TlsMode::Require,
        ..gate()
    };
    let (mut client, outcome) = knock(require).await;
    client.write_all(&startup(b"user\0app\0\0")).await.unwrap();
    let told = last_words(&mut client).await;
    assert_eq!(
        told,
        (
            "28000".to_owned(),
            "this proxy requires TLS connections".to_owned()
        )
    );
    drop(client);
    assert!(matches!(outcome.await.unwrap(), Err(Refused::TlsRequired)));
}

#[tokio::test]
async fn clients_can_be_turned_away_politely() {
    let why = ErrorReply {
        severity: crate::protocol::reply::Severity::Fatal,
        sqlstate: crate::protocol::SqlState::TOO_MANY_CONNECTIONS,
        message: "sorry, too many clients already".to_owned(),
        detail: None,
        hint: None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (tcp, address) = listener.accept().await.unwrap();
    tokio::spawn(async move { turn_away(tcp, address, &gate(), why).await });
    client.write_all(&startup(b"user\0app\0\0")).await.unwrap();
    assert_eq!(last_words(&mut client).await.0, "53300");
}

#[tokio::test]
async fn the_deadline_ends_who_dawdles() {
    let hasty = || Gate {
        handshake_timeout: Duration::from_millis(100),
        ..gate()
    };
    let (silent, outcome) = knock(hasty()).await;
    assert!(matches!(outcome.await.unwrap(), Ok(Admission::Left)));
    drop(silent);
    for begun in [&b"\0"[..], &startup(b"user\0app\0\0")[..]] {
        let (mut client, outcome) = knock(hasty()).await;
        client.write_all(begun).await.unwrap();
        if begun.len() > 1 {
            message(&mut client).await;
        }
        assert_eq!(last_words(&mut client).await.0, "57014");
        drop(client);
        assert!(matches!(outcome.await.unwrap(), Err(Refused::Timeout)));
    }
}

#[tokio::test]
async fn logins_at_a_time_are_bounded_but_silence_takes_no_place() {
    let places = Places::new(1, 1);
    let own = Origin::of(([127, 0, 0, 1], 1).into());
    let bounded = || Gate {
        places: Arc::clone(&places),
        handshake_timeout: Duration::from_millis(300),
        ..gate()
    };
    let (_silent, _) = knock(bounded()).await;
    let (mut first, _first) = knock(bounded()).await;
    first.write_all(&startup(b"user\0app\0\0")).await.unwrap();
    message(&mut first).await;
    let taken = tokio::time::timeout(Duration::from_millis(50), places.take(own)).await;
    assert!(taken.is_err());
    drop(first);
    let place = places.take(own).await;
    let (mut second, outcome) = knock(bounded()).await;
    second.write_all(&startup(b"user\0app\0\0")).await.unwrap();
    assert_eq!(last_words(&mut second).await.0, "53300");
    drop(second);
    assert!(matches!(
        outcome.await.unwrap(),
        Err(Refused::TooManyLogins)
    ));
    drop(place);
}

/// However many come at once, only so many learn that they guessed wrong, and the right password is not told either.
#[tokio::test]
async fn two_hundred_guesses_at_once_and_then_the_right_one() {
    let gate = Arc::new(Gate {
        places: Places::new(200, 200),
        ..gate()
    });
    let (address, _sessions) = open(Arc::clone(&gate)).await;
    let guess = |password: &'static str, user: &'static str| async move {
        let mut client = TcpStream::connect(address).await.unwrap();
        let hello = startup(format!("user\0{user}\0\0").as_bytes());
        client.write_all(&hello).await.unwrap();
        if client.peek(&mut [0]).await.unwrap() == 1 {
            let mut first = [0];
            client.peek(&mut first).await.unwrap();
            if first == *b"E" {
                return last_words(&mut client).await;
            }
        }
        let (tag, body) = scram(&mut client, password, b"").await;
        if tag == b'R' {
            return ("let in".to_owned(), String::new());
        }
        let field = |code| String::from_utf8(error_field(&body, code).unwrap().to_vec()).unwrap();
        (field(b'C'), field(b'M'))
    };
    assert_eq!(guess(PASSWORD, "hashed").await.0, "let in");
    let guesses: Vec<_> = (0..200)
        .map(|_| tokio::spawn(guess("wrong", "app")))
        .collect();
    let mut told = std::collections::BTreeMap::new();
    for guess in guesses {
        *told.entry(guess.await.unwrap().0).or_insert(0) += 1;
    }
    assert_eq!(told["28P01"], 20, "{told:?}");
    assert_eq!(told["28000"], 180, "{told:?}");
    let (sqlstate, text) = guess(PASSWORD, "app").await;
    assert_eq!(sqlstate, "28000");
    assert!(
        text.starts_with("too many failed logins for user \"app\""),
        "{text}"
    );
    // Another user of that address comes in.
    assert_eq!(guess(PASSWORD, "hashed").await.0, "let in");
}

#[tokio::test]
async fn plaintext_behind_an_accepted_ssl_request_is_refused() {
    let (mut client, outcome) = knock(gate()).await;
    let both = [ssl_request(), startup(b"user\0app\0\0")].concat();
    client.write_all(&both).await.unwrap();
    let told = last_words(&mut client).await;
    assert_eq!(told.1, "received unencrypted data after SSL request");
    drop(client);
    assert!(outcome.await.unwrap().is_err());
}

#[tokio::test]
async fn what_is_no_tls_handshake_gets_an_alert_and_no_more() {
    let (mut client, outcome) = knock(gate()).await;
    client
        .write_all(b"\x16not a handshake at all")
        .await
        .unwrap();
    let mut alert = Vec::new();
    client.read_to_end(&mut alert).await.unwrap();
    assert_eq!(alert.first(), Some(&0x15));
    drop(client);
    assert!(matches!(outcome.await.unwrap(), Err(Refused::TlsFailed(_))));
}

#[tokio::test]
async fn who_leaves_has_left() {
    for begun in [&b""[..], b"\0\0", &startup(b"user\0app\0\0")] {
        let (mut client, outcome) = knock(gate()).await;
        client.write_all(begun).await.unwrap();
        drop(client);
        assert!(
            matches!(outcome.await.unwrap(), Ok(Admission::Left)),
            "{begun:?}"
        );
    }
}

#[tokio::test]
async fn any_split_of_the_stream_is_the_same_login() {
    let hello = startup(b"user\0app\0database\0d\0TimeZone\0UTC\0\0");
    let md5 = || Gate {
        method: AuthMethod::Md5,
        ..gate()
    };
    for at in 1..hello.len() {
        let (mut client, outcome) = knock(md5()).await;
        for part in [&hello[..at], &hello[at..]] {
            client.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        let (_, asked) = message(&mut client).await;
        let salt: [u8; 4] = asked[4..].try_into().unwrap();
        let hash = postgres_protocol::authentication::md5_hash(b"app", PASSWORD.as_bytes(), salt);
        let reply = answer(format!("{hash}\0").as_bytes());
        for byte in reply {
            client.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let session = session(outcome.await.unwrap());
        assert_eq!(
            (session.database.as_str(), session.unread.len()),
            ("d", 0),
            "{at}"
        );
    }
}

/// Memory that each login takes, and gives back: beyond some size the allocator asks the kernel for it each time.
#[tokio::test]
async fn a_login_is_small() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).await.unwrap();
    let gate = gate();
    let login_bytes = size_of_val(&admit(client, address, &gate));
    assert!(login_bytes <= 4 * 1024, "{login_bytes}");
}
