//! A second circuit to the same exit that carries a circuit's streams with it (docs/protocol.md, 5.20 to 5.28).
//!
//! A circuit is as fast as the slowest of its links. A circuit that carries bulk gets a second leg by other relays.
//! Both then carry the bulk, each as much as it can, and what a lost leg had not delivered goes by the other.
//! [`Growth`], which is pure, says when it is time for a second leg; the pool builds it.

use core::ops::RangeInclusive;
use core::time::Duration;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use cepa_common::cell::message::SECRET_LEN;
use cepa_common::dir::{Entry, Params};
use cepa_common::ids::RelayId;
use cepa_common::net::circuit_end::EndDriver;
use cepa_common::net::circuit_io::Streams;
use cepa_common::stream::{LegId, Opener};
use cepa_common::sync::lock;
use cepa_common::world::{random, steady};
use rand::RngExt;

use super::begins::Begins;
use super::build::{BuildError, Parts};
use super::built::{Circuit, CircuitInner, Grow};
use super::choose::{First, Wanted};
use super::growth::Growth;
use super::health::Blame;
use super::isolation::Isolation;
use super::maker::{CircuitError, Maker, Raised};
use super::task::{CircuitEnd, CircuitTask, LastHopLayers};
use crate::guard::Purpose;
use crate::path::ExitTarget;

/// How long the first leg may take to hear of the set after the second leg is built.
const LINK_PATIENCE: Duration = Duration::from_secs(10);
/// How often the client looks whether the first leg's far end has heard.
const LINK_POLL: Duration = Duration::from_millis(50);

/// After one circuit was silent, others of its owner are asked after a time from this range (milliseconds).
const DOUBT_AFTER: RangeInclusive<u64> = 200..=2_000;

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
        let (secret, generation) = (self.secret, self.generation);
        let path = match maker.path_beside(&hops, &shared.lost_middles(), self.rule) {
            Ok(path) => path,
            Err(error) => {
                tracing::debug!(%error, "no path for a second leg");
                return;
            }
        };
        lock(&self.growth).on_drawn();
        // The task must not keep streams that nobody holds any more.
        let (streams, shared) = (Arc::downgrade(streams), shared.clone());
        let tasks = maker.tasks.clone();
        tasks.spawn(async move {
            if let Some(streams) = streams.upgrade() {
                streams.mux().link(secret);
                streams.notify();
            }
            let limit = maker.lost_after();
            let raised = maker.raise_at_guard(&path, limit).await;
            match raised {
                Ok(Some(raised)) if raised.generation == generation => {
                    if let Some(streams) = linked(&streams).await {
                        maker.join(raised, &streams, secret, shared);
                    }
                }
                Err(error) => tracing::debug!(%error, "a second leg was not built"),
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
    /// path, so that no family sees both ends of either. Relays in `without` are in none of the places.
    fn path_beside(
        &self,
        hops: &[RelayId],
        without: &[RelayId],
        rule: Option<usize>,
    ) -> Result<Vec<Entry>, CircuitError> {
        let selector = self.selector()?;
        let (exit, before) = hops.split_last().ok_or(CircuitError::NoConsensus)?;
        let clashes = |relay: &RelayId| {
            let clash = |held: &RelayId| !selector.may_share_path(relay, held);
            without.contains(relay) || before.iter().any(clash)
        };
        let wanted = Wanted {
            target: ExitTarget::Any,
            rule,
            exit: Some(*exit),
        };
        let path = self.choose_from(First::Not(&clashes), Purpose::SecondLeg, wanted, &clashes)?;
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
        self.links.memory().add(&streams);
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
        let begins = match self.consensus() {
            Some(consensus) => Begins::new(consensus.params()),
            None => Begins::new(&Params::default()),
        };
        Ok(Arc::new(Circuit {
            streams,
            hops,
            exit,
            built: steady::now(),
            generation,
            shared,
            begins,
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
                maker.on_end(&shared, &path, &end);
            }
        });
        Some(())
    }

    /// Notes that a circuit has ended, and what its end says about its relays and about other circuits.
    fn on_end(&self, shared: &Arc<CircuitInner>, hops: &[RelayId], end: &CircuitEnd) {
        self.on_failed(blamed(hops, end));
        if matches!(end, CircuitEnd::Silent) && hops.len() > 1 {
            self.doubt_beside(shared, &hops[1..]);
        }
        self.stock.ring();
    }

    /// A circuit was silent, and one of these relays may be why. Only silence says something about other circuits: a
    /// circuit that ends by DESTROY or TRUNCATED is told so itself.
    ///
    /// Clean circuits through the relays are closed. Circuits of the same owner are asked whether they are there, a
    /// random time later. Circuits of other owners are not asked: an exit that ends one circuit would learn from the
    /// questions which others are the same client's.
    fn doubt_beside(&self, shared: &Arc<CircuitInner>, relays: &[RelayId]) {
        let owner = {
            let mut shelf = self.stock.shelf();
            shelf.close_clean(&|circuit| circuit.passes(relays));
            shelf.owner_of(&|circuit| Arc::ptr_eq(&circuit.shared, shared))
        };
        if let Some(owner) = owner {
            self.doubt_later(owner, Some(relays.to_vec()), DOUBT_AFTER);
        }
    }

    /// Asks an owner's circuits whether they are there, after a time drawn at random from `after` (milliseconds). With
    /// `relays`, only the circuits that pass one of these are asked.
    pub(super) fn doubt_later(
        &self,
        owner: Isolation,
        relays: Option<Vec<RelayId>>,
        after: RangeInclusive<u64>,
    ) {
        let stock = Arc::downgrade(&self.stock);
        let wait = Duration::from_millis(random::rng().random_range(after));
        self.tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(stock) = stock.upgrade() {
                stock.shelf().doubt(&owner, relays.as_deref());
            }
        });
    }
}

