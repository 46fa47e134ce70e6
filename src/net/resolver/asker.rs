//! One question about a name: to the hosts file, to DNS servers, with the search list, as the system's files say now.
//!
//! Remembers no answers. The only file that names hickory, which speaks DNS.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use tokio::net::lookup_host;

use super::error::ResolveError;

/// Addresses of both kinds, and for how long they are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// At least one.
    pub addresses: Vec<IpAddr>,
    pub shortest_ttl: Duration,
    pub longest_ttl: Duration,
}

/// Which addresses are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    All,
    /// IPv6 ones only of a name without IPv4 ones: whoever asks gets the same ones.
    One,
}

/// Asks.
#[derive(Debug)]
pub struct Asker {
    /// Instead of those of resolv.conf; none: those.
    servers: Vec<SocketAddr>,
    timeout: Duration,
    /// resolv.conf and hosts.
    files: [PathBuf; 2],
    system: Mutex<Option<Arc<System>>>,
}

/// What the files say, and their text: as long as that is the same it is not parsed again, nor what is wrong with it
/// said again.
#[derive(Debug)]
struct System {
    texts: [Option<Vec<u8>>; 2],
    hosts: Hosts,
    /// `None`: no server is known.
    dns: Option<Dns>,
}

#[derive(Debug)]
struct Dns {
    config: ResolverConfig,
    options: ResolverOpts,
    /// The servers, for people.
    by: Arc<str>,
}

impl Asker {
    /// `timeout`: for an answer to each of two attempts.
    pub fn new(servers: Vec<SocketAddr>, timeout: Duration) -> Asker {
        let (resolv_conf, hosts) = ("/etc/resolv.conf".into(), "/etc/hosts".into());
        Asker::reading(resolv_conf, hosts, servers, timeout)
    }

    pub(super) fn reading(
        resolv_conf: PathBuf,
        hosts: PathBuf,
        servers: Vec<SocketAddr>,
        timeout: Duration,
    ) -> Asker {
        Asker {
            servers,
            timeout,
            files: [resolv_conf, hosts],
            system: Mutex::default(),
        }
    }

    /// Whether there is a server whose answers say how long they are good.
    pub fn knows_servers(&self) -> bool {
        self.system().dns.is_some()
    }

    /// Cancel-safe.
    pub async fn ask(&self, host: &str, families: Families) -> Result<Answer, ResolveError> {
        let Ok(name) = Name::from_str_relaxed(host) else {
            return Err(ResolveError::NotAName { host: host.into() });
        };
        let system = self.system();
        if let Some(answer) = system.listed(&name) {
            return Ok(answer);
        }
        let Some(dns) = &system.dns else {
            return ask_libc(host).await;
        };
        let question = Question {
            host,
            by: &dns.by,
            // A resolver for this question alone: it lives in the runtime that asks, and dies with it.
            resolver: dns.resolver(host)?,
        };
        let mut failed: Option<ResolveError> = None;
        for name in dns.candidates(&name) {
            match question.addresses(name, families).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    // Whoever does not answer for one name does not for the next.
                    let over = error.is_silence();
                    failed = Some(worse(failed, error));
                    if over {
                        break;
                    }
                }
            }
        }
        Err(failed.unwrap_or_else(|| ResolveError::NotAName { host: host.into() }))
    }

    /// A few microseconds: these files are in memory.
    fn system(&self) -> Arc<System> {
        let texts = self.files.each_ref();
        let texts = texts.map(|path| std::fs::read(path).ok());
        let mut known = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(system) = &*known
            && system.texts == texts
        {
            return Arc::clone(system);
        }
        let system = Arc::new(System::read(texts, &self.servers, self.timeout));
        *known = Some(Arc::clone(&system));
        system
    }
}

impl System {
    fn read(texts: [Option<Vec<u8>>; 2], servers: &[SocketAddr], timeout: Duration) -> System {
        let [resolv_conf, hosts_text] = &texts;
        let mut hosts = Hosts::default();
        if let Some(text) = hosts_text
            && let Err(error) = hosts.read_hosts_conf(&**text)
        {
            tracing::warn!(%error, "the hosts file can't be read to its end");
        }
        let parsed = match resolv_conf {
            Some(text) => parse_resolv_conf(text).map_err(|error| error.to_string()),
            None => Err("it can't be read".to_owned()),
        };
        let dns = match (parsed, servers) {
            (Err(why), []) => {
                tracing::warn!(
                    why,
                    "no DNS server is known from /etc/resolv.conf: the C library resolves host names, and their TTL is not known"
                );
                None
            }
            (parsed, servers) => {
                let (config, options) = parsed.unwrap_or_default();
                Some(Dns::new(config, options, servers, timeout))
            }
        };
        System { texts, hosts, dns }
    }

    fn listed(&self, name: &Name) -> Option<Answer> {
        let of = |kind| {
            self.hosts
                .lookup_static_host(&Query::query(name.clone(), kind))
        };
        let found = [RecordType::A, RecordType::AAAA].map(of);
        let records = found.iter().flatten().flat_map(|found| found.answers());
        let addresses: Vec<IpAddr> = records.filter_map(|record| record.data.ip_addr()).collect();
        (!addresses.is_empty()).then_some(Answer {
            addresses,
            shortest_ttl: Duration::ZERO,
            longest_ttl: Duration::ZERO,
        })
    }
}

