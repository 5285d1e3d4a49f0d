//! Connections to a port that asks for a password, until they have shown one.
//!
//! Such a connection may be anybody's, and has half a minute for its request. So there are few of them at once, of one
//! address and in all, and the places of a port are for those whom it knows.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use cepa_common::sync::lock;

use super::connector::Party;
use super::places::Seat;

/// Connections of one party. A browser opens as many to a proxy at once.
const OF_PARTY: usize = 32;
/// Connections of all parties.
const MOST: usize = 256;
/// The part of a port's places that they have at most.
const PART: usize = 4;

/// The connections of a port that have shown no password yet.
pub(super) struct Threshold {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, (Party, Arc<Seat>)>,
    of: HashMap<Party, usize>,
}

impl State {
    fn remove(&mut self, number: u64) -> Option<Arc<Seat>> {
        let (party, seat) = self.waiting.remove(&number)?;
        if let Some(held) = self.of.get_mut(&party) {
            *held -= 1;
            if *held == 0 {
                self.of.remove(&party);
            }
        }
        Some(seat)
    }

    /// The connection of `party` that has been here longest.
    fn oldest(&self, party: Party) -> Option<u64> {
        let mut all = self.waiting.iter();
        all.find(|(_, (of, _))| *of == party).map(|(n, _)| *n)
    }

    /// Whoever has to go: of the party with too many, or of the one with most.
    fn surplus(&self, newest: Party, most: usize) -> Option<u64> {
        let held = self.of.get(&newest).copied().unwrap_or_default();
        if held > OF_PARTY {
            return self.oldest(newest);
        }
        if self.waiting.len() <= most {
            return None;
        }
        let most = self.of.values().copied().max()?;
        let mut all = self.waiting.iter();
        let of_most = all.find(|(_, (party, _))| self.of.get(party) == Some(&most));
        of_most.map(|(number, _)| *number)
    }
}

/// A connection that has shown no password. Dropping this value says that it has, or that it has ended.
pub(super) struct Unproven {
    threshold: Arc<Threshold>,
    number: u64,
}

impl Drop for Unproven {
    fn drop(&mut self) {
        lock(&self.threshold.state).remove(self.number);
    }
}

impl Threshold {
    /// The threshold of a port with so many places.
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            most: (places / PART).clamp(1, MOST),
            state: Mutex::default(),
        })
    }

    /// A connection of `party` has come. Where there are too many, one that has been here for long goes.
    pub(super) fn enter(self: &Arc<Self>, party: Party, seat: Arc<Seat>) -> Unproven {
        let mut state = lock(&self.state);
        let number = state.next;
        state.next += 1;
        state.waiting.insert(number, (party, seat));
        *state.of.entry(party).or_default() += 1;
        let surplus = state.surplus(party, self.most);
        if let Some(seat) = surplus.and_then(|number| state.remove(number)) {
            seat.goes();
        }
        Unproven {
            threshold: self.clone(),
            number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_and_all_together_have_few_and_who_comes_late_gets_in() {
        let threshold = Threshold::new(4 * MOST);
        let count = || lock(&threshold.state).waiting.len();
        let flood = Party::Uid(0);
        let many = (0..3 * MOST).map(|_| threshold.enter(flood, Seat::new()));
        let many: Vec<_> = many.collect();
        assert_eq!(count(), OF_PARTY);
        let honest = threshold.enter(Party::Uid(1), Seat::new());
        // Others come from as many addresses as there are places, and each has one.
        let others = (2..2 + MOST as u32).map(|n| threshold.enter(Party::Uid(n), Seat::new()));
        let others: Vec<_> = others.take(MOST - OF_PARTY - 1).collect();
        assert_eq!(count(), MOST);
        let late = threshold.enter(Party::Uid(9_999), Seat::new());
        assert_eq!(count(), MOST);
        let state = lock(&threshold.state);
        assert_eq!(
            state.of.get(&flood),
            Some(&(OF_PARTY - 1)),
            "the flood made room"
        );
        assert!(state.waiting.contains_key(&honest.number));
        assert!(state.waiting.contains_key(&late.number));
        drop(state);
        drop((many, others, honest, late));
        let state = lock(&threshold.state);
        assert!(state.waiting.is_empty() && state.of.is_empty());
        assert_eq!(Threshold::new(100).most, 25);
        assert_eq!(Threshold::new(1).most, 1);
    }
}
