//! Which period a time belongs to, and how long its consensus lives (docs/protocol.md, 6.13).

use cepa_common::dir::{Lifetime, Params};

/// The lifetime of the consensus whose period a time belongs to: that of the nearest multiple of the interval.
pub(super) fn lifetime_at(params: &Params, now_ms: u64) -> Lifetime {
    let interval = u64::from(params.vote_interval_seconds);
    let interval_ms = interval * 1_000;
    let nearest = now_ms.saturating_add(interval_ms / 2) / interval_ms;
    Lifetime::of(params, nearest * interval)
}
