//! The cell: 2,048 bytes, always (docs/protocol.md, chapter 2).
//!
//! [`codec`] reads and writes the eight clear bytes and the bodies of the
//! link's own commands; [`message`] reads and writes the messages inside an
//! opened relay payload; [`wire`] is the pair of primitives under both.
//! Nothing here knows a key, a circuit or a socket.

pub mod codec;
pub mod message;
pub mod wire;

/// Length of every cell, in bytes: eight of them fill one TLS record exactly.
pub const CELL_LEN: usize = 2048;
/// Length of the clear part in front: circuit id, command, three zero bytes.
pub const CLEAR_LEN: usize = 8;
/// Length of a cell's body.
pub const BODY_LEN: usize = CELL_LEN - CLEAR_LEN;
/// Length of one slot of the onion header, and of an AEAD tag.
pub const SLOT_LEN: usize = 16;
/// Slots in the onion header: a marker or tag, and one for each of six relays.
pub const SLOTS: usize = 7;
/// Length of the onion header at the front of a relay body.
pub const HEADER_LEN: usize = SLOT_LEN * SLOTS;
/// Length of the payload behind the header: the run of messages.
pub const PAYLOAD_LEN: usize = BODY_LEN - HEADER_LEN;
/// Most relays that one circuit can have (one header slot each).
pub const MAX_HOPS: usize = SLOTS - 1;

/// A cell's body: of a RELAY cell, the onion header and the payload.
pub type Body = [u8; BODY_LEN];
/// An opened relay payload: messages, then zeros.
pub type Payload = [u8; PAYLOAD_LEN];

const _: () = assert!(PAYLOAD_LEN == 1928 && HEADER_LEN == 112 && 8 * CELL_LEN == 16384);
