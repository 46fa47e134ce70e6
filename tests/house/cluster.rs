//! A writer and its streaming replicas, really promoted.
//!
//! Knows how to lose a writer in several ways and to follow a new one; does not know of Weir.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::network::{Host, Network};
use super::{Client, PATIENCE, Postgres, Proxy, eventually, free_port, local, proxy::Setup};

/// What each node is started with: a commit is acknowledged when a replica has it, too.
const SETTINGS: &[&str] = &[
    "synchronous_commit=on",
    "wal_retrieve_retry_interval=10ms",
    "hot_standby=on",
    "max_wal_senders=10",
    "max_connections=150",
];

pub struct Cluster {
    pub nodes: Vec<Postgres>,
    pub writer: usize,
    pub database: String,
    /// Goes when all nodes are gone.
    _network: Option<Network>,
}

struct Node {
    address: SocketAddr,
    host: Option<Host>,
    settings: Vec<String>,
}

impl Cluster {
    /// A writer with this many replicas, all caught up.
    pub fn start(replicas: usize) -> Cluster {
        Cluster::with(replicas, &[])
    }

    pub fn with(replicas: usize, more: &[&str]) -> Cluster {
        let settings = SETTINGS.iter().chain(more);
        let settings: Vec<String> = settings.map(|text| text.to_string()).collect();
        let nodes = (0..=replicas).map(|_| Node {
            address: local(free_port()),
            host: None,
            settings: settings.clone(),
        });
        Cluster::of(nodes.collect(), None)
    }

    /// One whose nodes are machines of their own; `None` where there can be none.
    pub fn apart(replicas: usize) -> Option<Cluster> {
        let mut network = Network::lay()?;
        let nodes = (0..=replicas).map(|_| {
            let host = network.host();
            Node {
                address: SocketAddr::new(host.address, 5432),
                host: Some(host),
                settings: SETTINGS.iter().map(|text| text.to_string()).collect(),
            }
        });
        let nodes = nodes.collect();
        Some(Cluster::of(nodes, Some(network)))
    }

    /// One whose nodes have one port and addresses of their own, 127.0.0.2 and so on, and are named by the last number of
    /// that. The first of them answers at 127.0.0.1, too.
    pub fn spread(replicas: usize) -> Cluster {
        let port = free_port();
        let node = |n: u8| {
            let mut settings: Vec<String> = SETTINGS.iter().map(|text| text.to_string()).collect();
            settings.push(format!("cluster_name={n}"));
            if n == 2 {
                settings.push("listen_addresses=127.0.0.1,127.0.0.2".into());
            }
            Node {
                address: SocketAddr::new([127, 0, 0, n].into(), port),
                host: None,
                settings,
            }
        };
        Cluster::of((2..).take(replicas + 1).map(node).collect(), None)
    }

    fn of(nodes: Vec<Node>, network: Option<Network>) -> Cluster {
        let mut nodes = nodes.into_iter();
        let Node {
            address,
            host,
            settings,
        } = nodes.next().unwrap();
        let writer = Postgres::start_at(address, host, &texts(&settings));
        let database = writer.database();
        // From here on commits wait for a replica; those that are copied now have it so as well.
        writer.sql("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'");
        let replicas =
            nodes.map(|node| writer.replica_at(node.address, node.host, &texts(&node.settings)));
        let replicas: Vec<Postgres> = replicas.collect();
        writer.sql("SELECT pg_reload_conf()");
        let cluster = Cluster {
            nodes: std::iter::once(writer).chain(replicas).collect(),
            writer: 0,
            database,
            _network: network,
        };
        cluster.settle();
        cluster
    }

    pub fn writer(&self) -> &Postgres {
        &self.nodes[self.writer]
    }

    /// The nodes that are not the writer.
    pub fn others(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|node| *node != self.writer)
            .collect()
    }

    /// A Weir in front of all of them.
    pub fn proxy(&self, cap: usize) -> Setup {
        let hosts: Vec<String> = self
            .nodes
            .iter()
            .map(|node| node.address.to_string())
            .collect();
        Proxy::before(self.writer(), &self.database, cap).set("AURORA_HOST", &hosts.join(","))
    }

    /// Waits until all replicas stream from the writer.
    pub fn settle(&self) {
        let replicas = self.others().len();
        eventually(
            "did all replicas stream",
            || {
                let count = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
                (self.writer().sql(count).remove(0), self.last_words())
            },
            |(count, _)| *count == replicas.to_string(),
        );
    }

    /// What the replicas' logs end with.
    fn last_words(&self) -> Vec<String> {
        let logs = self.others().into_iter().map(|node| self.nodes[node].log());
        logs.map(|log| {
            let lines: Vec<&str> = log.lines().rev().take(6).collect();
            lines.join(" | ")
        })
        .collect()
    }

    /// Waits until a replica has everything that the writer had when this was called.
    pub fn catch_up(&self, node: usize) {
        let position = self.writer().sql("SELECT pg_current_wal_lsn()").remove(0);
        eventually(
            "did the replica catch up",
            || self.nodes[node].sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'")),
            |there| there[0] == "t",
        );
    }

    /// Promotes the replica that is furthest ahead and has the others follow it; the writer is taken to be lost.
    /// When it says itself that it is the writer.
    pub fn fail_over(&mut self) -> Instant {
        let others = self.others();
        // Who still receives could get ahead of the one that is chosen, and then never follow it.
        for node in &others {
            self.nodes[*node].follow_nobody();
        }
        let next = *others
            .iter()
            .max_by_key(|node| {
                let ahead =
                    self.nodes[**node].sql("SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn");
                ahead[0].parse::<u64>().unwrap_or(0)
            })
            .unwrap();
        for node in others {
            if node != next {
                self.nodes[node].follow(&self.nodes[next]);
            }
        }
        let mut asking = self.nodes[next].superuser().connect();
        asking.run("SELECT pg_promote(false)");
        while asking.value("SELECT pg_is_in_recovery()") == "t" {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.writer = next;
        Instant::now()
    }

    /// The node that was the writer joins as a replica.
    pub fn rejoin(&self, node: usize) {
        self.nodes[node].clone_from(self.writer());
        self.settle();
    }
}

fn texts(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

/// Asks a server where it is.
pub const ADDRESS: &str = "SELECT host(inet_server_addr()) || ':' || inet_server_port()";

/// Waits until a fresh client of Weir's is served by the writer.
pub fn served_by(proxy: &Proxy, writer: &Postgres) {
    let address = writer.address.to_string();
    let deadline = Instant::now() + PATIENCE;
    let mut client: Client = proxy.client();
    loop {
        let answer = client.ask(ADDRESS);
        if answer.column() == [address.clone()] {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not served by {address}: {answer:?}\n{}",
            proxy.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
