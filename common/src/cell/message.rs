//! The messages inside an opened relay payload (docs/protocol.md, chapter 5).
//!
//! A payload is a run of messages, each of them `u8 type, u16 stream, u16 length, data`. The run ends at a zero type or
//! at the end of the payload. All bytes behind the run must be zero. Each party has an enum of what it may receive:
//! [`Outward`] at a relay, [`Inward`] at a client whose circuit is built, [`Telescope`] at a client that waits for
//! EXTENDED. A message that a party may not receive is not decoded at all (S14).

use super::codec::{CREATE_LEN, CREATED_LEN, DestroyReason};
use super::wire::{Reader, UnexpectedEnd, all_zero};
use super::{PAYLOAD_LEN, Payload};
use crate::ids::{RelayId, StreamId};

/// Length of what stands in front of a message's data, in bytes: type, stream, length.
pub const MESSAGE_HEAD_LEN: usize = 5;
/// The most data bytes that one DATA message can hold: those of a DATA that has a payload for itself.
pub const MAX_DATA_LEN: usize = PAYLOAD_LEN - MESSAGE_HEAD_LEN;
/// The longest name that a BEGIN can hold, in bytes; the limit is that of DNS (RFC 1035, 2.3.4).
pub const MAX_NAME_LEN: usize = 253;
/// Length of the random bytes of MARK and ACK, in bytes.
pub const MARK_LEN: usize = 16;
/// Length of the secret of a set of legs, in bytes.
pub const SECRET_LEN: usize = 32;
/// Length of a SWITCH or a SEEN, in bytes, with its head.
pub const NUMBER_MESSAGE_LEN: usize = MESSAGE_HEAD_LEN + 8;
/// Length of a MARK or an ACK, in bytes, with its head.
pub const MARK_MESSAGE_LEN: usize = MESSAGE_HEAD_LEN + MARK_LEN;

/// Numbers of the message types on the wire. The numbers that are missing in between are kept for BEGIN_UDP (5),
/// DATAGRAM (8), RESOLVE (13), RESOLVED (14) and PADDING (16). Nothing negotiates those yet, so receiving one is an
/// error.
mod kind {
    pub(super) const EXTEND: u8 = 1;
    pub(super) const EXTENDED: u8 = 2;
    pub(super) const BEGIN: u8 = 3;
    pub(super) const BEGIN_DIR: u8 = 4;
    pub(super) const CONNECTED: u8 = 6;
    pub(super) const DATA: u8 = 7;
    pub(super) const END: u8 = 9;
    pub(super) const WINDOW: u8 = 10;
    pub(super) const MARK: u8 = 11;
    pub(super) const ACK: u8 = 12;
    pub(super) const TRUNCATED: u8 = 15;
    pub(super) const LINK: u8 = 17;
    pub(super) const LINKED: u8 = 18;
    pub(super) const SWITCH: u8 = 19;
    pub(super) const SEEN: u8 = 20;
    pub(super) const UNLINK: u8 = 21;
    pub(super) const ASK: u8 = 22;
    pub(super) const BLOCKED: u8 = 23;
}

/// Why a payload is not a run of messages. Each of these errors destroys the circuit (protocol.md 2.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A message is longer than what is left, or than its type allows.
    #[error("a message is cut short or too long")]
    Length,
    /// The type is unknown, or this party may never receive it.
    #[error("message type {0} is not legal here")]
    Type(u8),
    /// A message of the circuit has a stream id, or a message of a stream has none.
    #[error("message does not fit its stream id")]
    WrongStream,
    /// The data breaks the rules of its type.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The payload holds no message.
    #[error("payload without a message")]
    Empty,
    /// What follows the last message is not zero.
    #[error("padding of a payload is not zero")]
    PaddingNotZero,
}

impl From<UnexpectedEnd> for MessageError {
    fn from(_: UnexpectedEnd) -> Self {
        Self::Length
    }
}

/// The host that a stream should be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    /// An IPv4 address.
    V4([u8; 4]),
    /// An IPv6 address.
    V6([u8; 16]),
    /// A name that the exit resolves. [`is_name`] says which names are legal.
    Name(&'a str),
}

/// Is `name` a host name that BEGIN can carry: 1 to 253 of the characters
/// `a-z A-Z 0-9 - _ .`, no empty label, none over 63?
pub fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_LEN
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

