//! What all associations of an exit may do together (docs/protocol.md, 5.39). Pure: the time comes in.

use core::time::Duration;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cepa_common::sync::lock;
use tokio::sync::Notify;

use crate::admission::Bucket;
use crate::exit::Origin;

/// New peers that one circuit may write to at once.
const PEERS_BURST: u32 = 256;
/// New peers that one circuit may write to in a second, in the long run: no tool for scans.
const PEERS_PER_SECOND: u32 = 64;
/// New peers that all circuits may write to in a second.
const ALL_PEERS_PER_SECOND: u32 = 1_024;
/// The time in which what goes to an address is counted.
const TARGET_TIME: Duration = Duration::from_secs(300);
/// Datagrams that go in that time to an address that has never answered: no tool for floods.
const SILENT_DATAGRAMS: u32 = 1_000;
/// Bytes of them.
const SILENT_BYTES: usize = 1 << 20;
/// Addresses of which that is known. The oldest is forgotten.
const MOST_TARGETS: usize = 65_536;

/// An association's place among those of the exit.
struct Place {
    origin: Origin,
    /// When the client last sent something; `None` once only the port is held.
    used: Option<Instant>,
    ended: Arc<Notify>,
    asks: Arc<Notify>,
}

/// Since when a place is idle, and its number.
type Idle = (Option<Instant>, u64);

/// What goes to an address.
struct Target {
    began: Instant,
    datagrams: u32,
    bytes: usize,
    answers: bool,
}

struct Circuit {
    places: usize,
    peers: Bucket,
}

struct State {
    most: usize,
    next: u64,
    places: BTreeMap<u64, Place>,
    circuits: HashMap<Origin, Circuit>,
    peers: Bucket,
    targets: HashMap<IpAddr, Target>,
    /// The addresses, the one that has been known for longest first.
    order: VecDeque<IpAddr>,
}

/// The bounds of one exit.
pub(crate) struct Bounds(Mutex<State>);

/// A place for an association, which is free again when this value is dropped.
pub(super) struct Held {
    bounds: Arc<Bounds>,
    number: u64,
    origin: Origin,
    ended: Arc<Notify>,
    asks: Arc<Notify>,
}

impl State {
    fn leave(&mut self, number: u64) {
        if let Some(place) = self.places.remove(&number)
            && let Some(circuit) = self.circuits.get_mut(&place.origin)
        {
            circuit.places -= 1;
        }
    }

    /// Ends the association of the circuit with most whose client has been silent for longest.
    fn make_room(&mut self) {
        // How many places each circuit has, and which of them is the idlest.
        let mut of: BTreeMap<(u64, u32), (usize, Idle)> = BTreeMap::new();
        for (number, place) in &self.places {
            let circuit = (place.origin.link, place.origin.circ.get());
            let this = (place.used, *number);
            let (count, idlest) = of.entry(circuit).or_insert((0, this));
            *count += 1;
            *idlest = this.min(*idlest);
        }
        let most = of.into_values().max_by_key(|(count, _)| *count);
        if let Some((_, (_, number))) = most {
            if let Some(place) = self.places.get(&number) {
                place.ended.notify_one();
            }
            self.leave(number);
        }
    }

    /// Forgets circuits that are as if they were new.
    fn clean(&mut self, now: Instant) {
        self.circuits
            .retain(|_, circuit| circuit.places > 0 || !circuit.peers.is_full(now));
    }

    /// Ends associations as [`Self::make_room`] does, until there are no more than there may be, in one look at all.
    fn shrink(&mut self) {
        let mut of: BTreeMap<(u64, u32), Vec<Idle>> = BTreeMap::new();
        for (number, place) in &self.places {
            let circuit = (place.origin.link, place.origin.circ.get());
            of.entry(circuit).or_default().push((place.used, *number));
        }
        let mut by_count = BinaryHeap::new();
        for mut places in of.into_values() {
            places.sort_unstable_by(|a, b| b.cmp(a));
            by_count.push((places.len(), places));
        }
        while self.places.len() > self.most
            && let Some((_, mut places)) = by_count.pop()
        {
            if let Some((_, number)) = places.pop() {
                if let Some(place) = self.places.get(&number) {
                    place.ended.notify_one();
                }
                self.leave(number);
            }
            by_count.push((places.len(), places));
        }
    }

