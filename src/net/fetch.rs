//! One question over HTTP at a time: a GET to one address, and an answer of bounded size.
//!
//! Follows no redirect and repeats nothing that was answered. Knows nothing of what is asked.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::connector::{DialError, SocketOptions, dial};
use super::resolver::Resolver;
use super::trust::{BadAuthorities, Trust};
use crate::config::{Scheme, WebAddress};

/// Connections kept for the next question.
const MAX_IDLE: usize = 8;

/// Asks one web server.
#[derive(Debug)]
pub struct Fetcher {
    at: WebAddress,
    tls: Arc<ClientConfig>,
    timeout: Duration,
    limit_bytes: usize,
    resolver: Resolver,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

/// What came back.
#[derive(Debug)]
pub struct Fetched {
    pub status: u16,
    /// Without parameters, in lower case.
    pub content_type: String,
    pub body: Vec<u8>,
}

/// Why nothing came back that could be used.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("TLS with {host} failed: {source}")]
    Tls { host: String, source: io::Error },
    #[error("{host} is not a name that a certificate could bear")]
    NoServerName { host: String },
    #[error("{host} speaks no HTTP that is understood: {source}")]
    Http { host: String, source: hyper::Error },
    #[error("the request is not one that can be sent")]
    BadRequest,
    #[error("{host} did not answer within {within:?}")]
    TimedOut { host: String, within: Duration },
    #[error("the answer of {host} broke off or is larger than {limit_bytes} bytes")]
    Body { host: String, limit_bytes: usize },
}

impl Fetcher {
    pub fn new(
        at: WebAddress,
        authorities: Option<&[u8]>,
        timeout: Duration,
        limit_bytes: usize,
        resolver: Resolver,
    ) -> Result<Fetcher, BadAuthorities> {
        let mut tls = Trust::AuthorityAndName.client_config(authorities)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Fetcher {
            at,
            tls: Arc::new(tls),
            timeout,
            limit_bytes,
            resolver,
            idle: Mutex::default(),
        })
    }

    pub fn at(&self) -> &WebAddress {
        &self.at
    }

    /// Asks for `target` (path and query). Cancel-safe: dropped, it hangs up.
    pub async fn get(
        &self,
        target: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Fetched, FetchError> {
        let deadline = Instant::now() + self.timeout;
        let exchange = timeout_at(deadline, self.exchange(target, headers, deadline));
        exchange.await.unwrap_or_else(|_| {
            Err(FetchError::TimedOut {
                host: self.at.authority(),
                within: self.timeout,
            })
        })
    }

    async fn exchange(
        &self,
        target: &str,
        headers: &[(&'static str, &str)],
        deadline: Instant,
    ) -> Result<Fetched, FetchError> {
        loop {
            let (mut connection, is_fresh) = match self.take_idle() {
                Some(connection) => (connection, false),
                None => (self.connect(deadline).await?, true),
            };
            let sent = connection
                .send_request(self.request(target, headers)?)
                .await;
            let answer = match sent {
                Ok(answer) => answer,
                // The other end had hung up before it saw this: nothing was answered.
                Err(_) if !is_fresh => continue,
                Err(source) => return Err(self.http(source)),
            };
            let status = answer.status().as_u16();
            let content_type = answer.headers().get(CONTENT_TYPE);
            let content_type = content_type.and_then(|value| value.to_str().ok());
            let content_type = content_type.and_then(|value| value.split(';').next());
            let content_type = content_type.unwrap_or_default().trim().to_ascii_lowercase();
            let body = Limited::new(answer.into_body(), self.limit_bytes);
            let body = body.collect().await.map_err(|_| FetchError::Body {
                host: self.at.authority(),
                limit_bytes: self.limit_bytes,
            })?;
            self.keep(connection);
            return Ok(Fetched {
                status,
                content_type,
                body: body.to_bytes().to_vec(),
            });
        }
    }

    fn request(
        &self,
        target: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Request<Empty<Bytes>>, FetchError> {
        let request = Request::get(target).header(HOST, self.at.authority());
        headers
            .iter()
            .fold(request, |request, (name, value)| {
                request.header(*name, *value)
            })
            .body(Empty::new())
            .map_err(|_| FetchError::BadRequest)
    }

    async fn connect(&self, deadline: Instant) -> Result<SendRequest<Empty<Bytes>>, FetchError> {
        let host = &self.at.at.host;
        let options = SocketOptions::default();
        let (tcp, _) = dial(&self.resolver, host, self.at.at.port, &options, deadline).await?;
        match self.at.scheme {
            Scheme::Http => self.greet(tcp).await,
            Scheme::Https => {
                let Ok(name) = ServerName::try_from(host.clone()) else {
                    return Err(FetchError::NoServerName { host: host.clone() });
                };
                let connector = TlsConnector::from(Arc::clone(&self.tls));
                let tls = connector.connect(name, tcp).await;
                let tls = tls.map_err(|source| FetchError::Tls {
                    host: host.clone(),
                    source,
                })?;
                self.greet(tls).await
            }
        }
    }

    async fn greet<S>(&self, stream: S) -> Result<SendRequest<Empty<Bytes>>, FetchError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| self.http(source))?;
        // Ends with the sender, which this fetcher or the question under way owns.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn http(&self, source: hyper::Error) -> FetchError {
        FetchError::Http {
            host: self.at.authority(),
            source,
        }
    }

    fn take_idle(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, connection: SendRequest<Empty<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.is_closed());
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }
}
