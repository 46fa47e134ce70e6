//! What the pool must be told of PostgreSQL: how its connections are opened, cleaned, closed and cancelled.
//!
//! Knows the hosts of one target and where credentials come from; not how many connections there are.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::reset;
use super::statements::Statements;
use super::{ConnectError, Connection, Failure, Fault, Login, Reached, Target, cancel, connect};
use crate::metrics;
use crate::pool::{self, FailureKind, Leaving, Manage, Opened};
use crate::protocol::CancelKey;
use crate::secrets::{Attempts, Next, NoLogin, Vault};

/// Names a pool: who logs in, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    pub database: Arc<str>,
    pub user: Arc<str>,
}

/// An account's pool: what its connections are opened with, and where they are counted.
#[derive(Clone)]
pub struct Customer {
    pub account: Account,
    pub meters: Arc<metrics::Pool>,
}

/// Where a connection ended up, of all the hosts of its target.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    host: usize,
    reached: Reached,
}

/// What may be changed while running.
#[derive(Clone, Debug)]
pub struct Terms {
    pub max_connections: Option<u32>,
    pub max_connections_percent: u32,
    /// Prepared statements on each connection.
    pub max_statements: usize,
    pub init_query: Arc<str>,
}

/// Opens connections to one target, and looks after them.
pub struct Dialer {
    /// Tried in order.
    hosts: Vec<Target>,
    terms: RwLock<Terms>,
    vault: Arc<Vault>,
    /// What the instance said last that it allows; 0 before it has.
    instance_allows: AtomicU32,
}

impl Dialer {
    pub fn new(hosts: Vec<Target>, terms: Terms, vault: Arc<Vault>) -> Dialer {
        Dialer {
            hosts,
            terms: RwLock::new(terms),
            vault,
            instance_allows: AtomicU32::new(0),
        }
    }

    /// The cap that follows from new terms, if the instance has said what it allows.
    pub fn set_terms(&self, terms: Terms) -> Option<usize> {
        let allows = self.instance_allows.load(Ordering::Relaxed);
        let cap = (allows > 0).then(|| terms.cap(allows));
        *self.terms.write().unwrap_or_else(PoisonError::into_inner) = terms;
        cap
    }

