//! Reads payloads: each party decodes what it may receive, and nothing else.

use super::words::{
    AssociationMessage, BeginHost, EndReason, FlowMessage, LegMessage, StreamMessage, is_name, kind,
};
use crate::cell::Payload;
use crate::cell::codec::{CREATE_LEN, CREATED_LEN, DestroyReason};
use crate::cell::wire::{Reader, UnexpectedEnd, all_zero};
use crate::ids::{AssociationId, RelayId, StreamId};

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
        host: BeginHost<'a>,
        /// TCP port to connect to, not zero.
        port: u16,
    },
    /// BEGIN_DIR: opens a stream to this relay's own directory.
    BeginDir(StreamId),
    /// BEGIN_DNS: opens a stream to this exit's resolver.
    BeginDns(StreamId),
    /// DATA, END, WINDOW or BLOCKED of an open stream.
    Stream(StreamId, StreamMessage<'a>),
    /// BEGIN_UDP, PART, DATAGRAM or UNBIND of an association.
    Association(AssociationId, AssociationMessage<'a>),
    /// MARK or ACK.
    Flow(FlowMessage),
    /// PADDING: says nothing, but that the client holds the circuit's keys.
    Padding,
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
    /// BOUND, PART, DATAGRAM or UNBIND of an association.
    Association(AssociationId, AssociationMessage<'a>),
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
            kind::BEGIN_DNS => {
                empty(data)?;
                of_stream(stream).map(Self::BeginDns)
            }
            kind::DATA | kind::END | kind::WINDOW | kind::BLOCKED => {
                Ok(Self::Stream(of_stream(stream)?, decode_stream(k, data)?))
            }
            kind::BEGIN_UDP | kind::PART | kind::DATAGRAM | kind::UNBIND => {
                let id = of_stream(stream)?.into();
                Ok(Self::Association(id, decode_association(k, data)?))
            }
            kind::MARK | kind::ACK => Ok(Self::Flow(decode_flow(k, stream, data)?)),
            kind::PADDING => {
                empty(data)?;
                of_circuit(stream).map(|()| Self::Padding)
            }
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
            kind::BOUND | kind::PART | kind::DATAGRAM | kind::UNBIND => {
                let id = of_stream(stream)?.into();
                Ok(Self::Association(id, decode_association(k, data)?))
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
        kind::END => decode_reason("END", data).map(StreamMessage::End),
        kind::BLOCKED => empty(data).map(|()| StreamMessage::Blocked),
        _ => match u32::from_be_bytes(*exact(data)?) {
            0 => Err(MessageError::Malformed("WINDOW")),
            bytes => Ok(StreamMessage::Window(bytes)),
        },
    }
}

fn decode_association(k: u8, data: &[u8]) -> Result<AssociationMessage<'_>, MessageError> {
    match k {
        kind::BEGIN_UDP => empty(data).map(|()| AssociationMessage::Begin),
        kind::BOUND => empty(data).map(|()| AssociationMessage::Bound),
        kind::PART if data.is_empty() => Err(MessageError::Malformed("PART")),
        kind::PART => Ok(AssociationMessage::Part(data)),
        kind::DATAGRAM if data.is_empty() => Err(MessageError::Malformed("DATAGRAM")),
        kind::DATAGRAM => Ok(AssociationMessage::Datagram(data)),
        _ => decode_reason("UNBIND", data).map(AssociationMessage::Unbind),
    }
}

fn decode_reason(what: &'static str, data: &[u8]) -> Result<EndReason, MessageError> {
    let [code] = *exact(data)?;
    EndReason::from_code(code).ok_or(MessageError::Malformed(what))
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
fn decode_target(data: &[u8]) -> Result<(BeginHost<'_>, u16), MessageError> {
    const BAD: MessageError = MessageError::Malformed("BEGIN");
    let mut reader = Reader::new(data);
    let port = reader.u16()?;
    let host = match (reader.u8()?, reader.rest()) {
        (4, address) => BeginHost::V4(*exact(address)?),
        (6, address) => BeginHost::V6(*exact(address)?),
        (1, name) => BeginHost::Name(
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
