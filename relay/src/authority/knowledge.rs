//! What an authority learns of relays beside their descriptors, joined to the driver: measuring, and keeping what was
//! learnt on disk (docs/protocol.md, 6.17 and 6.18).

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cepa_common::state::StateError;
use cepa_common::state::record::{self, Generation};
use tokio::task::JoinSet;

use super::measure::{Carried, Job, Measure, MeasureError};
use super::{Authority, OperatorRules};

/// Longest file taken from disk: 40,000 relays, each with history and measurements (bytes).
const MAX_KEPT_BYTES: usize = 16 << 20;
/// The kind of that file.
const KEPT_KIND: &str = "relay knowledge";
/// Beyond a download's own deadline: its circuit has to be built (seconds).
const BUILD_DEADLINE: Duration = Duration::from_secs(30);

/// How an authority learns of relays.
#[derive(Clone, Default)]
pub struct KnowledgeOptions {
    /// The file in which it keeps what it learnt; without one a restart forgets it.
    pub file: Option<PathBuf>,
    /// What its operator says of relays.
    pub rules: OperatorRules,
    /// How it measures; without it, it does not.
    pub measure: Option<MeasureOptions>,
}

/// How an authority measures.
#[derive(Clone)]
pub struct MeasureOptions {
    /// Makes the downloads.
    pub with: Arc<dyn Measure>,
    /// What may be downloaded, MiB an hour.
    pub mib_per_hour: u32,
}

impl Authority {
    /// The next downloads that measure relays, if some are due; report them by [`Authority::on_measured`].
    pub fn next_measurement(&mut self, now_ms: u64, rng: &mut impl rand::Rng) -> Option<Job> {
        self.relays.next_job(&self.params, now_ms, rng)
    }

    /// Takes the results of downloads, in their order.
    pub fn on_measured(
        &mut self,
        job: &Job,
        results: &[Result<Carried, MeasureError>],
        now_ms: u64,
        rng: &mut impl rand::Rng,
    ) {
        let Self { relays, params, .. } = self;
        relays.on_measured(job, results, params, now_ms, rng);
    }

    /// Takes the operator's word and what may be downloaded to measure (MiB an hour, zero: nothing).
    pub fn set_knowledge(&mut self, rules: OperatorRules, mib_per_hour: u32) {
        self.relays.set_rules(rules);
        self.relays.set_budget(mib_per_hour);
    }

    /// Takes up what an earlier run kept by [`Authority::knowledge`]; `false` if it is nothing of this version.
    pub fn restore(&mut self, bytes: &[u8]) -> bool {
        self.relays.restore(bytes)
    }

    /// What is worth keeping of what was learnt.
    pub fn knowledge(&self) -> Vec<u8> {
        self.relays.to_keep()
    }
}

type Measured = (Job, Vec<Result<Carried, MeasureError>>);

/// An authority whose knowledge is on disk when it is dropped: a stop ends its driver anywhere.
pub(super) struct Learning {
    authority: Authority,
    file: Option<PathBuf>,
    measure: Option<Arc<dyn Measure>>,
    jobs: JoinSet<Measured>,
}

impl Deref for Learning {
    type Target = Authority;

    fn deref(&self) -> &Authority {
        &self.authority
    }
}

impl DerefMut for Learning {
    fn deref_mut(&mut self) -> &mut Authority {
        &mut self.authority
    }
}

impl Learning {
    /// Takes up what was kept. A damaged file falls back to the one before, and to nothing, and says so.
    pub(super) async fn begin(mut authority: Authority, options: &KnowledgeOptions) -> Self {
        let mut file = options.file.clone();
        if let Some(path) = file.clone() {
            let loaded = tokio::task::spawn_blocking(move || load(&path)).await;
            match loaded {
                Ok(Ok(Some(bytes))) if !authority.restore(&bytes) => {
                    tracing::warn!(
                        "what was known of relays is of another version; starting afresh"
                    );
                }
                Ok(Ok(_)) => {}
                Ok(Err(error @ StateError::Damaged { .. })) => {
                    tracing::warn!(%error, "what was known of relays is lost; starting afresh");
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "what is learnt of relays will not survive a restart");
                    file = None;
                }
                Err(_) => file = None,
            }
        }
        let budget = options.measure.as_ref().map_or(0, |m| m.mib_per_hour);
        authority.set_knowledge(options.rules.clone(), budget);
        Self {
            authority,
            file,
            measure: options.measure.as_ref().map(|m| Arc::clone(&m.with)),
            jobs: JoinSet::new(),
        }
    }

    /// Starts downloads that are due and saves what is worth it.
    pub(super) async fn work(&mut self, now_ms: u64) {
        if let Some(measure) = self.measure.clone() {
            while let Some(job) = self.next_measurement(now_ms, &mut rand::rng()) {
                start(&measure, job, &mut self.jobs);
            }
        }
        if self.authority.relays.is_save_due()
            && let Some(path) = self.file.clone()
        {
            let bytes = self.knowledge();
            let written = tokio::task::spawn_blocking(move || save(&path, &bytes)).await;
            debug_assert!(written.is_ok());
        }
    }

    /// When [`Learning::work`] has something to do, from now (milliseconds).
    pub(super) fn next_work_in_ms(&self) -> Option<u64> {
        self.authority.relays.next_job_in_ms()
    }

    /// Waits for the next result; never, when nothing is being measured.
    pub(super) async fn measured(&mut self) -> Measured {
        loop {
            match self.jobs.join_next().await {
                Some(Ok(measured)) => {
                    tracing::debug!(job = ?measured.0, results = ?measured.1, "measured");
                    return measured;
                }
                Some(Err(error)) => tracing::error!(%error, "a measurement failed"),
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for Learning {
    fn drop(&mut self) {
        if let Some(path) = &self.file {
            save(path, &self.knowledge());
        }
    }
}

fn start(measure: &Arc<dyn Measure>, job: Job, jobs: &mut JoinSet<Measured>) {
    let downloads: Vec<_> = job
        .downloads
        .iter()
        .map(|download| {
            let deadline = download.deadline + BUILD_DEADLINE;
            tokio::time::timeout(deadline, measure.measure(download))
        })
        .collect();
    jobs.spawn(async move {
        // Each in its own task, so that they run at the same time.
        let tasks: Vec<_> = downloads.into_iter().map(AbortOnDrop::spawn).collect();
        let mut results = Vec::with_capacity(tasks.len());
        for mut task in tasks {
            let result = (&mut task.0).await;
            results.push(match result {
                Ok(Ok(result)) => result,
                Ok(Err(_)) | Err(_) => Err(MeasureError::Failed),
            });
        }
        (job, results)
    });
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T: Send + 'static> AbortOnDrop<T> {
    fn spawn(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn load(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let Some((bytes, generation)) = record::load(path, KEPT_KIND, MAX_KEPT_BYTES)? else {
        return Ok(None);
    };
    if generation == Generation::Previous {
        tracing::warn!(file = %path.display(), "damaged or gone; the one before is used");
    }
    Ok(Some(bytes))
}

fn save(path: &Path, bytes: &[u8]) {
    if let Err(error) = record::save(path, KEPT_KIND, bytes) {
        tracing::warn!(%error, "what is known of relays is not saved");
    }
}
