//! Times of the guard machine: both clocks, lifetimes, and when a guard that failed is tried again.

use std::time::Duration;

use cepa_common::dir::{Params, UnixSecs};
use rand::{CryptoRng, RngExt};

/// A moment by both clocks. Dates on disk are by the wall clock, which may be set. Waits are by the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Seconds since the Unix epoch.
    pub wall: UnixSecs,
    /// Time since the program started. This clock never goes back.
    pub mono: Duration,
}

/// If the wall clock and the monotonic clock disagree by more than this many seconds, the machine slept or its clock
/// was set.
const CLOCK_STEP_SECS: u64 = 60;

impl Now {
    /// Have the two clocks moved unequally since `earlier`? Then the network may be another one.
    pub(super) fn has_stepped_since(self, earlier: Self) -> bool {
        let ticked = self.mono.saturating_sub(earlier.mono).as_secs();
        let expected = earlier.wall.saturating_add(ticked);
        self.wall.abs_diff(expected) > CLOCK_STEP_SECS
    }
}

/// The network's parameters for guards (docs/protocol.md, 6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardLimits {
    /// The most guards in the sample.
    pub sample_max: usize,
    /// The number of usable guards that the sample should hold.
    pub sample_min: usize,
    /// The part of all guards' weight that the sample may have once it holds `sample_min` guards (percent).
    pub sample_percent: u64,
    /// Number of primary guards.
    pub primaries: usize,
    /// Number of primary guards that circuits for data begin at.
    pub in_use: usize,
    /// Number of primary guards that circuits begin at which only fetch from the directory.
    pub directory_in_use: usize,
    /// Life of a guard that was never used (seconds).
    pub unconfirmed_secs: u64,
    /// Life of a guard from its first use (seconds).
    pub confirmed_secs: u64,
    /// A guard that no consensus lists is kept for this time (seconds).
    pub unlisted_secs: u64,
    /// The first interval between tries of a guard that failed.
    pub retry: Duration,
    /// How long a circuit waits for a better guard that is being tried.
    pub wait: Duration,
    /// The network is taken to be down when nothing was heard for this time.
    pub network_down: Duration,
}

impl GuardLimits {
    /// Replaces the numbers of guards in use, for every purpose, by the owner's. There are at least as many primary
    /// guards.
    pub(super) fn with_in_use(mut self, own: Option<usize>) -> Self {
        if let Some(own) = own {
            self.in_use = own;
            self.directory_in_use = own;
            self.primaries = self.primaries.max(own);
        }
        self
    }
}

impl From<&Params> for GuardLimits {
    fn from(params: &Params) -> Self {
        let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let secs = |n: u32| Duration::from_secs(u64::from(n));
        Self {
            sample_max: count(params.guard_sample_max.max(params.guard_sample_min)),
            sample_min: count(params.guard_sample_min),
            sample_percent: u64::from(params.guard_sample_percent),
            primaries: count(params.guard_primaries),
            in_use: count(params.guards_in_use),
            directory_in_use: count(params.directory_guards_in_use),
            unconfirmed_secs: u64::from(params.guard_unconfirmed_seconds),
            confirmed_secs: u64::from(params.guard_confirmed_seconds),
            unlisted_secs: u64::from(params.guard_unlisted_seconds),
            retry: secs(params.guard_retry_seconds),
            wait: secs(params.guard_wait_seconds),
            network_down: secs(params.network_down_seconds),
        }
    }
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self::from(&Params::default())
    }
}

/// The phases of retries, by how long a guard has been failing: up to 6 hours, up to 4 days, up to 7 days, longer. The
/// unit is the interval of retries, 10 minutes by default.
const PHASES: [u32; 3] = [36, 576, 1_008];
/// Time between tries of a primary guard in each phase, in the same unit: 10 minutes, 90 minutes, 4 hours, 9 hours.
const PRIMARY: [u32; 4] = [1, 9, 24, 54];
/// Time between tries of any other guard in each phase, in the same unit: 1 hour, 4 hours, 18 hours, 36 hours.
const OTHER: [u32; 4] = [6, 24, 108, 216];

impl GuardLimits {
    /// The time until a guard that has been failing for `failing` is tried again (6.21.9). The time varies by a tenth
    /// at random, so that clients do not come back all at once (S22).
    pub(super) fn retry_after(
        &self,
        failing: Duration,
        primary: bool,
        rng: &mut impl CryptoRng,
    ) -> Duration {
        let phase = PHASES
            .iter()
            .take_while(|end| failing >= self.retry * **end)
            .count();
        let intervals = if primary { PRIMARY } else { OTHER };
        let exact = self.retry * intervals.get(phase).copied().unwrap_or(1);
        exact.mul_f64(rng.random_range(0.9..1.1))
    }
}

/// Moves `date` back by up to `1 / part` of `life` at random, so that what is on disk does not tell when somebody was
/// on line.
pub(super) fn blurred(date: UnixSecs, life: u64, part: u64, rng: &mut impl CryptoRng) -> UnixSecs {
    date.saturating_sub(rng.random_range(0..=life / part))
}
