//! A second circuit to the same exit that carries a circuit's streams with it (docs/protocol.md, 5.20 to 5.28).
//!
//! A circuit is as fast as the slowest of its links. One that carries bulk gets a second leg by other relays: both
//! carry it then, each as much as it can, and what a lost one had not delivered goes by the other. When it is time for
//! one, [`Growth`] says, which is pure; how it is had, is the pool's.

use core::time::Duration;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use cepa_common::cell::message::SECRET_LEN;
use cepa_common::dir::Entry;
use cepa_common::ids::RelayId;
use cepa_common::net::circuit_io::Streams;
use cepa_common::stream::{JoinAs, LegId};
use cepa_common::sync::lock;
use cepa_common::world::{random, steady};
use rand::RngExt;

use super::Shared;
use super::pool::{CircuitError, Pool, Raised, Wanted};
use crate::guard::Purpose;
use crate::path::ExitTarget;

/// Less in a second is no bulk (cells; 256 KiB).
const BULK_CELLS: u64 = 128;
/// A circuit that moves more than this in a second is held back by processors rather than by links (cells; 24 MiB).
const FAST_CELLS: u64 = 12_288;
/// A shorter round trip than this through all hops is that of one machine or one room: processors hold it back too.
const NEAR: Duration = Duration::from_millis(10);
/// Bulk is what has gone on for so long.
const BULK_TIME: Duration = Duration::from_millis(1_500);
/// Longest time that a rate is taken of.
const LOOK_MOST: Duration = Duration::from_secs(1);
/// From one try to the next, whatever became of the leg.
const AGAIN: Duration = Duration::from_secs(10);
/// How long the first leg may take to hear that there is to be a set, once the second is built.
const LINK_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked.
const LINK_POLL: Duration = Duration::from_millis(50);

/// When a circuit gets a second leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Multipath {
    /// Never.
    Never,
    /// When it carries bulk, and links are what holds it back.
    #[default]
    Bulk,
    /// As soon as it carries a stream.
    Always,
}

/// Watches one circuit, and says when it is time for another leg.
#[derive(Debug)]
pub(super) struct Growth {
    mode: Multipath,
    looked: Option<(Instant, u64)>,
    /// Since when it moves as bulk does.
    bulk: Option<Instant>,
    tried: Option<Instant>,
}

impl Growth {
    pub(super) fn new(mode: Multipath) -> Self {
        Self {
            mode,
            looked: None,
            bulk: None,
            tried: None,
        }
    }

    /// Is it time for another leg, `cells` having been moved in all and a round trip having taken `rtt`? Says so once in
    /// [`AGAIN`] at most.
    pub(super) fn is_due(&mut self, now: Instant, cells: u64, rtt: Duration, in_use: bool) -> bool {
        let (before, at_before) = self.looked.replace((now, cells)).unwrap_or((now, cells));
        let passed = now.saturating_duration_since(before);
        let rate = (cells - at_before) as f64 / passed.as_secs_f64().max(0.1);
        // Over a longer time a burst after a rest looks like a trickle, or a slow circuit.
        let is_look = passed <= LOOK_MOST;
        let is_bulk = is_look && rate >= BULK_CELLS as f64 && rate <= FAST_CELLS as f64;
        if is_bulk {
            self.bulk.get_or_insert(before);
        } else {
            self.bulk = None;
        }
        let long = |since: Instant| now.saturating_duration_since(since) >= BULK_TIME;
        let wanted = match self.mode {
            Multipath::Never => false,
            Multipath::Bulk => rtt >= NEAR && self.bulk.is_some_and(long),
            Multipath::Always => in_use,
        };
        let is_rested = |tried: Instant| now.saturating_duration_since(tried) >= AGAIN;
        let is_due = wanted && self.tried.is_none_or(is_rested);
        if is_due {
            self.tried = Some(now);
        }
        is_due
    }
}

/// What there is to know for another leg of a circuit.
pub(super) struct Grower {
    pool: Weak<Pool>,
    growth: Mutex<Growth>,
    /// The owner's rule that the circuit was built for.
    rule: Option<usize>,
    generation: u64,
    secret: [u8; SECRET_LEN],
}

impl Grower {
    pub(super) fn new(pool: &Arc<Pool>, rule: Option<usize>, generation: u64) -> Self {
        Self {
            pool: Arc::downgrade(pool),
            growth: Mutex::new(Growth::new(pool.multipath())),
            rule,
            generation,
            secret: random::rng().random(),
        }
    }

    /// As [`Growth::is_due`].
    pub(super) fn is_due(&self, now: Instant, cells: u64, rtt: Duration, in_use: bool) -> bool {
        let mut growth = lock(&self.growth);
        growth.is_due(now, cells, rtt, in_use)
    }

