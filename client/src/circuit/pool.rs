//! Which circuit a stream goes on, and which are built ahead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cepa_common::dir::{Consensus, Entry};
use cepa_common::ids::{HopIndex, NetworkId, RelayId};
use cepa_common::net::circuit_io::Streams;
use cepa_common::net::tasks::Tasks;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Circuit;
use super::build::{BuildError, Builder};
use super::links::Links;
use super::task::CircuitTask;
use crate::path::{Path, PathError, PathRequest, PathSelector, Target};

/// One hop must answer within this time.
const HOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Paths tried for one circuit.
const BUILD_TRIES: u32 = 12;
/// Pause after the first failure; it doubles with each. A relay that has just
/// started, or a network that has just come back, is there a moment later.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// Longest pause between tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Clean circuits kept ready.
const READY_CIRCUITS: usize = 2;
/// A relay through which a circuit failed is avoided for this time.
const SUSPECT_TIME: Duration = Duration::from_secs(60);
/// Ports that circuits kept ready must let out to.
const READY_PORT: u16 = 443;
/// How often the pool looks after its circuits when nothing else wakes it.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long to wait after so many failures in a row, with jitter (S22).
fn pause_after(failures: u32) -> Duration {
    let longest = FIRST_PAUSE
        .saturating_mul(1 << (failures - 1).min(16))
        .min(LONGEST_PAUSE);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

/// What may share a circuit: streams with equal keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Isolation {
    /// User name and password given to the front end.
    pub credentials: Option<(Vec<u8>, Vec<u8>)>,
    /// A number for each client made by `Client::isolated`, zero for the first.
    pub session: u64,
}

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

struct Pooled {
    circuit: Arc<Circuit>,
    /// Whose it is, and since when; nobody's while it is clean.
    owner: Option<(Isolation, Instant)>,
}

#[derive(Default)]
struct State {
    circuits: Vec<Pooled>,
    suspects: HashMap<RelayId, Instant>,
    selector: Option<Arc<PathSelector>>,
    building: HashMap<Isolation, Arc<tokio::sync::Mutex<()>>>,
    stopped: bool,
}

/// A client's circuits.
pub struct Pool {
    network: NetworkId,
    links: Links,
    tasks: Tasks,
    consensus: watch::Receiver<Option<Arc<Consensus>>>,
    state: Mutex<State>,
    wake: tokio::sync::Notify,
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
            state: Mutex::default(),
            wake: tokio::sync::Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest consensus, while it may be used.
    pub fn consensus(&self) -> Option<Arc<Consensus>> {
        self.consensus.borrow().clone()
    }

    /// Keeps clean circuits ready and retires old ones, for as long as the client runs.
    pub(crate) async fn look_after(self: Arc<Self>) {
        loop {
            self.retire();
            if self.clean_circuits() < READY_CIRCUITS && self.consensus().is_some() {
                match self.build(Target::Name(READY_PORT), &|_| false).await {
                    Ok(circuit) => {
                        self.state().circuits.push(Pooled {
                            circuit,
                            owner: None,
                        });
                        continue;
                    }
                    Err(error) => tracing::debug!(%error, "no circuit could be built ahead"),
                }
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(UPKEEP) => {}
            }
        }
    }

    fn clean_circuits(&self) -> usize {
        let state = self.state();
        state
            .circuits
            .iter()
            .filter(|p| p.owner.is_none() && !p.circuit.is_lost())
            .count()
    }

    fn max_dirty(&self) -> Duration {
        let seconds = self
            .consensus()
            .map_or(600, |c| c.params().circuit_max_dirty_seconds);
        Duration::from_secs(u64::from(seconds))
    }

    /// Lets go of circuits that are lost, or old and idle.
    fn retire(&self) {
        let max_dirty = self.max_dirty();
        let mut state = self.state();
        state.circuits.retain(|pooled| {
            let age = match &pooled.owner {
                Some((_, since)) => since.elapsed(),
                None => pooled.circuit.built().elapsed(),
            };
            let retired = age > max_dirty && pooled.circuit.open_streams() == 0;
            if retired {
                pooled.circuit.close();
            }
            !retired && !pooled.circuit.is_lost()
        });
        state
            .suspects
            .retain(|_, since| since.elapsed() < SUSPECT_TIME);
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
        &self,
        isolation: &Isolation,
        target: Target,
        avoid: &(dyn Fn(&RelayId) -> bool + Sync),
    ) -> Result<Arc<Circuit>, CircuitError> {
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
                self.state().circuits.push(Pooled {
                    circuit: circuit.clone(),
                    owner,
                });
            }),
        };
        drop(guard);
        let mut state = self.state();
        if Arc::strong_count(&turn) <= 2 {
            state.building.remove(isolation);
        }
        result
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
        let suspects: Vec<RelayId> = self.state().suspects.keys().copied().collect();
        let careful = |relay: &RelayId| avoid(relay) || suspects.contains(relay);
        let mut request = PathRequest::new(target);
        request.exclude = &careful;
        if let Ok(path) = selector.choose(&mut rand::rng(), &request) {
            return Ok(path);
        }
        let mut request = PathRequest::new(target);
        request.exclude = avoid;
        Ok(selector.choose(&mut rand::rng(), &request)?)
    }

    /// Builds a circuit that is in no pool: its streams are the caller's alone.
    pub(crate) async fn build(
        &self,
        target: Target,
        avoid: &(dyn Fn(&RelayId) -> bool + Sync),
    ) -> Result<Arc<Circuit>, CircuitError> {
        let mut last = CircuitError::NoConsensus;
        for failures in 0..BUILD_TRIES {
            if failures > 0 {
                tokio::time::sleep(pause_after(failures)).await;
            }
            if self.state().stopped {
                return Err(CircuitError::Stopping);
            }
            let hops: Vec<Entry> = self.choose(target, avoid)?.hops().cloned().collect();
            match self.build_path(&hops).await {
                Ok(circuit) => return Ok(circuit),
                Err(error) => {
                    tracing::debug!(%error, "a circuit was not built; trying another path");
                    if let Some(hop) = hops.get(usize::from(error.suspect().0)) {
                        self.suspect(hop.identity);
                    }
                    last = error.into();
                }
            }
        }
        Err(last)
    }

    /// Avoids a relay for a while.
    pub(crate) fn suspect(&self, relay: RelayId) {
        self.state().suspects.insert(relay, Instant::now());
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

    /// Builds a circuit through exactly these relays.
    pub async fn build_path(&self, hops: &[Entry]) -> Result<Arc<Circuit>, BuildError> {
        let (Some(first), Some(exit)) = (hops.first(), hops.last()) else {
            return Err(BuildError::Length);
        };
        let mut builder = self.begin(first).await?;
        for next in &hops[1..] {
            self.go_on(&mut builder, next).await?;
        }
        let identities = hops.iter().map(|hop| hop.identity).collect();
        self.finish(builder, identities, exit.clone())
    }

    fn finish(
        &self,
        builder: Builder,
        hops: Vec<RelayId>,
        exit: Entry,
    ) -> Result<Arc<Circuit>, BuildError> {
        let streams = Streams::new(builder.mux()?);
        let (link, inbox, circ, layers) = builder.hand_over();
        let circ = circ.ok_or(BuildError::Length)?;
        let task = CircuitTask {
            link,
            inbox,
            circ,
            layers,
            streams: streams.clone(),
        };
        self.tasks.spawn(async move {
            let end = task.run().await;
            tracing::debug!(%end, "a circuit has ended");
        });
        Ok(Arc::new(Circuit {
            streams,
            hops,
            exit,
            built: Instant::now(),
        }))
    }
}
