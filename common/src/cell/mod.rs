//! The cell: 2,048 bytes, always (docs/protocol.md, chapter 2).
//!
//! [`codec`] reads and writes the eight clear bytes and the bodies of the link's own commands. [`message`] reads and
//! writes the messages inside an opened relay payload. [`wire`] has the reader of slices that both of them use. Nothing
//! in this room knows a key, a circuit's state or a socket.

pub mod codec;
pub mod message;
pub mod wire;

/// Length of every cell, in bytes. Eight cells fill one TLS record (16,384 bytes) exactly.
pub const CELL_LEN: usize = 2048;
/// Length of the clear part in front of a cell, in bytes: circuit id, command, three zero bytes.
pub const CLEAR_LEN: usize = 8;
/// Length of a cell's body, in bytes.
pub const BODY_LEN: usize = CELL_LEN - CLEAR_LEN;
/// Length of one slot of the onion header, in bytes; an AEAD tag has the same length.
pub const SLOT_LEN: usize = 16;
/// Number of slots in the onion header: one for the marker or tag, and one for each of six relays.
pub const SLOTS: usize = 7;
/// Length of the onion header at the front of a relay cell's body, in bytes.
pub const HEADER_LEN: usize = SLOT_LEN * SLOTS;
/// Length of the payload behind the header, in bytes. The payload is a run of messages.
pub const PAYLOAD_LEN: usize = BODY_LEN - HEADER_LEN;
/// The most relays that one circuit can have, because each takes one slot of the header.
pub const MAX_HOPS: usize = SLOTS - 1;

/// A cell's body. In a RELAY cell it is the onion header and the payload.
pub type Body = [u8; BODY_LEN];
/// An opened relay payload: messages, and zeros behind them.
pub type Payload = [u8; PAYLOAD_LEN];

const _: () = assert!(PAYLOAD_LEN == 1928 && HEADER_LEN == 112 && 8 * CELL_LEN == 16384);
