//! The [`Shelf`] as the tasks of one client share it.

use std::sync::{Mutex, MutexGuard};

use cepa_common::sync::lock;
use tokio::sync::Notify;

use super::built::Circuit;
use super::shelf::Shelf;

/// A client's circuits, and the bell for whoever looks after them.
pub(super) struct Stock {
    shelf: Mutex<Shelf<Circuit>>,
    /// Rings when circuits are missing, or may be.
    missing: Notify,
}

impl Stock {
    pub(super) fn new() -> Self {
        Self {
            shelf: Mutex::new(Shelf::new()),
            missing: Notify::new(),
        }
    }

    /// The shelf. Whoever locks it does so for a moment, and waits for nothing meanwhile.
    pub(super) fn shelf(&self) -> MutexGuard<'_, Shelf<Circuit>> {
        lock(&self.shelf)
    }

    /// Wakes whoever looks after the circuits.
    pub(super) fn ring(&self) {
        self.missing.notify_one();
    }

    /// Waits for [`Stock::ring`].
    pub(super) async fn rung(&self) {
        self.missing.notified().await;
    }
}
