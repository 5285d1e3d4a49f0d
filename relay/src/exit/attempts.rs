//! How many look-ups and dials an exit has going at once, and whose turn is next (S23).
//!
//! An attempt costs a socket and up to 15 s, and whoever begins streams pays nothing for it. So attempts are bounded
//! for each circuit, for each party, for strangers together, and in all. Whoever comes over a bound waits. Parties take
//! turns, and of a party circuits take turns: a peer that begins a thousand streams to nowhere holds up its own.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use cepa_common::ids::CircId;
use cepa_common::sync::lock;

use crate::admission::Party;

/// How many attempts there may be at once.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Of one circuit.
    circuit: usize,
    /// Of all circuits of one party.
    party: usize,
    /// Of all parties that are no relays. Clients come to an exit by other relays, so few circuits are of strangers.
    strangers: usize,
    /// In all.
    all: usize,
}

/// Attempts of an exit. A page opens a few dozen connections. A dial has one socket and a look-up two or four, of the
/// thousands that a process may have open. What one circuit may have is a parameter of the network, `circuit_attempts`,
/// and this is its usual value.
pub(super) const OF_EXIT: Bounds = Bounds {
    circuit: 32,
    party: 128,
    strangers: 128,
    all: 512,
};

/// Dials to one address, whatever the port. One that answers does so in a tenth of a second or two; one that is silent
/// takes 5 s, so that a party must not have all.
pub(super) const OF_ADDRESS: Bounds = Bounds {
    circuit: 16,
    party: 16,
    strangers: 16,
    all: 64,
};

/// Where a stream comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    /// Whose link the circuit came by.
    pub(crate) party: Party,
    /// The serial number of that link.
    pub(crate) link: u64,
    /// The circuit on that link.
    pub(crate) circ: CircId,
}

enum Ticket {
    Waits(Option<Waker>),
    Holds,
}

/// Circuits of one party that have attempts waiting, in the order of their turns.
#[derive(Default)]
struct OfParty {
    circuits: HashMap<Origin, VecDeque<u64>>,
    turns: VecDeque<Origin>,
}

struct State {
    bounds: Bounds,
    tickets: HashMap<u64, Ticket>,
    next_ticket: u64,
    parties: HashMap<Party, OfParty>,
    /// Parties with attempts waiting, in the order of their turns.
    turns: VecDeque<Party>,
    held: usize,
    held_of_strangers: usize,
    held_of_party: HashMap<Party, usize>,
    held_of_circuit: HashMap<Origin, usize>,
}

fn is_stranger(party: Party) -> bool {
    party.relay().is_none()
}

