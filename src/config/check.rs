//! From shapes to a `Config`: what no single option can know, such as two settings that contradict each other.
//!
//! Reads no file and no environment.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

use super::address::HostMaybePort;
use super::error::{ConfigError, Place};
use super::given::Values;
use super::iam::{Iam, IamMode};
use super::layers::Layers;
use super::options::{
    Auth, AuthMethod, AuthScheme, Cluster, DatabaseShape, Discover, Dns, FleetShape, House, Listen,
    Log, Pool, Secrets, Session, SslMode, TlsShape, UserShape,
};
use super::section::Section;
use super::{
    CertificateFiles, ClientAuthorities, Config, Credential, Database, FLEET_MAX_SESSIONS, Fleet,
    HostPattern, HostPort, Tls, User,
};

pub fn config(layers: &Layers) -> Result<Config, ConfigError> {
    let values = &layers.house;
    let house = House::read(values)?;
    let cluster = Cluster::read(values)?;
    let mut database = database(values)?;
    let pool = pool(values, &database)?;
    database.members = members(&cluster, &database, &pool);
    too_many_hosts(values, &cluster, &database)?;
    let fleet = fleet(values)?;
    let listen = listen(values, &database, fleet.as_ref())?;
    let auth = Auth::read(values)?;
    let workers = house
        .workers
        .and_then(NonZeroUsize::new)
        .unwrap_or_else(cores);
    if fleet.is_some() && listen.max_clients.saturating_mul(workers.get()) > FLEET_MAX_SESSIONS {
        let problem = format!(
            "times {workers} workers is more than {FLEET_MAX_SESSIONS}, the most that a task of a fleet can number"
        );
        return Err(clash(values, "listen.max_clients", "workers", problem));
    }
    let iam = Iam::read(layers)?;
    if iam.aurora.is_some() && database.ssl != SslMode::VerifyFull {
        let problem = "is set, so clients' tokens are sent to the database: that needs database.ssl = \"verify-full\"";
        return Err(contradiction(values, "auth.iam.aurora.endpoints", problem));
    }
    let tls = tls(values)?;
    let secrets = Secrets::read(values)?;
    let users = users(layers, &auth, &iam, &pool, &database)?;
    somebody(&users, &secrets, &auth)?;
    certificates(&users, &auth, &tls)?;
    Ok(Config {
        dns: Dns::read(values)?,
        tls,
        users,
        cluster,
        session: Session::read(values)?,
        query_user: query_user(values, &auth)?,
        secrets,
        workers,
        fleet,
        log: Log::read(values)?,
        drain_timeout: house.drain_timeout,
        drain_delay: house.drain_delay,
        listen,
        database,
        pool,
        auth,
        iam,
    })
}

/// The cores this process may use, a container's quota counted in.
fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

pub fn contradiction(values: &Values, key: &str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Contradiction {
        place: values.place(key),
        key: key.to_owned(),
        problem: problem.into(),
    }
}

/// The same for two keys, at the place of the one that somebody wrote.
fn clash(values: &Values, key: &str, other: &str, problem: impl Into<String>) -> ConfigError {
    let at = if values.get(key).is_some() {
        key
    } else {
        other
    };
    ConfigError::Contradiction {
        place: values.place(at),
        key: key.to_owned(),
        problem: problem.into(),
    }
}

fn listen(
    values: &Values,
    database: &Database,
    fleet: Option<&Fleet>,
) -> Result<Listen, ConfigError> {
    let listen = Listen::read(values)?;
    let mut taken: Vec<(&str, SocketAddr)> = vec![("listen.writer", listen.writer)];
    // Without readers that listener stays closed, and its default may be anything.
    if database.has_readers() {
        taken.push(("listen.reader", listen.reader));
    }
    taken.push(("listen.http", listen.http));
    if let Some(fleet) = fleet {
        taken.push(("fleet.listen", fleet.listen));
    }
    for (i, (key, address)) in taken.iter().enumerate() {
        // Port 0 is a different one each time.
        let twin = taken
            .iter()
            .take(i)
            .find(|(_, other)| other == address && address.port() != 0);
        if let Some((other, _)) = twin {
            let problem = format!("is the same address as {other}: {address}");
            return Err(clash(values, key, other, problem));
        }
    }
    Ok(listen)
}

/// Shortest key of a fleet, in characters: whoever guesses it can cancel queries and starve tasks.
const FLEET_KEY_CHARACTERS: usize = 16;

