//! Path bias: does a guard let only some circuits be built (docs/protocol.md, 6.21.13)?
//!
//! A hostile guard gains most if it fails every circuit that does not go on to its friends. Most circuits through it
//! then fail, so this file counts them. The thresholds are the defaults of Tor's path specification ("Detecting route
//! manipulation by Guard nodes", pb_mincircs and the parameters beside it). Unlike in Tor's defaults, a guard beyond
//! the last threshold is dropped, but at most two guards are: if three look the same, the fault is not theirs.
//!
//! This file is pure: results of circuits go in, and what they say about the guard comes out.

use std::collections::BTreeMap;

use cepa_common::ids::RelayId;
use serde::{Deserialize, Serialize};

/// Number of circuits before the share of those that were built says anything (pb_mincircs).
const ENOUGH: u32 = 150;
/// Below this share of built circuits (percent), the log says so (pb_noticepct).
const NOTICE_PERCENT: u32 = 70;
/// Below this share of built circuits (percent), the owner is warned (pb_warnpct).
const WARN_PERCENT: u32 = 50;
/// Below this share of built circuits (percent), the guard is dropped (pb_extremepct, with pb_dropguards).
const EXTREME_PERCENT: u32 = 30;
/// Beyond this many circuits both counts are halved, so that the past fades (pb_scalecircs, pb_scalefactor).
const SCALE_AT: u32 = 300;
/// The most guards dropped at a time. If more of them look hostile, the network is in trouble.
const MOST_DROPPED: usize = 2;
/// The most guards remembered. A sample never holds more.
const MOST_GUARDS: usize = 200;
/// Length of the longest state on disk, in bytes.
pub(super) const MAX_STATE_BYTES: usize = 16 * 1024;
const VERSION: u8 = 1;

/// What the share of built circuits says about a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspicion {
    /// Nothing: most circuits are built, or too few were tried.
    None,
    /// Fewer than 70 % of the circuits are built.
    Notice,
    /// Fewer than half of the circuits are built.
    Warn,
    /// Fewer than 30 % of the circuits are built: the guard is dropped.
    Extreme,
}

/// Counts of circuits through one guard. Only circuits that the guard itself answered count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CircuitCounts {
    /// Number of circuits that the guard had answered.
    pub begun: u32,
    /// Number of those circuits that were built.
    pub built: u32,
}

impl CircuitCounts {
    fn suspicion(self) -> Suspicion {
        let below = |percent: u32| self.built * 100 < self.begun * percent;
        match () {
            () if self.begun < ENOUGH => Suspicion::None,
            () if below(EXTREME_PERCENT) => Suspicion::Extreme,
            () if below(WARN_PERCENT) => Suspicion::Warn,
            () if below(NOTICE_PERCENT) => Suspicion::Notice,
            () => Suspicion::None,
        }
    }
}

/// What circuits have shown about each guard.
///
/// ```
/// use cepa_client::guard::{BiasLedger, Suspicion};
///
/// let (mut ledger, guard) = (BiasLedger::default(), cepa_client::RelayId([7; 32]));
/// let raised: Vec<_> = (0..150).filter_map(|n| ledger.on_circuit(&guard, n % 5 == 0)).collect();
/// assert_eq!(raised, [Suspicion::Extreme]);
/// assert!(ledger.is_dropped(&guard));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BiasLedger {
    guards: BTreeMap<RelayId, CircuitCounts>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u8,
    guards: Vec<(RelayId, u32, u32)>,
}

impl BiasLedger {
    /// Counts the end of a circuit that this guard had answered: was it built? Returns the suspicion of the
    /// guard if that is worse than before.
    pub fn on_circuit(&mut self, guard: &RelayId, is_built: bool) -> Option<Suspicion> {
        if self.guards.len() >= MOST_GUARDS && !self.guards.contains_key(guard) {
            return None;
        }
        let counts = self.guards.entry(*guard).or_default();
        let before = counts.suspicion();
        counts.begun += 1;
        counts.built += u32::from(is_built);
        let after = counts.suspicion();
        if counts.begun > SCALE_AT {
            // The counts are rounded in the guard's favour: halving them again and again must not make the guard look
            // worse.
            counts.begun = counts.begun.div_euclid(2);
            counts.built = counts.built.div_ceil(2).min(counts.begun);
        }
        (after > before).then_some(after)
    }

    /// The suspicion of this guard now.
    pub fn suspicion(&self, guard: &RelayId) -> Suspicion {
        self.guards
            .get(guard)
            .map_or(Suspicion::None, |counts| counts.suspicion())
    }

    /// Must this guard not be used while there are others?
    pub fn is_dropped(&self, guard: &RelayId) -> bool {
        let extreme = |counts: &&CircuitCounts| counts.suspicion() == Suspicion::Extreme;
        self.suspicion(guard) == Suspicion::Extreme
            && self.guards.values().filter(extreme).count() <= MOST_DROPPED
    }

    /// The circuits counted for this guard.
    pub fn counts(&self, guard: &RelayId) -> CircuitCounts {
        self.guards.get(guard).copied().unwrap_or_default()
    }

    /// Forgets the guards for which `stays` is false: those that have left the sample.
    pub fn keep(&mut self, mut stays: impl FnMut(&RelayId) -> bool) {
        self.guards.retain(|guard, _| stays(guard));
    }

    /// Writes the state that is kept on disk.
    pub fn to_state(&self) -> Vec<u8> {
        let guards = self.guards.iter();
        let stored = Stored {
            version: VERSION,
            guards: guards
                .map(|(id, counts)| (*id, counts.begun, counts.built))
                .collect(),
        };
        // Encoding numbers cannot fail.
        postcard::to_allocvec(&stored).unwrap_or_default()
    }

