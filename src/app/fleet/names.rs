//! Whom DNS lists under the fleet's name.
//!
//! Knows how to ask; does not know who the listed are.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::HostPort;
use crate::net::resolver::{Answer, Families};
use crate::net::{ResolveError, Resolver};

/// Who is listed, and for how long that answer is good.
pub struct Listed {
    pub names: BTreeSet<SocketAddr>,
    pub ttl: Duration,
}

pub struct Names {
    resolver: Resolver,
    of: HostPort,
}

impl Names {
    pub fn new(of: HostPort, resolver: Resolver) -> Names {
        Names { resolver, of }
    }

    /// IPv4 addresses, or where there are none IPv6 ones: all tasks must call each of them by the same name. Asked for
    /// anew each time: how old they may be is then for the servers on the way alone to say. Cancel-safe.
    pub async fn ask(&self) -> Result<Listed, ResolveError> {
        let asker = self.resolver.asker();
        match asker.ask(&self.of.host, Families::One).await {
            Ok(Answer {
                addresses,
                longest_ttl: ttl,
                ..
            }) => {
                let names = addresses.into_iter();
                let names = names.map(|address| SocketAddr::new(address, self.of.port));
                Ok(Listed {
                    names: names.collect(),
                    ttl,
                })
            }
            // Nobody is there yet: that is an answer too.
            Err(error) if error.is_denial() => Ok(Listed {
                names: BTreeSet::new(),
                ttl: Duration::ZERO,
            }),
            Err(error) => Err(error),
        }
    }
}
