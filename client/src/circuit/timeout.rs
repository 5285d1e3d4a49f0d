//! How long building a circuit may take, learnt from how long it has taken.
//!
//! The 80th percentile is read from the samples themselves. Beyond it, the tail is taken to be that of a Pareto
//! distribution, whose shape the samples above the percentile give (Hill's estimator; Weissman's extrapolation). After
//! the 80th percentile it pays to begin another circuit beside the slow one; past the 99th the slow one is given up.
//!
//! Tor's path specification (section 2.4.1) fits a Pareto distribution to all samples, with the most frequent time as
//! its scale. Times that do not follow a Pareto distribution below the tail, as nearly all do not, pull that fit away
//! from the tail, which is all that matters here; `the_tail_is_met_better` compares both on the same data. A slow
//! circuit is also not thrown away at the 80th percentile: it races the one begun beside it, and nothing is lost if the
//! estimate is wrong.

use core::ops::RangeInclusive;
use core::time::Duration;
use std::collections::VecDeque;

/// Number of samples kept.
const SAMPLES: usize = 1_000;
/// Number of samples needed before anything is learnt.
const ENOUGH: usize = 30;
/// Number of results looked back at to notice a change of the network.
const RECENT: usize = 20;
/// With this many timeouts among them, what was learnt is forgotten (Tor's `cbtmaxtimeouts`).
const TOO_MANY_TIMEOUTS: usize = 18;
/// The quantile at which another circuit is begun.
const SLOW: f64 = 0.80;
/// The quantile at which a circuit is given up.
const LOST: f64 = 0.99;
/// The least and the most time after which another circuit is begun.
const SLOW_BOUNDS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(20);
/// The least and the most time after which a circuit is given up.
const LOST_BOUNDS: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(60);
/// The time after which a circuit is given up, before anything is learnt.
const LOST_UNLEARNT: Duration = Duration::from_secs(20);
/// The time after which another circuit is begun, before anything is learnt.
const SLOW_UNLEARNT: Duration = Duration::from_millis(1_500);

/// What is known about the times that circuits take to be built.
#[derive(Clone, Debug, Default)]
pub struct BuildTimes {
    /// The samples in milliseconds, oldest first. For a circuit that was given up, the time at which it was given up.
    samples: VecDeque<Sample>,
    /// Was each of the last circuits given up?
    recent: VecDeque<bool>,
    learnt: Option<Tail>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    millis: f64,
    /// Was the circuit given up? Such a circuit would have taken longer, and nobody knows how long.
    is_cut_off: bool,
}

/// The percentiles that were learnt.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tail {
    /// The 80th percentile (milliseconds).
    slow: f64,
    /// The 99th percentile (milliseconds).
    lost: f64,
}

/// A time within bounds. A number that is no time becomes the longest time.
fn bounded(millis: f64, bounds: RangeInclusive<Duration>) -> Duration {
    let (least, most) = bounds.into_inner();
    let time = Duration::try_from_secs_f64(millis / 1e3).unwrap_or(most);
    time.clamp(least, most)
}

impl BuildTimes {
    /// Times of which nothing is learnt yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a circuit was built in this time.
    pub fn on_built(&mut self, took: Duration) {
        self.add(took, false);
    }

    /// Notes that a circuit was given up after this time, for its slowness only.
    pub fn on_given_up(&mut self, after: Duration) {
        self.add(after, true);
        if self.recent.iter().filter(|given_up| **given_up).count() >= TOO_MANY_TIMEOUTS {
            // The network is another one, or is in another state, so what was learnt is out of date.
            *self = Self::default();
        }
    }

    /// The time after which another circuit is begun beside one that is being built.
    pub fn slow_after(&self) -> Duration {
        self.learnt
            .map_or(SLOW_UNLEARNT, |tail| bounded(tail.slow, SLOW_BOUNDS))
    }

    /// The time after which a circuit that is being built is given up.
    pub fn lost_after(&self) -> Duration {
        self.learnt
            .map_or(LOST_UNLEARNT, |tail| bounded(tail.lost, LOST_BOUNDS))
    }

