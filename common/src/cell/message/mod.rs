//! The messages inside an opened relay payload (docs/protocol.md, chapter 5).
//!
//! A payload is a run of messages, each of them `u8 type, u16 stream, u16 length, data`. The run ends at a zero type or
//! at the end of the payload. All bytes behind the run must be zero. Each party has an enum of what it may receive:
//! [`Outward`] at a relay, [`Inward`] at a client whose circuit is built, [`Telescope`] at a client that waits for
//! EXTENDED. A message that a party may not receive is not decoded at all (S14). A [`Packer`] writes what [`messages`]
//! reads.

mod datagram;
mod pack;
mod read;
mod special;
mod words;

#[cfg(test)]
mod tests;

pub use datagram::{CUT_DATAGRAM_LEN, Datagram, read_datagram, write_datagram_head};
pub use pack::{NoRoom, Packer};
pub use read::{Decode, Inward, MessageError, Messages, Outward, Telescope, messages};
pub use special::SpecialName;
pub use words::{
    AssociationMessage, BeginHost, EndReason, FlowMessage, LegMessage, MARK_LEN, MARK_MESSAGE_LEN,
    MAX_DATA_LEN, MAX_NAME_LEN, MESSAGE_HEAD_LEN, NUMBER_MESSAGE_LEN, SECRET_LEN, StreamMessage,
    is_name,
};
