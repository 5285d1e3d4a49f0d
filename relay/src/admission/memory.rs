//! Keeps what all queues hold within the relay's memory limit (protocol.md 7.11, S20).
//!
//! When more is held than may be, circuits are destroyed until there is room again: first those whose bytes have waited
//! longest, then those of whoever holds most. Bytes that move are never the oldest: the first victims are circuits that
//! somebody has stopped reading.

use core::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use cepa_common::budget::Budget;
use cepa_common::cell::codec::DestroyReason;
use cepa_common::ids::CircId;
use cepa_common::limits::CIRCUIT_BYTES;
use cepa_common::net::circuit_io::Streams;
use cepa_common::net::queue::{LinkQueue, TableCommand, Waiting};
use cepa_common::stream::Acceptor;
use cepa_common::sync::lock;
use cepa_common::world::steady;
use tokio::time::sleep;

use crate::events::{RelayEvent, Reporter};

/// The wait between two looks for victims, in which the memory of the victims comes back.
const SETTLE: Duration = Duration::from_millis(50);

/// Bytes that have not moved for this time are stalled.
const STALLED: Duration = Duration::from_secs(1);

/// A circuit that ends at this relay: its streams' buffers hold bytes.
struct EndingHere {
    link: Weak<LinkQueue>,
    streams: Weak<Streams<Acceptor>>,
}

/// A circuit: the serial number of its link, and its id there.
type Place = (u64, CircId);

#[derive(Default)]
struct Holders {
    links: Vec<Weak<LinkQueue>>,
    circuits: BTreeMap<Place, EndingHere>,
    /// Lists are cleaned when they have doubled since the last time.
    clean_at: usize,
}

/// The memory that queues and buffers may take, and who holds it, so that victims can be chosen.
pub(crate) struct Memory {
    budget: Arc<Budget>,
    holders: Mutex<Holders>,
}

/// A circuit that could be destroyed.
struct Victim {
    link: Arc<LinkQueue>,
    circ: CircId,
    /// Since when the circuit's bytes wait without any of them moving.
    since: Option<Instant>,
    /// Bytes that the circuit holds in all.
    held: usize,
    streams: Option<Arc<Streams<Acceptor>>>,
}

impl Victim {
    fn is_in_use(&self) -> bool {
        let streams = self.streams.as_ref();
        streams.is_none_or(|streams| streams.mux().open_streams() > 0)
    }
}

