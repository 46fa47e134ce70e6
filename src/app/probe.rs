//! Asks a target whether it is there, while nobody else does: at the start, and as long as it is in trouble.
//!
//! Otherwise silent: a database that nobody uses must be able to sleep.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::session::endpoint::{Desk, Endpoint};

/// How often a look is taken at whether asking is due; the target notices nothing of it.
const PAUSE: Duration = Duration::from_millis(500);

/// Never ends. Without an account there is nothing to ask with.
pub async fn keep_asking(
    endpoint: Arc<Endpoint>,
    desk: Rc<Desk>,
    account: Option<(String, String)>,
) {
    let Some((database, user)) = account else {
        return;
    };
    let Some(entry) = endpoint.entry(&database, &user) else {
        return;
    };
    let mut answered = false;
    loop {
        if !answered || endpoint.target.trouble().is_some() {
            answered = match desk.borrow(entry.pool) {
                Ok(waiting) => match waiting.await {
                    Ok(lease) => {
                        lease.release();
                        true
                    }
                    Err(_) => false,
                },
                Err(_) => false,
            };
        }
        tokio::time::sleep(PAUSE).await;
    }
}