/// Why a stream ended (protocol.md 5.4). The set is small and fixed (S19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Number 1: all bytes have been sent. This direction is complete; the other goes on.
    Done,
    /// Number 2: the destination refused the connection.
    Refused,
    /// Number 3: there is no route to the destination.
    Unreachable,
    /// Number 4: the exit's policy does not allow the destination.
    Policy,
    /// Number 5: the name has no address.
    Unresolvable,
    /// Number 6: the destination did not answer in time.
    Timeout,
    /// Number 7: the connection broke, or its application gave it up.
    Reset,
    /// Number 8: this exit has no room for more now.
    Resource,
}

impl EndReason {
    /// The reason's number on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 1,
            Self::Refused => 2,
            Self::Unreachable => 3,
            Self::Policy => 4,
            Self::Unresolvable => 5,
            Self::Timeout => 6,
            Self::Reset => 7,
            Self::Resource => 8,
        }
    }

    /// The reason with this number on the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Done,
            2 => Self::Refused,
            3 => Self::Unreachable,
            4 => Self::Policy,
            5 => Self::Unresolvable,
            6 => Self::Timeout,
            7 => Self::Reset,
            8 => Self::Resource,
            _ => return None,
        })
    }
}

/// What each end of a stream may say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamMessage<'a> {
    /// DATA: bytes of the stream, at least one.
    Data(&'a [u8]),
    /// END: the sender sends nothing more on this stream.
    End(EndReason),
    /// WINDOW: whoever receives this message may send so many bytes more on the stream. The number is never zero.
    Window(u32),
    /// BLOCKED: the sender has bytes to send and no credit to send them with.
    Blocked,
}

/// What the two ends of a circuit say to pace each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowMessage {
    /// MARK: asks for a [`FlowMessage::Ack`] with the same bytes.
    Mark([u8; MARK_LEN]),
    /// ACK: all cells up to the one with this mark have been opened.
    Ack([u8; MARK_LEN]),
}

/// What the two ends of a set of legs say about them (docs/protocol.md, 5.20 to 5.28).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegMessage<'a> {
    /// LINK, from a client: this circuit is a leg of a set.
    Link {
        /// Secret of the set.
        secret: &'a [u8; SECRET_LEN],
        /// Number of the leg within the set.
        leg: u32,
    },
    /// LINKED, from a relay: the circuit now is a leg of the set, as LINK asked.
    Linked,
    /// SWITCH: the number of the payload that this message stands in.
    Switch(u64),
    /// SEEN: all payloads with a lower number than this have been read.
    Seen(u64),
    /// UNLINK, from a client: the leg with this number is lost.
    Unlink(u32),
    /// ASK, from a client: the relay answers with SEEN on the same leg.
    Ask,
}

