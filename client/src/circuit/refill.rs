//! When a clean circuit is built in place of one that was taken. Pure: the time comes in, and so does randomness.
//!
//! If a circuit were built in the instant that another is taken, three handshakes would mark each new identity, to the
//! guard and to whoever watches the link.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

/// The pause before a circuit is built while others are left (milliseconds).
const PAUSE: RangeInclusive<u64> = 1_000..=10_000;

/// What to do about clean circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refilling {
    /// None is missing.
    Nothing,
    /// Build one now.
    Build,
    /// Look again at this time.
    Wait(Instant),
}

/// Says when clean circuits are built ahead of need.
#[derive(Debug, Default)]
pub(super) struct Refill {
    /// When the next one is to be built.
    due: Option<Instant>,
}

impl Refill {
    /// What to do now, if circuits are `missing` of which so many are left; `None`: no circuit is missing.
    pub(super) fn next(
        &mut self,
        now: Instant,
        missing: Option<usize>,
        rng: &mut impl Rng,
    ) -> Refilling {
        let Some(left) = missing else {
            self.due = None;
            return Refilling::Nothing;
        };
        let due = *self
            .due
            .get_or_insert_with(|| now + Duration::from_millis(rng.random_range(PAUSE)));
        if left > 0 && now < due {
            return Refilling::Wait(due);
        }
        self.due = None;
        Refilling::Build
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn one_that_was_taken_is_built_anew_after_a_random_time_and_at_once_where_none_is_left() {
        let (start, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let mut waits = Vec::new();
        for _ in 0..1_000 {
            let mut refill = Refill::default();
            let Refilling::Wait(due) = refill.next(start, Some(1), &mut rng) else {
                panic!("it is built in the instant that one is taken");
            };
            // Whoever looks in between changes nothing.
            let early = due - Duration::from_millis(1);
            assert_eq!(refill.next(early, Some(1), &mut rng), Refilling::Wait(due));
            assert_eq!(refill.next(due, Some(1), &mut rng), Refilling::Build);
            waits.push(due - start);
        }
        let within = Duration::from_secs(1)..=Duration::from_secs(10);
        assert!(waits.iter().all(|wait| within.contains(wait)));
        let mean = waits.iter().sum::<Duration>() / 1_000;
        assert!((5.2..5.8).contains(&mean.as_secs_f64()), "{mean:?}");

        let mut refill = Refill::default();
        assert_eq!(refill.next(start, None, &mut rng), Refilling::Nothing);
        assert_eq!(refill.next(start, Some(0), &mut rng), Refilling::Build);
        assert!(matches!(
            refill.next(start, Some(1), &mut rng),
            Refilling::Wait(_)
        ));
    }
}