/// The relays that the end of a built circuit points at, each on the word of the one before it. Guards have rules of
/// their own, so a first hop with others behind it is not named.
fn blamed(hops: &[RelayId], end: &CircuitEnd) -> Vec<Blame> {
    let from_one_before = |pair: &[RelayId]| Blame {
        relay: pair[1],
        by: Some(pair[0]),
    };
    let alone = hops.first().filter(|_| hops.len() == 1);
    let alone = alone.map(|relay| Blame {
        relay: *relay,
        by: None,
    });
    let pairs = hops.windows(2).map(from_one_before);
    match end {
        CircuitEnd::Finished | CircuitEnd::Overrun => Vec::new(),
        CircuitEnd::Destroyed(_) => alone.into_iter().collect(),
        CircuitEnd::Truncated(hop) => pairs.skip(usize::from(hop.0)).take(1).collect(),
        // Any of the relays may have swallowed the cells.
        CircuitEnd::Silent | CircuitEnd::Tampered(_) | CircuitEnd::Violation(_) => {
            pairs.chain(alone).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use cepa_common::cell::codec::DestroyReason;
    use cepa_common::ids::HopIndex;

    use super::*;

    #[test]
    fn the_end_of_a_circuit_points_behind_the_hop_that_speaks() {
        let hops = [1, 2, 3].map(|n| RelayId([n; 32]));
        let [guard, middle, exit] = hops;
        let on = |relay, by| Blame {
            relay,
            by: Some(by),
        };
        let truncated = |hop| blamed(&hops, &CircuitEnd::Truncated(HopIndex(hop)));
        assert_eq!(truncated(0), [on(middle, guard)]);
        assert_eq!(truncated(1), [on(exit, middle)]);
        assert_eq!(truncated(2), []);
        let silent = blamed(&hops, &CircuitEnd::Silent);
        assert_eq!(silent, [on(middle, guard), on(exit, middle)]);
        let destroyed = CircuitEnd::Destroyed(DestroyReason::Unreachable);
        assert_eq!(blamed(&hops, &destroyed), []);
        let relay = guard;
        assert_eq!(blamed(&hops[..1], &destroyed), [Blame { relay, by: None }]);
    }
}
