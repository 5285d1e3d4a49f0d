//! The only owner of a client's guard machine. The keeper gives the machine time and consensuses, and keeps the
//! machine's state on disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use cepa_common::dir::{Consensus, Entry};
use cepa_common::ids::{NetworkId, RelayId};
use cepa_common::log_pace::LogPace;
use cepa_common::state::record::{self, Generation};
use cepa_common::sync::{get_mut, lock};
use cepa_common::world::{Clock, Disk, World, blocking, random, steady};
use tokio::sync::Notify;

use super::bias::{self, BiasLedger, CircuitCounts, Suspicion};
use super::machine::{GuardChoice, GuardSet, Purpose, Verdict};
use super::persist::MAX_STATE_BYTES;
use super::schedule::Now;
use crate::path::{PeerRules, Position};

/// Kind of the record on disk that holds the guards.
const RECORD: &str = "guards";
/// Kind of the record on disk that holds what circuits have shown about guards.
const BIAS_RECORD: &str = "guard circuits";
/// Number of circuits counted before the counts are written to disk. A crash loses no more than this many.
const BIAS_WRITE_AFTER: u32 = 16;

/// Whether a guard works, for people to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardHealth {
    /// The guard was not tried since the start, or since the network changed.
    Untried,
    /// The guard answers.
    Answers,
    /// The guard does not answer.
    Failing,
    /// The guard answers and lets too few circuits be built. Another guard is used instead.
    Dropped,
}

/// A primary guard, for people to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardReport {
    /// Identity of the guard.
    pub identity: RelayId,
    /// Whether the guard works.
    pub health: GuardHealth,
}

struct Kept {
    set: GuardSet,
    bias: BiasLedger,
    /// Number of circuits that are counted and not yet on disk.
    unwritten: u32,
    /// Paces the log lines about writes that failed.
    failed: LogPace,
    /// The consensus that the set was last updated with.
    consensus: Option<Arc<Consensus>>,
}

/// The guards, for the circuit pool. The lock is held for short pure steps only.
pub struct Keeper {
    kept: Mutex<Kept>,
    clock: Clock,
    disk: Disk,
    started: Instant,
    path: Option<PathBuf>,
    bias_path: Option<PathBuf>,
    rules: Mutex<Arc<PeerRules>>,
    changed: Notify,
}

