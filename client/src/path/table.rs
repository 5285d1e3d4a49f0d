//! The relays of one position and class with running sums of their weights, so that a draw is one binary search.

use rand::{CryptoRng, RngExt};

/// The candidates, by their index into the consensus.
#[derive(Debug, Default)]
pub(super) struct Table {
    candidates: Vec<u32>,
    /// The sum of the weights up to and including the candidate at the same place. The sums are apart from the
    /// candidates, so that a search touches few cache lines.
    sums: Vec<u64>,
}

impl Table {
    /// A table of candidates with their weights: at most 20,000 of them, each weight at most 2^48.
    pub(super) fn new(weighted: impl Iterator<Item = (usize, u64)>) -> Self {
        let mut table = Self::default();
        let mut sum = 0u64;
        for (n, weight) in weighted {
            sum = sum.saturating_add(weight);
            table.candidates.push(u32::try_from(n).unwrap_or(u32::MAX));
            table.sums.push(sum);
        }
        table
    }

    /// Draws one candidate with a chance proportional to its weight; `None` if all weights are zero.
    pub(super) fn draw(&self, rng: &mut impl CryptoRng) -> Option<usize> {
        let total = *self.sums.last().filter(|total| **total > 0)?;
        let point = rng.random_range(0..total);
        let at = self.sums.partition_point(|sum| *sum <= point);
        self.candidates.get(at).map(|n| *n as usize)
    }
}
