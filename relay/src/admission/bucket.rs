//! A bound on how often something may be done: a number of times at once, and a number of times a second after that.

use std::time::Instant;

/// Something that may be done a number of times.
#[derive(Debug)]
pub(crate) struct Bucket {
    burst: u32,
    per_second: u32,
    /// How many times are left, in thousandths; below zero if there is a debt.
    level: i64,
    at: Instant,
}

impl Bucket {
    /// A full bucket: `burst` at once, and `per_second` from `now` on.
    pub(crate) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self {
            burst,
            per_second,
            level: i64::from(burst) * 1_000,
            at: now,
        }
    }

    /// May the thing be done once more? A refusal counts too, as [`Bucket::debt`].
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_millis();
        let filled = u128::from(self.per_second) * passed;
        if filled > 0 {
            let filled = i64::try_from(filled).unwrap_or(i64::MAX);
            let full = i64::from(self.burst) * 1_000;
            self.level = self.level.saturating_add(filled).min(full);
            self.at = now;
        }
        self.level = self.level.saturating_sub(1_000);
        self.level >= 0
    }

    /// May the thing be done once more? A refusal is forgotten.
    pub(crate) fn take_if_any(&mut self, now: Instant) -> bool {
        let taken = self.take(now);
        if !taken {
            self.level = self.level.saturating_add(1_000);
        }
        taken
    }

    /// Is it as if nothing had been done?
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        let full = i64::from(self.burst) * 1_000;
        let before = self.level;
        self.take(now);
        let level = self.level.saturating_add(1_000);
        self.level = level.max(before);
        level >= full
    }

    /// The number of refusals that are not forgotten yet.
    pub(crate) fn debt(&self) -> u32 {
        u32::try_from(-self.level / 1_000).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use cepa_common::world::steady;

    use super::*;

    #[test]
    fn a_burst_and_then_a_rate() {
        let mut now = steady::now();
        let mut bucket = Bucket::new(10, 4, now);
        let mut may = |now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(may(now), 10);
        // The debt of the 90 refusals is paid first, which takes 22.5 s.
        now += Duration::from_secs(20);
        assert_eq!(may(now), 0);
        assert!(bucket.debt() > 100);
        let mut bucket = Bucket::new(10, 4, now);
        (0..10).for_each(|_| assert!(bucket.take(now)));
        now += Duration::from_millis(500);
        assert!(bucket.take(now) && bucket.take(now) && !bucket.take(now));
        assert_eq!(bucket.debt(), 1);
        // A time before the last one brings no gain and causes no panic (S37).
        assert!(!bucket.take(now - Duration::from_secs(5)));
        now += Duration::from_secs(3_600);
        assert_eq!((0..100).filter(|_| bucket.take(now)).count(), 10);
    }
}
