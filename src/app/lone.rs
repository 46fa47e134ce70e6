//! Asks an instance that is the only one what it is, and whether it is there.
//!
//! Has no connection of its own for that: it borrows one, when one lies idle; opens one only at the start, and as long as
//! the instance is in trouble. Where there may be several, `cluster` asks.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::{self, no_account};
use super::shared::Shared;
use crate::config::HostPort;
use crate::pool::{BorrowError, Lease};
use crate::server::{ConnectError, Dialer};
use crate::session::endpoint::Desks;
use crate::topology::monitor::{Ask, Monitor};
use crate::topology::probe::{Answer, Kind};
use crate::topology::roles::{Company, Event, Missed, Place, Roles, Unavailable};

struct Asker {
    desks: Rc<Desks>,
    shared: Arc<Shared>,
    answers: Cell<bool>,
    /// For a connection; the answer may take as long.
    patience: Duration,
}

/// Never ends; nothing to do where there may be several instances.
pub async fn watch(desks: Rc<Desks>, shared: Arc<Shared>) {
    let config = shared.config.load_full();
    if config.database.is_cluster() {
        return;
    }
    let board = Arc::clone(&shared.endpoint.board);
    let (mut pacing, terms, members) = cluster::terms(&config, Company::Alone);
    // There is no other to turn to in a hurry, and a question that is broken off costs the pool its connection.
    pacing.timeout = pacing.timeout.max(config.database.connect_timeout);
    let asker = Asker {
        desks,
        shared,
        answers: Cell::new(false),
        patience: pacing.timeout / 2,
    };
    let monitor = Monitor::new(
        asker,
        board,
        pacing,
        Roles::new(terms),
        members,
        &config.database.hosts,
    );
    monitor.run().await;
}

impl Asker {
    async fn borrow(&self, place: Place) -> Result<Lease<Dialer>, Missed> {
        let account = self.shared.first_account().ok_or_else(no_account)?;
        let entry = self
            .desks
            .endpoint
            .entry(&account.0, &account.1.as_str().into());
        let (Some(entry), Some(desk)) = (entry, self.desks.at(place)) else {
            return Err(busy());
        };
        if let Some(lease) = desk.try_borrow(entry.pool) {
            return Ok(lease);
        }
        if self.answers.get() && desk.target().trouble().is_none() {
            return Err(busy());
        }
        let waiting = desk.borrow(entry.pool).map_err(refused)?;
        match tokio::time::timeout(self.patience, waiting).await {
            Ok(outcome) => outcome.map_err(refused),
            Err(_) => Err(match desk.target().trouble() {
                Some(cause) => cluster::missed(&cause),
                None => busy(),
            }),
        }
    }
}

/// All connections are at work, which is no sign of ill health.
fn busy() -> Missed {
    Missed {
        reason: Unavailable::PendingProxyCapacity,
        text: "there was no connection to ask on".into(),
    }
}

fn refused(error: BorrowError<Arc<ConnectError>>) -> Missed {
    match error {
        BorrowError::Refused(cause) | BorrowError::Unreachable { cause, .. } => {
            cluster::missed(&cause)
        }
        BorrowError::Busy { .. } | BorrowError::QueueFull { .. } | BorrowError::NoTarget { .. } => {
            busy()
        }
    }
}

impl Ask for Asker {
    /// What kind of instance it is.
    type Line = Kind;

    async fn ask(&self, place: Place, kind: &mut Option<Kind>) -> Result<Answer, Missed> {
        let known = kind.take();
        let mut lease = self.borrow(place).await?;
        // Without an answer it is in trouble, until there is one.
        self.answers.set(false);
        let known = match known {
            Some(known) => known,
            None => cluster::kind(&lease.rows(crate::topology::probe::KIND).await)?,
        };
        let answer = cluster::answer(known, &lease.rows(&known.question()).await)?;
        lease.release();
        self.answers.set(true);
        *kind = Some(known);
        Ok(answer)
    }

    /// Connections that lie idle are not use: asked again and again, they would lie there for ever.
    fn is_used(&self) -> bool {
        let instances = self.shared.endpoint.instances();
        let used = |target: &crate::pool::Target<_>| {
            target.load() > 0.0 || target.trouble().is_some() || !target.has_answered()
        };
        instances.iter().any(|instance| used(&instance.target))
    }

    fn join(&self, _: Place, _: &HostPort) {}

    fn move_to(&self, _: Place, _: &HostPort) {}

    fn part(&self, _: Place) -> bool {
        false
    }

    fn happened(&self, events: &[Event]) {
        cluster::follow(&self.shared, events);
    }

    fn allows(&self, place: Place, connections: u32) {
        cluster::allow(&self.shared, place, connections);
    }
}
