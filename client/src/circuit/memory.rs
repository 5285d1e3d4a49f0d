//! Keeps what a client's circuits, streams and queues hold within the limit that its owner sets.

use core::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use cepa_common::budget::Budget;
use cepa_common::net::circuit_io::Streams;
use cepa_common::stream::Opener;
use cepa_common::sync::lock;
use cepa_common::world::steady;
use tokio::time::sleep;

use crate::events::Reporter;

/// The wait between two looks at what is held, in which tasks give back what they hold of streams that have ended.
const SETTLE: Duration = Duration::from_millis(50);

/// Bytes that have not moved for this time are stalled.
const STALLED: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Holders {
    streams: Vec<Weak<Streams<Opener>>>,
    /// The list is cleaned when it has doubled since the last time.
    clean_at: usize,
}

/// The memory that a client may take, and the streams that hold it.
pub(crate) struct MemoryLimit {
    budget: Arc<Budget>,
    holders: Mutex<Holders>,
}

impl MemoryLimit {
    /// A memory of `bytes`, all free.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            budget: Budget::new(bytes),
            holders: Mutex::default(),
        })
    }

    /// Sets how many bytes may be held. If more are held, streams end as they do when too much was taken.
    pub(crate) fn set_limit(&self, bytes: usize) {
        self.budget.set_limit(bytes);
    }

    /// What the client's queues and streams charge the bytes that they hold to.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// From now on streams of this circuit can be ended for what they hold.
    pub(crate) fn add(&self, streams: &Arc<Streams<Opener>>) {
        let mut holders = lock(&self.holders);
        holders.streams.push(Arc::downgrade(streams));
        if holders.streams.len() > holders.clean_at {
            holders.streams.retain(|one| one.strong_count() > 0);
            holders.clean_at = 2 * holders.streams.len() + 64;
        }
    }

    /// Ends streams until there is room again: first those whose bytes nobody reads, then the others, and of both
    /// whichever holds most. Gives how many have ended. If that is not enough, circuits end with all their streams.
    fn relieve(&self, now: Instant) -> u64 {
        let circuits: Vec<_> = {
            let holders = lock(&self.holders);
            holders.streams.iter().filter_map(Weak::upgrade).collect()
        };
        let mut holders = Vec::new();
        for (at, circuit) in circuits.iter().enumerate() {
            for one in circuit.mux().holders() {
                let waits = |since| now.saturating_duration_since(since) >= STALLED;
                let is_stalled = one.since.is_some_and(waits);
                holders.push((is_stalled, one.bytes, Reverse((at, one.key))));
            }
        }
        let mut holders = BinaryHeap::from(holders);
        let mut ended = 0;
        while self.budget.is_above_low_water()
            && let Some((_, _, Reverse((at, key)))) = holders.pop()
        {
            ended += 1;
            circuits[at].mux().shed(key);
            circuits[at].notify();
        }
        if !self.budget.is_exceeded() {
            return ended;
        }
        // What is left is held by circuits themselves, as copies of what a leg has not delivered.
        let held = |circuit: &Arc<Streams<Opener>>| circuit.mux().held_bytes();
        let mut largest: BinaryHeap<_> = (0..circuits.len())
            .map(|at| (held(&circuits[at]), Reverse(at)))
            .collect();
        while self.budget.is_exceeded()
            && let Some((1.., Reverse(at))) = largest.pop()
        {
            ended += circuits[at].mux().open_streams() as u64;
            circuits[at].discard();
        }
        ended
    }
}

/// Watches the memory for as long as the client lives, and ends streams when more is held than may be.
pub(crate) async fn keep_within_budget(memory: Arc<MemoryLimit>, reporter: Reporter) {
    loop {
        poll_fn(|cx| memory.budget.poll_exceeded(cx)).await;
        let used = memory.budget.used();
        let ended = memory.relieve(steady::now());
        reporter.memory_exceeded(used, ended);
        sleep(SETTLE).await;
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
