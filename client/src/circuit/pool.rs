//! Which circuit a stream goes on, and which are built ahead.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cepa_common::dir::{Consensus, Entry, Params};
use cepa_common::ids::{HopIndex, NetworkId, RelayId};
use cepa_common::net::circuit_end::EndDriver;
use cepa_common::net::circuit_io::Streams;
use cepa_common::net::tasks::Tasks;
use cepa_common::stream::LegId;
use cepa_common::sync::lock;
use cepa_common::world::{random, steady};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::build::{BuildError, Builder};
use super::health::Health;
use super::isolation::Isolation;
use super::legs::{Grower, Multipath};
use super::links::Links;
use super::predict::Predictor;
use super::race::MOST_BUILDS;
use super::task::{CircuitEnd, CircuitTask, LastHopLayers};
use super::timeout::BuildTimes;
use super::{Circuit, Shared};
use crate::events::{BootstrapEvent, Reporter};
use crate::guard::{Keeper, Purpose, Verdict};
use crate::path::{
    ExitTarget, Path, PathError, PathRequest, PathSelector, PeerRules, Position, RuleError,
};
use crate::skew::ClockSkew;

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
    pub target: ExitTarget,
    /// The owner's rule for the destination ([`PeerRules::rule_for`]).
    pub rule: Option<usize>,
    /// The exit, where it is settled.
    pub exit: Option<RelayId>,
}

impl From<ExitTarget> for Wanted {
    fn from(target: ExitTarget) -> Self {
        Self {
            target,
            rule: None,
            exit: None,
        }
    }
}

/// A circuit that is built and has no task yet.
pub(super) struct Raised {
    pub(super) builder: Builder,
    pub(super) hops: Vec<Entry>,
    /// The round trip to its last hop.
    pub(super) rtt: Duration,
    /// The identity of the client that it belongs to.
    pub(super) generation: u64,
}

/// What a pool holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Circuits that may take streams.
    pub ready: usize,
    /// Those of them that have carried none yet.
    pub clean: usize,
    /// Circuits whose streams have a second leg, retired ones among them.
    pub paired: usize,
    /// Open streams, those of retired circuits among them.
    pub streams: usize,
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
    /// Counts new identities.
    pub(super) generation: u64,
}

/// A client's circuits.
pub struct Pool {
    network: NetworkId,
    links: Links,
    pub(super) tasks: Tasks,
    consensus: watch::Receiver<Option<Arc<Consensus>>>,
    guards: Arc<Keeper>,
    pub(super) reporter: Reporter,
    rules: Arc<PeerRules>,
    multipath: Multipath,
    state: Mutex<State>,
    pub(super) wake: tokio::sync::Notify,
    /// Circuits being built at once.
    pub(super) builds: Arc<Semaphore>,
}

/// A guard being tried: however the try ends, also when nobody waits for it any more, it ends.
struct Attempt<'a> {
    pool: &'a Pool,
    guard: RelayId,
    /// The guard has answered, and there is more to be built behind it.
    entered: AtomicBool,
    built: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.pool.guards.on_abandoned(&self.guard);
        if self.entered.load(Ordering::Relaxed) {
            self.pool.count_circuit(&self.guard, self.built);
        }
    }
}

