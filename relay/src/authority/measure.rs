//! Measures by downloads what relays carry (docs/protocol.md, 6.18).
//!
//! [`Scheduler`] is pure: it says which downloads to make and learns from their results. Somebody who can build
//! circuits makes the downloads ([`Measure`]), because a relay cannot. Times are of the history's observed time.

use core::pin::Pin;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use cepa_common::dir::{MAX_PADDING_BYTES, Site};
use cepa_common::ids::RelayId;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::history::MAX_RECORDS;

/// The most downloads at once.
const MAX_AT_ONCE: usize = 4;
/// Size of the first download through a relay (bytes).
const FIRST_BYTES: u32 = 64 << 10;
/// Size of the largest download (bytes), which is the most that a directory server sends.
const MAX_BYTES: u32 = MAX_PADDING_BYTES;
/// Number of downloads of each relay that the budget must allow while a sample lives. If it would not, downloads are
/// smaller.
const SAMPLES_TO_AFFORD: u64 = 6;
/// A download that takes this time shows what a relay carries. A shorter one is repeated with four times the bytes.
const LONG_ENOUGH: Duration = Duration::from_secs(1);
/// A download that takes longer than this is needlessly large.
const TOO_LONG: Duration = Duration::from_secs(8);
/// A download is cut off after this time, and what came until then counts.
const DOWNLOAD_DEADLINE: Duration = Duration::from_secs(30);
/// A download whose result has not come after this time is given up (milliseconds).
const LOST_AFTER_MS: u64 = 180_000;
/// Number of samples that are kept of one relay.
const MAX_SAMPLES: usize = 9;
/// Number of samples that an estimate needs, so that several partners count.
const MIN_SAMPLES: usize = 3;
/// A sample is forgotten after this many intervals.
const SAMPLE_LIFE_INTERVALS: u64 = 8;
/// After this many failures in a row without any sample, a relay is taken to carry nothing.
const FAILURES_TO_ZERO: u32 = 4;
/// The wait after the first failure (milliseconds). The wait doubles with each further failure.
const FIRST_RETRY_MS: u64 = 5_000;
/// The wait after a server was busy (milliseconds).
const BUSY_RETRY_MS: u64 = 20_000;
/// The estimate for a relay that carries nothing (KiB a second). Zero would mean that the relay must not be used.
const NEXT_TO_NOTHING: u32 = 1;
/// The pause before relays are looked through again if none was due (milliseconds).
const LOOK_AGAIN_MS: u64 = 1_000;

/// A download through a circuit of two relays, from the directory server of the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// The first and the second hop.
    pub path: [RelayId; 2],
    /// Number of bytes to ask for.
    pub bytes: u32,
    /// The authority's permit for the second hop; empty until the authority has signed it.
    pub permit: Vec<u8>,
    /// The download ends this long after its first byte, and what has come until then counts.
    pub deadline: Duration,
}

/// The result of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Number of bytes of content.
    pub bytes: u64,
    /// The time from the request to the last byte.
    pub took: Duration,
}

/// Why a download has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeasureError {
    /// The download was not tried, because this side is not ready, which says nothing about the relays.
    NotReady,
    /// The directory server of the second hop was busy. That says nothing about what the relays carry.
    Busy,
    /// One of the two relays did not do its part.
    Failed,
}

/// A download that is under way.
pub type MeasureFuture = Pin<Box<dyn Future<Output = Result<Carried, MeasureError>> + Send>>;

/// Makes downloads through circuits of two relays. A relay can build no circuits: this is the work of the client
/// library.
pub trait Measure: Send + Sync {
    /// Makes one download.
    fn measure(&self, download: &Download) -> MeasureFuture;
}

/// Downloads that are made at the same time, because relays that share an address share what the address carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The relays that are measured, one by each download.
    targets: Vec<RelayId>,
    /// The downloads, in the order of the targets.
    pub downloads: Vec<Download>,
    /// Number of relays at the address of the targets. This number is larger than the number of targets if there are
    /// too many relays to measure at once.
    sharing: usize,
}

/// A relay that may be measured.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) identity: RelayId,
    pub(super) ips: Vec<IpAddr>,
    /// What the relay claims to carry, capped (KiB a second).
    pub(super) claim: u32,
}

