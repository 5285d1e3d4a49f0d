//! What an exit remembers of names, so that it does not ask the DNS for each stream.

use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cepa_common::budget::{Budget, Charge};
use cepa_common::sync::lock;

/// Bytes that all answers together take. With names of 20 bytes and two addresses these are about 5,000 answers.
const BYTES: usize = 1 << 20;
/// What an answer takes in the tables, in bytes, beside its name and its addresses.
const ANSWER_BYTES: usize = 160;

/// What is known of a name: its addresses, or `None` where it has none.
pub(super) type Answer = Option<Vec<IpAddr>>;

struct Known {
    answer: Answer,
    until: Instant,
}

struct State {
    answers: HashMap<Arc<str>, Known>,
    /// The names in the order in which they came.
    order: VecDeque<Arc<str>>,
    bytes: usize,
    charge: Charge,
}

/// The names that are known, the oldest of which make room for newer ones.
pub(super) struct KnownNames(Mutex<State>);

fn bytes_of(name: &str, answer: &Answer) -> usize {
    let addresses = answer.as_ref().map_or(0, Vec::len);
    ANSWER_BYTES + name.len() + addresses * size_of::<IpAddr>()
}

impl KnownNames {
    /// No names, charged to `budget`.
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self(Mutex::new(State {
            answers: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            charge: Charge::none(budget),
        }))
    }

    /// What is known of `name` at `now`.
    pub(super) fn get(&self, name: &str, now: Instant) -> Option<Answer> {
        let state = lock(&self.0);
        let known = state.answers.get(name).filter(|known| now < known.until);
        known.map(|known| known.answer.clone())
    }

    /// Remembers an answer for `time`.
    pub(super) fn add(&self, name: &str, mut answer: Answer, now: Instant, time: Duration) {
        if let Some(addresses) = &mut answer {
            addresses.shrink_to_fit();
        }
        let mut state = lock(&self.0);
        let name: Arc<str> = name.into();
        state.bytes += bytes_of(&name, &answer);
        let known = Known {
            answer,
            until: now + time,
        };
        match state.answers.insert(name.clone(), known) {
            Some(before) => state.bytes -= bytes_of(&name, &before.answer),
            None => state.order.push_back(name),
        }
        while state.bytes > BYTES
            && let Some(oldest) = state.order.pop_front()
        {
            if let Some(known) = state.answers.remove(&oldest) {
                state.bytes -= bytes_of(&oldest, &known.answer);
            }
        }
        let bytes = state.bytes;
        state.charge.set(bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::world::steady;

    use super::*;

    #[test]
    fn answers_are_bounded_in_bytes_and_charged() {
        let budget = Budget::unlimited();
        let (known, now) = (KnownNames::new(&budget), steady::now());
        let (minute, address) = (Duration::from_secs(60), IpAddr::from([1, 2, 3, 4]));
        for n in 0..20_000 {
            known.add(&format!("{n}.example"), Some(vec![address; 8]), now, minute);
            assert!(budget.used() <= BYTES);
        }
        assert!(budget.used() > BYTES / 2);
        assert_eq!(known.get("1.example", now), None, "the oldest made room");
        let answer = Some(Some(vec![address; 8]));
        assert_eq!(known.get("19999.example", now), answer);
        assert_eq!(
            known.get("19999.example", now + minute),
            None,
            "out of date"
        );
        known.add("19999.example", None, now + minute, minute);
        assert_eq!(known.get("19999.example", now + minute), Some(None));
        drop(known);
        assert_eq!(budget.used(), 0);
    }
}
