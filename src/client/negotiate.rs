//! Encryption and startup: what comes before anyone is asked for a proof.
//!
//! Knows which requests may come, and how often; does not know users.
//! Source: PostgreSQL's `ProcessSSLStartup` and `ProcessStartupPacket`.

use super::Gate;
use super::peer::{Peer, Stop};
use super::refused::Refused;
use crate::config::TlsMode;
use crate::net::acceptor::Alpn;
use crate::protocol::CancelKey;
use crate::protocol::opening::{self, Again, Startup};

/// The startup packet has not come.
pub(super) struct Opening<'p> {
    peer: &'p mut Peer,
    ssl: Request,
    gssenc: Request,
}

/// Each request for encryption may come once, and none once TLS is on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Request {
    Possible,
    Spent,
}

pub(super) enum Opened<'p> {
    Cancel(CancelKey),
    Startup(Greeted<'p>),
}

/// The client has said who it wants to be.
pub(super) struct Greeted<'p> {
    pub(super) peer: &'p mut Peer,
    pub(super) startup: Box<Startup>,
}

impl<'p> Opening<'p> {
    /// Takes TLS that begins with the first byte, which has come.
    pub async fn new(peer: &'p mut Peer, first: u8, gate: &Gate) -> Result<Opening<'p>, Stop> {
        if first == opening::TLS_HANDSHAKE {
            let acceptor = gate.tls.as_deref().ok_or(Refused::NoTls)?;
            match peer.secure(acceptor).await? {
                Alpn::Negotiated => {}
                Alpn::Absent => return Err(Refused::NoAlpn.into()),
            }
        }
        Ok(Opening {
            peer,
            ssl: Request::Possible,
            gssenc: Request::Possible,
        })
    }

    pub async fn startup(mut self, gate: &Gate) -> Result<Opened<'p>, Stop> {
        loop {
            match self.peer.packet().await? {
                opening::Opening::Ssl => self.ssl(gate).await?,
                opening::Opening::Gssenc => self.gssenc().await?,
                // Whether or not TLS is required: it tells nothing but a key, and libpq before 17 never encrypts it.
                opening::Opening::Cancel(key) => return Ok(Opened::Cancel(key)),
                opening::Opening::Startup(startup) => {
                    return self.greet(startup, gate).map(Opened::Startup);
                }
            }
        }
    }

    async fn ssl(&mut self, gate: &Gate) -> Result<(), Stop> {
        self.may_come(self.ssl, Again::Ssl)?;
        self.ssl = Request::Spent;
        match &gate.tls {
            Some(acceptor) if !self.peer.is_tls() => {
                self.peer.outbox().push(b'S');
                self.peer.flush().await?;
                self.peer.secure(acceptor).await?;
                self.gssenc = Request::Spent;
            }
            Some(_) | None => {
                self.peer.outbox().push(b'N');
                self.peer.flush().await?;
            }
        }
        Ok(())
    }

    async fn gssenc(&mut self) -> Result<(), Stop> {
        self.may_come(self.gssenc, Again::Gssenc)?;
        self.gssenc = Request::Spent;
        self.peer.outbox().push(b'N');
        self.peer.flush().await
    }

    /// Bytes behind the request were sent before encryption could begin: whoever sits in between may have
    /// put them there (CVE-2021-23214).
    fn may_come(&self, request: Request, which: Again) -> Result<(), Stop> {
        match request {
            Request::Spent => Err(opening::Opening::again(which).into()),
            Request::Possible if self.peer.has_unread() => {
                Err(Refused::UnencryptedData { behind: which }.into())
            }
            Request::Possible => Ok(()),
        }
    }

    fn greet(self, startup: Box<Startup>, gate: &Gate) -> Result<Greeted<'p>, Stop> {
        startup.put_negotiation(self.peer.outbox());
        match gate.tls_mode {
            TlsMode::Require if !self.peer.is_tls() => Err(Refused::TlsRequired.into()),
            TlsMode::Require | TlsMode::Allow => Ok(Greeted {
                peer: self.peer,
                startup,
            }),
        }
    }
}
