//! How many look-ups and dials an exit has going at once, and whose turn is next (S23).
//!
//! An attempt costs a socket and up to 15 s, and whoever begins streams pays nothing for it. So attempts are bounded
//! for each circuit, for each link, and in all. Whoever comes over a bound waits. Links take turns, and on a link
//! circuits take turns: a peer that begins a thousand streams to nowhere holds up only its own streams.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use cepa_common::ids::CircId;
use cepa_common::sync::lock;

/// Attempts of one circuit at once. A page opens a few dozen connections.
const OF_CIRCUIT: usize = 32;
/// Attempts of all circuits of one link at once.
const OF_LINK: usize = 128;
/// Attempts in all. A dial uses one socket and a look-up two or four; a process may have some thousands open.
const IN_ALL: usize = 512;

/// Who makes an attempt: the link that the stream came by, by its serial number, and the circuit on it.
pub(crate) type Party = (u64, CircId);

enum Ticket {
    Waits(Option<Waker>),
    Holds,
}

/// Circuits of one link that have attempts waiting, in the order of their turns.
#[derive(Default)]
struct OfLink {
    circuits: HashMap<CircId, VecDeque<u64>>,
    turns: VecDeque<CircId>,
}

#[derive(Default)]
struct State {
    tickets: HashMap<u64, Ticket>,
    next_ticket: u64,
    links: HashMap<u64, OfLink>,
    /// Links with attempts waiting, in the order of their turns.
    turns: VecDeque<u64>,
    held: usize,
    held_of_link: HashMap<u64, usize>,
    held_of_circuit: HashMap<Party, usize>,
}

