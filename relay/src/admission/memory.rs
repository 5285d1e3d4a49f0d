//! Keeps what all queues hold within the relay's memory limit (protocol.md 7.11, S20).
//!
//! When more is queued than may be, the circuit whose bytes have waited
//! longest is destroyed, and the next, until there is room again. Bytes that
//! move are never the oldest: the victims are circuits that somebody has
//! stopped reading.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use cepa_common::budget::Budget;
use cepa_common::cell::codec::DestroyReason;
use cepa_common::ids::CircId;
use cepa_common::net::circuit_io::Streams;
use cepa_common::net::queue::{LinkQueue, TableCommand};
use cepa_common::sync::lock;
use cepa_common::world::steady;

use tokio::time::sleep;

use crate::link::WeakCore;

/// From one look for victims to the next: their memory comes back meanwhile.
const SETTLE: Duration = Duration::from_millis(50);
/// The log has one line of it in this time (S34).
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A circuit that ends here: its streams' buffers hold bytes.
struct EndingHere {
    link: Weak<LinkQueue>,
    circ: CircId,
    streams: Weak<Streams>,
}

#[derive(Default)]
struct Holders {
    links: Vec<Weak<LinkQueue>>,
    circuits: Vec<EndingHere>,
    /// Lists are cleaned when they have doubled since the last time.
    clean_at: usize,
}

/// Who may hold queued bytes.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Holders>);

/// A circuit that could be destroyed.
struct Victim {
    link: Arc<LinkQueue>,
    circ: CircId,
    since: Instant,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Holders> {
        lock(&self.0)
    }

    pub(crate) fn add_link(&self, link: &Arc<LinkQueue>) {
        let mut holders = self.lock();
        holders.links.push(Arc::downgrade(link));
        holders.clean();
    }

    pub(crate) fn add_circuit(&self, link: &Arc<LinkQueue>, circ: CircId, streams: &Arc<Streams>) {
        let mut holders = self.lock();
        let (link, streams) = (Arc::downgrade(link), Arc::downgrade(streams));
        holders.circuits.push(EndingHere {
            link,
            circ,
            streams,
        });
        holders.clean();
    }

    /// Every circuit with bytes that wait, the longest wait first.
    fn victims(&self) -> Vec<Victim> {
        let holders = self.lock();
        let mut oldest: HashMap<(usize, CircId), Victim> = HashMap::new();
        let mut add = |link: Arc<LinkQueue>, circ, since| {
            let victim = Victim { link, circ, since };
            let place = oldest.entry((Arc::as_ptr(&victim.link).addr(), circ));
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
        victims.sort_by_key(|victim| victim.since);
        victims
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

/// Watches the budget for as long as the relay runs.
pub(crate) async fn keep_within_budget(core: WeakCore, budget: Arc<Budget>) {
    let mut logged = None;
    loop {
        poll_fn(|cx| budget.poll_exceeded(cx)).await;
        let Some(core) = core.upgrade() else { return };
        if logged.is_none_or(|at: Instant| at.elapsed() > LOG_EVERY) {
            logged = Some(steady::now());
            tracing::warn!(
                used = budget.used(),
                "more is queued than the memory limit allows; circuits that nobody reads are ended"
            );
        }
        core.memory.relieve(&budget);
        drop(core);
        // The links need a turn to give the memory back.
        sleep(SETTLE).await;
    }
}

impl Memory {
    /// Ends circuits, the longest wait first, until there is room again.
    fn relieve(&self, budget: &Budget) {
        for Victim { link, circ, .. } in self.victims() {
            if !budget.is_above_low_water() {
                return;
            }
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
    }

    fn discard_streams(&self, link: &Arc<LinkQueue>, circ: CircId) {
        let holders = self.lock();
        let streams = holders.circuits.iter().find(|circuit| {
            circuit.circ == circ && core::ptr::eq(circuit.link.as_ptr(), Arc::as_ptr(link))
        });
        if let Some(streams) = streams.and_then(|circuit| circuit.streams.upgrade()) {
            streams.discard();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::cell::CELL_LEN;
    use cepa_common::flow::FixedWindow;
    use cepa_common::stream::{Mux, MuxConfig, Side, Target};
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn circ(n: u32) -> CircId {
        CircId::new(n).unwrap()
    }

    fn streams(budget: &Arc<Budget>) -> Arc<Streams> {
        Streams::new(Mux::new(MuxConfig {
            side: Side::Client,
            control: Box::new(FixedWindow(64)),
            mark_interval_cells: 8,
            stream_window_bytes: 1 << 16,
            budget: budget.clone(),
        }))
    }

    fn waits(link: &LinkQueue) -> Vec<u32> {
        link.waiting().iter().map(|(circ, _)| circ.get()).collect()
    }

    #[test]
    fn the_longest_wait_ends_first_and_no_more_than_needed() {
        let budget = Budget::new(10 * CELL_LEN);
        let memory = Memory::default();
        let links = [(); 2].map(|()| Arc::new(LinkQueue::new(100, &budget)));
        links.iter().for_each(|link| memory.add_link(link));
        for (link, n) in [(0, 1), (1, 2), (0, 3)] {
            links[link].push(circ(n), &[0; 4 * CELL_LEN]).unwrap();
        }
        assert!(budget.is_exceeded());
        memory.relieve(&budget);
        // Twelve cells were queued; the low water is at seven and a half.
        assert_eq!((waits(&links[0]), waits(&links[1])), (vec![3], vec![]));
        memory.relieve(&budget);
        assert_eq!(waits(&links[0]), [3], "enough is enough");
    }

    #[tokio::test]
    async fn what_streams_hold_counts_and_is_given_back() {
        let budget = Budget::new(64 * 1024);
        let memory = Memory::default();
        let link = Arc::new(LinkQueue::new(100, &budget));
        let stalled = streams(&budget);
        memory.add_circuit(&link, circ(1), &stalled);
        let mut stream = stalled.open(Target::Directory).unwrap();
        stream.write_all(&[1; 100 * 1024]).await.unwrap();
        assert!(budget.is_exceeded());
        memory.relieve(&budget);
        assert_eq!(budget.used(), 0);
        assert!(stalled.mux().is_lost());
        assert!(
            stream.write_all(b"more").await.is_err(),
            "the application hears of it"
        );
    }
}
