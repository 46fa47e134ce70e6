//! A new configuration for a running house: all of it or nothing.
//!
//! Knows what can change while running and what can't.

use std::sync::{Arc, Mutex, PoisonError};

use super::build::{policy, terms, user_limits};
use super::shared::{Shared, Standing, gate, limits};
use super::worker::Order;
use crate::client::iam::IamError;
use crate::config::{Config, ConfigError};
use crate::net::acceptor::CertificateError;
use crate::secrets::VaultError;

/// Reads the configuration anew.
pub type Reload = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Why the old configuration stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0} can't be changed while Weir runs; restart it, or take that change back")]
    Fixed(&'static str),
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    #[error("users: {0}")]
    Users(#[from] VaultError),
    #[error("{0}")]
    Iam(#[from] IamError),
}

pub struct Reloader {
    shared: Arc<Shared>,
    read: Reload,
    /// One at a time.
    at_work: Mutex<()>,
}

impl Reloader {
    pub fn new(shared: Arc<Shared>, read: Reload) -> Reloader {
        Reloader {
            shared,
            read,
            at_work: Mutex::new(()),
        }
    }

    /// Takes the new configuration into force. What can fail comes first.
    pub fn reload(&self) -> Result<(), ReloadError> {
        let _one = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &self.shared;
        let config = (self.read)()?;
        let old = shared.config.load_full();
        if let Some(fixed) = fixed(&old, &config) {
            return Err(ReloadError::Fixed(fixed));
        }
        let users = shared.vault.prepare(&config)?;
        let iam = &shared.gate.load().iam;
        let iam = iam.renew(&config, users.key_secrets(), &shared.prober)?;
        shared.acceptor.reload(&config.tls)?;
        shared.vault.install(users);
        let standing = Standing::of(&shared.gate.load(), &config);
        let gate = gate(
            &config,
            &shared.vault,
            Arc::new(iam),
            &shared.acceptor,
            standing,
        );
        shared.gate.store(Arc::new(gate));
        for instance in &*shared.endpoint.instances() {
            let target = &instance.target;
            target.set_policy(policy(&config));
            if let Some(cap) = target.manage.set_terms(terms(&config)) {
                target.set_cap(cap);
            }
        }
        shared.endpoint.set_user_limits(user_limits(&config));
        shared.endpoint.forget_greetings();
        for worker in &shared.workers {
            // A worker with a full inbox keeps its old limits until the next reload; it has other worries.
            let _ = worker.try_send(Order::Limits(limits(&config)));
        }
        shared.config.store(Arc::new(config));
        Ok(())
    }

    pub fn reload_and_log(&self) {
        match self.reload() {
            Ok(()) => tracing::info!("configuration reloaded"),
            Err(error) => {
                tracing::error!(%error, "configuration not reloaded: the old one stays in force")
            }
        }
    }
}

/// The first setting that differs and can't be changed while running.
fn fixed(old: &Config, new: &Config) -> Option<&'static str> {
    let differs = [
        ("listen.writer", old.listen.writer != new.listen.writer),
        ("listen.reader", old.listen.reader != new.listen.reader),
        ("listen.http", old.listen.http != new.listen.http),
        ("listen.backlog", old.listen.backlog != new.listen.backlog),
        ("database.host", old.database.hosts != new.database.hosts),
        (
            "database.reader_host",
            old.database.reader_hosts != new.database.reader_hosts,
        ),
        ("dns.*", old.dns != new.dns),
        ("cluster.*", old.cluster != new.cluster),
        (
            "pool.max_connections = 1 (with which the cluster's members are not looked for)",
            old.database.members != new.database.members,
        ),
        ("database.ssl", old.database.ssl != new.database.ssl),
        (
            "database.ca_file",
            old.database.ca_file != new.database.ca_file,
        ),
        (
            "database.connect_timeout",
            old.database.connect_timeout != new.database.connect_timeout,
        ),
        (
            "database.keepalive_idle",
            old.database.keepalive_idle != new.database.keepalive_idle,
        ),
        (
            "database.keepalive_interval",
            old.database.keepalive_interval != new.database.keepalive_interval,
        ),
        (
            "database.keepalive_retries",
            old.database.keepalive_retries != new.database.keepalive_retries,
        ),
        (
            "database.tcp_user_timeout",
            old.database.tcp_user_timeout != new.database.tcp_user_timeout,
        ),
        (
            "auth.max_handshakes",
            old.auth.max_handshakes != new.auth.max_handshakes,
        ),
        (
            "auth.max_handshakes_per_address",
            old.auth.max_handshakes_per_address() != new.auth.max_handshakes_per_address(),
        ),
        (
            "pool.max_statements",
            old.pool.max_statements != new.pool.max_statements,
        ),
        (
            "pool.statements_limit_bytes",
            old.pool.statements_limit_bytes != new.pool.statements_limit_bytes,
        ),
        (
            "session.max_startup_cache",
            old.session.max_startup_cache != new.session.max_startup_cache,
        ),
        (
            "session.startup_cache_ttl",
            old.session.startup_cache_ttl != new.session.startup_cache_ttl,
        ),
        (
            "secrets.timeout",
            old.secrets.timeout != new.secrets.timeout,
        ),
        ("workers", old.workers != new.workers),
        ("fleet", old.fleet != new.fleet),
        ("log.filter", old.log.filter != new.log.filter),
        ("log.format", old.log.format != new.log.format),
    ];
    differs
        .into_iter()
        .find(|(_, differs)| *differs)
        .map(|(name, _)| name)
}
