//! What an authority learns about relays besides their descriptors, joined to the driver: this file makes measurements,
//! and keeps what was learnt on disk (docs/protocol.md, 6.17 and 6.18).

use core::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cepa_common::dir::Permit;
use cepa_common::ids::NetworkId;
use cepa_common::state::StateError;
use cepa_common::state::record::{self, Generation};
use cepa_common::world::{Disk, blocking, random};
use tokio::task::JoinSet;

use super::kept::Remembered;
use super::measure::{Carried, Download, Job, Measure, MeasureError};
use super::{Authority, OperatorRules};
use crate::events::{AuthorityFailure, DiskTrouble, RelayEvent, Reporter};

/// Length of the longest file that is read from disk, in bytes: 40,000 relays, each with its history and measurements,
/// and the descriptors of as many relays as may be listed at most.
const MAX_KEPT_BYTES: usize = 256 << 20;
/// The kind of record that the file is.
const KEPT_KIND: &str = "relay knowledge";
/// A download may take this time beyond its own deadline, because its circuit has to be built.
const BUILD_DEADLINE: Duration = Duration::from_secs(30);

/// How an authority learns about relays.
#[derive(Clone, Default)]
pub struct KnowledgeOptions {
    /// The disk that the file is on.
    pub disk: Disk,
    /// The file in which the authority keeps what it learnt. Without a file, a restart forgets it.
    pub file: Option<PathBuf>,
    /// What the authority's operator says about relays.
    pub rules: OperatorRules,
    /// How the authority measures; `None` if it does not measure.
    pub measure: Option<MeasureOptions>,
}

/// How an authority measures.
#[derive(Clone)]
pub struct MeasureOptions {
    /// What makes the downloads.
    pub with: Arc<dyn Measure>,
    /// How much may be downloaded (MiB an hour).
    pub mib_per_hour: u32,
}

impl Authority {
    /// The next downloads that measure relays, if some are due. The caller reports their results by
    /// [`Authority::on_measured`].
    pub fn next_measurement(&mut self, now_ms: u64, rng: &mut impl rand::Rng) -> Option<Job> {
        self.relays.next_job(&self.params, now_ms, rng)
    }

    /// Takes the results of downloads, in the order of the downloads.
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

    /// This authority's permit for a download. It is empty while the authority has no key that is good now.
    fn permit(&self, download: &Download, now_ms: u64, rng: &mut impl rand::Rng) -> Vec<u8> {
        let mut nonce = [0; 16];
        rng.fill_bytes(&mut nonce);
        let [_, relay] = download.path;
        let permit = Permit {
            relay,
            made: now_ms / 1_000,
            bytes: download.bytes,
            nonce,
        };
        let network = self.config.network.network_id();
        let signed = permit.sign(&network, &self.config.signing_key);
        signed.unwrap_or_default()
    }

    /// Sets the operator's rules, and how much may be downloaded to measure (MiB an hour; nothing is measured with
    /// zero).
    pub fn set_knowledge(&mut self, rules: OperatorRules, mib_per_hour: u32) {
        self.relays.set_rules(rules);
        self.relays.set_budget(mib_per_hour);
    }

    /// Restores what an earlier run kept by [`Authority::knowledge`].
    pub(super) fn restore(&mut self, remembered: Remembered, now_ms: u64) {
        self.relays.restore(remembered, &self.params, now_ms);
    }

    /// The part of what was learnt that is kept on disk.
    pub fn knowledge(&self) -> Vec<u8> {
        self.relays.to_keep()
    }
}

type Measured = (Job, Vec<Result<Carried, MeasureError>>);

/// An authority that writes its knowledge to disk when it is dropped, because a stop may end its driver at any point.
pub(super) struct Learning {
    /// The machine. Whoever drives it goes through this field.
    pub(super) authority: Authority,
    disk: Disk,
    events: Reporter,
    file: Option<PathBuf>,
    measure: Option<Arc<dyn Measure>>,
    jobs: JoinSet<Measured>,
}

