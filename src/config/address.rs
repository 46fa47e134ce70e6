//! Addresses as options: where to listen, which hosts to dial, which networks to trust.
//!
//! Resolves no names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::HostPort;
use super::given::Raw;
use super::parse::{Parser, quoted};

/// An address to listen on. Names other than localhost are refused: what they resolve to may change under us.
pub struct Address;

impl Parser for Address {
    type Out = SocketAddr;

    fn parse(&self, raw: &Raw) -> Result<SocketAddr, String> {
        let text = raw.text()?;
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
        let port: u16 = port.parse().map_err(|_| "has no valid port")?;
        match host {
            "" | "*" => Ok((Ipv4Addr::UNSPECIFIED, port).into()),
            "localhost" => Ok((Ipv4Addr::LOCALHOST, port).into()),
            _ => Err("names a host; listening takes an IP address".into()),
        }
    }

    fn allowed(&self) -> String {
        "address:port, as \"0.0.0.0:5432\", \"[::]:5432\" or \"localhost:5432\"".into()
    }

    fn show(&self, value: &SocketAddr) -> Option<String> {
        Some(quoted(value.to_string()))
    }
}

/// DNS servers; their port is 53 if none is given.
pub struct Servers;

impl Parser for Servers {
    type Out = Vec<SocketAddr>;

    fn parse(&self, raw: &Raw) -> Result<Vec<SocketAddr>, String> {
        let server = |item: &str| {
            let HostMaybePort { host, port } = one_host(item)?;
            let address: Result<IpAddr, _> = host.parse();
            let address = address.map_err(|_| format!("names {host}, which is no IP address"))?;
            Ok(SocketAddr::new(address, port.unwrap_or(53)))
        };
        raw.text()?.split(',').map(str::trim).map(server).collect()
    }

    fn allowed(&self) -> String {
        "IP addresses, each with or without a port, with commas between or as a list".into()
    }

    fn show(&self, value: &Self::Out) -> Option<String> {
        listed(value.iter().map(SocketAddr::to_string))
    }

    fn absent(&self) -> Option<Self::Out> {
        Some(Vec::new())
    }
}

/// Where a server listens, as written: a port of its own is optional.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMaybePort {
    pub host: String,
    pub port: Option<u16>,
}

/// One host or several: "a.example", "a.example:5433,[::1]:5432", or a list of such.
pub struct Hosts;

impl Parser for Hosts {
    type Out = Vec<HostMaybePort>;

    fn parse(&self, raw: &Raw) -> Result<Self::Out, String> {
        let text = raw.text()?;
        if text.contains("://") || text.contains('@') {
            return Err("looks like a connection URL; only the host belongs here".into());
        }
        text.split(',').map(|item| one_host(item.trim())).collect()
    }

    fn allowed(&self) -> String {
        "host, host:port, or several with commas between".into()
    }

    fn show(&self, value: &Self::Out) -> Option<String> {
        let item = |h: &HostMaybePort| {
            let host = if h.host.contains(':') {
                format!("[{}]", h.host)
            } else {
                h.host.clone()
            };
            h.port.map_or(host.clone(), |port| format!("{host}:{port}"))
        };
        listed(value.iter().map(item))
    }

    fn absent(&self) -> Option<Self::Out> {
        Some(Vec::new())
    }
}

/// One host with its port.
pub struct One;

impl Parser for One {
    type Out = HostPort;

    fn parse(&self, raw: &Raw) -> Result<HostPort, String> {
        let HostMaybePort { host, port } = one_host(raw.text()?.trim())?;
        let port = port.ok_or("has no port")?;
        Ok(HostPort { host, port })
    }

    fn allowed(&self) -> String {
        "host:port".into()
    }

    fn show(&self, value: &HostPort) -> Option<String> {
        Some(quoted(value.to_string()))
    }
}

/// How the instances of a cluster are reached: a host in which `?` stands for an instance's name, and perhaps a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    host: String,
    port: Option<u16>,
}

impl HostPattern {
    /// What an RDS cluster's endpoint says of its instances': `C.cluster-ID.REGION...` or `C.cluster-ro-ID.REGION...`
    /// leads to `?.ID.REGION...`.
    pub fn of_cluster(endpoint: &str) -> Option<HostPattern> {
        let (_, rest) = endpoint.split_once('.')?;
        let rest = rest
            .strip_prefix("cluster-ro-")
            .or_else(|| rest.strip_prefix("cluster-"))?;
        Some(HostPattern {
            host: format!("?.{rest}"),
            port: None,
        })
    }