impl Dns {
    fn new(
        config: ResolverConfig,
        mut options: ResolverOpts,
        servers: &[SocketAddr],
        timeout: Duration,
    ) -> Dns {
        let (domain, search, mut name_servers) = config.into_parts();
        if !servers.is_empty() {
            name_servers = servers.iter().map(|at| name_server(*at)).collect();
        }
        let ports = |server: &NameServerConfig| {
            let port = server.connections.first().map_or(53, |way| way.port);
            SocketAddr::new(server.ip, port).to_string()
        };
        let by: Vec<String> = name_servers.iter().map(ports).collect();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = timeout;
        options.attempts = 1;
        Dns {
            config: ResolverConfig::from_parts(domain, search, name_servers),
            options,
            by: by.join(", ").into(),
        }
    }

    fn resolver(&self, host: &str) -> Result<TokioResolver, ResolveError> {
        let provider = TokioRuntimeProvider::default();
        let builder = TokioResolver::builder_with_config(self.config.clone(), provider);
        let built = builder.with_options(self.options.clone()).build();
        built.map_err(|error| self::error(host, &self.by, error))
    }

    /// The names to ask for, in order, as resolv.conf(5) has it. hickory has the same list, but says of a search only
    /// what became of the last name: that one name does not exist while another could not be asked for.
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut bare = name.clone();
        bare.set_fqdn(true);
        if name.is_fqdn() || bare.is_localhost() {
            return vec![bare];
        }
        let domains = self.config.search().iter().chain(self.config.domain());
        let found = domains.filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut all: Vec<Name> = Vec::new();
        for candidate in found {
            if candidate != bare && !all.contains(&candidate) {
                all.push(candidate);
            }
        }
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let place = if dots >= self.options.ndots {
            0
        } else {
            all.len()
        };
        all.insert(place, bare);
        all
    }
}

fn name_server(at: SocketAddr) -> NameServerConfig {
    let ways = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut way| {
        way.port = at.port();
        way
    });
    NameServerConfig::new(at.ip(), true, ways.to_vec())
}

struct Question<'q> {
    host: &'q str,
    by: &'q Arc<str>,
    resolver: TokioResolver,
}

impl Question<'_> {
    async fn addresses(&self, name: Name, families: Families) -> Result<Answer, ResolveError> {
        let first = self.records(name.clone(), RecordType::A);
        match families {
            Families::All => {
                let (v4, v6) = tokio::join!(first, self.records(name, RecordType::AAAA));
                both(v4, v6)
            }
            Families::One => match first.await {
                Err(error) if error.is_denial() => {
                    let second = self.records(name, RecordType::AAAA).await;
                    second.map_err(|second| worse(Some(error), second))
                }
                outcome => outcome,
            },
        }
    }

    async fn records(&self, name: Name, kind: RecordType) -> Result<Answer, ResolveError> {
        let found = self.resolver.lookup(name, kind).await;
        let found = found.map_err(|error| self::error(self.host, self.by, error))?;
        // With the CNAMEs that led there.
        let ttls = found.answers().iter().map(|record| record.ttl);
        let ttl = |ttl: Option<u32>| Duration::from_secs(ttl.unwrap_or(0).into());
        let addresses = found.answers().iter();
        let addresses: Vec<IpAddr> = addresses
            .filter_map(|record| record.data.ip_addr())
            .collect();
        if addresses.is_empty() {
            let (host, by) = (self.host.into(), Arc::clone(self.by));
            return Err(ResolveError::NoAddress { host, by });
        }
        Ok(Answer {
            addresses,
            shortest_ttl: ttl(ttls.clone().min()),
            longest_ttl: ttl(ttls.max()),
        })
    }
}

fn both(
    v4: Result<Answer, ResolveError>,
    v6: Result<Answer, ResolveError>,
) -> Result<Answer, ResolveError> {
    match (v4, v6) {
        (Ok(mut all), Ok(v6)) => {
            all.addresses.extend(v6.addresses);
            all.shortest_ttl = all.shortest_ttl.min(v6.shortest_ttl);
            all.longest_ttl = all.longest_ttl.max(v6.longest_ttl);
            Ok(all)
        }
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(first), Err(second)) => Err(worse(Some(first), second)),
    }
}

/// Of two errors the one that says more: that a server could not be asked, before that a name has no address, before
/// that there is no such name.
fn worse(one: Option<ResolveError>, other: ResolveError) -> ResolveError {
    match one {
        Some(one) if one.weight() >= other.weight() => one,
        _ => other,
    }
}

fn error(host: &str, by: &Arc<str>, error: NetError) -> ResolveError {
    let (host, by) = (host.into(), Arc::clone(by));
    match error {
        NetError::Timeout => ResolveError::TimedOut { host, by },
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => ResolveError::NoSuchName { host, by },
            ResponseCode::NoError => ResolveError::NoAddress { host, by },
            code => refused(host, by, code),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => refused(host, by, code),
        other => ResolveError::Unreachable {
            host,
            by,
            why: other.to_string().into(),
        },
    }
}

fn refused(host: Arc<str>, by: Arc<str>, code: ResponseCode) -> ResolveError {
    let answer = code.to_str().into();
    ResolveError::Refused { host, by, answer }
}

/// Where no DNS server is known there may be other ways to find a host, which the C library knows.
async fn ask_libc(host: &str) -> Result<Answer, ResolveError> {
    let found = lookup_host((host, 0)).await;
    let found = found.map_err(|error| ResolveError::Libc {
        host: host.into(),
        why: error.to_string().into(),
    })?;
    let addresses: Vec<IpAddr> = found.map(|at| at.ip()).collect();
    if addresses.is_empty() {
        let (host, by) = (host.into(), "the C library".into());
        return Err(ResolveError::NoAddress { host, by });
    }
    Ok(Answer {
        addresses,
        shortest_ttl: Duration::ZERO,
        longest_ttl: Duration::ZERO,
    })
}
