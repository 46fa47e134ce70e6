//! Asks the cluster's instances what they are, and has their pools follow.
//!
//! Knows how an instance is asked; when, and what follows, `topology` knows.

use std::sync::Arc;

use super::shared::Shared;
use crate::config::{Config, HostPort};
use crate::net::Stream;
use crate::pool::{Lent, Target};
use crate::server::dialer::{Account, Dialer, Duty, Witness};
use crate::server::simple::{self, AskError, Row};
use crate::server::{ConnectError, Failure};
use crate::topology::Unavailable;
use crate::topology::members::{self, Members};
use crate::topology::monitor::{Ask, Monitor, Pacing};
use crate::topology::probe::{Answer, Kind};
use crate::topology::roles::{Company, Event, Missed, Place, Role, Roles, Terms};

/// A connection that an instance is asked on. As long as it is open, what was said on it was said by the instance that is
/// meant, wherever its name leads meanwhile; and where it broke, until somebody has said otherwise.
pub struct Line {
    stream: Stream,
    kind: Kind,
    target: Arc<Target<Dialer>>,
    /// The last question has its answer.
    answered: bool,
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.answered {
            self.target.manage.hear(None);
        }
    }
}

pub struct Asker(Arc<Shared>);

/// Watches all instances. Never ends; nothing to do where there is only one, and no more can become known.
pub async fn watch(shared: Arc<Shared>) {
    let config = shared.config.load_full();
    if !config.database.is_cluster() {
        return;
    }
    let hosts: Vec<HostPort> = config.database.instances().into_iter().cloned().collect();
    let board = Arc::clone(&shared.endpoint.board);
    let (pacing, terms, members) = terms(&config, Company::Several);
    let asker = Asker(shared);
    let monitor = Monitor::new(asker, board, pacing, Roles::new(terms), members, &hosts);
    monitor.run().await;
}

pub fn terms(config: &Config, company: Company) -> (Pacing, Terms, Members) {
    let cluster = &config.cluster;
    let pacing = Pacing {
        interval: cluster.probe_interval,
        hurried_interval: cluster.hurried_probe_interval,
        timeout: cluster.probe_timeout,
    };
    let terms = Terms {
        max_lag: cluster.max_replica_lag,
        company,
    };
    let members = Members::new(members::Terms {
        reached_at: config.database.members.clone(),
        overrides: cluster.instance_endpoint.is_some(),
        max: cluster.max_instances,
        forget_after: cluster.forget_after,
    });
    (pacing, terms, members)
}

impl Asker {
    async fn connect(&self, place: Place) -> Result<Line, Missed> {
        let (database, user) = self.0.first_account().ok_or_else(no_account)?;
        let instance = self.0.endpoint.instance(place).ok_or_else(|| Missed {
            reason: Unavailable::Unreachable,
            text: "it has left".into(),
        })?;
        let account = Account {
            database: database.into(),
            user: user.into(),
        };
        let connected = instance.target.manage.dial(&account, "").await;
        let (connected, _) = connected.map_err(|error| missed(&error))?;
        let mut stream = connected.stream;
        let asked = simple::query(&mut stream, crate::topology::probe::KIND).await;
        let kind = kind(&asked.map(|answer| answer.rows))?;
        Ok(Line {
            stream,
            kind,
            target: instance.target,
            answered: false,
        })
    }
}

/// Of a fleet's tasks.
impl Asker {
    /// Whoever may have no connection to an instance has none to ask on either.
    fn may_connect(&self, place: Place) -> bool {
        let instance = self.0.endpoint.instance(place);
        instance.is_none_or(|instance| instance.target.usage().0 > 0)
    }
}

impl Ask for Asker {
    type Line = Line;

    async fn ask(&self, place: Place, line: &mut Option<Line>) -> Result<Answer, Missed> {
        if !self.may_connect(place) {
            *line = None;
            return Err(Missed {
                reason: Unavailable::PendingProxyCapacity,
                text: "this task has no share of its connections yet".into(),
            });
        }
        let mut open = match line.take() {
            Some(open) => open,
            None => self.connect(place).await?,
        };
        open.answered = false;
        let asked = simple::query(&mut open.stream, &open.kind.question()).await;
        let answer = answer(open.kind, &asked.map(|answer| answer.rows))?;
        open.answered = true;
        open.target.manage.hear(Some(Witness {
            duty: match answer.said.role {
                Role::Writer => Duty::Writer,
                Role::Reader => Duty::Reader,
            },
            started: answer.said.started.clone(),
        }));
        *line = Some(open);
        Ok(answer)
    }

