//! From a bare connection to the first ReadyForQuery: startup packet, authentication, parameters.
//!
//! Knows what a server may say before it is ready; does not know how the connection was made.

use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};
use tracing::debug;

use super::connection::Parameters;
use super::error::Fault;
use super::inbox::{Inbox, Message};
use super::refusal::Refusal;
use crate::net::Stream;
use crate::protocol::CancelKey;
use crate::protocol::authentication::{Authentication, Mechanisms};
use crate::protocol::frame::{put, put_cstr, put_untagged};
use crate::protocol::reply::{error_field, parameter_status};
use crate::protocol::scram::{self, Binding, Hello, Mechanism};
use crate::protocol::tag::{backend, frontend};
use crate::secrets;

const PROTOCOL_3_0: [u8; 4] = [0, 3, 0, 0];

/// What a login sends.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    pub user: &'a str,
    pub database: &'a str,
    pub credential: &'a secrets::Login,
    /// Further startup parameters, such as `application_name`.
    pub parameters: &'a [(&'a str, &'a str)],
    /// SQL to run before anybody gets the connection; empty: none.
    pub init_query: &'a str,
}

/// What a server said until it was ready.
#[derive(Debug)]
pub(super) struct Welcome {
    pub parameters: Parameters,
    pub key: CancelKey,
}

/// Logs in. Not cancel-safe: dropped half-way, the connection is of no more use.
pub(super) async fn log_in(
    stream: &mut Stream,
    inbox: &mut Inbox,
    login: &Login<'_>,
    end_point: Option<&[u8]>,
) -> Result<Welcome, Fault> {
    send(stream, &startup_packet(login)).await?;
    let password = |method: &'static str| match login.credential {
        secrets::Login::Password(password) => Ok(password),
        secrets::Login::Keys(_) => Err(Fault::NoPassword { method }),
        secrets::Login::Token(_) => Err(Fault::TokenNotAskedFor { method }),
    };
    let secured = stream.is_tls();
    let request = authentication(stream, inbox).await?;
    match request {
        Authentication::Ok => return welcome(stream, inbox).await,
        Authentication::CleartextPassword if !secured => return Err(Fault::CleartextWithoutTls),
        Authentication::CleartextPassword => {
            let text = match login.credential {
                secrets::Login::Token(token) => token.text().expose(),
                secrets::Login::Password(_) | secrets::Login::Keys(_) => {
                    password(request.name())?.text().expose()
                }
            };
            send_password(stream, text.as_bytes()).await?;
        }
        Authentication::Md5Password { salt } => {
            let text = password(request.name())?.text().expose().as_bytes();
            let user = login.user.as_bytes();
            let hash = postgres_protocol::authentication::md5_hash(user, text, salt);
            send_password(stream, hash.as_bytes()).await?;
        }
        Authentication::Sasl(mechanisms) => {
            let binding = binding(mechanisms, end_point)?;
            scram(stream, inbox, login.credential, binding).await?;
        }
        Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => {
            return Err(unexpected(backend::AUTHENTICATION));
        }
        Authentication::Other { .. } => {
            let method = request.name();
            return Err(Fault::UnsupportedAuthentication { method });
        }
    }
    match authentication(stream, inbox).await? {
        Authentication::Ok => welcome(stream, inbox).await,
        _ => Err(unexpected(backend::AUTHENTICATION)),
    }
}

fn startup_packet(login: &Login<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    put_untagged(&mut out, |body| {
        body.extend_from_slice(&PROTOCOL_3_0);
        let own = [("user", login.user), ("database", login.database)];
        for (name, value) in own.iter().chain(login.parameters) {
            put_cstr(body, name.as_bytes());
            put_cstr(body, value.as_bytes());
        }
        body.push(0);
    });
    out
}

/// Which binding to use, given what the server offers and whether its certificate has a hash.
fn binding<'a>(
    mechanisms: Mechanisms<'_>,
    end_point: Option<&'a [u8]>,
) -> Result<Binding<'a>, Fault> {
    let offered: Vec<_> = mechanisms.filter_map(Mechanism::parse).collect();
    let binding = match end_point {
        Some(hash) if offered.contains(&Mechanism::ScramPlus) => Binding::EndPoint(hash),
        Some(_) => Binding::NotOffered,
        None => Binding::Unsupported,
    };
    if !offered.contains(&binding.mechanism()) {
        let method = "SASL without SCRAM-SHA-256";
        return Err(Fault::UnsupportedAuthentication { method });
    }
    Ok(binding)
}

