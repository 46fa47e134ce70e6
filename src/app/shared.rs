//! What all threads of the process share.
//!
//! Put together by `build`, once; `reload` changes what may change.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use super::build::Maker;
use super::fleet::Fleet;
use super::worker::Order;
use crate::client::iam::Iam;
use crate::client::iam::upstream::Prober;
use crate::client::{FailureTerms, Failures, Gate, Manner, Places, Ration};
use crate::config::{self, Config, ReadOnlyTransactions, SequencePins};
use crate::metrics;
use crate::net::acceptor::Acceptor;
use crate::protocol::CancelKey;
use crate::secrets::Vault;
use crate::session::context::Limits;
use crate::session::endpoint::Endpoint;
use crate::session::handle::{Numbering, Whose};
use crate::session::pinboard::Pinboard;
use crate::session::pins::{Pins, Reason};

/// What clients' proofs are checked with.
pub struct Proofs {
    pub vault: Arc<Vault>,
    pub acceptor: Arc<Acceptor>,
    pub iam: Arc<Iam>,
    pub prober: Prober,
}

/// The way to the database, and how it is extended.
pub struct Way {
    pub endpoint: Arc<Endpoint>,
    pub maker: Maker,
}

pub struct Shared {
    pub config: ArcSwap<Config>,
    pub registry: Arc<metrics::Registry>,
    pub pinboard: Arc<Pinboard>,
    pub vault: Arc<Vault>,
    pub acceptor: Arc<Acceptor>,
    /// Tries tokens at the database.
    pub prober: Prober,
    /// What clients are admitted by; a new one after a reload.
    pub gate: ArcSwap<Gate>,
    /// The way to the database.
    pub endpoint: Arc<Endpoint>,
    pub maker: Maker,
    pub cluster_meters: metrics::Cluster,
    /// Where each worker takes orders.
    pub workers: Vec<mpsc::Sender<Order>>,
    clients: AtomicUsize,
    draining: AtomicBool,
    /// `None`: this task is the only one.
    pub fleet: Option<Arc<Fleet>>,
}

/// A client's place under the limit of clients; given up when dropped.
pub struct Seat(Arc<Shared>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether there is room for one more client.
pub enum Admittance {
    Seat(Seat),
    /// There is none: it may say what it wants, and be told.
    Full(Seat),
}

impl Shared {
    pub fn new(
        config: Config,
        proofs: Proofs,
        registry: Arc<metrics::Registry>,
        pinboard: Arc<Pinboard>,
        way: Way,
        workers: Vec<mpsc::Sender<Order>>,
    ) -> Shared {
        let Proofs {
            vault,
            acceptor,
            iam,
            prober,
        } = proofs;
        let standing = Standing {
            meters: Arc::new(metrics::Auth::new(&registry)),
            places: Places::new(
                config.auth.max_handshakes,
                config.auth.max_handshakes_per_address(),
            ),
            failures: Failures::new(failure_terms(&config.auth)),
        };
        Shared {
            gate: ArcSwap::from_pointee(gate(&config, &vault, iam, &acceptor, standing)),
            config: ArcSwap::from_pointee(config),
            cluster_meters: metrics::Cluster::new(&registry),
            registry,
            pinboard,
            vault,
            acceptor,
            prober,
            endpoint: way.endpoint,
            maker: way.maker,
            workers,
            clients: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            fleet: None,
        }
    }

    pub fn in_fleet(self, fleet: Option<Arc<Fleet>>) -> Shared {
        Shared { fleet, ..self }
    }

    pub fn sit_down(self: &Arc<Self>) -> Admittance {
        let before = self.clients.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(self));
        if before < self.config.load().listen.max_clients {
            Admittance::Seat(seat)
        } else {
            Admittance::Full(seat)
        }
    }

    /// How this task's sessions are numbered.
    pub fn numbering(&self) -> Numbering {
        let task = self.fleet.as_ref().map(|fleet| fleet.tag());
        Numbering::new(self.workers.len(), task)
    }

    /// Has a cancel request dealt with by the worker whose key it brings, if one of this task's; returns when that is
    /// done.
    pub async fn cancel(&self, key: CancelKey) {
        let Whose::Worker(worker) = self.numbering().whose(&key) else {
            return;
        };
        let (done, dealt_with) = oneshot::channel();
        if let Some(orders) = self.workers.get(worker.0)
            && orders.try_send(Order::Cancel(key, done)).is_err()
        {
            self.client_meters().cancels_ignored.increment(1);
        }
        // Its end is the signal, whether or not there was anything to cancel.
        let _ = dealt_with.await;
    }

    /// Clients connected.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Not ready from here on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub fn client_meters(&self) -> metrics::Clients {
        metrics::Clients::new(&self.registry)
    }

    pub fn session_limits(&self) -> Limits {
        limits(&self.config.load())
    }

    /// The account to ask a target with whether it is there.
    pub fn first_account(&self) -> Option<(String, String)> {
        let config = self.config.load();
        let user = self.vault.first_user(&config.users)?;
        Some((config.database.name.clone(), user.to_string()))
    }
}

