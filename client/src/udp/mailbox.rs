//! Datagrams that wait for somebody: a bounded number, of which the oldest is dropped.

use std::collections::VecDeque;
use std::sync::Mutex;

use cepa_common::limits::{DATAGRAM_QUEUE_BYTES, DATAGRAMS_QUEUED};
use cepa_common::sync::lock;
use tokio::sync::Notify;

/// What takes room in a mailbox.
pub(super) trait Weighs {
    /// Bytes.
    fn weight(&self) -> usize;
}

/// What a datagram takes beside its bytes.
pub(super) const OVERHEAD_BYTES: usize = 64;

struct State<T> {
    items: VecDeque<T>,
    bytes: usize,
    is_closed: bool,
}

/// Where datagrams wait for one reader.
pub(super) struct Mailbox<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

impl<T: Weighs> Mailbox<T> {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                bytes: 0,
                is_closed: false,
            }),
            changed: Notify::new(),
        }
    }

    /// Puts one in. What is too much takes the oldest away.
    pub(super) fn push(&self, item: T) {
        let mut state = lock(&self.state);
        if state.is_closed {
            return;
        }
        state.bytes += item.weight();
        state.items.push_back(item);
        while state.items.len() > DATAGRAMS_QUEUED || state.bytes > DATAGRAM_QUEUE_BYTES {
            let Some(oldest) = state.items.pop_front() else {
                break;
            };
            state.bytes -= oldest.weight();
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Puts one back that was taken, as the oldest.
    pub(super) fn put_back(&self, item: T) {
        let mut state = lock(&self.state);
        state.bytes += item.weight();
        state.items.push_front(item);
        drop(state);
        self.changed.notify_one();
    }

    /// Takes the oldest, if there is one.
    pub(super) fn try_take(&self) -> Option<T> {
        let mut state = lock(&self.state);
        let item = state.items.pop_front()?;
        state.bytes -= item.weight();
        Some(item)
    }

    /// Takes the oldest, or waits for one. `None` once the mailbox is closed and empty.
    pub(super) async fn take(&self) -> Option<T> {
        loop {
            let changed = self.changed.notified();
            if let Some(item) = self.try_take() {
                return Some(item);
            }
            if lock(&self.state).is_closed {
                return None;
            }
            changed.await;
        }
    }

    /// Nothing more comes in. What is there can still be taken.
    pub(super) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    impl Weighs for (u32, usize) {
        fn weight(&self) -> usize {
            self.1
        }
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_and_too_much_take_the_oldest_away() {
        let mail = Mailbox::new();
        for n in 0..200 {
            mail.push((n, 1));
        }
        assert_eq!(mail.take().await, Some((72, 1)));
        mail.push((200, DATAGRAM_QUEUE_BYTES));
        assert_eq!(mail.try_take(), Some((200, DATAGRAM_QUEUE_BYTES)));
        assert_eq!(mail.try_take(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_waits_and_hears_of_the_end() {
        let mail = Mailbox::new();
        let (got, ()) = tokio::join!(mail.take(), async { mail.push((1, 1)) });
        assert_eq!(got, Some((1, 1)));
        mail.push((2, 1));
        mail.close();
        mail.push((3, 1));
        assert_eq!((mail.take().await, mail.take().await), (Some((2, 1)), None));
    }
}
