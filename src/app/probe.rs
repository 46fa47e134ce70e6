//! Asks a target whether it is there, while nobody else does: at the start, and as long as it is in trouble.
//!
//! Otherwise silent: a database that nobody uses must be able to sleep.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use crate::session::endpoint::{Desk, Endpoint};

/// How often a look is taken at whether asking is due; the target notices nothing of it.
const PAUSE: Duration = Duration::from_millis(500);

/// Never ends. While no account is known to ask with (users with a verifier alone, before one has logged in),
/// nothing is asked.
pub async fn keep_asking(endpoint: Arc<Endpoint>, desk: Rc<Desk>, shared: Arc<Shared>) {
    loop {
        let due = !endpoint.target.has_answered() || endpoint.target.trouble().is_some();
        if due
            && let Some((database, user)) = shared.first_account()
            && let Some(entry) = endpoint.entry(&database, &user)
            && let Ok(waiting) = desk.borrow(entry.pool)
            && let Ok(lease) = waiting.await
        {
            lease.release();
        }
        tokio::time::sleep(PAUSE).await;
    }
}
