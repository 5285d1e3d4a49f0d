//! Circuits as a client has them.
//!
//! A [`build::Builder`] telescopes a circuit hop by hop; when it is built, one
//! task owns its layers and moves its streams' bytes, and a [`Circuit`] is
//! how the rest of the client knows it. The [`pool::Pool`] chooses a circuit
//! for each stream, builds what is missing, and keeps some ready.

pub mod build;
pub(crate) mod dir_streams;
pub mod health;
pub mod isolation;
pub mod legs;
pub(crate) mod links;
mod liveness;
pub mod pool;
#[cfg(test)]
mod pool_tests;
pub mod predict;
mod race;
mod report;
pub(crate) mod task;
pub mod timeout;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use cepa_common::dir::Entry;
use cepa_common::ids::RelayId;
use cepa_common::net::circuit_io::{StreamIo, Streams};
use cepa_common::stream::Target;

/// How often somebody has had reason to doubt that a circuit's far end is there. Each of its legs' tasks looks for itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doubt(Arc<AtomicU32>);

impl Doubt {
    fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Has it been raised since `last` was looked at?
    fn is_new(&self, last: &mut u32) -> bool {
        let now = self.0.load(Ordering::Relaxed);
        core::mem::replace(last, now) != now
    }
}

/// A built circuit.
pub struct Circuit {
    streams: Arc<Streams>,
    hops: Vec<RelayId>,
    exit: Entry,
    built: Instant,
    /// The identity of the client's that it belongs to: those of an earlier one take no new stream.
    generation: u64,
    doubted: Doubt,
}

impl Circuit {
    /// Opens a stream; write to it at once and the first bytes travel with its
    /// BEGIN. `None` when the circuit is gone or full.
    pub fn open(&self, target: Target) -> Option<StreamIo> {
        self.streams.open(target)
    }

    /// Its relays, first to last.
    pub fn hops(&self) -> &[RelayId] {
        &self.hops
    }

    /// Its last relay as the consensus has it.
    pub fn exit(&self) -> &Entry {
        &self.exit
    }

    /// When it was built.
    pub fn built(&self) -> Instant {
        self.built
    }

    /// Is it gone?
    pub fn is_lost(&self) -> bool {
        self.streams.mux().is_lost()
    }

    /// Can it take one more stream?
    pub fn has_room(&self) -> bool {
        self.streams.mux().has_room()
    }

    /// Streams on it.
    pub fn open_streams(&self) -> usize {
        self.streams.mux().open_streams()
    }

    /// Circuits that carry its streams: itself, and a second leg if it has one; none when it is gone.
    pub fn legs(&self) -> usize {
        let mux = self.streams.mux();
        if mux.is_lost() {
            return 0;
        }
        mux.leg_ids().count()
    }

    /// Asks the far end whether it is still there; the circuit is lost when no answer comes.
    pub fn doubt(&self) {
        self.doubted.raise();
        self.streams.notify();
    }

    /// Ends it, and every stream on it.
    pub fn close(&self) {
        self.streams.mux().lose();
        self.streams.notify();
    }
}

impl Drop for Circuit {
    fn drop(&mut self) {
        // Streams that are still held keep the circuit; the task ends with the last.
        self.streams.notify();
    }
}
