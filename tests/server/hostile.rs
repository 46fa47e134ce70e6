//! Servers that are down, slow, or not what they pretend to be.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use weir::config::SslMode::{self, Allow, Disable, Prefer, Require};
use weir::error::ToClient;
use weir::protocol::CancelKey;
use weir::server::{Channel, ConnectError, Failure, Reached, cancel};

use super::house::{free_port, local};
use super::{app, enter, target};

/// Plays `script` on every connection; what the last one received is sent back when it ends.
fn impostor(
    script: impl Fn(&mut TcpStream) + Send + 'static,
) -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            script(&mut stream);
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            let _ = sender.send(rest);
        }
    });
    (address, receiver)
}

/// Reads one startup-family message.
fn startup(stream: &mut TcpStream) {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body).unwrap();
}

/// Reads one message with a type byte.
fn message(stream: &mut TcpStream) -> Vec<u8> {
    stream.read_exact(&mut [0]).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body).unwrap();
    body
}

fn authentication(code: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(8 + body.len()).unwrap();
    [&[b'R', 0, 0, 0, length, 0, 0, 0, code][..], body].concat()
}

async fn refused_by(
    mode: SslMode,
    script: impl Fn(&mut TcpStream) + Send + 'static,
) -> ConnectError {
    let (address, _) = impostor(script);
    let target = target(address, mode, None);
    let started = Instant::now();
    let error = enter(&target, &app()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(15), "{error}");
    error
}

#[tokio::test]
async fn nobody_there() {
    let error = enter(&target(local(free_port()), Require, None), &app()).await;
    let error = error.unwrap_err();
    assert_eq!(error.failure(), Failure::Unreachable);
    assert_eq!(error.sqlstate().as_str(), "08001");
    assert!(error.message().contains("127.0.0.1:"), "{error}");
    assert!(error.detail().unwrap().contains("refused"), "{error}");

    let mut nowhere = target(local(1), Disable, None);
    nowhere.at.host = "nowhere.invalid".to_owned();
    let error = enter(&nowhere, &app()).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Unreachable);
    assert!(error.to_string().contains("nowhere.invalid"), "{error}");
}

#[tokio::test]
async fn one_that_says_nothing_costs_the_timeout_and_no_more() {
    for mode in [Disable, Require] {
        let (address, _) = impostor(|_| {});
        let mut silent = target(address, mode, None);
        silent.connect_timeout = Duration::from_millis(300);
        let started = Instant::now();
        let error = enter(&silent, &app()).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(error.failure(), Failure::Unreachable);
        assert!(error.to_string().contains("300ms"), "{error}");
    }
}

