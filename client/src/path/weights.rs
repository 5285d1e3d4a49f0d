//! How much of a relay's weight counts at each position of a path (docs/protocol.md, 6.16.3 to 6.16.6).
//!
//! Relays with Guard or Exit are scarce, so they are kept for the ends of paths as far as they are needed there. Tor's
//! directory specification has a table of cases for this. Here one closed form gives the largest traffic that all three
//! positions can carry at once, and the split that reaches it. The split depends on the consensus alone, so that all
//! clients choose alike.

use cepa_common::dir::{Consensus, Entry, Flags};

use super::request::Position;

/// The share one: the relay's whole weight counts, relative to the other relays of the position.
pub const ONE: u64 = 1 << 16;
/// If fewer relays than this have Guard, every relay may be a first hop.
const FEWEST_GUARDS: usize = 3;

/// The classes of relays have these places in the tables: 0 for neither flag, 1 for Guard, 2 for Exit, 3 for both.
const GUARD: usize = 1;
const EXIT: usize = 2;

/// The shares that follow from one consensus, for each position and class of relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionWeights {
    entry: [u64; 4],
    middle: [u64; 4],
    exit: [u64; 4],
    open_entry: bool,
}

/// May the relay be in a path at all?
pub(crate) fn runs(entry: &Entry) -> bool {
    entry.flags.contains(Flags::VALID | Flags::RUNNING)
}

fn class(flags: Flags, open_entry: bool) -> usize {
    let guard = open_entry || flags.contains(Flags::GUARD);
    usize::from(guard) * GUARD + usize::from(flags.contains(Flags::EXIT)) * EXIT
}

impl PositionWeights {
    /// The shares that follow from a consensus.
    pub fn new(consensus: &Consensus) -> Self {
        let running = || consensus.entries().iter().filter(|entry| runs(entry));
        let has_guard = |entry: &&Entry| entry.flags.contains(Flags::GUARD) && entry.weight > 0;
        let open_entry = running().filter(has_guard).count() < FEWEST_GUARDS;
        let mut totals = [0u64; 4];
        for entry in running() {
            totals[class(entry.flags, open_entry)] += u64::from(entry.weight);
        }
        Self::of_totals(totals, open_entry)
    }

    fn of_totals(totals: [u64; 4], open_entry: bool) -> Self {
        // The totals are multiplied by six, so that thirds and halves are whole numbers; they are at most 6 * 20,000 *
        // 2^32 < 2^50.
        let [m, g, e, d] = totals.map(|total| u128::from(total) * 6);
        let third = (m + g + e + d) / 3;
        // `carried` is what each position can carry at once (6.16.4).
        let needs_exit = e + d > 0;
        let mut carried = third.min(g + d);
        if needs_exit {
            carried = carried.min(e + d).min((g + e + d) / 2);
        }
        let lack_entry = carried.saturating_sub(g);
        let lack_exit = if needs_exit {
            carried.saturating_sub(e)
        } else {
            0
        };
        // A third of the relays with both flags goes to each end, unless an end lacks more (6.16.5).
        let both_exit = lack_exit.max((d / 3).min(d.saturating_sub(lack_entry)));
        let both_entry = lack_entry.max((d / 3).min(d.saturating_sub(both_exit)));
        let entry = [0, carried.saturating_sub(both_entry), 0, both_entry];
        let exit = if needs_exit {
            [0, 0, carried.saturating_sub(both_exit), both_exit]
        } else {
            [0; 4]
        };
        let all = [m, g, e, d];
        let middle = std::array::from_fn(|n| all[n].saturating_sub(entry[n] + exit[n]));
        Self {
            entry: shares(entry, all),
            middle: shares(middle, all),
            exit: shares(exit, all),
            open_entry,
        }
    }

    /// The share of its weight that a relay counts with at `position`, in units of [`ONE`]. Only shares of one position
    /// can be compared.
    pub fn share(&self, position: Position, flags: Flags) -> u64 {
        let class = class(flags, self.open_entry);
        match position {
            Position::Entry => self.entry[class],
            Position::Middle => self.middle[class],
            Position::Exit => self.exit[class],
        }
    }

