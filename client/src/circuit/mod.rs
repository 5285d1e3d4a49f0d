//! Circuits at a client.
//!
//! A [`build::Builder`] telescopes a circuit hop by hop. When the circuit is built, one task owns its layers and moves
//! the bytes of its streams; the rest of the client knows it as a [`Circuit`]. The [`pool::Pool`] chooses a circuit for
//! each stream, builds circuits that are missing, and keeps some ready.

pub mod build;
mod circuits;
pub(crate) mod dir_streams;
mod growth;
pub mod health;
pub mod isolation;
mod legs;
pub(crate) mod links;
mod liveness;
pub(crate) mod maker;
pub(crate) mod pool;
#[cfg(test)]
mod pool_tests;
pub mod predict;
mod race;
pub(crate) mod report;
mod shelf;
mod stock;
pub(crate) mod task;
pub mod timeout;
mod upkeep;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use cepa_common::dir::Entry;
use cepa_common::ids::RelayId;
use cepa_common::net::circuit_io::{StreamIo, Streams};
use cepa_common::stream::{LegId, Opener, StreamTarget};
use cepa_common::sync::lock;

pub use self::circuits::Circuits;
pub use self::growth::Multipath;
use self::legs::Grower;
pub use self::maker::{CircuitError, Wanted};
pub use self::shelf::Counts;
use self::shelf::Shelved;

/// What a circuit and the tasks of its legs share, beside its streams.
pub(crate) struct CircuitInner {
    /// How often somebody has had reason to doubt that the far end is there. Each leg's task compares this number
    /// itself.
    doubts: AtomicU32,
    /// The relays of each leg.
    ways: Mutex<Vec<(LegId, Vec<RelayId>)>>,
    /// Builds another leg for the streams when it is time, if they may have one.
    grower: Option<Grower>,
}

impl CircuitInner {
    fn new(grower: Option<Grower>) -> Arc<Self> {
        Arc::new(Self {
            doubts: AtomicU32::new(0),
            ways: Mutex::default(),
            grower,
        })
    }

    fn ways(&self) -> MutexGuard<'_, Vec<(LegId, Vec<RelayId>)>> {
        lock(&self.ways)
    }

    /// Notes that a leg has its task.
    fn on_begun(&self, leg: LegId, hops: Vec<RelayId>) {
        self.ways().push((leg, hops));
    }

    /// Notes that a leg is gone. Returns its relays.
    fn on_ended(&self, leg: LegId) -> Vec<RelayId> {
        let mut ways = self.ways();
        let place = ways.iter().position(|(id, _)| *id == leg);
        place.map_or_else(Vec::new, |place| ways.swap_remove(place).1)
    }

    /// The relays of a leg.
    fn hops_of(&self, leg: LegId) -> Vec<RelayId> {
        let ways = self.ways();
        let way = ways.iter().find(|(id, _)| *id == leg);
        way.map_or_else(Vec::new, |(_, hops)| hops.clone())
    }

    fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::Relaxed);
    }

    /// Has the circuit been doubted since `last` was looked at?
    fn is_doubted(&self, last: &mut u32) -> bool {
        let now = self.doubts.load(Ordering::Relaxed);
        core::mem::replace(last, now) != now
    }
}

/// A built circuit.
pub struct Circuit {
    streams: Arc<Streams<Opener>>,
    hops: Vec<RelayId>,
    exit: Entry,
    built: Instant,
    /// The client's identity that the circuit belongs to. A circuit of an earlier identity takes no new stream.
    generation: u64,
    shared: Arc<CircuitInner>,
}

impl Circuit {
    /// Opens a stream. If bytes are written at once, the first of them travel with its BEGIN. `None` if the circuit is
    /// gone or full.
    pub fn open(&self, target: StreamTarget) -> Option<StreamIo<Opener>> {
        self.streams.open(target)
    }

    /// The relays that the circuit was built through, first to last.
    pub fn hops(&self) -> &[RelayId] {
        &self.hops
    }

    /// Does one of these relays carry the circuit's streams now, on any of its legs?
    pub fn passes(&self, relays: &[RelayId]) -> bool {
        let ways = self.shared.ways();
        let mut hops = ways.iter().flat_map(|(_, hops)| hops);
        hops.any(|hop| relays.contains(hop))
    }

    /// The circuit's last relay, as the consensus lists it.
    pub fn exit(&self) -> &Entry {
        &self.exit
    }

    /// When the circuit was built.
    pub fn built(&self) -> Instant {
        self.built
    }

    /// Is the circuit gone?
    pub fn is_lost(&self) -> bool {
        self.streams.mux().is_lost()
    }

    /// Can the circuit take one more stream?
    pub fn has_room(&self) -> bool {
        self.streams.mux().has_room()
    }

    /// Number of streams on the circuit.
    pub fn open_streams(&self) -> usize {
        self.streams.mux().open_streams()
    }

    /// Number of circuits that carry the streams: this one, and a second leg if there is one; none if the circuit is
    /// gone.
    pub fn legs(&self) -> usize {
        let mux = self.streams.mux();
        if mux.is_lost() {
            return 0;
        }
        mux.leg_ids().count()
    }

    /// Asks the far end whether it is still there. The circuit is lost if no answer comes.
    pub fn doubt(&self) {
        self.shared.doubt();
        self.streams.notify();
    }

    /// Ends the circuit and every stream on it.
    pub fn close(&self) {
        self.streams.mux().lose();
        self.streams.notify();
    }
}

impl Shelved for Circuit {
    type Exit = Entry;

    fn exit(&self) -> &Entry {
        self.exit()
    }

    fn built(&self) -> Instant {
        self.built()
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn open_streams(&self) -> usize {
        self.open_streams()
    }

    fn has_room(&self) -> bool {
        self.has_room()
    }

    fn legs(&self) -> usize {
        self.legs()
    }

    fn is_lost(&self) -> bool {
        self.is_lost()
    }

    fn passes(&self, relays: &[RelayId]) -> bool {
        self.passes(relays)
    }

    fn doubt(&self) {
        self.doubt();
    }

    fn close(&self) {
        self.close();
    }
}

impl Drop for Circuit {
    fn drop(&mut self) {
        // Streams that are still held keep the circuit alive; its task ends with the last of them.
        self.streams.notify();
    }
}