/// A message that a relay may receive from its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outward<'a> {
    /// EXTEND: asks the relay to extend the circuit to `relay`.
    Extend {
        /// Identity of the next relay. The relay that receives the message looks up the address.
        relay: RelayId,
        /// The client's half of the handshake with the next relay.
        message: &'a [u8; CREATE_LEN],
    },
    /// BEGIN: opens a stream to a destination.
    Begin {
        /// Id of the stream, chosen by the client.
        stream: StreamId,
        /// Host to connect to.
        host: Host<'a>,
        /// TCP port to connect to, not zero.
        port: u16,
    },
    /// BEGIN_DIR: opens a stream to this relay's own directory.
    BeginDir(StreamId),
    /// DATA, END, WINDOW or BLOCKED of an open stream.
    Stream(StreamId, StreamMessage<'a>),
    /// MARK or ACK.
    Flow(FlowMessage),
    /// A message about the circuit as a leg of a set: any of them but LINKED.
    Leg(LegMessage<'a>),
}

/// A message that a client may receive on a circuit that is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inward<'a> {
    /// CONNECTED: the stream's destination answered.
    Connected(StreamId),
    /// DATA, END, WINDOW or BLOCKED of an open stream.
    Stream(StreamId, StreamMessage<'a>),
    /// MARK or ACK.
    Flow(FlowMessage),
    /// A message about the circuit as a leg of a set: LINKED, SWITCH or SEEN.
    Leg(LegMessage<'a>),
    /// TRUNCATED: the hop that sent it has lost the rest of the circuit.
    Truncated(DestroyReason),
}

/// A message that a client may receive while it waits for a hop to extend the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telescope<'a> {
    /// EXTENDED: the next relay's half of the handshake.
    Extended(&'a [u8; CREATED_LEN]),
    /// TRUNCATED: the hop that sent it could not extend, or has lost the rest of the circuit.
    Truncated(DestroyReason),
}

/// The set of messages that one party may receive.
pub trait Decode<'a>: Sized {
    /// Decodes the data of one message. Data that is longer than its type allows is an error.
    fn decode(kind: u8, stream: Option<StreamId>, data: &'a [u8]) -> Result<Self, MessageError>;
}

impl<'a> Decode<'a> for Outward<'a> {
    fn decode(k: u8, stream: Option<StreamId>, data: &'a [u8]) -> Result<Self, MessageError> {
        match k {
            kind::EXTEND => {
                of_circuit(stream)?;
                let (relay, message) = data.split_first_chunk().ok_or(MessageError::Length)?;
                let message = message.try_into().map_err(|_| MessageError::Length)?;
                Ok(Self::Extend {
                    relay: RelayId(*relay),
                    message,
                })
            }
            kind::BEGIN => {
                let (host, port) = decode_target(data)?;
                Ok(Self::Begin {
                    stream: of_stream(stream)?,
                    host,
                    port,
                })
            }
            kind::BEGIN_DIR => {
                empty(data)?;
                of_stream(stream).map(Self::BeginDir)
            }
            kind::DATA | kind::END | kind::WINDOW | kind::BLOCKED => {
                Ok(Self::Stream(of_stream(stream)?, decode_stream(k, data)?))
            }
            kind::MARK | kind::ACK => Ok(Self::Flow(decode_flow(k, stream, data)?)),
            kind::LINK | kind::SWITCH | kind::SEEN | kind::UNLINK | kind::ASK => {
                Ok(Self::Leg(decode_leg(k, stream, data)?))
            }
            _ => Err(MessageError::Type(k)),
        }
    }
}

impl<'a> Decode<'a> for Inward<'a> {
    fn decode(k: u8, stream: Option<StreamId>, data: &'a [u8]) -> Result<Self, MessageError> {
        match k {
            kind::CONNECTED => {
                empty(data)?;
                of_stream(stream).map(Self::Connected)
            }
            kind::DATA | kind::END | kind::WINDOW | kind::BLOCKED => {
                Ok(Self::Stream(of_stream(stream)?, decode_stream(k, data)?))
            }
            kind::MARK | kind::ACK => Ok(Self::Flow(decode_flow(k, stream, data)?)),
            kind::LINKED | kind::SWITCH | kind::SEEN => Ok(Self::Leg(decode_leg(k, stream, data)?)),
            kind::TRUNCATED => Ok(Self::Truncated(decode_truncated(stream, data)?)),
            _ => Err(MessageError::Type(k)),
        }
    }
}

impl<'a> Decode<'a> for Telescope<'a> {
    fn decode(k: u8, stream: Option<StreamId>, data: &'a [u8]) -> Result<Self, MessageError> {
        match k {
            kind::EXTENDED => {
                of_circuit(stream)?;
                data.try_into()
                    .map(Self::Extended)
                    .map_err(|_| MessageError::Length)
            }
            kind::TRUNCATED => Ok(Self::Truncated(decode_truncated(stream, data)?)),
            _ => Err(MessageError::Type(k)),
        }
    }
}

fn of_circuit(stream: Option<StreamId>) -> Result<(), MessageError> {
    stream.map_or(Ok(()), |_| Err(MessageError::WrongStream))
}

fn of_stream(stream: Option<StreamId>) -> Result<StreamId, MessageError> {
    stream.ok_or(MessageError::WrongStream)
}

fn empty(data: &[u8]) -> Result<(), MessageError> {
    if data.is_empty() {
        Ok(())
    } else {
        Err(MessageError::Length)
    }
}

fn decode_stream(k: u8, data: &[u8]) -> Result<StreamMessage<'_>, MessageError> {
    match k {
        // An empty DATA would let its sender send a cell that costs no credit (S14).
        kind::DATA if data.is_empty() => Err(MessageError::Malformed("DATA")),
        kind::DATA => Ok(StreamMessage::Data(data)),
        kind::END => {
            let [code] = *exact(data)?;
            EndReason::from_code(code)
                .map(StreamMessage::End)
                .ok_or(MessageError::Malformed("END"))
        }
        kind::BLOCKED => empty(data).map(|()| StreamMessage::Blocked),
        _ => match u32::from_be_bytes(*exact(data)?) {
            0 => Err(MessageError::Malformed("WINDOW")),
            bytes => Ok(StreamMessage::Window(bytes)),
        },
    }
}

