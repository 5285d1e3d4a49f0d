//! A consensus that lost much of its weight at once: authorities may have lost what they knew, and all should hear it.

use super::verified::Consensus;
use crate::dir::relay::Flags;
use crate::dir::signed::UnixSecs;

/// The alarm of 6.10.4: the relays that run in a consensus weigh less than two thirds of those of the one before. The
/// consensus is used all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightLoss {
    /// Valid-after of the consensus that lost the weight.
    pub valid_after: UnixSecs,
    /// Weight of all relays that ran in the consensus before (KiB a second).
    pub before_kib: u64,
    /// Weight of those that run now (KiB a second).
    pub after_kib: u64,
    /// Number of relays that ran before.
    pub relays_before: usize,
    /// Number of those that run now.
    pub relays_after: usize,
}

/// A loss is no news any more once the lower weight has lasted for so long (seconds).
const LASTS_SECS: u64 = 86_400;

impl WeightLoss {
    /// The loss of `after` against `before`; `None` if it is a third at most, or if `before` was not valid any more
    /// when `after` began: what is lost over a longer time is not lost at once.
    pub fn between(before: &Consensus, after: &Consensus) -> Option<Self> {
        let (held, new) = (before.lifetime(), after.lifetime());
        if new.valid_after <= held.valid_after || new.valid_after >= held.valid_until {
            return None;
        }
        let ((before_kib, relays_before), (after_kib, relays_after)) =
            (weight(before), weight(after));
        is_lost(before_kib, after_kib).then_some(Self {
            valid_after: new.valid_after,
            before_kib,
            after_kib,
            relays_before,
            relays_after,
        })
    }

    /// Is the loss of the past for whoever holds `newest`? It is when the weight is back, or has been lower for a day.
    pub fn is_over(&self, newest: &Consensus) -> bool {
        let lasted = newest
            .lifetime()
            .valid_after
            .saturating_sub(self.valid_after);
        lasted >= LASTS_SECS || !is_lost(self.before_kib, weight(newest).0)
    }
}

/// Is more than a third of it gone?
fn is_lost(before: u64, after: u64) -> bool {
    before.saturating_sub(after).saturating_mul(3) > before
}

/// Weight and number of the relays that run.
fn weight(consensus: &Consensus) -> (u64, usize) {
    let running = consensus.entries().iter();
    let running = running.filter(|entry| entry.flags.contains(Flags::RUNNING));
    running.fold((0, 0), |(weight, relays), entry| {
        (weight + u64::from(entry.weight), relays + 1)
    })
}

impl core::fmt::Display for WeightLoss {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let lost = self.before_kib.saturating_sub(self.after_kib);
        let percent = lost.saturating_mul(100) / self.before_kib.max(1);
        write!(
            f,
            "the newest consensus has lost {percent} % of the network's weight at once: the relays that run were \
             {} and are {}. Authorities may have lost what they knew, or many relays fail together",
            self.relays_before, self.relays_after
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testkit::{consensus_of, network, web_entry};
    use std::sync::Arc;

    fn of(valid_after: u64, weights: &[(u8, Flags, u32)]) -> Arc<Consensus> {
        let entries = weights
            .iter()
            .map(|(n, flags, weight)| web_entry(*n, *flags, *weight));
        consensus_of(&network(3), valid_after, entries.collect())
    }

    #[test]
    fn more_than_a_third_of_the_running_weight_at_once_is_an_alarm() {
        let run = Flags::VALID | Flags::RUNNING;
        let before = of(1_000, &[(1, run, 100), (2, run, 100), (3, run, 100)]);
        let loss = |after: &Consensus| WeightLoss::between(&before, after);
        // Exactly a third is none; a relay that stopped running counts as one that is gone.
        assert_eq!(loss(&of(1_010, &[(1, run, 100), (2, run, 100)])), None);
        let stopped = of(
            1_010,
            &[(1, run, 100), (2, run, 99), (3, Flags::VALID, 100)],
        );
        let lost = loss(&stopped).unwrap();
        assert_eq!((lost.before_kib, lost.after_kib), (300, 199));
        assert_eq!((lost.relays_before, lost.relays_after), (3, 2));
        assert!(lost.to_string().contains("33 %"), "{lost}");
        // The same, one before it, and one that comes when the first is over.
        assert_eq!(loss(&before), None);
        assert_eq!(loss(&of(990, &[(1, run, 1)])), None);
        assert_eq!(loss(&of(1_060, &[(1, run, 1)])), None);
        assert!(loss(&of(1_059, &[(1, run, 1)])).is_some());
        // More weight is none, and an empty network loses nothing.
        assert_eq!(loss(&of(1_010, &[(1, run, 1_000)])), None);
        let empty = of(1_000, &[(1, Flags::VALID, 9)]);
        assert_eq!(WeightLoss::between(&empty, &stopped), None);
        // The loss is over with the weight's return, and after a day.
        assert!(!lost.is_over(&of(1_020, &[(1, run, 199)])));
        assert!(lost.is_over(&of(1_020, &[(1, run, 200)])));
        assert!(lost.is_over(&of(1_010 + LASTS_SECS, &[(1, run, 1)])));
    }
}
