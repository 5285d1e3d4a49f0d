//! When to ask for a consensus, what to keep, and whom to tell.

use core::convert::Infallible;
use core::time::Duration;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cepa_common::dir::{Consensus, ConsensusConflict, UnixSecs, WeightLoss};
use cepa_common::log_pace::LogPace;
use cepa_common::net::directory::{Backoff, Dial, NetworkHandle};
use cepa_common::world::{Clock, Disk, random, steady};
use rand::RngExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::cache::{Cache, Mark};
use super::round::{Outcome, Round, RoundError};
use super::schedule::{PERMILLE, next_asleep, pause_of, until_next};
use super::skew::NoConsensus;
use super::sources::{Choice, DirStreams, Distrust};
use crate::events::{ClientEvent, Reporter, Warning};

/// The first wait after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(300);
/// Longest wait after failures while there is nothing to use.
const RETRY_CAP: Duration = Duration::from_secs(60);
/// The longest wait after failures while an older consensus may be used.
const RETRY_CAP_IDLE: Duration = Duration::from_secs(600);
/// A client that was asked for no stream for so long is asleep (docs/protocol.md, 6.15.4).
const ASLEEP_AFTER: Duration = Duration::from_secs(86_400);
/// What the directory client needs.
pub struct DirectoryConfig {
    /// The network, as it is known now.
    pub network: NetworkHandle,
    /// Opens connections to sources.
    pub dial: Arc<dyn Dial>,
    /// The time.
    pub clock: Clock,
    /// Directory that keeps the newest consensus across restarts; it must exist.
    pub cache: Option<PathBuf>,
    /// The disk that the directory is on.
    pub disk: Disk,
    /// Hears how far the client has come.
    pub reporter: Reporter,
}

/// How far the client has come, for people to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootstrapProgress {
    /// Nothing done yet.
    Starting,
    /// The client asks several sources for a consensus.
    Asking {
        /// Number of sources asked at once.
        sources: usize,
    },
    /// No source had a usable consensus. The client asks again after a while.
    Failed {
        /// Rounds that failed in a row.
        rounds: u32,
        /// What is wrong and what to do.
        reason: String,
        /// What is wrong, for programs: a clock that is wrong, or a consensus that has expired.
        why: NoConsensus,
    },
    /// A usable consensus is there.
    Ready {
        /// Number of relays in the consensus.
        relays: usize,
        /// Valid-after of the consensus.
        valid_after: UnixSecs,
    },
}

/// Why there is no consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The directory task has ended.
    #[error("directory client has stopped")]
    Stopped,
}

/// Reads what a [`DirectoryTask`] has found. Clones share it.
#[derive(Clone)]
pub struct Directory {
    consensus: watch::Receiver<Option<Arc<Consensus>>>,
    progress: watch::Receiver<BootstrapProgress>,
    why: watch::Receiver<NoConsensus>,
    alarm: watch::Receiver<Option<ConsensusConflict>>,
    circuits: Arc<OnceLock<Arc<dyn DirStreams>>>,
    used: Arc<watch::Sender<Instant>>,
}

impl Directory {
    /// Follows the consensus; `None` while there is none that may be used.
    pub fn consensus(&self) -> watch::Receiver<Option<Arc<Consensus>>> {
        self.consensus.clone()
    }

    /// Follows the progress.
    pub fn progress(&self) -> watch::Receiver<BootstrapProgress> {
        self.progress.clone()
    }

    /// Why there is no consensus that may be used. The answer is valid only while there is none.
    pub fn why_none(&self) -> NoConsensus {
        self.why.borrow().clone()
    }

    /// Follows the alarm: the last two consensuses that were valid for one time (S25).
    pub fn alarm(&self) -> watch::Receiver<Option<ConsensusConflict>> {
        self.alarm.clone()
    }

    /// Makes the task ask caches over circuits from now on. Only the first call counts.
    pub fn use_circuits(&self, circuits: Arc<dyn DirStreams>) {
        let _ = self.circuits.set(circuits);
    }

    /// Says that somebody uses the client now: a stream is asked for. A client that nobody uses for a day fetches less
    /// and less often.
    pub fn use_now(&self) {
        self.used.send_replace(Instant::now());
    }

