//! Asks a single instance whether it is there, while nobody else does: at the start, and as long as it is in trouble.
//!
//! Otherwise silent: a database that nobody uses must be able to sleep. Where there are several, `cluster` asks.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use crate::session::endpoint::Desks;
use crate::topology::Place;

/// How often a look is taken at whether asking is due; the target notices nothing of it.
const PAUSE: Duration = Duration::from_millis(500);

/// Never ends. While no account is known to ask with (users with a verifier alone, before one has logged in),
/// nothing is asked.
pub async fn keep_asking(desks: Rc<Desks>, shared: Arc<Shared>) {
    if desks.endpoint.instances.len() > 1 {
        return;
    }
    let desk = desks.at(Place(0));
    loop {
        let target = desk.target();
        let due = !target.has_answered() || target.trouble().is_some();
        if due
            && let Some((database, user)) = shared.first_account()
            && let Some(entry) = desks.endpoint.entry(&database, &user)
            && let Ok(waiting) = desk.borrow(entry.pool)
            && let Ok(lease) = waiting.await
        {
            lease.release();
        }
        tokio::time::sleep(PAUSE).await;
    }
}
