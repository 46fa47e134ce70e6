//! Gets a line to a server, with TLS or without, as the sslmode wants it.
//!
//! Knows libpq's words and SSLRequest; does not know what a startup packet is.
//! Source: PostgreSQL documentation, "SSL Support" of libpq, and CVE-2021-23222 (bytes behind the 'S').

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::error::Fault;
use super::{ConnectError, Target};
use crate::config::SslMode;
use crate::net::{BadAuthorities, Stream, TlsDialer, Trust, connector};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// An sslmode, and the authorities it goes with.
#[derive(Clone, Debug)]
pub struct Security {
    mode: SslMode,
    dialer: TlsDialer,
}

impl Security {
    /// `authorities` is a PEM bundle. With one, every mode checks whatever certificate it gets to see,
    /// as in libpq: `require` then means `verify-ca`.
    pub fn new(mode: SslMode, authorities: Option<&[u8]>) -> Result<Security, BadAuthorities> {
        let trust = match (mode, authorities) {
            (SslMode::VerifyFull, _) => Trust::AuthorityAndName,
            (SslMode::VerifyCa, _) => Trust::Authority,
            (SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require, None) => {
                Trust::Anybody
            }
            (SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require, Some(_)) => {
                Trust::Authority
            }
        };
        Ok(Security {
            mode,
            dialer: TlsDialer::new(trust, authorities)?,
        })
    }

    /// Whether every connection leads to the host that was meant, and to nobody else.
    pub(super) fn knows_whom_it_meets(&self) -> bool {
        self.mode == SslMode::VerifyFull
    }

    /// The ways to try, in order.
    pub(super) fn ways(&self) -> &'static [Way] {
        match self.mode {
            SslMode::Disable => &[Way::Plain],
            SslMode::Allow => &[Way::Plain, Way::Tls],
            SslMode::Prefer => &[Way::TlsIfOffered, Way::Plain],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Way::Tls],
        }
    }
}

/// One attempt's manner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Plain,
    /// In the clear when the server has no TLS.
    TlsIfOffered,
    Tls,
}

/// What a connection turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Plain,
    Tls,
}

/// Where a connection ended up: a cancel must go to the same address, and no less protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub address: SocketAddr,
    pub channel: Channel,
}

/// Dials the target's name. Cancel-safe: dropping it hangs up.
pub(super) async fn open(
    target: &Target,
    way: Way,
    deadline: Instant,
) -> Result<(Stream, Reached), ConnectError> {
    let (tcp, address) = connector::dial(
        &target.resolver,
        &target.at.host,
        target.at.port,
        &target.socket,
        deadline,
    )
    .await
    .map_err(|error| ConnectError::new(target, error))?;
    negotiate(target, tcp, address, way, deadline).await
}

/// Dials an address that the target's name led to before. Cancel-safe: dropping it hangs up.
pub(super) async fn open_again(
    target: &Target,
    reached: Reached,
    deadline: Instant,
) -> Result<Stream, ConnectError> {
    let address = reached.address;
    let tcp = connector::dial_address(&target.at.host, address, &target.socket, deadline)
        .await
        .map_err(|error| ConnectError::new(target, error))?;
    let way = match reached.channel {
        Channel::Plain => Way::Plain,
        Channel::Tls => Way::Tls,
    };
    let (stream, _) = negotiate(target, tcp, address, way, deadline).await?;
    Ok(stream)
}

async fn negotiate(
    target: &Target,
    mut tcp: TcpStream,
    address: SocketAddr,
    way: Way,
    deadline: Instant,
) -> Result<(Stream, Reached), ConnectError> {
    let fail = |fault: Fault| ConnectError::new(target, fault);
    let plain = |tcp| {
        let channel = Channel::Plain;
        Ok((Stream::plain(tcp), Reached { address, channel }))
    };
    if way == Way::Plain {
        return plain(tcp);
    }
    let timed_out = || fail(Fault::timed_out(target, "negotiating TLS"));
    let answer = timeout_at(deadline, ask_for_tls(&mut tcp)).await;
    match answer.map_err(|_| timed_out())?.map_err(fail)? {
        Answer::No if way == Way::TlsIfOffered => return plain(tcp),
        Answer::No => return Err(fail(Fault::TlsNotOffered)),
        Answer::Yes => {}
    }
    let secured = target.security.dialer.secure(tcp, &target.at.host, address);
    let stream = timeout_at(deadline, secured)
        .await
        .map_err(|_| timed_out())?
        .map_err(|error| ConnectError::new(target, error))?;
    let channel = Channel::Tls;
    Ok((stream, Reached { address, channel }))
}

enum Answer {
    Yes,
    No,
}

async fn ask_for_tls(tcp: &mut TcpStream) -> Result<Answer, Fault> {
    let lost = |error| Fault::Read(super::inbox::ReadError::Io(error));
    tcp.write_all(&SSL_REQUEST).await.map_err(lost)?;
    // Room for one byte too many: whatever comes with the answer was not sent under TLS.
    let mut answer = [0; 2];
    match (tcp.read(&mut answer).await.map_err(lost)?, answer) {
        (0, _) => Err(Fault::Read(super::inbox::ReadError::Closed)),
        (1, [b'S', _]) => Ok(Answer::Yes),
        (1, [b'N', _]) => Ok(Answer::No),
        (_, [b'S' | b'N', _]) => Err(Fault::BytesBeforeTls),
        // An ErrorResponse in the clear. Its text could be anybody's (CVE-2024-10977): not shown.
        (_, [b'E', _]) => Err(Fault::ErrorBeforeTls),
        (_, [byte, _]) => Err(Fault::NotPostgres { byte }),
    }
}