impl Candidate {
    /// Do the two relays share an IPv4 address or a subnet of IPv6? Loopback does not count: a whole network on one
    /// machine has the same address.
    fn shares_address(&self, other: &Self) -> bool {
        self.ips.iter().filter(|ip| !ip.is_loopback()).any(|ip| {
            other
                .ips
                .iter()
                .any(|there| Site::of(*there) == Site::of(*ip))
        })
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Sample {
    kib_per_sec: u32,
    at: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Subject {
    samples: VecDeque<Sample>,
    /// Size of the next download in bytes; zero before the first.
    bytes: u32,
    failures: u32,
    /// The next download is made at this time or later.
    next: u64,
    /// A download is under way until this time at the latest.
    #[serde(skip)]
    busy_until: u64,
}

impl Subject {
    fn estimate(&self) -> Option<u32> {
        if self.samples.len() < MIN_SAMPLES {
            let is_dead = self.failures >= FAILURES_TO_ZERO && self.samples.is_empty();
            return is_dead.then_some(NEXT_TO_NOTHING);
        }
        let mut rates: Vec<u32> = self.samples.iter().map(|s| s.kib_per_sec).collect();
        rates.sort_unstable();
        // A slow partner, or another authority that measures at the same moment, only makes a download slower, and no
        // relay carries more than it can. So the estimate is the upper quartile, and not the single best sample.
        rates.get(rates.len() * 3 / 4).copied()
    }
}

/// Decides which relay is measured next and through which partner, and holds the results so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Scheduler {
    subjects: BTreeMap<RelayId, Subject>,
    /// Budget in bytes an hour; nothing is measured with zero.
    #[serde(skip)]
    hourly: u64,
    /// Bytes that may be asked for now. The number is below zero when the last job was larger than the budget.
    #[serde(skip)]
    allowance: i64,
    #[serde(skip)]
    refilled: u64,
    #[serde(skip)]
    next_look: u64,
    /// Size of the largest download at present (bytes).
    #[serde(skip)]
    largest: u32,
}

impl Scheduler {
    /// Sets how much may be downloaded (MiB an hour).
    pub(super) fn set_budget(&mut self, mib_per_hour: u32, now: u64) {
        let hourly = u64::from(mib_per_hour) << 20;
        // Who says the same again gets nothing on top.
        if hourly > 0 && self.hourly == hourly {
            return;
        }
        self.hourly = hourly;
        (self.allowance, self.refilled) = (self.most_saved(), now);
    }

    /// How much may be downloaded (MiB an hour).
    pub(super) fn budget_mib(&self) -> u64 {
        self.hourly >> 20
    }

    /// What the relay carries (KiB a second), as soon as that is known.
    pub(super) fn estimate(&self, relay: &RelayId) -> Option<u32> {
        // An authority that measures no more says nothing about relays either.
        self.subjects
            .get(relay)
            .filter(|_| self.hourly > 0)?
            .estimate()
    }

    /// Size of the largest download that the budget allows for this many relays (bytes).
    fn affordable(&self, relays: usize, life_ms: u64) -> u32 {
        let in_life = u128::from(self.hourly) * u128::from(life_ms) / 3_600_000;
        let part = in_life / (relays.max(1) as u128 * u128::from(SAMPLES_TO_AFFORD));
        u32::try_from(part)
            .unwrap_or(MAX_BYTES)
            .clamp(FIRST_BYTES, MAX_BYTES)
    }

    fn busy(&self, now: u64) -> usize {
        let busy = self.subjects.values().filter(|s| s.busy_until > now);
        busy.count()
    }

    /// The most bytes that may be saved up: the budget of a minute.
    fn most_saved(&self) -> i64 {
        i64::try_from(self.hourly / 60).unwrap_or(i64::MAX)
    }

    fn refill(&mut self, now: u64) {
        let passed = now.saturating_sub(self.refilled);
        self.refilled = now;
        let gained = u128::from(self.hourly) * u128::from(passed) / 3_600_000;
        self.allowance = self
            .allowance
            .saturating_add(i64::try_from(gained).unwrap_or(i64::MAX))
            .min(self.most_saved());
    }

    /// When to ask for a job next; `None` if nothing is measured.
    pub(super) fn next_look(&self) -> Option<u64> {
        (self.hourly > 0).then_some(self.next_look)
    }

    /// The next downloads, if some are due.
    pub(super) fn next_job(
        &mut self,
        candidates: impl FnOnce() -> Vec<Candidate>,
        interval_secs: u32,
        now: u64,
        rng: &mut impl Rng,
    ) -> Option<Job> {
        if self.hourly == 0 || now < self.next_look {
            return None;
        }
        self.refill(now);
        let room = MAX_AT_ONCE.saturating_sub(self.busy(now));
        let job = (room > 0 && self.allowance >= 0)
            .then(|| self.choose(&candidates(), room, interval_secs, now, rng))
            .flatten();
        match &job {
            None => self.next_look = now.saturating_add(LOOK_AGAIN_MS),
            Some(job) => self.start(job, now),
        }
        job
    }

    fn start(&mut self, job: &Job, now: u64) {
        for (target, download) in job.targets.iter().zip(&job.downloads) {
            self.allowance = self.allowance.saturating_sub(i64::from(download.bytes));
            let subject = self.subjects.entry(*target).or_default();
            subject.busy_until = now.saturating_add(LOST_AFTER_MS);
        }
    }

    fn choose(
        &mut self,
        candidates: &[Candidate],
        room: usize,
        interval_secs: u32,
        now: u64,
        rng: &mut impl Rng,
    ) -> Option<Job> {
        let life = u64::from(interval_secs) * 1_000 * SAMPLE_LIFE_INTERVALS;
        self.largest = self.affordable(candidates.len(), life);
        for subject in self.subjects.values_mut() {
            subject
                .samples
                .retain(|sample| sample.at.saturating_add(life) > now);
        }
        if self.subjects.len() + candidates.len() > MAX_RECORDS {
            self.subjects
                .retain(|_, s| !s.samples.is_empty() || s.busy_until > now);
        }
        let target = self.most_wanting(candidates, now, rng)?;
        let mut group: Vec<&Candidate> = candidates
            .iter()
            .filter(|other| other.identity != target.identity && other.shares_address(target))
            .collect();
        let sharing = group.len() + 1;
        group.retain(|other| !self.is_busy(&other.identity, now));
        while group.len() + 1 > room {
            group.swap_remove(rng.random_range(0..group.len()));
        }
        group.insert(0, target);
        self.job(candidates, &group, sharing, rng)
    }

    fn is_busy(&self, relay: &RelayId, now: u64) -> bool {
        self.subjects
            .get(relay)
            .is_some_and(|subject| subject.busy_until > now)
    }

    /// The relay that most needs a measurement: one with the fewest samples; of those, one that has waited longest; of
    /// equals, any.
    fn most_wanting<'a>(
        &self,
        candidates: &'a [Candidate],
        now: u64,
        rng: &mut impl Rng,
    ) -> Option<&'a Candidate> {
        let want = |candidate: &Candidate| match self.subjects.get(&candidate.identity) {
            None => Some((0, 0)),
            Some(subject) => (subject.busy_until <= now && subject.next <= now)
                .then_some((subject.samples.len().min(MIN_SAMPLES), subject.next)),
        };
        let most = candidates.iter().filter_map(want).min()?;
        let equals: Vec<&Candidate> = candidates
            .iter()
            .filter(|candidate| want(candidate) == Some(most))
            .collect();
        equals.get(rng.random_range(0..equals.len())).copied()
    }

