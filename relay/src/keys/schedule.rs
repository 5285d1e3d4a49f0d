//! When onion keys are made and erased (docs/protocol.md, 6.20). This file is pure: the clock, and what consensuses
//! say, are arguments.
//!
//! A key is *current* until a newer one is made; then it is *replaced*. From then on no new descriptor names the key.
//! So the age that a descriptor may have, and the time for which a consensus may be used, bound the time for which
//! anybody can make handshakes to the key. A consensus that is seen to list the key counts as well, because a network
//! whose parameters have changed may use consensuses for longer.
//!
//! Clocks go wrong. No time is set before the newest consensus that was seen. Before that consensus is out of date, no
//! key ends except by its age. So a clock that steps ahead erases no key that is still listed.

use cepa_common::dir::{CLOCK_SKEW_SECS, Lifetime, Params, UnixSecs};
use cepa_common::onion::Suite;

/// No onion key is kept for longer than this after it was made, whatever lists it (seconds).
pub const MAX_LIFE_SECS: u64 = 14 * 86_400;
/// The most onion keys held at once. While there are so many, no other is made.
pub const MAX_KEYS: usize = 64;
/// A time that is this far ahead of a clock which the network agrees with was set by a wrong clock (seconds).
const MISDATED_SECS: u64 = 3_600;

/// The network's figures that the schedule depends on (all in seconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Age at which a key is replaced.
    rotation: u64,
    /// Time from the replacement of a key to the end of use of the last consensus that can list it.
    overlap: u64,
    /// Time from a consensus's valid-until to the end of its use.
    grace: u64,
}

impl Timing {
    /// The figures that follow from the network's parameters.
    pub fn new(params: &Params) -> Self {
        let interval = u64::from(params.vote_interval_seconds);
        let valid = Lifetime::of(params, 0).valid_until;
        let grace = u64::from(params.consensus_grace_seconds);
        let age = u64::from(params.descriptor_max_age_seconds);
        // One interval is added because a vote is made before its consensus, and the skew because clocks of clients and
        // authorities may be behind.
        let overlap = age + interval + valid + grace + 2 * CLOCK_SKEW_SECS;
        // The overlap must fit into a key's life.
        let longest = MAX_LIFE_SECS.saturating_sub(overlap).max(MAX_LIFE_SECS / 7);
        Self {
            rotation: u64::from(params.onion_key_rotation_seconds).min(longest),
            overlap,
            grace,
        }
    }

    /// Age at which a key is replaced (seconds).
    pub fn rotation_secs(&self) -> u64 {
        self.rotation
    }
}

/// One onion key, without its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyTimes {
    /// Number of the key. A later key has a higher number.
    pub generation: u64,
    /// Suite of the layers whose keys come from handshakes to this key.
    pub suite: Suite,
    /// Public half of the key, which is its id.
    pub public: [u8; 32],
    /// When the key was made.
    pub born: UnixSecs,
    /// When a newer key took its place; `None` for the current one.
    pub replaced: Option<UnixSecs>,
    /// End of use of the last consensus that was seen to list the key; 0 if none was.
    pub listed_until: UnixSecs,
}

impl KeyTimes {
    /// A key that nobody has seen yet.
    pub fn new(generation: u64, suite: Suite, public: [u8; 32], born: UnixSecs) -> Self {
        Self {
            generation,
            suite,
            public,
            born,
            replaced: None,
            listed_until: 0,
        }
    }

    /// The time from which nobody can hold a usable consensus that lists the key; `None` while the key is current.
    pub fn end(&self, timing: &Timing) -> Option<UnixSecs> {
        let listed = self.listed_until.saturating_add(CLOCK_SKEW_SECS);
        let end = self.replaced?.saturating_add(timing.overlap).max(listed);
        Some(end.min(self.oldest()))
    }

    /// The end of the longest life that a key may have.
    fn oldest(&self) -> UnixSecs {
        self.born.saturating_add(MAX_LIFE_SECS)
    }
}

/// What one consensus says about the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyListing {
    /// When the consensus becomes valid.
    pub valid_after: UnixSecs,
    /// When there should be a newer one.
    pub fresh_until: UnixSecs,
    /// When the consensus stops being valid.
    pub valid_until: UnixSecs,
    /// The onion key that the consensus lists for the relay; `None` if it does not list the relay.
    pub onion_key: Option<[u8; 32]>,
}

/// The times of a consensus that was taken in. Of two, the one that is valid later is the newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Observed {
    valid_after: UnixSecs,
    fresh_until: UnixSecs,
}

/// The onion keys of a relay, newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    keys: Vec<KeyTimes>,
    /// The newest consensus that was taken in.
    observed: Observed,
}

