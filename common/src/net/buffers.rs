//! Large buffers of a thread, which are used again and again: bulk moves through the same few buffers, and a link at
//! rest has none.

use std::cell::RefCell;

use crate::limits::READ_BATCH_BYTES;

/// Capacity of a buffer of the pool, in bytes: one read of the kernel and what came before it.
const ROOM: usize = READ_BATCH_BYTES + READ_BATCH_BYTES / 8;
/// Number of buffers that are kept (4.5 MiB).
const KEPT: usize = 16;
/// Fewer bytes than this are copied: moving the buffer would tie a large buffer to a few bytes.
const WORTH_MOVING: usize = 32 * 1024;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Takes an empty buffer with room for a batch.
pub fn take() -> Vec<u8> {
    let kept = POOL.with_borrow_mut(Vec::pop);
    kept.unwrap_or_else(|| Vec::with_capacity(ROOM))
}

/// Keeps a buffer for the next [`take`], if it is of the right size and fewer than the most are kept.
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

/// Gives an empty buffer the capacity for a batch, if it has less.
pub fn prepare(buffer: &mut Vec<u8>) {
    if buffer.capacity() < READ_BATCH_BYTES {
        *buffer = take();
    }
}

/// Is it better to hand the buffer over than to copy its bytes?
pub fn is_worth_moving(buffer: &[u8]) -> bool {
    buffer.len() >= WORTH_MOVING
}

/// May `len` more bytes join those in `buffer` without many bytes being moved?
pub fn has_room(buffer: &Vec<u8>, len: usize) -> bool {
    buffer.len() + len <= buffer.capacity().max(2 * WORTH_MOVING)
}
