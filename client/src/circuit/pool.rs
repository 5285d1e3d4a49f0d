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
use crate::guard::{Keeper, Purpose, Verdict};
use crate::path::{
    Path, PathError, PathRequest, PathSelector, PeerRules, Position, RuleError, Target,
};

/// One hop must answer within this time, when a circuit is built hop by hop for a user to see.
const HOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Circuits held; beyond them the one that has been idle for longest goes.
const MOST_CIRCUITS: usize = 512;
/// How often a circuit asks whether a better guard has turned out to answer.
const BETTER_POLL: Duration = Duration::from_millis(100);

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

/// What a circuit is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// What its exit must let out to.
    pub target: Target,
    /// The owner's rule for the destination ([`PeerRules::rule_for`]).
    pub rule: Option<usize>,
}

impl From<Target> for Wanted {
    fn from(target: Target) -> Self {
        Self { target, rule: None }
    }
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
    guards: Arc<Keeper>,
    rules: Arc<PeerRules>,
    state: Mutex<State>,
    pub(super) wake: tokio::sync::Notify,
    /// Circuits being built at once.
    pub(super) builds: Arc<Semaphore>,
}

/// A guard being tried: however the try ends, also when nobody waits for it any more, it ends.
struct Attempt<'a> {
    guards: &'a Keeper,
    guard: RelayId,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.guards.on_abandoned(&self.guard);
    }
}

