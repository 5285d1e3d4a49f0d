//! A second circuit to the same exit that carries a circuit's streams with it (docs/protocol.md, 5.20 to 5.28).
//!
//! A circuit is as fast as the slowest of its links. A circuit that carries bulk gets a second leg by other relays.
//! Both then carry the bulk, each as much as it can, and what a lost leg had not delivered goes by the other.
//! [`Growth`], which is pure, says when it is time for a second leg; the pool builds it.

use core::time::Duration;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use cepa_common::cell::message::SECRET_LEN;
use cepa_common::dir::Entry;
use cepa_common::ids::RelayId;
use cepa_common::net::circuit_end::EndDriver;
use cepa_common::net::circuit_io::Streams;
use cepa_common::stream::{LegId, Opener};
use cepa_common::sync::lock;
use cepa_common::world::{random, steady};
use rand::RngExt;

use super::build::{BuildError, Parts};
use super::built::{Circuit, CircuitInner, Grow};
use super::growth::Growth;
use super::maker::{CircuitError, Maker, Raised, Wanted};
use super::task::{CircuitEnd, CircuitTask, LastHopLayers};
use crate::guard::Purpose;
use crate::path::ExitTarget;

/// How long the first leg may take to hear of the set after the second leg is built.
const LINK_PATIENCE: Duration = Duration::from_secs(10);
/// How often the client looks whether the first leg's far end has heard.
const LINK_POLL: Duration = Duration::from_millis(50);

/// May a circuit get a second leg?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growing {
    /// The circuit has one leg for as long as it lives.
    Never,
    /// The circuit may get a second leg, under the owner's rule for destinations that the first was built for.
    Allowed { rule: Option<usize> },
}

/// What another leg of a circuit is built from.
pub(super) struct Grower {
    maker: Weak<Maker>,
    growth: Mutex<Growth>,
    /// The owner's rule that the circuit was built for.
    rule: Option<usize>,
    generation: u64,
    secret: [u8; SECRET_LEN],
}

impl Grower {
    pub(super) fn new(maker: &Arc<Maker>, rule: Option<usize>, generation: u64) -> Self {
        Self {
            maker: Arc::downgrade(maker),
            growth: Mutex::new(Growth::new(maker.multipath())),
            rule,
            generation,
            secret: random::rng().random(),
        }
    }
}

impl Grow for Grower {
    fn is_due(&self, now: Instant, cells: u64, rtt: Duration, in_use: bool) -> bool {
        let mut growth = lock(&self.growth);
        growth.is_due(now, cells, rtt, in_use)
    }

    fn begin(&self, only: LegId, streams: &Arc<Streams<Opener>>, shared: &Arc<CircuitInner>) {
        let Some(maker) = self.maker.upgrade() else {
            return;
        };
        let hops = shared.hops_of(only);
        let (secret, rule, generation) = (self.secret, self.rule, self.generation);
        // The task must not keep streams that nobody holds any more.
        let (streams, shared) = (Arc::downgrade(streams), shared.clone());
        let tasks = maker.tasks.clone();
        tasks.spawn(async move {
            let path = match maker.path_beside(&hops, rule) {
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
            let limit = maker.lost_after();
            let raised = tokio::time::timeout(limit, maker.raise_at_guard(&path)).await;
            match raised {
                Ok(Ok(Some(raised))) if raised.generation == generation => {
                    if let Some(streams) = linked(&streams).await {
                        maker.join(raised, &streams, secret, shared);
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "a second leg was not built"),
                _ => {}
            }
        });
    }
}

/// Waits until the first leg's far end knows of the set.
async fn linked(streams: &Weak<Streams<Opener>>) -> Option<Arc<Streams<Opener>>> {
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

impl Maker {
    /// Chooses relays for a second way to the exit of a circuit through `hops`. All relays of both ways may be in one
    /// path, so that no family sees both ends of either.
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

    /// Makes a built circuit a leg of existing streams.
    fn join(
        self: &Arc<Self>,
        raised: Raised,
        streams: &Arc<Streams<Opener>>,
        secret: [u8; SECRET_LEN],
        shared: Arc<CircuitInner>,
    ) {
        let leg = raised.builder.mux().ok().and_then(|mut mux| mux.take_leg());
        let Some(leg) = leg.and_then(|leg| streams.join(leg, secret)) else {
            return;
        };
        tracing::debug!("a circuit has a second leg");
        self.run_leg(raised, streams.clone(), leg, shared);
    }

    /// Gives a built circuit its task.
    pub(super) fn finish(
        self: &Arc<Self>,
        raised: Raised,
        growing: Growing,
    ) -> Result<Arc<Circuit>, BuildError> {
        let streams = Streams::new(raised.builder.mux()?);
        let hops = raised.hops.iter().map(|hop| hop.identity).collect();
        let generation = raised.generation;
        let exit = raised.hops.last().cloned().ok_or(BuildError::Length)?;
        let grower: Option<Box<dyn Grow>> = match growing {
            Growing::Never => None,
            Growing::Allowed { rule } => Some(Box::new(Grower::new(self, rule, generation))),
        };
        let shared = CircuitInner::new(grower);
        let begun = self.run_leg(raised, streams.clone(), LegId::FIRST, shared.clone());
        begun.ok_or(BuildError::Length)?;
        Ok(Arc::new(Circuit {
            streams,
            hops,
            exit,
            built: steady::now(),
            generation,
            shared,
        }))
    }

    /// Starts the task of a circuit that is a leg of `streams`.
    fn run_leg(
        self: &Arc<Self>,
        raised: Raised,
        streams: Arc<Streams<Opener>>,
        leg: LegId,
        shared: Arc<CircuitInner>,
    ) -> Option<()> {
        let Parts {
            link,
            inbox,
            circ,
            layers,
        } = raised.builder.hand_over();
        let hops = raised.hops.iter().map(|hop| hop.identity);
        shared.on_begun(leg, hops.collect());
        let end = EndDriver {
            link,
            circ: circ?,
            inbox,
            streams,
            leg,
            layers: LastHopLayers::new(layers)?,
        };
        let task = CircuitTask {
            end,
            rtt: raised.rtt,
            shared: shared.clone(),
        };
        let maker = Arc::downgrade(self);
        self.tasks.spawn(async move {
            let end = task.run().await;
            tracing::debug!(%end, "a circuit has ended");
            let path = shared.on_ended(leg);
            if let Some(maker) = maker.upgrade() {
                maker.on_end(&path, &end);
            }
        });
        Some(())
    }

    /// Notes that a circuit has ended, and what its end says about its relays and about other circuits.
    fn on_end(&self, hops: &[RelayId], end: &CircuitEnd) {
        let suspects: &[RelayId] = match end {
            CircuitEnd::Finished | CircuitEnd::Overrun => &[],
            // The suspect is the link to the first relay, or that relay.
            CircuitEnd::Destroyed(_) => &hops[..1],
            CircuitEnd::Truncated(hop) => hops
                .get(usize::from(hop.0) + 1)
                .map_or(&[], core::slice::from_ref),
            // Any of the relays may have swallowed the cells.
            CircuitEnd::Silent | CircuitEnd::Tampered(_) | CircuitEnd::Violation(_) => hops,
        };
        self.on_failed(suspects);
        if !suspects.is_empty() {
            // The cause may have taken other circuits that share a relay with this one. These circuits are asked at
            // once, so that nobody has to find out by waiting.
            self.stock.shelf().doubt_through(hops);
        }
        self.stock.ring();
    }
}
