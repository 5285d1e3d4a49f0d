//! Keeps what circuits, streams and queues hold within the relay's memory limit (protocol.md 7.11, S20).
//!
//! Everything is charged to the party that caused it. When more is held in all than may be, circuits are destroyed
//! until there is room again (`victims.rs` says which). A party that is no relay may hold a quarter of the limit: over
//! that, circuits of its own end, whatever others hold.

use core::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use cepa_common::budget::{Budget, Charge};
use cepa_common::cell::codec::DestroyReason;
use cepa_common::ids::CircId;
use cepa_common::limits::{CIRCUIT_BYTES, PASSING_BYTES};
use cepa_common::net::circuit_io::Streams;
use cepa_common::net::passage::Passage;
use cepa_common::net::queue::{LinkQueue, TableCommand, Waiting};
use cepa_common::stream::Acceptor;
use cepa_common::sync::lock;
use cepa_common::world::steady;
use tokio::time::sleep;

use super::Party;
use super::victims::{self, Candidate, Place, STALLED, Use};
use crate::events::{RelayEvent, Reporter};

/// The wait between two looks for victims, in which the memory of the victims comes back.
const SETTLE: Duration = Duration::from_millis(50);

/// Of the limit, a party that is no relay may hold one part in this many. A relay carries the circuits of many clients,
/// and has no bound but the limit.
const PARTY_SHARE: usize = 4;

/// What a circuit is to this relay.
enum Kind {
    /// The circuit ends here: its streams' buffers hold bytes.
    Ends {
        streams: Weak<Streams<Acceptor>>,
        began: Instant,
    },
    /// The circuit passes, and goes on as another circuit of another link.
    Passes {
        passage: Weak<Passage>,
        next: Weak<LinkQueue>,
        next_circ: CircId,
    },
}

struct Circuit {
    link: Weak<LinkQueue>,
    kind: Kind,
}

impl Circuit {
    fn is_over(&self) -> bool {
        match &self.kind {
            Kind::Ends { streams, .. } => streams.strong_count() == 0,
            Kind::Passes { passage, .. } => passage.strong_count() == 0,
        }
    }
}

/// What one party has.
struct Held {
    budget: Arc<Budget>,
    links: Vec<Weak<LinkQueue>>,
    circuits: BTreeMap<Place, Circuit>,
    /// Lists are cleaned when they have doubled since the last time.
    clean_at: usize,
}

impl Held {
    fn clean(&mut self) {
        if self.links.len() + self.circuits.len() <= self.clean_at {
            return;
        }
        self.sweep();
        self.clean_at = 2 * (self.links.len() + self.circuits.len()) + 64;
    }

    fn sweep(&mut self) {
        self.links.retain(|link| link.strong_count() > 0);
        self.circuits.retain(|_, circuit| !circuit.is_over());
    }

    fn is_empty(&self) -> bool {
        self.links.is_empty() && self.circuits.is_empty() && Arc::strong_count(&self.budget) == 1
    }
}

#[derive(Default)]
struct Parties {
    held: BTreeMap<Party, Held>,
    /// Parties that have nothing any more are forgotten when there are as many as this.
    clean_at: usize,
}

/// How many circuits and links a relay has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Circuits that pass or end here.
    pub(crate) circuits: usize,
    /// Links to relays.
    pub(crate) relay_links: usize,
    /// Links of clients, and of whoever is no relay.
    pub(crate) other_links: usize,
    /// Bytes of cells that wait for links.
    pub(crate) queued_bytes: usize,
}

/// The memory that circuits, queues and buffers may take, and who holds it, so that victims can be chosen.
pub(crate) struct Memory {
    budget: Arc<Budget>,
    parties: Mutex<Parties>,
}

/// A circuit that could be destroyed.
struct Victim {
    link: Arc<LinkQueue>,
    circ: CircId,
    /// The circuit as it goes on.
    next: Option<(Arc<LinkQueue>, CircId)>,
    streams: Option<Arc<Streams<Acceptor>>>,
}

