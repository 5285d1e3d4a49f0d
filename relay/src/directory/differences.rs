//! Differences to the newest consensus. Each is made once, and only a few at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cepa_common::dir::{Consensus, Digest, diff};
use cepa_common::sync::lock;
use cepa_common::world::blocking;
use tokio::sync::{OnceCell, Semaphore};

/// The most differences held. A relay holds at most 320 consensuses, and clients hold only a few of those.
const MAX_DIFFERENCES: usize = 64;
/// The most differences made at once: each takes a core for some milliseconds.
const MAX_AT_ONCE: usize = 2;
/// A consensus of this size or larger is compared on a thread of its own (bytes).
const LARGE_BYTES: usize = 64 * 1024;

type Slot = Arc<OnceCell<Option<Bytes>>>;

/// The differences by the consensus that they begin at. All end at the newest.
#[derive(Debug)]
pub(super) struct Differences {
    slots: Mutex<(Option<Digest>, HashMap<Digest, Slot>)>,
    making: Semaphore,
}

impl Differences {
    pub(super) fn new() -> Self {
        Self {
            slots: Mutex::default(),
            making: Semaphore::new(MAX_AT_ONCE),
        }
    }

    /// The difference from `older` to `newest`; `None` if the whole consensus serves as well, or if too many
    /// differences are being made.
    pub(super) async fn get(
        &self,
        older: &Arc<Consensus>,
        newest: &Arc<Consensus>,
    ) -> Option<Bytes> {
        let slot = self.slot(older.digest(), newest.digest())?;
        let made = slot.get_or_init(|| self.make(Arc::clone(older), Arc::clone(newest)));
        made.await.clone()
    }

    fn slot(&self, from: Digest, to: Digest) -> Option<Slot> {
        let mut held = lock(&self.slots);
        let (newest, slots) = &mut *held;
        if *newest != Some(to) {
            *newest = Some(to);
            slots.clear();
        }
        if slots.len() >= MAX_DIFFERENCES && !slots.contains_key(&from) {
            return None;
        }
        Some(slots.entry(from).or_default().clone())
    }

    async fn make(&self, older: Arc<Consensus>, newest: Arc<Consensus>) -> Option<Bytes> {
        let _turn = self.making.acquire().await.ok()?;
        let whole = newest.bytes().len();
        let make = move || diff(&older, &newest);
        let made = if whole < LARGE_BYTES {
            make()
        } else {
            blocking::run(make).await.ok()?
        };
        let bytes = made.ok()?;
        (bytes.len() < whole).then(|| bytes.into())
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        lock(&self.slots).1.len()
    }
}