    fn target(&mut self, address: IpAddr, now: Instant) -> &mut Target {
        while let Some(oldest) = self.order.front() {
            let is_old = self
                .targets
                .get(oldest)
                .is_none_or(|target| now >= target.began + TARGET_TIME);
            if !is_old && self.order.len() < MOST_TARGETS {
                break;
            }
            if let Some(oldest) = self.order.pop_front() {
                self.targets.remove(&oldest);
            }
        }
        let order = &mut self.order;
        self.targets.entry(address).or_insert_with(|| {
            order.push_back(address);
            Target {
                began: now,
                datagrams: 0,
                bytes: 0,
                answers: false,
            }
        })
    }
}

impl Bounds {
    /// How many associations there are.
    pub(crate) fn count(&self) -> usize {
        lock(&self.0).places.len()
    }

    /// Room for `most` associations.
    pub(crate) fn new(most: usize, now: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            most: most.max(1),
            next: 0,
            places: BTreeMap::new(),
            circuits: HashMap::new(),
            peers: Bucket::new(ALL_PEERS_PER_SECOND, ALL_PEERS_PER_SECOND, now),
            targets: HashMap::new(),
            order: VecDeque::new(),
        })))
    }

    /// Room for `most` associations from now on. What is too much ends, as it does for one that comes.
    pub(crate) fn set_most(&self, most: usize) {
        let mut state = lock(&self.0);
        state.most = most.max(1);
        state.shrink();
    }

    /// A place for an association of a circuit. Where there is none, another association loses its own.
    pub(super) fn enter(self: &Arc<Self>, origin: Origin, now: Instant) -> Held {
        let mut state = lock(&self.0);
        if state.places.len() >= state.most {
            state.make_room();
        }
        if state.circuits.len() >= 2 * state.most {
            state.clean(now);
        }
        let number = state.next;
        state.next += 1;
        let (ended, asks) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let place = Place {
            origin,
            used: Some(now),
            ended: ended.clone(),
            asks: asks.clone(),
        };
        state.places.insert(number, place);
        let circuit = state.circuits.entry(origin).or_insert_with(|| Circuit {
            places: 0,
            peers: Bucket::new(PEERS_BURST, PEERS_PER_SECOND, now),
        });
        circuit.places += 1;
        Held {
            bounds: self.clone(),
            number,
            origin,
            ended,
            asks,
        }
    }

    /// The policy is another one: each association asks it again about its peers.
    pub(crate) fn ask_again(&self) {
        let state = lock(&self.0);
        state
            .places
            .values()
            .for_each(|place| place.asks.notify_one());
    }

    /// Notes that an address answers.
    pub(super) fn on_answer(&self, address: IpAddr, now: Instant) {
        lock(&self.0).target(address, now).answers = true;
    }
}

impl Held {
    /// Waits until the association must make room for another one.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Waits until the policy is another one.
    pub(super) async fn asks(&self) {
        self.asks.notified().await;
    }

    /// The client has sent something.
    pub(super) fn on_used(&self, now: Instant) {
        if let Some(place) = lock(&self.bounds.0).places.get_mut(&self.number) {
            place.used = Some(now);
        }
    }

    /// Only the port is held from now on.
    pub(super) fn on_over(&self) {
        if let Some(place) = lock(&self.bounds.0).places.get_mut(&self.number) {
            place.used = None;
        }
    }

