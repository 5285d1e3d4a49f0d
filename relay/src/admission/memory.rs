//! Keeps what all queues hold within the relay's memory limit (protocol.md 7.11, S20).
//!
//! When more is queued than may be, the circuit whose bytes have waited longest is destroyed, and the next, until there
//! is room again. Bytes that move are never the oldest: the victims are circuits that somebody has stopped reading.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use cepa_common::budget::Budget;
use cepa_common::cell::codec::DestroyReason;
use cepa_common::ids::CircId;
use cepa_common::net::circuit_io::Streams;
use cepa_common::net::queue::{LinkQueue, TableCommand};
use cepa_common::stream::Acceptor;
use cepa_common::sync::lock;
use tokio::time::sleep;

use crate::events::{RelayEvent, Reporter};

/// From one look for victims to the next: their memory comes back meanwhile.
const SETTLE: Duration = Duration::from_millis(50);

/// A circuit that ends at this relay: its streams' buffers hold bytes.
struct EndingHere {
    link: Weak<LinkQueue>,
    circ: CircId,
    streams: Weak<Streams<Acceptor>>,
}

#[derive(Default)]
struct Holders {
    links: Vec<Weak<LinkQueue>>,
    circuits: Vec<EndingHere>,
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
    since: Instant,
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
        let (link, streams) = (Arc::downgrade(link), Arc::downgrade(streams));
        holders.circuits.push(EndingHere {
            link,
            circ,
            streams,
        });
        holders.clean();
    }

    /// Every circuit with bytes that wait, the longest wait first; of two that have waited as long, the one whose link
    /// is older.
    fn victims(&self) -> Vec<Victim> {
        let holders = self.holders();
        let mut oldest: BTreeMap<(u64, CircId), Victim> = BTreeMap::new();
        let mut add = |link: Arc<LinkQueue>, circ, since| {
            let victim = Victim { link, circ, since };
            let place = oldest.entry((victim.link.serial(), circ));
            place
                .and_modify(|held| held.since = held.since.min(since))
                .or_insert(victim);
        };
        for link in holders.links.iter().filter_map(Weak::upgrade) {
            for (circ, since) in link.waiting() {
                add(link.clone(), circ, since);
            }
        }
        for circuit in &holders.circuits {
            let (link, streams) = (circuit.link.upgrade(), circuit.streams.upgrade());
            if let (Some(link), Some(streams)) = (link, streams)
                && let Some(since) = streams.mux().waiting_since()
            {
                add(link, circuit.circ, since);
            }
        }
        let mut victims: Vec<_> = oldest.into_values().collect();
        // Stable: the order of the map decides between equals.
        victims.sort_by_key(|victim| victim.since);
        victims
    }

    /// Ends circuits, the longest wait first, until there is room again. Gives how many it has ended.
    fn relieve(&self) -> u64 {
        let mut ended = 0;
        for Victim { link, circ, .. } in self.victims() {
            if !self.budget.is_above_low_water() {
                return ended;
            }
            ended += 1;
            // Its link gives the memory back when it carries this out; what
            // waits for the link itself is dropped here and now.
            link.purge(circ);
            TableCommand::Destroy {
                circ,
                reason: DestroyReason::Resource,
            }
            .send(&link);
            self.discard_streams(&link, circ);
        }
        ended
    }

    fn discard_streams(&self, link: &Arc<LinkQueue>, circ: CircId) {
        let holders = self.holders();
        let streams = holders.circuits.iter().find(|circuit| {
            circuit.circ == circ && core::ptr::eq(circuit.link.as_ptr(), Arc::as_ptr(link))
        });
        if let Some(streams) = streams.and_then(|circuit| circuit.streams.upgrade()) {
            streams.discard();
        }
    }
}

impl Holders {
    fn clean(&mut self) {
        if self.links.len() + self.circuits.len() <= self.clean_at {
            return;
        }
        self.links.retain(|link| link.strong_count() > 0);
        self.circuits
            .retain(|circuit| circuit.streams.strong_count() > 0);
        self.clean_at = 2 * (self.links.len() + self.circuits.len()) + 64;
    }
}

/// Watches the memory for as long as the relay runs, and ends circuits when more is held than may be.
pub(crate) async fn keep_within_budget(memory: Arc<Memory>, events: Reporter) {
    loop {
        poll_fn(|cx| memory.budget.poll_exceeded(cx)).await;
        let used = memory.budget.used();
        let ended = memory.relieve();
        events.report(RelayEvent::MemoryExceeded { used, ended });
        // The links need a turn to give the memory back.
        sleep(SETTLE).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::cell::{CELL_LEN, PAYLOAD_LEN};
    use cepa_common::flow::FixedWindow;
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
        link.waiting().iter().map(|(circ, _)| circ.get()).collect()
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
        assert_eq!(memory.relieve(), 2);
        // Twelve cells were queued; the low water is at seven and a half.
        assert_eq!((waits(&links[0]), waits(&links[1])), (vec![3], vec![]));
        assert_eq!(memory.relieve(), 0, "enough is enough");
        assert_eq!(waits(&links[0]), [3]);
    }

    #[tokio::test]
    async fn of_equal_waits_the_older_link_and_the_lower_circuit_go_first() {
        let memory = Memory::new(1 << 20);
        let budget = memory.budget();
        let links = [(); 8].map(|()| Arc::new(LinkQueue::new(100, budget)));
        // All wait since the same moment. Whoever is added first is not what decides.
        let (stalled, mut stream) = begun(budget);
        stream.write_all(b"nobody reads this").await.unwrap();
        for n in [3, 1, 2] {
            for link in links.iter().rev() {
                memory.add_circuit(link, circ(n), &stalled);
            }
        }
        let victims = memory.victims();
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
        memory.relieve();
        assert_eq!(budget.used(), 0);
        assert!(stalled.mux().is_lost());
        assert!(
            stream.write_all(b"more").await.is_err(),
            "the application hears of it"
        );
    }
}