    /// Waits for a usable consensus. The caller sets a deadline.
    ///
    /// # Errors
    /// [`DirectoryError::Stopped`].
    pub async fn usable(&self) -> Result<Arc<Consensus>, DirectoryError> {
        let mut consensus = self.consensus.clone();
        let found = consensus.wait_for(Option::is_some).await;
        let found = found.map_err(|_| DirectoryError::Stopped)?;
        found.clone().ok_or(DirectoryError::Stopped)
    }
}

/// The task that fetches consensuses for as long as it runs.
pub struct DirectoryTask {
    config: DirectoryConfig,
    cache: Option<Cache>,
    /// The newest consensus ever held, usable or not. No older one is taken.
    held: Option<Arc<Consensus>>,
    /// The mark on disk of the newest consensus ever taken, which outlives the consensus held.
    mark: Option<Mark>,
    distrust: Distrust,
    /// How long all sources are busy that could be asked.
    all_busy: Option<Duration>,
    /// Was the last difference wrong? Then the whole consensus is asked for next.
    wants_whole: bool,
    /// What the owner was told of weight that a consensus lost, while that holds.
    lost: Option<WeightLoss>,
    /// Paces the log lines about caches whose consensus is of another time.
    skewed: LogPace,
    circuits: Arc<OnceLock<Arc<dyn DirStreams>>>,
    /// When a stream was asked for last, or when the client began.
    used: watch::Receiver<Instant>,
    /// Which part of the time in which a client that is asleep fetches has passed when this one does, in thousandths:
    /// drawn for each consensus.
    asleep_permille: u64,
    consensus: watch::Sender<Option<Arc<Consensus>>>,
    progress: watch::Sender<BootstrapProgress>,
    why: watch::Sender<NoConsensus>,
    alarm: watch::Sender<Option<ConsensusConflict>>,
}

/// Makes a task to run and a handle that reads its results.
pub fn directory(config: DirectoryConfig) -> (DirectoryTask, Directory) {
    let (consensus, consensus_out) = watch::channel(None);
    let (progress, progress_out) = watch::channel(BootstrapProgress::Starting);
    let (why, why_out) = watch::channel(NoConsensus::default());
    let (alarm, alarm_out) = watch::channel(None);
    let circuits = Arc::new(OnceLock::new());
    let (used, used_in) = watch::channel(Instant::now());
    let cache = config
        .cache
        .as_deref()
        .map(|path| Cache::new(&config.disk, path, &config.network.newest()));
    let task = DirectoryTask {
        config,
        cache,
        held: None,
        mark: None,
        distrust: Distrust::default(),
        all_busy: None,
        wants_whole: false,
        lost: None,
        skewed: LogPace::default(),
        circuits: Arc::clone(&circuits),
        used: used_in,
        asleep_permille: random::rng().random_range(0..PERMILLE),
        consensus,
        progress,
        why,
        alarm,
    };
    (
        task,
        Directory {
            consensus: consensus_out,
            progress: progress_out,
            why: why_out,
            alarm: alarm_out,
            circuits,
            used: Arc::new(used),
        },
    )
}

impl DirectoryTask {
    /// Loads the consensus on disk, then fetches: at once if that consensus is not fresh, and from time to time for
    /// ever.
    pub async fn run(mut self) {
        if let Some(cache) = &self.cache {
            (self.held, self.mark) = cache.load(&self.config.network).await;
        }
        self.show();
        let mut urgent = self.backoff(RETRY_CAP);
        let mut idle = self.backoff(RETRY_CAP_IDLE);
        let mut failed_rounds = 0u32;
        loop {
            let wait = match self.until_refresh() {
                Some(wait) => wait,
                None if self.round(failed_rounds).await => {
                    failed_rounds = 0;
                    urgent.reset();
                    idle.reset();
                    continue;
                }
                None => {
                    failed_rounds = failed_rounds.saturating_add(1);
                    let backoff = if self.consensus.borrow().is_none() {
                        &mut urgent
                    } else {
                        &mut idle
                    };
                    let wait = backoff.next(&mut random::rng());
                    // All sources that could be asked are busy and have said for how long.
                    wait.max(self.all_busy.take().unwrap_or_default())
                }
            };
            if self.rest(wait).await {
                // The rounds of the time asleep say nothing of now: whoever wakes begins over circuits, and at once.
                failed_rounds = 0;
                urgent.reset();
                idle.reset();
            }
            self.show();
        }
    }

    /// Was the client asked for no stream for a day?
    fn is_asleep(&self) -> bool {
        self.used.borrow().elapsed() >= ASLEEP_AFTER
    }