    fn job(
        &self,
        candidates: &[Candidate],
        group: &[&Candidate],
        sharing: usize,
        rng: &mut impl Rng,
    ) -> Option<Job> {
        let wanted = group
            .iter()
            .filter_map(|target| self.estimate(&target.identity))
            .max();
        let mut partners = self.partners(candidates, group, wanted.unwrap_or(0));
        if partners.is_empty() {
            return None;
        }
        // All downloads have the same size, so that a relay that is served first gains nothing.
        let sizes = group.iter().map(|target| {
            let subject = self.subjects.get(&target.identity);
            subject.map_or(0, |subject| subject.bytes)
        });
        let bytes = sizes
            .max()
            .unwrap_or(0)
            .clamp(FIRST_BYTES, self.largest.max(FIRST_BYTES));
        let mut job = Job {
            targets: Vec::new(),
            downloads: Vec::new(),
            sharing,
        };
        for target in group {
            // Each target gets another partner as long as there are enough.
            let index = rng.random_range(0..partners.len());
            let partner = if partners.len() > 1 {
                partners.swap_remove(index)
            } else {
                *partners.get(index)?
            };
            // A relay is measured in both roles, because forwarding and sending may differ.
            let path = if rng.random() {
                [target.identity, partner]
            } else {
                [partner, target.identity]
            };
            job.targets.push(target.identity);
            job.downloads.push(Download {
                path,
                bytes,
                permit: Vec::new(),
                deadline: DOWNLOAD_DEADLINE,
            });
        }
        Some(job)
    }

    /// Relays that are fast enough not to slow the download down: as fast as the target, or in the fastest quarter.
    fn partners(
        &self,
        candidates: &[Candidate],
        group: &[&Candidate],
        wanted: u32,
    ) -> Vec<RelayId> {
        let measured = candidates
            .iter()
            .filter(|c| self.estimate(&c.identity).is_some())
            .count();
        // The relays' claims count only as long as too few relays are measured.
        let claims_count = measured <= MIN_SAMPLES + group.len();
        let speed = |candidate: &Candidate| {
            let claim = claims_count.then_some(candidate.claim);
            self.estimate(&candidate.identity).or(claim)
        };
        let mut others: Vec<(u32, RelayId)> = candidates
            .iter()
            .filter(|other| {
                let mut targets = group.iter();
                !targets.any(|t| t.identity == other.identity || t.shares_address(other))
            })
            .filter_map(|other| Some((speed(other)?, other.identity)))
            .collect();
        others.sort_unstable_by(|a, b| b.cmp(a));
        let quarter = (others.len() / 4).max(MIN_SAMPLES.max(group.len()));
        let fast = others.iter().take_while(|(speed, _)| *speed >= wanted);
        let take = fast.count().max(quarter);
        others.into_iter().take(take).map(|(_, id)| id).collect()
    }

