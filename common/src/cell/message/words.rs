//! What can be said: the numbers of the messages, their lengths, and the words that both ends use.

use crate::cell::PAYLOAD_LEN;

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

/// Numbers of the message types on the wire. 14, which is missing in between, is kept for nothing yet. Nothing negotiates
/// it, so receiving it is an error.
pub(super) mod kind {
    pub(in crate::cell::message) const EXTEND: u8 = 1;
    pub(in crate::cell::message) const EXTENDED: u8 = 2;
    pub(in crate::cell::message) const BEGIN: u8 = 3;
    pub(in crate::cell::message) const BEGIN_DIR: u8 = 4;
    pub(in crate::cell::message) const BEGIN_UDP: u8 = 5;
    pub(in crate::cell::message) const CONNECTED: u8 = 6;
    pub(in crate::cell::message) const DATA: u8 = 7;
    pub(in crate::cell::message) const DATAGRAM: u8 = 8;
    pub(in crate::cell::message) const END: u8 = 9;
    pub(in crate::cell::message) const WINDOW: u8 = 10;
    pub(in crate::cell::message) const MARK: u8 = 11;
    pub(in crate::cell::message) const ACK: u8 = 12;
    pub(in crate::cell::message) const BEGIN_DNS: u8 = 13;
    pub(in crate::cell::message) const TRUNCATED: u8 = 15;
    pub(in crate::cell::message) const PADDING: u8 = 16;
    pub(in crate::cell::message) const LINK: u8 = 17;
    pub(in crate::cell::message) const LINKED: u8 = 18;
    pub(in crate::cell::message) const SWITCH: u8 = 19;
    pub(in crate::cell::message) const SEEN: u8 = 20;
    pub(in crate::cell::message) const UNLINK: u8 = 21;
    pub(in crate::cell::message) const ASK: u8 = 22;
    pub(in crate::cell::message) const BLOCKED: u8 = 23;
    pub(in crate::cell::message) const PART: u8 = 24;
    pub(in crate::cell::message) const BOUND: u8 = 25;
    pub(in crate::cell::message) const UNBIND: u8 = 26;
}

/// The host that a stream should be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeginHost<'a> {
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
    /// WINDOW: whoever receives this message may send this many bytes more on the stream. The number is never zero.
    Window(u32),
    /// BLOCKED: the sender has bytes to send and no credit to send them with.
    Blocked,
}

/// What the two ends say of an association for datagrams (docs/protocol.md, 5.30 to 5.34).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssociationMessage<'a> {
    /// BEGIN_UDP, from a client: begins the association.
    Begin,
    /// BOUND, from a relay: the association is there.
    Bound,
    /// PART: bytes of a datagram that goes on, at least one.
    Part(&'a [u8]),
    /// DATAGRAM: a datagram, or what is left of one that was cut; at least one byte.
    Datagram(&'a [u8]),
    /// UNBIND: the sender says nothing more of the association.
    Unbind(EndReason),
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
