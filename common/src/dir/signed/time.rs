//! Dates in documents.

/// Seconds since the Unix epoch, UTC, without leap seconds.
pub type UnixSecs = u64;

/// A peer's clock may be so far ahead of this computer's. What the peer dates further ahead is refused (seconds).
pub const CLOCK_SKEW_SECS: u64 = 300;
