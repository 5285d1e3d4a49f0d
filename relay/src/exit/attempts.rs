//! How many look-ups and dials an exit has going at once, and whose turn is next (S23).
//!
//! An attempt costs a socket and up to 15 s, and whoever begins streams pays nothing for it. So attempts are bounded
//! for each circuit, for each party, for strangers together, and in all. Whoever comes over a bound waits. Parties take
//! turns, and of a party circuits take turns: a peer that begins a thousand streams to nowhere holds up its own.
//!
//! One circuit carries the streams of many programs, and of many pages of one browser. So of a circuit destinations take
//! turns, and each leaves room for others: a page that begins a hundred streams to nowhere holds up its own.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use cepa_common::dns::domain_of;
use cepa_common::ids::CircId;
use cepa_common::stream::StreamHost;
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
    /// Must each destination of a circuit leave room for others?
    is_shared: bool,
}

/// Attempts of an exit. A page opens a few dozen connections. A dial has one socket and a look-up two or four, of the
/// thousands that a process may have open. What one circuit may have is a parameter of the network, `circuit_attempts`,
/// and this is its usual value.
pub(super) const OF_EXIT: Bounds = Bounds {
    circuit: 32,
    party: 128,
    strangers: 128,
    all: 512,
    is_shared: true,
};

/// Dials to one address, whatever the port. One that answers does so in a tenth of a second or two; one that is silent
/// takes 5 s, so that a party must not have all.
pub(super) const OF_ADDRESS: Bounds = Bounds {
    circuit: 16,
    party: 16,
    strangers: 16,
    all: 64,
    is_shared: false,
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

/// Where an attempt leads, as far as attempts of a circuit take turns by it. Whoever has a host has all names below its
/// domain, and all addresses of its network.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Aim {
    /// Names that end in these two labels.
    Domain(Box<str>),
    /// The upper 24 bits of an IPv4 address.
    V4(u32),
    /// The upper 48 bits of an IPv6 address.
    V6(u64),
}

impl Aim {
    /// The aim of a look-up of `name`.
    pub(super) fn of_name(name: &str) -> Self {
        Self::Domain(domain_of(name).to_ascii_lowercase().into())
    }

    /// The aim of a dial to `address`.
    pub(super) fn of_address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits() >> 8),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 80) as u64),
        }
    }

    /// The aim of a stream.
    pub(super) fn of(host: &StreamHost) -> Self {
        match host {
            StreamHost::Name(name) => Self::of_name(name),
            StreamHost::Ip(ip) => Self::of_address(*ip),
        }
    }
}

enum Ticket {
    Waits(Option<Waker>),
    Holds,
}

/// Attempts of one circuit that wait: their aims take turns.
#[derive(Default)]
struct OfCircuit {
    aims: HashMap<Aim, VecDeque<u64>>,
    turns: VecDeque<Aim>,
}

impl OfCircuit {
    fn push(&mut self, aim: Aim, ticket: u64) {
        let of_aim = self.aims.entry(aim.clone()).or_default();
        if of_aim.is_empty() {
            self.turns.push_back(aim);
        }
        of_aim.push_back(ticket);
    }

    /// Takes the ticket whose turn it is among those that wait still and whose aim may have one more.
    fn next(
        &mut self,
        waits: impl Fn(u64) -> bool,
        may: impl Fn(&Aim) -> bool,
    ) -> Option<(Aim, u64)> {
        for _ in 0..self.turns.len() {
            let aim = self.turns.pop_front()?;
            let of_aim = self.aims.get_mut(&aim)?;
            // Streams that gave up waiting have left their tickets in the queue.
            while of_aim.front().is_some_and(|ticket| !waits(*ticket)) {
                of_aim.pop_front();
            }
            let ticket = match may(&aim) {
                true => of_aim.pop_front(),
                false => None,
            };
            match of_aim.is_empty() {
                true => drop(self.aims.remove(&aim)),
                false => self.turns.push_back(aim.clone()),
            }
            if let Some(ticket) = ticket {
                return Some((aim, ticket));
            }
        }
        None
    }
}

/// Circuits of one party that have attempts waiting, in the order of their turns.
#[derive(Default)]
struct OfParty {
    circuits: HashMap<Origin, OfCircuit>,
    turns: VecDeque<Origin>,
}

/// Places that a circuit holds.
#[derive(Default)]
struct HeldOfCircuit {
    all: usize,
    aims: HashMap<Aim, usize>,
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
    held_of_circuit: HashMap<Origin, HeldOfCircuit>,
}