#[tokio::test]
async fn answers_to_the_request_for_tls() {
    for (answer, expected) in [
        (&b"N"[..], "no TLS"),
        (b"Sx", "in the clear"),
        (b"E\0\0\0\x10SFATAL\0Mlies\0\0", "with an error"),
        (b"HTTP/1.1 400", "no PostgreSQL"),
        (b"", "closed"),
    ] {
        let error = refused_by(Require, move |stream| {
            startup(stream);
            stream.write_all(answer).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let error = error.await;
        assert_eq!(error.failure(), Failure::Unreachable);
        let text = error.to_string();
        assert!(text.contains(expected) && !text.contains("lies"), "{text}");
    }
}

#[tokio::test]
async fn prefer_goes_on_in_the_clear_where_libpq_does() {
    for answer in [&b"N"[..], b"E\0\0\0\x10SFATAL\0Mlies\0\0", b"Snonsense"] {
        let (address, _) = impostor(move |stream| {
            let mut first = [0; 8];
            stream.read_exact(&mut first).unwrap();
            if first[..4] == [0, 0, 0, 8] {
                stream.write_all(answer).unwrap();
                if answer != b"N" {
                    return;
                }
                startup(stream);
            }
            let fatal = b"E\0\0\0\x15SFATAL\0C57P03\0Mno\0\0";
            stream.write_all(fatal).unwrap();
        });
        let mut target = target(address, Prefer, None);
        target.connect_timeout = Duration::from_secs(5);
        let error = enter(&target, &app()).await.unwrap_err();
        let in_the_clear = error.refusal().is_some();
        // Bytes behind the consent to TLS are an attack, not a server that can't.
        assert_eq!(in_the_clear, answer != b"Snonsense", "{error}");
        assert_eq!(error.failure(), Failure::Unreachable);
    }
}

#[tokio::test]
async fn the_password_is_not_given_to_who_cannot_prove_to_know_it() {
    let sasl = || authentication(10, b"SCRAM-SHA-256\0\0");
    // Skips its own proof.
    let error = refused_by(Disable, move |stream| {
        startup(stream);
        stream.write_all(&sasl()).unwrap();
        message(stream);
        stream.write_all(&authentication(0, b"")).unwrap();
    });
    assert!(error.await.to_string().contains("protocol"));
    // Proves something else.
    let error = refused_by(Disable, move |stream| {
        startup(stream);
        stream.write_all(&sasl()).unwrap();
        let first = String::from_utf8(message(stream)).unwrap();
        let nonce = first.rsplit_once("r=").unwrap().1;
        let challenge = format!("r={nonce}more,s=c2FsdA==,i=1");
        let challenge = authentication(11, challenge.as_bytes());
        stream.write_all(&challenge).unwrap();
        message(stream);
        let proof = authentication(12, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        stream.write_all(&proof).unwrap();
    });
    let error = error.await;
    assert!(error.to_string().contains("signature"), "{error}");
    assert_eq!(error.failure(), Failure::Denied);
    // Wants us to hash for hours.
    let error = refused_by(Disable, move |stream| {
        startup(stream);
        stream.write_all(&sasl()).unwrap();
        let first = String::from_utf8(message(stream)).unwrap();
        let nonce = first.rsplit_once("r=").unwrap().1;
        let challenge = format!("r={nonce}more,s=c2FsdA==,i=4000000000");
        let challenge = authentication(11, challenge.as_bytes());
        stream.write_all(&challenge).unwrap();
    });
    assert!(error.await.to_string().contains("iteration count"));
    // Speaks SASL, but not SCRAM.
    let error = refused_by(Disable, move |stream| {
        startup(stream);
        stream
            .write_all(&authentication(10, b"OAUTHBEARER\0\0"))
            .unwrap();
    });
    assert!(error.await.to_string().contains("SASL"));
}

#[tokio::test]
async fn a_login_may_come_byte_by_byte() {
    let (address, _) = impostor(|stream| {
        stream.set_nodelay(true).unwrap();
        let drip = |bytes: &[u8], stream: &mut TcpStream| {
            bytes
                .iter()
                .for_each(|byte| stream.write_all(&[*byte]).unwrap());
        };
        startup(stream);
        drip(&authentication(0, b""), stream);
        drip(b"N\0\0\0\x12SNOTICE\0Mhey\0\0", stream);
        drip(
            b"S\0\0\0\x0bTz\0UTC\0K\0\0\0\x0e\0\0\0\x09secretZ\0\0\0\x05I",
            stream,
        );
        message(stream);
        drip(
            b"D\0\0\0\x24\0\x06\0\0\0\x01t\0\0\0\x0250\0\0\0\x013\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\x0217",
            stream,
        );
        drip(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I", stream);
    });
    let connected = enter(&target(address, Disable, None), &app())
        .await
        .unwrap();
    assert_eq!(connected.key.secret(), b"secret");
    assert_eq!(connected.parameters.value(b"Tz"), Some(&b"UTC"[..]));
    assert_eq!(connected.limits.ordinary(), 47);
    assert!(connected.in_recovery);
    assert_eq!(connected.started, b"17");
}

#[tokio::test]
async fn too_much_and_too_little() {
    for (bytes, expected) in [
        (&b"R\0\0\0\x03"[..], "length 3"),
        (b"R\xff\xff\xff\xff", "length -1"),
        (b"R\x7f\xff\xff\xff", "reasonable"),
        (b"R\0\0\0\x05\0", "malformed"),
        (b"R\0\0\0\x08\0\0\0\0K\0\0\0\x08\0\0\0\x01", "malformed"),
        (b"R\0\0\0\x08\0\0\0\0D\0\0\0\x04", "no place"),
        (b"R\0\0\0\x08\0\0\0\0", "closed"),
        (b"R\0\0", "closed"),
    ] {
        let error = refused_by(Disable, move |stream| {
            startup(stream);
            stream.write_all(bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let error = error.await.to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = refused_by(Allow, |stream| {
        startup(stream);
        let notice = b"N\0\0\0\x1bSNOTICE\0C00000\0Mchatty\0\0\0".repeat(1000);
        while stream.write_all(&notice).is_ok() {}
    });
    assert!(error.await.to_string().contains("reasonable"));
}

#[tokio::test]
async fn a_cancel_is_never_less_protected_than_its_connection() {
    let (address, received) = impostor(|stream| {
        startup(stream);
        stream.write_all(b"N").unwrap();
    });
    let reached = Reached {
        address,
        channel: Channel::Tls,
    };
    let key = CancelKey::new(1, b"key!").unwrap();
    let error = cancel(&target(address, Prefer, None), reached, &key).await;
    assert!(error.unwrap_err().to_string().contains("no TLS"));
    assert_eq!(received.recv().unwrap(), b"");
}