impl Victim {
    /// Ends the circuit, both ways. Its links give the circuit's own memory back when they carry the commands out.
    /// Cells that wait for the links are dropped here and now.
    fn end(self) {
        for (link, circ) in [(self.link, self.circ)].into_iter().chain(self.next) {
            link.purge(circ);
            TableCommand::Destroy {
                circ,
                reason: DestroyReason::Resource,
            }
            .send(&link);
        }
        if let Some(streams) = self.streams {
            streams.discard();
        }
    }
}

/// Every circuit that holds memory, with what is known of each.
#[derive(Default)]
struct Found {
    candidates: Vec<Candidate>,
    victims: Vec<Option<Victim>>,
    /// Where a circuit stands in the lists, under each of its ids.
    places: HashMap<Place, usize>,
    /// Streams whose bytes are counted. Two circuits that carry streams together have the same.
    counted: HashSet<*const Streams<Acceptor>>,
}

impl Found {
    fn add(&mut self, candidate: Candidate, victim: Victim) {
        let at = self.candidates.len();
        self.places.insert(candidate.place, at);
        if let Some((next, circ)) = &victim.next {
            self.places.insert((next.serial(), *circ), at);
        }
        self.candidates.push(candidate);
        self.victims.push(Some(victim));
    }

    fn add_circuit(&mut self, now: Instant, party: Party, place: Place, circuit: &Circuit) {
        let Some(link) = circuit.link.upgrade() else {
            return;
        };
        let mut victim = Victim {
            link,
            circ: place.1,
            next: None,
            streams: None,
        };
        let (waits_since, usefulness, held) = match &circuit.kind {
            Kind::Ends { streams, began } => {
                let Some(streams) = streams.upgrade() else {
                    return;
                };
                let is_new = self.counted.insert(Arc::as_ptr(&streams));
                let (since, of_streams, open) = {
                    let mux = streams.mux();
                    (mux.waiting_since(), mux.held_bytes(), mux.in_use())
                };
                victim.streams = Some(streams);
                let held = CIRCUIT_BYTES + if is_new { of_streams } else { 0 };
                let usefulness = match open {
                    0 => Use::None(*began),
                    _ => Use::Serves(Reverse(held)),
                };
                (since, usefulness, held)
            }
            Kind::Passes {
                passage,
                next,
                next_circ,
            } => {
                let Some(passage) = passage.upgrade() else {
                    return;
                };
                victim.next = next.upgrade().map(|next| (next, *next_circ));
                let usefulness = match passage.last_used() {
                    None => Use::None(passage.began()),
                    Some(at) if now.saturating_duration_since(at) >= STALLED => Use::Rests(at),
                    Some(_) => Use::Serves(Reverse(PASSING_BYTES)),
                };
                (None, usefulness, PASSING_BYTES)
            }
        };
        let candidate = Candidate {
            party,
            place,
            waits_since,
            usefulness,
            held,
        };
        self.add(candidate, victim);
    }

    /// Counts cells that wait for a link to the circuit that they are of. Cells of a circuit that passes count for the
    /// party of its client's side, whichever of the two links they wait for.
    fn add_waiting(&mut self, party: Party, link: &Arc<LinkQueue>, waiting: Waiting) {
        let Waiting { circ, since, held } = waiting;
        let place = (link.serial(), circ);
        if let Some(known) = self.places.get(&place) {
            let known = &mut self.candidates[*known];
            known.waits_since = known.waits_since.into_iter().chain([since]).min();
            known.held += held;
            if let Use::Serves(all) = &mut known.usefulness {
                all.0 += held;
            }
            return;
        }
        let candidate = Candidate {
            party,
            place,
            waits_since: Some(since),
            usefulness: Use::Serves(Reverse(held)),
            held,
        };
        let victim = Victim {
            link: link.clone(),
            circ,
            next: None,
            streams: None,
        };
        self.add(candidate, victim);
    }

