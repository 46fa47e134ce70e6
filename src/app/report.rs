//! What operators are told over HTTP: the state of pools and targets at the moment.
//!
//! Knows where the figures are; `admin` knows their shapes.

use std::sync::Arc;

use super::reload::Reloader;
use super::shared::{Shared, Way};
use crate::admin::{
    DigestReport, House, PinReport, PinsReport, PoolReport, PoolsReport, ReasonReport, Role, State,
    TargetReport,
};
use crate::metrics::{self, PoolNow, TargetNow};
use crate::session::pinboard::Listing;

/// Pins that are told of one by one.
const MAX_PINS: usize = 1000;

pub struct Reporter {
    shared: Arc<Shared>,
    reloader: Arc<Reloader>,
}

impl Reporter {
    pub fn new(shared: Arc<Shared>, reloader: Arc<Reloader>) -> Reporter {
        Reporter { shared, reloader }
    }
}

impl House for Reporter {
    fn ready(&self) -> Result<(), String> {
        if self.shared.is_draining() {
            return Err("Weir is shutting down".into());
        }
        let writer = self.shared.ways.iter().find(|way| way.role == Role::Writer);
        let Some(Way { endpoint, .. }) = writer else {
            return Err("no writer is configured".into());
        };
        if let Some(why) = self.shared.vault.lacks() {
            return Err(why);
        }
        if let Some(why) = self.shared.fleet.as_ref().and_then(|fleet| fleet.unready()) {
            return Err(why);
        }
        if let (0, _) = endpoint.target.usage() {
            return Err("this task's share of the connections is none: there are more tasks than connections".into());
        }
        match endpoint.target.down() {
            Some(cause) => Err(cause.to_string()),
            None if endpoint.target.has_answered() => Ok(()),
            // Nothing to ask with until the first client has logged in: it must be let through.
            None if self.shared.first_account().is_none() => Ok(()),
            None => Err(format!(
                "the database at {} has not been reached yet",
                endpoint.target_name
            )),
        }
    }

    fn pools(&self) -> PoolsReport {
        PoolsReport {
            pools: self.shared.ways.iter().flat_map(pools_of).collect(),
            targets: self.shared.ways.iter().map(target_of).collect(),
            clients: self.shared.clients(),
        }
    }

    fn pins(&self) -> PinsReport {
        pins_of(self.shared.pinboard.list(MAX_PINS))
    }

    fn metrics(&self) -> String {
        let report = self.pools();
        let pools: Vec<PoolNow<'_>> = report.pools.iter().map(pool_now).collect();
        let targets: Vec<TargetNow<'_>> = report.targets.iter().map(target_now).collect();
        metrics::scrape(&self.shared.registry, &pools, &targets)
    }

    fn reload(&self) -> Result<(), String> {
        let outcome = self.reloader.reload();
        outcome.map_err(|error| error.to_string())
    }
}

fn pools_of(way: &Way) -> Vec<PoolReport> {
    let entries = way.endpoint.entries();
    let report = |entry: &Arc<crate::session::endpoint::Entry>| {
        let counts = way.endpoint.target.counts(entry.pool);
        PoolReport {
            target: way.endpoint.target_name.to_string(),
            role: way.role,
            database: entry.database.to_string(),
            user: entry.user.to_string(),
            total: counts.idle + counts.leased,
            idle: counts.idle,
            leased: counts.leased,
            pinned: entry.pinned_now(),
            waiting: counts.waiting,
            opening: counts.opening,
        }
    };
    let mut reports: Vec<PoolReport> = entries.iter().map(report).collect();
    reports.sort_by(|a, b| (&a.database, &a.user).cmp(&(&b.database, &b.user)));
    reports
}

fn pins_of(listing: Listing) -> PinsReport {
    let pins = listing.pins.into_iter().map(|pin| PinReport {
        pid: pin.pid,
        server_pid: pin.server_pid,
        reason: pin.reason.as_str(),
        digest: pin.digest.as_deref().map(str::to_owned),
        client: pin.client,
        application_name: pin.application_name.to_string(),
        target: pin.target.to_string(),
        database: pin.database.to_string(),
        user: pin.user.to_string(),
        seconds: pin.lasted().as_secs_f64(),
    });
    let reasons = listing.reasons.iter().map(|(reason, count)| ReasonReport {
        reason: reason.as_str(),
        count: *count,
    });
    let digests = listing.digests.iter();
    let digests = digests.map(|(reason, digest, count)| DigestReport {
        reason: reason.as_str(),
        digest: digest.as_deref().map(str::to_owned),
        count: *count,
    });
    PinsReport {
        pins: pins.collect(),
        total: listing.total,
        reasons: reasons.collect(),
        digests: digests.collect(),
    }
}

fn target_of(way: &Way) -> TargetReport {
    let target = &way.endpoint.target;
    let (cap, used) = target.usage();
    let down = target.down();
    TargetReport {
        target: way.endpoint.target_name.to_string(),
        role: way.role,
        cap: target.has_answered().then_some(cap),
        used,
        state: if down.is_some() {
            State::Unavailable
        } else {
            State::Available
        },
        reason: target.trouble().map(|cause| cause.to_string()),
    }
}

fn pool_now(report: &PoolReport) -> PoolNow<'_> {
    PoolNow {
        target: &report.target,
        database: &report.database,
        user: &report.user,
        idle: report.idle as u64,
        leased: report.leased as u64,
        pinned: report.pinned as u64,
        opening: report.opening as u64,
        waiting: report.waiting as u64,
    }
}

fn target_now(report: &TargetReport) -> TargetNow<'_> {
    TargetNow {
        target: &report.target,
        cap: report.cap.unwrap_or(0) as u64,
        used: report.used as u64,
    }
}
