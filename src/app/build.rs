//! The composition root: everything that runs is put together here, from a configuration.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::authorities::authorities;
use super::fleet::{Fleet, FleetError};
use super::inquiry;
use super::shared::{Proofs, Shared, Way};
use super::trial;
use super::worker::{Backroom, MAX_ORDERS, Order, Plan, Stage};
use crate::client::iam::{Iam, IamError};
use crate::config::{Config, HostPort};
use crate::metrics;
use crate::net::acceptor::{Acceptor, CertificateError};
use crate::net::listen::{self, Keepalive};
use crate::net::{BadAuthorities, Resolver};
use crate::pool::portion::{Growth, Portion};
use crate::pool::{Policy, Target, Tickets, WorkerId};
use crate::secrets::{Outside, Vault, VaultError};
use crate::server::dialer::{Dialer, Duty, Share, Terms};
use crate::server::{self, Security};
use crate::session::endpoint::{Endpoint, GreetingTerms, Instance};
use crate::session::pinboard::Pinboard;
use crate::session::prepared::table;
use crate::topology::{Board, Place, Role, View};

/// Why Weir does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    #[error("database.ca_file: {path}: {source}", path = path.display())]
    AuthoritiesFile { path: PathBuf, source: io::Error },
    #[error("database.ca_file: {0}")]
    Authorities(#[from] BadAuthorities),
    #[error("users: {0}")]
    Users(#[from] VaultError),
    #[error("{0}")]
    Iam(#[from] IamError),
    #[error(
        "{name}: can't listen on {address}: {source}; choose another address, or end what listens there"
    )]
    Listen {
        name: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{0}")]
    Fleet(#[from] FleetError),
    #[error("a worker thread could not be started: {0}")]
    Thread(io::Error),
    #[error("log: {0}")]
    Log(#[from] super::log::LogError),
}

/// Everything, before it runs.
pub struct House {
    pub shared: Arc<Shared>,
    pub plans: Vec<Plan>,
    pub stage: watch::Sender<Stage>,
    pub http: StdListener,
    /// Where other tasks of the fleet come, if there is one.
    pub fleet: Option<(Arc<Fleet>, StdListener)>,
}

pub fn build(config: Config) -> Result<House, StartError> {
    let registry = Arc::new(metrics::Registry::default());
    let (ask, inquiries) = inquiry::open();
    let outside = Outside::new(&config, Some(ask), metrics::Vault::new(&registry));
    let vault = Arc::new(Vault::new(&config, outside)?);
    let acceptor = Arc::new(Acceptor::open(&config.tls)?);
    let pinboard = Arc::new(Pinboard::default());
    let security = security(&config)?;
    let (prober, trials) = trial::open();
    let resolver = Resolver::new(&config.dns);
    let secrets = vault.key_secrets();
    let iam = Arc::new(Iam::new(&config, &secrets, &prober, &resolver)?);
    if config.iam.static_keys.is_some() {
        tracing::warn!(
            "clients are let in by keys of its own (auth.iam.static): whoever holds one is any user; not for production"
        );
    }
    let listeners = listeners(&config)?;
    let http = bind_one("listen.http", config.listen.http)?;
    let fleet = fleet(&config, &resolver, &registry)?;

    let board = Arc::new(board(&config));
    let maker = Maker::new(security, resolver, Arc::clone(&vault), board);
    let endpoint = Arc::new(endpoint(&config, &maker, &registry, &pinboard));
    let workers = config.workers.get();
    let (orders, inboxes): (Vec<mpsc::Sender<Order>>, Vec<_>) =
        (0..workers).map(|_| mpsc::channel(MAX_ORDERS)).unzip();
    let (stage, watching) = watch::channel(Stage::default());
    let proofs = Proofs {
        vault,
        acceptor,
        iam,
        prober,
    };
    if fleet.is_some() {
        // Nothing is opened before the fleet's census has said how much is ours.
        endpoint.set_portion(Portion::Nothing, Growth::Free);
    }
    let way = Way { endpoint, maker };
    let shared = Shared::new(config, proofs, registry, pinboard, way, orders);
    let fellow = fleet.as_ref().map(|(fleet, _)| Arc::clone(fleet));
    let shared = Arc::new(shared.in_fleet(fellow));
    let plans = inboxes.into_iter().enumerate().map(|(id, orders)| Plan {
        id: WorkerId(id),
        shared: Arc::clone(&shared),
        listeners: Vec::new(),
        backroom: None,
        orders,
        stage: watching.clone(),
    });
    let mut plans: Vec<Plan> = plans.collect();
    if let Some(first) = plans.first_mut() {
        first.backroom = Some(Backroom { inquiries, trials });
    }
    for (role, sockets) in listeners {
        for (plan, socket) in plans.iter_mut().zip(sockets) {
            plan.listeners.push((socket, role));
        }
    }
    Ok(House {
        shared,
        plans,
        stage,
        http,
        fleet,
    })
}

pub fn security(config: &Config) -> Result<Security, StartError> {
    let authorities = authorities(&config.database)?;
    Ok(Security::new(config.database.ssl, authorities.as_deref())?)
}

/// The writer's listeners, one a worker; and the readers', if there may be readers.
fn listeners(config: &Config) -> Result<Vec<(Role, Vec<StdListener>)>, StartError> {
    let mut names = vec![("listen.writer", Role::Writer, config.listen.writer)];
    if config.database.has_readers() {
        names.push(("listen.reader", Role::Reader, config.listen.reader));
    }
    let keepalive = Keepalive {
        idle: config.database.keepalive_idle,
        interval: config.database.keepalive_interval,
        retries: config.database.keepalive_retries,
    };
    let bind = |(name, role, address)| {
        let sockets = listen::bind(address, config.workers, config.listen.backlog, keepalive);
        let sockets = sockets.map_err(|source| StartError::Listen {
            name,
            address,
            source,
        })?;
        Ok((role, sockets))
    };
    names.into_iter().map(bind).collect()
}

fn bind_one(name: &'static str, address: SocketAddr) -> Result<StdListener, StartError> {
    let bind = || {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| StartError::Listen {
        name,
        address,
        source,
    })
}

fn fleet(
    config: &Config,
    resolver: &Resolver,
    registry: &Arc<metrics::Registry>,
) -> Result<Option<(Arc<Fleet>, StdListener)>, StartError> {
    let Some(terms) = &config.fleet else {
        return Ok(None);
    };
    let fleet = Fleet::new(
        terms.clone(),
        resolver.clone(),
        metrics::Fleet::new(registry),
    )?;
    let listener = bind_one("fleet.listen", terms.listen)?;
    Ok(Some((Arc::new(fleet), listener)))
}

/// Makes the cluster's instances, those too that become known later.
pub struct Maker {
    security: Security,
    resolver: Resolver,
    vault: Arc<Vault>,
    board: Arc<Board>,
    tickets: Tickets,
}

impl Maker {
    fn new(security: Security, resolver: Resolver, vault: Arc<Vault>, board: Arc<Board>) -> Maker {
        Maker {
            security,
            resolver,
            vault,
            board,
            tickets: Tickets::default(),
        }
    }

    /// How an instance is dialled.
    pub fn host(&self, at: &HostPort, config: &Config) -> server::Target {
        let (security, resolver) = (self.security.clone(), self.resolver.clone());
        server::Target::new(at.clone(), &config.database, security, resolver)
    }

    /// One instance, without pools as yet.
    pub fn instance(&self, place: Place, at: &HostPort, config: &Config) -> Instance {
        let board = Arc::clone(&self.board);
        // Until it has said what it is.
        let duty = match config.database.hosts.contains(at) {
            true => Duty::Writer,
            false => Duty::Reader,
        };
        let dialer = Dialer::new(
            self.host(at, config),
            duty,
            terms(config),
            Arc::clone(&self.vault),
            Box::new(move || board.hint(place)),
        );
        let target = Target::new(
            dialer,
            policy(config),
            config.workers.get(),
            terms(config).first_cap(),
            Arc::clone(&self.tickets),
        );
        Instance {
            place,
            name: at.to_string().into(),
            target: Arc::new(target),
        }
    }
}

/// As long as nobody was asked, one alone is taken for the writer.
fn board(config: &Config) -> Board {
    Board::new(match &*config.database.instances() {
        [one] => View::of_one(one.to_string().into()),
        _ => View::default(),
    })
}

fn endpoint(
    config: &Config,
    maker: &Maker,
    registry: &Arc<metrics::Registry>,
    pinboard: &Arc<Pinboard>,
) -> Endpoint {
    let hosts = config.database.instances();
    let instances = hosts.into_iter().enumerate();
    let instances = instances.map(|(place, at)| maker.instance(Place(place), at, config));
    let greetings = GreetingTerms {
        max: config.session.max_startup_cache,
        lasts: config.session.startup_cache_ttl,
    };
    let statements = table::Terms {
        max: config.pool.max_statements,
        limit_bytes: config.pool.statements_limit_bytes,
    };
    let endpoint = Endpoint::new(
        instances.collect(),
        Arc::clone(&maker.board),
        Arc::clone(registry),
        Arc::clone(pinboard),
        greetings,
        statements,
    );
    endpoint.set_user_limits(user_limits(config));
    endpoint
}

pub fn policy(config: &Config) -> Policy {
    let pool = &config.pool;
    Policy {
        borrow_timeout: pool.connection_borrow_timeout,
        unavailable_timeout: pool.unavailable_timeout,
        max_waiting: pool.max_waiting,
        // The monitor's own.
        kept_aside: usize::from(config.database.is_cluster()),
        max_opening: pool.max_opening as usize,
        backoff_min: pool.open_backoff_min,
        backoff_max: pool.open_backoff_max,
        min_idle: pool.min_idle_connections as usize,
        max_idle_percent: u32::from(pool.max_idle_connections_percent),
        idle_timeout: pool.idle_timeout,
        lifetime: pool.server_lifetime,
        reset_timeout: pool.reset_timeout,
    }
}

pub fn terms(config: &Config) -> Terms {
    let pool = &config.pool;
    let reader_percent = pool.reader_max_connections_percent;
    Terms {
        writer: Share {
            max_connections: pool.max_connections,
            percent: u32::from(pool.max_connections_percent),
        },
        reader: Share {
            max_connections: pool.reader_max_connections.or(pool.max_connections),
            percent: u32::from(reader_percent.unwrap_or(pool.max_connections_percent)),
        },
        max_statements: config.pool.max_statements_per_connection,
        init_query: config.pool.init_query.as_str().into(),
    }
}

pub fn user_limits(config: &Config) -> HashMap<String, usize> {
    let limited = config.users.iter();
    limited
        .filter_map(|user| Some((user.name.clone(), user.pool_max_connections? as usize)))
        .collect()
}
