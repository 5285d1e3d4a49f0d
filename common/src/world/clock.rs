//! Wall-clock time for those who drive the pure machines.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::dir::UnixSecs;

/// How often a sleeper looks whether the clock was set.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// A change of the clock by less than this (milliseconds) does not matter.
const STEP_MS: u64 = 10_000;

/// A source of the time, so that tests can bring their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// The system's clock. A clock set before 1970 reads as 1970 (S37). In a simulated process reading it panics.
    pub fn system() -> Self {
        Self::from_fn(system_ms)
    }

    /// A clock that reads milliseconds since the Unix epoch from a function.
    pub fn from_fn(read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        (self.0)()
    }

    /// Sleeps for `wait`, or less if the clock is seen to have been set, or the machine to have slept: what was
    /// reckoned from the time before is then void. The clock is looked at every 30 s.
    pub async fn sleep(&self, wait: Duration) {
        let mut left = wait;
        while !left.is_zero() {
            let slice = left.min(LOOK_EVERY);
            let reading = self.read();
            tokio::time::sleep(slice).await;
            if reading.is_void() {
                return;
            }
            left = left.saturating_sub(slice);
        }
    }

    /// Reads the clock, to see later whether it has been set since, or the machine has slept.
    pub fn read(&self) -> Reading {
        Reading {
            clock: self.clone(),
            showed_ms: self.now_ms(),
            at: tokio::time::Instant::now(),
        }
    }

    /// Seconds since the Unix epoch.
    pub fn now_secs(&self) -> UnixSecs {
        self.now_ms() / 1_000
    }
}

/// What a clock showed at some moment.
#[derive(Debug)]
pub struct Reading {
    clock: Clock,
    showed_ms: u64,
    at: tokio::time::Instant,
}

impl Reading {
    /// Has the clock been set since, or has the machine slept? Then what was reckoned from the reading is void, and who
    /// was late meanwhile may not have been.
    pub fn is_void(&self) -> bool {
        let passed = u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let expected = self.showed_ms.saturating_add(passed);
        self.clock.now_ms().abs_diff(expected) > STEP_MS
    }
}

/// Milliseconds since the Unix epoch by the system's clock.
///
/// # Panics
/// In a simulated process, in which another run would read another time.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
fn system_ms() -> u64 {
    super::kind::be_real("time of day");
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(elapsed.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sleep_is_as_long_as_it_should_or_ends_soon_after_a_step() {
        let step = Arc::new(AtomicI64::new(0));
        let (began, steps) = (tokio::time::Instant::now(), Arc::clone(&step));
        let clock = Clock::from_fn(move || {
            let passed = u64::try_from(began.elapsed().as_millis()).unwrap_or(0);
            (1_900_000_000_000 + passed).saturating_add_signed(steps.load(Ordering::Relaxed))
        });
        clock.sleep(Duration::from_secs(3_601)).await;
        assert_eq!(began.elapsed().as_secs(), 3_601);
        for milliseconds in [3_600_000, -3_600_000, i64::MAX, i64::MIN, 0] {
            let (before, step) = (began.elapsed(), Arc::clone(&step));
            let set = async move {
                tokio::time::sleep(Duration::from_secs(100)).await;
                step.store(milliseconds, Ordering::Relaxed);
            };
            tokio::join!(set, clock.sleep(Duration::MAX));
            let slept = began.elapsed() - before;
            assert!((100..=131).contains(&slept.as_secs()), "{slept:?}");
        }
    }
}
