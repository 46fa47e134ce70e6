//! One connection from nothing to usable, and the cancel request that belongs to it.
//!
//! Knows the order of things and their deadline; does not know how many connections there may be.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::connection::Parameters;
use super::error::Fault;
use super::inbox::Inbox;
use super::login::{Login, Welcome, log_in};
use super::refusal::Refusal;
use super::secure::{Channel, Reached, Way, open, open_again};
use super::simple::{self, Answer, AskError, MAX_ANSWER_BYTES};
use super::{ConnectError, Target};
use crate::net::Stream;
use crate::net::connector::peer_certificate;
use crate::net::endpoint_hash::tls_server_end_point;
use crate::protocol::CancelKey;
use crate::protocol::frame::put_untagged;
use crate::protocol::reply::TxStatus;
use crate::secrets;

const CANCEL_REQUEST: [u8; 4] = [0x04, 0xd2, 0x16, 0x2e];

/// What tells a writer from a reader, and one instance from another; and how many connections there may be. One row.
/// `rds.rds_superuser_reserved_connections` is what RDS has had before PostgreSQL 16's `reserved_connections`.
const LIMITS_QUERY: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
    pg_catalog.current_setting('max_connections'), \
    pg_catalog.current_setting('superuser_reserved_connections'), \
    pg_catalog.current_setting('reserved_connections', true), \
    pg_catalog.current_setting('rds.rds_superuser_reserved_connections', true), \
    (EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::int8";

/// A connection that is logged in, idle, and owes nothing.
#[derive(Debug)]
pub struct Connected {
    pub stream: Stream,
    pub key: CancelKey,
    pub parameters: Parameters,
    pub limits: Limits,
    /// `pg_is_in_recovery()`: a reader, which may become a writer later.
    pub in_recovery: bool,
    /// When the instance was started: no two have the same, nor one before and after a restart.
    pub started: Started,
    pub reached: Reached,
}

/// Microseconds, as the instance says it; as text.
pub type Started = Vec<u8>;

/// What the instance itself allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_connections: u32,
    pub superuser_reserved: u32,
    /// For holders of `pg_use_reserved_connections` or, on RDS, of `rds_superuser`.
    pub reserved: u32,
}

impl Limits {
    /// Connections that an ordinary role can have.
    pub fn ordinary(&self) -> u32 {
        self.max_connections
            .saturating_sub(self.superuser_reserved)
            .saturating_sub(self.reserved)
    }
}

/// Dials, logs in and gets to know the instance, all within the target's `connect_timeout`.
/// Cancel-safe: dropping it hangs up.
pub async fn connect(target: &Target, login: &Login<'_>) -> Result<Connected, ConnectError> {
    if matches!(login.credential, secrets::Login::Token(_))
        && !target.security.knows_whom_it_meets()
    {
        return Err(ConnectError::new(target, Fault::TokenUnprotected));
    }
    let deadline = Instant::now() + target.connect_timeout;
    let mut ways = target.security.ways().iter().copied().peekable();
    loop {
        let way = ways.next().unwrap_or(Way::Tls);
        match attempt(target, login, way, deadline).await {
            Err((error, tried)) if ways.peek().is_some() && tried != Tried::AllThereIs => {
                if !error.depends_on_channel() {
                    return Err(error);
                }
                tracing::debug!(%error, ?way, "trying the other sslmode");
            }
            Err((error, _)) => return Err(error),
            Ok(connected) => return Ok(connected),
        }
    }
}

/// Whether the other sslmode attempt would be another one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// The server has no TLS, so the clear was tried already.
    AllThereIs,
    OneWay,
}

async fn attempt(
    target: &Target,
    login: &Login<'_>,
    way: Way,
    deadline: Instant,
) -> Result<Connected, (ConnectError, Tried)> {
    let opened = open(target, way, deadline).await;
    let (stream, reached) = opened.map_err(|error| (error, Tried::OneWay))?;
    let tried = match (way, reached.channel) {
        (Way::TlsIfOffered, Channel::Plain) => Tried::AllThereIs,
        (Way::Plain | Way::Tls | Way::TlsIfOffered, _) => Tried::OneWay,
    };
    let entered = timeout_at(deadline, enter(stream, reached, login)).await;
    entered
        .unwrap_or_else(|_| Err(Fault::timed_out(target, "logging in")))
        .map_err(|fault| (ConnectError::new(target, fault), tried))
}

/// How long a server that refuses us may take to let go.
const LET_GO: Duration = Duration::from_millis(500);