    /// Where an instance of this name is reached; `port`: if nothing else is said. `None`: no host is called so.
    pub fn of(&self, name: &str, port: u16) -> Option<HostPort> {
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let valid = (1..=63).contains(&name.len()) && name.bytes().all(usual);
        valid.then(|| HostPort {
            host: self.host.replace('?', name),
            port: self.port.unwrap_or(port),
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

pub struct Pattern;

impl Parser for Pattern {
    type Out = HostPattern;

    fn parse(&self, raw: &Raw) -> Result<HostPattern, String> {
        let text = raw.text()?;
        let text = text.trim();
        if text.matches('?').count() != 1 {
            return Err("must have one ? in it, for the instance's name".into());
        }
        let HostMaybePort { port, .. } = one_host(&text.replace('?', "x"))?;
        let host = match port {
            Some(_) => text.rsplit_once(':').map_or(text, |(host, _)| host),
            None => text,
        };
        Ok(HostPattern {
            host: host.to_owned(),
            port,
        })
    }

    fn allowed(&self) -> String {
        "a host with one `?` in it, as \"?.abc.eu-west-1.rds.amazonaws.com\", and perhaps a port"
            .into()
    }

    fn show(&self, value: &HostPattern) -> Option<String> {
        Some(quoted(value.to_string()))
    }
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        // A listener on [::] sees IPv4 clients in IPv6's clothes.
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let differing = u32::from(base) ^ u32::from(address);
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let differing = u128::from(base) ^ u128::from(address);
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    fn parse(text: &str) -> Result<Network, String> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits)),
            None => (text, None),
        };
        let bad = || format!("names {text:?}, which is not an address or a network");
        let base: IpAddr = base.parse().map_err(|_| bad())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| bad())?,
            None => most,
        };
        if bits > most {
            return Err(bad());
        }
        Ok(Network { base, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// Any number of networks: a list, or a text with commas between.
pub struct Networks;

impl Parser for Networks {
    type Out = Vec<Network>;

    fn parse(&self, raw: &Raw) -> Result<Vec<Network>, String> {
        let text = raw.text()?;
        let items = text.split(',').map(str::trim);
        items
            .filter(|item| !item.is_empty())
            .map(Network::parse)
            .collect()
    }

    fn allowed(&self) -> String {
        "networks as \"10.0.0.0/8\" or addresses, with commas between or as a list".into()
    }

    fn show(&self, value: &Vec<Network>) -> Option<String> {
        listed(value.iter().map(Network::to_string))
    }

    fn absent(&self) -> Option<Vec<Network>> {
        Some(Vec::new())
    }
}

/// Hosts that each have a port of their own.
pub struct HostPorts;

impl Parser for HostPorts {
    type Out = Vec<HostPort>;

    fn parse(&self, raw: &Raw) -> Result<Self::Out, String> {
        let with_port = |host: HostMaybePort| {
            let port = host
                .port
                .ok_or(format!("names {} without a port", host.host))?;
            Ok(HostPort {
                host: host.host,
                port,
            })
        };
        Hosts.parse(raw)?.into_iter().map(with_port).collect()
    }

    fn allowed(&self) -> String {
        "host:port, or several with commas between".into()
    }

    fn show(&self, value: &Self::Out) -> Option<String> {
        listed(value.iter().map(HostPort::to_string))
    }

    fn absent(&self) -> Option<Self::Out> {
        Some(Vec::new())
    }
}

/// Several as one value; `None` for none.
fn listed(items: impl Iterator<Item = String>) -> Option<String> {
    let items: Vec<String> = items.collect();
    (!items.is_empty()).then(|| quoted(items.join(",")))
}

fn one_host(item: &str) -> Result<HostMaybePort, String> {
    if item.is_empty() {
        return Err("has an empty host".into());
    }
    if item.starts_with('/') {
        return Err("is a Unix socket's path; only TCP is supported".into());
    }
    if item.parse::<Ipv6Addr>().is_ok() {
        return Ok(HostMaybePort {
            host: item.to_owned(),
            port: None,
        });
    }
    let (host, port) = match item.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or(rest))),
        None => match item.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (item, None),
        },
    };
    let port = port
        .map(|p| p.parse::<u16>().ok().filter(|p| *p > 0))
        .map(|p| p.ok_or("has no valid port"))
        .transpose()?;
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let valid = if item.starts_with('[') {
        host.parse::<Ipv6Addr>().is_ok()
    } else {
        !host.is_empty() && host.chars().all(name)
    };
    if !valid {
        return Err("is not a host's name or IP address".into());
    }
    Ok(HostMaybePort {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Raw {
        Raw::Text(text.to_owned())
    }

    #[test]
    fn hosts() {
        let show = |raw: &str| {
            Hosts
                .parse(&text(raw))
                .ok()
                .and_then(|hosts| Hosts.show(&hosts))
        };
        for (raw, shown) in [
            ("db.example", Some("db.example")),
            ("a:1, b:2", Some("a:1,b:2")),
            ("127.0.0.1:5433", Some("127.0.0.1:5433")),
            ("::1", Some("[::1]")),
            ("[::1]:5433", Some("[::1]:5433")),
            ("[::1]", Some("[::1]")),
            ("", None),
            ("a,,b", None),
            ("a:0", None),
            ("a:99999", None),
            ("a:b:c", None),
            ("[a]:1", None),
            ("/var/run/postgresql", None),
            ("postgres://u:p@h/d", None),
            ("a b", None),
        ] {
            assert_eq!(show(raw), shown.map(quoted), "{raw}");
        }
        let list = Raw::List(vec!["a".into(), "b:6".into()]);
        assert_eq!(Hosts.parse(&list).unwrap().len(), 2);
    }

    #[test]
    fn instances_are_found_beside_their_cluster() {
        let of = |endpoint| HostPattern::of_cluster(endpoint)?.of("orders-2", 5432);
        let expected = Some(HostPort {
            host: "orders-2.abc123.eu-west-1.rds.amazonaws.com".into(),
            port: 5432,
        });
        for endpoint in [
            "orders.cluster-abc123.eu-west-1.rds.amazonaws.com",
            "orders.cluster-ro-abc123.eu-west-1.rds.amazonaws.com",
        ] {
            assert_eq!(of(endpoint), expected);
        }
        assert_eq!(of("orders-1.abc123.eu-west-1.rds.amazonaws.com"), None);
        assert_eq!(of("localhost"), None);
        let said = |pattern: &str, name: &str| {
            let pattern = Pattern.parse(&text(pattern)).ok()?;
            Some(pattern.of(name, 1)?.to_string())
        };
        for (pattern, name, host) in [
            ("?.example", "a", Some("a.example:1")),
            ("127.0.0.?:7", "2", Some("127.0.0.2:7")),
            ("?.example", "a.b", None),
            ("?.example", "", None),
            ("?.example", "a b", None),
            ("example", "a", None),
            ("?.?", "a", None),
            ("?.exa mple", "a", None),
            ("?.example:0", "a", None),
        ] {
            assert_eq!(said(pattern, name).as_deref(), host, "{pattern} {name}");
        }
    }

    #[test]
    fn networks() {
        let network = |text: &str| Network::parse(text).unwrap();
        for (of, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "::1", true),
        ] {
            assert_eq!(
                network(of).contains(address.parse().unwrap()),
                inside,
                "{of} {address}"
            );
        }
        for wrong in [
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0/8",
            "db.example",
            "1.2.3.4/",
        ] {
            assert!(Network::parse(wrong).is_err(), "{wrong}");
        }
        let several = Networks.parse(&text("10.0.0.0/8, ::1")).unwrap();
        assert_eq!(Networks.show(&several), Some(quoted("10.0.0.0/8,::1/128")));
    }

    #[test]
    fn servers() {
        let read = |raw: &str| Servers.parse(&text(raw)).map(|all| Servers.show(&all));
        assert_eq!(read("10.0.0.2").unwrap(), Some(quoted("10.0.0.2:53")));
        let several = read("127.0.0.1:5353, ::1,[fd00::2]:54").unwrap();
        assert_eq!(
            several,
            Some(quoted("127.0.0.1:5353,[::1]:53,[fd00::2]:54"))
        );
        for wrong in ["dns.example", "10.0.0.2:x", "10.0.0.2,"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses() {
        for (raw, address) in [
            ("0.0.0.0:5432", Some("0.0.0.0:5432")),
            (":5432", Some("0.0.0.0:5432")),
            ("localhost:1", Some("127.0.0.1:1")),
            ("[::]:5432", Some("[::]:5432")),
            ("db.example:5432", None),
            ("5432", None),
            ("0.0.0.0", None),
            ("localhost:x", None),
        ] {
            assert_eq!(
                Address.parse(&text(raw)).ok(),
                address.map(|a| a.parse().unwrap()),
                "{raw}"
            );
        }
    }
}
