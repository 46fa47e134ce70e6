//! What the pool must be told of PostgreSQL: how its connections are opened, cleaned, closed and cancelled.
//!
//! Knows the host of one target and where credentials come from; not how many connections there are.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;

use super::replayed::Replayed;
use super::reset;
use super::statements::Statements;
use super::{
    ConnectError, Connected, Connection, Credential, Failure, Fault, Login, Reached, Started,
    Target, cancel, connect,
};
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

/// What may be changed while running.
#[derive(Clone, Debug)]
pub struct Terms {
    pub writer: Share,
    pub reader: Share,
    /// Prepared statements on each connection.
    pub max_statements: usize,
    pub init_query: Arc<str>,
}

/// How much of what an instance allows is Weir's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub max_connections: Option<u32>,
    pub percent: u32,
}

/// What an instance is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    Writer,
    Reader,
}

/// Told when something seems to be wrong with the target.
pub type Suspect = Box<dyn Fn() + Send + Sync>;

/// Opens connections to one target, and looks after them.
pub struct Dialer {
    host: ArcSwap<Target>,
    terms: RwLock<Terms>,
    vault: Arc<Vault>,
    suspect: Suspect,
    /// What the instance said last that it allows; 0 before it has.
    instance_allows: AtomicU32,
    replayed: Replayed,
    is_reader: AtomicBool,
    witness: Mutex<Option<Witness>>,
}

/// What the instance that is meant said of itself, on a connection that is open still, or that broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    pub duty: Duty,
    pub started: Started,
}

impl Witness {
    /// Whether a new connection leads to the writer that is meant. Its name may lead elsewhere for a while: DNS lags a
    /// failover, and an instance that was replaced may believe that it is the writer still. Readers' names lead to
    /// several instances as a rule.
    fn accepts(&self, duty: Duty, in_recovery: bool, started: &[u8]) -> bool {
        match (duty, self.duty) {
            (Duty::Writer, Duty::Writer) => !in_recovery && started == self.started,
            (Duty::Reader, _) | (_, Duty::Reader) => true,
        }
    }
}

impl Dialer {
    pub fn new(
        host: Target,
        duty: Duty,
        terms: Terms,
        vault: Arc<Vault>,
        suspect: Suspect,
    ) -> Dialer {
        Dialer {
            host: ArcSwap::from_pointee(host),
            terms: RwLock::new(terms),
            vault,
            suspect,
            instance_allows: AtomicU32::new(0),
            replayed: Replayed::default(),
            is_reader: AtomicBool::new(duty == Duty::Reader),
            witness: Mutex::default(),
        }
    }

    /// The same target is reached elsewhere from here on.
    pub fn move_to(&self, host: Target) {
        self.host.store(Arc::new(host));
    }

    /// The cap that follows from new terms, if the instance has said what it allows.
    pub fn set_terms(&self, terms: Terms) -> Option<usize> {
        let allows = self.instance_allows.load(Ordering::Relaxed);
        let cap = (allows > 0).then(|| terms.cap(allows, self.duty()));
        *self.terms.write().unwrap_or_else(PoisonError::into_inner) = terms;
        cap
    }

    /// The instance has this duty from here on: the cap that follows, if it is known what the instance allows.
    pub fn set_duty(&self, duty: Duty) -> Option<usize> {
        self.is_reader
            .store(duty == Duty::Reader, Ordering::Relaxed);
        let allows = self.instance_allows.load(Ordering::Relaxed);
        (allows > 0).then(|| self.terms().cap(allows, duty))
    }

    fn duty(&self) -> Duty {
        match self.is_reader.load(Ordering::Relaxed) {
            true => Duty::Reader,
            false => Duty::Writer,
        }
    }

    fn terms(&self) -> Terms {
        self.terms
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The instance said elsewhere what it allows: the cap that follows.
    pub fn set_allowed(&self, connections: u32) -> usize {
        self.instance_allows.store(connections, Ordering::Relaxed);
        self.terms().cap(connections, self.duty())
    }

    /// Something seems to be wrong with the target, as whoever has a connection to it sees.
    pub fn suspect(&self) {
        (self.suspect)();
    }

    /// What the instance says of itself; `None`: nobody asks it any more.
    pub fn hear(&self, witness: Option<Witness>) {
        *self.witness.lock().unwrap_or_else(PoisonError::into_inner) = witness;
    }

    fn is_meant(&self, connected: &Connected) -> bool {
        let witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner);
        let duty = self.duty();
        witness
            .as_ref()
            .is_none_or(|witness| witness.accepts(duty, connected.in_recovery, &connected.started))
    }

    /// How far the instance has come in what the writer wrote.
    pub fn replayed(&self) -> &Replayed {
        &self.replayed
    }

    /// SQL that every connection starts out with.
    pub fn init_query(&self) -> Arc<str> {
        self.terms().init_query
    }

    /// Asks the server to cancel what `key` names; returns when it has taken note, or can't be asked.
    pub async fn cancel(&self, reached: Reached, key: &CancelKey) {
        if let Err(error) = cancel(&self.host.load_full(), reached, key).await {
            tracing::warn!(%error, "a cancel request could not be passed on");
        }
    }

    /// A connection that is none of a pool's. Cancel-safe: dropping it hangs up.
    pub async fn dial(
        &self,
        account: &Account,
        init_query: &str,
    ) -> Result<(Connected, Arc<str>), ConnectError> {
        let attempts = self.vault.attempts(&account.user);
        let mut attempts = attempts.map_err(|why| self.no_login(why))?;
        let connected = self.log_in(account, init_query, &mut attempts).await?;
        Ok((connected, Arc::clone(attempts.role())))
    }