    fn look_at<'a>(
        now: Instant,
        parties: impl Iterator<Item = (&'a Party, &'a Held)> + Clone,
    ) -> Self {
        let mut found = Self::default();
        for (party, held) in parties.clone() {
            for (place, circuit) in &held.circuits {
                found.add_circuit(now, *party, *place, circuit);
            }
        }
        for (party, held) in parties {
            for link in held.links.iter().filter_map(Weak::upgrade) {
                for waiting in link.waiting() {
                    found.add_waiting(*party, &link, waiting);
                }
            }
        }
        found
    }
}

/// What one party may hold where all together may hold `limit` bytes.
fn share(party: Party, limit: usize) -> usize {
    match party {
        Party::Relay(_) => usize::MAX,
        Party::Site(_) | Party::Link(_) => limit / PARTY_SHARE,
    }
}

/// How many circuits and links have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Relief {
    /// As the relay held more than its limit.
    of_all: u64,
    /// As one party held more than its share.
    of_share: u64,
}

impl Memory {
    /// A memory of `bytes`, all free.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            budget: Budget::new(bytes),
            parties: Mutex::default(),
        })
    }

    /// Sets how many bytes may be held in all. If more are held, circuits end as they do when too much was taken.
    pub(crate) fn set_limit(&self, bytes: usize) {
        // Under the lock, so that no party comes meanwhile with a share of the limit before.
        let parties = self.parties();
        self.budget.set_limit(bytes);
        for (party, held) in &parties.held {
            held.budget.set_limit(share(*party, bytes));
        }
    }

    /// The whole memory, to which is charged what no party has caused.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    fn parties(&self) -> MutexGuard<'_, Parties> {
        lock(&self.parties)
    }

    /// How many circuits and links there are now. The call looks at each of them.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (party, held) in &self.parties().held {
            let mut links = 0;
            for link in held.links.iter().filter_map(Weak::upgrade) {
                links += usize::from(!link.is_closed());
                counts.queued_bytes += link.held_bytes();
            }
            match party.relay() {
                Some(_) => counts.relay_links += links,
                None => counts.other_links += links,
            }
            let circuits = held.circuits.values();
            counts.circuits += circuits.filter(|circuit| !circuit.is_over()).count();
        }
        counts
    }

    /// Looks at what `party` has, after what is long gone was forgotten.
    fn with<T>(&self, party: Party, look: impl FnOnce(&mut Held) -> T) -> T {
        let mut parties = self.parties();
        if parties.held.len() >= parties.clean_at {
            parties.held.values_mut().for_each(Held::sweep);
            parties.held.retain(|_, held| !held.is_empty());
            parties.clean_at = 2 * parties.held.len() + 64;
        }
        let held = parties.held.entry(party).or_insert_with(|| Held {
            budget: Budget::part(&self.budget, share(party, self.budget.limit())),
            links: Vec::new(),
            circuits: BTreeMap::new(),
            clean_at: 0,
        });
        held.clean();
        look(held)
    }

    /// What the party's queues, circuits and buffers charge the bytes that they hold to.
    pub(crate) fn of(&self, party: Party) -> Arc<Budget> {
        self.with(party, |held| held.budget.clone())
    }

    /// From now on the circuits whose cells wait for this link of the party can be victims.
    pub(crate) fn add_link(&self, party: Party, link: &Arc<LinkQueue>) {
        self.with(party, |held| held.links.push(Arc::downgrade(link)));
    }

    /// From now on this circuit, which ends here, can be a victim for what it and its streams hold. The circuit is to
    /// keep the charge for as long as it ends here.
    #[must_use]
    pub(crate) fn add_circuit(
        &self,
        party: Party,
        link: &Arc<LinkQueue>,
        circ: CircId,
        streams: &Arc<Streams<Acceptor>>,
    ) -> Charge {
        let kind = Kind::Ends {
            streams: Arc::downgrade(streams),
            began: steady::now(),
        };
        let budget = self.register(party, link, circ, kind);
        let mut charge = Charge::none(&budget);
        charge.set(CIRCUIT_BYTES);
        charge
    }

    /// From now on this circuit, which passes, is charged to the party and can be a victim. It goes on as the circuit
    /// `next_circ` of the link `next`.
    pub(crate) fn add_passing(
        &self,
        party: Party,
        (link, circ): (&Arc<LinkQueue>, CircId),
        (next, next_circ): (&Arc<LinkQueue>, CircId),
    ) -> Arc<Passage> {
        let passage = Passage::new(&self.of(party), steady::now());
        let kind = Kind::Passes {
            passage: Arc::downgrade(&passage),
            next: Arc::downgrade(next),
            next_circ,
        };
        self.register(party, link, circ, kind);
        passage
    }

    fn register(
        &self,
        party: Party,
        link: &Arc<LinkQueue>,
        circ: CircId,
        kind: Kind,
    ) -> Arc<Budget> {
        let place = (link.serial(), circ);
        let link = Arc::downgrade(link);
        self.with(party, |held| {
            held.circuits.insert(place, Circuit { link, kind });
            held.budget.clone()
        })
    }

    /// Ends circuits until there is room again, of each party that holds more than its share and of all, and links of
    /// parties that are no relays if that does not help.
    fn relieve(&self, now: Instant) -> Relief {
        let mut relief = Relief::default();
        // Nothing is ended under the lock: what ends may have to take it.
        let over: Vec<_> = {
            let parties = self.parties();
            let held = parties.held.iter();
            let over = held.filter(|(_, held)| held.budget.is_exceeded());
            over.map(|(party, held)| (*party, held.budget.clone()))
                .collect()
        };
        for (party, budget) in over {
            relief.of_share += self.relieve_budget(now, &budget, Some(party));
        }
        if self.budget.is_exceeded() {
            relief.of_all = self.relieve_budget(now, &self.budget, None);
        }
        relief
    }

    /// Ends circuits, of one party or of all, until the budget is below its low water.
    fn relieve_budget(&self, now: Instant, budget: &Budget, party: Option<Party>) -> u64 {
        let (needed, over) = (
            budget.above_low_water(),
            budget.used().saturating_sub(budget.limit()),
        );
        let mut found = {
            let parties = self.parties();
            let held = parties.held.iter();
            Found::look_at(
                now,
                held.filter(|(one, _)| party.is_none_or(|party| party == **one)),
            )
        };
        // What the victims hold is counted, as links give much of it back only when their tasks have had a turn.
        let (chosen, mut freed) = victims::choose(&found.candidates, now, needed);
        let mut ended = 0;
        for victim in chosen.iter().filter_map(|at| found.victims[*at].take()) {
            ended += 1;
            victim.end();
        }
        if freed >= over {
            return ended;
        }
        // The memory that is still held belongs to links themselves: answers that their peers do not read. What waits
        // for a relay is bounded by `ANSWERS_PER_LINK`, and its link carries the circuits of many clients.
        let mut links: Vec<_> = {
            let parties = self.parties();
            let held = parties.held.iter().filter(|(one, _)| {
                one.relay().is_none() && party.is_none_or(|party| party == **one)
            });
            let links = held.flat_map(|(_, held)| held.links.iter());
            links.filter_map(Weak::upgrade).collect()
        };
        links.sort_by_cached_key(|link| (Reverse(link.held_bytes()), link.serial()));
        for link in links {
            let held = link.held_bytes();
            if freed >= over || held == 0 {
                break;
            }
            (ended, freed) = (ended + 1, freed + held);
            link.end();
        }
        ended
    }
}

/// Watches the memory for as long as the relay runs, and ends circuits when more is held than may be.
pub(crate) async fn keep_within_budget(memory: Arc<Memory>, events: Reporter) {
    loop {
        poll_fn(|cx| memory.budget.poll_exceeded(cx)).await;
        let used = memory.budget.used();
        let Relief { of_all, of_share } = memory.relieve(steady::now());
        if of_all > 0 || used > memory.budget.limit() {
            events.report(RelayEvent::MemoryExceeded {
                used,
                ended: of_all,
            });
        }
        if of_share > 0 {
            events.report(RelayEvent::ShareExceeded { ended: of_share });
        }
        // The links need a turn to give the memory back.
        sleep(SETTLE).await;
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