impl Learning {
    /// Begins with what an earlier run kept. If the file is damaged, the one before it is read; if that is damaged too,
    /// the authority begins with nothing, and says so.
    pub(super) async fn begin(
        mut authority: Authority,
        options: &KnowledgeOptions,
        events: Reporter,
        network: NetworkId,
        now_ms: u64,
    ) -> Self {
        let report = |trouble, reason: &dyn fmt::Display| {
            events.report(RelayEvent::disk(trouble, reason));
        };
        // The rules are set before any descriptor is taken.
        authority.set_knowledge(options.rules.clone(), 0);
        let mut file = options.file.clone();
        if let Some(path) = file.clone() {
            // The descriptors are verified where they delay nobody.
            let disk = options.disk.clone();
            let load = move || {
                let kept = load(&disk, &path)?;
                let decode = |bytes: Vec<u8>| Remembered::decode(&bytes, &network);
                Ok(kept.map(|(bytes, generation)| (decode(bytes), generation)))
            };
            let loaded = blocking::run(load).await;
            match loaded {
                Ok(Ok(Some((remembered, generation)))) => {
                    if generation == Generation::Previous {
                        report(DiskTrouble::KnowledgeDamaged, &"the newest file is damaged");
                    }
                    match remembered {
                        Some(remembered) => authority.restore(remembered, now_ms),
                        None => report(DiskTrouble::KnowledgeLost, &"another version wrote it"),
                    }
                }
                Ok(Ok(None)) => {}
                Ok(Err(error @ StateError::Damaged { .. })) => {
                    report(DiskTrouble::KnowledgeLost, &error);
                }
                Ok(Err(error)) => {
                    report(DiskTrouble::KnowledgeUnusable, &error);
                    file = None;
                }
                Err(error) => {
                    report(DiskTrouble::KnowledgeUnusable, &error);
                    file = None;
                }
            }
        }
        let budget = options.measure.as_ref().map_or(0, |m| m.mib_per_hour);
        authority.set_knowledge(options.rules.clone(), budget);
        Self {
            authority,
            disk: options.disk.clone(),
            events,
            file,
            measure: options.measure.as_ref().map(|m| Arc::clone(&m.with)),
            jobs: JoinSet::new(),
        }
    }

    /// Starts the downloads that are due, and saves what was learnt when it is time.
    pub(super) async fn work(&mut self, now_ms: u64) {
        if let Some(measure) = self.measure.clone() {
            while let Some(mut job) = self.authority.next_measurement(now_ms, &mut random::rng()) {
                for download in &mut job.downloads {
                    download.permit = self.authority.permit(download, now_ms, &mut random::rng());
                }
                start(&measure, job, &mut self.jobs);
            }
        }
        let Authority { relays, params, .. } = &mut self.authority;
        if relays.is_save_due(params)
            && let Some(path) = self.file.clone()
        {
            let (bytes, events) = (self.authority.knowledge(), self.events.clone());
            let disk = self.disk.clone();
            let written = blocking::run(move || save(&disk, &path, &bytes, &events)).await;
            debug_assert!(written.is_ok());
        }
    }

    /// Time until [`Learning::work`] has something to do (milliseconds).
    pub(super) fn next_work_in_ms(&self) -> Option<u64> {
        self.authority.relays.next_job_in_ms()
    }