/// Logs in and asks; everything behind the login goes in one write, so it costs one round trip.
async fn enter(
    mut stream: Stream,
    reached: Reached,
    login: &Login<'_>,
) -> Result<Connected, Fault> {
    let mut inbox = Inbox::new(MAX_ANSWER_BYTES);
    let end_point = peer_certificate(&stream).and_then(tls_server_end_point);
    let welcome = log_in(&mut stream, &mut inbox, login, end_point.as_deref()).await;
    if let Err(Fault::Refused(_)) = &welcome {
        // It has one connection less to give until it has hung up.
        let _ = timeout(LET_GO, stream.receive(&mut [0; 64])).await;
    }
    let Welcome {
        mut parameters,
        key,
    } = welcome?;

    let mut questions = Vec::with_capacity(512);
    simple::put_query(&mut questions, LIMITS_QUERY);
    if !login.init_query.is_empty() {
        simple::put_query(&mut questions, login.init_query);
    }
    let sent = stream.send(&questions).await;
    sent.map_err(|error| Fault::Read(error.into()))?;
    let answer = simple::read_answer(&mut stream, &mut inbox).await;
    let answer = answer.map_err(|error| fault(error, Fault::Refused))?;
    let (in_recovery, started, limits) = read_limits(&answer).ok_or(Fault::NoLimits)?;
    let mut changed = answer.parameters;
    if !login.init_query.is_empty() {
        let answer = simple::read_answer(&mut stream, &mut inbox).await;
        let answer = answer.map_err(|error| fault(error, Fault::InitQuery))?;
        note(&mut changed, &answer.parameters);
        if answer.status != TxStatus::Idle {
            return Err(Fault::InitQueryLeftOpen);
        }
    }
    let settled = simple::settle(&mut stream, &mut inbox, &mut changed).await;
    settled.map_err(|error| fault(error, Fault::Refused))?;
    note(&mut parameters, &changed);
    Ok(Connected {
        stream,
        key,
        parameters,
        limits,
        in_recovery,
        started,
        reached,
    })
}

fn note(parameters: &mut Parameters, changed: &Parameters) {
    for (name, value) in changed.iter() {
        parameters.set(name, value);
    }
}

fn fault(error: AskError, refused: fn(Refusal) -> Fault) -> Fault {
    let what = "not an answer to a query";
    match error {
        AskError::Refused(refusal) => refused(refusal),
        AskError::Read(error) => Fault::Read(error),
        AskError::Unexpected { tag } | AskError::Malformed { tag } => Fault::Protocol { what, tag },
    }
}

fn read_limits(answer: &Answer) -> Option<(bool, Started, Limits)> {
    let [row] = &*answer.rows else { return None };
    let [recovery, max, superuser, reserved, rds, started] = &**row else {
        return None;
    };
    let number = |value: &Option<Vec<u8>>| -> Option<u32> {
        std::str::from_utf8(value.as_deref()?).ok()?.parse().ok()
    };
    let limits = Limits {
        max_connections: number(max)?,
        superuser_reserved: number(superuser)?,
        // NULL where this server knows no such setting.
        reserved: number(reserved)
            .unwrap_or(0)
            .saturating_add(number(rds).unwrap_or(0)),
    };
    let is_reader = recovery.as_deref() == Some(b"t");
    Some((is_reader, started.clone()?, limits))
}

/// Asks the server to cancel what `key` names, and waits until it has taken note: it hangs up then.
/// Goes to the same address, and in TLS if the connection was. Cancel-safe: dropping it hangs up,
/// though the request may have gone.
pub async fn cancel(
    target: &Target,
    reached: Reached,
    key: &CancelKey,
) -> Result<(), ConnectError> {
    let deadline = Instant::now() + target.connect_timeout;
    let mut stream = open_again(target, reached, deadline).await?;
    let mut request = Vec::with_capacity(16 + key.secret().len());
    put_untagged(&mut request, |body| {
        body.extend_from_slice(&CANCEL_REQUEST);
        body.extend_from_slice(&key.pid.to_be_bytes());
        body.extend_from_slice(key.secret());
    });
    let exchange = async {
        stream.send(&request).await?;
        // There is no answer. An end without TLS' farewell, or a reset, is an end too.
        let _ = stream.receive(&mut [0; 64]).await;
        io::Result::Ok(())
    };
    match timeout_at(deadline, exchange).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ConnectError::new(target, Fault::Read(error.into()))),
        Err(_) => Err(ConnectError::new(
            target,
            Fault::timed_out(target, "cancelling a query"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_old_and_new_servers() {
        let answer = |values: [Option<&str>; 6]| Answer {
            rows: vec![values.map(|v| v.map(|v| v.as_bytes().to_vec())).to_vec()],
            ..Answer::default()
        };
        let (reader, started, limits) = read_limits(&answer([
            Some("t"),
            Some("100"),
            Some("3"),
            None,
            Some("2"),
            Some("17"),
        ]))
        .unwrap();
        assert!(reader);
        assert_eq!(started, b"17");
        assert_eq!(limits.ordinary(), 95);
        let (reader, _, limits) = read_limits(&answer([
            Some("f"),
            Some("4"),
            Some("3"),
            Some("5"),
            None,
            Some("17"),
        ]))
        .unwrap();
        assert!(!reader);
        assert_eq!(limits.ordinary(), 0);
        assert_eq!(
            read_limits(&answer([Some("f"), None, None, None, None, None])),
            None
        );
        assert_eq!(read_limits(&Answer::default()), None);
    }
}
