//! Connections that are opened, cleaned and closed as the test says.
//!
//! Knows how many there are; the pool has to agree.

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::sleep;

use super::super::*;

/// How long an opening takes.
pub const OPENING: Duration = Duration::from_millis(20);
pub const CLOSING: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble(pub FailureKind);

impl Failure for Trouble {
    fn kind(&self) -> FailureKind {
        self.0
    }
}

/// What cleaning does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cleaning {
    #[default]
    Works,
    Fails,
    Hangs,
}

#[derive(Debug, Default)]
pub struct Knobs {
    /// Openings fail like this.
    pub failure: Option<FailureKind>,
    pub opening_hangs: bool,
    pub closing_hangs: bool,
    pub cleaning: Cleaning,
    pub rehoming_fails: bool,
    /// Connections that are found dead.
    pub dead: Vec<u32>,
    pub attempts: usize,
    pub opened: u32,
    at_once: usize,
    pub most_at_once: usize,
    pub cleaned: Vec<u32>,
    pub rehomed: Vec<u32>,
    pub closed: Vec<(u32, Leaving)>,
}

#[derive(Clone, Default)]
pub struct Fake {
    knobs: Arc<Mutex<Knobs>>,
    /// Each connection has one of these: they can't be in two places.
    alive: Arc<()>,
}

pub struct Pretended {
    pub number: u32,
    _alive: Arc<()>,
}

impl Fake {
    pub fn knobs(&self) -> MutexGuard<'_, Knobs> {
        self.knobs.lock().unwrap()
    }

    /// Connections that exist. (The pool and the test have this itself once each.)
    pub fn open_now(&self) -> usize {
        Arc::strong_count(&self.alive) - 2
    }
}

impl Manage for Fake {
    type Key = &'static str;
    type Connection = Pretended;
    type Error = Trouble;

    async fn open(&self, _: &&'static str) -> Result<Opened<Pretended>, Trouble> {
        {
            let mut knobs = self.knobs();
            knobs.attempts += 1;
            knobs.at_once += 1;
            knobs.most_at_once = knobs.most_at_once.max(knobs.at_once);
        }
        let hangs = self.knobs().opening_hangs;
        if hangs {
            pending::<()>().await;
        }
        sleep(OPENING).await;
        let mut knobs = self.knobs();
        knobs.at_once -= 1;
        if let Some(kind) = knobs.failure {
            return Err(Trouble(kind));
        }
        knobs.opened += 1;
        Ok(Opened {
            connection: Pretended {
                number: knobs.opened,
                _alive: Arc::clone(&self.alive),
            },
            cap: None,
        })
    }

    async fn clean(&self, _: &&'static str, connection: &mut Pretended) -> bool {
        let cleaning = self.knobs().cleaning;
        sleep(Duration::from_millis(3)).await;
        match cleaning {
            Cleaning::Works => {
                self.knobs().cleaned.push(connection.number);
                true
            }
            Cleaning::Fails => false,
            Cleaning::Hangs => pending().await,
        }
    }

    async fn close(&self, _: &&'static str, connection: Pretended, why: Leaving) {
        self.knobs().closed.push((connection.number, why));
        let hangs = self.knobs().closing_hangs;
        if hangs {
            pending::<()>().await;
        }
        sleep(CLOSING).await;
    }

    fn is_dead(&self, connection: &mut Pretended) -> bool {
        self.knobs().dead.contains(&connection.number)
    }

    fn rehome(&self, connection: &mut Pretended) -> io::Result<()> {
        let mut knobs = self.knobs();
        knobs.rehomed.push(connection.number);
        if knobs.rehoming_fails {
            return Err(io::ErrorKind::Other.into());
        }
        Ok(())
    }
}
