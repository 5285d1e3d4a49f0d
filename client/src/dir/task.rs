//! Fetching: whom to ask, what to take, when to ask again.

use core::time::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use cepa_common::dir::{
    Backoff, Clock, Consensus, ConsensusStatus, Dial, Digest, FetchError, Flags, NetworkHandle,
    UnixSecs, fetch_consensus, random_below,
};
use rand::seq::{IndexedRandom, SliceRandom};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cache::{Cache, Mark};

/// Sources asked at once: one that keeps news back is outvoted by two.
const SOURCES: usize = 3;
/// Longest dial and fetch from one source.
const FETCH_DEADLINE: Duration = Duration::from_secs(20);
/// Wait for the other sources once one has answered well.
const OTHERS_DEADLINE: Duration = Duration::from_millis(500);
/// First wait after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(300);
/// Longest wait after failures.
const RETRY_CAP: Duration = Duration::from_secs(60);

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
}

/// How far the client has come, for people to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootstrapProgress {
    /// Nothing done yet.
    Starting,
    /// Asking so many sources for a consensus.
    Asking {
        /// Sources asked at once.
        sources: usize,
    },
    /// No source had a usable one; asking again after a while.
    Failed {
        /// Rounds that failed in a row.
        rounds: u32,
        /// What the last source said.
        reason: String,
    },
    /// A usable consensus is there.
    Ready {
        /// Relays in it.
        relays: usize,
        /// When it was made.
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

/// Why one source's consensus is not taken.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the consensus is older than the one held")]
    Older,
    #[error("two valid consensuses for one time; the one held stays")]
    Conflict,
    #[error("the consensus is of the future; is this computer's clock right?")]
    Early,
    #[error("the consensus has expired; is this computer's clock right?")]
    Expired,
    #[error("no newer consensus")]
    NoNews,
}

/// Reads what a [`DirectoryTask`] has found. Clones share it.
#[derive(Clone, Debug)]
pub struct Directory {
    consensus: watch::Receiver<Option<Arc<Consensus>>>,
    progress: watch::Receiver<BootstrapProgress>,
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

    /// Waits for a usable consensus; set a deadline around it.
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

/// Fetches for as long as it runs.
pub struct DirectoryTask {
    config: DirectoryConfig,
    cache: Option<Cache>,
    /// The newest ever held, usable or not: nothing older is taken.
    held: Option<Arc<Consensus>>,
    /// The newest that was ever taken, by the disk: it outlives what is held.
    mark: Option<Mark>,
    consensus: watch::Sender<Option<Arc<Consensus>>>,
    progress: watch::Sender<BootstrapProgress>,
}

/// Where to ask.
struct Source {
    addresses: Vec<SocketAddr>,
    link_key: [u8; 32],
}

/// A task to run, and what reads its results.
pub fn directory(config: DirectoryConfig) -> (DirectoryTask, Directory) {
    let (consensus, consensus_out) = watch::channel(None);
    let (progress, progress_out) = watch::channel(BootstrapProgress::Starting);
    let cache = config
        .cache
        .as_deref()
        .map(|path| Cache::new(path, &config.network.newest()));
    let task = DirectoryTask {
        config,
        cache,
        held: None,
        mark: None,
        consensus,
        progress,
    };
    (
        task,
        Directory {
            consensus: consensus_out,
            progress: progress_out,
        },
    )
}

impl DirectoryTask {
    /// Loads what is on disk, then fetches: at once when that is not fresh, and from time to time for ever.
    pub async fn run(mut self) {
        if let Some(cache) = &self.cache {
            (self.held, self.mark) = cache.load(&self.config.network).await;
        }
        self.show();
        let interval = self.config.network.newest().params().vote_interval_seconds;
        let cap = RETRY_CAP.min(Duration::from_secs(u64::from(interval)) / 4);
        let mut backoff = Backoff::new(RETRY_FIRST, cap.max(RETRY_FIRST * 2));
        let mut failed_rounds = 0u32;
        loop {
            let wait = match self.until_refresh() {
                Some(wait) => wait,
                None => match self.round(failed_rounds).await {
                    Ok(()) => {
                        failed_rounds = 0;
                        backoff.reset();
                        continue;
                    }
                    Err(error) => {
                        failed_rounds = failed_rounds.saturating_add(1);
                        self.report(failed_rounds, &error);
                        backoff.next(&mut rand::rng())
                    }
                },
            };
            self.config.clock.sleep(wait).await;
            self.show();
        }
    }

    /// How long the consensus held needs no successor; `None` when it needs one now.
    ///
    /// Relays fetch in the first tenth after fresh-until; clients at a random time after that, so that they do not
    /// all come at once and none is known by its hour.
    fn until_refresh(&self) -> Option<Duration> {
        let now_ms = self.config.clock.now_ms();
        let held = self
            .held
            .as_ref()
            .filter(|held| held.is_usable(now_ms / 1_000))?;
        let lifetime = held.lifetime();
        let left_ms = lifetime
            .fresh_until
            .saturating_mul(1_000)
            .checked_sub(now_ms)?;
        if left_ms == 0 {
            return None;
        }
        let interval =
            Duration::from_secs(lifetime.fresh_until.saturating_sub(lifetime.valid_after));
        let spread = random_below(&mut rand::rng(), interval * 4 / 10);
        Some(Duration::from_millis(left_ms) + interval / 10 + spread)
    }

