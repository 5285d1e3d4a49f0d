//! One bound on the bytes that a whole process has queued (S20).
//!
//! Every queue of cells and every stream's buffer charges what it holds to the [`Budget`] that it was made with. The
//! budget refuses nothing. Whoever watches the budget ends the circuits whose bytes have waited longest until there is
//! room again. A budget can have parts, one for each party, with a limit of their own; what a part holds counts in the
//! whole as well. This file is pure: it counts, and wakes the task that waits for the budget or a part to be exceeded.

use core::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::sync::lock;

/// Once a budget has been exceeded, circuits end until so much of it is used (percent).
const LOW_WATER_PERCENT: usize = 75;

/// How many bytes may be queued, and how many are.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicUsize,
    /// Bytes up to the limit; below zero if the budget is exceeded. Whoever takes this number through zero, by a charge
    /// or by another limit, knows alone that it was they who did.
    left: AtomicIsize,
    watcher: Mutex<Option<Waker>>,
    /// What this budget is a part of.
    whole: Option<Arc<Budget>>,
    /// How many parts are exceeded.
    parts_exceeded: AtomicUsize,
}

impl Budget {
    /// An empty budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Self::with(limit, None)
    }

    /// An empty part of `whole` with a limit of its own (bytes). What is charged to the part counts in both. Whoever
    /// watches the whole hears when the part is exceeded.
    pub fn part(whole: &Arc<Self>, limit: usize) -> Arc<Self> {
        Self::with(limit, Some(whole.clone()))
    }

    fn with(limit: usize, whole: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(signed(limit).unsigned_abs()),
            left: AtomicIsize::new(signed(limit)),
            watcher: Mutex::new(None),
            whole,
            parts_exceeded: AtomicUsize::new(0),
        })
    }

    /// A budget that nothing exceeds.
    pub fn unlimited() -> Arc<Self> {
        Self::new(usize::MAX)
    }

    /// Bytes that all charges hold now.
    pub fn used(&self) -> usize {
        let left = self.left.load(Ordering::Relaxed);
        signed(self.limit())
            .saturating_sub(left)
            .max(0)
            .unsigned_abs()
    }

    /// Is more used than the limit allows?
    pub fn is_exceeded(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }

    /// The limit (bytes).
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets another limit (bytes). If more is used than it allows, whoever watches hears of it. A call of [`Self::used`]
    /// at the same moment may give a number that is off by what the limit has changed.
    pub fn set_limit(&self, limit: usize) {
        let limit = signed(limit);
        let before = self.limit.swap(limit.unsigned_abs(), Ordering::Relaxed);
        self.change_left(limit - signed(before));
    }

    /// Is more used than should be left after circuits have ended for a budget that was exceeded?
    pub fn is_above_low_water(&self) -> bool {
        self.above_low_water() > 0
    }

    /// Bytes that are used beyond what should be left after circuits have ended for a budget that was exceeded.
    pub fn above_low_water(&self) -> usize {
        let low_water = self.limit() / 100 * LOW_WATER_PERCENT;
        self.used().saturating_sub(low_water)
    }

    /// Waits until the budget, or a part of it, is exceeded. Only the task that asked last is woken.
    pub fn poll_exceeded(&self, cx: &mut Context<'_>) -> Poll<()> {
        *self.watcher() = Some(cx.waker().clone());
        if self.is_exceeded() || self.parts_exceeded.load(Ordering::Relaxed) > 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn add(&self, bytes: usize) {
        if let Some(whole) = &self.whole {
            whole.add(bytes);
        }
        self.change_left(-signed(bytes));
    }

    fn take(&self, bytes: usize) {
        if let Some(whole) = &self.whole {
            whole.take(bytes);
        }
        self.change_left(signed(bytes));
    }

    fn change_left(&self, by: isize) {
        let before = self.left.fetch_add(by, Ordering::Relaxed);
        let after = before.wrapping_add(by);
        if before >= 0 && after < 0 {
            if let Some(whole) = &self.whole {
                whole.parts_exceeded.fetch_add(1, Ordering::Relaxed);
                whole.wake();
            }
        } else if before < 0
            && after >= 0
            && let Some(whole) = &self.whole
        {
            whole.parts_exceeded.fetch_sub(1, Ordering::Relaxed);
        }
        if by < 0 && after < 0 {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.watcher().take() {
            waker.wake();
        }
    }

    fn watcher(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        lock(&self.watcher)
    }
}

/// A number of bytes that may be taken from another; a limit that nobody reaches stays one.
fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

/// The bytes that one queue holds, charged to a budget and given back when the charge is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    /// A charge of no bytes yet to `budget`.
    pub fn none(budget: &Arc<Budget>) -> Self {
        Self {
            budget: budget.clone(),
            bytes: 0,
        }
    }

    /// Says that the queue holds `bytes` bytes now.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.budget.add(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.budget.take(self.bytes - bytes);
        }
        self.bytes = bytes;
    }

    /// The budget that the bytes are charged to.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What the budget counts is the sum of what the charges hold, after any sequence of changes.
        #[test]
        fn the_sum_is_right(steps in proptest::collection::vec((0..4usize, 0..10_000usize), 0..100)) {
            let budget = Budget::new(20_000);
            let mut charges: Vec<_> = (0..4).map(|_| Charge::none(&budget)).collect();
            let mut held = [0; 4];
            for (which, bytes) in steps {
                charges[which].set(bytes);
                held[which] = bytes;
                let sum: usize = held.iter().sum();
                prop_assert_eq!(budget.used(), sum);
                prop_assert_eq!(budget.is_exceeded(), sum > 20_000);
                prop_assert_eq!(budget.is_above_low_water(), sum > 15_000);
            }
            charges.clear();
            prop_assert_eq!(budget.used(), 0);
        }
    }

    proptest! {
        /// Whatever the limits become meanwhile, the sums are right, and the whole knows which parts are exceeded.
        #[test]
        fn limits_change_and_the_sums_stay_right(
            steps in proptest::collection::vec((0..6usize, 0..10_000usize), 0..100),
        ) {
            let whole = Budget::new(20_000);
            let parts = [Budget::part(&whole, 5_000), Budget::part(&whole, usize::MAX)];
            let mut charges = [Charge::none(&parts[0]), Charge::none(&parts[0]), Charge::none(&parts[1])];
            let mut held = [0; 3];
            let mut limits = [20_000, 5_000, usize::MAX];
            for (which, bytes) in steps {
                match which {
                    0..3 => {
                        charges[which].set(bytes);
                        held[which] = bytes;
                    }
                    3 => whole.set_limit(bytes),
                    other => parts[other - 4].set_limit(bytes),
                }
                if which >= 3 {
                    limits[which - 3] = bytes;
                }
                let sums = [held[0] + held[1] + held[2], held[0] + held[1], held[2]];
                let budgets = [&whole, &parts[0], &parts[1]];
                for (budget, (sum, limit)) in budgets.into_iter().zip(sums.into_iter().zip(limits)) {
                    prop_assert_eq!(budget.used(), sum);
                    prop_assert_eq!(budget.is_exceeded(), sum > limit);
                }
                let is_any = (0..3).any(|n| sums[n] > limits[n]);
                let mut cx = Context::from_waker(Waker::noop());
                prop_assert_eq!(whole.poll_exceeded(&mut cx).is_ready(), is_any);
            }
        }
    }

    #[test]
    fn a_watcher_hears_of_a_limit_that_is_lowered() {
        use std::sync::atomic::AtomicBool;
        struct Heard(AtomicBool);
        impl std::task::Wake for Heard {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let heard = Arc::new(Heard(AtomicBool::new(false)));
        let waker = heard.clone().into();
        let budget = Budget::new(10);
        let mut charge = Charge::none(&budget);
        charge.set(8);
        let mut cx = Context::from_waker(&waker);
        assert!(budget.poll_exceeded(&mut cx).is_pending());
        budget.set_limit(8);
        assert!(!heard.0.load(Ordering::Relaxed));
        budget.set_limit(7);
        assert!(heard.0.load(Ordering::Relaxed) && budget.is_exceeded());
        budget.set_limit(usize::MAX);
        assert!(!budget.is_exceeded() && budget.used() == 8);
    }

    #[test]
    fn a_watcher_hears_of_the_excess() {
        let budget = Budget::new(10);
        let mut cx = Context::from_waker(Waker::noop());
        let mut charge = Charge::none(&budget);
        charge.set(10);
        assert!(budget.poll_exceeded(&mut cx).is_pending());
        charge.set(11);
        assert!(budget.poll_exceeded(&mut cx).is_ready());
    }

    #[test]
    fn a_part_counts_in_the_whole_and_its_excess_is_heard_of() {
        let whole = Budget::new(100);
        let part = Budget::part(&whole, 10);
        let mut cx = Context::from_waker(Waker::noop());
        let [mut one, mut other] = [Charge::none(&part), Charge::none(&part)];
        one.set(6);
        other.set(4);
        assert_eq!((part.used(), whole.used()), (10, 10));
        assert!(whole.poll_exceeded(&mut cx).is_pending());
        other.set(5);
        assert!(whole.poll_exceeded(&mut cx).is_ready());
        assert!(part.is_exceeded() && !whole.is_exceeded());
        // However far the part goes over, it is one part.
        one.set(50);
        drop(one);
        assert!(whole.poll_exceeded(&mut cx).is_pending());
        drop(other);
        assert_eq!((part.used(), whole.used()), (0, 0));
    }
}
