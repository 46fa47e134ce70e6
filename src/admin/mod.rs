//! HTTP for operators: health, readiness, metrics, pools, pins, reload.
//!
//! Knows how to ask the house, through [`House`], not how the house is built.

mod report;
mod routes;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use report::{
    DigestReport, PinReport, PinsReport, PoolReport, PoolsReport, ReasonReport, Role, State,
    TargetReport,
};

/// What the house tells, and does, for operators. Quick: called on the thread that serves HTTP.
pub trait House: Send + Sync {
    /// Whether clients can be served; `Err` says why not.
    fn ready(&self) -> Result<(), String>;
    fn pools(&self) -> PoolsReport;
    fn pins(&self) -> PinsReport;
    /// Prometheus text.
    fn metrics(&self) -> String;
    /// Reads the configuration anew; on `Err` the old one stays in force.
    fn reload(&self) -> Result<(), String>;
}

/// Connections at a time; those above wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 256;
/// From the end of one request (or the connection's beginning) to the end of the next one's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection's life, so that readers who don't read don't keep a place.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);
/// How long an answer under way may take once the connection, or the house, has to end.
const GRACE: Duration = Duration::from_secs(2);
/// After accept failed, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `end`; then lets answers under way finish. Dropping the future ends all of it at once.
pub async fn serve(listener: TcpListener, house: Arc<dyn House>, end: impl Future<Output = ()>) {
    let (ending, ended) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, house.clone(), ended.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "HTTP connections can't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    drop(ending);
    while connections.join_next().await.is_some() {}
}

/// One connection, until its peer, its lifetime or the house ends it.
async fn converse(stream: TcpStream, house: Arc<dyn House>, mut ended: watch::Receiver<()>) {
    let service = service_fn(move |request| {
        let house = Arc::clone(&house);
        async move { Ok::<_, std::convert::Infallible>(routes::answer(&request, &house).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 * 1024)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // What a peer does wrong is its own affair.
        _ = &mut connection => return,
        _ = ended.changed() => {}
        () = tokio::time::sleep(CONNECTION_LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}