fn fleet(values: &Values) -> Result<Option<Fleet>, ConfigError> {
    let shape = FleetShape::read(values)?;
    let Some(discover) = shape.discover else {
        return Ok(None);
    };
    let Some(key) = shape.key else {
        return Err(contradiction(
            values,
            "fleet.discover",
            "is set, but fleet.key is not: give all tasks the same secret (WEIR_FLEET_KEY)",
        ));
    };
    if key.expose().chars().count() < FLEET_KEY_CHARACTERS {
        let problem = format!("is shorter than {FLEET_KEY_CHARACTERS} characters");
        return Err(contradiction(values, "fleet.key", problem));
    }
    if shape.settle < shape.refresh * 3 {
        return Err(clash(
            values,
            "fleet.settle",
            "fleet.refresh",
            "is less than three times fleet.refresh",
        ));
    }
    Ok(Some(Fleet {
        discover,
        listen: shape.listen,
        key,
        refresh: shape.refresh,
        settle: shape.settle,
        max_requests: shape.max_requests,
        max_tasks: shape.max_tasks,
        answer_timeout: shape.answer_timeout,
        cancel_timeout: shape.cancel_timeout,
    }))
}

fn tls(values: &Values) -> Result<Tls, ConfigError> {
    let shape = TlsShape::read(values)?;
    let files = match (shape.cert, shape.key) {
        (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
        (None, None) => None,
        (Some(_), None) => {
            return Err(contradiction(
                values,
                "tls.cert",
                "is set, but tls.key is not",
            ));
        }
        (None, Some(_)) => {
            return Err(contradiction(
                values,
                "tls.key",
                "is set, but tls.cert is not",
            ));
        }
    };
    let clients = match (shape.client_ca_file, shape.crl_file) {
        (Some(ca_file), crl_file) => Some(ClientAuthorities { ca_file, crl_file }),
        (None, None) => None,
        (None, Some(_)) => {
            return Err(contradiction(
                values,
                "tls.crl_file",
                "is set, but tls.client_ca_file is not",
            ));
        }
    };
    Ok(Tls {
        files,
        mode: shape.require,
        clients,
    })
}

fn database(values: &Values) -> Result<Database, ConfigError> {
    let shape = DatabaseShape::read(values)?;
    if shape.host.is_empty() {
        return Err(ConfigError::Missing {
            what: "no database host is given",
            how: "set AURORA_HOST, or `host` in [database]",
        });
    }
    let hosts = with_ports(values, "database.host", shape.host, shape.port)?;
    let reader_port = shape.reader_port.unwrap_or(shape.port);
    let reader_hosts = with_ports(
        values,
        "database.reader_host",
        shape.reader_host,
        reader_port,
    )?;
    let all_local = hosts.iter().chain(&reader_hosts).all(HostPort::is_local);
    let ssl = shape.ssl.unwrap_or(if all_local {
        SslMode::Prefer
    } else {
        SslMode::VerifyFull
    });
    if ssl == SslMode::Disable && shape.ca_file.is_some() {
        return Err(contradiction(
            values,
            "database.ca_file",
            "is set, but database.ssl is \"disable\"",
        ));
    }
    Ok(Database {
        hosts,
        reader_hosts,
        members: None,
        name: shape.name,
        ssl,
        ca_file: shape.ca_file,
        connect_timeout: shape.connect_timeout,
        keepalive_idle: shape.keepalive_idle,
        keepalive_interval: shape.keepalive_interval,
        keepalive_retries: shape.keepalive_retries,
        tcp_user_timeout: shape.tcp_user_timeout,
    })
}

/// How the cluster's own instances are reached, if they are to be used. To see which is what, each takes one connection:
/// there must be another.
fn members(cluster: &Cluster, database: &Database, pool: &Pool) -> Option<HostPattern> {
    if cluster.discover == Discover::Never || pool.max_connections == Some(1) {
        return None;
    }
    let of_host = |host: &&HostPort| HostPattern::of_cluster(&host.host);
    let derived = || database.instances().iter().find_map(of_host);
    cluster.instance_endpoint.clone().or_else(derived)
}

fn too_many_hosts(
    values: &Values,
    cluster: &Cluster,
    database: &Database,
) -> Result<(), ConfigError> {
    let (count, max) = (database.instances().len(), cluster.max_instances);
    if count > max {
        let problem = format!(
            "and database.reader_host name {count} hosts, more than cluster.max_instances ({max})"
        );
        return Err(clash(
            values,
            "database.host",
            "database.reader_host",
            problem,
        ));
    }
    Ok(())
}

fn with_ports(
    values: &Values,
    key: &str,
    hosts: Vec<HostMaybePort>,
    port: u16,
) -> Result<Vec<HostPort>, ConfigError> {
    let mut found: Vec<HostPort> = Vec::with_capacity(hosts.len());
    for host in hosts {
        let host = HostPort {
            port: host.port.unwrap_or(port),
            host: host.host,
        };
        if found.contains(&host) {
            return Err(contradiction(values, key, format!("names {host} twice")));
        }
        found.push(host);
    }
    Ok(found)
}

impl HostPort {
    /// This very machine: TLS is then optional by default, as with libpq.
    pub fn is_local(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

fn pool(values: &Values, database: &Database) -> Result<Pool, ConfigError> {
    let pool = Pool::read(values)?;
    if pool.max_connections == Some(1) && database.instances().len() > 1 {
        return Err(contradiction(
            values,
            "pool.max_connections",
            "must be at least 2 where there is more than one host: one connection to each is Weir's own, to see which is the writer",
        ));
    }
    if pool.reader_max_connections == Some(1) {
        return Err(contradiction(
            values,
            "pool.reader_max_connections",
            "must be at least 2: one connection to each reader is Weir's own",
        ));
    }
    if pool
        .max_connections
        .is_some_and(|max| max < pool.min_idle_connections)
    {
        return Err(clash(
            values,
            "pool.min_idle_connections",
            "pool.max_connections",
            "is more than pool.max_connections",
        ));
    }
    if pool.open_backoff_min > pool.open_backoff_max {
        return Err(clash(
            values,
            "pool.open_backoff_min",
            "pool.open_backoff_max",
            "is more than pool.open_backoff_max",
        ));
    }
    Ok(pool)
}

fn users(
    layers: &Layers,
    auth: &Auth,
    iam: &Iam,
    pool: &Pool,
    database: &Database,
) -> Result<Vec<User>, ConfigError> {
    let mut users: Vec<User> = Vec::with_capacity(layers.users.len());
    for values in &layers.users {
        let user = user(values, auth, iam)?;
        if users.iter().any(|other| other.name == user.name) {
            let problem = format!("{:?} is given twice", user.name);
            return Err(contradiction(values, "users.name", problem));
        }
        if user
            .pool_max_connections
            .is_some_and(|max| max < pool.min_idle_connections)
        {
            return Err(contradiction(
                values,
                "users.pool_max_connections",
                "is less than pool.min_idle_connections",
            ));
        }
        // Whoever gets to see a token can log in with it for a quarter of an hour.
        if user.scheme == AuthScheme::Iam && database.ssl != SslMode::VerifyFull {
            return Err(contradiction(
                values,
                "users.default_auth_scheme",
                "is \"iam\", which needs database.ssl = \"verify-full\"",
            ));
        }
        users.push(user);
    }
    Ok(users)
}

fn somebody(users: &[User], secrets: &Secrets, auth: &Auth) -> Result<(), ConfigError> {
    if users.is_empty() && secrets.arns.is_empty() && auth.query_user.is_none() {
        return Err(ConfigError::Missing {
            what: "no user is given",
            how: "set AURORA_USER and AURORA_PASSWORD, or AURORA_SECRET_ARN, or write a [[users]] section",
        });
    }
    Ok(())
}

/// Whoever is asked for a certificate needs somebody to vouch for it.
fn certificates(users: &[User], auth: &Auth, tls: &Tls) -> Result<(), ConfigError> {
    let asked = users
        .iter()
        .find(|user| user.method.unwrap_or(auth.method) == AuthMethod::Cert);
    match asked {
        Some(_) if tls.clients.is_none() => Err(ConfigError::Missing {
            what: "no authority for client certificates is given",
            how: "set WEIR_TLS_CLIENT_CA, or `client_ca_file` in [tls]: a user is asked for a certificate",
        }),
        Some(_) | None => Ok(()),
    }
}

/// One credential, or none where Weir mints its own.
fn only_one(values: &Values, shape: &UserShape) -> Result<(), ConfigError> {
    let problem = match (&shape.password, &shape.verifier, &shape.secret_arn) {
        (Some(_), Some(_), _) => (
            "users.verifier",
            "and users.password are both set: give one of them",
        ),
        (Some(_), None, Some(_)) | (None, Some(_), Some(_)) => (
            "users.secret_arn",
            "and a password or verifier are both set: give one of them",
        ),
        (Some(_), None, None) | (None, _, _) => return Ok(()),
    };
    Err(contradiction(values, problem.0, problem.1))
}

fn user(values: &Values, auth: &Auth, iam: &Iam) -> Result<User, ConfigError> {
    let shape = UserShape::read(values)?;
    only_one(values, &shape)?;
    let method = shape.auth.unwrap_or(auth.method);
    let credential = match (shape.password, shape.verifier, shape.secret_arn) {
        (Some(password), _, _) => Credential::Password(password),
        (None, Some(verifier), _) if !is_scram_verifier(verifier.expose()) => {
            return Err(contradiction(
                values,
                "users.verifier",
                "is not a SCRAM verifier: SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>",
            ));
        }
        (None, Some(_), _) if method == AuthMethod::Md5 => {
            return Err(contradiction(
                values,
                "users.verifier",
                "is of no use with auth.method = \"md5\": give the user's password",
            ));
        }
        (None, Some(_), _) if method == AuthMethod::Cert => {
            return Err(contradiction(
                values,
                "users.verifier",
                "is of no use for a user that shows a certificate, since Weir then never learns what logs it in to the \
                 database: give the user's password",
            ));
        }
        (None, Some(verifier), _) => Credential::Verifier(verifier),
        (None, None, Some(arn)) => Credential::Secret(arn),
        (None, None, None) if shape.default_auth_scheme == AuthScheme::Iam => Credential::Absent,
        (None, None, None) => {
            let how = match values.place("users.name") {
                Place::Environment(name) if name == "AURORA_USER" => {
                    "set AURORA_PASSWORD; or leave AURORA_USER out, if AURORA_SECRET_ARN is to name the user"
                }
                Place::Environment(_) | Place::File { .. } | Place::Builtin => {
                    "give `password`, `verifier` or `secret_arn`"
                }
            };
            let problem = format!("{:?} has no credential: {how}", shape.name);
            return Err(contradiction(values, "users.name", problem));
        }
    };
    if shape.iam.is_some_and(|mode| mode != IamMode::Disabled) && !iam.has_validator() {
        let problem = "lets the user come with a token, but nothing can check one: fill in a section of [auth.iam]";
        return Err(contradiction(values, "users.iam", problem));
    }
    if method != AuthMethod::Cert && !shape.certificate_names.is_empty() {
        return Err(contradiction(
            values,
            "users.certificate_names",
            "is set, but the user is asked for no certificate: set `auth = \"cert\"`",
        ));
    }
    Ok(User {
        // Who is asked for something else by name comes with that.
        iam: shape.iam.unwrap_or(match shape.auth {
            Some(_) => IamMode::Disabled,
            None => iam.mode,
        }),
        name: shape.name,
        credential,
        scheme: shape.default_auth_scheme,
        method: shape.auth,
        certificate_names: shape.certificate_names,
        pool_max_connections: shape.pool_max_connections,
    })
}

/// Who looks up the users that are not listed, if anybody does.
fn query_user(values: &Values, auth: &Auth) -> Result<Option<User>, ConfigError> {
    let credential = match (&auth.query_password, &auth.query_secret_arn) {
        (Some(_), Some(_)) => {
            return Err(contradiction(
                values,
                "auth.query_secret_arn",
                "and auth.query_password are both set: give one of them",
            ));
        }
        (Some(password), None) => Some(Credential::Password(password.clone())),
        (None, Some(arn)) => Some(Credential::Secret(arn.clone())),
        (None, None) => None,
    };
    match (&auth.query_user, credential) {
        (None, None) => Ok(None),
        (Some(name), Some(credential)) => Ok(Some(User {
            name: name.clone(),
            credential,
            scheme: AuthScheme::Own,
            method: None,
            certificate_names: Vec::new(),
            pool_max_connections: None,
            iam: IamMode::Disabled,
        })),
        (Some(_), None) => Err(contradiction(
            values,
            "auth.query_user",
            "has no credential: give `query_password` or `query_secret_arn`",
        )),
        (None, Some(_)) => Err(clash(
            values,
            "auth.query_password",
            "auth.query_secret_arn",
            "is of no user: set auth.query_user too",
        )),
    }
}

/// The form of `pg_authid.rolpassword`: SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk..=:c2VydmVy..=
fn is_scram_verifier(text: &str) -> bool {
    let base64 = |s: &str, len: Option<usize>| {
        !s.is_empty()
            && len.is_none_or(|len| s.len() == len)
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
    };
    let Some((head, keys)) = text
        .strip_prefix("SCRAM-SHA-256$")
        .and_then(|rest| rest.split_once('$'))
    else {
        return false;
    };
    let (Some((iterations, salt)), Some((stored, server))) =
        (head.split_once(':'), keys.split_once(':'))
    else {
        return false;
    };
    // 32 bytes are 44 characters of base64.
    iterations.parse::<u32>().is_ok_and(|n| n > 0)
        && base64(salt, None)
        && base64(stored, Some(44))
        && base64(server, Some(44))
}
