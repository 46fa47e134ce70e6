//! A small DNS server of the test's own: one name, and whoever is said to have it.
//!
//! Knows dnsmasq; does not know who asks.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::programs::signal;
use super::{eventually, free_port, local};

pub const NAME: &str = "weir.test";

pub struct Names {
    pub server: SocketAddr,
    file: PathBuf,
    child: Child,
    listed: Mutex<Vec<IpAddr>>,
}

impl Names {
    pub fn start() -> Names {
        let server = local(free_port());
        let file = std::env::temp_dir().join(format!("weir-hosts-{}", server.port()));
        std::fs::write(&file, "").unwrap();
        let child = Command::new(dnsmasq())
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--listen-address=127.0.0.1",
                "--local-ttl=0",
                "--local=/test/",
                "--pid-file=",
                "--conf-file=/dev/null",
                "--user=root",
            ])
            .arg(format!("--port={}", server.port()))
            .arg(format!("--addn-hosts={}", file.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq can be run; tools/setup installs it");
        let names = Names {
            server,
            file,
            child,
            listed: Mutex::default(),
        };
        eventually("did dnsmasq answer", || names.count(), Option::is_some);
        names
    }

    pub fn list(&self, address: IpAddr) {
        self.change(|listed| listed.push(address));
    }

    pub fn strike(&self, address: IpAddr) {
        self.change(|listed| listed.retain(|other| *other != address));
    }

    /// Does not answer until it is woken.
    pub fn sleep(&self) {
        signal(self.child.id(), "STOP");
    }

    pub fn wake(&self) {
        signal(self.child.id(), "CONT");
    }

    fn change(&self, how: impl FnOnce(&mut Vec<IpAddr>)) {
        let mut listed = self.listed.lock().unwrap();
        how(&mut listed);
        let lines = listed.iter().map(|address| format!("{address} {NAME}\n"));
        std::fs::write(&self.file, lines.collect::<String>()).unwrap();
        signal(self.child.id(), "HUP");
        let due = listed.len();
        eventually(
            "did DNS say what it was told",
            || self.count(),
            |count| *count == Some(due),
        );
    }

    /// How many addresses the name has; `None`: no answer.
    fn count(&self) -> Option<usize> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = socket.set_read_timeout(Some(Duration::from_millis(200)));
        // RFC 1035, 4.1: one question, recursion desired, type A, class IN.
        let mut question = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0".to_vec();
        for label in NAME.split('.') {
            question.push(u8::try_from(label.len()).unwrap());
            question.extend_from_slice(label.as_bytes());
        }
        question.extend_from_slice(b"\0\0\x01\0\x01");
        socket.send_to(&question, self.server).unwrap();
        let mut answer = [0; 1500];
        let length = socket.recv(&mut answer).ok()?;
        let answers = answer[..length].get(6..8)?;
        Some(usize::from(u16::from_be_bytes(answers.try_into().unwrap())))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