impl Pool {
    pub(crate) fn new(
        network: NetworkId,
        links: Links,
        tasks: Tasks,
        consensus: watch::Receiver<Option<Arc<Consensus>>>,
        guards: Arc<Keeper>,
        rules: Arc<PeerRules>,
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
            guards,
            rules,
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
        wanted: impl Into<Wanted>,
        avoid: &(dyn Fn(&RelayId) -> bool + Sync),
    ) -> Result<Arc<Circuit>, CircuitError> {
        let wanted = wanted.into();
        self.state()
            .predictor
            .on_asked(wanted.target, Instant::now());
        if let Some(circuit) = self.find(isolation, wanted, avoid) {
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
        let result = match self.find(isolation, wanted, avoid) {
            Some(circuit) => Ok(circuit),
            None => self.build(wanted, avoid).await.inspect(|circuit| {
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
        wanted: Wanted,
        avoid: &dyn Fn(&RelayId) -> bool,
    ) -> Option<Arc<Circuit>> {
        let max_dirty = self.max_dirty();
        let mut state = self.state();
        state.circuits.retain(|pooled| !pooled.circuit.is_lost());
        let fits = |pooled: &Pooled| {
            let exit = pooled.circuit.exit();
            wanted.target.is_allowed_by(exit)
                && !avoid(&exit.identity)
                && pooled.circuit.has_room()
                && self.serves(wanted, exit)
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
            .find(|p| p.owner.is_none() && fits(p) && self.suits(wanted, p.circuit.exit()))?;
        clean.owner = Some((isolation.clone(), Instant::now()));
        let circuit = clean.circuit.clone();
        drop(state);
        self.wake.notify_one();
        Some(circuit)
    }

    /// Do the owner's rules for the destination let this exit serve it?
    fn serves(&self, wanted: Wanted, exit: &Entry) -> bool {
        wanted.rule.is_none() || self.rules.permits(Position::Exit, wanted.rule, exit)
    }

    /// Would a clean circuit with this exit be as good as a new one? It was built without regard to what the owner
    /// prefers for this destination.
    fn suits(&self, wanted: Wanted, exit: &Entry) -> bool {
        let prefers = || self.rules.prefers(Position::Exit, wanted.rule, exit);
        wanted.rule.is_none() || prefers() != Some(false)
    }

    /// The owner's rules.
    pub(crate) fn rules(&self) -> &Arc<PeerRules> {
        &self.rules
    }

    /// Do the owner's lists leave something to choose? Says nothing while no consensus is held.
    pub(crate) fn check_rules(&self) -> Result<(), RuleError> {
        self.selector().map_or(Ok(()), |selector| selector.check())
    }

    fn selector(&self) -> Result<Arc<PathSelector>, CircuitError> {
        let consensus = self.consensus().ok_or(CircuitError::NoConsensus)?;
        let mut state = self.state();
        if let Some(selector) = &state.selector
            && Arc::ptr_eq(selector.consensus(), &consensus)
        {
            return Ok(selector.clone());
        }
        let selector = Arc::new(PathSelector::with_rules(consensus, self.rules.clone()));
        state.selector = Some(selector.clone());
        Ok(selector)
    }

    /// The guards that circuits begin at.
    pub fn guards(&self) -> &Arc<Keeper> {
        &self.guards
    }

    /// Chooses a path that begins at a guard; other relays that failed lately are avoided while there are others.
    pub(crate) fn choose(
        &self,
        wanted: impl Into<Wanted>,
        avoid: &dyn Fn(&RelayId) -> bool,
    ) -> Result<Path, CircuitError> {
        self.choose_beside(wanted.into(), avoid, &|_| false)
    }

    /// The same, with another first hop than those that `not_first` names.
    pub(super) fn choose_beside(
        &self,
        wanted: Wanted,
        avoid: &dyn Fn(&RelayId) -> bool,
        not_first: &dyn Fn(&RelayId) -> bool,
    ) -> Result<Path, CircuitError> {
        let selector = self.selector()?;
        self.guards.update(selector.consensus());
        let guard = |exit: &Entry| {
            let fits = |guard: &RelayId| {
                selector.may_share_path(guard, &exit.identity) && !not_first(guard)
            };
            let choice = self.guards.pick(Purpose::Data, &fits);
            choice.map(|choice| choice.identity)
        };
        let avoided = self.state().health.avoided(Instant::now());
        // The only hop is no guard, so that it is the first hop to avoid.
        let alone = self.rules.hops == 1;
        let avoid = |relay: &RelayId| avoid(relay) || (alone && not_first(relay));
        let careful = |relay: &RelayId| avoid(relay) || avoided.contains(relay);
        let mut request = PathRequest::new(wanted.target);
        request.rule = wanted.rule;
        request.hops = usize::from(self.rules.hops);
        request.guard = Some(&guard);
        request.exclude = &careful;
        if let Ok(path) = selector.choose(&mut rand::rng(), &request) {
            return Ok(path);
        }
        request.exclude = &avoid;
        Ok(selector.choose(&mut rand::rng(), &request)?)
    }

    /// Builds a circuit whose first hop is a guard, and tells the guards how it went. `None` when the circuit is
    /// better let go, as better guards have turned out to be worth a try.
    pub(super) async fn build_at_guard(
        self: &Arc<Self>,
        hops: &[Entry],
    ) -> Result<Option<Arc<Circuit>>, BuildError> {
        let guard = hops.first().ok_or(BuildError::Length)?.identity;
        if hops.len() == 1 {
            // 6.16.13: the only hop is the exit, drawn anew for each circuit; no guard is it.
            return self.build_path(hops).await.map(Some);
        }
        self.guards.on_attempt(&guard);
        let attempt = Attempt {
            guards: &self.guards,
            guard,
        };
        // A guard that hangs must not cost every circuit the patience that a far hop deserves.
        let first_hop = (self.state().times.slow_after() * 2).min(HOP_TIMEOUT);
        let circuit = self.build_within(hops, first_hop).await;
        drop(attempt);
        let circuit = circuit.inspect_err(|error| {
            if error.suspect() == HopIndex(0) {
                self.guards.on_failure(&guard);
            }
        })?;
        loop {
            match self.guards.on_success(&guard) {
                Verdict::Use => return Ok(Some(circuit)),
                Verdict::Wait => tokio::time::sleep(BETTER_POLL).await,
                Verdict::TryBetter => {
                    circuit.close();
                    return Ok(None);
                }
            }
        }
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
        self.build_within(hops, HOP_TIMEOUT).await
    }

    /// The same, with so much time for the first.
    async fn build_within(
        self: &Arc<Self>,
        hops: &[Entry],
        first_hop: Duration,
    ) -> Result<Arc<Circuit>, BuildError> {
        let (Some(first), Some(exit)) = (hops.first(), hops.last()) else {
            return Err(BuildError::Length);
        };
        let begun = timeout(first_hop, self.begin(first)).await;
        let mut builder = begun.unwrap_or(Err(BuildError::TimedOut { hop: HopIndex(0) }))?;
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