    /// Logs in with what a client has shown, once. Cancel-safe: dropping it hangs up.
    pub async fn try_credential(
        &self,
        account: &Account,
        shown: &Credential,
    ) -> Result<Opened<Box<Connection>>, ConnectError> {
        let terms = self.terms();
        let login = Login {
            user: &account.user,
            database: &account.database,
            credential: shown,
            parameters: &[],
            init_query: &terms.init_query,
        };
        let connected = connect(&self.host.load(), &login).await?;
        self.opened(connected, Arc::clone(&account.user), &terms)
    }

    fn opened(
        &self,
        connected: Connected,
        role: Arc<str>,
        terms: &Terms,
    ) -> Result<Opened<Box<Connection>>, ConnectError> {
        if !self.is_meant(&connected) {
            let address = connected.reached.address;
            return Err(self.failed(Fault::AnotherInstance { address }));
        }
        let allows = connected.limits.ordinary();
        self.instance_allows.store(allows, Ordering::Relaxed);
        let connection = Connection::new(
            connected.stream,
            connected.key,
            connected.parameters,
            role,
            connected.reached,
            Statements::new(terms.max_statements),
        );
        Ok(Opened {
            connection: Box::new(connection),
            // The terms may have changed meanwhile.
            cap: Some(self.terms().cap(allows, self.duty())),
        })
    }

    /// Logs in, with one credential after the other while the server refuses them.
    async fn log_in(
        &self,
        account: &Account,
        init_query: &str,
        attempts: &mut Attempts,
    ) -> Result<Connected, ConnectError> {
        let host = self.host.load_full();
        loop {
            let credential = attempts.login(&host.at).await;
            let credential = credential.map_err(|why| self.no_login(why))?;
            let login = Login {
                user: attempts.role(),
                database: &account.database,
                credential: &credential,
                parameters: &[],
                init_query,
            };
            match connect(&host, &login).await {
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

    fn no_login(&self, why: NoLogin) -> ConnectError {
        self.failed(Fault::NoLogin(why))
    }

    fn failed(&self, fault: Fault) -> ConnectError {
        ConnectError::new(&self.host.load(), fault)
    }
}

impl Terms {
    /// The cap: the smaller of the configured number and the share of what the instance allows.
    pub fn cap(&self, instance_allows: u32, duty: Duty) -> usize {
        let ours = match duty {
            Duty::Writer => self.writer,
            Duty::Reader => self.reader,
        };
        let share = u64::from(instance_allows) * u64::from(ours.percent) / 100;
        let cap = ours
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
        let connected = self.dial(account, &terms.init_query).await;
        let opened = connected.and_then(|(connected, role)| self.opened(connected, role, &terms));
        let opened = opened.map_err(|error| {
            if error.failure() == Failure::Unreachable {
                self.suspect();
            }
            customer.meters.open_failed(reason(error.failure()));
            tracing::warn!(%error, database = %account.database, user = %account.user, "no connection could be opened");
            Arc::new(error)
        })?;
        customer.meters.opened.increment(1);
        Ok(opened)
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
        match why {
            // Nobody is there to say goodbye to.
            Leaving::Severed => drop(connection),
            _ => reset::close(*connection, self).await,
        }
    }

    fn is_dead(&self, connection: &mut Box<Connection>) -> bool {
        let dead = !connection.is_alive();
        if dead {
            self.suspect();
        }
        dead
    }

    fn rehome(&self, connection: &mut Box<Connection>) -> io::Result<()> {
        connection.stream.detach()?;
        // As a rule it says that it is going: an idle server has nothing else to say.
        if !connection.stream.is_quiet() {
            self.suspect();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
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
    fn only_the_writer_that_is_asked_is_the_writer() {
        use Duty::{Reader, Writer};
        for (duty, said, in_recovery, started, accepted) in [
            (Writer, Writer, false, b"1", true),
            // Its name leads to a reader, or to a writer of before.
            (Writer, Writer, true, b"2", false),
            (Writer, Writer, false, b"2", false),
            // It was demoted where it stands.
            (Writer, Writer, true, b"1", false),
            // Nobody is the writer at the moment: readers' clients may be served.
            (Writer, Reader, true, b"1", true),
            // One name for all readers.
            (Reader, Reader, true, b"2", true),
            (Reader, Reader, false, b"2", true),
        ] {
            let witness = Witness {
                duty: said,
                started: b"1".to_vec(),
            };
            let accepts = witness.accepts(duty, in_recovery, started);
            assert_eq!(
                accepts, accepted,
                "{duty:?} {said:?} {in_recovery} {started:?}"
            );
        }
    }

    #[test]
    fn the_cap_is_the_smaller_of_number_and_share() {
        let share = |max_connections, percent| Share {
            max_connections,
            percent,
        };
        let terms = |max_connections, percent| Terms {
            writer: share(max_connections, percent),
            reader: share(Some(7), 50),
            max_statements: 1,
            init_query: "".into(),
        };
        assert_eq!(terms(None, 100).cap(97, Duty::Writer), 97);
        assert_eq!(terms(None, 50).cap(97, Duty::Writer), 48);
        assert_eq!(terms(Some(10), 100).cap(97, Duty::Writer), 10);
        assert_eq!(terms(Some(200), 90).cap(100, Duty::Writer), 90);
        assert_eq!(terms(None, 1).cap(10, Duty::Writer), 1);
        assert_eq!(terms(None, 1).cap(97, Duty::Reader), 7);
        assert_eq!(terms(None, 1).cap(10, Duty::Reader), 5);
    }
}