    /// Reads the ledger from a state on disk; `None` if the state is damaged.
    pub fn from_state(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_STATE_BYTES {
            return None;
        }
        let (stored, rest): (Stored, _) = postcard::take_from_bytes(bytes).ok()?;
        let is_whole = rest.is_empty() && stored.version == VERSION;
        if !is_whole || stored.guards.len() > MOST_GUARDS {
            return None;
        }
        let mut guards = BTreeMap::new();
        for (guard, begun, built) in stored.guards {
            let counts = CircuitCounts { begun, built };
            if begun > SCALE_AT || built > begun || guards.insert(guard, counts).is_some() {
                return None;
            }
        }
        Some(Self { guards })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const fn guard(n: u8) -> RelayId {
        RelayId([n; 32])
    }

    /// Counts `begun` circuits, of which `percent` of a hundred are built. Returns which suspicions were raised,
    /// and at which circuit.
    fn run(ledger: &mut BiasLedger, n: u8, begun: u32, percent: u32) -> Vec<(u32, Suspicion)> {
        let raised = (1..=begun).filter_map(|count| {
            // Those built are spread evenly, so that no first part of the run is worse than the whole by more than one
            // circuit.
            let is_built = (count * percent) / 100 > ((count - 1) * percent) / 100;
            Some((count, ledger.on_circuit(&guard(n), is_built)?))
        });
        raised.collect()
    }

    #[test]
    fn a_guard_that_lets_only_its_friends_through_is_found_by_150_circuits_and_dropped() {
        // The guard's friends are a tenth of the network.
        let mut ledger = BiasLedger::default();
        let raised = run(&mut ledger, 1, 150, 10);
        assert_eq!(raised, [(150, Suspicion::Extreme)]);
        assert!(ledger.is_dropped(&guard(1)) && !ledger.is_dropped(&guard(2)));
        let (begun, built) = (150, 15);
        assert_eq!(ledger.counts(&guard(1)), CircuitCounts { begun, built });
    }

    #[test]
    fn the_thresholds_are_where_they_should_be() {
        for (percent, worst) in [
            (100, Suspicion::None),
            (90, Suspicion::None),
            (70, Suspicion::None),
            (69, Suspicion::Notice),
            (50, Suspicion::Notice),
            (49, Suspicion::Warn),
            (30, Suspicion::Warn),
            (29, Suspicion::Extreme),
            (0, Suspicion::Extreme),
        ] {
            let mut ledger = BiasLedger::default();
            let early = run(&mut ledger, 1, ENOUGH - 1, percent);
            assert!(early.is_empty(), "too early: {early:?}");
            assert_eq!(ledger.suspicion(&guard(1)), Suspicion::None);
            // Every percentage of 200 circuits is a whole number.
            let mut ledger = BiasLedger::default();
            run(&mut ledger, 1, 200, percent);
            assert_eq!(ledger.suspicion(&guard(1)), worst, "{percent} %");
        }
    }

    #[test]
    fn an_honest_guard_that_loses_a_tenth_is_never_suspected() {
        let mut ledger = BiasLedger::default();
        assert_eq!(run(&mut ledger, 1, 100_000, 90), []);
        assert!(!ledger.is_dropped(&guard(1)));
        let CircuitCounts { begun, built } = ledger.counts(&guard(1));
        assert!(begun <= SCALE_AT && built * 100 >= begun * 88);
    }

    #[test]
    fn the_past_fades_and_one_that_does_well_again_is_taken_back() {
        let mut ledger = BiasLedger::default();
        run(&mut ledger, 1, 300, 0);
        assert!(ledger.is_dropped(&guard(1)));
        // The guard is still used, because there is no other.
        run(&mut ledger, 1, 600, 100);
        assert_eq!(ledger.suspicion(&guard(1)), Suspicion::None);
        // The suspicion is reported again when the guard gets worse again.
        assert!(!run(&mut ledger, 1, 300, 0).is_empty());
    }

    #[test]
    fn three_that_look_the_same_say_that_the_network_is_in_trouble() {
        let mut ledger = BiasLedger::default();
        run(&mut ledger, 1, 200, 0);
        run(&mut ledger, 2, 200, 0);
        assert!(ledger.is_dropped(&guard(1)) && ledger.is_dropped(&guard(2)));
        run(&mut ledger, 3, 200, 0);
        assert!((1..=3).all(|n| !ledger.is_dropped(&guard(n))));
        ledger.keep(|relay| *relay != guard(3));
        assert!(ledger.is_dropped(&guard(1)));
    }

    #[test]
    fn what_is_kept_is_what_is_read_and_damage_is_refused() {
        let mut ledger = BiasLedger::default();
        (0..=255).for_each(|n| _ = run(&mut ledger, n, 5, 60));
        assert_eq!(ledger.guards.len(), MOST_GUARDS);
        let bytes = ledger.to_state();
        assert!(bytes.len() <= MAX_STATE_BYTES);
        assert_eq!(BiasLedger::from_state(&bytes), Some(ledger));
        for cut in 0..bytes.len() {
            assert_eq!(BiasLedger::from_state(&bytes[..cut]), None, "{cut}");
        }
        let mut newer = bytes.clone();
        newer[0] = VERSION + 1;
        assert_eq!(BiasLedger::from_state(&newer), None);
        let impossible = Stored {
            version: VERSION,
            guards: vec![(guard(1), 3, 4)],
        };
        let impossible = postcard::to_allocvec(&impossible).unwrap();
        assert_eq!(BiasLedger::from_state(&impossible), None);
    }
}