    /// May `bytes` bytes go to an address, which is a new peer of the association or not? If so, they are counted.
    pub(super) fn may_send(
        &self,
        address: IpAddr,
        bytes: usize,
        is_new: bool,
        now: Instant,
    ) -> bool {
        let mut state = lock(&self.bounds.0);
        let target = state.target(address, now);
        if !target.answers
            && (target.datagrams >= SILENT_DATAGRAMS || target.bytes + bytes > SILENT_BYTES)
        {
            return false;
        }
        if is_new {
            let Some(circuit) = state.circuits.get_mut(&self.origin) else {
                return false;
            };
            if !circuit.peers.take_if_any(now) || !state.peers.take_if_any(now) {
                return false;
            }
        }
        let target = state.target(address, now);
        target.datagrams = target.datagrams.saturating_add(1);
        target.bytes = target.bytes.saturating_add(bytes);
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.bounds.0).leave(self.number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::ids::{CircId, RelayId};

    use super::*;
    use crate::admission::Party;

    fn origin(circ: u32) -> Origin {
        Origin {
            party: Party::Relay(RelayId([1; 32])),
            link: 1,
            circ: CircId::new(circ).unwrap(),
        }
    }

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0800_0000 + n).into()
    }

    fn is_ended(held: &Held) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let ended = std::pin::pin!(held.ended());
        ended.poll(&mut cx).is_ready()
    }

    #[test]
    fn one_too_many_ends_the_idlest_of_the_circuit_with_most() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let bounds = Bounds::new(4, began);
        let few = bounds.enter(origin(1), began);
        let many: Vec<_> = (0..3).map(|n| bounds.enter(origin(2), at(n))).collect();
        many[0].on_used(at(10));
        let another = bounds.enter(origin(3), at(11));
        assert!(is_ended(&many[1]) && !is_ended(&many[0]) && !is_ended(&many[2]));
        assert!(!is_ended(&few));
        // A port that is only held goes first.
        many[0].on_over();
        let last = bounds.enter(origin(4), at(12));
        assert!(is_ended(&many[0]) && !is_ended(&many[2]));
        drop((few, many, another, last));
        let mut state = lock(&bounds.0);
        assert!(state.places.is_empty());
        state.clean(at(100));
        assert!(state.circuits.is_empty());
    }

    #[test]
    fn fewer_places_end_the_idlest_of_the_circuit_with_most() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let bounds = Bounds::new(4, began);
        let few = bounds.enter(origin(1), began);
        let many: Vec<_> = (0..3).map(|n| bounds.enter(origin(2), at(n))).collect();
        bounds.set_most(2);
        assert!(is_ended(&many[0]) && is_ended(&many[1]) && !is_ended(&many[2]));
        assert!(!is_ended(&few));
        bounds.set_most(3);
        let third = bounds.enter(origin(3), at(9));
        assert!(!is_ended(&few) && !is_ended(&many[2]) && !is_ended(&third));
    }

    #[test]
    fn new_peers_are_paced_for_each_circuit_and_for_all() {
        let began = Instant::now();
        let bounds = Bounds::new(100, began);
        let count = |held: &Held, from: u32, now| {
            let all = from..from + 2_000;
            all.filter(|n| held.may_send(address(*n), 1, true, now))
                .count()
        };
        let one = bounds.enter(origin(1), began);
        assert_eq!(count(&one, 0, began), 256);
        let second = began + Duration::from_secs(1);
        assert_eq!(count(&one, 10_000, second), 64);
        // Another association of the circuit changes nothing, and neither does a new beginning.
        let two = bounds.enter(origin(1), second);
        assert_eq!(count(&two, 20_000, second), 0);
        drop((one, two));
        let again = bounds.enter(origin(1), second);
        assert_eq!(count(&again, 30_000, second), 0);
        // Known peers may be written to.
        assert!(again.may_send(address(1), 1, false, second));
        let third = second + Duration::from_secs(10);
        let all: usize = (10..20)
            .map(|circ| count(&bounds.enter(origin(circ), third), 100_000 * circ, third))
            .sum();
        assert_eq!(all, 1_024);
    }

    #[test]
    fn an_address_that_never_answers_gets_little_whoever_writes() {
        let began = Instant::now();
        let bounds = Bounds::new(100, began);
        let held: Vec<_> = (1..=4)
            .map(|circ| bounds.enter(origin(circ), began))
            .collect();
        let flood = |bytes, to| {
            let mut sent = 0;
            for n in 0..4_000 {
                sent += usize::from(held[n % 4].may_send(address(to), bytes, false, began));
            }
            sent
        };
        assert_eq!(flood(10, 1), 1_000);
        assert_eq!(flood(10_000, 2), (1 << 20) / 10_000);
        bounds.on_answer(address(1), began);
        assert_eq!(flood(10, 1), 4_000);
        assert_eq!(flood(10_000, 2), 0);
        let later = began + TARGET_TIME;
        assert!(held[0].may_send(address(2), 10, false, later));
    }

    #[test]
    fn what_is_known_of_addresses_is_bounded() {
        let began = Instant::now();
        let bounds = Bounds::new(1, began);
        let held = bounds.enter(origin(1), began);
        for n in 0..MOST_TARGETS as u32 + 10 {
            assert!(held.may_send(address(n), 1, false, began));
        }
        let state = lock(&bounds.0);
        assert!(state.targets.len() <= MOST_TARGETS && state.order.len() == state.targets.len());
    }
}