    /// Shows the consensus held while it may be used, and nothing else.
    fn show(&self) {
        let now = self.config.clock.now_secs();
        let usable = self.held.clone().filter(|held| held.is_usable(now));
        let digest = |consensus: &Option<Arc<Consensus>>| consensus.as_ref().map(|c| c.digest());
        if let Some(usable) = &usable {
            self.progress.send_replace(BootstrapProgress::Ready {
                relays: usable.entries().len(),
                valid_after: usable.lifetime().valid_after,
            });
        }
        self.consensus.send_if_modified(|shown| {
            let is_new = digest(shown) != digest(&usable);
            *shown = usable;
            is_new
        });
    }

    fn report(&self, rounds: u32, error: &RoundError) {
        tracing::debug!(rounds, %error, "no consensus fetched");
        // While an older one still serves, a failure is no news for people.
        if self.consensus.borrow().is_none() {
            let reason = error.to_string();
            self.progress
                .send_replace(BootstrapProgress::Failed { rounds, reason });
        }
    }

    /// Asks some sources and takes the newest that is newer than what is held.
    async fn round(&mut self, failed_rounds: u32) -> Result<(), RoundError> {
        let sources = self.choose_sources(failed_rounds);
        if self.consensus.borrow().is_none() {
            self.progress.send_replace(BootstrapProgress::Asking {
                sources: sources.len(),
            });
        }
        let held = self.held.as_ref().map(|held| held.digest());
        let newest = self.ask(sources, held).await?;
        self.held = Some(Arc::clone(&newest));
        self.show();
        if let Some(cache) = &self.cache {
            cache.store(&newest).await;
        }
        Ok(())
    }

    /// Relays of the consensus held; authorities and fallback caches without one, or every other time when it fails.
    fn choose_sources(&self, failed_rounds: u32) -> Vec<Source> {
        let mut rng = rand::rng();
        let usable = self
            .consensus
            .borrow()
            .clone()
            .filter(|_| failed_rounds.is_multiple_of(2));
        if let Some(consensus) = usable {
            let running: Vec<_> = consensus
                .entries()
                .iter()
                .filter(|e| e.flags.contains(Flags::RUNNING))
                .collect();
            let chosen = running.sample(&mut rng, SOURCES);
            return chosen
                .map(|e| Source {
                    addresses: e.addresses.clone(),
                    link_key: e.link_key(),
                })
                .collect();
        }
        let network = self.config.network.newest();
        let authorities = network
            .authorities()
            .iter()
            .map(|a| (&a.addresses, a.identity));
        let fallbacks = network
            .fallbacks()
            .iter()
            .map(|f| (&f.addresses, f.identity));
        let mut sources: Vec<_> = authorities
            .chain(fallbacks)
            .map(|(addresses, id)| Source {
                addresses: addresses.clone(),
                link_key: id.0,
            })
            .collect();
        sources.shuffle(&mut rng);
        sources.truncate(SOURCES);
        sources
    }

    async fn ask(
        &self,
        sources: Vec<Source>,
        held: Option<Digest>,
    ) -> Result<Arc<Consensus>, RoundError> {
        let mut asked = JoinSet::new();
        for source in sources {
            let network = self.config.network.clone();
            let dial = self.config.dial.dial(&source.addresses, source.link_key);
            asked.spawn(async move {
                let fetch = async {
                    let io = dial.await?;
                    fetch_consensus(io, &network, held, FETCH_DEADLINE).await
                };
                tokio::time::timeout(FETCH_DEADLINE, Box::pin(fetch))
                    .await
                    .unwrap_or(Err(FetchError::Deadline))
            });
        }
        let mut newest: Option<Arc<Consensus>> = None;
        let mut error = RoundError::NoNews;
        let mut deadline = tokio::time::Instant::now() + FETCH_DEADLINE;
        // Until all have answered, or the time that is left for the others is over.
        while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, asked.join_next()).await {
            let Ok(answer) = answer else { continue };
            match answer
                .map_err(RoundError::from)
                .and_then(|found| self.check(found))
            {
                Ok(found) => {
                    let valid_after = found.lifetime().valid_after;
                    if newest
                        .as_ref()
                        .is_none_or(|n| n.lifetime().valid_after < valid_after)
                    {
                        newest = Some(found);
                    }
                    deadline = deadline.min(tokio::time::Instant::now() + OTHERS_DEADLINE);
                }
                Err(refused) => error = refused,
            }
        }
        newest.ok_or(error)
    }

    /// Is this one to be taken (S25)? Its signatures were verified.
    fn check(&self, found: Option<Arc<Consensus>>) -> Result<Arc<Consensus>, RoundError> {
        let found = found.ok_or(RoundError::NoNews)?;
        let held = self.held.as_deref().map(Mark::of).or(self.mark);
        if let Some(held) = held {
            let (ours, theirs) = (held.valid_after, found.lifetime().valid_after);
            if theirs < ours {
                return Err(RoundError::Older);
            }
            let is_same = found.digest() == held.digest;
            // Known by its mark alone, it is news.
            if is_same && self.held.is_some() {
                return Err(RoundError::NoNews);
            }
            if theirs == ours && !is_same {
                tracing::error!(
                    held = %held.digest, offered = %found.digest(),
                    "two valid consensuses for one time: the authorities are broken or hostile"
                );
                return Err(RoundError::Conflict);
            }
        }
        match found.status(self.config.clock.now_secs()) {
            ConsensusStatus::Early => Err(RoundError::Early),
            ConsensusStatus::Expired => Err(RoundError::Expired),
            _ => Ok(found),
        }
    }
}