impl Memory {
    /// A memory of `bytes`, all free.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            budget: Budget::new(bytes),
            holders: Mutex::default(),
        })
    }

    /// What queues and buffers charge the bytes that they hold to.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        lock(&self.holders)
    }

    /// From now on the circuits whose cells wait for this link can be victims.
    pub(crate) fn add_link(&self, link: &Arc<LinkQueue>) {
        let mut holders = self.holders();
        holders.links.push(Arc::downgrade(link));
        holders.clean();
    }

    /// From now on this circuit, which ends here, can be a victim for what its streams hold.
    pub(crate) fn add_circuit(
        &self,
        link: &Arc<LinkQueue>,
        circ: CircId,
        streams: &Arc<Streams<Acceptor>>,
    ) {
        let mut holders = self.holders();
        let place = (link.serial(), circ);
        let (link, streams) = (Arc::downgrade(link), Arc::downgrade(streams));
        holders.circuits.insert(place, EndingHere { link, streams });
        holders.clean();
    }

    /// Every circuit that holds memory, in the order in which they are to end.
    ///
    /// Circuits that have stalled go first, the longest wait first, because somebody has stopped reading. Then come the
    /// others, by the link that holds most in all, as one peer with many circuits that each hold little would otherwise
    /// never be found. Of one link, circuits without streams go first, and then whichever holds most. Between equals
    /// the older link and the lower id decide, so that a run can be repeated.
    fn victims(&self, now: Instant) -> Vec<Victim> {
        let holders = self.holders();
        let mut circuits: BTreeMap<Place, Victim> = BTreeMap::new();
        let mut add = |link: Arc<LinkQueue>, circ, since: Option<Instant>, held, streams| {
            let victim = Victim {
                link,
                circ,
                since,
                held,
                streams,
            };
            match circuits.entry((victim.link.serial(), circ)) {
                Entry::Vacant(place) => {
                    place.insert(victim);
                }
                Entry::Occupied(mut known) => {
                    let known = known.get_mut();
                    known.since = known.since.into_iter().chain(since).min();
                    known.held += held;
                    known.streams = known.streams.take().or(victim.streams);
                }
            }
        };
        for link in holders.links.iter().filter_map(Weak::upgrade) {
            for Waiting { circ, since, held } in link.waiting() {
                add(link.clone(), circ, Some(since), held, None);
            }
        }
        for ((_, circ), circuit) in &holders.circuits {
            if let Some(link) = circuit.link.upgrade()
                && let Some(streams) = circuit.streams.upgrade()
            {
                let (since, held) = {
                    let mux = streams.mux();
                    (mux.waiting_since(), CIRCUIT_BYTES + mux.held_bytes())
                };
                add(link, *circ, since, held, Some(streams));
            }
        }
        drop(holders);
        let mut of_links: HashMap<u64, usize> = HashMap::new();
        for ((link, _), victim) in &circuits {
            *of_links.entry(*link).or_default() += victim.held;
        }
        let has_stalled = |victim: &Victim| {
            let waits = |since| now.saturating_duration_since(since) >= STALLED;
            victim.since.filter(|since| waits(*since))
        };
        let mut victims: Vec<_> = circuits.into_values().collect();
        // The sort is stable: the order of the map decides between equals.
        victims.sort_by_cached_key(|victim| {
            let stalled = has_stalled(victim);
            let of_link = of_links.get(&victim.link.serial()).copied();
            let rest = (
                Reverse(of_link),
                victim.link.serial(),
                victim.is_in_use(),
                Reverse(victim.held),
            );
            (
                stalled.is_none(),
                stalled,
                stalled.is_none().then_some(rest),
            )
        });
        victims
    }

    /// Ends circuits until there is room again, and links if that does not help. Returns how many of both have ended.
    fn relieve(&self, now: Instant) -> u64 {
        let mut ended = 0;
        for victim in self.victims(now) {
            if !self.budget.is_above_low_water() {
                return ended;
            }
            ended += 1;
            let Victim { link, circ, .. } = victim;
            // The link gives the circuit's memory back when it carries this command out. Cells that wait for the link
            // are dropped here and now.
            link.purge(circ);
            TableCommand::Destroy {
                circ,
                reason: DestroyReason::Resource,
            }
            .send(&link);
            if let Some(streams) = victim.streams {
                streams.discard();
            }
        }
        // The memory that is still held belongs to links themselves: answers that their peers do not read.
        let mut links: Vec<_> = self
            .holders()
            .links
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        links.sort_by_cached_key(|link| (Reverse(link.held_bytes()), link.serial()));
        for link in links {
            if !self.budget.is_exceeded() || link.held_bytes() == 0 {
                return ended;
            }
            ended += 1;
            link.end();
        }
        ended
    }
}

impl Holders {
    fn clean(&mut self) {
        if self.links.len() + self.circuits.len() <= self.clean_at {
            return;
        }
        self.links.retain(|link| link.strong_count() > 0);
        self.circuits
            .retain(|_, circuit| circuit.streams.strong_count() > 0);
        self.clean_at = 2 * (self.links.len() + self.circuits.len()) + 64;
    }
}

