//! Places for votes that are being received. A vote is large, and what comes in a vote's place need not be a vote
//! (S20).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cepa_common::ids::RelayId;
use cepa_common::sync::lock;
use tokio::sync::Notify;

/// Number of uploads of one author's votes at once: several other authorities pass each vote on.
const SLOTS_PER_AUTHOR: usize = 4;

/// One upload of a vote.
#[derive(Debug, Default)]
struct Upload {
    received: AtomicUsize,
    evicted: Notify,
}

/// The uploads of each author's votes. Over the limit, the upload that brought least makes room: somebody who holds
/// places by sending slowly cannot keep out whoever sends the vote.
#[derive(Debug, Default)]
pub(crate) struct VoteSlots(Mutex<HashMap<RelayId, Vec<Arc<Upload>>>>);

impl VoteSlots {
    /// Takes a place for a vote of this author.
    pub(crate) fn take(self: &Arc<Self>, author: RelayId) -> Slot {
        let upload = Arc::new(Upload::default());
        let mut all = lock(&self.0);
        let uploads = all.entry(author).or_default();
        if uploads.len() >= SLOTS_PER_AUTHOR {
            let brought = |upload: &Arc<Upload>| upload.received.load(Ordering::Relaxed);
            let least = uploads.iter().enumerate().min_by_key(|(_, u)| brought(u));
            if let Some(least) = least.map(|(n, _)| n) {
                uploads.remove(least).evicted.notify_one();
            }
        }
        uploads.push(Arc::clone(&upload));
        Slot {
            slots: Arc::clone(self),
            author,
            upload,
        }
    }
}

/// A place for one upload. The place is held until this value is dropped, or until another upload takes the place.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<VoteSlots>,
    author: RelayId,
    upload: Arc<Upload>,
}

impl Slot {
    /// Notes that this many more bytes have come.
    pub(crate) fn received(&self, bytes: usize) {
        self.upload.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Waits until another upload takes the place.
    pub(crate) async fn evicted(&self) {
        self.upload.evicted.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut all = lock(&self.slots.0);
        if let Some(uploads) = all.get_mut(&self.author) {
            uploads.retain(|upload| !Arc::ptr_eq(upload, &self.upload));
            if uploads.is_empty() {
                all.remove(&self.author);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::future::Future;
    use core::pin::pin;
    use core::task::{Context, Poll, Waker};

    use super::*;

    fn is_evicted(slot: &Slot) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(pin!(slot.evicted()).poll(&mut context), Poll::Ready(()))
    }

    #[test]
    fn who_brings_least_makes_room_and_authors_do_not_disturb_each_other() {
        let slots = Arc::new(VoteSlots::default());
        let (one, other) = (RelayId([1; 32]), RelayId([2; 32]));
        let elsewhere = slots.take(other);
        let held: Vec<_> = (0..SLOTS_PER_AUTHOR).map(|_| slots.take(one)).collect();
        for slot in [&held[0], &held[1], &held[3]] {
            slot.received(10);
        }
        let next = slots.take(one);
        assert!(is_evicted(&held[2]));
        // Of the uploads that brought nothing the oldest goes, and that is the newcomer here.
        let last = slots.take(one);
        assert!(is_evicted(&next));
        last.received(5);
        assert!(
            [&held[0], &held[1], &held[3], &last, &elsewhere]
                .iter()
                .all(|s| !is_evicted(s))
        );
        drop((held, next, last, elsewhere));
        assert!(slots.0.lock().is_ok_and(|all| all.is_empty()));
    }
}