async fn scram(
    stream: &mut Stream,
    inbox: &mut Inbox,
    credential: &secrets::Login,
    binding: Binding<'_>,
) -> Result<(), Fault> {
    if let secrets::Login::Token(_) = credential {
        let method = binding.mechanism().name();
        return Err(Fault::TokenNotAskedFor { method });
    }
    let mut random = [0; scram::NONCE_BYTES];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| Fault::NoRandomness)?;
    let (hello, first) = Hello::new(binding, scram::nonce(random));
    let mut out = Vec::with_capacity(128);
    put(&mut out, frontend::PASSWORD, |body| {
        put_cstr(body, binding.mechanism().name().as_bytes());
        let length = u32::try_from(first.len()).expect("made above, of bounded parts");
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(&first);
    });
    send(stream, &out).await?;

    let Authentication::SaslContinue(server_first) = authentication(stream, inbox).await? else {
        return Err(unexpected(backend::AUTHENTICATION));
    };
    let challenge = hello.challenged(server_first)?;
    let keys = match credential {
        secrets::Login::Keys(keys) => Arc::clone(keys),
        secrets::Login::Password(password) | secrets::Login::Token(password) => password
            .salted(challenge.salt(), challenge.iterations())
            .await
            .ok_or(Fault::Ending)?,
    };
    let (awaiting, proof) = challenge.prove(&keys)?;
    out.clear();
    put(&mut out, frontend::PASSWORD, |body| {
        body.extend_from_slice(&proof);
    });
    send(stream, &out).await?;

    let Authentication::SaslFinal(server_final) = authentication(stream, inbox).await? else {
        return Err(unexpected(backend::AUTHENTICATION));
    };
    awaiting.verify(server_final)?;
    if let secrets::Login::Password(password) = credential {
        password.keys.keep(keys);
    }
    Ok(())
}

/// From AuthenticationOk to the first ReadyForQuery.
async fn welcome(stream: &mut Stream, inbox: &mut Inbox) -> Result<Welcome, Fault> {
    let mut parameters = Parameters::default();
    let mut key = None;
    loop {
        let Message { tag, body } = next(stream, inbox).await?;
        match tag {
            backend::PARAMETER_STATUS => {
                let (name, value) = parameter_status(body).ok_or(malformed(tag))?;
                parameters.set(name, value);
            }
            backend::BACKEND_KEY_DATA => {
                key = Some(CancelKey::parse(body).ok_or(malformed(tag))?);
            }
            backend::READY_FOR_QUERY => {
                let key = key.ok_or(Fault::NoKey)?;
                return Ok(Welcome { parameters, key });
            }
            _ => return Err(unexpected(tag)),
        }
    }
}

async fn authentication<'a>(
    stream: &mut Stream,
    inbox: &'a mut Inbox,
) -> Result<Authentication<'a>, Fault> {
    let Message { tag, body } = next(stream, inbox).await?;
    if tag != backend::AUTHENTICATION {
        return Err(unexpected(tag));
    }
    Authentication::parse(body).ok_or(malformed(tag))
}

/// The next message that is neither a notice, which is logged, nor an error, which is one.
async fn next<'a>(stream: &mut Stream, inbox: &'a mut Inbox) -> Result<Message<'a>, Fault> {
    while inbox.peek(stream).await?.tag == backend::NOTICE_RESPONSE {
        let notice = inbox.next(stream).await?;
        let message = error_field(notice.body, b'M').unwrap_or_default();
        debug!(notice = %String::from_utf8_lossy(message), "the server says at login");
    }
    let message = inbox.next(stream).await?;
    match message.tag {
        backend::ERROR_RESPONSE => Err(Fault::Refused(Refusal::new(message.body))),
        _ => Ok(message),
    }
}

async fn send_password(stream: &mut Stream, text: &[u8]) -> Result<(), Fault> {
    let mut out = Vec::with_capacity(64);
    put(&mut out, frontend::PASSWORD, |body| put_cstr(body, text));
    send(stream, &out).await
}

async fn send(stream: &mut Stream, bytes: &[u8]) -> Result<(), Fault> {
    let sent = stream.send(bytes).await;
    sent.map_err(|error| Fault::Read(error.into()))
}

fn unexpected(tag: u8) -> Fault {
    let what = "a message that has no place in a login";
    Fault::Protocol { what, tag }
}

fn malformed(tag: u8) -> Fault {
    let what = "a malformed message";
    Fault::Protocol { what, tag }
}
