//! A small DNS server of the test's own, and whoever is said to have which name.
//!
//! Knows dnsmasq; does not know who asks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::programs::signal;
use super::{eventually, free_port, local};

/// A fleet's.
pub const NAME: &str = "weir.test";

/// A name that is there always, and has no address unless it is given one.
pub const HOLLOW: &str = "hollow.test";

pub struct Names {
    pub server: SocketAddr,
    file: PathBuf,
    ttl_s: u32,
    child: Option<Child>,
    listed: Mutex<BTreeMap<String, Vec<IpAddr>>>,
}

impl Names {
    pub fn start() -> Names {
        Names::with_ttl(0)
    }

    pub fn with_ttl(ttl_s: u32) -> Names {
        let server = local(free_port());
        let file = std::env::temp_dir().join(format!("weir-hosts-{}", server.port()));
        std::fs::write(&file, "").unwrap();
        let mut names = Names {
            server,
            file,
            ttl_s,
            child: None,
            listed: Mutex::default(),
        };
        names.start_again();
        names
    }

    pub fn start_again(&mut self) {
        let child = Command::new(dnsmasq())
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--listen-address=127.0.0.1",
                "--local=/#/",
                "--pid-file=",
                "--conf-file=/dev/null",
                "--user=root",
            ])
            .arg(format!("--local-ttl={}", self.ttl_s))
            .arg(format!("--txt-record={HOLLOW},nobody"))
            .arg(format!("--port={}", self.server.port()))
            .arg(format!("--addn-hosts={}", self.file.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq can be run; tools/setup installs it");
        self.child = Some(child);
        eventually("did dnsmasq answer", || self.answer(NAME), Option::is_some);
    }

    /// Nobody is there who could answer.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Does not answer until it is woken.
    pub fn sleep(&self) {
        self.signal("STOP");
    }

    pub fn wake(&self) {
        self.signal("CONT");
    }

    pub fn list(&self, address: IpAddr) {
        self.change(NAME, |listed| listed.push(address));
    }

    pub fn strike(&self, address: IpAddr) {
        self.change(NAME, |listed| listed.retain(|other| *other != address));
    }

    /// These are all that a name has from here on.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        self.change(name, |listed| *listed = addresses.to_vec());
    }

    fn change(&self, name: &str, how: impl FnOnce(&mut Vec<IpAddr>)) {
        let mut all = self.listed.lock().unwrap();
        how(all.entry(name.into()).or_default());
        let lines = all.iter().flat_map(|(name, addresses)| {
            addresses
                .iter()
                .map(move |address| format!("{address} {name}\n"))
        });
        std::fs::write(&self.file, lines.collect::<String>()).unwrap();
        self.signal("HUP");
        let mut due = all[name].clone();
        due.sort();
        eventually(
            "did DNS say what it was told",
            || self.answer(name),
            |told| *told == Some(due.clone()),
        );
    }

    /// The IPv4 addresses of a name, in order; `None`: no answer.
    fn answer(&self, name: &str) -> Option<Vec<IpAddr>> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = socket.set_read_timeout(Some(Duration::from_millis(200)));
        // RFC 1035, 4.1: one question, recursion desired, type A, class IN.
        let mut question = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0".to_vec();
        for label in name.split('.') {
            question.push(u8::try_from(label.len()).unwrap());
            question.extend_from_slice(label.as_bytes());
        }
        question.extend_from_slice(b"\0\0\x01\0\x01");
        socket.send_to(&question, self.server).unwrap();
        let mut answer = [0; 1500];
        let length = socket.recv(&mut answer).ok()?;
        let count = u16::from_be_bytes(answer[..length].get(6..8)?.try_into().unwrap());
        // Each a pointer to the name, type, class, TTL, length and address.
        let records = answer[..length].get(question.len()..)?.chunks_exact(16);
        let addresses = records.take(count.into()).map(|record| {
            let address: [u8; 4] = record[12..].try_into().unwrap();
            IpAddr::from(Ipv4Addr::from(address))
        });
        let mut addresses: Vec<IpAddr> = addresses.collect();
        addresses.sort();
        Some(addresses)
    }

    fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            signal(child.id(), name);
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_file(&self.file);
    }
}

fn dnsmasq() -> PathBuf {
    // Debian has it where users' paths do not lead.
    let there = PathBuf::from("/usr/sbin/dnsmasq");
    if there.exists() {
        there
    } else {
        "dnsmasq".into()
    }
}
