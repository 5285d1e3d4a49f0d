//! Who hears of each event.

use std::collections::VecDeque;
use std::sync::MutexGuard;

use super::state::State;
use super::{Event, NetworkState};
use crate::sync::lock;

/// What hears of events.
type Each = Box<dyn FnMut(&Event) + Send>;

/// Who hears of events, and the events that it has not heard of.
#[derive(Default)]
pub(super) struct Watcher {
    /// Empty while it is being called.
    each: Option<Each>,
    waiting: VecDeque<Event>,
}

impl NetworkState {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Has `each` hear of what happens from now on.
    pub(super) fn watch(&self, each: Each) {
        let before = lock(&self.watcher).each.replace(each);
        drop(before);
        self.with(|state, _| {
            state.is_watched = true;
            state.log.clear();
        });
    }

    /// Tells the watcher of events, in their order. What the watcher itself causes waits until it is back.
    pub(super) fn tell(&self, events: Vec<Event>) {
        let mut watcher = lock(&self.watcher);
        watcher.waiting.extend(events);
        let Some(mut each) = watcher.each.take() else {
            return;
        };
        while let Some(event) = watcher.waiting.pop_front() {
            drop(watcher);
            each(&event);
            watcher = lock(&self.watcher);
        }
        watcher.each.get_or_insert(each);
    }
}
