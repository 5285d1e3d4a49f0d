//! Which period a time belongs to, and how long its consensus lives (docs/protocol.md, 6.13).

use cepa_common::dir::{Lifetime, Params, UnixSecs};

/// The least validity of a consensus, in intervals. The loss of a period or two must not stop a network.
const MIN_VALID_INTERVALS: u64 = 3;

/// The lifetime of the consensus whose period a time belongs to: that of the nearest multiple of the interval.
pub(super) fn lifetime_at(params: &Params, now_ms: u64) -> Lifetime {
    let interval = u64::from(params.vote_interval_seconds);
    let interval_ms = interval * 1_000;
    let nearest = now_ms.saturating_add(interval_ms / 2) / interval_ms;
    lifetime_of(params, nearest * interval)
}

/// The lifetime of the consensus with this valid-after.
pub(super) fn lifetime_of(params: &Params, valid_after: UnixSecs) -> Lifetime {
    let interval = u64::from(params.vote_interval_seconds);
    let valid = u64::from(params.consensus_valid_seconds).max(MIN_VALID_INTERVALS * interval);
    Lifetime {
        valid_after,
        fresh_until: valid_after.saturating_add(interval),
        valid_until: valid_after.saturating_add(valid),
    }
}