impl Pool {
    pub(crate) fn new(
        network: NetworkId,
        links: Links,
        tasks: Tasks,
        consensus: watch::Receiver<Option<Arc<Consensus>>>,
        guards: Arc<Keeper>,
        reporter: Reporter,
        (rules, multipath): (Arc<PeerRules>, Multipath),
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
                predictor: Predictor::new(steady::now()),
                selector: None,
                building: HashMap::new(),
                stopped: false,
                generation: 0,
            }),
            guards,
            reporter,
            rules,
            multipath,
            wake: tokio::sync::Notify::new(),
            builds: Arc::new(Semaphore::new(MOST_BUILDS)),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The newest consensus, while it may be used.
    pub fn consensus(&self) -> Option<Arc<Consensus>> {
        self.consensus.borrow().clone()
    }

    /// Wakes when there is another consensus, or none any more.
    pub(super) fn consensus_news(&self) -> watch::Receiver<Option<Arc<Consensus>>> {
        self.consensus.clone()
    }

    pub(super) fn max_dirty(&self) -> Duration {
        let seconds = self
            .consensus()
            .map_or(600, |c| c.params().circuit_max_dirty_seconds);
        Duration::from_secs(u64::from(seconds))
    }

    /// How many new identities there were; streams say by [`Isolation::of_identity`] under which they were asked for.
    pub fn identity(&self) -> u64 {
        self.state().generation
    }

    /// Retires all circuits at once: no stream that is opened from now on shares one with those before, not even one
    /// that is being built. Streams that are open go on; a circuit ends with the last of them, or now if it has none.
    /// Guards stay, as who changes them often meets a hostile one sooner; what was asked for lately is forgotten.
    ///
    /// Returns how many circuits were retired.
    pub fn new_identity(&self) -> usize {
        let mut state = self.state();
        let of_before = state.generation;
        state.generation += 1;
        state.predictor = Predictor::new(steady::now());
        let live =
            |pooled: &&Pooled| !pooled.circuit.is_lost() && pooled.circuit.generation == of_before;
        let retired = state.circuits.iter().filter(live).count();
        state.circuits.retain(|pooled| {
            let in_use = pooled.circuit.open_streams() > 0;
            if !in_use {
                pooled.circuit.close();
            }
            in_use
        });
        drop(state);
        self.wake.notify_one();
        retired
    }

    /// Ends all circuits, and every stream on them.
    pub(crate) fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        for pooled in state.circuits.drain(..) {
            pooled.circuit.close();
        }
        drop(state);
        self.wake.notify_one();
    }

    /// How many circuits and streams there are.
    pub fn counts(&self) -> Counts {
        let state = self.state();
        let live = state.circuits.iter().filter(|p| !p.circuit.is_lost());
        let mut counts = Counts::default();
        for pooled in live {
            counts.streams += pooled.circuit.open_streams();
            counts.paired += usize::from(pooled.circuit.legs() > 1);
            if pooled.circuit.generation == state.generation {
                counts.ready += 1;
                counts.clean += usize::from(pooled.owner.is_none());
            }
        }
        counts
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
            .on_asked(wanted.target, steady::now());
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
            None => self
                .build(Purpose::Data, wanted, avoid)
                .await
                .inspect(|circuit| {
                    let owner = Some((isolation.clone(), steady::now()));
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
        // One for a stream that is about to be opened is held, though it takes no other: it is looked after.
        let is_stale = circuit.generation != state.generation && owner.is_none();
        if state.stopped || is_stale {
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

    pub(super) fn find(
        &self,
        isolation: &Isolation,
        wanted: Wanted,
        avoid: &dyn Fn(&RelayId) -> bool,
    ) -> Option<Arc<Circuit>> {
        let max_dirty = self.max_dirty();
        let mut state = self.state();
        state.circuits.retain(|pooled| !pooled.circuit.is_lost());
        let generation = state.generation;
        let fits = |pooled: &Pooled| {
            let exit = pooled.circuit.exit();
            pooled.circuit.generation == generation
                && wanted.target.is_allowed_by(exit)
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
        clean.owner = Some((isolation.clone(), steady::now()));
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

    pub(super) fn selector(&self) -> Result<Arc<PathSelector>, CircuitError> {
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

    /// What relays say of this computer's clock.
    pub(super) fn skew(&self) -> &ClockSkew {
        self.links.skew()
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
        self.choose_beside(Purpose::Data, wanted.into(), avoid, &|_| false)
    }

    /// The same, with another first hop than those that `not_first` names.
    pub(super) fn choose_beside(
        &self,
        purpose: Purpose,
        wanted: Wanted,
        avoid: &dyn Fn(&RelayId) -> bool,
        not_first: &dyn Fn(&RelayId) -> bool,
    ) -> Result<Path, CircuitError> {
        let selector = self.selector()?;
        self.guards.update(selector.consensus());
        self.tell_guards();
        let guard = |exit: &Entry| {
            let fits = |guard: &RelayId| {
                selector.may_share_path(guard, &exit.identity) && !not_first(guard)
            };
            let choice = self.guards.pick(purpose, &fits);
            choice.map(|choice| choice.identity)
        };
        let avoided = self.state().health.avoided(steady::now());
        // The only hop is no guard, so that it is the first hop to avoid.
        let alone = self.rules.hops == 1;
        let avoid = |relay: &RelayId| avoid(relay) || (alone && not_first(relay));
        let careful = |relay: &RelayId| avoid(relay) || avoided.contains(relay);
        let mut request = PathRequest::new(wanted.target);
        request.rule = wanted.rule;
        request.last = wanted.exit;
        request.hops = usize::from(self.rules.hops);
        request.guard = Some(&guard);
        request.exclude = &careful;
        if let Ok(path) = selector.choose(&mut random::rng(), &request) {
            return Ok(path);
        }
        request.exclude = &avoid;
        Ok(selector.choose(&mut random::rng(), &request)?)
    }

    /// Builds a circuit whose first hop is a guard, and tells the guards how it went. `None` when the circuit is
    /// better let go, as better guards have turned out to be worth a try.
    pub(super) async fn build_at_guard(
        self: &Arc<Self>,
        hops: &[Entry],
        rule: Option<usize>,
    ) -> Result<Option<Arc<Circuit>>, BuildError> {
        let raised = self.raise_at_guard(hops).await?;
        let finish = |raised: Raised| {
            // A second leg has a guard of its own, which an owner who wants one alone does not want.
            let may_grow = raised.hops.len() > 1
                && self.multipath != Multipath::Never
                && self.rules.guards != Some(1);
            self.finish(raised, may_grow.then_some(rule))
        };
        raised.map(finish).transpose()
    }

    /// The same, leaving its task to the caller.
    pub(super) async fn raise_at_guard(
        &self,
        hops: &[Entry],
    ) -> Result<Option<Raised>, BuildError> {
        let guard = hops.first().ok_or(BuildError::Length)?.identity;
        if hops.len() == 1 {
            // 6.16.13: the only hop is the exit, drawn anew for each circuit; no guard is it.
            return self.raise(hops, HOP_TIMEOUT, &|_| {}).await.map(Some);
        }
        self.guards.on_attempt(&guard);
        let mut attempt = Attempt {
            pool: self,
            guard,
            entered: AtomicBool::new(false),
            built: false,
        };
        let on_hop = |hop: usize| {
            // A circuit of one hop has nothing behind its guard that this could fail.
            attempt.entered.store(hops.len() > 1, Ordering::Relaxed);
            self.guard_answers(&guard);
            let hops = hops.len();
            self.reporter.stage(BootstrapEvent::Circuit { hop, hops });
        };
        // A guard that hangs must not cost every circuit the patience that a far hop deserves.
        let first_hop = (self.state().times.slow_after() * 2).min(HOP_TIMEOUT);
        let raised = self.raise(hops, first_hop, &on_hop).await;
        attempt.built = raised.is_ok();
        drop(attempt);
        let raised = raised.inspect_err(|error| {
            if error.suspect() == HopIndex(0) {
                self.guards.on_failure(&guard);
                self.tell_of_failure(&guard);
            }
        })?;
        loop {
            match self.guards.on_success(&guard) {
                Verdict::Use => return Ok(Some(raised)),
                Verdict::Wait => tokio::time::sleep(BETTER_POLL).await,
                // It is closed with its builder.
                Verdict::TryBetter => return Ok(None),
            }
        }
    }

    /// Starts a circuit at `first`.
    pub(crate) async fn begin(&self, first: &Entry) -> Result<Builder, BuildError> {
        let pacing = self
            .consensus()
            .map_or_else(Params::default, |c| c.params().clone());
        timeout(
            HOP_TIMEOUT,
            Builder::first(&self.links, self.network, first, pacing),
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
        let raised = self.raise(hops, HOP_TIMEOUT, &|_| {}).await?;
        // These relays and no others.
        self.finish(raised, None)
    }

    /// Builds along these relays, with so much time for the first; `on_hop` hears of each, from 1 on.
    async fn raise(
        &self,
        hops: &[Entry],
        first_hop: Duration,
        on_hop: &(dyn Fn(usize) + Sync),
    ) -> Result<Raised, BuildError> {
        // Whose it is was decided when it was asked for, whatever happens while it is built.
        let generation = self.state().generation;
        let first = hops.first().ok_or(BuildError::Length)?;
        let begun = timeout(first_hop, self.begin(first)).await;
        let mut builder = begun.unwrap_or(Err(BuildError::TimedOut { hop: HopIndex(0) }))?;
        on_hop(1);
        let mut rtt = Duration::ZERO;
        for (number, next) in (2..).zip(&hops[1..]) {
            let asked = steady::now();
            self.go_on(&mut builder, next).await?;
            rtt = asked.elapsed();
            on_hop(number);
        }
        Ok(Raised {
            builder,
            hops: hops.to_vec(),
            rtt,
            generation,
        })
    }

    /// Gives a circuit its task. If it `grows`, by which of the owner's rules it was built, it may get a second leg.
    fn finish(
        self: &Arc<Self>,
        raised: Raised,
        grows: Option<Option<usize>>,
    ) -> Result<Arc<Circuit>, BuildError> {
        let streams = Streams::new(raised.builder.mux()?);
        let hops = raised.hops.iter().map(|hop| hop.identity).collect();
        let generation = raised.generation;
        let exit = raised.hops.last().cloned().ok_or(BuildError::Length)?;
        let shared = Shared::new(grows.map(|rule| Grower::new(self, rule, generation)));
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

    /// Begins the task of a circuit, a leg of `streams`.
    pub(super) fn run_leg(
        self: &Arc<Self>,
        raised: Raised,
        streams: Arc<Streams>,
        leg: LegId,
        shared: Arc<Shared>,
    ) -> Option<()> {
        let (link, inbox, circ, layers) = raised.builder.hand_over();
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
        let pool = Arc::downgrade(self);
        self.tasks.spawn(async move {
            let end = task.run().await;
            tracing::debug!(%end, "a circuit has ended");
            let path = shared.on_ended(leg);
            if let Some(pool) = pool.upgrade() {
                pool.on_end(&path, &end);
            }
        });
        Some(())
    }

    /// When circuits get a second leg.
    pub(super) fn multipath(&self) -> Multipath {
        self.multipath
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
        let (mut state, now) = (self.state(), steady::now());
        for suspect in suspects {
            state.health.on_failed(*suspect, now);
        }
        if !suspects.is_empty() {
            // What took this one may have taken those that share a relay with it: they are asked at once, so that
            // nobody has to find out by waiting.
            state
                .circuits
                .iter()
                .filter(|pooled| pooled.circuit.passes(hops))
                .for_each(|pooled| pooled.circuit.doubt());
        }
        drop(state);
        self.wake.notify_one();
    }
}
