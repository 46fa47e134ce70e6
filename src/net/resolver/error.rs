//! Why a name leads nowhere, in words for whoever has to do something about it.
//!
//! Knows the situations; does not know who wanted to go there.

use std::sync::Arc;

/// `by` names the DNS servers that were asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("\"{host}\" is not a host name")]
    NotAName { host: Arc<str> },
    #[error("host name \"{host}\" does not exist, says DNS ({by})")]
    NoSuchName { host: Arc<str>, by: Arc<str> },
    #[error("host name \"{host}\" has no address, says DNS ({by})")]
    NoAddress { host: Arc<str>, by: Arc<str> },
    #[error("host name \"{host}\" cannot be resolved: DNS ({by}) answers \"{answer}\"")]
    Refused {
        host: Arc<str>,
        by: Arc<str>,
        answer: Arc<str>,
    },
    #[error("host name \"{host}\" cannot be resolved: DNS ({by}) can't be asked: {why}")]
    Unreachable {
        host: Arc<str>,
        by: Arc<str>,
        why: Arc<str>,
    },
    #[error("host name \"{host}\" cannot be resolved: DNS ({by}) does not answer")]
    TimedOut { host: Arc<str>, by: Arc<str> },
    #[error("host name \"{host}\" cannot be resolved: DNS has not answered in time")]
    Pending { host: Arc<str> },
    #[error("host name \"{host}\" cannot be resolved: {why}")]
    Libc { host: Arc<str>, why: Arc<str> },
}

impl ResolveError {
    /// Somebody who should know has said that it leads nowhere.
    pub fn is_denial(&self) -> bool {
        match self {
            Self::NotAName { .. } | Self::NoSuchName { .. } | Self::NoAddress { .. } => true,
            Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Pending { .. }
            | Self::Libc { .. } => false,
        }
    }

    /// Nobody has said anything.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }

    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::NotAName { .. } => 0,
            Self::NoSuchName { .. } => 1,
            Self::NoAddress { .. } => 2,
            Self::Refused { .. } => 3,
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Pending { .. }
            | Self::Libc { .. } => 4,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotAName { .. } => "Check the proxy's `database.host`.",
            Self::NoSuchName { .. } | Self::NoAddress { .. } => {
                "Check the host name in the proxy's configuration, and that this DNS server is the one that knows it (`dns.servers`, /etc/resolv.conf)."
            }
            Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Pending { .. }
            | Self::Libc { .. } => {
                "Check the proxy's DNS server (`dns.servers`, /etc/resolv.conf) and the way there; the statement can be repeated."
            }
        }
    }
}
