//! A queue of bytes that gives its memory back when it has been large.

use std::collections::VecDeque;

/// Kept when empty; more is given back.
const KEEP_CAPACITY: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct ByteQueue(VecDeque<u8>);

impl ByteQueue {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// Moves as many bytes as there are and `out` has room for.
    pub(super) fn pop(&mut self, out: &mut [u8]) -> usize {
        let (first, second) = self.0.as_slices();
        let head = first.len().min(out.len());
        out[..head].copy_from_slice(&first[..head]);
        let tail = second.len().min(out.len() - head);
        out[head..head + tail].copy_from_slice(&second[..tail]);
        self.0.drain(..head + tail);
        if self.0.is_empty() && self.0.capacity() > KEEP_CAPACITY {
            self.0 = VecDeque::new();
        }
        head + tail
    }

    pub(super) fn clear(&mut self) {
        self.0 = VecDeque::new();
    }
}
