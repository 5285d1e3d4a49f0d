//! The wall's clock on virtual time.

use crate::world::Clock;

/// A clock that shows `start_ms` (milliseconds since the Unix epoch) now and follows tokio's, which tests pause: time
/// passes when everyone waits.
pub fn virtual_clock(start_ms: u64) -> Clock {
    let start = tokio::time::Instant::now();
    Clock::from_fn(move || start_ms + u64::try_from(start.elapsed().as_millis()).unwrap())
}
