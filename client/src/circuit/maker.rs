//! The maker: chooses paths and builds circuits along them, at guards or through relays that are named.
//!
//! A circuit that the maker has built has no task yet ([`Raised`]); [`super::legs`] gives it one. What the maker learns
//! of relays and of times counts for the circuits that come after.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cepa_common::dir::{Consensus, Entry, Params};
use cepa_common::ids::{HopIndex, NetworkId, RelayId};
use cepa_common::net::establish::EstablishError;
use cepa_common::net::queue::LinkQueue;
use cepa_common::net::tasks::Tasks;
use cepa_common::sync::lock;
use cepa_common::world::{World, random, steady};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::build::{BuildError, Builder, GuardFault};
use super::built::Circuit;
use super::choose::{Choosing, First, Wanted};
use super::growth::Multipath;
use super::health::{Blame, Health};
use super::links::GuardLinks;
use super::memory::MemoryLimit;
use super::report::Announcer;
use super::shelf::ExitFit;
use super::stock::Stock;
use super::timeout::BuildTimes;
use crate::guard::{Keeper, Purpose, Verdict};
use crate::path::{Path, PathError, PathSelector, PeerRules, Position, RuleError};
use cepa_common::net::skew::ClockSkew;

/// The most circuits that a whole client builds at once.
pub(super) const MOST_BUILDS: usize = 32;
/// The time within which a hop must answer when a circuit is built hop by hop for a user to see.
pub(super) const HOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a circuit asks whether a better guard has turned out to answer, or whether its own has failed.
const GUARD_POLL: Duration = Duration::from_millis(100);

/// Why there is no circuit.
#[derive(Debug, thiserror::Error)]
pub enum CircuitError {
    /// The client holds no consensus that may be used.
    #[error("the client has no usable consensus yet")]
    NoConsensus,
    /// No path fits the request.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Every path that was tried failed. This is the last failure.
    #[error("no circuit could be built: {0}")]
    Build(#[from] BuildError),
    /// The client is stopping.
    #[error("the client is stopping")]
    Stopping,
}

/// A circuit that is built and has no task yet.
pub(super) struct Raised {
    pub(super) builder: Builder,
    pub(super) hops: Vec<Entry>,
    /// The round trip to the last hop.
    pub(super) rtt: Duration,
    /// The identity of the client for which the circuit was asked.
    pub(super) generation: u64,
}

/// What a maker works with.
pub(crate) struct MakerConfig {
    pub(crate) network: NetworkId,
    pub(crate) links: GuardLinks,
    pub(crate) tasks: Tasks,
    /// The newest consensus, while it may be used.
    pub(crate) consensus: watch::Receiver<Option<Arc<Consensus>>>,
    pub(crate) guards: Arc<Keeper>,
    pub(crate) announcer: Announcer,
    /// What the owner decides about paths.
    pub(crate) rules: Arc<PeerRules>,
    /// When circuits get a second leg.
    pub(crate) multipath: Multipath,
}

/// What a maker has learned.
pub(super) struct Memory {
    pub(super) health: Health,
    pub(super) times: BuildTimes,
    /// The selector of the newest consensus that a path was chosen from.
    selector: Option<Arc<PathSelector>>,
}

/// Builds a client's circuits.
pub(crate) struct Maker {
    network: NetworkId,
    pub(super) links: GuardLinks,
    pub(super) tasks: Tasks,
    consensus: watch::Receiver<Option<Arc<Consensus>>>,
    guards: Arc<Keeper>,
    announcer: Announcer,
    rules: Mutex<Arc<PeerRules>>,
    multipath: Mutex<Multipath>,
    memory: Mutex<Memory>,
    /// Holds the built circuits that nobody waits for any more, and knows the client's present identity.
    pub(super) stock: Arc<Stock>,
    /// Bounds the circuits that are built at once.
    pub(super) builds: Arc<Semaphore>,
}

/// A guard being tried. The try ends when this value is dropped, also if that is because nobody waits for it any more.
struct Attempt<'a> {
    maker: &'a Maker,
    guard: RelayId,
    /// Has the guard answered, and is there more to build behind it?
    entered: AtomicBool,
    built: bool,
}

