//! When a client fetches. Pure: the time comes in, and so does randomness.

use core::time::Duration;

use cepa_common::dir::{Lifetime, NetworkFile, UnixSecs};
use cepa_common::net::directory::random_below;
use rand::Rng;

/// The longest pause between two sources of a round while nobody waits: a guard that sees three circuits built in one
/// instant knows what they are for.
const PAUSE: Duration = Duration::from_secs(10);
/// Thousandths of the time in which a client that is asleep fetches.
pub(super) const PERMILLE: u64 = 1_000;

/// The longest pause between two sources. Networks with short intervals have short ones.
pub(crate) fn pause_of(network: &NetworkFile) -> Duration {
    let interval = network.params().vote_interval_seconds;
    PAUSE.min(Duration::from_secs(u64::from(interval)) / 20)
}

/// How long a usable consensus needs no successor; `None` if it needs one now.
///
/// Relays fetch in the first tenth after fresh-until. Clients fetch at a random time from there to the middle of the
/// interval, and at the latest a tenth of an interval before the consensus ends. So they do not all come at once, and
/// no client is known by the time at which it comes.
pub(crate) fn until_next(lifetime: Lifetime, now_ms: u64, rng: &mut impl Rng) -> Option<Duration> {
    let fresh_until_ms = lifetime.fresh_until.saturating_mul(1_000);
    let left_ms = fresh_until_ms
        .checked_sub(now_ms)
        .filter(|left| *left > 0)?;
    let interval = Duration::from_secs(lifetime.fresh_until.saturating_sub(lifetime.valid_after));
    let after = lifetime.valid_until.saturating_sub(lifetime.fresh_until);
    let latest = Duration::from_secs(after).saturating_sub(interval / 10);
    let earliest = (interval / 10).min(latest);
    let spread = (interval / 2).min(latest).saturating_sub(earliest);
    Some(Duration::from_millis(left_ms) + earliest + random_below(rng, spread))
}

/// When a client that is asleep fetches: in the last quarter of the validity of its consensus, and a tenth of an
/// interval before the end at the latest, after `permille` thousandths of this time. So it always has a consensus to
/// start with, and shows itself once in most of a day instead of each hour.
pub(super) fn next_asleep(lifetime: Lifetime, permille: u64) -> UnixSecs {
    let interval = lifetime.fresh_until.saturating_sub(lifetime.valid_after);
    let validity = lifetime.valid_until.saturating_sub(lifetime.valid_after);
    let earliest = lifetime.valid_until.saturating_sub(validity / 4);
    let latest = lifetime.valid_until.saturating_sub(interval / 10);
    let spread = latest.saturating_sub(earliest);
    earliest.saturating_add(spread.saturating_mul(permille) / PERMILLE)
}
