//! Which relays have failed lately, and for how long that keeps them out of paths.
//!
//! A single failure says little: any of three relays may be to blame, or the network. And mostly it is another relay
//! that says so, the one before, which may lie: a guard that could exclude relays by its own word would steer paths to
//! its friends. So a relay is avoided only once two others have accused it, for a short time at first and for longer
//! after every such failure in a row. A relay that fails most of the circuits through it is avoided for as long as it
//! does. A success ends all that. An avoided relay is not forbidden: a path takes it if no other is left.

use core::time::Duration;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

use cepa_common::ids::RelayId;

/// How long the first failure keeps a relay out of new paths. The time doubles with each failure in a row.
const FIRST_PENALTY: Duration = Duration::from_secs(30);
/// The longest time that a relay is kept out.
const LONGEST_PENALTY: Duration = Duration::from_secs(1_800);
/// A result of this age counts half.
const HALF_LIFE: Duration = Duration::from_secs(1_800);
/// Number of circuits through a relay before its share of failures says anything.
const ENOUGH: f64 = 5.0;
/// A relay is avoided if less than this share of its circuits is built.
const LEAST_SUCCESS: f64 = 0.5;
/// An accusation of this age says nothing any more.
const WORD_TIME: Duration = Duration::from_secs(1_800);
/// Number of different relays that must accuse a relay before it is avoided.
const ENOUGH_WORDS: usize = 2;
/// The most relays remembered. Those that matter least are forgotten first.
const MOST_RELAYS: usize = 2_048;

/// What circuits have shown about relays.
#[derive(Clone, Debug, Default)]
pub struct Health {
    relays: HashMap<RelayId, Record>,
}

/// A relay that a failed circuit points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blame {
    /// The relay that is accused.
    pub relay: RelayId,
    /// The relay on whose word, or by whose silence; `None` if the client itself has seen what the relay did.
    pub by: Option<RelayId>,
}

#[derive(Clone, Debug)]
struct Record {
    built: f64,
    failed: f64,
    failures_in_row: u32,
    avoid_until: Option<Instant>,
    /// The relays that have accused this one since it was last avoided, and when. Fewer than [`ENOUGH_WORDS`].
    words: Vec<(RelayId, Instant)>,
    /// The time that the counts are for.
    at: Instant,
}

impl Record {
    fn new(now: Instant) -> Self {
        Self {
            built: 0.0,
            failed: 0.0,
            failures_in_row: 0,
            avoid_until: None,
            words: Vec::new(),
            at: now,
        }
    }

    fn age(&mut self, now: Instant) {
        let past = now.saturating_duration_since(self.at);
        let left = 0.5f64.powf(past.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.built *= left;
        self.failed *= left;
        self.at = self.at.max(now);
    }

    /// Takes in an accusation by a relay. Returns whether enough others have accused this one.
    fn is_accused_by(&mut self, by: RelayId, now: Instant) -> bool {
        let is_other = |word: &(RelayId, Instant)| {
            word.0 != by && now.saturating_duration_since(word.1) < WORD_TIME
        };
        self.words.retain(is_other);
        self.words.push((by, now));
        self.words.len() >= ENOUGH_WORDS
    }

    fn mostly_fails(&self) -> bool {
        let all = self.built + self.failed;
        all >= ENOUGH && self.built < all * LEAST_SUCCESS
    }
}

impl Health {
    /// A health of which nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a circuit through these relays was built.
    pub fn on_built(&mut self, relays: &[RelayId], now: Instant) {
        for relay in relays {
            let record = self.record(*relay, now);
            record.built += 1.0;
            record.failures_in_row = 0;
            record.words.clear();
            if !record.mostly_fails() {
                record.avoid_until = None;
            }
        }
    }

    /// Notes that a circuit failed and which relay is the one to suspect. One relay's word alone changes nothing.
    pub fn on_failed(&mut self, blame: Blame, now: Instant) {
        let record = self.record(blame.relay, now);
        if let Some(by) = blame.by
            && !record.is_accused_by(by, now)
        {
            return;
        }
        // Each time takes new words.
        record.words.clear();
        record.failed += 1.0;
        let doublings = record.failures_in_row.min(16);
        record.failures_in_row = record.failures_in_row.saturating_add(1);
        let penalty = match record.mostly_fails() {
            true => LONGEST_PENALTY,
            false => FIRST_PENALTY
                .saturating_mul(1 << doublings)
                .min(LONGEST_PENALTY),
        };
        record.avoid_until = now.checked_add(penalty);
    }

    /// Should the relay be left out of new paths while there are others?
    pub fn is_avoided(&self, relay: &RelayId, now: Instant) -> bool {
        self.relays
            .get(relay)
            .and_then(|record| record.avoid_until)
            .is_some_and(|until| now < until)
    }

