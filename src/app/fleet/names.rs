//! Whom DNS lists under the fleet's name.
//!
//! Knows how to ask; does not know who the listed are.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::config::HostPort;

/// Who is listed, and for how long that answer is good.
pub struct Listed {
    pub names: BTreeSet<SocketAddr>,
    pub ttl: Duration,
}

pub struct Names {
    resolver: TokioResolver,
    of: HostPort,
}

impl Names {
    /// `server`: the one to ask; `None`: those of the system.
    pub fn new(
        of: HostPort,
        server: Option<SocketAddr>,
        timeout: Duration,
    ) -> Result<Names, NetError> {
        let mut builder = match server {
            None => TokioResolver::builder_tokio()?,
            Some(server) => {
                let connections =
                    [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut way| {
                        way.port = server.port();
                        way
                    });
                let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
                TokioResolver::builder_with_config(
                    ResolverConfig::from_name_servers(vec![server]),
                    TokioRuntimeProvider::default(),
                )
            }
        };
        let options = builder.options_mut();
        // Each answer is asked for anew: how old it may be is then for the servers on the way alone to say.
        options.cache_size = 0;
        options.timeout = timeout;
        options.attempts = 1;
        let resolver = builder.build()?;
        Ok(Names { resolver, of })
    }

    /// IPv4 addresses, or where there are none IPv6 ones: all tasks must call each of them by the same name.
    /// Cancel-safe.
    pub async fn ask(&self) -> Result<Listed, NetError> {
        let listed = self.ask_for(RecordType::A).await?;
        if listed.names.is_empty() {
            return self.ask_for(RecordType::AAAA).await;
        }
        Ok(listed)
    }

    async fn ask_for(&self, kind: RecordType) -> Result<Listed, NetError> {
        let mut listed = Listed {
            names: BTreeSet::new(),
            ttl: Duration::ZERO,
        };
        let answer = match self.resolver.lookup(self.of.host.as_str(), kind).await {
            Ok(answer) => answer,
            // Nobody is there yet: that is an answer too.
            Err(error) if error.is_no_records_found() => return Ok(listed),
            Err(error) => return Err(error),
        };
        for record in answer.answers() {
            let address = match &record.data {
                RData::A(address) => address.0.into(),
                RData::AAAA(address) => address.0.into(),
                _ => continue,
            };
            listed.names.insert(SocketAddr::new(address, self.of.port));
            listed.ttl = listed.ttl.max(Duration::from_secs(record.ttl.into()));
        }
        Ok(listed)
    }
}