/// The limits of sessions, as configured.
pub fn limits(config: &Config) -> Limits {
    Limits {
        max_unit_bytes: config.session.max_unit_bytes,
        unflushed_limit_bytes: config.session.unflushed_limit_bytes,
        large_statements_limit_bytes: config.session.large_statements_limit_bytes,
        listen: config.session.listen,
        listen_queue_bytes: config.session.listen_queue_bytes,
        query_timeout: config.pool.query_timeout,
        reset_timeout: config.pool.reset_timeout,
        idle_in_transaction_timeout: config.pool.idle_in_transaction_timeout,
        idle_client_timeout: config.session.idle_client_timeout,
        client_lifetime: config.session.client_lifetime,
        pin_notice: config.session.pin_notice,
        pin_limit: config.pool.pin_limit,
        unpinning: unpinning(&config.session),
        readers_for_writers: match config.cluster.read_only_transactions {
            ReadOnlyTransactions::Writer => None,
            ReadOnlyTransactions::Readers => Some(config.cluster.causal_window),
        },
    }
}

/// Reasons that do not pin.
fn unpinning(session: &config::Session) -> Pins {
    let filtered = session.session_pinning_filters.iter();
    let filtered = filtered.map(|filter| Reason::from(*filter));
    let sequences = match session.pin_sequences {
        SequencePins::Never => Some(Reason::Sequence),
        SequencePins::Always => None,
    };
    filtered.chain(sequences).collect()
}

/// What outlasts a gate: it goes from one to the next.
pub struct Standing {
    meters: Arc<metrics::Auth>,
    places: Arc<Places>,
    failures: Failures,
}

impl Standing {
    pub fn of(gate: &Gate, config: &Config) -> Standing {
        Standing {
            meters: Arc::clone(&gate.meters),
            places: Arc::clone(&gate.places),
            failures: gate.failures.with_terms(failure_terms(&config.auth)),
        }
    }
}

fn failure_terms(auth: &config::Auth) -> FailureTerms {
    FailureTerms {
        per_user_and_address: auth.max_failed_logins,
        per_address: auth.max_failed_logins_per_address,
        per_user: auth.max_failed_logins_per_user,
        window: auth.failed_login_window,
        delay: auth.failed_login_delay,
        max_remembered: auth.max_failed_logins_remembered,
    }
}

fn manners(config: &Config) -> HashMap<String, Manner> {
    let asked = config.users.iter().map(|user| {
        let manner = Manner {
            method: user.method.unwrap_or(config.auth.method),
            certificate_names: match user.certificate_names.as_slice() {
                [] => vec![user.name.clone()],
                names => names.to_vec(),
            },
        };
        (user.name.clone(), manner)
    });
    asked.collect()
}

/// What clients are admitted by, as configured.
pub fn gate(
    config: &Config,
    vault: &Arc<Vault>,
    iam: Arc<Iam>,
    acceptor: &Arc<Acceptor>,
    standing: Standing,
) -> Gate {
    Gate {
        tls: Some(Arc::clone(acceptor)),
        tls_mode: config.tls.mode,
        method: config.auth.method,
        manners: manners(config),
        vault: Arc::clone(vault),
        iam,
        default_database: config.database.name.clone(),
        meters: standing.meters,
        handshake_timeout: config.auth.handshake_timeout,
        places: standing.places,
        failures: standing.failures,
        lines: Ration::new(config.log.refusals_per_second),
    }
}
