//! Keeps what strangers can cause from filling the log (S34).

use std::time::{Duration, Instant};

/// The time between two events of one matter.
const EVERY: Duration = Duration::from_secs(10);

/// Counts what happens often, and says when the sum may be told.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    told: Option<Instant>,
    count: u64,
}

impl Pace {
    /// Counts `count` more. Gives the sum since it was last told, if that is 10 seconds ago or more.
    pub(crate) fn count(&mut self, count: u64, now: Instant) -> Option<u64> {
        self.count = self.count.saturating_add(count);
        let is_due = |told| now.saturating_duration_since(told) >= EVERY;
        if !self.told.is_none_or(is_due) {
            return None;
        }
        self.told = Some(now);
        Some(core::mem::take(&mut self.count))
    }
}