impl State {
    fn add(&mut self, origin: Origin) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(ticket, Ticket::Waits(None));
        let of_party = self.parties.entry(origin.party).or_default();
        if of_party.circuits.is_empty() {
            self.turns.push_back(origin.party);
        }
        let of_circuit = of_party.circuits.entry(origin).or_default();
        if of_circuit.is_empty() {
            of_party.turns.push_back(origin);
        }
        of_circuit.push_back(ticket);
        ticket
    }

    /// Gives free places to those whose turn it is.
    fn grant(&mut self) {
        let mut passed = 0;
        while self.held < self.bounds.all
            && passed < self.turns.len()
            && let Some(party) = self.turns.pop_front()
        {
            let granted = self.grant_to_party(party);
            passed = if granted { 0 } else { passed + 1 };
            if self.parties.contains_key(&party) {
                self.turns.push_back(party);
            }
        }
    }

    fn grant_to_party(&mut self, party: Party) -> bool {
        let Some(of_party) = self.parties.get_mut(&party) else {
            return false;
        };
        let held_of_party = self.held_of_party.entry(party).or_default();
        let strangers_may = self.held_of_strangers < self.bounds.strangers;
        let may_more = strangers_may || !is_stranger(party);
        let mut granted = false;
        for _ in 0..of_party.turns.len() {
            if *held_of_party >= self.bounds.party || !may_more || granted {
                break;
            }
            let Some(origin) = of_party.turns.pop_front() else {
                break;
            };
            let Some(waiting) = of_party.circuits.get_mut(&origin) else {
                continue;
            };
            // Streams that gave up waiting have left their tickets in the queue.
            while waiting
                .front()
                .is_some_and(|ticket| !self.tickets.contains_key(ticket))
            {
                waiting.pop_front();
            }
            let held = self.held_of_circuit.get(&origin).copied();
            let held = held.unwrap_or_default();
            if held < self.bounds.circuit
                && let Some(ticket) = waiting.pop_front()
            {
                granted = true;
                self.held += 1;
                *held_of_party += 1;
                self.held_of_strangers += usize::from(is_stranger(party));
                self.held_of_circuit.insert(origin, held + 1);
                if let Some(Ticket::Waits(Some(waker))) = self.tickets.insert(ticket, Ticket::Holds)
                {
                    waker.wake();
                }
            }
            if waiting.is_empty() {
                of_party.circuits.remove(&origin);
            } else {
                of_party.turns.push_back(origin);
            }
        }
        if *held_of_party == 0 {
            self.held_of_party.remove(&party);
        }
        if of_party.circuits.is_empty() {
            self.parties.remove(&party);
        }
        granted
    }

    /// May one more attempt of `origin` begin without a wait? Those of the same party that wait come first.
    fn is_free(&self, origin: Origin) -> bool {
        let held_of = |party| self.held_of_party.get(party).copied().unwrap_or_default();
        let held = self.held_of_circuit.get(&origin).copied();
        let strangers_may = self.held_of_strangers < self.bounds.strangers;
        self.held < self.bounds.all
            && held_of(&origin.party) < self.bounds.party
            && held.unwrap_or_default() < self.bounds.circuit
            && (strangers_may || !is_stranger(origin.party))
            && !self.parties.contains_key(&origin.party)
    }

    fn release(&mut self, ticket: u64, origin: Origin) {
        if let Some(Ticket::Holds) = self.tickets.remove(&ticket) {
            self.held -= 1;
            self.held_of_strangers -= usize::from(is_stranger(origin.party));
            count_down(&mut self.held_of_party, origin.party);
            count_down(&mut self.held_of_circuit, origin);
        }
    }
}

fn count_down<K: core::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// Attempts that are bounded together.
#[derive(Clone)]
pub(super) struct Attempts(Arc<Mutex<State>>);

/// Attempts that last as long as one of them does.
pub(super) struct WeakAttempts(Weak<Mutex<State>>);

impl WeakAttempts {
    /// The attempts, if there is still one.
    pub(super) fn upgrade(&self) -> Option<Attempts> {
        self.0.upgrade().map(Attempts)
    }

    /// Is there none any more?
    pub(super) fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Attempts {
    /// No attempts, within `bounds`.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Mutex::new(State {
            bounds,
            tickets: HashMap::new(),
            next_ticket: 0,
            parties: HashMap::new(),
            turns: VecDeque::new(),
            held: 0,
            held_of_strangers: 0,
            held_of_party: HashMap::new(),
            held_of_circuit: HashMap::new(),
        })))
    }

    /// Lets each circuit have so many at once, from now on. Attempts that hold their places keep them.
    pub(super) fn bound_circuits(&self, most: usize) {
        let mut state = lock(&self.0);
        if most != state.bounds.circuit {
            state.bounds.circuit = most;
            state.grant();
        }
    }

    /// The same attempts, which this value does not keep alive.
    pub(super) fn downgrade(&self) -> WeakAttempts {
        WeakAttempts(Arc::downgrade(&self.0))
    }

    /// A place, if one is free at once and nobody of the same party waits for one.
    pub(super) fn at_once(&self, origin: Origin) -> Option<Attempt> {
        let mut state = lock(&self.0);
        if !state.is_free(origin) {
            return None;
        }
        let ticket = state.add(origin);
        state.grant();
        let attempt = Attempt {
            attempts: self.clone(),
            ticket,
            origin,
        };
        let is_held = matches!(state.tickets.get(&ticket), Some(Ticket::Holds));
        // Giving the place up takes the lock.
        drop(state);
        is_held.then_some(attempt)
    }

    /// Waits for a turn. The place is held until it is dropped. Whoever stops waiting gives up its turn.
    pub(super) async fn turn(&self, origin: Origin) -> Attempt {
        let ticket = lock(&self.0).add(origin);
        let attempt = Attempt {
            attempts: self.clone(),
            ticket,
            origin,
        };
        lock(&self.0).grant();
        poll_fn(|cx| attempt.poll_held(cx)).await;
        attempt
    }
}