impl Keeper {
    /// Reads the guards of `network` from the state in `directory` on the world's disk. The set is empty if there is no
    /// state that can be used. This call blocks on the disk.
    pub fn load(network: NetworkId, directory: Option<&Path>, world: &World) -> Self {
        let disk = &world.disk;
        let path = directory.map(|directory| directory.join(format!("guards-{network}")));
        let set = path.as_deref().and_then(|path| read(disk, path, network));
        let bias_path = directory.map(|directory| directory.join(format!("bias-{network}")));
        let bias = bias_path.as_deref().and_then(|path| read_bias(disk, path));
        Self {
            kept: Mutex::new(Kept {
                set: set.unwrap_or_else(|| GuardSet::new(network)),
                bias: bias.unwrap_or_default(),
                unwritten: 0,
                failed: LogPace::default(),
                consensus: None,
            }),
            clock: world.clock.clone(),
            disk: disk.clone(),
            started: steady::now(),
            path,
            bias_path,
            rules: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Puts the guards under the owner's rules.
    pub fn with_rules(mut self, rules: Arc<PeerRules>) -> Self {
        let kept = get_mut(&mut self.kept);
        kept.set.set_in_use(rules.guards.map(usize::from));
        self.rules = Mutex::new(rules);
        self
    }

    /// Puts the guards under other rules of the owner, with the same number of guards. What is known of guards stays,
    /// and so does their order: those that the rules refuse are passed over from the next update on, which comes with
    /// the next circuit.
    pub fn set_rules(&self, rules: Arc<PeerRules>) {
        let mut kept = self.kept();
        *lock(&self.rules) = rules;
        kept.consensus = None;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    fn now(&self) -> Now {
        Now {
            wall: self.clock.now_secs(),
            mono: steady::since(self.started),
        }
    }

    /// Runs a step of the machine, then wakes the writer if there is something to write.
    fn step<T>(&self, step: impl FnOnce(&mut Kept, Now) -> T) -> T {
        let now = self.now();
        let mut kept = self.kept();
        kept.set.observe(now);
        let result = step(&mut kept, now);
        if kept.set.take_changed() {
            self.changed.notify_one();
        }
        result
    }

    /// Updates the set with a consensus, once for each consensus.
    pub fn update(&self, consensus: &Arc<Consensus>) {
        self.step(|kept, now| {
            let held = kept.consensus.as_ref();
            if held.is_none_or(|held| !Arc::ptr_eq(held, consensus)) {
                let rules = lock(&self.rules).clone();
                let permits = |relay: &Entry| rules.permits(Position::Entry, None, relay);
                let prefers = |relay: &Entry| rules.prefers(Position::Entry, None, relay);
                let (filter, prefer) = (&permits, &|relay: &Entry| prefers(relay) == Some(true));
                let rng = &mut random::rng();
                kept.set
                    .update_preferring(consensus, filter, prefer, now, rng);
                kept.consensus = Some(Arc::clone(consensus));
                let Kept { set, bias, .. } = kept;
                bias.keep(|guard| set.sampled().any(|sampled| sampled == guard));
            }
        });
    }

    /// The guard for a circuit. `allowed` says which guards fit the circuit's exit.
    pub fn pick(
        &self,
        purpose: Purpose,
        allowed: &dyn Fn(&RelayId) -> bool,
    ) -> Option<GuardChoice> {
        self.step(|kept, now| {
            let Kept { set, bias, .. } = kept;
            // A guard that lets too few circuits be built is used only if there is no other.
            let careful = |guard: &RelayId| !bias.is_dropped(guard) && allowed(guard);
            let rng = &mut random::rng();
            set.pick(purpose, &careful, now, rng)
                .or_else(|| set.pick(purpose, allowed, now, rng))
        })
    }

    /// Does the guard answer? `None` if it has not been tried.
    pub fn answers(&self, guard: &RelayId) -> Option<bool> {
        self.kept().set.answers(guard)
    }

    /// Is there no more use for circuits at this guard, because better guards answer, among those that `allowed` names?
    pub fn is_outdone(&self, guard: &RelayId, allowed: &dyn Fn(&RelayId) -> bool) -> bool {
        let kept = self.kept();
        let fits = |better: &RelayId| !kept.bias.is_dropped(better) && allowed(better);
        kept.set.is_outdone(guard, &fits)
    }

    /// Notes that a circuit which `guard` had answered was built or failed. Returns the suspicion of the guard if that
    /// is worse than before.
    pub fn on_circuit(&self, guard: &RelayId, is_built: bool) -> Option<Suspicion> {
        self.step(|kept, _| {
            kept.unwritten += 1;
            if kept.unwritten >= BIAS_WRITE_AFTER {
                self.changed.notify_one();
            }
            kept.bias.on_circuit(guard, is_built)
        })
    }

    /// Notes that the guard answered something that is not a circuit to be used.
    pub fn on_answered(&self, guard: &RelayId) {
        self.step(|kept, now| kept.set.on_answered(guard, now));
    }

    /// The primary guards, best first.
    pub fn report(&self) -> Vec<GuardReport> {
        let kept = self.kept();
        let report = |guard: &RelayId| GuardReport {
            identity: *guard,
            health: match kept.set.answers(guard) {
                _ if kept.bias.is_dropped(guard) => GuardHealth::Dropped,
                None => GuardHealth::Untried,
                Some(true) => GuardHealth::Answers,
                Some(false) => GuardHealth::Failing,
            },
        };
        kept.set.primaries().iter().map(report).collect()
    }

    /// The circuits counted for this guard.
    pub fn circuits(&self, guard: &RelayId) -> CircuitCounts {
        self.kept().bias.counts(guard)
    }

    /// Do the counts say anything against this guard?
    pub fn is_suspected(&self, guard: &RelayId) -> bool {
        self.kept().bias.suspicion(guard) > Suspicion::None
    }

    /// Does the network look down, because guards fail and nothing is heard?
    pub fn is_network_down(&self) -> bool {
        self.step(|kept, now| kept.set.is_network_down(now))
    }

    /// Notes that a circuit is begun at `guard`.
    pub fn on_attempt(&self, guard: &RelayId) {
        self.step(|kept, now| kept.set.on_attempt(guard, now, &mut random::rng()));
    }

    /// Notes that `guard` has left a CREATE without CREATED, and whether nothing at all has come from it meanwhile.
    /// Returns whether the guard has failed by that.
    pub fn on_unanswered(&self, guard: &RelayId, is_silent: bool) -> bool {
        self.step(|kept, now| {
            let rng = &mut random::rng();
            kept.set.on_unanswered(guard, is_silent, now, rng)
        })
    }

    /// Notes that `guard` has answered CREATE by CREATED.
    pub fn on_created(&self, guard: &RelayId) {
        self.step(|kept, _| kept.set.on_created(guard));
    }

    /// Notes that the guard itself failed.
    pub fn on_failure(&self, guard: &RelayId) {
        self.step(|kept, now| kept.set.on_failure(guard, now, &mut random::rng()));
    }

    /// Notes that a circuit failed and that the guard is not to blame.
    pub fn on_abandoned(&self, guard: &RelayId) {
        self.step(|kept, _| kept.set.on_abandoned(guard));
    }

    /// Notes that a circuit through `guard` is built. Returns whether the circuit may be used.
    pub fn on_success(&self, guard: &RelayId) -> Verdict {
        self.step(|kept, now| kept.set.on_success(guard, now, &mut random::rng()))
    }

    /// Notes that the machine is connected to another network.
    pub fn on_network_change(&self) {
        self.step(|kept, _| kept.set.on_network_change());
    }

    /// Is this relay one of the primary guards?
    pub fn is_primary(&self, relay: &RelayId) -> bool {
        self.kept().set.primaries().contains(relay)
    }

    /// Writes each change to disk for as long as the client runs.
    pub(crate) async fn write_changes(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            self.save().await;
        }
    }

    /// Writes the state now, on a thread that carries no traffic.
    pub(crate) async fn save(&self) {
        let (Some(path), Some(bias_path)) = (self.path.clone(), self.bias_path.clone()) else {
            return;
        };
        let (state, bias) = {
            let mut kept = self.kept();
            let bias = (std::mem::take(&mut kept.unwritten) > 0).then(|| kept.bias.to_state());
            (kept.set.to_state(), bias)
        };
        let disk = self.disk.clone();
        let write = move || {
            record::save(&disk, &path, RECORD, &state)?;
            bias.map_or(Ok(()), |bias| {
                record::save(&disk, &bias_path, BIAS_RECORD, &bias)
            })
        };
        match blocking::run(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.not_written(&error),
            Err(error) => self.not_written(&error),
        }
    }

    /// Says that the guards are not on disk. A full disk does not fill the log.
    fn not_written(&self, error: &dyn core::fmt::Display) {
        if let Some(times) = self.kept().failed.count(1, steady::now()) {
            tracing::warn!(%error, times, "the guards cannot be kept on disk");
        }
    }
}

/// Reads the guards on disk. If they cannot be read, new guards are drawn: a client without a first hop is of no use
/// (S44).
fn read(disk: &Disk, path: &Path, network: NetworkId) -> Option<GuardSet> {
    let (bytes, generation) = record::load(disk, path, RECORD, MAX_STATE_BYTES)
        .inspect_err(
            |error| tracing::warn!(%error, "the guards on disk cannot be read; new ones are drawn"),
        )
        .ok()??;
    if generation == Generation::Previous {
        tracing::warn!("the newest state of the guards is damaged; the one before is used");
    }
    GuardSet::from_state(&bytes, network)
        .inspect_err(|error| tracing::warn!(%error, "new guards are drawn"))
        .ok()
}

/// Reads the counts on disk. If they cannot be read, counting begins anew.
fn read_bias(disk: &Disk, path: &Path) -> Option<BiasLedger> {
    let (bytes, _) = record::load(disk, path, BIAS_RECORD, bias::MAX_STATE_BYTES)
        .inspect_err(|error| tracing::warn!(%error, "the counts of guards' circuits are lost"))
        .ok()??;
    BiasLedger::from_state(&bytes)
}