    /// Do the relay's flags allow it to be a first hop (6.16.3)?
    pub fn is_entry(&self, entry: &Entry) -> bool {
        runs(entry) && (self.open_entry || entry.flags.contains(Flags::GUARD))
    }
}

/// Turns parts of the totals into shares, of which the largest is [`ONE`].
fn shares(parts: [u128; 4], totals: [u128; 4]) -> [u64; 4] {
    // A number below 2^50 shifted by 64 is below 2^114, and no ratio exceeds 2^64.
    let ratio = |n: usize| (parts[n] << 64).checked_div(totals[n]).unwrap_or(0);
    let ratios: [u128; 4] = std::array::from_fn(ratio);
    let largest = ratios.iter().copied().max().unwrap_or(0).max(1);
    ratios.map(|ratio| {
        let share = (ratio * u128::from(ONE) + largest / 2) / largest;
        // A class that may serve keeps a chance, however small.
        u64::try_from(share.max(u128::from(ratio > 0))).unwrap_or(ONE)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIDDLE: usize = 0;
    const BOTH: usize = GUARD + EXIT;

    #[test]
    fn nothing_scarce_gives_each_end_a_third_of_both() {
        let weights = PositionWeights::of_totals([300, 400, 400, 300], false);
        // Each end carries a third of 1,400: 100 of the relays with both flags, and 366.7 of the 400 that have only its
        // own flag.
        let near = |share: u64, expected: f64| (share as f64 / ONE as f64 - expected).abs() < 1e-3;
        assert_eq!(weights.entry[GUARD], ONE);
        assert!(near(weights.entry[BOTH], (1. / 3.) / (366.666 / 400.)));
        assert_eq!(weights.entry, [0, ONE, 0, weights.entry[BOTH]]);
        assert_eq!(weights.exit, [0, 0, ONE, weights.entry[BOTH]]);
        assert_eq!(weights.middle[MIDDLE], ONE);
        assert!(near(weights.middle[GUARD], 33.333 / 400.));
    }

    #[test]
    fn scarce_exits_are_exits_only() {
        let weights = PositionWeights::of_totals([100, 500, 50, 50], false);
        assert_eq!(weights.exit, [0, 0, ONE, ONE]);
        assert_eq!(weights.entry, [0, ONE, 0, 0]);
        assert_eq!((weights.middle[EXIT], weights.middle[BOTH]), (0, 0));
    }

    #[test]
    fn a_scarce_guard_does_not_silence_the_exits() {
        let weights = PositionWeights::of_totals([0, 1, u64::from(u32::MAX) * 20_000, 0], false);
        assert_eq!((weights.entry[GUARD], weights.exit[EXIT]), (ONE, ONE));
        assert_eq!(weights.middle[GUARD], 0);
    }

    proptest! {
        #[test]
        fn no_position_can_carry_more(totals in proptest::array::uniform4(0u64..1_000_000)) {
            let [m, g, e, d] = totals.map(|total| total as f64);
            prop_assume!(g + d > 0.0 && e + d > 0.0);
            // The best that any split can reach, by the minimal cuts of the flow.
            let best = ((m + g + e + d) / 3.0).min(g + d).min(e + d).min((g + e + d) / 2.0);
            let weights = PositionWeights::of_totals(totals, false);
            for shares in [weights.entry, weights.exit, weights.middle] {
                let sum: f64 = (0..4).map(|n| totals[n] as f64 * shares[n] as f64 / ONE as f64).sum();
                // All shares of a position are scaled up by one factor, never down.
                prop_assert!(sum * 1.001 + 50.0 >= best, "{sum} {best} {weights:?}");
            }
            // No relay serves where its flags do not allow it.
            prop_assert_eq!((weights.entry[MIDDLE], weights.entry[EXIT]), (0, 0));
            prop_assert_eq!((weights.exit[MIDDLE], weights.exit[GUARD]), (0, 0));
        }
    }
}
