//! What an exit remembers: answers of name servers, so that it does not ask the DNS for each stream, and which
//! addresses were silent, so that no stream waits for these again.

use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cepa_common::budget::{Budget, Charge};
use cepa_common::sync::lock;

use super::race::{Family, Fate};

/// Bytes that all answers together take. With names of 20 bytes and one address for each family these are about 2,500
/// names.
const BYTES: usize = 1 << 20;
/// What an answer takes in the tables, in bytes, beside its name and its addresses.
const ANSWER_BYTES: usize = 160;

/// What is known of a name's addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The addresses; none if the name has none.
    Addresses(Vec<IpAddr>),
    /// No server has answered, though it was waited for.
    Silence,
}

type Key = (Arc<str>, Family);

struct Known {
    answer: Answer,
    until: Instant,
}

struct State {
    answers: HashMap<Key, Known>,
    /// The names in the order in which they came.
    order: VecDeque<Key>,
    bytes: usize,
    charge: Charge,
}

/// The names that are known, the oldest of which make room for newer ones.
pub(super) struct KnownNames(Mutex<State>);

fn bytes_of(name: &str, answer: &Answer) -> usize {
    let addresses = match answer {
        Answer::Addresses(addresses) => addresses.len(),
        Answer::Silence => 0,
    };
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
    pub(super) fn get(&self, name: &str, family: Family, now: Instant) -> Option<Answer> {
        let state = lock(&self.0);
        let known = state
            .answers
            .get(&(name.into(), family))
            .filter(|known| now < known.until);
        known.map(|known| known.answer.clone())
    }

    /// Remembers an answer for `time`.
    pub(super) fn add(
        &self,
        name: &str,
        family: Family,
        mut answer: Answer,
        now: Instant,
        time: Duration,
    ) {
        if let Answer::Addresses(addresses) = &mut answer {
            addresses.shrink_to_fit();
        }
        let mut state = lock(&self.0);
        let name: Key = (name.into(), family);
        state.bytes += bytes_of(&name.0, &answer);
        let known = Known {
            answer,
            until: now + time,
        };
        match state.answers.insert(name.clone(), known) {
            Some(before) => state.bytes -= bytes_of(&name.0, &before.answer),
            None => state.order.push_back(name),
        }
        while state.bytes > BYTES
            && let Some(oldest) = state.order.pop_front()
        {
            if let Some(known) = state.answers.remove(&oldest) {
                state.bytes -= bytes_of(&oldest.0, &known.answer);
            }
        }
        let bytes = state.bytes;
        state.charge.set(bytes);
    }
}

/// Addresses whose fate is remembered.
const MOST_FATES: usize = 2_048;
/// For how long the fate of an address is remembered. Networks are mended, and an order that is no longer right costs
/// little.
const FATE_TIME: Duration = Duration::from_secs(10 * 60);
/// When this many dials in a row to addresses of a family were beaten by later ones to the other family, that one goes
/// first.
const LOST_RACES: u32 = 3;

struct FateState {
    fates: HashMap<IpAddr, (Fate, Instant)>,
    /// The addresses in the order in which they came.
    order: VecDeque<IpAddr>,
    /// How many dials in a row to each family were silent while the other family answered, and the last time.
    lost: [(u32, Option<Instant>); 2],
    #[expect(dead_code, reason = "it is held, not read")]
    charge: Charge,
}

/// Which addresses have answered of late, and which have been silent. This decides about an order and about nothing
/// else: whoever makes an exit believe what is not so makes a stream wait for 250 ms at most.
pub(super) struct KnownFates(Mutex<FateState>);

impl KnownFates {
    /// Nothing is known. The table is charged to `budget` at its greatest size.
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        let mut charge = Charge::none(budget);
        charge.set(MOST_FATES * 2 * size_of::<(IpAddr, (Fate, Instant))>());
        Self(Mutex::new(FateState {
            fates: HashMap::new(),
            order: VecDeque::new(),
            lost: [(0, None); 2],
            charge,
        }))
    }

    /// What is known of an address at `now`.
    pub(super) fn of(&self, address: IpAddr, now: Instant) -> Fate {
        match lock(&self.0).fates.get(&address) {
            Some((fate, until)) if now < *until => *fate,
            _ => Fate::Unknown,
        }
    }

    /// Notes what has become of a dial.
    pub(super) fn note(&self, address: IpAddr, fate: Fate, now: Instant) {
        let mut state = lock(&self.0);
        if state
            .fates
            .insert(address, (fate, now + FATE_TIME))
            .is_none()
        {
            state.order.push_back(address);
        }
        if state.order.len() > MOST_FATES
            && let Some(oldest) = state.order.pop_front()
        {
            state.fates.remove(&oldest);
        }
        if fate == Fate::Answered {
            state.lost[Family::of(address).index()] = (0, None);
        }
    }

    /// Notes that addresses of a family were silent while one of the other family, dialled later, answered.
    pub(super) fn on_beaten(&self, family: Family, now: Instant) {
        let (times, last) = &mut lock(&self.0).lost[family.index()];
        *times = times.saturating_add(1);
        *last = Some(now);
    }

    /// The family to be dialled first: IPv6 (RFC 6724), unless this machine's way there leads nowhere.
    pub(super) fn first_family(&self, now: Instant) -> Family {
        match lock(&self.0).lost[Family::V6.index()] {
            (LOST_RACES.., Some(last)) if now < last + FATE_TIME => Family::V4,
            _ => Family::V6,
        }
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
            let name = format!("{n}.example");
            known.add(
                &name,
                Family::V4,
                Answer::Addresses(vec![address; 8]),
                now,
                minute,
            );
            assert!(budget.used() <= BYTES);
        }
        assert!(budget.used() > BYTES / 2);
        assert_eq!(
            known.get("1.example", Family::V4, now),
            None,
            "the oldest made room"
        );
        let (name, later) = ("19999.example", now + minute);
        let answer = Some(Answer::Addresses(vec![address; 8]));
        assert_eq!(known.get(name, Family::V4, now), answer);
        assert_eq!(known.get(name, Family::V6, now), None);
        assert_eq!(known.get(name, Family::V4, later), None, "out of date");
        known.add(name, Family::V4, Answer::Silence, later, minute);
        let silence = known.get(name, Family::V4, later);
        assert_eq!(silence, Some(Answer::Silence));
        drop(known);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn fates_of_addresses_are_bounded_and_end() {
        let budget = Budget::unlimited();
        let (known, now) = (KnownFates::new(&budget), steady::now());
        let charged = budget.used();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..20_000 {
            known.note(address(n), Fate::Silent, now);
        }
        assert_eq!(lock(&known.0).fates.len(), MOST_FATES);
        assert_eq!(budget.used(), charged);
        assert_eq!(known.of(address(19_999), now), Fate::Silent);
        assert_eq!(known.of(address(1), now), Fate::Unknown);
        assert_eq!(known.of(address(19_999), now + FATE_TIME), Fate::Unknown);
    }

    #[test]
    fn a_family_that_leads_nowhere_goes_second_for_a_while() {
        let (known, now) = (KnownFates::new(&Budget::unlimited()), steady::now());
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        for _ in 1..LOST_RACES {
            known.on_beaten(Family::V6, now);
            assert_eq!(known.first_family(now), Family::V6);
        }
        known.on_beaten(Family::V6, now);
        assert_eq!(known.first_family(now), Family::V4);
        assert_eq!(known.first_family(now + FATE_TIME), Family::V6);
        known.note(v6, Fate::Answered, now);
        assert_eq!(known.first_family(now), Family::V6);
    }
}
