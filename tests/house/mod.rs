//! The test house: a PostgreSQL, a Weir and clients to throw at them, as verbs.
//!
//! Knows how to run things and speak the protocol; does not know what any test wants to prove.

// Each suite is a binary of its own and uses its own share of the house.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

pub mod client;
pub mod cluster;
pub mod http;
pub mod moto;
pub mod names;
pub mod network;
pub mod postgres;
pub mod programs;
pub mod proxy;
pub mod sides;
pub mod tls;
pub mod wire;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub use client::{Answer, Client, Login, Refusal};
pub use names::Names;
pub use postgres::{Postgres, USER};
pub use proxy::Proxy;
pub use wire::Frame;

/// How long anything may take before the test calls it stuck. No test measures speed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The short count, or under `make prove` the full one.
pub fn count(short: usize, full: usize) -> usize {
    if proving() { full } else { short }
}

pub fn proving() -> bool {
    std::env::var_os("WEIR_PROVE").is_some()
}

/// Polls until `holds`; panics with `what` and the last thing seen when patience ends.
pub fn eventually<T: std::fmt::Debug>(
    what: &str,
    mut look: impl FnMut() -> T,
    holds: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if holds(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "never {what}; last: {seen:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port nobody listens on, below the range the kernel takes outgoing ones from, so that
/// nobody's connection can land on it between here and the server's own bind.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 600).unwrap() * 20;
    loop {
        let port = 20_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
