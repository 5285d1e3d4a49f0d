//! Keeps what strangers can cause from filling the log (S34).

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The least time between two lines of one class.
pub const EVERY: Duration = Duration::from_secs(10);

/// The pace of one class of lines: counts what happens often, and says when the sum may be told.
#[derive(Clone, Debug, Default)]
pub struct LogPace {
    told: Option<Instant>,
    count: u64,
}

impl LogPace {
    /// Counts `count` more. Returns the sum of what was not told yet, if the last line is 10 seconds ago or more;
    /// `None` if this is to be left out for now.
    pub fn count(&mut self, count: u64, now: Instant) -> Option<u64> {
        self.count = self.count.saturating_add(count);
        let is_due = |told| now.saturating_duration_since(told) >= EVERY;
        if !self.told.is_none_or(is_due) {
            return None;
        }
        self.told = Some(now);
        Some(core::mem::take(&mut self.count))
    }
}

/// The paces of several classes of lines. Classes are those of the program and few: a class that a peer could make up
/// would have no bound.
#[derive(Clone, Debug)]
pub struct LogPaces<C>(HashMap<C, LogPace>);

impl<C> Default for LogPaces<C> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<C: Eq + Hash> LogPaces<C> {
    /// Counts `count` more of a class, as [`LogPace::count`] does.
    pub fn count(&mut self, class: C, count: u64, now: Instant) -> Option<u64> {
        self.0.entry(class).or_default().count(count, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_told_as_a_sum() {
        let mut pace = LogPace::default();
        let begin = Instant::now();
        let mut count = |count, seconds| pace.count(count, begin + Duration::from_secs(seconds));
        assert_eq!(count(2, 0), Some(2));
        assert_eq!((count(3, 1), count(4, 9)), (None, None));
        assert_eq!(count(5, 10), Some(12));
        assert_eq!(count(u64::MAX, 11), None);
        assert_eq!(count(1, 20), Some(u64::MAX));
    }

    #[test]
    fn a_flood_of_one_class_hides_no_other() {
        let mut paces = LogPaces::default();
        let begin = Instant::now();
        let told: u64 = (0..600)
            .filter_map(|n| paces.count("accept", 1, begin + Duration::from_millis(50 * n)))
            .sum();
        // Thirty seconds of 20 a second make three lines: one, 200 and 200.
        assert_eq!(told, 401);
        assert_eq!(paces.count("disk", 1, begin), Some(1));
    }
}
