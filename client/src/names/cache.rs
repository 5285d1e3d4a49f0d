//! Answers that are remembered, each for one isolation key.
//!
//! There is no answer for two keys: an exit could tell one of them an address that nobody else is told, and know by it
//! who comes to that address. A new identity is a part of each key, so it knows nothing of what was before.

use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use cepa_common::budget::{Budget, Charge};
use cepa_common::dns::{Answer, Question, TTL_SECONDS};

use crate::circuit::isolation::Isolation;

/// Answers that a key has.
const MOST_OF_KEY: usize = 512;
/// Answers of all keys.
const MOST: usize = 4_096;
/// Bytes of all answers.
const MOST_BYTES: usize = 8 << 20;
/// What an answer takes in the tables, in bytes, beside its own.
const ENTRY_BYTES: usize = 1_024;
/// For how long an answer is remembered: the time that all exits tell.
const LIFE: Duration = Duration::from_secs(TTL_SECONDS as u64);

type Key = (Isolation, Question);

/// The answers, the oldest of which make room for newer ones. All live equally long.
pub(super) struct Cache {
    answers: HashMap<Arc<Key>, (Answer, Instant)>,
    /// The keys in the order in which they came.
    order: VecDeque<Arc<Key>>,
    of_key: HashMap<Isolation, usize>,
    bytes: usize,
    charge: Charge,
}

fn bytes_of(answer: &Answer) -> usize {
    ENTRY_BYTES + answer.bytes()
}

impl Cache {
    /// No answers, charged to `budget`.
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            answers: HashMap::new(),
            order: VecDeque::new(),
            of_key: HashMap::new(),
            bytes: 0,
            charge: Charge::none(budget),
        }
    }

    /// What a key knows of a question at `now`.
    pub(super) fn get(
        &self,
        isolation: &Isolation,
        question: &Question,
        now: Instant,
    ) -> Option<Answer> {
        let key = (isolation.clone(), question.clone());
        let (answer, until) = self.answers.get(&key)?;
        (now < *until).then(|| answer.clone())
    }

    /// Remembers an answer for a key.
    pub(super) fn add(
        &mut self,
        isolation: Isolation,
        question: Question,
        answer: Answer,
        now: Instant,
    ) {
        let key = Arc::new((isolation, question));
        self.remove(&key);
        self.bytes += bytes_of(&answer);
        *self.of_key.entry(key.0.clone()).or_default() += 1;
        self.answers.insert(key.clone(), (answer, now + LIFE));
        self.order.push_back(key.clone());
        let is_over = |cache: &Self, key: &Arc<Key>| {
            let held = cache.answers.get(key);
            held.is_none_or(|(_, until)| *until <= now)
        };
        while let Some(oldest) = self.order.front().cloned()
            && (self.order.len() > MOST || self.bytes > MOST_BYTES || is_over(self, &oldest))
        {
            self.remove(&oldest);
        }
        if self
            .of_key
            .get(&key.0)
            .is_some_and(|held| *held > MOST_OF_KEY)
            && let Some(oldest) = self.order.iter().find(|other| other.0 == key.0).cloned()
        {
            self.remove(&oldest);
        }
        self.charge.set(self.bytes);
    }

    fn remove(&mut self, key: &Arc<Key>) {
        let Some((answer, _)) = self.answers.remove(key) else {
            return;
        };
        self.bytes -= bytes_of(&answer);
        self.order.retain(|other| other != key);
        if let Some(held) = self.of_key.get_mut(&key.0) {
            *held -= 1;
            if *held == 0 {
                self.of_key.remove(&key.0);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::dns::{RecordType, ResponseCode};
    use cepa_common::world::steady;

    use super::*;

    fn question(n: usize) -> Question {
        Question::new(&format!("{n}.example"), RecordType::A).unwrap()
    }

    fn answer() -> Answer {
        Answer::of(ResponseCode::NXDomain)
    }

    #[test]
    fn a_key_knows_only_what_it_has_asked_and_not_for_long() {
        let budget = Budget::unlimited();
        let (mut cache, now) = (Cache::new(&budget), steady::now());
        let (one, two) = (Isolation::session(1), Isolation::session(2));
        cache.add(one.clone(), question(1), answer(), now);
        assert_eq!(cache.get(&one, &question(1), now), Some(answer()));
        assert_eq!(cache.get(&two, &question(1), now), None);
        assert_eq!(
            cache.get(&one.clone().of_identity(1), &question(1), now),
            None
        );
        assert_eq!(cache.get(&one, &question(2), now), None);
        let last = now + LIFE - Duration::from_nanos(1);
        assert_eq!(cache.get(&one, &question(1), last), Some(answer()));
        assert_eq!(cache.get(&one, &question(1), now + LIFE), None);
        // What is over makes room, and an answer that comes again is held once.
        cache.add(two.clone(), question(2), answer(), now + LIFE);
        cache.add(two.clone(), question(2), answer(), now + LIFE);
        assert_eq!(
            (cache.answers.len(), cache.order.len(), cache.of_key.len()),
            (1, 1, 1)
        );
        assert_eq!(budget.used(), bytes_of(&answer()));
        drop(cache);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_key_and_all_of_them_are_bounded() {
        let budget = Budget::unlimited();
        let (mut cache, now) = (Cache::new(&budget), steady::now());
        for n in 0..=MOST_OF_KEY {
            cache.add(Isolation::session(0), question(n), answer(), now);
        }
        let key = Isolation::session(0);
        assert_eq!(cache.answers.len(), MOST_OF_KEY);
        assert_eq!(
            cache.get(&key, &question(0), now),
            None,
            "the oldest made room"
        );
        assert_eq!(cache.get(&key, &question(1), now), Some(answer()));
        for n in 0..2 * MOST {
            cache.add(Isolation::session(n as u64 + 1), question(n), answer(), now);
            assert!(cache.answers.len() <= MOST && cache.order.len() == cache.answers.len());
        }
        assert_eq!(cache.get(&key, &question(1), now), None);
        assert_eq!(budget.used(), MOST * bytes_of(&answer()));
    }
}