    fn terms(&self) -> Terms {
        self.terms
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// SQL that every connection starts out with.
    pub fn init_query(&self) -> Arc<str> {
        self.terms().init_query
    }

    /// Asks the server to cancel what `key` names; returns when it has taken note, or can't be asked.
    pub async fn cancel(&self, peer: Peer, key: &CancelKey) {
        let Some(host) = self.hosts.get(peer.host) else {
            return;
        };
        if let Err(error) = cancel(host, peer.reached, key).await {
            tracing::warn!(%error, "a cancel request could not be passed on");
        }
    }

    async fn dial(
        &self,
        account: &Account,
        terms: &Terms,
    ) -> Result<(usize, super::Connected, Arc<str>), ConnectError> {
        let attempts = self.vault.attempts(&account.user);
        let mut attempts = attempts.map_err(|why| self.no_login(self.hosts.first(), why))?;
        let mut hosts = self.hosts.iter().enumerate();
        loop {
            let (place, host) = hosts
                .next()
                .expect("a target has a host, and its last failure returns");
            match self.log_in(host, account, terms, &mut attempts).await {
                Ok(connected) => return Ok((place, connected, Arc::clone(attempts.role()))),
                // Another host may be up; one that answers has spoken for all.
                Err(error)
                    if error.failure() == Failure::Unreachable && place + 1 < self.hosts.len() =>
                {
                    tracing::debug!(%error, "trying the next host");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Logs in at one host, with one credential after the other while the server refuses them.
    async fn log_in(
        &self,
        host: &Target,
        account: &Account,
        terms: &Terms,
        attempts: &mut Attempts,
    ) -> Result<super::Connected, ConnectError> {
        loop {
            let credential = attempts.login(&host.at).await;
            let credential = credential.map_err(|why| self.no_login(Some(host), why))?;
            let login = Login {
                user: attempts.role(),
                database: &account.database,
                credential: &credential,
                parameters: &[],
                init_query: &terms.init_query,
            };
            match connect(host, &login).await {
                Ok(connected) => {
                    attempts.taken();
                    return Ok(connected);
                }
                Err(error) if error.is_of_credential() => match attempts.refused().await {
                    Next::TryAgain => {
                        tracing::debug!(%error, user = %account.user, "trying the next credential");
                    }
                    Next::GiveUp => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
    }

    fn no_login(&self, host: Option<&Target>, why: NoLogin) -> ConnectError {
        ConnectError {
            at: host.map(|host| host.at.to_string()).unwrap_or_default(),
            fault: Fault::NoLogin(why),
        }
    }
}

impl Terms {
    /// The cap: the smaller of the configured number and the share of what the instance allows.
    pub fn cap(&self, instance_allows: u32) -> usize {
        let share = u64::from(instance_allows) * u64::from(self.max_connections_percent) / 100;
        let cap = self
            .max_connections
            .map_or(share, |max| share.min(u64::from(max)));
        // With none at all nobody could ever be served.
        usize::try_from(cap.max(1)).unwrap_or(usize::MAX)
    }

    /// The cap while the instance has not said what it allows: enough to ask.
    pub fn first_cap(&self) -> usize {
        1
    }
}

impl Manage for Dialer {
    type Key = Customer;
    // Boxed: it changes hands several times a transaction.
    type Connection = Box<Connection>;
    type Error = Arc<ConnectError>;

    async fn open(
        &self,
        customer: &Customer,
    ) -> Result<Opened<Box<Connection>>, Arc<ConnectError>> {
        let terms = self.terms();
        let account = &customer.account;
        let (host, connected, role) = self.dial(account, &terms).await.map_err(|error| {
            customer.meters.open_failed(reason(error.failure()));
            tracing::warn!(%error, database = %account.database, user = %account.user, "no connection could be opened");
            Arc::new(error)
        })?;
        customer.meters.opened.increment(1);
        let peer = Peer {
            host,
            reached: connected.reached,
        };
        let connection = Connection::new(
            connected.stream,
            connected.key,
            connected.parameters,
            role,
            peer,
            Statements::new(terms.max_statements),
        );
        let allows = connected.limits.ordinary();
        self.instance_allows.store(allows, Ordering::Relaxed);
        Ok(Opened {
            connection: Box::new(connection),
            // The terms may have changed meanwhile.
            cap: Some(self.terms().cap(allows)),
        })
    }

    async fn clean(&self, customer: &Customer, connection: &mut Box<Connection>) -> bool {
        match reset::clean(connection, self).await {
            Ok(cleaned) => {
                customer.meters.resets.increment(u64::from(cleaned));
                cleaned
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be cleaned and is closed");
                false
            }
        }
    }

    async fn close(&self, customer: &Customer, connection: Box<Connection>, why: Leaving) {
        customer.meters.closed(why.as_str());
        reset::close(*connection, self).await;
    }

    fn is_dead(&self, connection: &mut Box<Connection>) -> bool {
        !connection.is_alive()
    }

    fn rehome(&self, connection: &mut Box<Connection>) -> io::Result<()> {
        connection.stream.detach()?;
        connection.stream.attach()
    }
}

/// The metric's word for a failure.
fn reason(failure: Failure) -> &'static str {
    match failure {
        Failure::Unreachable => "unreachable",
        Failure::Busy => "server_full",
        Failure::Denied => "denied",
        Failure::NoSuchDatabase => "no_such_database",
        Failure::Other => "other",
    }
}

impl pool::Failure for Arc<ConnectError> {
    fn kind(&self) -> FailureKind {
        match self.failure() {
            Failure::Unreachable => FailureKind::Unreachable,
            Failure::Busy => FailureKind::Full,
            Failure::Denied | Failure::NoSuchDatabase | Failure::Other => FailureKind::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_is_the_smaller_of_number_and_share() {
        let terms = |max_connections, max_connections_percent| Terms {
            max_connections,
            max_connections_percent,
            max_statements: 1,
            init_query: "".into(),
        };
        assert_eq!(terms(None, 100).cap(97), 97);
        assert_eq!(terms(None, 50).cap(97), 48);
        assert_eq!(terms(Some(10), 100).cap(97), 10);
        assert_eq!(terms(Some(200), 90).cap(100), 90);
        assert_eq!(terms(None, 1).cap(10), 1);
    }
}