impl Schedule {
    /// A schedule of these keys. `observed` is the valid-after of the newest consensus that was seen before. All keys
    /// but the newest count as replaced, at `now` if nothing else is known.
    pub fn new(mut keys: Vec<KeyTimes>, observed: UnixSecs, now: UnixSecs) -> Self {
        keys.sort_by_key(|key| key.generation);
        if let Some((current, old)) = keys.split_last_mut() {
            // A newer key may have been lost. Then this key is current again.
            current.replaced = None;
            for key in old {
                key.replaced.get_or_insert(now.max(observed));
            }
        }
        // Until a consensus is seen again, nothing shows that the clock is not ahead.
        let observed = Observed {
            valid_after: observed,
            fresh_until: observed,
        };
        Self { keys, observed }
    }

    /// All keys, newest last.
    pub fn keys(&self) -> &[KeyTimes] {
        &self.keys
    }

    /// Valid-after of the newest consensus that was taken in; 0 before the first.
    pub fn observed(&self) -> UnixSecs {
        self.observed.valid_after
    }

    /// The key that is published.
    pub fn current(&self) -> Option<&KeyTimes> {
        self.keys.last()
    }

    /// The number of the next key.
    pub fn next_generation(&self) -> u64 {
        self.current()
            .map_or(1, |key| key.generation.saturating_add(1))
    }

    /// Adds a new key that was made at `now`. The key is current from then on.
    pub fn add(&mut self, generation: u64, suite: Suite, public: [u8; 32], now: UnixSecs) {
        let born = now.max(self.observed.valid_after);
        if let Some(old) = self.keys.last_mut() {
            old.replaced = Some(born);
        }
        self.keys
            .push(KeyTimes::new(generation, suite, public, born));
    }

    /// Removes a key.
    pub fn remove(&mut self, generation: u64) {
        self.keys.retain(|key| key.generation != generation);
    }

    /// Takes in what a consensus says. Returns whether something changed that must outlive a restart.
    pub fn observe(&mut self, listing: &KeyListing, timing: &Timing) -> bool {
        let end = listing.valid_until.saturating_add(timing.grace);
        self.observed = self.observed.max(Observed {
            valid_after: listing.valid_after,
            fresh_until: listing.fresh_until,
        });
        let mut is_news = false;
        for key in &mut self.keys {
            if listing.onion_key == Some(key.public) && key.listed_until < end {
                key.listed_until = end;
                // For the current key nothing need be kept: the time is learnt again once the key is replaced.
                is_news |= key.replaced.is_some();
            }
        }
        is_news
    }

    /// Is a new key due at `now`, if the owner chose `suite`?
    pub fn is_due(&self, now: UnixSecs, suite: Suite, timing: &Timing) -> bool {
        let is_due = self.current().is_none_or(|key| {
            key.suite != suite || key.born.saturating_add(timing.rotation) <= now
        });
        // An old key that somebody may still use is worth more than a new one.
        is_due && self.keys.len() < MAX_KEYS
    }

    /// The generations of keys whose time is over at `now`, never that of the current key.
    pub fn over(&self, now: UnixSecs, timing: &Timing) -> Vec<u64> {
        let by_network = now.min(self.observed.fresh_until);
        let is_over = |key: &&KeyTimes| {
            key.end(timing)
                .is_some_and(|end| end <= by_network || key.oldest() <= now)
        };
        let over = self.keys.iter().filter(is_over);
        over.map(|key| key.generation).collect()
    }