    /// Waits; a client that is asleep, no longer than until somebody uses it. Returns whether that woke it.
    async fn rest(&self, wait: Duration) -> bool {
        let mut used = self.used.clone();
        used.mark_unchanged();
        if !self.is_asleep() {
            self.sleep(wait).await;
            return false;
        }
        let used = async {
            if used.changed().await.is_err() {
                // Nobody is left who could ask for a stream.
                core::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.sleep(wait) => false,
            () = used => true,
        }
    }

    /// The cap is a quarter of an interval, so that the next consensus is not missed for long.
    fn backoff(&self, cap: Duration) -> Backoff {
        let interval = self.config.network.newest().params().vote_interval_seconds;
        let cap = cap.min(Duration::from_secs(u64::from(interval)) / 4);
        Backoff::new(RETRY_FIRST, cap.max(RETRY_FIRST * 2))
    }

    /// Waits, and drops the consensus meanwhile if its grace ends.
    async fn sleep(&self, wait: Duration) {
        let mut wait = wait;
        if let Some(left) = self.usable_for().filter(|left| *left < wait) {
            self.config.clock.sleep(left).await;
            self.show();
            wait -= left;
        }
        self.config.clock.sleep(wait).await;
    }

    /// How long the consensus held may still be used; `None` if there is none that may.
    fn usable_for(&self) -> Option<Duration> {
        let now_ms = self.config.clock.now_ms();
        let held = self.held.as_ref()?;
        let held = held.is_usable(now_ms / 1_000).then_some(held)?;
        let grace = u64::from(held.params().consensus_grace_seconds);
        let ends = held.lifetime().valid_until.saturating_add(grace);
        Some(Duration::from_millis(
            ends.saturating_mul(1_000).saturating_sub(now_ms),
        ))
    }

    /// Waits for `work`, and drops the consensus meanwhile if its grace ends: a round takes long, with its pauses.
    async fn meanwhile<T>(&self, work: impl Future<Output = T>) -> T {
        let ends = async {
            if let Some(left) = self.usable_for() {
                self.config.clock.sleep(left).await;
                self.show();
            }
            core::future::pending::<Infallible>().await
        };
        tokio::select! {
            done = work => done,
            never = ends => match never {},
        }
    }

    fn until_refresh(&self) -> Option<Duration> {
        let now_ms = self.config.clock.now_ms();
        let held = self.held.as_ref();
        let held = held.filter(|held| held.is_usable(now_ms / 1_000))?;
        if self.is_asleep() {
            let at_ms = next_asleep(held.lifetime(), self.asleep_permille).saturating_mul(1_000);
            let left_ms = at_ms.checked_sub(now_ms).filter(|left| *left > 0)?;
            return Some(Duration::from_millis(left_ms));
        }
        until_next(held.lifetime(), now_ms, &mut random::rng())
    }

    /// Shows the consensus held while it may be used, and nothing otherwise.
    fn show(&self) {
        let now = self.config.clock.now_secs();
        let usable = self.held.clone().filter(|held| held.is_usable(now));
        let digest = |consensus: &Option<Arc<Consensus>>| consensus.as_ref().map(|c| c.digest());
        if let Some(usable) = &usable {
            self.progress.send_replace(BootstrapProgress::Ready {
                relays: usable.entries().len(),
                valid_after: usable.lifetime().valid_after,
            });
            let reporter = &self.config.reporter;
            reporter.stage(ClientEvent::Consensus {
                relays: usable.entries().len(),
                valid_until: usable.lifetime().valid_until,
            });
            reporter.over(|warning| matches!(warning, Warning::Unreachable { .. }));
        } else {
            let lifetime = self.held.as_ref().map(|held| held.lifetime());
            let ended = lifetime
                .map(|l| l.valid_until)
                .filter(|until| *until <= now);
            self.why
                .send_modify(|why| why.expired_at = why.expired_at.max(ended));
        }
        self.consensus.send_if_modified(|shown| {
            let is_new = digest(shown) != digest(&usable);
            if is_new && usable.is_none() {
                let why = self.why.borrow().clone();
                self.config.reporter.stage(ClientEvent::Lost(why));
            }
            *shown = usable;
            is_new
        });
    }

    /// Asks some sources and takes the newest consensus that is newer than the one held. Returns `false` if there is
    /// none.
    async fn round(&mut self, failed_rounds: u32) -> bool {
        let is_urgent = self.consensus.borrow().is_none();
        let choice = Choice {
            network: &self.config.network.newest(),
            is_usable: !is_urgent,
            has_circuits: self.circuits.get().is_some(),
            failed_rounds,
        };
        let sources = choice.sources(&mut self.distrust, &mut random::rng());
        if sources.is_empty() {
            self.all_busy = self.distrust.until_free();
            return false;
        }
        if is_urgent {
            self.progress.send_replace(BootstrapProgress::Asking {
                sources: sources.len(),
            });
        }
        let round = Round {
            network: self.config.network.clone(),
            dial: Arc::clone(&self.config.dial),
            circuits: self.circuits.get().cloned(),
            held: self.held.clone(),
            mark: self.mark,
            takes_differences: !self.wants_whole,
            is_urgent,
            pause: if is_urgent {
                Duration::ZERO
            } else {
                pause_of(&self.config.network.newest())
            },
            avoid: self.distrust.list(),
            now: self.config.clock.now_secs(),
            reporter: self.config.reporter.clone(),
        };
        let reading = self.config.clock.read();
        let mut outcome = self.meanwhile(round.ask(sources)).await;
        if reading.is_void() {
            // What looks like a slow or silent source is this machine, which has slept.
            outcome.blamed.clear();
        }
        self.wants_whole = outcome.wrong_difference;
        for who in outcome.blamed.drain(..) {
            self.config.reporter.misbehaved(who);
            self.distrust.blame(who);
        }
        for (who, wanted) in outcome.busy.drain(..) {
            self.distrust.leave_alone(who, wanted, &mut random::rng());
        }
        if let Some(conflict) = outcome.conflict.take() {
            self.raise(conflict);
        }
        let Some(newest) = outcome.newest.take() else {
            self.report(failed_rounds.saturating_add(1), outcome);
            return false;
        };
        self.weigh(&newest);
        self.held = Some(Arc::clone(&newest));
        self.asleep_permille = random::rng().random_range(0..PERMILLE);
        self.why.send_replace(NoConsensus::default());
        self.show();
        if let Some(cache) = &self.cache {
            cache.store(&newest).await;
        }
        true
    }

    /// Raises the alarm when much of the weight is gone since the consensus held, and ends it when the loss is over.
    fn weigh(&mut self, newest: &Consensus) {
        let held = self.held.as_deref();
        let loss = held.and_then(|held| WeightLoss::between(held, newest));
        if let Some(loss) = loss {
            let warning = Warning::WeightLost(loss.clone());
            self.config.reporter.warn(warning);
            self.lost = Some(loss);
        } else if self.lost.take_if(|lost| lost.is_over(newest)).is_some() {
            let is_it = |warning: &Warning| matches!(warning, Warning::WeightLost(_));
            self.config.reporter.over(is_it);
        }
    }

    fn raise(&self, conflict: ConsensusConflict) {
        let warning = Warning::TwoConsensuses(conflict.clone());
        self.config.reporter.warn(warning);
        self.alarm.send_replace(Some(conflict));
    }

    fn report(&mut self, rounds: u32, outcome: Outcome) {
        let error = outcome.error.unwrap_or(RoundError::NoNews);
        let interval = u64::from(self.config.network.newest().params().vote_interval_seconds);
        let now = self.config.clock.now_secs();
        let next_at = now
            .checked_div(interval)
            .map(|past| (past + 1).saturating_mul(interval));
        let has_none = error.is_unavailable();
        tracing::debug!(rounds, %error, "no consensus fetched");
        self.why.send_modify(|why| {
            why.reason = error.to_string();
            why.skew = outcome.skew;
            why.expired_at = why.expired_at.max(outcome.expired_at);
            why.next_at = next_at.filter(|_| has_none);
        });
        // While an older consensus may still be used, a failure is no news for people.
        if self.consensus.borrow().is_none() {
            let why = self.why.borrow().clone();
            let reason = why.to_string();
            let waiting = ClientEvent::Waiting {
                rounds,
                why: why.clone(),
            };
            self.config.reporter.stage(waiting);
            self.progress.send_replace(BootstrapProgress::Failed {
                rounds,
                reason,
                why,
            });
        } else if let Some(skew) = outcome.skew
            && let Some(rounds) = self.skewed.count(1, steady::now())
        {
            tracing::warn!(%skew, rounds, "the caches have no consensus of this time");
        }
    }
}
