//! Connection churn: logs in with SCRAM, or with what the server asks for in the clear, says goodbye, comes again. The load of `make bench`'s churn section.
//!
//! Knows the wire as far as the end of a login; measures nothing but how many there were, and how many TLS sessions
//! were resumed. `churn ADDRESS off|full|resumed CONNECTIONS THREADS USER DATABASE`, the password in PGPASSWORD.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use ring::rand::{SecureRandom, SystemRandom};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use weir::net::Trust;
use weir::protocol::frame::{put, put_cstr, put_untagged};
use weir::protocol::scram::{self, Binding, Hello, SaltedKeys};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const CLEARTEXT: u32 = 3;
const SASL: u32 = 10;
const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(load), Ok(password)) = (Load::parse(&arguments), std::env::var("PGPASSWORD")) else {
        eprintln!(
            "usage: PGPASSWORD=.. churn ADDRESS off|full|resumed CONNECTIONS THREADS USER DATABASE"
        );
        return ExitCode::from(2);
    };
    let started = Instant::now();
    let outcome = std::thread::scope(|scope| {
        let one = || scope.spawn(|| load.share(&password));
        let threads: Vec<_> = (0..load.threads).map(|_| one()).collect();
        threads
            .into_iter()
            .try_fold((0, 0), |(all, resumed), thread| {
                let share = thread.join().map_err(|_| io::Error::other("panicked"))??;
                Ok::<_, io::Error>((all + share.0, resumed + share.1))
            })
    });
    match outcome {
        Ok((connections, resumed)) => {
            let seconds = started.elapsed().as_secs_f64();
            println!(
                "{{\"connections\":{connections},\"resumed\":{resumed},\"seconds\":{seconds}}}"
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("churn: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tls {
    Off,
    Full,
    Resumed,
}

struct Load {
    address: String,
    tls: Tls,
    connections: u32,
    threads: u32,
    startup: Vec<u8>,
}

impl Load {
    fn parse(arguments: &[String]) -> Option<Load> {
        let [address, tls, connections, threads, user, database] = arguments else {
            return None;
        };
        let mut startup = Vec::new();
        put_untagged(&mut startup, |body| {
            body.extend_from_slice(&[0, 3, 0, 0]);
            for word in ["user", user, "database", database] {
                put_cstr(body, word.as_bytes());
            }
            body.push(0);
        });
        Some(Load {
            address: address.clone(),
            tls: match tls.as_str() {
                "off" => Tls::Off,
                "full" => Tls::Full,
                "resumed" => Tls::Resumed,
                _ => return None,
            },
            connections: connections.parse().ok()?,
            threads: threads.parse().ok().filter(|&threads| threads > 0)?,
            startup,
        })
    }

    /// One thread's connections, and how many of their sessions were resumed.
    fn share(&self, password: &str) -> io::Result<(u32, u32)> {
        let mut keys = None;
        let mut config = Trust::Anybody
            .client_config(None)
            .map_err(io::Error::other)?;
        if self.tls == Tls::Full {
            config.resumption = Resumption::disabled();
        }
        let config = Arc::new(config);
        let mut resumed = 0;
        let share = self.connections / self.threads;
        for _ in 0..share {
            let mut tcp = TcpStream::connect(&self.address)?;
            tcp.set_nodelay(true)?;
            if self.tls == Tls::Off {
                visit(&mut tcp, &self.startup, password, &mut keys)?;
            } else {
                let mut stream = secure(tcp, &config)?;
                visit(&mut stream, &self.startup, password, &mut keys)?;
                resumed += u32::from(stream.conn.handshake_kind() == Some(HandshakeKind::Resumed));
                stream.conn.send_close_notify();
                stream.conn.complete_io(&mut stream.sock)?;
            }
        }
        Ok((share, resumed))
    }
}

fn secure(
    mut tcp: TcpStream,
    config: &Arc<ClientConfig>,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    tcp.write_all(&SSL_REQUEST)?;
    let mut answer = [0];
    tcp.read_exact(&mut answer)?;
    if answer != *b"S" {
        return Err(io::Error::other("no TLS there"));
    }
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, tcp))
}

/// Logs in and says goodbye. Keys are made once for a verifier.
fn visit(
    stream: &mut (impl Read + Write),
    startup: &[u8],
    password: &str,
    keys: &mut Option<SaltedKeys>,
) -> io::Result<()> {
    stream.write_all(startup)?;
    let mut inbox = Inbox(Vec::new());
    match inbox.request(stream)?.0 {
        CLEARTEXT => {
            let mut out = Vec::new();
            put(&mut out, b'p', |body| put_cstr(body, password.as_bytes()));
            stream.write_all(&out)?;
            return farewell(stream, &mut inbox);
        }
        SASL => {}
        other => return Err(io::Error::other(format!("asked for {other}"))),
    }
    let mut random = [0; scram::NONCE_BYTES];
    let filled = SystemRandom::new().fill(&mut random);
    filled.map_err(|_| io::Error::other("no random numbers"))?;
    let (hello, first) = Hello::new(Binding::Unsupported, scram::nonce(random));
    let mut out = Vec::new();
    put(&mut out, b'p', |body| {
        put_cstr(body, b"SCRAM-SHA-256");
        body.extend_from_slice(&u32::try_from(first.len()).unwrap_or(0).to_be_bytes());
        body.extend_from_slice(&first);
    });
    stream.write_all(&out)?;
    let challenge = inbox.authentication(stream, 11)?;
    let challenge = hello.challenged(&challenge).map_err(io::Error::other)?;
    let kept = keys.take().filter(|keys| challenge.fits(keys));
    let made = kept.unwrap_or_else(|| {
        let (salt, iterations) = (challenge.salt(), challenge.iterations());
        SaltedKeys::derive(password.as_bytes(), salt, iterations)
    });
    let (awaiting, proof) = challenge.prove(&made).map_err(io::Error::other)?;
    *keys = Some(made);
    out.clear();
    put(&mut out, b'p', |body| body.extend_from_slice(&proof));
    stream.write_all(&out)?;
    let signature = inbox.authentication(stream, 12)?;
    awaiting.verify(&signature).map_err(io::Error::other)?;
    farewell(stream, &mut inbox)
}

fn farewell(stream: &mut (impl Read + Write), inbox: &mut Inbox) -> io::Result<()> {
    while inbox.next(stream)?.0 != b'Z' {}
    stream.write_all(&TERMINATE)
}

/// What has been received and not read.
struct Inbox(Vec<u8>);

impl Inbox {
    /// The next message, whole.
    fn next(&mut self, stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
        loop {
            if let Some((head, rest)) = self.0.split_first_chunk::<5>() {
                let [tag, length @ ..] = *head;
                let body_bytes = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                if let Some(body) = rest.get(..body_bytes) {
                    let body = body.to_vec();
                    self.0.drain(..5 + body_bytes);
                    if tag == b'E' {
                        return Err(io::Error::other(
                            String::from_utf8_lossy(&body).into_owned(),
                        ));
                    }
                    return Ok((tag, body));
                }
            }
            let mut more = [0; 4096];
            match stream.read(&mut more)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self
                    .0
                    .extend_from_slice(more.get(..count).unwrap_or_default()),
            }
        }
    }

    /// The next message, which must be an authentication request: its kind, and what is in it.
    fn request(&mut self, stream: &mut impl Read) -> io::Result<(u32, Vec<u8>)> {
        let unexpected = || io::Error::other("another message than was due in a login");
        match self.next(stream)? {
            (b'R', body) => {
                let (kind, rest) = body.split_first_chunk().ok_or_else(unexpected)?;
                Ok((u32::from_be_bytes(*kind), rest.to_vec()))
            }
            _ => Err(unexpected()),
        }
    }

    /// The same, of this kind.
    fn authentication(&mut self, stream: &mut impl Read, kind: u32) -> io::Result<Vec<u8>> {
        match self.request(stream)? {
            (came, rest) if came == kind => Ok(rest),
            (came, _) => Err(io::Error::other(format!(
                "asked for {came} where {kind} was due"
            ))),
        }
    }
}
