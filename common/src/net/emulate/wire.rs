//! One direction of an emulated link. The direction is pure: bytes go in at one time and come out at a later one.
//!
//! The model is what an application sees of a TCP stream over such a path:
//!
//! * Bytes leave one after another at the bandwidth, and arrive one delay later.
//! * Order is kept and nothing is lost, because TCP sees to that. A segment that the path loses arrives one round trip
//!   later, when it has been sent again; everything that was sent behind it waits for it and then comes at once. A
//!   round trip of zero counts as [`LEAST_STALL`], the least that a kernel's timers cost.
//! * The bytes under way and the bytes that wait to leave are bounded. A full wire takes no bytes, so that the sender
//!   must wait.
//!
//! Congestion control of the emulated TCP is not modelled: a loss costs time, not window.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

/// Payload of a segment on Ethernet with time stamps, in bytes. A loss takes one segment.
pub const SEGMENT_LEN: usize = 1448;
/// The least time that a lost segment costs.
pub const LEAST_STALL: Duration = Duration::from_millis(1);
/// Number of bytes that a wire without a bandwidth holds: 30 ms at 2 Gbit/s.
const UNBOUNDED_CAPACITY: usize = 8 << 20;
/// The least number of bytes that the queue before a slow wire holds: a few full TLS records.
const LEAST_QUEUE: usize = 64 << 10;

/// Delay, bandwidth and loss of a link, the same in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Conditions {
    /// Time from one end to the other.
    pub delay: Duration,
    /// Bandwidth in bytes a second; `None` for as fast as the machine is.
    pub bandwidth: Option<u64>,
    /// The share of segments that are lost, from 0 to below 1.
    pub loss: f64,
}

impl Conditions {
    /// Is a link under these conditions like one without any?
    pub fn is_plain(&self) -> bool {
        self.delay.is_zero() && self.bandwidth.is_none() && self.loss <= 0.0
    }

    /// The round trip: two delays.
    pub fn round_trip(&self) -> Duration {
        self.delay * 2
    }

    /// The number of bytes that a wire holds: what is under way at full speed, and a queue as long.
    pub fn capacity(&self) -> usize {
        let Some(rate) = self.bandwidth else {
            return UNBOUNDED_CAPACITY;
        };
        let product = u128::from(rate) * self.delay.as_micros() / 1_000_000;
        let product = usize::try_from(product).unwrap_or(UNBOUNDED_CAPACITY);
        product
            .saturating_add(product.max(LEAST_QUEUE))
            .min(UNBOUNDED_CAPACITY)
    }

    fn sending(&self, len: usize) -> Duration {
        let Some(rate) = self.bandwidth else {
            return Duration::ZERO;
        };
        let nanos = u128::try_from(len).unwrap_or(0) * 1_000_000_000 / u128::from(rate.max(1));
        // The time is rounded up, so that the wire is never faster than its bandwidth.
        Duration::from_nanos(u64::try_from(nanos + 1).unwrap_or(u64::MAX))
    }
}

/// Bytes under way in one direction.
#[derive(Debug)]
pub struct Wire {
    conditions: Conditions,
    /// The last byte that was taken has left at this time.
    free_at: Instant,
    /// The last byte that was taken arrives at this time.
    last_arrival: Instant,
    held: usize,
    under_way: VecDeque<(Instant, Vec<u8>)>,
}

impl Wire {
    /// An empty wire that takes bytes from `now` and moves them from `opens` on.
    pub fn new(conditions: Conditions, opens: Instant) -> Self {
        Self {
            conditions,
            free_at: opens,
            last_arrival: opens,
            held: 0,
            under_way: VecDeque::new(),
        }
    }

    /// Number of bytes that the wire takes now.
    pub fn room(&self) -> usize {
        self.conditions.capacity().saturating_sub(self.held)
    }

    /// Is nothing under way?
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Takes as many of `bytes` as there is room for. Returns how many.
    pub fn push(&mut self, now: Instant, bytes: &[u8], rng: &mut impl Rng) -> usize {
        let taken = bytes.len().min(self.room());
        let Some(bytes) = bytes.get(..taken) else {
            return 0;
        };
        // Without loss and bandwidth all segments arrive together, so one piece saves work.
        let piece = if self.conditions.loss > 0.0 || self.conditions.bandwidth.is_some() {
            SEGMENT_LEN
        } else {
            taken.max(1)
        };
        for segment in bytes.chunks(piece) {
            self.push_segment(now, segment, rng);
        }
        taken
    }

    fn push_segment(&mut self, now: Instant, segment: &[u8], rng: &mut impl Rng) {
        let leaves = self.free_at.max(now) + self.conditions.sending(segment.len());
        self.free_at = leaves;
        let mut arrives = leaves + self.conditions.delay;
        // A segment may be lost again. After a dozen losses the link counts as dead.
        for _ in 0..12 {
            if self.conditions.loss <= 0.0 || rng.random::<f64>() >= self.conditions.loss {
                break;
            }
            arrives += self.conditions.round_trip().max(LEAST_STALL);
        }
        self.last_arrival = self.last_arrival.max(arrives);
        self.held += segment.len();
        self.under_way
            .push_back((self.last_arrival, segment.to_vec()));
    }

