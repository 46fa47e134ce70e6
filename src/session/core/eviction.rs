//! Databases that are to be dropped, or copied: nobody of ours may be connected to them by then.
//!
//! Knows what is due; the shell closes what lies idle.

use super::*;

/// Before a database is dropped, copied, moved or renamed, connections that lie idle in it are closed: of them its
/// client knows nothing.
#[derive(Debug, Default)]
pub(super) enum Eviction {
    #[default]
    None,
    Wanted(Vec<Vec<u8>>),
    UnderWay,
    Done,
}

impl Eviction {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Eviction::None)
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Eviction::Done)
    }
}

impl Core {
    /// Whether nobody of ours may be connected to a database that the text is about, and somebody is.
    pub(super) fn awaits_eviction(&mut self, report: &Report, at: usize) -> bool {
        if !report.effects.has(Effects::DATABASE_DDL) || self.eviction.is_done() {
            return false;
        }
        // What stands before it goes first.
        if at == 0 && self.eviction.is_none() {
            let acts = report.acts.clone();
            self.eviction = Eviction::Wanted(acts.unwrap_or_default().databases);
        }
        true
    }

    #[inline]
    pub fn wants_eviction(&self) -> bool {
        matches!(self.eviction, Eviction::Wanted(_))
    }

    /// Databases that must have nobody connected before the client's next message may go on.
    pub fn take_eviction(&mut self) -> Option<Vec<Vec<u8>>> {
        let Eviction::Wanted(databases) = &mut self.eviction else {
            return None;
        };
        let databases = std::mem::take(databases);
        self.eviction = Eviction::UnderWay;
        Some(databases)
    }

    /// Whoever lay idle there is gone.
    pub fn evicted(&mut self) {
        self.eviction = Eviction::Done;
    }
}
