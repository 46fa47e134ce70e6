//! How many files the process may have open: each connection is one.
//!
//! Knows where the kernel says it; the limit is for whoever starts the process to raise.

use crate::config::Config;

/// Listeners, logs, certificates, the event loops' own.
const OTHERS: usize = 64;

/// Warns where clients would be turned away for want of files.
pub fn check(config: &Config, servers: usize) {
    let Some(limit) = std::fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|limits| soft_limit(&limits))
    else {
        return;
    };
    let needed = config.listen.max_clients + servers + OTHERS;
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            max_clients = config.listen.max_clients,
            "too few files may be open for all clients: raise the limit (ulimit -n, LimitNOFILE of systemd, ulimits of a \
             container), or lower listen.max_clients"
        );
    }
}

/// The limit that holds, of the two that the kernel tells (proc_pid_limits(5)); `None` if there is none.
fn soft_limit(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_holds_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max processes             15468                15468                processes\n\
            Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit("Max open files unlimited unlimited files"), None);
        assert_eq!(soft_limit(""), None);
    }
}
