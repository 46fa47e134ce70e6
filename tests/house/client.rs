//! A client that speaks the protocol byte by byte and sees every frame.
//!
//! Knows how to log in and listen; does not know whether a proxy or PostgreSQL is there.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::wire::{self, Frame, message};
use super::{PATIENCE, tls};

/// Who comes, where to, and what he asks for.
#[derive(Clone)]
pub struct Login {
    pub address: SocketAddr,
    pub user: String,
    pub password: String,
    pub database: String,
    pub parameters: Vec<(String, String)>,
    pub version: u32,
    pub security: Security,
    /// The address that it comes from, if that matters.
    pub from: Option<IpAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Security {
    Clear,
    /// SSLRequest, then TLS; SCRAM bound to the channel where the server offers it.
    Tls,
    /// TLS from the first byte, with ALPN.
    DirectTls,
}

/// An ErrorResponse, or the wire going dead, where a login was expected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    pub severity: String,
    pub code: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

impl Refusal {
    fn of(frame: &Frame) -> Refusal {
        let field = |code| frame.field(code).unwrap_or_default();
        Refusal {
            severity: field(b'V'),
            code: field(b'C'),
            message: field(b'M'),
            detail: field(b'D'),
            hint: field(b'H'),
        }
    }

    fn dead(why: &str) -> Refusal {
        Refusal {
            message: format!("(no ErrorResponse: {why})"),
            ..Refusal::default()
        }
    }
}

impl Login {
    pub fn to(address: SocketAddr, user: &str, password: &str, database: &str) -> Login {
        Login {
            address,
            user: user.into(),
            password: password.into(),
            database: database.into(),
            parameters: Vec::new(),
            version: wire::PROTOCOL_3_0,
            security: Security::Clear,
            from: None,
        }
    }

    /// Comes from this address of the machine's own.
    pub fn from(mut self, from: [u8; 4]) -> Login {
        self.from = Some(from.into());
        self
    }

    pub fn user(mut self, user: &str, password: &str) -> Login {
        self.user = user.into();
        self.password = password.into();
        self
    }

    pub fn database(mut self, database: &str) -> Login {
        self.database = database.into();
        self
    }

    pub fn with(mut self, name: &str, value: &str) -> Login {
        self.parameters.push((name.into(), value.into()));
        self
    }

    pub fn version(mut self, major: u32, minor: u32) -> Login {
        self.version = major << 16 | minor;
        self
    }

    pub fn security(mut self, security: Security) -> Login {
        self.security = security;
        self
    }

    pub fn connect(&self) -> Client {
        match self.try_connect() {
            Ok(client) => client,
            Err(refusal) => panic!("login of {} refused: {refusal:?}", self.user),
        }
    }

    pub fn try_connect(&self) -> Result<Client, Refusal> {
        let dead = |error: io::Error| Refusal::dead(&error.to_string());
        let client = match self.from {
            Some(from) => Client::dial_from(from, self.address),
            None => Client::dial(self.address),
        };
        let mut client = client.map_err(dead)?;
        match self.security {
            Security::Clear => {}
            Security::Tls => client.ask_for_tls().map_err(dead)?,
            Security::DirectTls => client.begin_tls(&["postgresql"]).map_err(dead)?,
        }
        client.send(&self.startup());
        client.log_in(self)?;
        Ok(client)
    }

    pub fn startup(&self) -> Vec<u8> {
        let mut all = vec![("user", &*self.user), ("database", &*self.database)];
        all.extend(
            self.parameters
                .iter()
                .map(|(name, value)| (&**name, &**value)),
        );
        wire::startup(self.version, &all)
    }
}

enum Wire {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What came next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Frame(Frame),
    Closed,
    Silence,
}

pub struct Client {
    pub address: SocketAddr,
    pub pid: i32,
    pub secret: Vec<u8>,
    /// Every frame of the login, from the first reply to ReadyForQuery.
    pub greeting: Vec<Frame>,
    wire: Wire,
    inbox: Vec<u8>,
}

impl Client {
    /// Connects; says nothing.
    pub fn dial(address: SocketAddr) -> io::Result<Client> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        Client::over(socket, address)
    }