    /// When the next bytes arrive.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.under_way.front().map(|(at, _)| *at)
    }

    /// Appends to `out` what has arrived by `now`. Returns how many bytes.
    pub fn pull(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        let before = out.len();
        while let Some((at, _)) = self.under_way.front()
            && *at <= now
        {
            if let Some((_, bytes)) = self.under_way.pop_front() {
                out.extend_from_slice(&bytes);
            }
        }
        let pulled = out.len() - before;
        self.held -= pulled;
        pulled
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// Pushes pieces of `sizes`, `gap_us` apart, as there is room. Returns for every byte in order the time in, the
    /// time out, and the byte.
    fn carry(
        conditions: Conditions,
        sizes: &[usize],
        gap_us: u64,
        seed: u64,
    ) -> Vec<(Duration, Duration, u8)> {
        let start = Instant::now();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut wire = Wire::new(conditions, start);
        let (mut now, mut sent, mut came) = (start, Vec::new(), Vec::new());
        let mut out = Vec::new();
        let take = |wire: &mut Wire, now: Instant, out: &mut Vec<u8>, came: &mut Vec<Duration>| {
            let pulled = wire.pull(now, out);
            came.extend(std::iter::repeat_n(now - start, pulled));
        };
        for &size in sizes {
            let mut left: Vec<u8> = (0..size).map(|i| ((sent.len() + i) % 251) as u8).collect();
            while !left.is_empty() {
                let taken = wire.push(now, &left, &mut rng);
                assert!(wire.held <= conditions.capacity());
                sent.extend(std::iter::repeat_n(now - start, taken));
                left.drain(..taken);
                if taken == 0 {
                    now = wire.next_arrival().unwrap().max(now);
                    take(&mut wire, now, &mut out, &mut came);
                }
            }
            let until = now + Duration::from_micros(gap_us);
            while wire.next_arrival().is_some_and(|at| at <= until) {
                now = wire.next_arrival().unwrap().max(now);
                take(&mut wire, now, &mut out, &mut came);
            }
            now = until;
        }
        while let Some(at) = wire.next_arrival() {
            now = at.max(now);
            take(&mut wire, now, &mut out, &mut came);
        }
        assert_eq!(out.len(), sent.len(), "bytes were lost or made");
        assert_eq!(wire.held, 0);
        sent.into_iter()
            .zip(came)
            .zip(out)
            .map(|((a, b), c)| (a, b, c))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn order_is_kept_nothing_is_lost_and_nothing_comes_early(
            delay_us in 0u64..50_000,
            rate in proptest::option::of(10_000u64..50_000_000),
            loss in 0.0f64..0.3,
            sizes in proptest::collection::vec(0usize..20_000, 1..20),
            gap_us in 0u64..10_000,
            seed: u64,
        ) {
            let delay = Duration::from_micros(delay_us);
            let conditions = Conditions { delay, bandwidth: rate, loss };
            let carried = carry(conditions, &sizes, gap_us, seed);
            for (number, (sent, came, byte)) in carried.iter().enumerate() {
                prop_assert_eq!(usize::from(*byte), number % 251);
                prop_assert!(*came >= *sent + delay);
            }
            if let (Some(rate), Some((first, _, _)), Some((_, last, _))) = (rate, carried.first(), carried.last()) {
                let least = carried.len() as f64 / rate as f64 + delay.as_secs_f64();
                prop_assert!((*last - *first).as_secs_f64() >= least * 0.999_999);
            }
        }
    }

    #[test]
    fn a_wire_is_as_fast_as_said() {
        let conditions = Conditions {
            delay: Duration::from_millis(30),
            bandwidth: Some(1_000_000),
            loss: 0.0,
        };
        let carried = carry(conditions, &[500_000], 0, 1);
        let took = carried.last().unwrap().1.as_secs_f64();
        assert!((took - 0.53).abs() < 0.001, "{took}");
    }

    #[test]
    fn a_lost_segment_costs_a_round_trip_of_all_behind_it() {
        let conditions = Conditions {
            delay: Duration::from_millis(10),
            bandwidth: None,
            loss: 0.5,
        };
        // Among the seeds there are both cases: the first segment is lost, and it is not.
        let arrivals: Vec<Vec<Duration>> = (0..20)
            .map(|seed| {
                carry(conditions, &[SEGMENT_LEN * 2], 0, seed)
                    .iter()
                    .map(|c| c.1)
                    .collect()
            })
            .collect();
        let early = arrivals.iter().any(|a| a[0] == Duration::from_millis(10));
        let held_up = arrivals
            .iter()
            .any(|a| a[0] == Duration::from_millis(30) && a[SEGMENT_LEN] >= a[0]);
        assert!(early && held_up, "{arrivals:?}");
    }

    #[test]
    fn a_full_wire_takes_nothing() {
        let conditions = Conditions {
            delay: Duration::from_secs(1),
            bandwidth: Some(1000),
            loss: 0.0,
        };
        let mut rng = StdRng::seed_from_u64(1);
        let now = Instant::now();
        let mut wire = Wire::new(conditions, now);
        let flood = vec![0; 1 << 20];
        assert_eq!(wire.push(now, &flood, &mut rng), conditions.capacity());
        assert_eq!(wire.push(now, &flood, &mut rng), 0);
    }
}
