//! The life of one Lambda-like client: connect, a few transactions on schedule, idle, gone.
//!
//! Knows what it did and how long it took; nothing of the other clients.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, Error, NoTls};

use super::report::{Failure, Life, Step};
use super::tls::Connector;
use super::{Options, StormError, Tls};
use crate::net::trust::Trust;

const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS weir_bench (id int PRIMARY KEY, hits bigint NOT NULL DEFAULT 0);
    INSERT INTO weir_bench (id) SELECT generate_series(1, 1000) ON CONFLICT DO NOTHING";

/// Where clients go, and how.
pub struct Target {
    config: Config,
    tls: Option<Connector>,
}

/// What each client does.
pub struct Plan {
    pub transactions: u32,
    pub statements: u32,
    pub pause: Duration,
    pub idle: Duration,
    pub write: bool,
    pub timeout: Duration,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Goodbye,
    VanishIdle,
    VanishInTransaction,
}

impl Target {
    pub fn of(options: &Options) -> Result<Self, StormError> {
        let mut config: Config = options.target.parse().map_err(StormError::Target)?;
        if config.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            config.password(password);
        }
        if config.get_hosts().is_empty() {
            return Err(StormError::Incomplete("no host"));
        }
        if config.get_user().is_none() {
            return Err(StormError::Incomplete("no user"));
        }
        let tls = match options.tls {
            Tls::Off => None,
            Tls::Require => Some(connector(options)?),
        };
        Ok(Self::new(config, tls))
    }

    /// In the clear.
    pub fn plain(config: Config) -> Self {
        Self::new(config, None)
    }

    fn new(mut config: Config, tls: Option<Connector>) -> Self {
        config.ssl_mode(if tls.is_some() {
            SslMode::Require
        } else {
            SslMode::Disable
        });
        config.application_name("weir bench");
        Self { config, tls }
    }

    /// The driver's own task is what an abort makes vanish: dropping `Client` would say goodbye.
    async fn connect(&self) -> Result<(Client, JoinHandle<()>), Error> {
        Ok(match &self.tls {
            Some(connector) => {
                let (client, connection) = self.config.connect(connector.clone()).await?;
                (client, tokio::spawn(async move { drop(connection.await) }))
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                (client, tokio::spawn(async move { drop(connection.await) }))
            }
        })
    }
}

impl Plan {
    pub fn of(options: &Options) -> Self {
        Self {
            transactions: options.transactions,
            statements: options.statements,
            pause: options.pause,
            idle: options.idle,
            write: options.write,
            timeout: options.client_timeout,
        }
    }
}

fn connector(options: &Options) -> Result<Connector, StormError> {
    let trust = match options.tls_insecure {
        true => Trust::Anybody,
        false => Trust::AuthorityAndName,
    };
    let authorities = match &options.ca {
        None => None,
        Some(path) => Some(std::fs::read(path).map_err(|source| StormError::Read {
            path: path.clone(),
            source,
        })?),
    };
    Ok(Connector::new(trust, authorities.as_deref())?)
}

/// Makes the table that `write` needs.
pub async fn make_table(target: &Target) -> Result<(), Error> {
    let (client, _connection) = target.connect().await?;
    client.batch_execute(TABLE).await
}

/// One life, timed from when it was due. Ends at its timeout.
pub async fn live(target: &Target, plan: &Plan, due: Instant, ending: Ending) -> Life {
    let mut life = Life::default();
    match timeout(plan.timeout, lead(target, plan, due, ending, &mut life)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => life.failure = Some(Failure::of(&error)),
        Err(_) => life.failure = Some(Failure::Timeout),
    }
    life
}

/// Aborts the driver however the life ends, a timeout included.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn lead(
    target: &Target,
    plan: &Plan,
    due: Instant,
    ending: Ending,
    life: &mut Life,
) -> Result<(), Error> {
    let (client, connection) = target.connect().await?;
    let mut driver = Driver(connection);
    life.took(Step::Connect, due.elapsed());
    let first = Instant::now();
    for number in 0..plan.transactions {
        // Work falls due by the clock, as invocations do; only when there is no pause does it follow on.
        let mut start = Instant::now();
        if !plan.pause.is_zero() {
            start = first + plan.pause * number;
            sleep_until(start).await;
        }
        transact(&client, plan, number).await?;
        life.took(Step::Transaction, start.elapsed());
        if number == 0 {
            life.took(Step::FirstTransaction, due.elapsed());
        }
    }
    match ending {
        Ending::Goodbye => {
            sleep(plan.idle).await;
            drop(client);
            // Until the Terminate is out; a server that is slow to take it is not waited for beyond the timeout.
            let _ = (&mut driver.0).await;
        }
        Ending::VanishIdle => sleep(plan.idle).await,
        Ending::VanishInTransaction => {
            client.batch_execute("BEGIN").await?;
            client.batch_execute("SELECT 1").await?;
            sleep(plan.idle.min(Duration::from_secs(1))).await;
        }
    }
    Ok(())
}

/// BEGIN, the statements, COMMIT, each its own round trip, as drivers send them. An error is rolled back: the client may live on.
async fn transact(client: &Client, plan: &Plan, number: u32) -> Result<(), Error> {
    client.batch_execute("BEGIN").await?;
    for statement in 1..=plan.statements {
        if plan.write && statement == plan.statements {
            let row = number.wrapping_mul(7919) % 1000 + 1;
            client
                .batch_execute(&format!(
                    "UPDATE weir_bench SET hits = hits + 1 WHERE id = {row}"
                ))
                .await?;
        } else {
            client.batch_execute("SELECT 1").await?;
        }
    }
    client.batch_execute("COMMIT").await
}

/// The driver's `Display` is terse; what the server said is in the source.
pub fn explain(error: &Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{} ({})", said.message(), said.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}
