//! Times of the guard machine: both clocks, lifetimes and when a guard that failed is tried again.

use std::time::Duration;

use cepa_common::dir::{Params, UnixSecs};
use rand::{CryptoRng, RngExt};

/// A moment by both clocks. Dates on disk are of the wall clock, which may be set; waits are of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Seconds since the Unix epoch.
    pub wall: UnixSecs,
    /// Since the program started; never goes back.
    pub mono: Duration,
}

/// Wall and monotonic clock disagree by more: the machine slept, or its clock was set (seconds).
const CLOCK_STEP_SECS: u64 = 60;

impl Now {
    /// Have the clocks moved unequally since `earlier`? Then the network may be another one.
    pub(super) fn has_stepped_since(self, earlier: Self) -> bool {
        let ticked = self.mono.saturating_sub(earlier.mono).as_secs();
        let expected = earlier.wall.saturating_add(ticked);
        self.wall.abs_diff(expected) > CLOCK_STEP_SECS
    }
}

/// The network's parameters for guards (docs/protocol.md, 6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Guards in the sample at most.
    pub sample_max: usize,
    /// Usable guards that it should hold.
    pub sample_min: usize,
    /// Part of all guards' weight that it may have beyond its least (percent).
    pub sample_percent: u64,
    /// Primary guards.
    pub primaries: usize,
    /// Primary guards that circuits for data begin at.
    pub in_use: usize,
    /// The same for circuits that only fetch from the directory.
    pub directory_in_use: usize,
    /// Life of a guard that was never used (seconds).
    pub unconfirmed_secs: u64,
    /// Life of a guard from its first use (seconds).
    pub confirmed_secs: u64,
    /// A guard that no consensus lists is kept for so long (seconds).
    pub unlisted_secs: u64,
    /// First interval of retries.
    pub retry: Duration,
    /// How long a better guard that is being tried is waited for.
    pub wait: Duration,
    /// With nothing heard for so long the network is taken to be down.
    pub network_down: Duration,
}

impl Limits {
    /// With the owner's number of guards in use, whatever for; there are at least as many primary ones.
    pub(super) fn with_in_use(mut self, own: Option<usize>) -> Self {
        if let Some(own) = own {
            self.in_use = own;
            self.directory_in_use = own;
            self.primaries = self.primaries.max(own);
        }
        self
    }
}

impl From<&Params> for Limits {
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

impl Default for Limits {
    fn default() -> Self {
        Self::from(&Params::default())
    }
}

/// By how long a guard has been failing, in intervals of 10 minutes by default: up to 6 hours, 4 days, 7 days, longer.
const PHASES: [u32; 3] = [36, 576, 1_008];
/// Intervals between tries of a primary guard in each phase: 10 minutes, 90 minutes, 4 hours, 9 hours.
const PRIMARY: [u32; 4] = [1, 9, 24, 54];
/// And of any other: 1 hour, 4 hours, 18 hours, 36 hours.
const OTHER: [u32; 4] = [6, 24, 108, 216];

impl Limits {
    /// The time until a guard that has been failing for `failing` is tried again (6.21.9), within a tenth at random so
    /// that clients do not return together (S22).
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

/// A date up to `1 / part` of `life` before `date`, so that what is on disk does not tell when somebody was on line.
pub(super) fn blurred(date: UnixSecs, life: u64, part: u64, rng: &mut impl CryptoRng) -> UnixSecs {
    date.saturating_sub(rng.random_range(0..=life / part))
}
