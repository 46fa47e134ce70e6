//! A gate on loopback, and clients in front of it.
//!
//! Knows no server: who is let in gets ReadyForQuery and no more.

mod drivers;
mod wire;

use std::net::SocketAddr;
use std::sync::LazyLock;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{AuthScheme, Credential, Secret, Tls, User};
use crate::net::Resolver;
use crate::protocol::frame::put_untagged;
use crate::protocol::reply::{TxStatus, error_field, put_ready_for_query};
use crate::protocol::scram::{SaltedKeys, Verifier};

const PASSWORD: &str = "pencil";

fn users() -> Vec<User> {
    let user = |name: &str, credential| User {
        name: name.to_owned(),
        credential,
        scheme: AuthScheme::Own,
        method: None,
        certificate_names: Vec::new(),
        pool_max_connections: None,
        iam: crate::config::IamMode::Disabled,
    };
    let iterations = std::num::NonZeroU32::new(4096).unwrap();
    let verifier = Verifier::derive(PASSWORD.as_bytes(), b"the database's", iterations);
    vec![
        user(
            "app",
            Credential::Password(Secret::new(PASSWORD.to_owned())),
        ),
        user(
            "hashed",
            Credential::Verifier(Secret::new(verifier.to_text())),
        ),
    ]
}

/// Made once: a password's verifier takes its time in a debug build.
static VAULT: LazyLock<Arc<Vault>> = LazyLock::new(|| Arc::new(Vault::of_users(users())));

/// Nobody comes with a token.
static IAM: LazyLock<Arc<iam::Iam>> = LazyLock::new(|| {
    let env = [
        ("AURORA_HOST", "127.0.0.1"),
        ("AURORA_USER", "app"),
        ("AURORA_PASSWORD", "x"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = crate::config::load(None, env.into_iter()).unwrap();
    let nobody: iam::upstream::Prober = Arc::new(|_| panic!("no Aurora is configured"));
    Arc::new(iam::Iam::new(&config, &[], &nobody, &Resolver::of_system()).unwrap())
});

fn gate() -> Gate {
    Gate {
        tls: Some(Arc::new(Acceptor::open(&Tls::default()).unwrap())),
        tls_mode: TlsMode::Allow,
        method: AuthMethod::ScramSha256,
        manners: HashMap::new(),
        vault: Arc::clone(&VAULT),
        iam: Arc::clone(&IAM),
        default_database: "orders".to_owned(),
        meters: Arc::new(metrics::Auth::new(&Arc::default())),
        handshake_timeout: Duration::from_secs(10),
        places: Places::new(8, 8),
        failures: Failures::new(FailureTerms {
            per_user_and_address: Some(20),
            per_address: Some(200),
            per_user: Some(200),
            window: Duration::from_secs(60),
            delay: Duration::from_secs(1),
            max_remembered: 1_000,
        }),
        lines: Ration::new(None),
    }
}

type Outcome = JoinHandle<Result<Admission, Refused>>;

/// A client's socket, and what will come of it behind the gate.
async fn knock(gate: Gate) -> (TcpStream, Outcome) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    client.set_nodelay(true).unwrap();
    let (tcp, address) = listener.accept().await.unwrap();
    let outcome = tokio::spawn(async move { admit(tcp, address, &gate).await });
    (client, outcome)
}

/// Lets in whoever can, for as long as the test lasts; logins come out of the channel.
async fn open(
    gate: Arc<Gate>,
) -> (
    SocketAddr,
    tokio::sync::mpsc::UnboundedReceiver<Authenticated>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, address)) = listener.accept().await {
            let (gate, sender) = (Arc::clone(&gate), sender.clone());
            tokio::spawn(async move {
                if let Ok(Admission::Session(mut session)) = admit(tcp, address, &gate).await {
                    let mut greeting = std::mem::take(&mut session.greeting);
                    put_ready_for_query(&mut greeting, TxStatus::Idle);
                    session.stream.send(&greeting).await.unwrap();
                    sender.send(*session).unwrap();
                }
            });
        }
    });
    (address, receiver)
}

/// A packet of the startup family.
fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_untagged(&mut out, |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(body);
    });
    out
}

fn startup(body: &[u8]) -> Vec<u8> {
    packet(3 << 16, body)
}

fn ssl_request() -> Vec<u8> {
    packet(1234 << 16 | 5679, b"")
}

fn gssenc_request() -> Vec<u8> {
    packet(1234 << 16 | 5680, b"")
}

/// One message: its type and body.
async fn message(client: &mut (impl AsyncReadExt + Unpin)) -> (u8, Vec<u8>) {
    let tag = client.read_u8().await.unwrap();
    let length = client.read_u32().await.unwrap();
    let mut body = vec![0; length as usize - 4];
    client.read_exact(&mut body).await.unwrap();
    (tag, body)
}

/// SQLSTATE and text of the ErrorResponse that comes next, after which the connection must end.
async fn last_words(client: &mut (impl AsyncReadExt + Unpin)) -> (String, String) {
    let (tag, body) = message(client).await;
    assert_eq!(char::from(tag), 'E', "{}", String::from_utf8_lossy(&body));
    assert_eq!(error_field(&body, b'V'), Some(&b"FATAL"[..]));
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
    let field = |code| String::from_utf8(error_field(&body, code).unwrap().to_vec()).unwrap();
    (field(b'C'), field(b'M'))
}

fn session(outcome: Result<Admission, Refused>) -> Box<Authenticated> {
    match outcome {
        Ok(Admission::Session(session)) => session,
        other => panic!("{other:?}"),
    }
}
