//! Starts logging as configured: text or JSON, to standard error.
//!
//! Knows nothing of what is logged.

use tracing_subscriber::EnvFilter;

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
    let filter = filter(log)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|_| LogError::Started)
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
        };
        assert!(filter(&log("info,weir::pool=debug")).is_ok());
        assert!(filter(&log("weir=nonsense=3")).is_err());
    }
}
