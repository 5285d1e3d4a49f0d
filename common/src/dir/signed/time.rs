//! Dates in documents.

/// Seconds since the Unix epoch, UTC, without leap seconds.
pub type UnixSecs = u64;

/// How far a peer's clock may be ahead of ours before what it dates is refused (seconds).
pub const CLOCK_SKEW_SECS: u64 = 300;
