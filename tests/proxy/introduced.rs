//! Clients behind a load balancer that introduces them (PROXY protocol v2).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::house::client::Next;
use crate::house::proxy::Setup;
use crate::house::{Client, Login, Postgres, Proxy, eventually};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn introduction(command: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, 0x11], &length, rest].concat()
}

/// 192.0.2.7:8080 to 10.0.0.1:5432, and a field as AWS adds it.
fn client_7() -> Vec<u8> {
    let rest = b"\xC0\0\x02\x07\x0A\0\0\x01\x1F\x90\x15\x38\xEA\0\x03\x01vp";
    introduction(0x21, rest)
}

fn house(from: &str) -> (&'static Postgres, Setup) {
    let postgres = Postgres::shared();
    let setup = Proxy::before(postgres, &postgres.database(), 2);
    (postgres, setup.set("WEIR_PROXY_PROTOCOL_FROM", from))
}

/// Logs in behind a header.
fn introduced(login: &Login, header: &[u8]) -> Client {
    let mut client = Client::dial(login.address).unwrap();
    client.send(&[header, &login.startup()].concat());
    client.log_in(login).unwrap();
    client
}

#[test]
fn the_real_client_is_known_wherever_addresses_are_told() {
    let (_, setup) = house("10.0.0.0/8, 127.0.0.1");
    let proxy = setup.start();
    let mut client = introduced(&proxy.login(), &client_7());
    client.run("CREATE TEMP TABLE pinned (n int)");
    let pinned = || proxy.get("/pins").unwrap().json()["pins"][0]["client"].clone();
    eventually("was it pinned", pinned, |client| client == "192.0.2.7:8080");
    let wrong = proxy.login().user("app", "not the password");
    let mut refused = Client::dial(proxy.address).unwrap();
    refused.send(&[client_7(), wrong.startup()].concat());
    assert_eq!(refused.log_in(&wrong).unwrap_err().code, "28P01");
    eventually(
        "did the log name it",
        || proxy.log(),
        |log| log.contains("client refused peer=192.0.2.7:8080"),
    );
    // The load balancer's own connection, and TLS behind a header.
    let mut itself = introduced(&proxy.login(), &introduction(0x20, b""));
    assert_eq!(itself.value("SELECT 1"), "1");
    let mut secure = Client::dial(proxy.address).unwrap();
    secure.send(&client_7());
    secure.ask_for_tls().unwrap();
    secure.send(&proxy.login().startup());
    secure.log_in(&proxy.login()).unwrap();
    assert_eq!(secure.value("SELECT 1"), "1");
    // A cancel request comes by the same way.
    client.send(&crate::house::wire::query("SELECT pg_sleep(60)"));
    let key = crate::house::wire::cancel_request(client.pid, &client.secret);
    eventually(
        "did it run",
        || proxy.pooled("leased"),
        |leased| *leased == 1,
    );
    let mut cancel = Client::dial(proxy.address).unwrap();
    cancel.send(&[client_7(), key].concat());
    assert_eq!(cancel.next(), Next::Closed);
    assert_eq!(client.replies(1).code(), "57014");
}

#[test]
fn a_load_balancer_that_does_not_introduce_is_refused() {
    let (_, setup) = house("127.0.0.1");
    let proxy = setup.set("WEIR__AUTH__HANDSHAKE_TIMEOUT", "500ms").start();
    let login = proxy.login();
    for bytes in [
        login.startup(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 5432\r\n".to_vec(),
        introduction(0x22, b""),
        introduction(0x21, b"short"),
        introduction(0x21, &[0; 5000]),
        // Nothing but its beginning.
        SIGNATURE.to_vec(),
    ] {
        let mut socket = TcpStream::connect(proxy.address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        socket.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{bytes:?}");
    }
    let told = || {
        proxy
            .log()
            .matches("listen.proxy_protocol_from has this peer")
            .count()
    };
    eventually("were all of them told of", told, |told| *told == 6);
    // One that connects and goes again is a health check.
    drop(TcpStream::connect(proxy.address).unwrap());
    assert_eq!(introduced(&login, &client_7()).value("SELECT 1"), "1");
    assert_eq!(told(), 6);
    let counted = "weir_client_logins_failed_total{reason=\"proxy_protocol\"} 6";
    assert!(proxy.metrics().contains(counted), "{}", proxy.metrics());
}

/// From anybody else such bytes are what they were: no PostgreSQL.
#[test]
fn nobody_else_may_introduce() {
    for from in ["", "127.0.0.9, 10.0.0.0/8"] {
        let (_, setup) = house(from);
        let proxy = setup.start();
        let mut client = Client::dial(proxy.address).unwrap();
        client.send(&client_7());
        let answer = client.last_words();
        assert!(["", "08P01"].contains(&&*answer.code()), "{answer:?}");
        assert_eq!(proxy.client().value("SELECT 1"), "1");
        assert!(!proxy.log().contains("192.0.2.7"), "{}", proxy.log());
    }
}
