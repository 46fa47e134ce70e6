//! The HTTP side as an operator's tools meet it: real sockets, bytes in, bytes out.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;

/// A house whose answers the test sets.
struct Fake {
    ready: Mutex<Result<(), String>>,
    reload: Result<(), String>,
}

impl House for Fake {
    fn ready(&self) -> Result<(), String> {
        self.ready.lock().unwrap().clone()
    }

    fn pools(&self) -> PoolsReport {
        PoolsReport {
            pools: vec![PoolReport {
                target: "db:5432".into(),
                role: Role::Writer,
                database: "orders".into(),
                user: "app".into(),
                total: 3,
                idle: 1,
                leased: 2,
                pinned: 1,
                waiting: 4,
                opening: 0,
            }],
            targets: vec![TargetReport {
                target: "db:5432".into(),
                role: Role::Writer,
                cap: Some(20),
                used: 3,
                state: State::Unavailable,
                reason: Some("UNREACHABLE: connection refused".into()),
                lag_seconds: None,
            }],
            clients: 7,
        }
    }

    fn pins(&self) -> PinsReport {
        PinsReport {
            pins: vec![PinReport {
                pid: 3,
                server_pid: Some(4711),
                reason: "listen",
                digest: Some("LISTEN a".into()),
                client: Some("127.0.0.1:4000".parse().unwrap()),
                application_name: "reports".into(),
                target: "db:5432".into(),
                database: "orders".into(),
                user: "app".into(),
                seconds: 1.5,
            }],
            total: 1,
            reasons: vec![ReasonReport {
                reason: "listen",
                count: 9,
            }],
            digests: vec![DigestReport {
                reason: "listen",
                digest: Some("LISTEN a".into()),
                count: 8,
            }],
        }
    }

    fn metrics(&self) -> String {
        "weir_build_info 1\n".into()
    }

    fn reload(&self) -> Result<(), String> {
        self.reload.clone()
    }
}

struct Served {
    address: SocketAddr,
    end: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

async fn served(house: Fake) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = oneshot::channel();
    let task = tokio::spawn(serve(listener, Arc::new(house), async {
        let _ = ended.await;
    }));
    Served { address, end, task }
}

fn well() -> Fake {
    Fake {
        ready: Mutex::new(Ok(())),
        reload: Ok(()),
    }
}

/// Status line with headers, and body.
async fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = format!("{request} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn each_path_answers() {
    let house = served(well()).await;
    let cases = [
        ("GET /health", "200 ok", "text/plain", "ok\n"),
        (
            "GET /ready?x=1",
            "200 ok",
            "application/json",
            "{\"ready\":true}\n",
        ),
        (
            "GET /metrics",
            "200 ok",
            "text/plain; version=0.0.4",
            "weir_build_info 1\n",
        ),
        (
            "POST /reload",
            "200 ok",
            "application/json",
            "{\"reloaded\":true}\n",
        ),
        ("HEAD /health", "200 ok", "text/plain", ""),
        (
            "POST /health",
            "405 method not allowed",
            "allow: get, head",
            "this path takes GET, HEAD\n",
        ),
        (
            "GET /reload",
            "405 method not allowed",
            "allow: post",
            "this path takes POST\n",
        ),
        (
            "GET /nowhere",
            "404 not found",
            "text/plain",
            "no such path; there are: GET /health, GET /ready, GET /metrics, GET /pools, GET /targets, GET /pins, POST /reload\n",
        ),
    ];
    for (request, status, header, body) in cases {
        let (head, got) = ask(house.address, request).await;
        assert!(
            head.starts_with(&format!("http/1.1 {status}")),
            "{request}: {head}"
        );
        assert!(head.contains(header), "{request}: {head}");
        assert_eq!(got, body, "{request}");
    }
}

#[tokio::test]
async fn pools_are_told_in_the_agreed_shape() {
    let house = served(well()).await;
    let (_, body) = ask(house.address, "GET /pools").await;
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        told,
        json!({
            "pools": [{
                "target": "db:5432", "role": "writer", "database": "orders", "user": "app",
                "total": 3, "idle": 1, "leased": 2, "pinned": 1, "waiting": 4, "opening": 0,
            }],
            "targets": [{
                "target": "db:5432", "role": "writer", "cap": 20, "used": 3,
                "state": "UNAVAILABLE", "reason": "UNREACHABLE: connection refused", "lag_seconds": null,
            }],
            "clients": 7,
        })
    );
}

#[tokio::test]
async fn pins_are_told_in_the_agreed_shape() {
    let house = served(well()).await;
    let (_, body) = ask(house.address, "GET /pins").await;
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        told,
        json!({
            "pins": [{
                "pid": 3, "server_pid": 4711, "reason": "listen", "digest": "LISTEN a",
                "client": "127.0.0.1:4000", "application_name": "reports", "target": "db:5432",
                "database": "orders", "user": "app", "seconds": 1.5,
            }],
            "total": 1,
            "reasons": [{ "reason": "listen", "count": 9 }],
            "digests": [{ "reason": "listen", "digest": "LISTEN a", "count": 8 }],
        })
    );
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let house = served(Fake {
        ready: Mutex::new(Err("db:5432 can't be reached".into())),
        reload: Err("weir.toml:3: no".into()),
    })
    .await;
    let (head, body) = ask(house.address, "GET /ready").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert_eq!(
        body,
        "{\"ready\":false,\"reason\":\"db:5432 can't be reached\"}\n"
    );
    let (head, body) = ask(house.address, "POST /reload").await;
    assert!(head.starts_with("http/1.1 422"), "{head}");
    assert_eq!(
        body,
        "{\"reloaded\":false,\"reason\":\"weir.toml:3: no\"}\n"
    );
}

#[tokio::test]
async fn nonsense_and_oversize_end_only_their_own_connection() {
    let house = served(well()).await;
    let huge = format!(
        "GET /health HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(64 * 1024)
    );
    for bytes in ["\x16\x03\x01 not http\r\n\r\n", &huge] {
        let mut stream = TcpStream::connect(house.address).await.unwrap();
        let _ = stream.write_all(bytes.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
    let (head, _) = ask(house.address, "GET /health").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

#[tokio::test]
async fn those_above_the_limit_wait_their_turn() {
    let house = served(well()).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(house.address).await.unwrap());
    }
    let late = tokio::spawn(ask(house.address, "GET /health"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!late.is_finished(), "served beyond the limit");
    silent.pop();
    let (head, _) = late.await.unwrap();
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

#[tokio::test]
async fn the_end_waits_for_nobody_who_is_silent() {
    let house = served(well()).await;
    let mut kept = TcpStream::connect(house.address).await.unwrap();
    kept.write_all(b"GET /health HTTP/1.1\r\nHost: weir\r\n\r\n")
        .await
        .unwrap();
    let mut some = [0; 12];
    kept.read_exact(&mut some).await.unwrap();
    let began = Instant::now();
    house.end.send(()).unwrap();
    house.task.await.unwrap();
    assert!(began.elapsed() < GRACE + Duration::from_secs(1));
    assert!(TcpStream::connect(house.address).await.is_err());
}