/// A place for one attempt, or the wait for it.
pub(super) struct Attempt {
    attempts: Attempts,
    ticket: u64,
    origin: Origin,
}

impl Attempt {
    fn poll_held(&self, cx: &mut Context<'_>) -> Poll<()> {
        match lock(&self.attempts.0).tickets.get_mut(&self.ticket) {
            Some(Ticket::Waits(waker)) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = lock(&self.attempts.0);
        state.release(self.ticket, self.origin);
        state.grant();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::pin::Pin;

    use cepa_common::ids::RelayId;

    use super::*;

    type Wait = Pin<Box<dyn Future<Output = Attempt>>>;

    /// A circuit by the link of a relay.
    fn origin(link: u8, circ: u32) -> Origin {
        Origin {
            party: Party::Relay(RelayId([link; 32])),
            link: link.into(),
            circ: CircId::new(circ).unwrap(),
        }
    }

    fn wait(attempts: &Attempts, origin: Origin) -> Wait {
        let attempts = attempts.clone();
        Box::pin(async move { attempts.turn(origin).await })
    }

    fn poll(wait: &mut Wait) -> Option<Attempt> {
        match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(attempt) => Some(attempt),
            Poll::Pending => None,
        }
    }

    /// Begins `number` attempts. Gives those that hold a place, and those that wait.
    fn begin(attempts: &Attempts, origin: Origin, number: usize) -> (Vec<Attempt>, Vec<Wait>) {
        let (mut held, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..number {
            let mut one = wait(attempts, origin);
            match poll(&mut one) {
                Some(attempt) => held.push(attempt),
                None => waiting.push(one),
            }
        }
        (held, waiting)
    }

    fn is_clean(attempts: &Attempts) -> bool {
        let state = lock(&attempts.0);
        let counts = [state.held, state.held_of_strangers, state.tickets.len()];
        counts == [0; 3] && state.held_of_party.is_empty() && state.held_of_circuit.is_empty()
    }

    #[test]
    fn each_circuit_each_party_and_all_are_bounded() {
        for bounds in [OF_EXIT, OF_ADDRESS] {
            let attempts = Attempts::new(bounds);
            let mut all = Vec::new();
            for link in 0..8 {
                let mut of_party = 0;
                for circ in 1..=12 {
                    let (held, waiting) = begin(&attempts, origin(link, circ), 40);
                    assert!(held.len() <= bounds.circuit);
                    of_party += held.len();
                    all.push((held, waiting));
                }
                assert!(of_party <= bounds.party);
            }
            let held: usize = all.iter().map(|(held, _)| held.len()).sum();
            assert_eq!(held, bounds.all);
            drop(all);
            assert!(is_clean(&attempts));
        }
    }

    #[test]
    fn parties_take_turns_and_who_gives_up_takes_none() {
        let attempts = Attempts::new(OF_EXIT);
        let (mut held, mut floods) = (Vec::new(), Vec::new());
        for link in 0..4 {
            for circ in 1..=8 {
                let (some, wait) = begin(&attempts, origin(link, circ), 64);
                held.extend(some);
                floods.extend(wait);
            }
        }
        assert_eq!(held.len(), OF_EXIT.all);
        let (none, mut quiet) = begin(&attempts, origin(9, 1), 1);
        assert!(none.is_empty());
        // Half of those who wait give up.
        floods.truncate(floods.len() / 2);
        // The quiet circuit waits for one turn of each other link, not for their queues.
        held.drain(..5);
        assert!(poll(&mut quiet[0]).is_some());
    }

    #[test]
    fn links_of_one_address_are_one_party_and_strangers_leave_room() {
        let attempts = Attempts::new(OF_EXIT);
        let stranger = |address: u8, link: u64| Origin {
            party: Party::of(None, [192, 0, 2, address].into(), link),
            link,
            circ: CircId::new(1).unwrap(),
        };
        let mut all = Vec::new();
        // Two strangers with two hundred links each.
        for link in 0..400 {
            all.push(begin(&attempts, stranger((link % 2) as u8, link), 8));
        }
        let held = |all: &[(Vec<Attempt>, Vec<Wait>)]| -> usize {
            all.iter().map(|(held, _)| held.len()).sum()
        };
        assert_eq!(held(&all), OF_EXIT.strangers);
        let (relay, waiting) = begin(&attempts, origin(1, 1), OF_EXIT.circuit);
        assert_eq!((relay.len(), waiting.len()), (OF_EXIT.circuit, 0));
        // A third stranger waits for one turn of each of the others, and not for four hundred links.
        let (none, mut third) = begin(&attempts, stranger(2, 999), 1);
        assert!(none.is_empty());
        let places: Vec<_> = all
            .iter_mut()
            .flat_map(|(held, _)| held.drain(..))
            .collect();
        let mut places = places.into_iter();
        places.by_ref().take(3).for_each(drop);
        assert!(poll(&mut third[0]).is_some());
        drop((places, all, relay, waiting, third));
        assert!(is_clean(&attempts));
    }

    #[test]
    fn the_network_may_let_a_circuit_have_fewer_or_more() {
        let attempts = Attempts::new(OF_EXIT);
        attempts.bound_circuits(4);
        let (mut held, mut waiting) = begin(&attempts, origin(1, 1), 10);
        assert_eq!((held.len(), waiting.len()), (4, 6));
        let (other, _) = begin(&attempts, origin(1, 2), 4);
        assert_eq!(other.len(), 4);
        // Those that wait have their turns as soon as they may.
        attempts.bound_circuits(9);
        held.extend(waiting.iter_mut().filter_map(poll));
        assert_eq!(held.len(), 9);
        // What is under way goes on under a narrower bound, and nothing begins until there is room under it.
        attempts.bound_circuits(5);
        held.drain(..4);
        assert!(poll(&mut waiting[5]).is_none() && attempts.at_once(origin(1, 1)).is_none());
        held.pop();
        assert!(poll(&mut waiting[5]).is_some());
        drop((held, waiting, other));
        assert!(is_clean(&attempts));
    }

    #[test]
    fn a_further_place_is_given_at_once_or_not_and_never_before_those_who_wait() {
        let attempts = Attempts::new(OF_EXIT);
        let (mut held, waiting) = begin(&attempts, origin(1, 1), OF_EXIT.circuit - 1);
        assert!(waiting.is_empty());
        held.extend(attempts.at_once(origin(1, 1)));
        assert_eq!(held.len(), OF_EXIT.circuit);
        assert!(attempts.at_once(origin(1, 1)).is_none(), "of a circuit");
        let (_, waiting) = begin(&attempts, origin(1, 1), 1);
        assert!(attempts.at_once(origin(1, 2)).is_none(), "others wait");
        assert!(
            attempts.at_once(origin(2, 1)).is_some(),
            "not of this party"
        );
        drop((held, waiting));
        // Tickets of those who gave up waiting stay in the queue until a turn comes by.
        assert!(attempts.at_once(origin(1, 2)).is_some());
        assert!(is_clean(&attempts));
    }
}
