//! The process's life: start, signals, drain, end.
//!
//! Knows the order of things; `build` knows the things.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::build::{House, StartError, build};
use super::reload::{Reload, Reloader};
use super::report::Reporter;
use super::shared::Shared;
use super::worker::{Plan, Stage};
use crate::admin;
use crate::config::Config;

/// Runs until a signal says otherwise. `read` reads the configuration anew.
pub fn run(config: Config, read: Reload) -> Result<(), StartError> {
    super::log::start(&config.log)?;
    let House {
        shared,
        plans,
        stage,
        http,
        fleet,
    } = build(config)?;
    let runtime = super::worker::runtime().map_err(StartError::Thread)?;
    let outcome = runtime.block_on(async {
        let workers = Workers::start(plans)?;
        announce(&shared);
        tokio::task::spawn_local(super::cluster::watch(Arc::clone(&shared)));
        // Until the last connection is closed: for as long as it lives the others count this task.
        let mut fellows = JoinSet::new();
        if let Some((fleet, listener)) = fleet {
            fellows.spawn_local(fleet.live(listener, Arc::clone(&shared)));
        }
        let reloader = Arc::new(Reloader::new(Arc::clone(&shared), read));
        attend(shared, stage, http, reloader, workers).await
    });
    // A worker that does not end must not keep the process from ending.
    runtime.shutdown_background();
    outcome.map_err(StartError::Thread)
}

/// Those who serve the clients.
enum Workers {
    /// One alone needs no thread of its own. In a process of one thread the kernel also finds its files without
    /// atomic operations, at each of a transaction's system calls.
    Here(tokio::task::JoinHandle<()>),
    Threads(Vec<JoinHandle<()>>),
}

impl Workers {
    fn start(mut plans: Vec<Plan>) -> io::Result<Workers> {
        if plans.len() == 1
            && let Some(plan) = plans.pop()
        {
            return Ok(Workers::Here(tokio::task::spawn_local(async {
                note_failure(plan.serve().await);
            })));
        }
        plans
            .into_iter()
            .map(start_worker)
            .collect::<Result<_, _>>()
            .map(Workers::Threads)
    }

    /// Whether one of them has ended.
    fn has_lost_one(&self) -> bool {
        match self {
            Workers::Here(task) => task.is_finished(),
            Workers::Threads(threads) => threads.iter().any(JoinHandle::is_finished),
        }
    }

    /// Waits for all of them. One that panicked has ended as well.
    async fn join(self) {
        match self {
            Workers::Here(task) => drop(task.await),
            Workers::Threads(threads) => {
                let all = move || threads.into_iter().for_each(|thread| drop(thread.join()));
                let _ = tokio::task::spawn_blocking(all).await;
            }
        }
    }
}

fn start_worker(plan: Plan) -> io::Result<JoinHandle<()>> {
    let name = format!("weir-{}", plan.id.0);
    std::thread::Builder::new()
        .name(name)
        .spawn(move || note_failure(plan.run()))
}

fn note_failure(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "a worker could not run");
    }
}

fn announce(shared: &Shared) {
    let config = shared.config.load();
    let name = &shared.endpoint.name;
    tracing::info!(address = %config.listen.writer, cluster = %name, "listening");
    if config.database.has_readers() {
        tracing::info!(address = %config.listen.reader, cluster = %name, "listening for readers");
    }
    tracing::info!(address = %config.listen.http, workers = config.workers, "HTTP listening");
    let instances = shared.endpoint.instances();
    let caps = instances.iter().map(|one| one.target.usage().0);
    super::files::check(&config, caps.sum());
}

/// How often the workers are looked after.
const WORKER_CHECK: Duration = Duration::from_secs(1);

/// The main thread's own work: HTTP and signals.
async fn attend(
    shared: Arc<Shared>,
    stage: watch::Sender<Stage>,
    http: std::net::TcpListener,
    reloader: Arc<Reloader>,
    workers: Workers,
) -> io::Result<()> {
    let reporter = Arc::new(Reporter::new(Arc::clone(&shared), Arc::clone(&reloader)));
    let (end_http, http_ends) = oneshot::channel::<()>();
    let http = tokio::spawn(admin::serve(
        TcpListener::from_std(http)?,
        reporter,
        async {
            let _ = http_ends.await;
        },
    ));
    let vault = Arc::clone(&shared.vault);
    let keeper = tokio::spawn(async move { vault.keep().await });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                // Not here: each new password takes milliseconds, and a worker may share this thread.
                let reloader = Arc::clone(&reloader);
                drop(tokio::task::spawn_blocking(move || reloader.reload_and_log()));
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // Without one of its workers Weir would look healthy and refuse a share of its clients.
            _ = tokio::time::sleep(WORKER_CHECK) => if workers.has_lost_one() {
                return Err(io::Error::other("a worker has ended; its log line says why"));
            },
        }
    }
    tokio::select! {
        () = drain(&shared, &stage, workers) => tracing::info!("ended in order"),
        () = again(&mut terminate, &mut interrupt) => tracing::warn!("ended at once by a second signal"),
    }
    keeper.abort();
    let _ = end_http.send(());
    let _ = http.await;
    Ok(())
}

async fn again(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Unready at once; then no new clients; then those inside a transaction may finish it; then the end.
async fn drain(shared: &Shared, stage: &watch::Sender<Stage>, workers: Workers) {
    shared.drain();
    let (delay, timeout) = {
        let config = shared.config.load();
        (config.drain_delay, config.drain_timeout)
    };
    tracing::info!(clients = shared.clients(), ?timeout, "draining");
    tokio::time::sleep(delay).await;
    stage.send_replace(Stage::Draining);
    // Those who are closed at the end are told why within the time, too.
    let last_words = (timeout / 10).min(Duration::from_secs(1));
    let ended = workers.join();
    tokio::pin!(ended);
    if tokio::time::timeout(timeout.saturating_sub(last_words), &mut ended)
        .await
        .is_err()
    {
        tracing::warn!(
            clients = shared.clients(),
            "drain_timeout is over: the clients left are closed"
        );
        stage.send_replace(Stage::Closing);
        let _ = tokio::time::timeout(last_words, ended).await;
    }
}
