//! Writes payloads.

use super::words::{
    AssociationMessage, BeginHost, FlowMessage, LegMessage, MESSAGE_HEAD_LEN, StreamMessage, kind,
};
use crate::cell::codec::{CREATE_LEN, CREATED_LEN, DestroyReason};
use crate::cell::{PAYLOAD_LEN, Payload};
use crate::ids::{AssociationId, RelayId, StreamId};

/// Packs messages into a payload. [`Packer::finish`] zeroes the bytes behind them.
#[derive(Debug)]
pub struct Packer<'a> {
    payload: &'a mut [u8; PAYLOAD_LEN],
    used: usize,
    /// Messages may use the payload up to this byte.
    end: usize,
}

/// The message is longer than the room left in its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for the message in this payload")]
pub struct NoRoom;

impl<'a> Packer<'a> {
    /// A packer that writes into `payload`. The old content of `payload` does not matter.
    pub fn new(payload: &'a mut Payload) -> Self {
        Self {
            payload,
            used: 0,
            end: PAYLOAD_LEN,
        }
    }

    /// Keeps at least `bytes` bytes at the end of the payload free.
    pub fn leave(&mut self, bytes: usize) {
        self.end = PAYLOAD_LEN.saturating_sub(bytes);
    }

    /// Bytes that are left for messages with their heads.
    pub fn space(&self) -> usize {
        self.end.saturating_sub(self.used)
    }

    /// Bytes packed so far.
    pub fn used(&self) -> usize {
        self.used
    }

    /// The bytes that have been packed from byte `from` on.
    pub fn packed_from(&self, from: usize) -> &[u8] {
        self.payload.get(from..self.used).unwrap_or_default()
    }

    /// Adds messages in the form in which [`Packer::packed_from`] gave them.
    pub fn again(&mut self, messages: &[u8]) -> Result<(), NoRoom> {
        let slot = self.payload.get_mut(self.used..self.used + messages.len());
        slot.ok_or(NoRoom)?.copy_from_slice(messages);
        self.used += messages.len();
        Ok(())
    }

    /// Data bytes that one more message may have; `None` if not even its head fits.
    pub fn room(&self) -> Option<usize> {
        self.end
            .checked_sub(self.used)?
            .checked_sub(MESSAGE_HEAD_LEN)
    }

    /// Has nothing been packed?
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Adds EXTEND.
    pub fn extend(&mut self, relay: &RelayId, message: &[u8; CREATE_LEN]) -> Result<(), NoRoom> {
        self.push(kind::EXTEND, None, &[&relay.0, message])
    }

    /// Adds EXTENDED.
    pub fn extended(&mut self, reply: &[u8; CREATED_LEN]) -> Result<(), NoRoom> {
        self.push(kind::EXTENDED, None, &[reply])
    }

    /// Adds BEGIN.
    pub fn begin(
        &mut self,
        stream: StreamId,
        host: BeginHost<'_>,
        port: u16,
    ) -> Result<(), NoRoom> {
        let (code, address): (u8, &[u8]) = match &host {
            BeginHost::V4(address) => (4, address),
            BeginHost::V6(address) => (6, address),
            BeginHost::Name(name) => (1, name.as_bytes()),
        };
        self.push(
            kind::BEGIN,
            Some(stream),
            &[&port.to_be_bytes(), &[code], address],
        )
    }

    /// Adds BEGIN_DIR.
    pub fn begin_dir(&mut self, stream: StreamId) -> Result<(), NoRoom> {
        self.push(kind::BEGIN_DIR, Some(stream), &[])
    }

    /// Adds BEGIN_DNS.
    pub fn begin_dns(&mut self, stream: StreamId) -> Result<(), NoRoom> {
        self.push(kind::BEGIN_DNS, Some(stream), &[])
    }

    /// Adds CONNECTED.
    pub fn connected(&mut self, stream: StreamId) -> Result<(), NoRoom> {
        self.push(kind::CONNECTED, Some(stream), &[])
    }

    /// Adds a message of a stream.
    pub fn stream(&mut self, id: StreamId, message: StreamMessage<'_>) -> Result<(), NoRoom> {
        match message {
            StreamMessage::Data(data) => self.push(kind::DATA, Some(id), &[data]),
            StreamMessage::End(reason) => self.push(kind::END, Some(id), &[&[reason.code()]]),
            StreamMessage::Window(bytes) => {
                self.push(kind::WINDOW, Some(id), &[&bytes.to_be_bytes()])
            }
            StreamMessage::Blocked => self.push(kind::BLOCKED, Some(id), &[]),
        }
    }

