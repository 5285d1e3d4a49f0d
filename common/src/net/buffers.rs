//! Large buffers of a thread, used again and again: bulk moves through the same few, and a link at rest has none.

use std::cell::RefCell;

use crate::limits::READ_BATCH_BYTES;

/// What a buffer of the pool has room for (bytes): a read of the kernel and what came before it.
const ROOM: usize = READ_BATCH_BYTES + READ_BATCH_BYTES / 8;
/// Buffers kept (4.5 MiB).
const KEPT: usize = 16;
/// Fewer bytes are copied: to move them would tie a large buffer to a few.
const WORTH_MOVING: usize = 32 * 1024;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for a batch.
pub fn take() -> Vec<u8> {
    let kept = POOL.with_borrow_mut(Vec::pop);
    kept.unwrap_or_else(|| Vec::with_capacity(ROOM))
}

/// Keeps a buffer for the next who takes one, if it is of the right size and there is room for it.
pub fn give_back(mut buffer: Vec<u8>) {
    if !(READ_BATCH_BYTES..=2 * ROOM).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.len() < KEPT {
            pool.push(buffer);
        }
    });
}

/// Makes room in an empty buffer that may be a small one, or none.
pub fn prepare(buffer: &mut Vec<u8>) {
    if buffer.capacity() < READ_BATCH_BYTES {
        *buffer = take();
    }
}

/// Is it better to hand the buffer over than to copy what is in it?
pub fn is_worth_moving(buffer: &[u8]) -> bool {
    buffer.len() >= WORTH_MOVING
}

/// May `len` more bytes join those in `buffer`, without a move of many?
pub fn has_room(buffer: &Vec<u8>, len: usize) -> bool {
    buffer.len() + len <= buffer.capacity().max(2 * WORTH_MOVING)
}