    /// Corrects times that a clock set while it was ahead, once the clock and the newest consensus agree.
    pub fn redate(&mut self, now: UnixSecs) {
        let Observed {
            valid_after,
            fresh_until,
        } = self.observed;
        let interval = fresh_until.saturating_sub(valid_after);
        let agrees = valid_after <= now.saturating_add(CLOCK_SKEW_SECS)
            && now < fresh_until.saturating_add(interval);
        if !agrees {
            return;
        }
        let latest = now.saturating_add(MISDATED_SECS);
        for key in &mut self.keys {
            if key.born > latest {
                key.born = now;
            }
            if key.replaced.is_some_and(|replaced| replaced > latest) {
                key.replaced = Some(now);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const SUITE: Suite = Suite::ChaCha20Poly1305;

    fn timing() -> Timing {
        Timing::new(&Params::default())
    }

    fn key(generation: u64, born: UnixSecs) -> KeyTimes {
        let public = [u8::try_from(generation).unwrap(); 32];
        KeyTimes::new(generation, SUITE, public, born)
    }

    fn listing(valid_after: UnixSecs, generation: Option<u8>) -> KeyListing {
        KeyListing {
            valid_after,
            fresh_until: valid_after + 3_600,
            valid_until: valid_after + DAY,
            onion_key: generation.map(|n| [n; 32]),
        }
    }

    #[test]
    fn a_key_is_replaced_at_its_age_and_by_another_suite() {
        let mut schedule = Schedule::default();
        assert!(schedule.is_due(1_000, SUITE, &timing()));
        schedule.add(1, SUITE, [1; 32], 1_000);
        let due = 1_000 + 7 * DAY;
        assert!(!schedule.is_due(due - 1, SUITE, &timing()));
        assert!(schedule.is_due(due, SUITE, &timing()));
        // A clock that is behind makes no key due.
        assert!(!schedule.is_due(0, SUITE, &timing()));
        assert!(schedule.is_due(1_001, Suite::Aes256Gcm, &timing()));
        assert_eq!(schedule.next_generation(), 2);
    }

    #[test]
    fn a_replaced_key_ends_when_nobody_can_list_it() {
        let timing = timing();
        let mut schedule = Schedule::new(vec![key(1, 1_000), key(2, 500_000)], 0, 500_000);
        // The sum is the age of a descriptor, an interval, the validity, the grace, and the skew of clocks.
        let end = 500_000 + 64_800 + 3_600 + DAY + DAY + 600;
        assert_eq!(schedule.keys()[0].end(&timing), Some(end));
        assert_eq!(schedule.keys()[1].end(&timing), None);
        // No consensus has shown that this time has come.
        assert!(schedule.over(end, &timing).is_empty());
        assert!(!schedule.observe(&listing(end - 10, Some(2)), &timing));
        assert!(schedule.over(end - 1, &timing).is_empty());
        assert_eq!(schedule.over(end, &timing), [1]);
        // The key is listed for longer than it should be, so it lives as long as that consensus can be used.
        assert!(schedule.observe(&listing(end - 100, Some(1)), &timing));
        assert!(!schedule.observe(&listing(end - 200, Some(1)), &timing));
        assert_eq!(
            schedule.keys()[0].end(&timing),
            Some(end - 100 + 2 * DAY + 300)
        );
        // Whatever consensuses say, a key lives no longer than its age allows.
        assert!(schedule.observe(&listing(1_000 + 13 * DAY, Some(1)), &timing));
        let oldest = 1_000 + MAX_LIFE_SECS;
        assert!(schedule.over(oldest - 1, &timing).is_empty());
        assert_eq!(schedule.over(oldest, &timing), [1]);
    }

    #[test]
    fn a_current_key_is_never_erased_and_the_ring_is_bounded() {
        let mut schedule = Schedule::new(vec![key(1, 98 * DAY)], 0, 0);
        assert!(schedule.over(200 * DAY, &timing()).is_empty());
        for generation in 2..=64 {
            schedule.add(generation, SUITE, [2; 32], 98 * DAY);
        }
        assert!(!schedule.is_due(98 * DAY + 1, Suite::Aes256Gcm, &timing()));
        schedule.remove(3);
        assert!(schedule.is_due(98 * DAY + 1, Suite::Aes256Gcm, &timing()));
    }

    #[test]
    fn times_from_a_wrong_clock_are_put_right() {
        let ahead = vec![key(1, 900 * DAY), key(2, 900 * DAY)];
        let mut schedule = Schedule::new(ahead.clone(), 0, 900 * DAY);
        schedule.redate(2 * DAY);
        assert_eq!(
            schedule.keys()[1].born,
            900 * DAY,
            "nobody says that it is {DAY}"
        );
        schedule.observe(&listing(2 * DAY - 60, Some(2)), &timing());
        // A clock that is behind is not believed; a clock that agrees is.
        schedule.redate(DAY);
        assert_eq!(schedule.keys()[1].born, 900 * DAY);
        schedule.redate(2 * DAY);
        assert_eq!(schedule.keys()[0].replaced, Some(2 * DAY));
        assert!(schedule.is_due(9 * DAY, SUITE, &timing()));
        // No time is set before that of the newest consensus seen.
        schedule.add(3, SUITE, [3; 32], 10);
        assert_eq!(schedule.keys()[1].replaced, Some(2 * DAY - 60));
        assert_eq!(Schedule::new(ahead, 50, 10).keys()[0].replaced, Some(50));
    }

    #[test]
    fn the_overlap_fits_into_a_life() {
        assert_eq!(timing().rotation_secs(), 7 * DAY);
        for (valid, age, interval) in [
            (60, 60, 1),
            (86_400, 64_800, 3_600),
            (5 * 86_400, 86_400, 86_400),
        ] {
            let params = Params::from_pairs([
                ("consensus_valid_seconds", valid),
                ("descriptor_max_age_seconds", age),
                ("vote_interval_seconds", interval),
                ("onion_key_rotation_seconds", u32::MAX),
            ]);
            let timing = Timing::new(&params);
            assert!(timing.rotation + timing.overlap <= MAX_LIFE_SECS);
            assert!(timing.rotation >= 2 * DAY);
        }
        let short = Params::from_pairs([("onion_key_rotation_seconds", 0)]);
        assert_eq!(Timing::new(&short).rotation_secs(), 10);
    }
}
