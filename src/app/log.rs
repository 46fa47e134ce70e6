//! Starts logging as configured: text or JSON, to standard error.
//!
//! Knows nothing of what is logged.

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.filter {filter:?} is not a tracing filter: {source}")]
    Filter {
        filter: String,
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("logging was started already")]
    Started,
}

/// Call once, before anything is logged.
pub fn start(log: &Log) -> Result<(), LogError> {
    let house = tracing_subscriber::registry()
        .with(filter(log)?)
        .with(filter_fn(is_fit_to_be_seen));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => house.with(lines.with_ansi(false)).try_init(),
        LogFormat::Json => house.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(|_| LogError::Started)
}

/// AWS's signer writes down at TRACE what it signs, session tokens included. Nobody can ask for that.
fn is_fit_to_be_seen(event: &Metadata<'_>) -> bool {
    !(event.target().starts_with("aws_sigv4") && *event.level() == Level::TRACE)
}

/// The filter alone, to check one before it is used.
pub fn filter(log: &Log) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(&log.filter)
        .map_err(|source| LogError::Filter {
            filter: log.filter.clone(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        let log = |filter: &str| Log {
            filter: filter.to_owned(),
            format: LogFormat::Text,
            refusals_per_second: None,
        };
        assert!(filter(&log("info,weir::session=debug")).is_ok());
        assert!(filter(&log("weir=nonsense=3")).is_err());
    }
}
