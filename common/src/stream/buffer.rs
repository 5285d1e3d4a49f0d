//! A queue of bytes in chunks: it grows without moving what it holds, and gives its memory back as it is read.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::budget::{Budget, Charge};

/// Bytes of a chunk.
const CHUNK: usize = 8 * 1024;
/// Chunks that a thread keeps for the next queue that needs one (2 MiB).
const KEPT_CHUNKS: usize = 256;

type Chunk = Box<[u8; CHUNK]>;

thread_local! {
    /// Chunks that one queue gives back and the next one takes, so that bulk moves through few chunks.
    static KEPT: RefCell<Vec<Chunk>> = const { RefCell::new(Vec::new()) };
}

fn take_chunk() -> Chunk {
    let kept = KEPT.with_borrow_mut(Vec::pop);
    kept.unwrap_or_else(|| Box::new([0; CHUNK]))
}

fn give_back(chunk: Chunk) {
    KEPT.with_borrow_mut(|kept| {
        if kept.len() < KEPT_CHUNKS {
            kept.push(chunk);
        }
    });
}

/// Bytes in order, charged to a budget by what their memory takes.
#[derive(Debug)]
pub(super) struct ByteQueue {
    chunks: VecDeque<Chunk>,
    /// Where the bytes begin in the first chunk; less than [`CHUNK`].
    from: usize,
    len: usize,
    charge: Charge,
    /// When bytes last came into the empty queue, or left it.
    moved: Option<Instant>,
}

impl ByteQueue {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            chunks: VecDeque::new(),
            from: 0,
            len: 0,
            charge: Charge::none(budget),
            moved: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Since when bytes wait in the queue without any of them moving on.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.moved
    }

    pub(super) fn push(&mut self, now: Instant, mut bytes: &[u8]) {
        if self.is_empty() && !bytes.is_empty() {
            self.moved = Some(now);
        }
        let chunks = self.chunks.len();
        while !bytes.is_empty() {
            let end = self.from + self.len;
            if end == self.chunks.len() * CHUNK {
                self.chunks.push_back(take_chunk());
            }
            let Some(last) = self.chunks.back_mut() else {
                return;
            };
            let room = &mut last[end % CHUNK..];
            let (fits, later) = bytes.split_at(room.len().min(bytes.len()));
            room[..fits.len()].copy_from_slice(fits);
            self.len += fits.len();
            bytes = later;
        }
        if self.chunks.len() != chunks {
            self.charge();
        }
    }

    /// Moves bytes to `out`, as many as there are and `out` has room for. Gives how many.
    pub(super) fn pop(&mut self, now: Instant, out: &mut [u8]) -> usize {
        let popped = self.peek(out);
        self.advance(now, popped);
        popped
    }

    /// Copies bytes to `out`, as many as there are and `out` has room for, and leaves them in the queue.
    pub(super) fn peek(&self, out: &mut [u8]) -> usize {
        let wanted = self.len.min(out.len());
        let (mut copied, mut from) = (0, self.from);
        for chunk in &self.chunks {
            let there = &chunk[from..];
            let len = there.len().min(wanted - copied);
            out[copied..copied + len].copy_from_slice(&there[..len]);
            copied += len;
            from = 0;
            if copied == wanted {
                break;
            }
        }
        copied
    }

    /// Drops up to `bytes` bytes at the front. Gives how many it has dropped.
    pub(super) fn advance(&mut self, now: Instant, bytes: usize) -> usize {
        let wanted = self.len.min(bytes);
        let chunks = self.chunks.len();
        let mut left = wanted;
        while left > 0 {
            let taken = left.min(CHUNK - self.from);
            left -= taken;
            self.from += taken;
            self.len -= taken;
            if self.from == CHUNK || self.len == 0 {
                self.from = 0;
                self.chunks.pop_front().into_iter().for_each(give_back);
            }
        }
        self.moved = (self.len > 0).then_some(now);
        if self.chunks.len() != chunks {
            self.charge();
        }
        wanted
    }

    pub(super) fn clear(&mut self) {
        self.chunks.drain(..).for_each(give_back);
        self.chunks = VecDeque::new();
        self.from = 0;
        self.len = 0;
        self.moved = None;
        self.charge();
    }

    /// Bytes that the chunks take.
    pub(super) fn held_bytes(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    fn charge(&mut self) {
        self.charge.set(self.held_bytes());
    }
}

impl Drop for ByteQueue {
    fn drop(&mut self) {
        self.chunks.drain(..).for_each(give_back);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_and_its_memory_is_charged(
            steps in prop::collection::vec((any::<bool>(), 0usize..40_000), 0..60)
        ) {
            let budget = Budget::unlimited();
            let (mut queue, mut plain) = (ByteQueue::new(&budget), VecDeque::<u8>::new());
            let (mut next, now) = (0u8, Instant::now());
            for (push, size) in steps {
                if push {
                    let bytes: Vec<u8> = (0..size).map(|_| { next = next.wrapping_add(1); next }).collect();
                    queue.push(now, &bytes);
                    plain.extend(&bytes);
                } else {
                    let mut out = vec![0; size];
                    let popped = queue.pop(now, &mut out);
                    let expected: Vec<u8> = plain.drain(..size.min(plain.len())).collect();
                    prop_assert_eq!(&out[..popped], &expected[..]);
                }
                prop_assert_eq!(queue.len(), plain.len());
                prop_assert_eq!(queue.waiting_since().is_some(), !plain.is_empty());
                // Only the first and the last chunk may be used in part.
                prop_assert!(budget.used() >= plain.len() && budget.used() < plain.len() + 2 * CHUNK);
            }
            drop(queue);
            prop_assert_eq!(budget.used(), 0);
        }
    }
}
