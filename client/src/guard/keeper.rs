//! The one owner of a client's guard machine: gives it time and consensuses, and keeps it on disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cepa_common::dir::{Clock, Consensus, Entry};
use cepa_common::ids::{NetworkId, RelayId};
use cepa_common::state::record::{self, Generation};
use tokio::sync::Notify;

use super::machine::{GuardChoice, GuardSet, Purpose, Verdict};
use super::persist::MAX_STATE_BYTES;
use super::schedule::Now;
use crate::path::{PeerRules, Position};

/// The kind of the record on disk.
const RECORD: &str = "guards";

struct Kept {
    set: GuardSet,
    /// What the set was last brought up to date with.
    consensus: Option<Arc<Consensus>>,
}

/// Holds the guards for the circuit pool. The lock is held for short pure steps only.
pub struct Keeper {
    kept: Mutex<Kept>,
    clock: Clock,
    started: Instant,
    path: Option<PathBuf>,
    rules: Arc<PeerRules>,
    changed: Notify,
}

impl Keeper {
    /// The guards of `network` as `directory` has them; none yet where it has nothing that can be used. Blocks on
    /// the disk.
    pub fn load(network: NetworkId, directory: Option<&Path>, clock: Clock) -> Self {
        let path = directory.map(|directory| directory.join(format!("guards-{network}")));
        let set = path.as_deref().and_then(|path| read(path, network));
        Self {
            kept: Mutex::new(Kept {
                set: set.unwrap_or_else(|| GuardSet::new(network)),
                consensus: None,
            }),
            clock,
            started: Instant::now(),
            path,
            rules: Arc::default(),
            changed: Notify::new(),
        }
    }

    /// The same guards under the owner's rules.
    pub fn with_rules(mut self, rules: Arc<PeerRules>) -> Self {
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        kept.set.set_in_use(rules.guards.map(usize::from));
        self.rules = rules;
        self
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now {
            wall: self.clock.now_secs(),
            mono: self.started.elapsed(),
        }
    }

    /// Runs a step of the machine, then wakes the writer if there is something to keep.
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

    /// Brings the set up to date with a consensus, once for each.
    pub fn update(&self, consensus: &Arc<Consensus>) {
        self.step(|kept, now| {
            let held = kept.consensus.as_ref();
            if held.is_none_or(|held| !Arc::ptr_eq(held, consensus)) {
                let permits = |relay: &Entry| self.rules.permits(Position::Entry, None, relay);
                let prefers = |relay: &Entry| self.rules.prefers(Position::Entry, None, relay);
                let (filter, prefer) = (&permits, &|relay: &Entry| prefers(relay) == Some(true));
                let rng = &mut rand::rng();
                kept.set
                    .update_preferring(consensus, filter, prefer, now, rng);
                kept.consensus = Some(Arc::clone(consensus));
            }
        });
    }

    /// The guard for a circuit; `allowed` says which fit its exit.
    pub fn pick(
        &self,
        purpose: Purpose,
        allowed: &dyn Fn(&RelayId) -> bool,
    ) -> Option<GuardChoice> {
        self.step(|kept, now| kept.set.pick(purpose, allowed, now, &mut rand::rng()))
    }

    /// A circuit is begun at `guard`.
    pub fn on_attempt(&self, guard: &RelayId) {
        self.step(|kept, now| kept.set.on_attempt(guard, now, &mut rand::rng()));
    }

    /// The guard itself failed.
    pub fn on_failure(&self, guard: &RelayId) {
        self.step(|kept, now| kept.set.on_failure(guard, now, &mut rand::rng()));
    }

    /// A circuit came to nothing for which the guard is not to blame.
    pub fn on_abandoned(&self, guard: &RelayId) {
        self.step(|kept, _| kept.set.on_abandoned(guard));
    }

    /// A circuit is built: may it be used?
    pub fn on_success(&self, guard: &RelayId) -> Verdict {
        self.step(|kept, now| kept.set.on_success(guard, now, &mut rand::rng()))
    }

    /// The machine has another network.
    pub fn on_network_change(&self) {
        self.step(|kept, _| kept.set.on_network_change());
    }

    /// Is this relay one of the primary guards?
    pub fn is_primary(&self, relay: &RelayId) -> bool {
        self.kept().set.primaries().contains(relay)
    }

    /// Writes each change to disk, for as long as the client runs.
    pub(crate) async fn write_changes(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            self.save().await;
        }
    }

    /// Writes the state now, off the threads that carry traffic.
    pub(crate) async fn save(&self) {
        let Some(path) = self.path.clone() else {
            return;
        };
        let state = self.kept().set.to_state();
        let write = move || record::save(&path, RECORD, &state);
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the guards cannot be kept on disk"),
            Err(error) => tracing::warn!(%error, "writing the guards failed"),
        }
    }
}

/// What is on disk. Guards that cannot be read are drawn anew: a client without a first hop is of no use (S44).
fn read(path: &Path, network: NetworkId) -> Option<GuardSet> {
    let (bytes, generation) = record::load(path, RECORD, MAX_STATE_BYTES)
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
