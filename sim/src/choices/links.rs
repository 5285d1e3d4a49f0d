//! The links that relays hold to each other, computed from what clients choose.
//!
//! A link is there while a circuit is on it, and rests for a while after the last. Circuits begin at random times, so a
//! link between two relays is there with the probability that an endless queue with as many servers as it likes is not
//! empty: `1 - exp(-rate * (time held + rest))`. The time that a circuit is held may be distributed in any way.

use super::stage::{HOPS, rest};

/// Number of times of rest over which the probability is averaged.
const RESTS: u32 = 5;

/// What there is of one kind of circuits in a whole network.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Circuits that begin in a second.
    pub rate: f64,
    /// How long each is held (seconds, on average).
    pub held: f64,
}

/// The mean number of links to other relays that relay `who` holds. `shares` has, for each relay, its part of all first,
/// middle and last hops of circuits for data. The last hop of a circuit for the directory is chosen like a middle one.
pub fn to_relays(shares: &[[f64; HOPS]], data: Kind, directory: Kind, who: usize) -> f64 {
    let Some([first, middle, last]) = shares.get(who).copied() else {
        return 0.0;
    };
    let with = |other: &[f64; HOPS]| {
        let [its_first, its_middle, its_last] = *other;
        let first_to_middle = first * its_middle + middle * its_first;
        let of_data = data.rate * (first_to_middle + middle * its_last + last * its_middle);
        let of_directory = directory.rate * (first_to_middle + 2.0 * middle * its_middle);
        let there = (0..RESTS).map(|n| {
            let rest = rest((f64::from(n) + 0.5) / f64::from(RESTS));
            let load = of_data * (data.held + rest) + of_directory * (directory.held + rest);
            1.0 - (-load).exp()
        });
        there.sum::<f64>() / f64::from(RESTS)
    };
    let others = shares.iter().enumerate().filter(|(other, _)| *other != who);
    others.map(|(_, other)| with(other)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Kind = Kind {
        rate: 0.0,
        held: 0.0,
    };

    #[test]
    fn a_busy_network_links_all_and_a_quiet_one_as_many_as_its_circuits() {
        let relays = 50;
        let shares = vec![[1.0 / f64::from(relays); HOPS]; 50];
        let busy = Kind {
            rate: 1e6,
            held: 600.0,
        };
        assert!((to_relays(&shares, busy, NONE, 0) - 49.0).abs() < 1e-6);
        let quiet = Kind {
            rate: 1e-5,
            held: 600.0,
        };
        // Each circuit has two links between relays, with two ends each.
        let rest = (0..5)
            .map(|n| rest((f64::from(n) + 0.5) / 5.0))
            .sum::<f64>()
            / 5.0;
        let ends = 4.0 * quiet.rate * (600.0 + rest) / f64::from(relays);
        let held = to_relays(&shares, quiet, NONE, 0);
        // A fiftieth of them would be of a relay with itself.
        assert!((held / ends - 0.98).abs() < 0.01, "{held} {ends}");
        assert_eq!(to_relays(&shares, NONE, NONE, 0), 0.0);
    }
}
