//! Which circuits end when more memory is held than may be (protocol.md 7.11).

use core::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use super::Party;

/// Bytes that have not moved for this time are stalled, and a circuit by which none has passed for so long rests.
pub(super) const STALLED: Duration = Duration::from_secs(1);

/// A circuit: the serial number of its link, and its id there.
pub(super) type Place = (u64, cepa_common::ids::CircId);

/// Of what use a circuit is. The least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// The circuit has never passed a cell, or carries no stream, since this moment.
    None(Instant),
    /// No cell has passed since this moment.
    Rests(Instant),
    /// The circuit carries streams that this relay knows of, or passes cells: whoever holds most (bytes) goes first.
    Serves(Reverse<usize>),
}

/// What is known of a circuit that could end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Who caused it.
    pub(super) party: Party,
    pub(super) place: Place,
    /// Since when the circuit's bytes wait without any of them moving.
    pub(super) waits_since: Option<Instant>,
    pub(super) usefulness: Use,
    /// Bytes that the circuit holds in all.
    pub(super) held: usize,
}

impl Candidate {
    fn stalled_since(&self, now: Instant) -> Option<Instant> {
        let waits = |since: &Instant| now.saturating_duration_since(*since) >= STALLED;
        self.waits_since.filter(waits)
    }
}

/// Chooses circuits that hold `needed` bytes together, in the order in which they are to end. Gives their indices in
/// `candidates`, and the bytes that they hold.
///
/// Circuits that have stalled go first, the longest wait first, because somebody has stopped reading. Then the party
/// that holds most loses circuits, one at a time for as long as no other party holds more: a peer with many circuits
/// that each hold little would otherwise never be found. Of one party, circuits of no use go first, then those at rest
/// longest, then whichever holds most. Between equals the older link and the lower id decide, so that a run can be
/// repeated.
///
/// The work grows with the number of candidates, and for each that is chosen with its logarithm.
pub(super) fn choose(candidates: &[Candidate], now: Instant, needed: usize) -> (Vec<usize>, usize) {
    let (mut chosen, mut freed) = (Vec::new(), 0);
    let stalled = candidates.iter().enumerate().filter_map(|(at, one)| {
        let since = one.stalled_since(now)?;
        Some(Reverse((since, one.place, at)))
    });
    let mut stalled: BinaryHeap<_> = stalled.collect();
    while freed < needed
        && let Some(Reverse((_, _, at))) = stalled.pop()
    {
        freed += candidates[at].held;
        chosen.push(at);
    }
    if freed >= needed {
        return (chosen, freed);
    }
    let mut parties = BTreeMap::<Party, (usize, Vec<_>)>::new();
    for (at, one) in candidates.iter().enumerate() {
        if one.stalled_since(now).is_none() {
            let (held, of_party) = parties.entry(one.party).or_default();
            *held += one.held;
            of_party.push(Reverse((one.usefulness, one.place, at)));
        }
    }
    let mut largest: BinaryHeap<_> = parties
        .iter()
        .map(|(party, (held, _))| (*held, Reverse(*party)))
        .collect();
    let mut parties: BTreeMap<_, _> = parties
        .into_iter()
        .map(|(party, (_, circuits))| (party, BinaryHeap::from(circuits)))
        .collect();
    while freed < needed
        && let Some((held, Reverse(party))) = largest.pop()
    {
        let Some(Reverse((_, _, at))) = parties.get_mut(&party).and_then(BinaryHeap::pop) else {
            continue;
        };
        freed += candidates[at].held;
        chosen.push(at);
        largest.push((held - candidates[at].held, Reverse(party)));
    }
    (chosen, freed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::ids::{CircId, RelayId};

    use super::*;

    const RELAY: Party = Party::Relay(RelayId([1; 32]));

    fn candidate(n: u32, usefulness: Use, held: usize) -> Candidate {
        Candidate {
            party: RELAY,
            place: (1, CircId::new(n).unwrap()),
            waits_since: None,
            usefulness,
            held,
        }
    }

    fn order(candidates: &[Candidate], now: Instant, needed: usize) -> Vec<u32> {
        let (chosen, freed) = choose(candidates, now, needed);
        let held = chosen.iter().map(|at| candidates[*at].held);
        assert_eq!(held.sum::<usize>(), freed);
        let circuits = chosen.iter().map(|at| candidates[*at].place.1.get());
        circuits.collect()
    }

    #[test]
    fn of_one_party_the_unused_go_first_then_the_rested_then_the_largest() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let candidates = [
            candidate(1, Use::Serves(Reverse(10)), 10),
            candidate(2, Use::Serves(Reverse(90)), 90),
            candidate(3, Use::Rests(at(7)), 10),
            candidate(4, Use::Rests(at(5)), 10),
            candidate(5, Use::None(at(9)), 10),
            candidate(6, Use::None(at(8)), 10),
        ];
        let now = at(20);
        assert_eq!(order(&candidates, now, usize::MAX), [6, 5, 4, 3, 2, 1]);
        assert_eq!(order(&candidates, now, 25), [6, 5, 4]);
        assert_eq!(order(&candidates, now, 0), [0; 0]);
        // What waits for somebody who has stopped reading goes before all of them.
        let mut stalled = candidates;
        stalled[0].waits_since = Some(at(18));
        stalled[1].waits_since = Some(at(17));
        stalled[2].waits_since = Some(now);
        assert_eq!(order(&stalled, now, usize::MAX), [2, 1, 6, 5, 4, 3]);
    }

    #[test]
    fn if_the_longest_wait_does_not_help_the_largest_holder_ends() {
        let start = Instant::now();
        let now = start + STALLED;
        let mut candidates: Vec<_> = (1..=50)
            .map(|n| candidate(n, Use::Serves(Reverse(10)), 10))
            .collect();
        candidates[6].waits_since = Some(start);
        candidates[30] = candidate(31, Use::Serves(Reverse(5_000)), 5_000);
        assert_eq!(order(&candidates, now, 1_000), [7, 31]);
    }

    #[test]
    fn parties_are_brought_down_to_one_level() {
        let now = Instant::now();
        let of = |party, n| Candidate {
            party,
            ..candidate(n, Use::None(now), 10)
        };
        let (large, small) = (Party::Link(1), Party::Link(2));
        let candidates: Vec<_> = (1..=8)
            .map(|n| of(large, n))
            .chain((9..=12).map(|n| of(small, n)))
            .collect();
        assert_eq!(order(&candidates, now, 40), [1, 2, 3, 4]);
        // From here on both hold as much, and lose in turns.
        let (ended, _) = choose(&candidates, now, 80);
        let of_large = ended.iter().filter(|at| candidates[**at].party == large);
        assert_eq!((of_large.count(), ended.len()), (6, 8));
    }
}