    /// Begins to build another leg beside `only`; it comes when it comes. The far end is told of the set meanwhile.
    pub(super) fn begin(&self, only: LegId, streams: &Arc<Streams>, shared: &Arc<Shared>) {
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        let hops = shared.hops_of(only);
        let (secret, rule, generation) = (self.secret, self.rule, self.generation);
        // It must not keep streams that nobody holds any more.
        let (streams, shared) = (Arc::downgrade(streams), shared.clone());
        let tasks = pool.tasks.clone();
        tasks.spawn(async move {
            let path = match pool.path_beside(&hops, rule) {
                Ok(path) => path,
                Err(error) => {
                    tracing::debug!(%error, "no path for a second leg");
                    return;
                }
            };
            if let Some(streams) = streams.upgrade() {
                streams.mux().link(secret);
                streams.notify();
            }
            let limit = pool.state().times.lost_after();
            let raised = tokio::time::timeout(limit, pool.raise_at_guard(&path)).await;
            match raised {
                Ok(Ok(Some(raised))) if raised.generation == generation => {
                    if let Some(streams) = linked(&streams).await {
                        pool.join(raised, &streams, secret, shared);
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "a second leg was not built"),
                _ => {}
            }
        });
    }
}

/// Waits until the first leg's far end knows of the set.
async fn linked(streams: &Weak<Streams>) -> Option<Arc<Streams>> {
    let until = steady::now() + LINK_PATIENCE;
    loop {
        let held = streams.upgrade()?;
        if held.mux().is_linked() {
            return Some(held);
        }
        if held.mux().is_lost() || steady::now() > until {
            return None;
        }
        drop(held);
        tokio::time::sleep(LINK_POLL).await;
    }
}

impl Pool {
    /// Relays for a second way to the exit of a circuit through `hops`: all of both may stand in one path, so that no
    /// family sees both ends of either.
    fn path_beside(
        &self,
        hops: &[RelayId],
        rule: Option<usize>,
    ) -> Result<Vec<Entry>, CircuitError> {
        let selector = self.selector()?;
        let (exit, before) = hops.split_last().ok_or(CircuitError::NoConsensus)?;
        let clashes = |relay: &RelayId| {
            let clash = |held: &RelayId| !selector.may_share_path(relay, held);
            before.iter().any(clash)
        };
        let wanted = Wanted {
            target: ExitTarget::Any,
            rule,
            exit: Some(*exit),
        };
        let path = self.choose_beside(Purpose::Data, wanted, &clashes, &clashes)?;
        Ok(path.hops().cloned().collect())
    }

    /// Makes a built circuit a leg of streams that there are.
    fn join(
        self: &Arc<Self>,
        raised: Raised,
        streams: &Arc<Streams>,
        secret: [u8; SECRET_LEN],
        shared: Arc<Shared>,
    ) {
        let leg = raised.builder.mux().ok().and_then(|mut mux| mux.take_leg());
        let Some(leg) = leg.and_then(|leg| streams.join(leg, JoinAs::Client(secret))) else {
            return;
        };
        tracing::debug!("a circuit has a second leg");
        self.run_leg(raised, streams.clone(), leg, shared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(500);

    const FAR: Duration = Duration::from_millis(100);

    /// Looks every half second for ten seconds, `rate` cells a second moving on a way of `rtt`; gives when a leg was due.
    fn looks(mode: Multipath, rate: u64, rtt: Duration) -> Vec<u128> {
        let (start, mut growth) = (Instant::now(), Growth::new(mode));
        let due = (0..20u32).filter(|n| {
            let now = start + LOOK * *n;
            growth.is_due(now, u64::from(*n) * rate / 2, rtt, true)
        });
        due.map(|n| (LOOK * n).as_millis()).collect()
    }

    #[test]
    fn bulk_gets_a_leg_and_trickles_and_what_is_fast_do_not() {
        assert_eq!(looks(Multipath::Bulk, 2_000, FAR), [1_500]);
        assert!(looks(Multipath::Bulk, BULK_CELLS / 2, FAR).is_empty());
        assert!(looks(Multipath::Bulk, FAST_CELLS * 2, FAR).is_empty());
        assert!(looks(Multipath::Bulk, 2_000, NEAR / 2).is_empty());
        assert!(looks(Multipath::Never, 2_000, FAR).is_empty());
        assert_eq!(looks(Multipath::Always, 1, FAR), [0]);
    }

    #[test]
    fn a_burst_after_a_rest_is_no_slow_circuit() {
        let (start, mut growth) = (Instant::now(), Growth::new(Multipath::Bulk));
        assert!(!growth.is_due(start, 0, FAR, false));
        let burst = FAST_CELLS * 4;
        assert!(!growth.is_due(start + LOOK * 10, burst, FAR, true));
        assert!(!growth.is_due(start + LOOK * 11, burst * 2, FAR, true));
        assert!(!growth.is_due(start + LOOK * 12, burst * 3, FAR, true));
    }

    #[test]
    fn a_leg_that_was_lost_is_tried_again_and_not_at_once() {
        let (start, mut growth) = (Instant::now(), Growth::new(Multipath::Always));
        assert!(growth.is_due(start, 0, FAR, true));
        assert!(!growth.is_due(start + AGAIN / 2, 0, FAR, true));
        assert!(growth.is_due(start + AGAIN, 0, FAR, true));
        assert!(
            !growth.is_due(start + AGAIN * 3, 0, FAR, false),
            "nobody uses it"
        );
    }
}