impl Bounds {
    /// May a circuit that holds so many places have one more for `aim`? Of the places that are left a destination gets
    /// no more than it leaves: the first of them half of all, the next half of what is left then, and each of the few
    /// after them one at least.
    fn has_room(&self, held: Option<&HeldOfCircuit>, aim: &Aim) -> bool {
        let all = held.map_or(0, |held| held.all);
        let of_aim = held.and_then(|held| held.aims.get(aim)).copied();
        let left = self.circuit.saturating_sub(all);
        left > 0 && (!self.is_shared || of_aim.unwrap_or_default() < left)
    }
}

fn is_stranger(party: Party) -> bool {
    party.relay().is_none()
}

impl State {
    fn add(&mut self, origin: Origin, aim: Aim) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(ticket, Ticket::Waits(None));
        let of_party = self.parties.entry(origin.party).or_default();
        if of_party.circuits.is_empty() {
            self.turns.push_back(origin.party);
        }
        let of_circuit = of_party.circuits.entry(origin).or_default();
        if of_circuit.aims.is_empty() {
            of_party.turns.push_back(origin);
        }
        of_circuit.push(aim, ticket);
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
            let held = self.held_of_circuit.get(&origin);
            if held.map_or(0, |held| held.all) < self.bounds.circuit
                && let Some((aim, ticket)) = waiting.next(
                    |ticket| self.tickets.contains_key(&ticket),
                    |aim| self.bounds.has_room(held, aim),
                )
            {
                granted = true;
                self.held += 1;
                *held_of_party += 1;
                self.held_of_strangers += usize::from(is_stranger(party));
                let held = self.held_of_circuit.entry(origin).or_default();
                held.all += 1;
                *held.aims.entry(aim).or_default() += 1;
                if let Some(Ticket::Waits(Some(waker))) = self.tickets.insert(ticket, Ticket::Holds)
                {
                    waker.wake();
                }
            }
            if waiting.aims.is_empty() {
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

    /// May one more attempt of `origin` begin without a wait? Nobody waits who could have the place: places are given
    /// as soon as they are free.
    fn is_free(&self, origin: Origin, aim: &Aim) -> bool {
        let held_of = |party| self.held_of_party.get(party).copied().unwrap_or_default();
        let strangers_may = self.held_of_strangers < self.bounds.strangers;
        self.held < self.bounds.all
            && held_of(&origin.party) < self.bounds.party
            && (strangers_may || !is_stranger(origin.party))
            && self.bounds.has_room(self.held_of_circuit.get(&origin), aim)
    }

    fn release(&mut self, ticket: u64, origin: Origin, aim: &Aim) {
        if let Some(Ticket::Holds) = self.tickets.remove(&ticket) {
            self.held -= 1;
            self.held_of_strangers -= usize::from(is_stranger(origin.party));
            count_down(&mut self.held_of_party, &origin.party);
            if let Some(held) = self.held_of_circuit.get_mut(&origin) {
                held.all -= 1;
                count_down(&mut held.aims, aim);
                if held.all == 0 {
                    self.held_of_circuit.remove(&origin);
                }
            }
        }
    }
}

fn count_down<K: core::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
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

    /// A place, if one is free at once.
    pub(super) fn at_once(&self, origin: Origin, aim: &Aim) -> Option<Attempt> {
        let mut state = lock(&self.0);
        if !state.is_free(origin, aim) {
            return None;
        }
        let ticket = state.add(origin, aim.clone());
        state.grant();
        let attempt = Attempt {
            attempts: self.clone(),
            ticket,
            origin,
            aim: aim.clone(),
        };
        let is_held = matches!(state.tickets.get(&ticket), Some(Ticket::Holds));
        // Giving the place up takes the lock.
        drop(state);
        is_held.then_some(attempt)
    }

    /// Waits for a turn. The place is held until it is dropped. Whoever stops waiting gives up its turn.
    pub(super) async fn turn(&self, origin: Origin, aim: Aim) -> Attempt {
        let ticket = lock(&self.0).add(origin, aim.clone());
        let attempt = Attempt {
            attempts: self.clone(),
            ticket,
            origin,
            aim,
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
    aim: Aim,
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
        state.release(self.ticket, self.origin, &self.aim);
        state.grant();
    }
}

#[cfg(test)]
#[path = "attempts_tests.rs"]
mod tests;
