//! Arithmetic on headers: exclusive or, the zero slot, the three parts of a cell's body.

use super::cipher::{Slot, Stream};
use crate::cell::{Body, HEADER_LEN, SLOT_LEN};

/// Length of a header without its first slot (`rest`), in bytes. `rest` is the associated data of a seal.
pub(crate) const REST_LEN: usize = HEADER_LEN - SLOT_LEN;
/// A header without its first slot.
pub(crate) type Rest = [u8; REST_LEN];

/// Computes `into ^= with` over the length of the shorter one.
pub(crate) fn xor(into: &mut [u8], with: &[u8]) {
    for (into, with) in into.iter_mut().zip(with) {
        *into ^= with;
    }
}

/// Is this the marker, sixteen zeros?
pub(crate) fn is_zero(slot: &[u8]) -> bool {
    slot.iter().fold(0, |all, byte| all | byte) == 0
}

/// Splits a body into tag, rest and payload.
pub(crate) fn parts(body: &mut Body) -> (&mut [u8], &mut [u8], &mut [u8]) {
    let (header, payload) = body.split_at_mut(HEADER_LEN);
    let (tag, rest) = header.split_at_mut(SLOT_LEN);
    (tag, rest, payload)
}

/// The first slot of a header.
pub(crate) fn first_slot(header: &[u8]) -> Slot {
    let mut slot = [0; SLOT_LEN];
    slot.copy_from_slice(&header[..SLOT_LEN]);
    slot
}

/// Computes `(x ^ z)[0..96]`: what is left of a header after its last slot has fallen off.
pub(crate) fn shorten(x: &[u8], z: &Stream) -> Rest {
    let mut rest = [0; REST_LEN];
    rest.copy_from_slice(&x[..REST_LEN]);
    xor(&mut rest, z);
    rest
}