    /// Adds a message of an association.
    pub fn association(
        &mut self,
        id: AssociationId,
        message: AssociationMessage<'_>,
    ) -> Result<(), NoRoom> {
        let id = Some(id.into());
        match message {
            AssociationMessage::Begin => self.push(kind::BEGIN_UDP, id, &[]),
            AssociationMessage::Bound => self.push(kind::BOUND, id, &[]),
            AssociationMessage::Part(bytes) => self.push(kind::PART, id, &[bytes]),
            AssociationMessage::Datagram(bytes) => self.push(kind::DATAGRAM, id, &[bytes]),
            AssociationMessage::Unbind(reason) => self.push(kind::UNBIND, id, &[&[reason.code()]]),
        }
    }

    /// Adds MARK or ACK.
    pub fn flow(&mut self, message: &FlowMessage) -> Result<(), NoRoom> {
        match message {
            FlowMessage::Mark(bytes) => self.push(kind::MARK, None, &[bytes]),
            FlowMessage::Ack(bytes) => self.push(kind::ACK, None, &[bytes]),
        }
    }

    /// Adds a message about legs.
    pub fn leg(&mut self, message: &LegMessage<'_>) -> Result<(), NoRoom> {
        match message {
            LegMessage::Link { secret, leg } => {
                self.push(kind::LINK, None, &[*secret, &leg.to_be_bytes()])
            }
            LegMessage::Linked => self.push(kind::LINKED, None, &[]),
            LegMessage::Switch(number) => self.push(kind::SWITCH, None, &[&number.to_be_bytes()]),
            LegMessage::Seen(number) => self.push(kind::SEEN, None, &[&number.to_be_bytes()]),
            LegMessage::Unlink(leg) => self.push(kind::UNLINK, None, &[&leg.to_be_bytes()]),
            LegMessage::Ask => self.push(kind::ASK, None, &[]),
        }
    }

    /// Adds PADDING.
    pub fn padding(&mut self) -> Result<(), NoRoom> {
        self.push(kind::PADDING, None, &[])
    }

    /// Adds TRUNCATED.
    pub fn truncated(&mut self, reason: DestroyReason) -> Result<(), NoRoom> {
        self.push(kind::TRUNCATED, None, &[&[reason.code()]])
    }

    /// Adds a DATA of up to `len` bytes, written in place by `fill`. `fill` gets the room that there is and returns how
    /// many bytes it wrote. If it wrote none, no message is added. Returns the number of bytes.
    pub fn data_in_place(
        &mut self,
        stream: StreamId,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        let Some(room) = self.room() else { return 0 };
        let at = self.used + MESSAGE_HEAD_LEN;
        let slot = &mut self.payload[at..at + room.min(len)];
        let most = slot.len();
        let wrote = fill(slot).min(most);
        if wrote > 0 {
            self.write_head(kind::DATA, Some(stream), wrote);
            self.used = at + wrote;
        }
        wrote
    }

    /// Zeroes the rest of the payload. Returns whether there is any message.
    pub fn finish(self) -> bool {
        self.payload[self.used..].fill(0);
        self.used > 0
    }

    fn push(&mut self, k: u8, stream: Option<StreamId>, parts: &[&[u8]]) -> Result<(), NoRoom> {
        let len = parts.iter().map(|p| p.len()).sum();
        if self.room().is_none_or(|room| room < len) {
            return Err(NoRoom);
        }
        self.write_head(k, stream, len);
        self.used += MESSAGE_HEAD_LEN;
        for part in parts {
            self.payload[self.used..self.used + part.len()].copy_from_slice(part);
            self.used += part.len();
        }
        Ok(())
    }

    fn write_head(&mut self, k: u8, stream: Option<StreamId>, len: usize) {
        let at = self.used;
        self.payload[at] = k;
        self.payload[at + 1..at + 3]
            .copy_from_slice(&stream.map_or(0, StreamId::get).to_be_bytes());
        // The length fits 16 bits, because a payload is shorter than 64 KiB.
        self.payload[at + 3..at + 5].copy_from_slice(&(len as u16).to_be_bytes());
    }
}
