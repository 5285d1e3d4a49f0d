//! A circuit that is built, as the rest of the client knows it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cepa_common::dir::Entry;
use cepa_common::ids::RelayId;
use cepa_common::net::association_io::AssociationIo;
use cepa_common::net::circuit_io::{StreamIo, Streams};
use cepa_common::stream::{LegId, Opener, StreamTarget};
use cepa_common::sync::lock;

use super::begins::Begins;
use super::shelf::Shelved;

/// What gives a circuit another leg. This trait is all that a circuit knows of those who build circuits.
pub(super) trait Grow: Send + Sync {
    /// Is it time for another leg, if `cells` have been moved in all and a round trip took `rtt`?
    fn is_due(&self, now: Instant, cells: u64, rtt: Duration, in_use: bool) -> bool;

    /// Begins to build another leg beside `only` and does not wait for it. The far end is told of the set meanwhile.
    fn begin(&self, only: LegId, streams: &Arc<Streams<Opener>>, shared: &Arc<CircuitInner>);
}

/// What a circuit and the tasks of its legs share, beside its streams.
pub(crate) struct CircuitInner {
    /// How often somebody has had reason to doubt that the far end is there. Each leg's task compares this number with
    /// the last one that it saw.
    doubts: AtomicU32,
    /// The relays of each leg.
    ways: Mutex<Vec<(LegId, Vec<RelayId>)>>,
    /// The relays between the ends of legs that were lost.
    lost_middles: Mutex<Vec<RelayId>>,
    /// Builds another leg for the streams when it is time, if they may have one.
    pub(super) grower: Option<Box<dyn Grow>>,
}

impl CircuitInner {
    pub(super) fn new(grower: Option<Box<dyn Grow>>) -> Arc<Self> {
        Arc::new(Self {
            doubts: AtomicU32::new(0),
            ways: Mutex::default(),
            lost_middles: Mutex::default(),
            grower,
        })
    }

    fn ways(&self) -> MutexGuard<'_, Vec<(LegId, Vec<RelayId>)>> {
        lock(&self.ways)
    }

    /// Notes that a leg has its task.
    pub(super) fn on_begun(&self, leg: LegId, hops: Vec<RelayId>) {
        self.ways().push((leg, hops));
    }

    /// Notes that a leg is gone. Returns its relays.
    pub(super) fn on_ended(&self, leg: LegId) -> Vec<RelayId> {
        let mut ways = self.ways();
        let place = ways.iter().position(|(id, _)| *id == leg);
        let hops = place.map_or_else(Vec::new, |place| ways.swap_remove(place).1);
        let middles = hops.get(1..hops.len().saturating_sub(1));
        lock(&self.lost_middles).extend_from_slice(middles.unwrap_or_default());
        hops
    }

    /// The relays between the ends of legs that were lost. A circuit has few legs in its life, and so few of these.
    pub(super) fn lost_middles(&self) -> Vec<RelayId> {
        lock(&self.lost_middles).clone()
    }

    /// The relays of a leg.
    pub(super) fn hops_of(&self, leg: LegId) -> Vec<RelayId> {
        let ways = self.ways();
        let way = ways.iter().find(|(id, _)| *id == leg);
        way.map_or_else(Vec::new, |(_, hops)| hops.clone())
    }

    fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::Relaxed);
    }

    /// Has the circuit been doubted since `last` was looked at?
    pub(super) fn is_doubted(&self, last: &mut u32) -> bool {
        let now = self.doubts.load(Ordering::Relaxed);
        core::mem::replace(last, now) != now
    }
}

/// A built circuit.
pub struct Circuit {
    pub(super) streams: Arc<Streams<Opener>>,
    pub(super) hops: Vec<RelayId>,
    pub(super) exit: Entry,
    pub(super) built: Instant,
    /// The client's identity that the circuit belongs to. A circuit of an earlier identity takes no new stream.
    pub(super) generation: u64,
    pub(super) shared: Arc<CircuitInner>,
    /// How fast streams may begin.
    pub(super) begins: Begins,
}

impl Circuit {
    /// Opens a stream. If bytes are written at once, the first of them travel with its BEGIN. `None` if the circuit is
    /// gone or full.
    pub fn open(&self, target: StreamTarget) -> Option<StreamIo<Opener>> {
        let stream = self.streams.open(target)?;
        self.begins.count();
        Some(stream)
    }

    /// Opens a stream when the circuit's pace lets one more begin; many at once wait for their turns.
    pub async fn open_in_turn(&self, target: StreamTarget) -> Option<StreamIo<Opener>> {
        self.begins.turn(&target).await;
        self.streams.open(target)
    }

    /// Begins an association for datagrams. `None` if the circuit is gone, or has as many as it may have.
    pub fn associate(&self) -> Option<AssociationIo<Opener>> {
        let association = self.streams.associate()?;
        self.begins.count();
        Some(association)
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

    /// The first relay of each leg that carries the circuit's streams now.
    pub(super) fn first_hops(&self) -> Vec<RelayId> {
        let ways = self.shared.ways();
        let firsts = ways.iter().filter_map(|(_, hops)| hops.first());
        firsts.copied().collect()
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

    /// Number of streams and associations on the circuit.
    pub fn open_streams(&self) -> usize {
        self.streams.mux().in_use()
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
