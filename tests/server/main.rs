//! Weir's side towards the database, against real PostgreSQL and against servers that misbehave.

#![allow(clippy::unwrap_used)] // a test that can't go on says so by panicking

#[path = "../house/mod.rs"]
mod house;

mod binding;
mod hostile;
mod login;
mod sslmode;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use house::Postgres;
use house::postgres::{PASSWORD, USER};
use weir::config::{Dns, HostPort, Secret, SslMode};
use weir::net::{Resolver, SocketOptions};
use weir::secrets::{self, Password};
use weir::server::{ConnectError, Connected, Login, Security, Target, connect};

/// One PostgreSQL with TLS and a role for each way to log in.
fn postgres() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| {
        let postgres = Postgres::start_with_tls();
        postgres.sql(
            "CREATE ROLE clear LOGIN PASSWORD 'pencil'; CREATE ROLE free LOGIN; \
             CREATE ROLE only_tls LOGIN PASSWORD 'pencil'; CREATE ROLE only_plain LOGIN PASSWORD 'pencil'; \
             CREATE ROLE crowded LOGIN PASSWORD 'pencil' CONNECTION LIMIT 0; \
             CREATE ROLE kerberos LOGIN; \
             SET password_encryption = 'md5'; CREATE ROLE legacy LOGIN PASSWORD 'pencil'",
        );
        postgres.stop();
        postgres.allow(
            "host all clear 127.0.0.1/32 password\n\
             host all free 127.0.0.1/32 trust\n\
             host all kerberos 127.0.0.1/32 gss\n\
             hostnossl all only_tls 127.0.0.1/32 reject\n\
             hostssl all only_plain 127.0.0.1/32 reject\n",
        );
        postgres.start_again();
        postgres
    })
}

fn target(address: SocketAddr, mode: SslMode, authorities: Option<&str>) -> Target {
    let dns = Dns {
        servers: Vec::new(),
        timeout: Duration::from_secs(2),
        max_ttl: Duration::from_secs(60),
        max_stale: Duration::from_secs(60),
    };
    Target {
        at: HostPort {
            host: address.ip().to_string(),
            port: address.port(),
        },
        security: Security::new(mode, authorities.map(str::as_bytes)).unwrap(),
        socket: SocketOptions::default(),
        resolver: Resolver::new(&dns),
        connect_timeout: Duration::from_secs(20),
    }
}

/// The usual user with the usual password.
fn app() -> (&'static str, secrets::Login) {
    (USER, password(PASSWORD))
}

fn password(text: &str) -> secrets::Login {
    secrets::Login::Password(Arc::new(Password::new(Secret::new(text.to_owned()))))
}

fn with_pencil(user: &'static str) -> (&'static str, secrets::Login) {
    (user, password("pencil"))
}

async fn enter(
    target: &Target,
    (user, credential): &(&str, secrets::Login),
) -> Result<Connected, ConnectError> {
    connect(target, &login(user, credential)).await
}

fn login<'a>(user: &'a str, credential: &'a secrets::Login) -> Login<'a> {
    Login {
        user,
        database: "postgres",
        credential,
        parameters: &[("application_name", "weir")],
        init_query: "",
    }
}
