//! Has every pool keep to what the census allows.
//!
//! Knows when connections above the share must be gone; which of them go, `pool` and `session` decide.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::census::{Place, Standing};
use super::{Fleet, now};
use crate::app::build;
use crate::app::shared::Shared;
use crate::app::worker::Order;
use crate::pool::portion::{Growth, Portion};
use crate::session::context::Excess;
use crate::topology;

/// How often it is looked whether anything is due; shorter where the fleet itself is quicker.
const ROUND: Duration = Duration::from_millis(200);

/// Never ends.
pub async fn keep(fleet: &Fleet, shared: &Shared) {
    let round = ROUND.min(fleet.config.refresh / 4);
    let mut known: Option<(Portion, Growth)> = None;
    let mut over_since = HashMap::new();
    let mut shedding = vec![Excess::Borne; shared.workers.len()];
    loop {
        let standing = fleet.standing();
        let allowed = (portion(&standing, shared), standing.growth);
        if known != Some(allowed) {
            known = Some(allowed);
            tell(&standing);
        }
        shared.endpoint.set_portion(allowed.0, allowed.1);
        fleet.meters.tasks.set(standing.members as f64);
        let shed_within = fleet.census().terms().shed_within();
        let due = is_due(shared, &mut over_since, shed_within);
        for (worker, told) in shared.workers.iter().zip(&mut shedding) {
            // Told anew each time while it is due: it is what wakes those who are to let go.
            let news = due == Excess::Due || *told != due;
            if news && worker.try_send(Order::Excess(due)).is_ok() {
                *told = due;
            }
        }
        tokio::time::sleep(round).await;
    }
}

/// One whose part of the configured cap is nothing does not ask the target how much that would be.
fn portion(standing: &Standing, shared: &Shared) -> Portion {
    let config = shared.config.load();
    let aside = build::policy(&config).kept_aside;
    let configured = config.pool.max_connections;
    let nothing = configured.is_some_and(|max| standing.portion.of(max as usize) <= aside);
    if nothing && standing.portion != Portion::WHOLE {
        Portion::Nothing
    } else {
        standing.portion
    }
}

/// `over_since`: the instances that have too many connections.
fn is_due(
    shared: &Shared,
    over_since: &mut HashMap<topology::Place, Instant>,
    shed_within: Duration,
) -> Excess {
    let instances = shared.endpoint.instances();
    let over = instances.iter().filter(|one| one.target.excess() > 0);
    let over: Vec<topology::Place> = over.map(|one| one.place).collect();
    over_since.retain(|place, _| over.contains(place));
    let mut excess = Excess::Borne;
    for place in over {
        if over_since.entry(place).or_insert_with(now).elapsed() >= shed_within {
            excess = Excess::Due;
        }
    }
    excess
}

fn tell(standing: &Standing) {
    let Standing {
        members, growth, ..
    } = *standing;
    match (standing.portion, standing.place) {
        (Portion::Part { rank, of }, _) => {
            tracing::info!(
                place = rank + 1,
                of,
                members,
                ?growth,
                "share of the fleet's connections"
            );
        }
        (Portion::Nothing, Place::Settling(left)) => {
            tracing::info!(members, ?left, "new in the fleet: no connections yet");
        }
        (Portion::Nothing, Place::Unknown) => {
            tracing::info!("no connections until this task is found among the fleet's addresses");
        }
        (Portion::Nothing, Place::Lost | Place::Settled) => {
            tracing::warn!(members, "no share of the fleet's connections any more");
        }
    }
}
