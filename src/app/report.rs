//! What operators are told over HTTP: the state of pools and targets at the moment.
//!
//! Knows where the figures are; `admin` knows their shapes.

use std::sync::Arc;

use super::reload::Reloader;
use super::shared::Shared;
use crate::admin::{
    DigestReport, House, PinReport, PinsReport, PoolReport, PoolsReport, ReasonReport, Role, State,
    TargetReport,
};
use crate::metrics::{self, PoolNow, TargetNow};
use crate::session::endpoint::{Endpoint, Entry, Instance};
use crate::session::pinboard::Listing;
use crate::topology::{self, Health, Place, Seen, View};

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
        let endpoint = &self.shared.endpoint;
        let view = endpoint.board.view();
        let writer = view.writer.and_then(|place| endpoint.instance(place));
        let Some(writer) = writer else {
            return Err(format!("no instance is the writer: {}", view.explain()));
        };
        if let Some(why) = self.shared.vault.lacks() {
            return Err(why);
        }
        if let Some(why) = self.shared.fleet.as_ref().and_then(|fleet| fleet.unready()) {
            return Err(why);
        }
        if let (0, _) = writer.target.usage() {
            return Err("this task's share of the connections is none: there are more tasks than connections".into());
        }
        match writer.target.down() {
            Some(cause) => Err(cause.to_string()),
            None if writer.target.has_answered() || is_available(&view, writer.place) => Ok(()),
            // Nothing to ask with until the first client has logged in: it must be let through.
            None if self.shared.first_account().is_none() => Ok(()),
            None => Err(format!(
                "the database at {} has not been reached yet",
                endpoint.name
            )),
        }
    }

    fn pools(&self) -> PoolsReport {
        let instances = self.instances();
        let endpoint = &self.shared.endpoint;
        let pools = instances.iter();
        let pools = pools.flat_map(|(seen, at)| pools_of(endpoint, seen, at));
        let targets = instances.iter().map(|(seen, at)| target_of(seen, at));
        PoolsReport {
            pools: pools.collect(),
            targets: targets.collect(),
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

impl Reporter {
    /// Each instance with what is known of it.
    fn instances(&self) -> Vec<(Seen, Instance)> {
        let endpoint = &self.shared.endpoint;
        let seen = endpoint.board.view().instances.clone();
        // Before the first question nothing is known.
        let unknown = |instance: &Instance| Seen {
            name: Arc::clone(&instance.name),
            role: None,
            health: Health::Registering,
            lag: None,
            position: None,
            serves_readers: false,
        };
        let instances = endpoint.instances();
        let instances = instances.iter().map(|instance| {
            let Place(place) = instance.place;
            let seen = seen.get(place).cloned();
            (seen.unwrap_or_else(|| unknown(instance)), instance.clone())
        });
        // To one that has left there are connections still, for a while.
        let here = |seen: &Seen| seen.health != Health::Gone;
        instances.filter(|(seen, _)| here(seen)).collect()
    }
}

fn is_available(view: &View, Place(place): Place) -> bool {
    let seen = view.instances.get(place);
    seen.is_some_and(|seen| seen.health == Health::Available)
}

fn role_of(seen: &Seen) -> Role {
    match seen.role {
        Some(topology::Role::Reader) => Role::Reader,
        Some(topology::Role::Writer) | None => Role::Writer,
    }
}

fn pools_of(endpoint: &Endpoint, seen: &Seen, instance: &Instance) -> Vec<PoolReport> {
    let entries = endpoint.entries();
    let single = endpoint.instances().len() == 1;
    let report = |entry: &Arc<Entry>| {
        let counts = instance.target.counts(entry.pool);
        // Whoever is pinned, is so to the writer, as a rule: nobody counts it by instance.
        let pinned = match single || seen.role == Some(topology::Role::Writer) {
            true => entry.pinned_now(),
            false => 0,
        };
        PoolReport {
            target: instance.name.to_string(),
            role: role_of(seen),
            database: entry.database.to_string(),
            user: entry.user.to_string(),
            total: counts.idle + counts.leased,
            idle: counts.idle,
            leased: counts.leased,
            pinned,
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

fn target_of(seen: &Seen, instance: &Instance) -> TargetReport {
    let target = &instance.target;
    let (cap, used) = target.usage();
    let (mut state, mut reason) = match &seen.health {
        Health::Registering | Health::Gone if !target.has_answered() => (State::Registering, None),
        Health::Registering | Health::Gone | Health::Available => (
            State::Available,
            target.trouble().map(|cause| cause.to_string()),
        ),
        Health::Unavailable(word, why) => (
            State::Unavailable,
            Some(format!("{}: {why}", word.as_str())),
        ),
    };
    if let Some(down) = target.down() {
        (state, reason) = (State::Unavailable, Some(down.to_string()));
    }
    TargetReport {
        target: instance.name.to_string(),
        role: role_of(seen),
        cap: target.has_answered().then_some(cap),
        used,
        state,
        reason,
        lag_seconds: seen.lag.map(|lag| lag.as_secs_f64()),
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
