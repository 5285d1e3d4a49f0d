//! When a circuit gets a second leg: a pure judgement of how it has moved so far.

use core::time::Duration;
use std::time::Instant;

/// Fewer cells than this in a second are no bulk. So many cells are 256 KiB.
const BULK_CELLS: u64 = 128;
/// A circuit that moves more than this in a second is held back by processors rather than by links (cells; 24 MiB).
const FAST_CELLS: u64 = 12_288;
/// A circuit whose round trip is shorter than this is within one machine or one room, and processors hold it back too.
const NEAR: Duration = Duration::from_millis(10);
/// A circuit carries bulk when it has moved as bulk does for this time.
const BULK_TIME: Duration = Duration::from_millis(1_500);
/// The longest time over which a rate is taken.
const LOOK_MOST: Duration = Duration::from_secs(1);
/// Time from one try to get a leg to the next try, whatever became of the first.
const AGAIN: Duration = Duration::from_secs(10);

/// The most paths drawn for second legs in a circuit's life. A far end that ends one leg after another would else draw
/// middle after middle out of the client, until one is a friend's and shows which guard the client begins at.
const MOST_DRAWN: u32 = 2;

/// When a circuit gets a second leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Multipath {
    /// Never.
    Never,
    /// When the circuit carries bulk, and links are what holds the circuit back.
    #[default]
    Bulk,
    /// As soon as the circuit carries a stream.
    Always,
}

/// Watches one circuit and says when it is time for another leg.
#[derive(Debug)]
pub(super) struct Growth {
    mode: Multipath,
    looked: Option<(Instant, u64)>,
    /// Since when the circuit has moved as bulk does.
    bulk: Option<Instant>,
    tried: Option<Instant>,
    /// Number of paths that were drawn for a second leg.
    drawn: u32,
}

impl Growth {
    pub(super) fn new(mode: Multipath) -> Self {
        Self {
            mode,
            looked: None,
            bulk: None,
            tried: None,
            drawn: 0,
        }
    }

    /// A path for a second leg has been drawn, with a middle of its own.
    pub(super) fn on_drawn(&mut self) {
        self.drawn += 1;
    }

    /// Is it time for another leg, if `cells` have been moved in all and a round trip took `rtt`? The function says so
    /// at most once in [`AGAIN`], and no more once [`MOST_DRAWN`] paths were drawn.
    pub(super) fn is_due(&mut self, now: Instant, cells: u64, rtt: Duration, in_use: bool) -> bool {
        let (before, at_before) = self.looked.replace((now, cells)).unwrap_or((now, cells));
        let passed = now.saturating_duration_since(before);
        let rate = (cells - at_before) as f64 / passed.as_secs_f64().max(0.1);
        // Over a longer time a burst after a rest looks like little traffic or a slow circuit.
        let is_look = passed <= LOOK_MOST;
        let is_bulk = is_look && rate >= BULK_CELLS as f64 && rate <= FAST_CELLS as f64;
        if is_bulk {
            self.bulk.get_or_insert(before);
        } else {
            self.bulk = None;
        }
        let long = |since: Instant| now.saturating_duration_since(since) >= BULK_TIME;
        let wanted = match self.mode {
            Multipath::Never => false,
            Multipath::Bulk => rtt >= NEAR && self.bulk.is_some_and(long),
            Multipath::Always => in_use,
        };
        let is_rested = |tried: Instant| now.saturating_duration_since(tried) >= AGAIN;
        let is_due = wanted && self.drawn < MOST_DRAWN && self.tried.is_none_or(is_rested);
        if is_due {
            self.tried = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(500);

    const FAR: Duration = Duration::from_millis(100);

    /// Looks every half second for ten seconds while `rate` cells a second move on a way of `rtt`. Returns when a leg
    /// was due.
    fn looks(mode: Multipath, rate: u64, rtt: Duration) -> Vec<u128> {
        let (start, mut growth) = (Instant::now(), Growth::new(mode));
        let due = (0..20u32).filter(|n| {
            let now = start + LOOK * *n;
            growth.is_due(now, u64::from(*n) * rate / 2, rtt, true)
        });
        due.map(|n| (LOOK * n).as_millis()).collect()
    }

    #[test]
    fn bulk_gets_a_leg_and_trickles_and_what_is_fast_do_not() {
        assert_eq!(looks(Multipath::Bulk, 2_000, FAR), [1_500]);
        assert!(looks(Multipath::Bulk, BULK_CELLS / 2, FAR).is_empty());
        assert!(looks(Multipath::Bulk, FAST_CELLS * 2, FAR).is_empty());
        assert!(looks(Multipath::Bulk, 2_000, NEAR / 2).is_empty());
        assert!(looks(Multipath::Never, 2_000, FAR).is_empty());
        assert_eq!(looks(Multipath::Always, 1, FAR), [0]);
    }

    #[test]
    fn a_burst_after_a_rest_is_no_slow_circuit() {
        let (start, mut growth) = (Instant::now(), Growth::new(Multipath::Bulk));
        assert!(!growth.is_due(start, 0, FAR, false));
        let burst = FAST_CELLS * 4;
        assert!(!growth.is_due(start + LOOK * 10, burst, FAR, true));
        assert!(!growth.is_due(start + LOOK * 11, burst * 2, FAR, true));
        assert!(!growth.is_due(start + LOOK * 12, burst * 3, FAR, true));
    }

    #[test]
    fn a_far_end_that_ends_every_leg_draws_two_middles_in_a_circuit_s_life() {
        let (start, mut growth) = (Instant::now(), Growth::new(Multipath::Always));
        let mut drawn = 0;
        for n in 0..1_000 {
            if growth.is_due(start + AGAIN * n, 0, FAR, true) {
                growth.on_drawn();
                drawn += 1;
            }
        }
        assert_eq!(drawn, 2);
    }

    #[test]
    fn a_leg_that_was_lost_is_tried_again_and_not_at_once() {
        let (start, mut growth) = (Instant::now(), Growth::new(Multipath::Always));
        assert!(growth.is_due(start, 0, FAR, true));
        assert!(!growth.is_due(start + AGAIN / 2, 0, FAR, true));
        assert!(growth.is_due(start + AGAIN, 0, FAR, true));
        assert!(
            !growth.is_due(start + AGAIN * 3, 0, FAR, false),
            "nobody uses it"
        );
    }
}
