//! What Weir is told: files and environment in, a [`Config`] that is valid by construction out.
//!
//! Knows nothing of how any setting is used. Layers: built-in defaults < TOML file < environment.

mod address;
mod arn;
mod check;
mod error;
mod file;
mod given;
mod iam;
mod known;
mod layers;
mod options;
mod parse;
mod reference;
mod secret;
mod section;
#[cfg(test)]
mod tests;
mod web;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use address::{HostPattern, Network};
pub use arn::SecretArn;
pub use error::{ConfigError, Place};
pub use iam::{
    Iam, IamAurora, IamIssuer, IamJwt, IamMapping, IamMode, IamStatic, IamSts, JwksPlace,
};
pub use options::{
    Auth, AuthMethod, AuthScheme, Cluster, Dns, Listen, ListenMode, Log, LogFormat, PinFilter,
    PinNotice, Pool, ReadOnlyTransactions, ReaderFallback, Secrets, SequencePins, Session, SslMode,
    TlsMode,
};
pub use parse::{Word, length};
pub use reference::reference_markdown;
pub use secret::{REDACTED, Secret};
pub use web::{Scheme, WebAddress};

/// All settings, checked against each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub listen: Listen,
    pub tls: Tls,
    pub database: Database,
    pub dns: Dns,
    pub pool: Pool,
    pub cluster: Cluster,
    pub session: Session,
    pub auth: Auth,
    pub secrets: Secrets,
    pub iam: Iam,
    /// No name twice; none only where there are secrets, or a role to look users up with.
    pub users: Vec<User>,
    /// The role that looks up users who are not listed, with its credential.
    pub query_user: Option<User>,
    pub workers: NonZeroUsize,
    /// `None`: this task is the only one.
    pub fleet: Option<Fleet>,
    pub log: Log,
    pub drain_timeout: Duration,
    pub drain_delay: Duration,
}

/// TLS for clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `None`: a self-signed certificate is made at start.
    pub files: Option<CertificateFiles>,
    pub mode: TlsMode,
    /// `None`: clients are asked for no certificate.
    pub clients: Option<ClientAuthorities>,
}

/// Paths of PEM files with whose certificates clients may show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuthorities {
    pub ca_file: PathBuf,
    /// What those authorities have revoked.
    pub crl_file: Option<PathBuf>,
}

/// Paths of PEM files, as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The cluster behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// At least one; none twice.
    pub hosts: Vec<HostPort>,
    pub reader_hosts: Vec<HostPort>,
    /// How instances are reached that the cluster itself names; `None`: they are not looked for.
    pub members: Option<HostPattern>,
    /// The database of clients that name none.
    pub name: String,
    pub ssl: SslMode,
    pub ca_file: Option<PathBuf>,
    pub connect_timeout: Duration,
    pub keepalive_idle: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_retries: u32,
    pub tcp_user_timeout: Duration,
}

impl Database {
    /// All instances that are known from the start; none twice.
    pub fn instances(&self) -> Vec<&HostPort> {
        let mut all: Vec<&HostPort> = Vec::new();
        for host in self.hosts.iter().chain(&self.reader_hosts) {
            if !all.contains(&host) {
                all.push(host);
            }
        }
        all
    }

    /// Whether there is a listener for readers.
    pub fn has_readers(&self) -> bool {
        !self.reader_hosts.is_empty() || self.is_cluster()
    }

    /// Whether there may be more than one instance.
    pub fn is_cluster(&self) -> bool {
        self.instances().len() > 1 || self.members.is_some()
    }
}

/// A name or IP address (IPv6 without brackets) and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How the tasks of a fleet find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// What DNS is asked for, and the port of those that it lists.
    pub discover: HostPort,
    pub listen: SocketAddr,
    pub key: Secret<String>,
    pub refresh: Duration,
    /// At least three times `refresh`.
    pub settle: Duration,
    pub max_requests: usize,
    pub max_tasks: usize,
    pub answer_timeout: Duration,
    pub cancel_timeout: Duration,
}

/// Clients times workers that a fleet's cancel keys have numbers for.
pub const FLEET_MAX_SESSIONS: usize = 1 << 22;

/// A role that may come in, and with which Weir logs in for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub credential: Credential,
    pub scheme: AuthScheme,
    /// What this user is asked for, whatever others are; `None`: as they are.
    pub method: Option<AuthMethod>,
    /// Common names of the certificates that prove this user, where it is asked for one; empty: its own.
    pub certificate_names: Vec<String>,
    /// Limit of each of this user's pools; `None`: the target's cap alone.
    pub pool_max_connections: Option<u32>,
    pub iam: IamMode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    Password(Secret<String>),
    /// `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`, its form checked.
    Verifier(Secret<String>),
    /// Where name and password are kept.
    Secret(SecretArn),
    /// Its clients have no password to come with; Weir itself logs in by IAM.
    Absent,
}

/// Reads the file at `cli_path`, or at `WEIR_CONFIG`, or none, and lays `env` over it.
pub fn load(
    cli_path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    check::config(&layers(cli_path, env)?)
}

/// The same for what tokens are checked by alone: neither a database nor a user need be there.
pub fn load_iam(
    cli_path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Iam, ConfigError> {
    Iam::read(&layers(cli_path, env)?)
}

fn layers(
    cli_path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<layers::Layers, ConfigError> {
    let env: Vec<(String, String)> = env.collect();
    let from_env = env
        .iter()
        .find(|(name, value)| name == "WEIR_CONFIG" && !value.is_empty())
        .map(|(_, path)| PathBuf::from(path));
    let known = known::Known::new();
    let mut layers = layers::Layers::new();
    if let Some(path) = cli_path.map(Path::to_owned).or(from_env) {
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Unreadable {
            path: path.clone(),
            source,
        })?;
        file::read(&text, &path, &known, &mut layers)?;
    }
    layers.environment(&known, env.into_iter())?;
    Ok(layers)
}
