//! The tasks of a fleet, each on a loopback address of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::house::names::NAME;
use crate::house::proxy::Setup;
use crate::house::{Names, Postgres, Proxy, eventually, free_port};

/// Two thirds of a second for DNS to get about, one for shedding, a third for closing: short, but this machine is slow.
pub const SETTLE: Duration = Duration::from_secs(2);
const REFRESH: Duration = Duration::from_millis(200);
const KEY: &str = "the fleet's own key";

/// A house for a fleet: the database, the DNS server, and the port that all its tasks have in common.
pub struct Berth {
    pub postgres: &'static Postgres,
    pub database: String,
    pub names: Names,
    pub port: u16,
    cap: usize,
    /// Its part of 127.0.0.0/8.
    net: u8,
}

impl Berth {
    pub fn new(cap: usize) -> Berth {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let postgres = Postgres::shared();
        let database = postgres.database();
        Berth {
            postgres,
            database,
            names: Names::start(),
            port: free_port(),
            cap,
            net: u8::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap(),
        }
    }

    pub fn address(&self, number: usize) -> IpAddr {
        Ipv4Addr::new(127, 1, self.net, u8::try_from(number).unwrap() + 1).into()
    }

    pub fn setup(&self, number: usize) -> Setup {
        let alone = Proxy::before(self.postgres, &self.database, self.cap);
        self.among_others(alone, number)
    }

    /// What makes a Weir one of the fleet.
    pub fn among_others(&self, setup: Setup, number: usize) -> Setup {
        let host = self.address(number);
        let ms = |time: Duration| format!("{}ms", time.as_millis());
        setup
            .at(host)
            .set("WEIR_FLEET_DISCOVER", &format!("{NAME}:{}", self.port))
            .set("WEIR_FLEET_LISTEN", &format!("{host}:{}", self.port))
            .set("WEIR_FLEET_KEY", KEY)
            .set("WEIR_DNS_SERVERS", &self.names.server.to_string())
            .set("WEIR__FLEET__REFRESH", &ms(REFRESH))
            .set("WEIR__FLEET__SETTLE", &ms(SETTLE))
            .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "60s")
            .set("WEIR__POOL__IDLE_TIMEOUT", "1s")
    }

    /// A new task, in DNS from the moment it runs, as a service registry would have it.
    pub fn launch(&self, number: usize) -> Proxy {
        self.launch_as(self.setup(number), number)
    }

    pub fn launch_as(&self, setup: Setup, number: usize) -> Proxy {
        let proxy = setup.start_unready();
        self.names.list(self.address(number));
        proxy
    }

    /// Launched, and its part is what it will be.
    pub fn launch_all(&self, count: usize) -> Vec<Proxy> {
        let tasks: Vec<Proxy> = (0..count).map(|number| self.launch(number)).collect();
        for task in &tasks {
            eventually(
                "was a task ready",
                || (task.ready(), task.log()),
                |(ready, _)| *ready,
            );
        }
        tasks
    }
}

/// The cap that a task keeps to at the moment, and how many connections it has.
pub fn cap_and_used(task: &Proxy) -> (u64, u64) {
    let pools = task.pools();
    let target = &pools["targets"][0];
    (
        target["cap"].as_u64().unwrap_or(0),
        target["used"].as_u64().unwrap(),
    )
}

pub fn cap(task: &Proxy) -> u64 {
    cap_and_used(task).0
}
