//! A queue of bytes that gives its memory back when it has been large.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::budget::{Budget, Charge};

/// Kept when empty; more is given back.
const KEEP_CAPACITY: usize = 64 * 1024;

/// Bytes in order, charged to a budget by what their memory takes.
#[derive(Debug)]
pub(super) struct ByteQueue {
    bytes: VecDeque<u8>,
    charge: Charge,
    /// When the queue last went from empty to not, or gave bytes out.
    moved: Option<Instant>,
}

impl ByteQueue {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            bytes: VecDeque::new(),
            charge: Charge::none(budget),
            moved: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Since when bytes wait here without any of them moving on.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.moved
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.bytes.is_empty() && !bytes.is_empty() {
            self.moved = Some(Instant::now());
        }
        self.bytes.extend(bytes);
        self.charge.set(self.bytes.capacity());
    }

    /// Moves as many bytes as there are and `out` has room for.
    pub(super) fn pop(&mut self, out: &mut [u8]) -> usize {
        let (first, second) = self.bytes.as_slices();
        let head = first.len().min(out.len());
        out[..head].copy_from_slice(&first[..head]);
        let tail = second.len().min(out.len() - head);
        out[head..head + tail].copy_from_slice(&second[..tail]);
        self.bytes.drain(..head + tail);
        if !self.bytes.is_empty() {
            self.moved = Some(Instant::now());
        } else if self.bytes.capacity() > KEEP_CAPACITY {
            self.clear();
        } else {
            self.moved = None;
        }
        head + tail
    }

    pub(super) fn clear(&mut self) {
        self.bytes = VecDeque::new();
        self.charge.set(0);
        self.moved = None;
    }
}