    /// The relays that should be left out now.
    pub fn avoided(&self, now: Instant) -> HashSet<RelayId> {
        self.relays
            .keys()
            .filter(|relay| self.is_avoided(relay, now))
            .copied()
            .collect()
    }

    /// Forgets all failures, because the network itself was away or is another one now.
    pub fn forgive(&mut self) {
        self.relays.clear();
    }

    fn record(&mut self, relay: RelayId, now: Instant) -> &mut Record {
        if self.relays.len() >= MOST_RELAYS && !self.relays.contains_key(&relay) {
            self.make_room(now);
        }
        let record = self.relays.entry(relay).or_insert_with(|| Record::new(now));
        record.age(now);
        record
    }

    /// Makes room: forgets relays with nothing against them. If all relays have something against them, the network is
    /// at fault and not the relays.
    fn make_room(&mut self, now: Instant) {
        let is_avoided = |record: &Record| record.avoid_until.is_some_and(|until| now < until);
        self.relays
            .retain(|_, record| is_avoided(record) || !record.words.is_empty());
        if self.relays.len() >= MOST_RELAYS {
            self.relays.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: RelayId = RelayId([1; 32]);
    const B: RelayId = RelayId([2; 32]);

    /// The client itself has seen that this relay failed.
    fn seen(relay: RelayId) -> Blame {
        Blame { relay, by: None }
    }

    #[test]
    fn one_relay_s_word_excludes_nobody_however_often_it_is_said() {
        let start = Instant::now();
        let mut health = Health::new();
        let says = |by: u8| Blame {
            relay: A,
            by: Some(RelayId([by; 32])),
        };
        let mut now = start;
        for _ in 0..1_000 {
            health.on_failed(says(7), now);
            now += Duration::from_secs(1);
            assert!(!health.is_avoided(&A, now));
        }
        // A second relay says the same: the accused is avoided for 30 s.
        health.on_failed(says(8), now);
        assert!(health.is_avoided(&A, now));
        // Neither of them alone makes it longer.
        health.on_failed(says(7), now);
        health.on_failed(says(7), now);
        assert!(!health.is_avoided(&A, now + FIRST_PENALTY));
        // An old word counts no more, and a success ends all of them.
        let later = now + WORD_TIME;
        health.on_failed(says(8), later);
        assert!(!health.is_avoided(&A, later));
        health.on_built(&[A], later);
        health.on_failed(says(9), later);
        assert!(!health.is_avoided(&A, later));
    }

    #[test]
    fn failures_in_a_row_keep_a_relay_out_for_longer_and_longer() {
        let start = Instant::now();
        let mut health = Health::new();
        health.on_failed(seen(A), start);
        assert!(health.is_avoided(&A, start) && !health.is_avoided(&B, start));
        assert!(!health.is_avoided(&A, start + FIRST_PENALTY));
        health.on_failed(seen(A), start + FIRST_PENALTY);
        assert!(health.is_avoided(&A, start + FIRST_PENALTY * 2));
        assert!(!health.is_avoided(&A, start + FIRST_PENALTY * 3));
        health.on_built(&[A, B], start + FIRST_PENALTY * 2);
        assert!(!health.is_avoided(&A, start + FIRST_PENALTY * 2));
    }

    #[test]
    fn one_that_fails_most_circuits_is_avoided_though_some_succeed() {
        let now = Instant::now();
        let mut health = Health::new();
        for _ in 0..4 {
            health.on_failed(seen(A), now);
            health.on_failed(seen(A), now);
            health.on_built(&[A], now);
        }
        assert!(health.is_avoided(&A, now + LONGEST_PENALTY / 2));
        // Later successes outweigh old failures.
        let later = now + HALF_LIFE * 6;
        (0..6).for_each(|_| health.on_built(&[A], later));
        assert!(!health.is_avoided(&A, later));
    }

    #[test]
    fn one_that_fails_now_and_then_is_soon_back() {
        let start = Instant::now();
        let mut health = Health::new();
        for n in 0..100u32 {
            let now = start + Duration::from_secs(60) * n;
            match n % 4 {
                0 => health.on_failed(seen(A), now),
                _ => health.on_built(&[A], now),
            }
            assert!(!health.is_avoided(&A, now + FIRST_PENALTY), "{n}");
        }
    }

    #[test]
    fn memory_is_bounded_and_time_may_step() {
        let now = Instant::now() + HALF_LIFE;
        let mut health = Health::new();
        for n in 0..3 * MOST_RELAYS {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            health.on_failed(seen(RelayId(id)), now);
            assert!(health.relays.len() <= MOST_RELAYS);
        }
        health.on_failed(seen(A), now);
        health.on_built(&[A], now - HALF_LIFE);
        health.forgive();
        assert!(!health.is_avoided(&A, now));
    }
}
