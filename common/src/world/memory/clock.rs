//! The clock of a host, which can be wrong.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::super::Clock;
use crate::sync::lock;

/// The clock of one host: the network's time, and what the host's clock is ahead of it.
pub(super) struct HostClock {
    began: Instant,
    unix_ms: u64,
    set: Mutex<Set>,
}

/// How the clock was set at some time.
struct Set {
    at: Instant,
    ahead_us: i128,
    drift_ppm: i32,
}

impl Set {
    /// Microseconds that the clock is ahead of the network's time at `now`.
    fn ahead_us(&self, now: Instant) -> i128 {
        let since = i128::try_from((now - self.at).as_micros()).unwrap_or(i128::MAX);
        let gained = since.saturating_mul(self.drift_ppm.into()) / 1_000_000;
        self.ahead_us.saturating_add(gained)
    }
}

impl HostClock {
    /// A right clock in a network that began at `began`, when it was `unix_ms` (milliseconds since 1970).
    pub(super) fn new(began: Instant, unix_ms: u64) -> Arc<Self> {
        let set = Set {
            at: began,
            ahead_us: 0,
            drift_ppm: 0,
        };
        Arc::new(Self {
            began,
            unix_ms,
            set: Mutex::new(set),
        })
    }

    /// The clock for those who read it.
    pub(super) fn clock(self: &Arc<Self>) -> Clock {
        let clock = Arc::clone(self);
        Clock::from_fn(move || clock.now_ms())
    }

    fn now_ms(&self) -> u64 {
        let now = Instant::now();
        let passed = i128::try_from((now - self.began).as_micros()).unwrap_or(i128::MAX);
        let right = i128::from(self.unix_ms) * 1_000 + passed;
        let shown = right.saturating_add(lock(&self.set).ahead_us(now)) / 1_000;
        u64::try_from(shown.max(0)).unwrap_or(u64::MAX)
    }

    /// Moves the clock by `milliseconds`.
    pub(super) fn step(&self, milliseconds: i64) {
        let mut set = lock(&self.set);
        set.ahead_us += i128::from(milliseconds) * 1_000;
    }

    /// From now on the clock gains `drift_ppm` microseconds in each second.
    pub(super) fn drift(&self, drift_ppm: i32) {
        let now = Instant::now();
        let mut set = lock(&self.set);
        *set = Set {
            at: now,
            ahead_us: set.ahead_us(now),
            drift_ppm,
        };
    }
}
