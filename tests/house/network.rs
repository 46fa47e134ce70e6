//! A network of the test's own: each host in a namespace, on a cable that can be pulled.
//!
//! Knows `ip`; does not know what runs on the hosts. Whoever has pulled a cable gets no refusal, no reset and no message
//! from the other end: packets go nowhere, as when a machine loses its power or a security group is changed.

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use super::programs::said;

pub struct Network {
    /// The namespace in which all cables meet.
    hub: String,
    /// 198.18.0.0/15 is for tests of networks (RFC 2544).
    net: [u8; 3],
    hosts: Vec<String>,
}

/// Where a program runs.
#[derive(Clone, Debug)]
pub struct Host {
    pub address: IpAddr,
    namespace: String,
    hub: String,
    /// The cable's end at the hub.
    cable: String,
}

impl Network {
    /// `None` where namespaces can't be made, which is said aloud.
    pub fn lay() -> Option<Network> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() % 20_000 * 4 + NEXT.fetch_add(1, Ordering::Relaxed) % 4;
        let [_, high, middle, low] = number.to_be_bytes();
        let network = Network {
            hub: format!("weir-{number}"),
            net: [198, 18 + (high ^ middle) % 2, low],
            hosts: Vec::new(),
        };
        match network.make_hub(&format!("weir-{number}")) {
            Ok(()) => Some(network),
            Err(why) => {
                eprintln!(
                    "\n*** NO NETWORK NAMESPACES CAN BE MADE HERE, what needs them is skipped: {why}\n"
                );
                None
            }
        }
    }

    fn make_hub(&self, uplink: &str) -> Result<(), String> {
        let hub = &*self.hub;
        ip(&["netns", "add", hub])?;
        in_namespace(hub, &["link", "add", "hub", "type", "bridge"])?;
        in_namespace(hub, &["link", "set", "hub", "up"])?;
        ip(&[
            "link", "add", uplink, "type", "veth", "peer", "name", "uplink", "netns", hub,
        ])?;
        in_namespace(hub, &["link", "set", "uplink", "master", "hub", "up"])?;
        ip(&[
            "addr",
            "add",
            &format!("{}/24", self.address(1)),
            "dev",
            uplink,
        ])?;
        ip(&["link", "set", uplink, "up"])
    }

    fn address(&self, last: u8) -> IpAddr {
        let [a, b, c] = self.net;
        Ipv4Addr::new(a, b, c, last).into()
    }

    pub fn host(&mut self) -> Host {
        let last = u8::try_from(self.hosts.len() + 2).unwrap();
        let host = Host {
            address: self.address(last),
            namespace: format!("{}-{last}", self.hub),
            hub: self.hub.clone(),
            cable: format!("cable{last}"),
        };
        let (namespace, hub, cable) = (&*host.namespace, &*self.hub, &*host.cable);
        let mac = format!("02:00:00:00:00:{last:02x}");
        let steps = || {
            ip(&["netns", "add", namespace])?;
            in_namespace(
                hub,
                &[
                    "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns",
                    namespace,
                ],
            )?;
            in_namespace(hub, &["link", "set", cable, "master", "hub", "up"])?;
            in_namespace(namespace, &["link", "set", "lo", "up"])?;
            in_namespace(namespace, &["link", "set", "eth0", "address", &mac, "up"])?;
            in_namespace(
                namespace,
                &[
                    "addr",
                    "add",
                    &format!("{}/24", host.address),
                    "dev",
                    "eth0",
                ],
            )?;
            // Nobody is to learn from unanswered ARP that a host is gone.
            ip(&[
                "neigh",
                "replace",
                &host.address.to_string(),
                "lladdr",
                &mac,
                "dev",
                hub,
                "nud",
                "permanent",
            ])
        };
        self.hosts.push(namespace.to_owned());
        steps().unwrap();
        host
    }
}

impl Host {
    /// From here on nothing comes from it and nothing arrives there.
    pub fn pull_cable(&self) {
        in_namespace(&self.hub, &["link", "set", &self.cable, "down"]).unwrap();
    }

    pub fn plug_in(&self) {
        in_namespace(&self.hub, &["link", "set", &self.cable, "up"]).unwrap();
    }

    /// The words before a command that runs there as the user that `user` begins with.
    pub fn run_as(&self, user: &[&str]) -> Command {
        let mut words = vec!["ip", "netns", "exec", &self.namespace];
        words.extend(user);
        privileged(&words)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.hosts.iter().chain([&self.hub]) {
            let _ = ip(&["netns", "del", namespace]);
        }
    }
}

fn in_namespace(namespace: &str, words: &[&str]) -> Result<(), String> {
    ip(&[&["-n", namespace], words].concat())
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output = privileged(&[&["ip"], words].concat()).output();
    let told = |output: Output| match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {}: {}", words.join(" "), said(&output).trim())),
    };
    output
        .map_err(|error| format!("ip: {error}"))
        .and_then(told)
}

/// As root, if only sudo may do it without a question.
fn privileged(words: &[&str]) -> Command {
    let sudo: &[&str] = match super::postgres::is_root() {
        true => &[],
        false => &["sudo", "-n"],
    };
    let mut all = sudo.iter().chain(words);
    let mut command = Command::new(all.next().unwrap());
    command.args(all);
    command
}