    fn dial_from(from: IpAddr, address: SocketAddr) -> io::Result<Client> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect_timeout(&address.into(), PATIENCE)?;
        Client::over(socket.into(), address)
    }

    fn over(socket: TcpStream, address: SocketAddr) -> io::Result<Client> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Client {
            address,
            pid: 0,
            secret: Vec::new(),
            greeting: Vec::new(),
            wire: Wire::Clear(socket),
            inbox: Vec::new(),
        })
    }

    pub fn socket(&self) -> &TcpStream {
        match &self.wire {
            Wire::Clear(socket) => socket,
            Wire::Tls(stream) => &stream.sock,
        }
    }

    /// Sends; a peer that hangs up meanwhile is seen when reading.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = match &mut self.wire {
            Wire::Clear(socket) => socket.write_all(bytes),
            Wire::Tls(stream) => stream.write_all(bytes),
        };
    }

    pub fn ask_for_tls(&mut self) -> io::Result<()> {
        self.send(&wire::ssl_request());
        match self.byte()? {
            b'S' => self.begin_tls(&["postgresql"]),
            other => Err(io::Error::other(format!("SSLRequest answered {other}"))),
        }
    }

    /// One byte outside any frame: the answer to SSLRequest or GSSENCRequest.
    pub fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        match &mut self.wire {
            Wire::Clear(socket) => socket.read_exact(&mut byte)?,
            Wire::Tls(stream) => stream.read_exact(&mut byte)?,
        }
        Ok(byte[0])
    }

    pub fn begin_tls(&mut self, alpn: &[&str]) -> io::Result<()> {
        let name = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(tls::trusting(alpn), name).map_err(io::Error::other)?;
        let socket = self.socket().try_clone()?;
        let mut stream = StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        self.wire = Wire::Tls(Box::new(stream));
        Ok(())
    }

    /// Answers whatever authentication is asked for, up to the first ReadyForQuery.
    pub fn log_in(&mut self, login: &Login) -> Result<(), Refusal> {
        let mut scram = None;
        loop {
            let frame = match self.next() {
                Next::Frame(frame) => frame,
                other => return Err(Refusal::dead(&format!("{other:?}"))),
            };
            match frame.tag {
                b'R' => self.prove(login, &frame, &mut scram)?,
                b'K' => {
                    self.pid = i32::from_be_bytes(frame.body[..4].try_into().unwrap());
                    self.secret = frame.body[4..].to_vec();
                }
                b'E' => return Err(Refusal::of(&frame)),
                _ => {}
            }
            let ready = frame.tag == b'Z';
            self.greeting.push(frame);
            if ready {
                return Ok(());
            }
        }
    }

    fn prove(
        &mut self,
        login: &Login,
        frame: &Frame,
        scram: &mut Option<ScramSha256>,
    ) -> Result<(), Refusal> {
        let (kind, rest) = frame.body.split_at(4);
        let password = login.password.as_bytes();
        let broken = |error: io::Error| Refusal::dead(&error.to_string());
        match u32::from_be_bytes(kind.try_into().unwrap()) {
            0 => {}
            3 => self.send(&message(b'p', &[password, b"\0"].concat())),
            5 => {
                let salt = rest.try_into().unwrap();
                let hash = md5_hash(login.user.as_bytes(), password, salt);
                self.send(&message(b'p', &[hash.as_bytes(), b"\0"].concat()));
            }
            10 => {
                let offered = String::from_utf8_lossy(rest).into_owned();
                let (name, binding) = self.channel_binding(&offered);
                let started = scram.insert(ScramSha256::new(password, binding));
                let first = started.message();
                let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                let body = [name.as_bytes(), b"\0", &length, first].concat();
                self.send(&message(b'p', &body));
            }
            11 => {
                let running = scram.as_mut().unwrap();
                running.update(rest).map_err(broken)?;
                self.send(&message(b'p', running.message()));
            }
            12 => scram.as_mut().unwrap().finish(rest).map_err(broken)?,
            other => return Err(Refusal::dead(&format!("authentication {other}"))),
        }
        Ok(())
    }

    /// Binds SCRAM to the TLS channel wherever the server offers it.
    fn channel_binding(&self, offered: &str) -> (&'static str, ChannelBinding) {
        let Wire::Tls(stream) = &self.wire else {
            return ("SCRAM-SHA-256", ChannelBinding::unsupported());
        };
        if !offered.contains("SCRAM-SHA-256-PLUS") {
            return ("SCRAM-SHA-256", ChannelBinding::unrequested());
        }
        let leaf = &stream.conn.peer_certificates().unwrap()[0];
        let hash = ring::digest::digest(&ring::digest::SHA256, leaf);
        let binding = ChannelBinding::tls_server_end_point(hash.as_ref().to_vec());
        ("SCRAM-SHA-256-PLUS", binding)
    }

    /// The certificate that the other side showed.
    pub fn certificate(&self) -> Vec<u8> {
        match &self.wire {
            Wire::Clear(_) => Vec::new(),
            Wire::Tls(stream) => stream.conn.peer_certificates().unwrap()[0].to_vec(),
        }
    }

    /// The next frame, waiting as long as patience lasts.
    pub fn next(&mut self) -> Next {
        self.next_within(PATIENCE)
    }

    pub fn next_within(&mut self, patience: Duration) -> Next {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            if let Some(frame) = Frame::cut(&mut self.inbox) {
                return Next::Frame(frame);
            }
            let _ = self.socket().set_read_timeout(Some(patience));
            let read = match &mut self.wire {
                Wire::Clear(socket) => socket.read(&mut chunk),
                Wire::Tls(stream) => stream.read(&mut chunk),
            };
            match read {
                Ok(0) => return Next::Closed,
                Ok(bytes) => self.inbox.extend_from_slice(&chunk[..bytes]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Next::Silence,
                    ErrorKind::Interrupted => {}
                    _ => return Next::Closed,
                },
            }
        }
    }

    /// One frame that must come.
    pub fn frame(&mut self) -> Frame {
        match self.next() {
            Next::Frame(frame) => frame,
            other => panic!("a frame was due, but {other:?}"),
        }
    }

    /// Frames up to the `ready`th ReadyForQuery, or the end of the connection.
    pub fn replies(&mut self, ready: usize) -> Answer {
        let mut frames = Vec::new();
        let mut seen = 0;
        while seen < ready {
            match self.next() {
                Next::Frame(frame) => {
                    seen += usize::from(frame.tag == b'Z');
                    frames.push(frame);
                }
                Next::Closed => {
                    return Answer {
                        frames,
                        closed: true,
                    };
                }
                Next::Silence => panic!("{seen} of {ready} ReadyForQuery after {frames:?}"),
            }
        }
        Answer {
            frames,
            closed: false,
        }
    }

    /// All that comes until the peer hangs up.
    pub fn last_words(&mut self) -> Answer {
        self.replies(usize::MAX)
    }

    /// Frames up to and including the first with `tag`.
    pub fn until(&mut self, tag: u8) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            frames.push(self.frame());
            if frames.last().is_some_and(|frame| frame.tag == tag) {
                return frames;
            }
        }
    }

    /// One simple query and its whole answer.
    pub fn ask(&mut self, sql: &str) -> Answer {
        self.exchange(&wire::query(sql))
    }

    /// Sends, and reads up to one ReadyForQuery.
    pub fn exchange(&mut self, bytes: &[u8]) -> Answer {
        self.send(bytes);
        self.replies(1)
    }

    /// A statement that must succeed, and its one value.
    pub fn value(&mut self, sql: &str) -> String {
        let answer = self.ask(sql);
        assert_eq!(answer.error(), None, "{sql}");
        answer
            .column()
            .pop()
            .unwrap_or_else(|| panic!("{sql}: no row"))
    }

    /// A statement that must succeed.
    pub fn run(&mut self, sql: &str) {
        let answer = self.ask(sql);
        assert_eq!(answer.error(), None, "{sql}");
        assert!(!answer.closed, "{sql}");
    }

    /// Asks, by a connection of its own, to cancel what runs here.
    pub fn cancel(&self) {
        send_cancel(self.address, self.pid, &self.secret);
    }

    /// Gone without a word: RST where the system still holds data, FIN otherwise.
    pub fn vanish(self) {
        let socket = socket2::SockRef::from(self.socket());
        let _ = socket.set_linger(Some(Duration::ZERO));
    }

    /// Half-closes: nothing more will come from here, but we still listen.
    pub fn stop_sending(&self) {
        let _ = self.socket().shutdown(Shutdown::Write);
    }

    /// Says Terminate and waits for the peer to hang up.
    pub fn leave(mut self) {
        self.send(&wire::terminate());
        self.last_words();
    }
}

