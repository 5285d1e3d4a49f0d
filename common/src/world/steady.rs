//! The time that only moves forward, for waits, ages and round trips.

use std::time::Instant;

/// The present moment by the clock of the runtime, which is real, or virtual if the runtime's clock is paused.
///
/// Outside a runtime the clock is the machine's.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long ago `then` was; zero if it is still to come.
pub fn since(then: Instant) -> std::time::Duration {
    now().saturating_duration_since(then)
}