    /// Waits for the next result. If nothing is being measured, the future never completes.
    pub(super) async fn measured(&mut self) -> Measured {
        loop {
            match self.jobs.join_next().await {
                Some(Ok(measured)) => {
                    tracing::debug!(job = ?measured.0, results = ?measured.1, "measured");
                    return measured;
                }
                Some(Err(error)) => {
                    let failed = AuthorityFailure::Measurement.because(&error);
                    self.events.report(failed);
                }
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for Learning {
    fn drop(&mut self) {
        if let Some(path) = &self.file {
            save(&self.disk, path, &self.authority.knowledge(), &self.events);
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
        // Each download has a task of its own, so that all run at the same time. Dropping the set aborts its tasks.
        let mut results = vec![Err(MeasureError::Failed); downloads.len()];
        let mut running = JoinSet::new();
        for (index, download) in downloads.into_iter().enumerate() {
            running.spawn(async move { (index, download.await) });
        }
        while let Some(ended) = running.join_next().await {
            // A download that panicked or took too long has failed.
            if let Ok((index, Ok(result))) = ended {
                results[index] = result;
            }
        }
        (job, results)
    });
}

fn load(disk: &Disk, path: &Path) -> Result<Option<(Vec<u8>, Generation)>, StateError> {
    record::load(disk, path, KEPT_KIND, MAX_KEPT_BYTES)
}

fn save(disk: &Disk, path: &Path, bytes: &[u8], events: &Reporter) {
    if let Err(error) = record::save(disk, path, KEPT_KIND, bytes) {
        events.report(RelayEvent::disk(DiskTrouble::KnowledgeNotWritten, &error));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::authority::AuthorityConfig;
    use cepa_common::dir::{Flags, SignedDescriptor};
    use cepa_common::testkit::{descriptor_at, identity, lifetime, link_key, network, signing_key};

    const START_MS: u64 = 2_000_000_000;
    const HOUR_MS: u64 = 3_600_000;

    /// An authority without a prober, so that a relay is up as soon as it brings a descriptor.
    async fn begin(file: &Path, now_ms: u64) -> Learning {
        begin_telling(file, now_ms, Reporter::default()).await
    }

    async fn begin_telling(file: &Path, now_ms: u64, events: Reporter) -> Learning {
        let config = AuthorityConfig {
            network: Arc::new(network(1)),
            identity: identity(1),
            signing_key: signing_key(1).into(),
            params: Default::default(),
            last_signed: None,
            probes: false,
        };
        let options = KnowledgeOptions {
            file: Some(file.to_owned()),
            ..Default::default()
        };
        let id = config.network.network_id();
        Learning::begin(Authority::new(config, now_ms), &options, events, id, now_ms).await
    }

    fn upload(learning: &mut Learning, relay: u8, now_ms: u64) {
        let id = network(1).network_id();
        let mut descriptor = descriptor_at(relay, now_ms / 1_000);
        descriptor.offers = Flags::HSDIR;
        let signed = descriptor.sign(&id, &link_key(relay)).unwrap();
        let signed = SignedDescriptor::parse_and_verify(signed.bytes(), &id).unwrap();
        learning.authority.on_descriptor(signed, now_ms).unwrap();
    }

    /// Is relay 10 known to have been up for an hour?
    fn is_old(learning: &mut Learning, now_ms: u64) -> bool {
        let params = cepa_common::dir::Params {
            hsdir_min_uptime_seconds: 3_600,
            ..network(1).params()
        };
        let entries = learning.authority.relays.vote_entries(
            &network(1),
            &params,
            now_ms,
            lifetime(now_ms / 1_000),
            None,
        );
        entries[0].flags.contains(Flags::HSDIR)
    }

    /// An authority that begins with a damaged file, and the trouble that it tells of.
    async fn begin_in_trouble(file: &Path, now_ms: u64) -> (Learning, DiskTrouble) {
        let events = Reporter::default();
        let mut told = events.subscribe();
        let learning = begin_telling(file, now_ms, events).await;
        match told.next().await {
            Some(RelayEvent::Disk { trouble, .. }) => (learning, trouble),
            other => panic!("{other:?}"),
        }
    }

    async fn pass(learning: &mut Learning, now_ms: &mut u64, ms: u64) {
        for _ in 0..ms / 60_000 {
            *now_ms += 60_000;
            learning.authority.poll(*now_ms);
            learning.work(*now_ms).await;
        }
    }

    #[tokio::test]
    async fn history_survives_a_restart_and_damage_falls_back() {
        let dir = std::env::temp_dir().join(format!("cepa-knowledge-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("relays");
        let mut now_ms = START_MS;
        let mut learning = begin(&file, now_ms).await;
        upload(&mut learning, 10, now_ms);
        assert!(!file.exists());
        pass(&mut learning, &mut now_ms, 2 * HOUR_MS).await;
        // The knowledge is saved while the authority runs, so that a crash loses an hour at most.
        assert!(file.exists());
        // The knowledge is saved when the authority stops.
        drop(learning);
        now_ms += 24 * HOUR_MS;
        let mut learning = begin(&file, now_ms).await;
        upload(&mut learning, 10, now_ms);
        assert!(is_old(&mut learning, now_ms));
        drop(learning);
        // If the newest file is damaged, the one before it is read. If both are, the authority starts with nothing.
        std::fs::write(&file, "soup").unwrap();
        let (mut learning, trouble) = begin_in_trouble(&file, now_ms).await;
        assert_eq!(trouble, DiskTrouble::KnowledgeDamaged);
        upload(&mut learning, 10, now_ms);
        assert!(is_old(&mut learning, now_ms));
        learning.file = None;
        drop(learning);
        std::fs::write(dir.join("relays.old"), "soup").unwrap();
        let (mut learning, trouble) = begin_in_trouble(&file, now_ms).await;
        assert_eq!(trouble, DiskTrouble::KnowledgeLost);
        upload(&mut learning, 10, now_ms + 60_000);
        assert!(!is_old(&mut learning, now_ms));
        drop(learning);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