impl<'a> Attempt<'a> {
    fn new(maker: &'a Maker, guard: RelayId) -> Self {
        maker.guards.on_attempt(&guard);
        Self {
            maker,
            guard,
            entered: AtomicBool::new(false),
            built: false,
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.maker.guards.on_abandoned(&self.guard);
        if self.entered.load(Ordering::Relaxed) {
            let announcer = &self.maker.announcer;
            announcer.count_circuit(&self.guard, self.built);
        }
    }
}

impl Maker {
    pub(super) fn new(config: MakerConfig, stock: Arc<Stock>) -> Self {
        Self {
            network: config.network,
            links: config.links,
            tasks: config.tasks,
            consensus: config.consensus,
            guards: config.guards,
            announcer: config.announcer,
            rules: Mutex::new(config.rules),
            multipath: Mutex::new(config.multipath),
            memory: Mutex::new(Memory {
                health: Health::new(),
                times: BuildTimes::new(),
                selector: None,
            }),
            stock,
            builds: Arc::new(Semaphore::new(MOST_BUILDS)),
        }
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    /// An attempt that has taken longer than this is slow: another may be begun beside it.
    pub(super) fn slow_after(&self) -> Duration {
        self.memory().times.slow_after()
    }

    /// An attempt that has taken longer than this is given up.
    pub(super) fn lost_after(&self) -> Duration {
        self.memory().times.lost_after()
    }

    /// Remembers which relays a failed circuit points at.
    pub(super) fn on_failed(&self, blamed: impl IntoIterator<Item = Blame>) {
        let (mut memory, now) = (self.memory(), steady::now());
        for blame in blamed {
            memory.health.on_failed(blame, now);
        }
    }

    /// When circuits get a second leg.
    pub(super) fn multipath(&self) -> Multipath {
        *lock(&self.multipath)
    }

    /// Circuits get a second leg at another time from now on. Legs that there are stay.
    pub(super) fn set_multipath(&self, multipath: Multipath) {
        *lock(&self.multipath) = multipath;
    }

    /// The newest consensus, while it may be used.
    pub(super) fn consensus(&self) -> Option<Arc<Consensus>> {
        self.consensus.borrow().clone()
    }

    /// Follows the consensus. The receiver wakes when there is another one, or none any more.
    pub(super) fn consensus_news(&self) -> watch::Receiver<Option<Arc<Consensus>>> {
        self.consensus.clone()
    }

    /// What the client may hold.
    pub(crate) fn memory_limit(&self) -> &Arc<MemoryLimit> {
        self.links.memory()
    }

    /// The owner's rules.
    pub(super) fn rules(&self) -> Arc<PeerRules> {
        lock(&self.rules).clone()
    }

    /// Paths are chosen by other rules from now on. Number of hops and of guards, and the destinations that have rules,
    /// must be the same as before. The guards stay in their order; those that the rules refuse are passed over.
    pub(super) fn set_rules(&self, rules: Arc<PeerRules>) {
        *lock(&self.rules) = rules.clone();
        self.guards.set_rules(rules);
        self.memory().selector = None;
    }

    /// Would these rules leave something to choose? Says nothing of the network's relays while no consensus is held.
    pub(super) fn check_other(&self, rules: Arc<PeerRules>) -> Result<(), RuleError> {
        rules.check()?;
        self.consensus().map_or(Ok(()), |consensus| {
            PathSelector::with_rules(consensus, rules).check()
        })
    }

    /// Do the owner's lists leave something to choose? Says nothing while no consensus is held.
    pub(super) fn check_rules(&self) -> Result<(), RuleError> {
        self.selector().map_or(Ok(()), |selector| selector.check())
    }

    /// How well an exit fits what is wanted, by its policy and by the owner's rules for the destination. A clean
    /// circuit was built without regard to what the owner prefers for this destination.
    pub(super) fn exit_fit(&self, wanted: Wanted, exit: &Entry) -> ExitFit {
        if !wanted.target.is_allowed_by(exit) {
            return ExitFit::Unfit;
        }
        if wanted.rule.is_none() {
            return ExitFit::AsGood;
        }
        let rules = self.rules();
        if !rules.permits(Position::Exit, wanted.rule, exit) {
            ExitFit::Unfit
        } else if rules.prefers(Position::Exit, wanted.rule, exit) == Some(false) {
            ExitFit::Serves
        } else {
            ExitFit::AsGood
        }
    }

    pub(super) fn selector(&self) -> Result<Arc<PathSelector>, CircuitError> {
        let consensus = self.consensus().ok_or(CircuitError::NoConsensus)?;
        let mut memory = self.memory();
        if let Some(selector) = &memory.selector
            && Arc::ptr_eq(selector.consensus(), &consensus)
        {
            return Ok(selector.clone());
        }
        let selector = Arc::new(PathSelector::with_rules(consensus, self.rules()));
        memory.selector = Some(selector.clone());
        Ok(selector)
    }

    /// Does a circuit begin at guards that have failed, or in whose place better guards answer (6.21.10)? Only guards
    /// that may be in a path with the circuit's exit are better. Without a selector, which knows that, nothing is.
    pub(super) fn is_outdone(&self, selector: Option<&PathSelector>, circuit: &Circuit) -> bool {
        let Some(selector) = selector.filter(|_| self.rules().hops > 1) else {
            return false;
        };
        let exit = circuit.exit().identity;
        let fits = |guard: &RelayId| selector.may_share_path(guard, &exit);
        let mut guards = circuit.first_hops().into_iter().peekable();
        let is_over = |guard: RelayId| {
            self.guards.answers(&guard) == Some(false) || self.guards.is_outdone(&guard, &fits)
        };
        guards.peek().is_some() && guards.all(is_over)
    }

    /// The world that the client lives in.
    pub(super) fn world(&self) -> &World {
        self.links.world()
    }

    /// Circuits that are begun from now on get new links: the network is another one, or the machine slept, and the
    /// links that there are may be dead.
    pub(super) fn forget_links(&self) {
        self.links.forget_all();
    }

    /// What relays say about this computer's clock.
    pub(super) fn skew(&self) -> &ClockSkew {
        self.links.skew()
    }

    /// The guards that circuits begin at.
    pub(super) fn guards(&self) -> &Arc<Keeper> {
        &self.guards
    }

    /// What tells people of guards and circuits.
    pub(super) fn announcer(&self) -> &Announcer {
        &self.announcer
    }

    /// Chooses a path that begins at a guard; other relays that failed lately are avoided while there are others.
    pub(crate) fn choose(
        &self,
        wanted: impl Into<Wanted>,
        avoid: &dyn Fn(&RelayId) -> bool,
    ) -> Result<Path, CircuitError> {
        self.choose_from(First::Any, Purpose::Data, wanted.into(), avoid)
    }

    /// Chooses a path that begins at a guard which `first` permits.
    pub(super) fn choose_from(
        &self,
        first: First<'_>,
        purpose: Purpose,
        wanted: Wanted,
        avoid: &dyn Fn(&RelayId) -> bool,
    ) -> Result<Path, CircuitError> {
        let selector = self.selector()?;
        self.guards.update(selector.consensus());
        if self.rules().hops > 1 {
            self.announcer.tell_guards();
        }
        let avoided = self.memory().health.avoided(steady::now());
        let choosing = Choosing {
            selector: &selector,
            hops: self.rules().hops,
            first,
            wanted,
            avoid,
            failed: &|relay| avoided.contains(relay),
            pick: &|fits| {
                let choice = self.guards.pick(purpose, fits);
                choice.map(|choice| choice.identity)
            },
        };
        choosing
            .path(&mut random::rng())
            .map_err(CircuitError::from)
    }

    /// Builds a circuit whose first hop is a guard, and tells the guards how it went. The circuit has no task yet.
    /// `None` when better guards have turned out to be worth a try, so that the circuit is not wanted. The hops behind
    /// the guard have the time of `limit` together.
    pub(super) async fn raise_at_guard(
        &self,
        hops: &[Entry],
        limit: Duration,
    ) -> Result<Option<Raised>, BuildError> {
        let guard = hops.first().ok_or(BuildError::Length)?.identity;
        if hops.len() == 1 {
            // The only hop is the exit, which is drawn anew for each circuit and is no guard (6.16.13).
            return self.raise(hops, false, limit, &|_| {}).await.map(Some);
        }
        let mut attempt = Attempt::new(self, guard);
        let on_hop = |hop: usize| {
            // A circuit of one hop has nothing behind its guard that could fail.
            attempt.entered.store(hops.len() > 1, Ordering::Relaxed);
            self.guards.on_created(&guard);
            self.announcer.guard_answers(&guard);
            let hops = hops.len();
            self.announcer.tell_hop(hop, hops);
        };
        let raised = self.raise(hops, true, limit, &on_hop).await;
        attempt.built = raised.is_ok();
        let entered = attempt.entered.load(Ordering::Relaxed);
        drop(attempt);
        let raised = raised.inspect_err(|error| self.on_guard_error(&guard, error, entered))?;
        let until = steady::now() + limit;
        loop {
            match self.guards.on_success(&guard) {
                Verdict::Use => return Ok(Some(raised)),
                Verdict::Wait if steady::now() < until => tokio::time::sleep(GUARD_POLL).await,
                // The circuit is closed when its builder is dropped.
                Verdict::Wait | Verdict::TryBetter => return Ok(None),
            }
        }
    }

    /// Tells the guards what an error says about the guard that the circuit began at.
    fn on_guard_error(&self, guard: &RelayId, error: &BuildError, entered: bool) {
        match error.guard_fault(entered) {
            Some(GuardFault::Failed) => {
                self.guards.on_failure(guard);
                self.announcer.tell_of_failure(guard);
            }
            Some(GuardFault::Busy) => self.on_unanswered(guard, false),
            None => {}
        }
    }

    /// Tells the guards that this guard has left a CREATE without CREATED.
    fn on_unanswered(&self, guard: &RelayId, is_silent: bool) {
        if self.guards.on_unanswered(guard, is_silent) {
            self.announcer.tell_of_failure(guard);
        }
    }

    /// Starts a circuit at `first`.
    pub(crate) async fn begin(&self, first: &Entry) -> Result<Builder, BuildError> {
        self.begin_as(first, false).await
    }

    /// Starts a circuit at `first`, which is a guard or not. The link and the answer have [`HOP_TIMEOUT`] each. A link
    /// that was there already and is lost is dialled anew once, because it may have ended for its idleness.
    async fn begin_as(&self, first: &Entry, is_guard: bool) -> Result<Builder, BuildError> {
        let pacing = self
            .consensus()
            .map_or_else(Params::default, |c| c.params().clone());
        let window_cells = pacing.circuit_window_cells as usize;
        let mut may_repeat = true;
        loop {
            let dialled = timeout(HOP_TIMEOUT, self.links.link_to(first, window_cells)).await;
            let (link, is_old) = dialled.unwrap_or(Err(EstablishError::TimedOut))?;
            let (budget, network) = (self.links.memory().budget(), self.network);
            let create = Builder::first(link.clone(), budget, network, first, pacing.clone());
            let begun = async {
                match is_guard {
                    true => self.watch_guard(&first.identity, &link, create).await,
                    false => create.await,
                }
            };
            let begun = timeout(HOP_TIMEOUT, begun).await;
            let begun = begun.unwrap_or(Err(BuildError::TimedOut { hop: HopIndex(0) }));
            let is_lost = begun.as_ref().is_err_and(BuildError::is_lost);
            if !(is_lost && is_old && may_repeat) {
                return begun;
            }
            self.links.forget(&first.identity, &link);
            may_repeat = false;
        }
    }

    /// Waits for a guard's answer to CREATE. Tells the guards once when it is late, and gives the circuit up when the
    /// guard has failed.
    async fn watch_guard(
        &self,
        guard: &RelayId,
        link: &Arc<LinkQueue>,
        create: impl Future<Output = Result<Builder, BuildError>>,
    ) -> Result<Builder, BuildError> {
        let mut create = core::pin::pin!(create);
        let heard = link.heard();
        let late = (self.slow_after() * 2).min(HOP_TIMEOUT / 2);
        if let Ok(begun) = timeout(late, &mut create).await {
            return begun;
        }
        self.on_unanswered(guard, link.heard() == heard);
        while self.guards.answers(guard) != Some(false) {
            if let Ok(begun) = timeout(GUARD_POLL, &mut create).await {
                return begun;
            }
        }
        // When the guard is tried again, it is by another link: this one may be dead.
        self.links.forget(guard, link);
        Err(BuildError::TimedOut { hop: HopIndex(0) })
    }

    /// Adds a hop to a circuit.
    pub(crate) async fn go_on(
        &self,
        builder: &mut Builder,
        next: &Entry,
    ) -> Result<(), BuildError> {
        self.go_on_within(HOP_TIMEOUT, builder, next).await
    }

    async fn go_on_within(
        &self,
        limit: Duration,
        builder: &mut Builder,
        next: &Entry,
    ) -> Result<(), BuildError> {
        let hop = HopIndex(builder.len() as u8);
        timeout(limit.min(HOP_TIMEOUT), builder.extend(next))
            .await
            .unwrap_or(Err(BuildError::TimedOut { hop }))
    }

    /// Starts a circuit at a guard that no stream will use. The guards hear only whether it answers.
    pub(crate) async fn begin_at_guard(&self, first: &Entry) -> Result<Builder, BuildError> {
        let guard = first.identity;
        let attempt = Attempt::new(self, guard);
        let begun = self.begin_as(first, true).await;
        drop(attempt);
        match &begun {
            Ok(_) => {
                self.guards.on_created(&guard);
                self.guards.on_answered(&guard);
                self.announcer.guard_answers(&guard);
            }
            Err(error) => self.on_guard_error(&guard, error, false),
        }
        begun
    }

    /// Builds a circuit along these relays. `is_guard`: the first of them is a guard. Those behind it have the time of
    /// `limit` together, and [`HOP_TIMEOUT`] each. `on_hop` hears of each hop, from 1 on.
    pub(super) async fn raise(
        &self,
        hops: &[Entry],
        is_guard: bool,
        limit: Duration,
        on_hop: &(dyn Fn(usize) + Sync),
    ) -> Result<Raised, BuildError> {
        // The identity that the circuit belongs to was decided when the circuit was asked for, whatever happens while
        // it is built.
        let generation = self.stock.shelf().generation();
        let first = hops.first().ok_or(BuildError::Length)?;
        let mut builder = self.begin_as(first, is_guard).await?;
        on_hop(1);
        let entered = steady::now();
        let mut rtt = Duration::ZERO;
        for (number, next) in (2..).zip(&hops[1..]) {
            let asked = steady::now();
            let left = limit.saturating_sub(steady::since(entered));
            self.go_on_within(left, &mut builder, next).await?;
            rtt = steady::since(asked);
            on_hop(number);
        }
        Ok(Raised {
            builder,
            hops: hops.to_vec(),
            rtt,
            generation,
        })
    }
}
