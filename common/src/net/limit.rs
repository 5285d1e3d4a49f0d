//! A limit on how much the links of a node may move: one bucket for each direction, shared by all links.
//!
//! A link asks [`RateLimit::wait_for`] before it reads or writes, and reports afterwards how much it moved. Moving more
//! than is left is no error: the bucket goes into debt, and the next link waits until the debt is paid. So nobody has
//! to know ahead how much a read will give, and the sum over time is right all the same. A link that waits does not
//! read, and TCP makes the far side wait too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::sync::lock;

use tokio::time::Instant;

/// How much may be saved up while little moves, as a time at the full rate.
const BURST: Duration = Duration::from_millis(250);

/// The bucket of one direction.
#[derive(Debug)]
struct Bucket {
    /// What is left, in nanoseconds at the full rate; below zero while the bucket is in debt.
    level_ns: i128,
    at: Instant,
}

/// A limit on what links move, the same for each direction. The limit may change while links use it.
#[derive(Debug)]
pub struct RateLimit {
    /// Zero if there is no limit.
    bytes_per_sec: AtomicU64,
    reads: Mutex<Bucket>,
    writes: Mutex<Bucket>,
}

/// The direction in which bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into this node.
    Read,
    /// Out of this node.
    Write,
}

impl RateLimit {
    /// A limit in KiB a second that counts from `now` on. Zero is no limit.
    pub fn new(kib_per_sec: u32, now: Instant) -> Self {
        let bucket = || {
            Mutex::new(Bucket {
                level_ns: BURST.as_nanos().cast_signed(),
                at: now,
            })
        };
        Self {
            bytes_per_sec: AtomicU64::new(u64::from(kib_per_sec) * 1024),
            reads: bucket(),
            writes: bucket(),
        }
    }

    /// Is there a limit now?
    pub fn is_limited(&self) -> bool {
        self.bytes_per_sec.load(Ordering::Relaxed) > 0
    }

    /// Sets another limit in KiB a second, which counts from `now` on. What is in debt stays so in bytes: a debt that
    /// took long to pay at a slow rate is paid soon at a fast one. A link that waits already learns of it when its wait
    /// is over.
    pub fn set(&self, kib_per_sec: u32, now: Instant) {
        let new = u64::from(kib_per_sec) * 1024;
        let old = self.bytes_per_sec.swap(new, Ordering::Relaxed);
        for way in [Direction::Read, Direction::Write] {
            self.with(way, now, |bucket| {
                bucket.level_ns = match (old, new) {
                    (1.., 1..) if bucket.level_ns < 0 => {
                        bucket.level_ns.saturating_mul(old.into()) / i128::from(new)
                    }
                    (1.., 1..) => bucket.level_ns,
                    // Nothing was counted without a limit, and nothing is owed.
                    _ => bucket.level_ns.max(0),
                };
            });
        }
    }

    fn with<T>(&self, way: Direction, now: Instant, work: impl FnOnce(&mut Bucket) -> T) -> T {
        let bucket = match way {
            Direction::Read => &self.reads,
            Direction::Write => &self.writes,
        };
        let mut bucket = lock(bucket);
        let passed = now.saturating_duration_since(bucket.at);
        bucket.at = bucket.at.max(now);
        let filled = bucket.level_ns + passed.as_nanos().cast_signed();
        bucket.level_ns = filled.min(BURST.as_nanos().cast_signed());
        work(&mut bucket)
    }

    /// Notes that `bytes` bytes have moved at `now`.
    pub fn moved(&self, way: Direction, bytes: usize, now: Instant) {
        let bytes_per_sec = self.bytes_per_sec.load(Ordering::Relaxed);
        if bytes == 0 || bytes_per_sec == 0 {
            return;
        }
        let cost = bytes as u128 * 1_000_000_000 / u128::from(bytes_per_sec);
        self.with(way, now, |bucket| bucket.level_ns -= cost.cast_signed());
    }

    /// The time from which bytes may move in this direction; `None` if they may move now.
    pub fn wait_for(&self, way: Direction, now: Instant) -> Option<Instant> {
        if !self.is_limited() {
            return None;
        }
        let level_ns = self.with(way, now, |bucket| bucket.level_ns);
        let debt = u64::try_from(-level_ns).ok().filter(|debt| *debt > 0)?;
        Some(now + Duration::from_nanos(debt))
    }
}

/// What the links of a node have moved, and the limit on it if there is one. The links share it.
#[derive(Debug)]
pub struct Traffic {
    /// Bytes in each direction.
    moved: [AtomicU64; 2],
    limit: RateLimit,
}

impl Traffic {
    /// Nothing has moved yet, and `limit` is the limit.
    pub fn new(limit: RateLimit) -> Arc<Self> {
        Arc::new(Self {
            moved: Default::default(),
            limit,
        })
    }

    /// The limit, to change it.
    pub fn limit(&self) -> &RateLimit {
        &self.limit
    }

    /// How many bytes have moved in this direction.
    pub fn moved_bytes(&self, way: Direction) -> u64 {
        self.moved[way as usize].load(Ordering::Relaxed)
    }