    /// Number of samples held.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Is nothing known yet?
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    fn add(&mut self, time: Duration, is_cut_off: bool) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(is_cut_off);
        self.samples.push_back(Sample {
            // A time of zero has no logarithm.
            millis: (time.as_secs_f64() * 1e3).max(0.001),
            is_cut_off,
        });
        self.learnt = (self.samples.len() >= ENOUGH).then(|| self.tail());
    }

    /// Computes the percentiles. A circuit that was given up would have taken longer than it lasted, by an unknown
    /// time.
    fn tail(&self) -> Tail {
        let mut sorted: Vec<Sample> = self.samples.iter().copied().collect();
        sorted.sort_by(|a, b| a.millis.total_cmp(&b.millis));
        let at = (sorted.len() as f64 * SLOW) as usize;
        let slow = sorted.get(at).map_or(0.0, |sample| sample.millis);
        let above = || sorted.iter().skip(at + 1);
        let logs: f64 = above().map(|sample| (sample.millis / slow).ln()).sum();
        let built = above().filter(|sample| !sample.is_cut_off).count();
        // If all samples are alike, the tail ends at once; if all were given up, it never does. The bounds hold for
        // both.
        let shape = (built as f64 / logs.max(1e-9)).clamp(0.05, 100.0);
        Tail {
            slow,
            lost: slow * ((1.0 - SLOW) / (1.0 - LOST)).powf(1.0 / shape),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn pareto(rng: &mut impl rand::Rng, scale_ms: f64, shape: f64) -> Duration {
        let share: f64 = rng.random_range(0.0..1.0);
        Duration::from_secs_f64(scale_ms / 1e3 / (1.0 - share).powf(1.0 / shape))
    }

    #[test]
    fn before_anything_is_learnt_the_defaults_hold() {
        let mut times = BuildTimes::new();
        for _ in 0..ENOUGH - 1 {
            times.on_built(Duration::from_secs(3));
            assert_eq!(times.slow_after(), SLOW_UNLEARNT);
            assert_eq!(times.lost_after(), LOST_UNLEARNT);
        }
        times.on_built(Duration::from_secs(3));
        assert!(times.slow_after() > Duration::from_secs(2));
    }

    /// What Tor's fit gives for the same quantile, with the average of the ten most frequent 10 ms bins as the scale.
    fn reference_fit(samples: &[Duration], share: f64) -> Duration {
        let mut bins = std::collections::BTreeMap::<u64, u32>::new();
        let bin = |time: &Duration| (time.as_secs_f64() * 100.0) as u64;
        samples
            .iter()
            .for_each(|time| *bins.entry(bin(time)).or_default() += 1);
        let mut modes: Vec<_> = bins.into_iter().map(|(bin, n)| (n, bin)).collect();
        modes.sort_unstable();
        let modes = modes.iter().rev().take(10);
        let (n, sum) = modes.fold((0.0, 0.0), |(n, sum), (count, bin)| {
            let count = f64::from(*count);
            (n + count, sum + count * (*bin as f64 + 0.5) / 100.0)
        });
        let scale: f64 = sum / n;
        let logs: f64 = samples
            .iter()
            .map(|time| (time.as_secs_f64() / scale).ln().max(0.0))
            .sum();
        let shape = samples.len() as f64 / logs;
        Duration::from_secs_f64(scale / (1.0 - share).powf(1.0 / shape))
    }

    /// Three hops with a log-normal time each, one in ten of them slowed down. That is no Pareto distribution.
    fn three_hops(rng: &mut impl rand::Rng) -> Duration {
        let mut normal =
            || -> f64 { (0..12).map(|_| rng.random_range(0.0..1.0)).sum::<f64>() - 6.0 };
        let millis: f64 = (0..3).map(|_| 500.0 * (0.5 * normal()).exp()).sum();
        let slowed = if rng.random_ratio(1, 10) { 3.0 } else { 1.0 };
        Duration::from_secs_f64(millis * slowed / 1e3)
    }

    #[test]
    fn the_tail_is_met_better() {
        type Draw = fn(&mut rand::rngs::StdRng) -> Duration;
        let sources: [(&str, Draw); 3] = [
            ("pareto 2.5", |rng| pareto(rng, 1_500.0, 2.5)),
            ("pareto 4", |rng| pareto(rng, 2_000.0, 4.0)),
            ("hops", |rng| three_hops(rng)),
        ];
        let mut sums = [0.0, 0.0];
        for (name, draw) in sources {
            let mut rng = rand::rngs::StdRng::seed_from_u64(3);
            let samples: Vec<_> = (0..SAMPLES).map(|_| draw(&mut rng)).collect();
            let mut times = BuildTimes::new();
            samples.iter().for_each(|time| times.on_built(*time));
            let fresh: Vec<_> = (0..20_000).map(|_| draw(&mut rng)).collect();
            // How far the share of circuits built in time differs from the share wanted, in parts of ten thousand.
            let off = |limit: Duration, wanted: f64| {
                let within = fresh.iter().filter(|time| **time <= limit).count();
                ((within as f64 / fresh.len() as f64 - wanted) * 1e4).abs()
            };
            let ours = [off(times.slow_after(), SLOW), off(times.lost_after(), LOST)];
            let theirs = [SLOW, LOST].map(|q| off(reference_fit(&samples, q), q));
            assert!(
                ours[0] < 350.0 && ours[1] < 100.0,
                "{name}: {ours:?} {theirs:?}"
            );
            sums[0] += ours[1];
            sums[1] += theirs[1];
        }
        assert!(sums[0] * 3.0 < sums[1], "{sums:?}");
    }

    #[test]
    fn circuits_given_up_lengthen_the_tail() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(4);
        let mut patient = BuildTimes::new();
        let mut cut = BuildTimes::new();
        for n in 0..600 {
            let took = pareto(&mut rng, 2_000.0, 2.0);
            patient.on_built(took);
            match took > Duration::from_secs(6) && n % 2 == 0 {
                true => cut.on_given_up(Duration::from_secs(6)),
                false => cut.on_built(took),
            }
        }
        // A circuit that was cut off at six seconds does not count as one of six seconds.
        let (whole, censored) = (patient.lost_after(), cut.lost_after());
        assert!(
            censored.abs_diff(whole) < whole / 4,
            "{censored:?} {whole:?}"
        );
    }

    #[test]
    fn a_network_that_has_become_slow_is_learnt_anew() {
        let mut times = BuildTimes::new();
        (0..100).for_each(|_| times.on_built(Duration::from_secs(2)));
        let before = times.lost_after();
        for _ in 0..TOO_MANY_TIMEOUTS {
            times.on_given_up(before);
        }
        assert!(times.is_empty());
        assert_eq!(times.lost_after(), LOST_UNLEARNT);
    }

    #[test]
    fn absurd_times_do_no_harm() {
        let mut times = BuildTimes::new();
        for time in [Duration::ZERO, Duration::MAX, Duration::from_nanos(1)] {
            (0..SAMPLES).for_each(|_| times.on_built(time));
            assert!(SLOW_BOUNDS.contains(&times.slow_after()));
            assert!(LOST_BOUNDS.contains(&times.lost_after()));
        }
        assert_eq!(times.len(), SAMPLES);
    }
}
