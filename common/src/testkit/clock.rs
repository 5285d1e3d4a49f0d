//! A wall clock on virtual time.

use crate::world::Clock;

/// A clock that shows `start_ms` (milliseconds since the Unix epoch) now and then moves with tokio's clock. Tests pause
/// that clock, so that time passes only when everybody waits.
pub fn virtual_clock(start_ms: u64) -> Clock {
    let start = tokio::time::Instant::now();
    Clock::from_fn(move || start_ms + u64::try_from(start.elapsed().as_millis()).unwrap())
}
