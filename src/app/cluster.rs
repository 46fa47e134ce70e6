//! Asks the cluster's instances what they are, and has their pools follow.
//!
//! Knows how an instance is asked; when, and what follows, `topology` knows.

use std::sync::Arc;

use super::shared::Shared;
use crate::config::Config;
use crate::net::Stream;
use crate::pool::Lent;
use crate::server::dialer::{Account, Duty};
use crate::server::{ConnectError, Failure, simple};
use crate::session::endpoint::Instance;
use crate::topology::Unavailable;
use crate::topology::monitor::{Ask, Monitor, Pacing};
use crate::topology::probe::Kind;
use crate::topology::roles::{Event, Missed, Place, Said, Terms};

/// A connection that instances are asked on.
pub struct Line {
    stream: Stream,
    kind: Kind,
}

pub struct Asker(Arc<Shared>);

/// Watches all instances. Never ends; nothing to do where there is only one.
pub async fn watch(shared: Arc<Shared>) {
    let instances = &shared.endpoint.instances;
    if instances.len() < 2 {
        return std::future::pending().await;
    }
    let names: Vec<Arc<str>> = instances.iter().map(|i| Arc::clone(&i.name)).collect();
    let board = Arc::clone(&shared.endpoint.board);
    let (pacing, terms) = terms(&shared.config.load());
    let monitor = Monitor::new(Asker(shared), board, pacing, terms, &names);
    let mut watchers = tokio::task::JoinSet::new();
    for place in 0..names.len() {
        watchers.spawn_local(std::rc::Rc::clone(&monitor).watch(Place(place)));
    }
    while watchers.join_next().await.is_some() {}
}

fn terms(config: &Config) -> (Pacing, Terms) {
    let cluster = &config.cluster;
    let pacing = Pacing {
        interval: cluster.probe_interval,
        hurried_interval: cluster.hurried_probe_interval,
        timeout: cluster.probe_timeout,
    };
    let terms = Terms {
        max_lag: cluster.max_replica_lag,
    };
    (pacing, terms)
}

impl Asker {
    fn instance(&self, Place(place): Place) -> Option<&Instance> {
        self.0.endpoint.instances.get(place)
    }

    /// An instance has the limits of what it is there for.
    fn assign(&self, place: Place, writer: Place) {
        let duty = match place == writer {
            true => Duty::Writer,
            false => Duty::Reader,
        };
        if let Some(instance) = self.instance(place)
            && let Some(cap) = instance.target.manage.set_duty(duty)
        {
            instance.target.set_cap(cap);
        }
    }

    async fn connect(&self, place: Place) -> Result<Line, Missed> {
        let account = self.0.first_account();
        let (Some((database, user)), Some(instance)) = (account, self.instance(place)) else {
            return Err(Missed {
                reason: Unavailable::AuthFailure,
                text: "there is no user to ask as until one with a verifier has logged in".into(),
            });
        };
        let account = Account {
            database: database.into(),
            user: user.into(),
        };
        let connected = instance.target.manage.dial(&account, "").await;
        let (connected, _) = connected.map_err(|error| missed(&error))?;
        let mut stream = connected.stream;
        let answer = simple::query(&mut stream, crate::topology::probe::KIND).await;
        let kind = Kind::read(&answer.map_err(broken)?.rows).map_err(broken)?;
        Ok(Line { stream, kind })
    }
}

impl Ask for Asker {
    type Line = Line;

    async fn ask(&self, place: Place, line: &mut Option<Line>) -> Result<Said, Missed> {
        let mut open = match line.take() {
            Some(open) => open,
            None => self.connect(place).await?,
        };
        let answer = simple::query(&mut open.stream, &open.kind.question()).await;
        let answer = answer.map_err(broken)?;
        let answer = open.kind.answer(&answer.rows).map_err(broken)?;
        *line = Some(open);
        Ok(answer.said)
    }

    fn is_used(&self) -> bool {
        self.0.endpoint.instances.iter().any(|instance| {
            let (_, used) = instance.target.usage();
            used > 0 || instance.target.load() > 0.0
        })
    }

    fn happened(&self, events: &[Event]) {
        for event in events {
            let (Event::Renewed(place)
            | Event::Severed(place)
            | Event::Promoted(place)
            | Event::Lost(place)
            | Event::Refused(place)) = *event;
            let Some(instance) = self.instance(place) else {
                continue;
            };
            let name = &instance.name;
            match event {
                Event::Renewed(_) => instance.target.renew(Lent::Keep),
                Event::Severed(_) => instance.target.renew(Lent::Sever),
                Event::Promoted(writer) => {
                    for place in 0..self.0.endpoint.instances.len() {
                        self.assign(Place(place), *writer);
                    }
                    tracing::warn!(instance = %name, "the writer is another one now");
                    self.0.endpoint.forget_greetings();
                    self.0.cluster_meters.failovers.increment(1);
                }
                Event::Lost(_) => {
                    tracing::warn!(instance = %name, "the writer is a writer no longer, and no other is known yet");
                }
                Event::Refused(_) => {
                    tracing::error!(instance = %name, "two instances claim to be the writer; this one is refused, for its timeline is the older one (or not newer): stop it");
                    self.0.cluster_meters.refused_writers.increment(1);
                }
            }
        }
    }

    fn allows(&self, place: Place, connections: u32) {
        if let Some(instance) = self.instance(place) {
            let cap = instance.target.manage.set_allowed(connections);
            instance.target.set_cap(cap);
        }
        if let Some(writer) = self.0.endpoint.board.view().writer {
            self.assign(place, writer);
        }
    }
}

fn missed(error: &ConnectError) -> Missed {
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
