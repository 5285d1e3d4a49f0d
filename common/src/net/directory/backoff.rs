//! Waits between attempts: growing, capped, with jitter (S22).

use core::time::Duration;

use rand_core::Rng;

/// The wait before the next attempt, doubled each time up to a cap.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits that grow from `first` to `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            next: first.min(cap),
        }
    }

    /// The next wait: between half and all of the current step.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.cap);
        step / 2 + random_below(rng, step / 2)
    }

    /// Begins with the first wait again, after a success.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.cap);
    }
}

/// A random duration below `limit`, to the microsecond.
pub fn random_below(rng: &mut impl Rng, limit: Duration) -> Duration {
    let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    // The bias of a remainder is far smaller than what can be seen in a wait.
    Duration::from_micros(rng.next_u64().checked_rem(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_begins_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut rng = rand::rng();
        for top in [100, 200, 400, 800, 1_000, 1_000] {
            let wait = backoff.next(&mut rng);
            let top = Duration::from_millis(top);
            assert!(top / 2 <= wait && wait <= top, "{wait:?}");
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= Duration::from_millis(100));
        assert_eq!(random_below(&mut rng, Duration::ZERO), Duration::ZERO);
    }
}
