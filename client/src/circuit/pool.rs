//! Which circuit a stream goes on, and which are built ahead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cepa_common::dir::{Consensus, Entry};
use cepa_common::ids::{HopIndex, NetworkId, RelayId};
use cepa_common::net::circuit_io::Streams;
use cepa_common::net::tasks::Tasks;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::Circuit;
use super::build::{BuildError, Builder};
use super::health::Health;
use super::isolation::Isolation;
use super::links::Links;
use super::predict::Predictor;
use super::race::MOST_BUILDS;
use super::task::{CircuitEnd, CircuitTask};
use super::timeout::BuildTimes;
use crate::path::{Path, PathError, PathRequest, PathSelector, Target};

/// One hop must answer within this time, when a circuit is built hop by hop for a user to see.
const HOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Circuits held; beyond them the one that has been idle for longest goes.
const MOST_CIRCUITS: usize = 512;

/// Why there is no circuit.
#[derive(Debug, thiserror::Error)]
pub enum CircuitError {
    /// No consensus is held that may be used.
    #[error("the client has no usable consensus yet")]
    NoConsensus,
    /// No path fits.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Every path that was tried failed; the last failure.
    #[error("no circuit could be built: {0}")]
    Build(#[from] BuildError),
    /// The client is stopping.
    #[error("the client is stopping")]
    Stopping,
}

pub(super) struct Pooled {
    pub(super) circuit: Arc<Circuit>,
    /// Whose it is, and since when; nobody's while it is clean.
    pub(super) owner: Option<(Isolation, Instant)>,
}

pub(super) struct State {
    pub(super) circuits: Vec<Pooled>,
    pub(super) health: Health,
    pub(super) times: BuildTimes,
    pub(super) predictor: Predictor,
    selector: Option<Arc<PathSelector>>,
    building: HashMap<Isolation, Arc<tokio::sync::Mutex<()>>>,
    pub(super) stopped: bool,
}

/// A client's circuits.
pub struct Pool {
    network: NetworkId,
    links: Links,
    pub(super) tasks: Tasks,
    consensus: watch::Receiver<Option<Arc<Consensus>>>,
    state: Mutex<State>,
    pub(super) wake: tokio::sync::Notify,
    /// Circuits being built at once.
    pub(super) builds: Arc<Semaphore>,
}

impl Pool {
    pub(crate) fn new(
        network: NetworkId,
        links: Links,
        tasks: Tasks,
        consensus: watch::Receiver<Option<Arc<Consensus>>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            network,
            links,
            tasks,
            consensus,
            state: Mutex::new(State {
                circuits: Vec::new(),
                health: Health::new(),
                times: BuildTimes::new(),
                predictor: Predictor::new(Instant::now()),
                selector: None,
                building: HashMap::new(),
                stopped: false,
            }),
            wake: tokio::sync::Notify::new(),
            builds: Arc::new(Semaphore::new(MOST_BUILDS)),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest consensus, while it may be used.
    pub fn consensus(&self) -> Option<Arc<Consensus>> {
        self.consensus.borrow().clone()
    }

    pub(super) fn max_dirty(&self) -> Duration {
        let seconds = self
            .consensus()
            .map_or(600, |c| c.params().circuit_max_dirty_seconds);
        Duration::from_secs(u64::from(seconds))
    }

    /// Ends all circuits; those that are asked for later are new.
    pub fn new_identity(&self) {
        for pooled in self.state().circuits.drain(..) {
            pooled.circuit.close();
        }
        self.wake.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.state().stopped = true;
        self.new_identity();
    }

    /// A circuit for a stream of `isolation` to `target`, none of whose exits
    /// `avoid` names: one in use by the same owner, a clean one, or a new one.
    pub async fn circuit_for(
        self: &Arc<Self>,
        isolation: &Isolation,
        target: Target,
        avoid: &(dyn Fn(&RelayId) -> bool + Sync),
    ) -> Result<Arc<Circuit>, CircuitError> {
        self.state().predictor.on_asked(target, Instant::now());
        if let Some(circuit) = self.find(isolation, target, avoid) {
            return Ok(circuit);
        }
        // One build for an owner at a time: those who wait share what it gives.
        let turn = self
            .state()
            .building
            .entry(isolation.clone())
            .or_default()
            .clone();
        let guard = turn.lock().await;
        let result = match self.find(isolation, target, avoid) {
            Some(circuit) => Ok(circuit),
            None => self.build(target, avoid).await.inspect(|circuit| {
                let owner = Some((isolation.clone(), Instant::now()));
                self.hold(circuit.clone(), owner);
            }),
        };
        drop(guard);
        let mut state = self.state();
        if Arc::strong_count(&turn) <= 2 {
            state.building.remove(isolation);
        }
        result
    }

    /// Takes a built circuit in.
    pub(super) fn hold(&self, circuit: Arc<Circuit>, owner: Option<(Isolation, Instant)>) {
        let mut state = self.state();
        if state.stopped {
            circuit.close();
            return;
        }
        if state.circuits.len() >= MOST_CIRCUITS {
            let idle = state
                .circuits
                .iter()
                .position(|pooled| pooled.circuit.open_streams() == 0);
            if let Some(idle) = idle {
                state.circuits.remove(idle).circuit.close();
            }
        }
        state.circuits.push(Pooled { circuit, owner });
    }

    fn find(
        &self,
        isolation: &Isolation,
        target: Target,
        avoid: &dyn Fn(&RelayId) -> bool,
    ) -> Option<Arc<Circuit>> {
        let max_dirty = self.max_dirty();
        let mut state = self.state();
        state.circuits.retain(|pooled| !pooled.circuit.is_lost());
        let fits = |pooled: &Pooled| {
            let exit = pooled.circuit.exit();
            target.is_allowed_by(exit) && !avoid(&exit.identity) && pooled.circuit.has_room()
        };
        let owned = state.circuits.iter().find(|pooled| {
            let ours = pooled.owner.as_ref();
            ours.is_some_and(|(owner, since)| owner == isolation && since.elapsed() < max_dirty)
                && fits(pooled)
        });
        if let Some(pooled) = owned {
            return Some(pooled.circuit.clone());
        }
        let clean = state
            .circuits
            .iter_mut()
            .find(|p| p.owner.is_none() && fits(p))?;
        clean.owner = Some((isolation.clone(), Instant::now()));
        let circuit = clean.circuit.clone();
        drop(state);
        self.wake.notify_one();
        Some(circuit)
    }

    fn selector(&self) -> Result<Arc<PathSelector>, CircuitError> {
        let consensus = self.consensus().ok_or(CircuitError::NoConsensus)?;
        let mut state = self.state();
        if let Some(selector) = &state.selector
            && Arc::ptr_eq(selector.consensus(), &consensus)
        {
            return Ok(selector.clone());
        }
        let selector = Arc::new(PathSelector::new(consensus));
        state.selector = Some(selector.clone());
        Ok(selector)
    }

    /// Chooses a path; relays that failed lately are avoided while others are left.
    pub(crate) fn choose(
        &self,
        target: Target,
        avoid: &dyn Fn(&RelayId) -> bool,
    ) -> Result<Path, CircuitError> {
        let selector = self.selector()?;
        let careful = {
            let (state, now) = (self.state(), Instant::now());
            let avoided = state.health.avoided(now);
            move |relay: &RelayId| avoided.contains(relay)
        };
        let strict = |relay: &RelayId| avoid(relay) || careful(relay);
        let mut request = PathRequest::new(target);
        request.exclude = &strict;
        if let Ok(path) = selector.choose(&mut rand::rng(), &request) {
            return Ok(path);
        }
        let mut request = PathRequest::new(target);
        request.exclude = avoid;
        Ok(selector.choose(&mut rand::rng(), &request)?)
    }

    /// Starts a circuit at `first`.
    pub(crate) async fn begin(&self, first: &Entry) -> Result<Builder, BuildError> {
        let window = self
            .consensus()
            .map_or(512, |c| c.params().circuit_window_cells as usize);
        timeout(
            HOP_TIMEOUT,
            Builder::first(&self.links, self.network, first, window),
        )
        .await
        .unwrap_or(Err(BuildError::TimedOut { hop: HopIndex(0) }))
    }

    /// Adds a hop to a circuit.
    pub(crate) async fn go_on(
        &self,
        builder: &mut Builder,
        next: &Entry,
    ) -> Result<(), BuildError> {
        let hop = HopIndex(builder.len() as u8);
        timeout(HOP_TIMEOUT, builder.extend(next))
            .await
            .unwrap_or(Err(BuildError::TimedOut { hop }))
    }

    /// Builds a circuit through exactly these relays, with ten seconds for each.
    pub async fn build_path(self: &Arc<Self>, hops: &[Entry]) -> Result<Arc<Circuit>, BuildError> {
        let (Some(first), Some(exit)) = (hops.first(), hops.last()) else {
            return Err(BuildError::Length);
        };
        let mut builder = self.begin(first).await?;
        let mut rtt = Duration::ZERO;
        for next in &hops[1..] {
            let asked = Instant::now();
            self.go_on(&mut builder, next).await?;
            rtt = asked.elapsed();
        }
        let identities = hops.iter().map(|hop| hop.identity).collect();
        self.finish(builder, identities, exit.clone(), rtt)
    }

    fn finish(
        self: &Arc<Self>,
        builder: Builder,
        hops: Vec<RelayId>,
        exit: Entry,
        rtt: Duration,
    ) -> Result<Arc<Circuit>, BuildError> {
        let streams = Streams::new(builder.mux()?);
        let (link, inbox, circ, layers) = builder.hand_over();
        let circ = circ.ok_or(BuildError::Length)?;
        let doubted = Arc::default();
        let task = CircuitTask {
            link,
            inbox,
            circ,
            layers,
            streams: streams.clone(),
            rtt,
            doubted: Arc::clone(&doubted),
        };
        let (pool, path) = (Arc::downgrade(self), hops.clone());
        self.tasks.spawn(async move {
            let end = task.run().await;
            tracing::debug!(%end, "a circuit has ended");
            if let Some(pool) = pool.upgrade() {
                pool.on_end(&path, &end);
            }
        });
        Ok(Arc::new(Circuit {
            streams,
            hops,
            exit,
            built: Instant::now(),
            doubted,
        }))
    }

    /// A circuit has ended: what its end says of its relays, and of other circuits.
    fn on_end(&self, hops: &[RelayId], end: &CircuitEnd) {
        let suspects: &[RelayId] = match end {
            CircuitEnd::Finished | CircuitEnd::Overrun => &[],
            // The link to the first relay, or that relay.
            CircuitEnd::Destroyed(_) => &hops[..1],
            CircuitEnd::Truncated(hop) => hops
                .get(usize::from(hop.0) + 1)
                .map_or(&[], core::slice::from_ref),
            // Any of them may have swallowed it.
            CircuitEnd::Silent | CircuitEnd::Tampered(_) | CircuitEnd::Violation(_) => hops,
        };
        let (mut state, now) = (self.state(), Instant::now());
        for suspect in suspects {
            state.health.on_failed(*suspect, now);
        }
        if !suspects.is_empty() {
            // What took this one may have taken those that share a relay with it: they are asked at once, so that
            // nobody has to find out by waiting.
            state
                .circuits
                .iter()
                .filter(|pooled| pooled.circuit.hops().iter().any(|hop| hops.contains(hop)))
                .for_each(|pooled| pooled.circuit.doubt());
        }
        drop(state);
        self.wake.notify_one();
    }
}