fn decode_flow(k: u8, stream: Option<StreamId>, data: &[u8]) -> Result<FlowMessage, MessageError> {
    of_circuit(stream)?;
    let bytes = *exact(data)?;
    Ok(if k == kind::MARK {
        FlowMessage::Mark(bytes)
    } else {
        FlowMessage::Ack(bytes)
    })
}

fn decode_leg(
    k: u8,
    stream: Option<StreamId>,
    data: &[u8],
) -> Result<LegMessage<'_>, MessageError> {
    of_circuit(stream)?;
    let number = || exact(data).map(|bytes| u64::from_be_bytes(*bytes));
    Ok(match k {
        kind::LINK => {
            let (secret, leg) = data.split_first_chunk().ok_or(MessageError::Length)?;
            let leg = u32::from_be_bytes(*exact(leg)?);
            LegMessage::Link { secret, leg }
        }
        kind::UNLINK => LegMessage::Unlink(u32::from_be_bytes(*exact(data)?)),
        kind::SWITCH => LegMessage::Switch(number()?),
        kind::SEEN => LegMessage::Seen(number()?),
        kind::LINKED => empty(data).map(|()| LegMessage::Linked)?,
        _ => empty(data).map(|()| LegMessage::Ask)?,
    })
}

fn decode_truncated(stream: Option<StreamId>, data: &[u8]) -> Result<DestroyReason, MessageError> {
    of_circuit(stream)?;
    let [code] = *exact(data)?;
    DestroyReason::from_code(code).ok_or(MessageError::Malformed("TRUNCATED"))
}

fn exact<const N: usize>(data: &[u8]) -> Result<&[u8; N], MessageError> {
    data.try_into().map_err(|_| MessageError::Length)
}

/// Reads the data of BEGIN, `u16 port, u8 kind, address`: kind 4 has 4 bytes of address, kind 6 has 16, kind 1 a name.
fn decode_target(data: &[u8]) -> Result<(Host<'_>, u16), MessageError> {
    const BAD: MessageError = MessageError::Malformed("BEGIN");
    let mut reader = Reader::new(data);
    let port = reader.u16()?;
    let host = match (reader.u8()?, reader.rest()) {
        (4, address) => Host::V4(*exact(address)?),
        (6, address) => Host::V6(*exact(address)?),
        (1, name) => Host::Name(
            core::str::from_utf8(name)
                .ok()
                .filter(|n| is_name(n))
                .ok_or(BAD)?,
        ),
        _ => return Err(BAD),
    };
    if port == 0 {
        Err(BAD)
    } else {
        Ok((host, port))
    }
}

/// The messages of a payload, in order. After an error the iterator yields nothing more.
#[derive(Debug)]
pub struct Messages<'a, M> {
    reader: Reader<'a>,
    any: bool,
    done: bool,
    kind: core::marker::PhantomData<M>,
}

/// Reads `payload` as messages of the set `M`.
pub fn messages<'a, M: Decode<'a>>(payload: &'a Payload) -> Messages<'a, M> {
    Messages {
        reader: Reader::new(payload),
        any: false,
        done: false,
        kind: core::marker::PhantomData,
    }
}

impl<'a, M: Decode<'a>> Messages<'a, M> {
    fn read(&mut self) -> Result<Option<M>, MessageError> {
        let end = self.reader.rest().first().is_none_or(|&k| k == 0);
        if end {
            return match (self.any, all_zero(self.reader.rest())) {
                (false, _) => Err(MessageError::Empty),
                (true, false) => Err(MessageError::PaddingNotZero),
                (true, true) => Ok(None),
            };
        }
        let k = self.reader.u8()?;
        let stream = StreamId::new(self.reader.u16()?);
        let len = self.reader.u16()?;
        let data = self.reader.take(usize::from(len))?;
        self.any = true;
        M::decode(k, stream, data).map(Some)
    }
}

impl<'a, M: Decode<'a>> Iterator for Messages<'a, M> {
    type Item = Result<M, MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.read().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

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
    pub fn begin(&mut self, stream: StreamId, host: Host<'_>, port: u16) -> Result<(), NoRoom> {
        let (code, address): (u8, &[u8]) = match &host {
            Host::V4(address) => (4, address),
            Host::V6(address) => (6, address),
            Host::Name(name) => (1, name.as_bytes()),
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

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