/// Watches the memory for as long as the relay runs, and ends circuits when more is held than may be.
pub(crate) async fn keep_within_budget(memory: Arc<Memory>, events: Reporter) {
    loop {
        poll_fn(|cx| memory.budget.poll_exceeded(cx)).await;
        let used = memory.budget.used();
        let ended = memory.relieve(steady::now());
        events.report(RelayEvent::MemoryExceeded { used, ended });
        // The links need a turn to give the memory back.
        sleep(SETTLE).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::cell::message::{LegMessage, Packer, SECRET_LEN};
    use cepa_common::cell::{CELL_LEN, PAYLOAD_LEN};
    use cepa_common::flow::FixedWindow;
    use cepa_common::ids::StreamId;
    use cepa_common::limits::STREAM_BYTES;
    use cepa_common::net::circuit_io::StreamIo;
    use cepa_common::stream::{LegId, Mux, MuxConfig, Opener, Request, StreamEnd, StreamTarget};
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn circ(n: u32) -> CircId {
        CircId::new(n).unwrap()
    }

    fn mux<E: StreamEnd>(budget: &Arc<Budget>) -> Mux<E> {
        Mux::new(MuxConfig {
            control: Box::new(FixedWindow(64)),
            mark_interval_cells: 8,
            stream_window_bytes: 1 << 16,
            budget: budget.clone(),
        })
    }

    /// The streams of a circuit, and one of them that its client has begun.
    fn begun(budget: &Arc<Budget>) -> (Arc<Streams<Acceptor>>, StreamIo<Acceptor>) {
        let mut client = mux::<Opener>(&Budget::unlimited());
        client.open(StreamTarget::Directory).unwrap();
        let (mut payload, now) = ([0; PAYLOAD_LEN], Instant::now());
        assert!(client.fill(LegId::FIRST, now, &mut rand::rng(), &mut payload));
        let mut relay = mux::<Acceptor>(budget);
        let asked = relay.on_outward(LegId::FIRST, now, &payload).unwrap().pop();
        let Some(Request::Begin(key, _)) = asked else {
            panic!("a stream is begun");
        };
        let streams = Streams::new(relay);
        let stream = streams.hold(key);
        (streams, stream)
    }

    fn waits(link: &LinkQueue) -> Vec<u32> {
        link.waiting().iter().map(|one| one.circ.get()).collect()
    }

    #[test]
    fn the_longest_wait_ends_first_and_no_more_than_needed() {
        let memory = Memory::new(10 * CELL_LEN);
        let budget = memory.budget();
        let links = [(); 2].map(|()| Arc::new(LinkQueue::new(100, budget)));
        links.iter().for_each(|link| memory.add_link(link));
        for (link, n) in [(0, 1), (1, 2), (0, 3)] {
            links[link].push(circ(n), &[0; 4 * CELL_LEN]).unwrap();
        }
        assert!(budget.is_exceeded());
        let later = steady::now() + STALLED;
        assert_eq!(memory.relieve(later), 2);
        // Twelve cells were queued; the low water is at seven and a half.
        assert_eq!((waits(&links[0]), waits(&links[1])), (vec![3], vec![]));
        assert_eq!(memory.relieve(later), 0, "there is room already");
        assert_eq!(waits(&links[0]), [3]);
    }

    #[tokio::test]
    async fn of_equal_waits_the_older_link_and_the_lower_circuit_go_first() {
        let memory = Memory::new(1 << 20);
        let budget = memory.budget();
        let links = [(); 8].map(|()| Arc::new(LinkQueue::new(100, budget)));
        // All have waited since the same moment. The order in which they were added does not decide.
        let (stalled, mut stream) = begun(budget);
        stream.write_all(b"nobody reads this").await.unwrap();
        for n in [3, 1, 2] {
            for link in links.iter().rev() {
                memory.add_circuit(link, circ(n), &stalled);
            }
        }
        let victims = memory.victims(steady::now());
        let order = victims
            .iter()
            .map(|victim| (victim.link.serial(), victim.circ));
        let circuits = |link: &Arc<LinkQueue>| [1, 2, 3].map(|n| (link.serial(), circ(n)));
        assert!(order.eq(links.iter().flat_map(circuits)));
    }

    #[tokio::test]
    async fn what_streams_hold_counts_and_is_given_back() {
        let memory = Memory::new(64 * 1024);
        let budget = memory.budget();
        let link = Arc::new(LinkQueue::new(100, budget));
        let (stalled, mut stream) = begun(budget);
        memory.add_circuit(&link, circ(1), &stalled);
        stream.write_all(&[1; 100 * 1024]).await.unwrap();
        assert!(budget.is_exceeded());
        memory.relieve(steady::now());
        assert_eq!(
            budget.used(),
            STREAM_BYTES,
            "its application still holds it"
        );
        assert!(stalled.mux().is_lost());
        assert!(
            stream.write_all(b"more").await.is_err(),
            "the application hears of it"
        );
    }

    /// The streams of a circuit that is a leg, with this many payloads that came early and wait.
    fn with_early_payloads(budget: &Arc<Budget>, payloads: u16) -> Arc<Streams<Acceptor>> {
        let (mut relay, now) = (mux::<Acceptor>(budget), Instant::now());
        let say = |relay: &mut Mux<Acceptor>, pack: &dyn Fn(&mut Packer<'_>)| {
            let mut payload = [0; PAYLOAD_LEN];
            let mut packer = Packer::new(&mut payload);
            pack(&mut packer);
            packer.finish();
            relay.on_outward(LegId::FIRST, now, &payload).unwrap();
        };
        let secret = &[1; SECRET_LEN];
        say(&mut relay, &|p| {
            p.leg(&LegMessage::Link { secret, leg: 0 }).unwrap();
        });
        relay.begin_set();
        for n in 1..=payloads {
            say(&mut relay, &|p| {
                p.leg(&LegMessage::Switch(n.into())).unwrap();
                p.begin_dir(StreamId::new(n).unwrap()).unwrap();
            });
        }
        Streams::new(relay)
    }

    #[tokio::test]
    async fn who_holds_early_payloads_for_ever_goes_first() {
        let memory = Memory::new(800 * 1024);
        let budget = memory.budget();
        let link = Arc::new(LinkQueue::new(100, budget));
        let hostile = with_early_payloads(budget, 400);
        memory.add_circuit(&link, circ(1), &hostile);
        let (honest, mut stream) = begun(budget);
        memory.add_circuit(&link, circ(2), &honest);
        let mut others = Vec::new();
        while !budget.is_exceeded() {
            stream.write_all(&[1; 8 * 1024]).await.unwrap();
            others.push(begun(budget));
        }
        memory.relieve(steady::now() + STALLED);
        assert!(hostile.mux().is_lost());
        assert!(!honest.mux().is_lost());
        assert!(!budget.is_above_low_water());
    }

    #[tokio::test]
    async fn the_link_that_holds_most_goes_before_who_moves() {
        let memory = Memory::new(400 * 1024);
        let budget = memory.budget();
        let links = [(); 2].map(|()| Arc::new(LinkQueue::new(100, budget)));
        let (honest, mut stream) = begun(budget);
        memory.add_circuit(&links[0], circ(1), &honest);
        stream.write_all(&[1; 100 * 1024]).await.unwrap();
        let mut hostile = Vec::new();
        for n in 1..=24 {
            let (circuit, mut stream) = begun(budget);
            memory.add_circuit(&links[1], circ(n), &circuit);
            stream.write_all(&[1; 8 * 1024]).await.unwrap();
            hostile.push((circuit, stream));
        }
        assert!(budget.is_exceeded());
        // Nothing has stalled: each circuit of the other link holds a tenth of what the honest circuit holds.
        assert!(memory.relieve(steady::now()) > 8);
        assert!(!honest.mux().is_lost());
        assert!(hostile[0].0.mux().is_lost());
    }

    #[test]
    fn answers_that_nobody_reads_cost_the_link() {
        let memory = Memory::new(1 << 20);
        let budget = memory.budget();
        let links = [(); 2].map(|()| Arc::new(LinkQueue::new(100, budget)));
        links.iter().for_each(|link| memory.add_link(link));
        for n in 1..=600 {
            links[1].push_last(circ(n), &[0; CELL_LEN]);
        }
        links[0].push_last(circ(1), &[0; CELL_LEN]);
        assert!(budget.is_exceeded());
        assert_eq!(memory.relieve(steady::now()), 1);
        assert_eq!(budget.used(), CELL_LEN);
        let goes_on = links
            .each_ref()
            .map(|link| link.take_commands(&mut Vec::new()));
        assert_eq!(goes_on, [true, false]);
    }
}
