//! Where Weir asks over HTTP: one address, in the clear only on this very machine.
//!
//! Resolves no names, and knows nothing of what is asked.

use std::fmt;

use super::HostPort;
use super::address::{HostMaybePort, Hosts};
use super::given::Raw;
use super::parse::{Parser, Text, quoted};

/// `https://host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebAddress {
    pub scheme: Scheme,
    pub at: HostPort,
    /// Begins with a slash.
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// On loopback alone, for doubles of AWS.
    Http,
    Https,
}

impl Scheme {
    const fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl WebAddress {
    /// What stands in the Host header: the port only where it is not the usual one.
    pub fn authority(&self) -> String {
        if self.at.port != self.scheme.port() {
            self.at.to_string()
        } else if self.at.host.contains(':') {
            format!("[{}]", self.at.host)
        } else {
            self.at.host.clone()
        }
    }

    /// `Err` says what is wrong, to follow key and value.
    pub fn parse(text: &str) -> Result<WebAddress, String> {
        let (scheme, rest) = if let Some(rest) = text.strip_prefix("https://") {
            (Scheme::Https, rest)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (Scheme::Http, rest)
        } else {
            return Err("does not begin with https://".into());
        };
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let simple = |c: char| c.is_ascii_alphanumeric() || "/-._~%".contains(c);
        if !path.chars().all(simple) {
            return Err("has more than a path behind the host".into());
        }
        let hosts = Hosts.parse(&Raw::Text(authority.to_owned()))?;
        let [HostMaybePort { host, port }] =
            <[_; 1]>::try_from(hosts).map_err(|_| "names more than one host".to_owned())?;
        let at = HostPort {
            host,
            port: port.unwrap_or(scheme.port()),
        };
        if scheme == Scheme::Http && !at.is_local() {
            return Err("is not encrypted: http:// is for this very machine alone".into());
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(WebAddress {
            scheme,
            at,
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for WebAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let path = if self.path == "/" { "" } else { &self.path };
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

/// A web address as an option.
pub struct Web;

impl Parser for Web {
    type Out = WebAddress;

    fn parse(&self, raw: &Raw) -> Result<WebAddress, String> {
        WebAddress::parse(&Text::NotEmpty.parse(raw)?)
    }

    fn allowed(&self) -> String {
        "https://host, https://host:port/path; http:// only for localhost".into()
    }

    fn show(&self, value: &WebAddress) -> Option<String> {
        Some(quoted(value.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_encrypted_or_here() {
        for (text, shown, authority) in [
            (
                "https://sts.eu-west-1.amazonaws.com",
                None,
                "sts.eu-west-1.amazonaws.com",
            ),
            (
                "https://sts.eu-west-1.amazonaws.com/",
                Some("https://sts.eu-west-1.amazonaws.com"),
                "sts.eu-west-1.amazonaws.com",
            ),
            ("https://a.example:8443/b/jwks.json", None, "a.example:8443"),
            (
                "https://a.example:443/b",
                Some("https://a.example/b"),
                "a.example",
            ),
            ("http://127.0.0.1:5000", None, "127.0.0.1:5000"),
            ("http://[::1]:5000/x", None, "[::1]:5000"),
        ] {
            let address = WebAddress::parse(text).unwrap();
            assert_eq!(address.to_string(), shown.unwrap_or(text));
            assert_eq!(address.authority(), authority);
        }
        for text in [
            "http://sts.eu-west-1.amazonaws.com",
            "ftp://a.example",
            "a.example",
            "https://",
            "https://user@a.example",
            "https://a.example?x=1",
            "https://a.example/?x=1",
            "https://a.example/#x",
            "https://a,b",
            "https://a b",
            "https://a:0",
        ] {
            assert!(WebAddress::parse(text).is_err(), "{text}");
        }
    }
}