    /// Learns from the results of a job, which are in the order of its downloads.
    pub(super) fn on_result(
        &mut self,
        job: &Job,
        results: &[Result<Carried, MeasureError>],
        interval_secs: u32,
        now: u64,
        rng: &mut impl Rng,
    ) {
        self.next_look = now;
        let interval = u64::from(interval_secs) * 1_000;
        if results.contains(&Err(MeasureError::NotReady)) || results.len() != job.targets.len() {
            for target in &job.targets {
                let subject = self.subjects.entry(*target).or_default();
                subject.busy_until = 0;
                subject.next = now.saturating_add(FIRST_RETRY_MS.min(interval));
            }
            self.next_look = now.saturating_add(LOOK_AGAIN_MS);
            return;
        }
        if results.contains(&Err(MeasureError::Busy)) {
            for target in &job.targets {
                let subject = self.subjects.entry(*target).or_default();
                subject.busy_until = 0;
                let wait = jittered(BUSY_RETRY_MS.min(interval), rng);
                subject.next = now.saturating_add(wait);
            }
            return;
        }
        let carried: Vec<Carried> = results
            .iter()
            .filter_map(|result| result.ok().filter(|carried| carried.bytes > 0))
            .collect();
        // Relays that share an address are timed by the last of them. If one failed or was slow while the others ran at
        // full speed, all of them would look as fast as the address.
        let took = carried.iter().map(|carried| carried.took).max();
        match took.filter(|_| carried.len() == job.targets.len()) {
            Some(took) => self.on_carried(job, &carried, took, interval, now, rng),
            None => self.on_failed(job, interval, now, rng),
        }
    }

    fn on_carried(
        &mut self,
        job: &Job,
        carried: &[Carried],
        took: Duration,
        interval: u64,
        now: u64,
        rng: &mut impl Rng,
    ) {
        let largest = self.largest.max(FIRST_BYTES);
        for ((target, download), carried) in job.targets.iter().zip(&job.downloads).zip(carried) {
            let subject = self.subjects.entry(*target).or_default();
            (subject.busy_until, subject.failures) = (0, 0);
            subject.bytes = match took {
                short if short < LONG_ENOUGH => download.bytes.saturating_mul(4),
                long if long > TOO_LONG => download.bytes / 2,
                _ => download.bytes,
            }
            .clamp(FIRST_BYTES, largest);
            if took < LONG_ENOUGH && download.bytes < largest {
                subject.next = now;
                continue;
            }
            let targets = job.targets.len() as u64;
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
            let rate = u128::from(carried.bytes) * 1_000_000 / 1024 * u128::from(targets)
                / u128::from(micros)
                / job.sharing.max(1) as u128;
            if subject.samples.len() == MAX_SAMPLES {
                subject.samples.pop_front();
            }
            subject.samples.push_back(Sample {
                kib_per_sec: u32::try_from(rate).unwrap_or(u32::MAX).max(NEXT_TO_NOTHING),
                at: now,
            });
            // The first few samples of a relay follow soon, later ones at the interval. The waits are spread, so that
            // not all authorities measure a relay at once.
            let wait = if subject.samples.len() < MIN_SAMPLES {
                interval / 64
            } else {
                interval
            };
            subject.next = now.saturating_add(jittered(wait, rng));
        }
    }

    fn on_failed(&mut self, job: &Job, interval: u64, now: u64, rng: &mut impl Rng) {
        for target in &job.targets {
            let subject = self.subjects.entry(*target).or_default();
            subject.busy_until = 0;
            let wait = (FIRST_RETRY_MS << subject.failures.min(16)).min(interval);
            subject.failures = subject.failures.saturating_add(1);
            subject.next = now.saturating_add(jittered(wait, rng));
        }
    }

    /// The scheduler after a restart, when the downloads that were under way will bring no result.
    pub(super) fn after_restart(mut self) -> Self {
        while self.subjects.len() > MAX_RECORDS {
            self.subjects.pop_last();
        }
        for subject in self.subjects.values_mut() {
            subject.samples.truncate(MAX_SAMPLES);
        }
        self
    }
}

/// A random time between three quarters and five quarters of `wait`.
fn jittered(wait: u64, rng: &mut impl Rng) -> u64 {
    wait - wait / 4 + rng.random_range(0..=wait / 2)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "measure_tests.rs"]
mod tests;