impl State {
    fn add(&mut self, (link, circ): Party) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(ticket, Ticket::Waits(None));
        let of_link = self.links.entry(link).or_default();
        if of_link.circuits.is_empty() {
            self.turns.push_back(link);
        }
        let of_circuit = of_link.circuits.entry(circ).or_default();
        if of_circuit.is_empty() {
            of_link.turns.push_back(circ);
        }
        of_circuit.push_back(ticket);
        ticket
    }

    /// Gives free places to those whose turn it is.
    fn grant(&mut self) {
        let mut passed = 0;
        while self.held < IN_ALL
            && passed < self.turns.len()
            && let Some(link) = self.turns.pop_front()
        {
            let granted = self.grant_to_link(link);
            passed = if granted { 0 } else { passed + 1 };
            if self.links.contains_key(&link) {
                self.turns.push_back(link);
            }
        }
    }

    fn grant_to_link(&mut self, link: u64) -> bool {
        let Some(of_link) = self.links.get_mut(&link) else {
            return false;
        };
        let held_of_link = self.held_of_link.entry(link).or_default();
        let mut granted = false;
        for _ in 0..of_link.turns.len() {
            if *held_of_link >= OF_LINK || granted {
                break;
            }
            let Some(circ) = of_link.turns.pop_front() else {
                break;
            };
            let Some(waiting) = of_link.circuits.get_mut(&circ) else {
                continue;
            };
            // Streams that gave up waiting have left their tickets in the queue.
            while waiting
                .front()
                .is_some_and(|ticket| !self.tickets.contains_key(ticket))
            {
                waiting.pop_front();
            }
            let held = self
                .held_of_circuit
                .get(&(link, circ))
                .copied()
                .unwrap_or_default();
            if held < OF_CIRCUIT
                && let Some(ticket) = waiting.pop_front()
            {
                granted = true;
                self.held += 1;
                *held_of_link += 1;
                self.held_of_circuit.insert((link, circ), held + 1);
                if let Some(Ticket::Waits(Some(waker))) = self.tickets.insert(ticket, Ticket::Holds)
                {
                    waker.wake();
                }
            }
            if waiting.is_empty() {
                of_link.circuits.remove(&circ);
            } else {
                of_link.turns.push_back(circ);
            }
        }
        if *held_of_link == 0 {
            self.held_of_link.remove(&link);
        }
        if of_link.circuits.is_empty() {
            self.links.remove(&link);
        }
        granted
    }

    fn release(&mut self, ticket: u64, party: Party) {
        if let Some(Ticket::Holds) = self.tickets.remove(&ticket) {
            self.held -= 1;
            count_down(&mut self.held_of_link, party.0);
            count_down(&mut self.held_of_circuit, party);
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

/// The attempts of one exit.
#[derive(Clone, Default)]
pub(crate) struct Attempts(Arc<Mutex<State>>);

impl Attempts {
    /// Waits for a turn. The place is held until the returned [`Attempt`] is dropped. Dropping the future gives the
    /// turn up.
    pub(crate) async fn turn(&self, party: Party) -> Attempt {
        let ticket = lock(&self.0).add(party);
        let attempt = Attempt {
            attempts: self.clone(),
            ticket,
            party,
        };
        lock(&self.0).grant();
        poll_fn(|cx| attempt.poll_held(cx)).await;
        attempt
    }
}

/// A place for one attempt, or the wait for it.
pub(crate) struct Attempt {
    attempts: Attempts,
    ticket: u64,
    party: Party,
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
        state.release(self.ticket, self.party);
        state.grant();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::pin::Pin;

    use super::*;

    type Wait = Pin<Box<dyn Future<Output = Attempt>>>;

    fn party(link: u64, circ: u32) -> Party {
        (link, CircId::new(circ).unwrap())
    }

    fn wait(attempts: &Attempts, party: Party) -> Wait {
        let attempts = attempts.clone();
        Box::pin(async move { attempts.turn(party).await })
    }

    fn poll(wait: &mut Wait) -> Option<Attempt> {
        match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(attempt) => Some(attempt),
            Poll::Pending => None,
        }
    }

    /// Begins `number` attempts. Gives those that hold a place, and those that wait.
    fn begin(attempts: &Attempts, party: Party, number: usize) -> (Vec<Attempt>, Vec<Wait>) {
        let (mut held, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..number {
            let mut one = wait(attempts, party);
            match poll(&mut one) {
                Some(attempt) => held.push(attempt),
                None => waiting.push(one),
            }
        }
        (held, waiting)
    }

    #[test]
    fn each_circuit_each_link_and_all_are_bounded() {
        let attempts = Attempts::default();
        let mut all = Vec::new();
        for link in 0..8 {
            let mut of_link = 0;
            for circ in 1..=12 {
                let (held, waiting) = begin(&attempts, party(link, circ), 40);
                assert!(held.len() <= OF_CIRCUIT);
                of_link += held.len();
                all.push((held, waiting));
            }
            assert!(of_link <= OF_LINK);
        }
        let held: usize = all.iter().map(|(held, _)| held.len()).sum();
        assert_eq!(held, IN_ALL);
        drop(all);
        let state = lock(&attempts.0);
        assert_eq!((state.held, state.tickets.len()), (0, 0));
        assert!(state.held_of_link.is_empty() && state.held_of_circuit.is_empty());
    }

    #[test]
    fn links_take_turns_and_who_gives_up_takes_none() {
        let attempts = Attempts::default();
        let (mut held, mut floods) = (Vec::new(), Vec::new());
        for link in 0..4 {
            for circ in 1..=8 {
                let (some, wait) = begin(&attempts, party(link, circ), 64);
                held.extend(some);
                floods.extend(wait);
            }
        }
        assert_eq!(held.len(), IN_ALL);
        let (none, mut quiet) = begin(&attempts, party(9, 1), 1);
        assert!(none.is_empty());
        // Half of those who wait give up.
        floods.truncate(floods.len() / 2);
        // The quiet circuit waits for one turn of each other link, not for their queues.
        held.drain(..5);
        assert!(poll(&mut quiet[0]).is_some());
    }
}