/// Waits until the other side has closed: the request was then seen.
pub fn send_cancel(address: SocketAddr, pid: i32, secret: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
        .write_all(&wire::cancel_request(pid, secret))
        .unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    answer
}

/// Frames as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub frames: Vec<Frame>,
    pub closed: bool,
}

impl Answer {
    pub fn error(&self) -> Option<Refusal> {
        self.errors().into_iter().next()
    }

    pub fn errors(&self) -> Vec<Refusal> {
        let errors = self.frames.iter().filter(|frame| frame.tag == b'E');
        errors.map(Refusal::of).collect()
    }

    /// SQLSTATE of the first error, empty if there was none.
    pub fn code(&self) -> String {
        self.error().map(|error| error.code).unwrap_or_default()
    }

    /// Columns of every DataRow.
    pub fn rows(&self) -> Vec<Vec<Option<String>>> {
        let rows = self.frames.iter().filter(|frame| frame.tag == b'D');
        rows.map(Frame::columns).collect()
    }

    /// The first column of every row; NULL is empty.
    pub fn column(&self) -> Vec<String> {
        let rows = self.rows().into_iter();
        rows.map(|row| row.into_iter().next().flatten().unwrap_or_default())
            .collect()
    }

    /// The tags of all frames, as text.
    pub fn tags(&self) -> String {
        self.frames
            .iter()
            .map(|frame| char::from(frame.tag))
            .collect()
    }

    /// Transaction status in the last ReadyForQuery.
    pub fn status(&self) -> Option<char> {
        let ready = self.frames.iter().rev().find(|frame| frame.tag == b'Z')?;
        Some(char::from(ready.body[0]))
    }

    /// Every CommandComplete's text.
    pub fn completed(&self) -> Vec<String> {
        let done = self.frames.iter().filter(|frame| frame.tag == b'C');
        done.map(Frame::text).collect()
    }
}
