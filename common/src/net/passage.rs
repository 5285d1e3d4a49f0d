//! What a relay knows of a circuit that passes through it, beside the circuit's layers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::budget::{Budget, Charge};
use crate::limits::PASSING_BYTES;

/// A circuit that passes: the memory that it is charged, and when it was last of use. The table of the link to the
/// client's side holds this value for as long as the circuit passes, and the memory is given back when that ends.
#[derive(Debug)]
pub struct Passage {
    _charge: Charge,
    began: Instant,
    /// When a cell of the client last passed: milliseconds after `began`, plus one. Zero: none has passed yet.
    used: AtomicU64,
}

impl Passage {
    /// A circuit that passes from `now` on, charged to `budget`, which is that of the client's side.
    pub fn new(budget: &Arc<Budget>, now: Instant) -> Arc<Self> {
        let mut charge = Charge::none(budget);
        charge.set(PASSING_BYTES);
        Arc::new(Self {
            _charge: charge,
            began: now,
            used: AtomicU64::new(0),
        })
    }

    /// Notes that cells of the client pass.
    pub(super) fn on_used(&self, now: Instant) {
        let passed = now.saturating_duration_since(self.began).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX - 1);
        self.used.store(passed + 1, Ordering::Relaxed);
    }

    /// When the circuit began to pass.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// When a cell of the client last passed; `None` if none has.
    pub fn last_used(&self) -> Option<Instant> {
        let passed = self.used.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.began + Duration::from_millis(passed))
    }
}