    fn join(&self, place: Place, at: &HostPort) {
        // One that comes back before the last connection to it is gone has its pools still.
        if self.0.endpoint.instance(place).is_none() {
            let config = self.0.config.load();
            let instance = self.0.maker.instance(place, at, &config);
            self.0.endpoint.put(instance);
        }
    }

    fn move_to(&self, place: Place, at: &HostPort) {
        if let Some(mut instance) = self.0.endpoint.instance(place) {
            let config = self.0.config.load();
            let target = &instance.target;
            target.manage.move_to(self.0.maker.host(at, &config));
            instance.name = at.to_string().into();
            self.0.endpoint.put(instance);
        }
    }

    fn part(&self, place: Place) -> bool {
        let Some(instance) = self.0.endpoint.instance(place) else {
            return true;
        };
        let (_, used) = instance.target.usage();
        let over = used == 0 && instance.target.load() == 0.0;
        if over {
            self.0.endpoint.remove(place);
        }
        over
    }

    fn is_used(&self) -> bool {
        let instances = self.0.endpoint.instances();
        instances.iter().any(|instance| {
            let (_, used) = instance.target.usage();
            used > 0 || instance.target.load() > 0.0
        })
    }

    fn happened(&self, events: &[Event]) {
        follow(&self.0, events);
    }

    fn allows(&self, place: Place, connections: u32) {
        allow(&self.0, place, connections);
    }
}

/// Has the pools follow what has happened.
pub fn follow(shared: &Shared, events: &[Event]) {
    for event in events {
        let (Event::Renewed(place)
        | Event::Severed(place)
        | Event::Promoted(place)
        | Event::Lost(place)
        | Event::Refused(place)) = *event;
        let Some(instance) = shared.endpoint.instance(place) else {
            continue;
        };
        let name = &instance.name;
        match event {
            Event::Renewed(_) => instance.target.renew(Lent::Keep),
            Event::Severed(_) => instance.target.renew(Lent::Sever),
            Event::Promoted(writer) => {
                for one in &*shared.endpoint.instances() {
                    assign(shared, one.place, *writer);
                }
                tracing::warn!(instance = %name, "the writer is another one now");
                shared.endpoint.forget_greetings();
                shared.cluster_meters.failovers.increment(1);
            }
            Event::Lost(_) => {
                tracing::warn!(instance = %name, "the writer is a writer no longer, and no other is known yet");
            }
            Event::Refused(_) => {
                tracing::error!(instance = %name, "two instances claim to be the writer; this one is refused, for its timeline is the older one (or not newer): stop it");
                shared.cluster_meters.refused_writers.increment(1);
            }
        }
    }
}

/// The cap follows what an instance said that it allows.
pub fn allow(shared: &Shared, place: Place, connections: u32) {
    if let Some(instance) = shared.endpoint.instance(place) {
        let cap = instance.target.manage.set_allowed(connections);
        instance.target.set_cap(cap);
    }
    if let Some(writer) = shared.endpoint.board.view().writer {
        assign(shared, place, writer);
    }
}

/// An instance has the limits of what it is there for.
fn assign(shared: &Shared, place: Place, writer: Place) {
    let duty = match place == writer {
        true => Duty::Writer,
        false => Duty::Reader,
    };
    if let Some(instance) = shared.endpoint.instance(place)
        && let Some(cap) = instance.target.manage.set_duty(duty)
    {
        instance.target.set_cap(cap);
    }
}

pub fn kind(rows: &Result<Vec<Row>, AskError>) -> Result<Kind, Missed> {
    let rows = rows.as_ref().map_err(broken)?;
    Kind::read(rows).map_err(broken)
}

pub fn answer(kind: Kind, rows: &Result<Vec<Row>, AskError>) -> Result<Answer, Missed> {
    let rows = rows.as_ref().map_err(broken)?;
    kind.answer(rows).map_err(broken)
}

pub fn no_account() -> Missed {
    Missed {
        reason: Unavailable::AuthFailure,
        text: "there is no user to ask as until one with a verifier has logged in".into(),
    }
}

pub fn missed(error: &ConnectError) -> Missed {
    let reason = match error.failure() {
        Failure::Unreachable => Unavailable::Unreachable,
        Failure::Busy => Unavailable::PendingProxyCapacity,
        Failure::Denied => Unavailable::AuthFailure,
        Failure::NoSuchDatabase | Failure::Other => Unavailable::ConnectionFailed,
    };
    Missed {
        reason,
        text: error.to_string(),
    }
}

/// The connection broke, or what came makes no sense: the next question goes by another.
fn broken(error: impl std::error::Error) -> Missed {
    Missed {
        reason: Unavailable::Unreachable,
        text: error.to_string(),
    }
}