    /// Is there a limit?
    pub fn is_limited(&self) -> bool {
        self.limit.is_limited()
    }

    /// Notes that `bytes` bytes have moved. Without a limit nobody has to know the time.
    pub fn moved(&self, way: Direction, bytes: usize, now: impl FnOnce() -> Instant) {
        if bytes == 0 {
            return;
        }
        self.moved[way as usize].fetch_add(bytes as u64, Ordering::Relaxed);
        if self.limit.is_limited() {
            self.limit.moved(way, bytes, now());
        }
    }

    /// The time from which bytes may move in this direction; `None` if they may move now.
    pub fn wait_for(&self, way: Direction, now: impl FnOnce() -> Instant) -> Option<Instant> {
        match self.limit.is_limited() {
            true => self.limit.wait_for(way, now()),
            false => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// Runs many links that move `batch` bytes whenever they may. Returns the number of bytes that moved in `seconds`.
    fn run(kib: u32, batch: usize, seconds: u64) -> u64 {
        let start = Instant::now();
        let limit = RateLimit::new(kib, start);
        let (mut now, mut moved) = (start, 0);
        while now < start + Duration::from_secs(seconds) {
            match limit.wait_for(Direction::Read, now) {
                Some(until) => now = until,
                None => {
                    limit.moved(Direction::Read, batch, now);
                    moved += batch as u64;
                }
            }
        }
        moved
    }

    #[test]
    fn the_sum_keeps_the_rate_whatever_the_batch() {
        for batch in [512, 64 << 10, 256 << 10] {
            let moved = run(1_000, batch, 60);
            let exact = 60 * 1_000 * 1024;
            assert!(
                moved <= exact + 250 * 1024 + batch as u64,
                "{batch}: {moved}"
            );
            assert!(moved >= exact, "{batch}: {moved}");
        }
    }

    #[test]
    fn directions_are_apart_and_idleness_saves_up_little() {
        let now = Instant::now();
        let limit = RateLimit::new(100, now);
        limit.moved(Direction::Read, 100 * 1024 * 2, now);
        assert!(limit.wait_for(Direction::Write, now).is_none());
        let wait = limit.wait_for(Direction::Read, now).unwrap() - now;
        assert_eq!(wait, Duration::from_millis(1_750));
        // An hour later, a quarter of a second is saved up, and not an hour.
        let later = now + Duration::from_secs(3_600);
        limit.moved(Direction::Read, 100 * 1024, later);
        let wait = limit.wait_for(Direction::Read, later).unwrap() - later;
        assert_eq!(wait, Duration::from_millis(750));
        // A time before the last one brings no gain and causes no panic (S37).
        assert!(limit.wait_for(Direction::Read, now).unwrap() > now);
    }

    #[test]
    fn zero_is_no_limit_and_the_largest_does_not_overflow() {
        let now = Instant::now();
        let limit = RateLimit::new(0, now);
        limit.moved(Direction::Read, usize::MAX, now);
        assert!(!limit.is_limited() && limit.wait_for(Direction::Read, now).is_none());
        let limit = RateLimit::new(u32::MAX, now);
        limit.moved(Direction::Read, usize::MAX, now);
        limit.wait_for(Direction::Read, now);
        let limit = RateLimit::new(1, now);
        limit.moved(Direction::Read, usize::MAX / 2, now);
    }

    #[test]
    fn what_moves_is_counted_in_each_direction_with_a_limit_and_without() {
        let now = Instant::now();
        for kib in [0, 8] {
            let traffic = Traffic::new(RateLimit::new(kib, now));
            traffic.moved(Direction::Read, 5_000, || now);
            traffic.moved(Direction::Write, 7, || now);
            traffic.moved(Direction::Read, 0, || now);
            traffic.moved(Direction::Read, 5_000, || now);
            assert_eq!(traffic.moved_bytes(Direction::Read), 10_000);
            assert_eq!(traffic.moved_bytes(Direction::Write), 7);
            let waits = traffic.wait_for(Direction::Read, || now).is_some();
            assert_eq!(waits, traffic.is_limited());
        }
    }

    #[test]
    fn another_rate_counts_at_once_and_a_debt_stays_the_same_in_bytes() {
        let now = Instant::now();
        let limit = RateLimit::new(100, now);
        let wait = |limit: &RateLimit| {
            let until = limit.wait_for(Direction::Read, now);
            until.map(|until| until - now).unwrap_or_default()
        };
        // Ten seconds are owed, of which a quarter was saved up.
        limit.moved(Direction::Read, 1_025 * 1024, now);
        assert_eq!(wait(&limit), Duration::from_secs(10));
        limit.set(1_000, now);
        assert_eq!(wait(&limit), Duration::from_secs(1));
        limit.set(50, now);
        assert_eq!(wait(&limit), Duration::from_secs(20));
        limit.set(0, now);
        assert_eq!(wait(&limit), Duration::ZERO);
        limit.moved(Direction::Read, 1 << 30, now);
        limit.set(50, now);
        assert_eq!(wait(&limit), Duration::ZERO, "nothing was counted");
        limit.moved(Direction::Read, 100 * 1024, now);
        assert!(wait(&limit) >= Duration::from_millis(1_750));
    }
}
