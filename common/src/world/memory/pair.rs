//! The two sides of a connection, as the kernels of their hosts see them.

use core::task::Waker;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

/// Bytes that one direction of a connection holds: unsent, on their way or unread. The bound makes one connection carry
/// at most this number of bytes in the time of one way.
pub(super) const BUFFER_BYTES: usize = 256 * 1024;

/// Names one side of one connection. Side 0 dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SideId {
    /// The connection's number.
    pub(super) connection: u64,
    /// 0 or 1.
    pub(super) side: usize,
}

impl SideId {
    /// The other side of the same connection.
    pub(super) fn peer(self) -> Self {
        Self {
            side: 1 - self.side,
            ..self
        }
    }
}

/// A connection.
pub(super) struct Pair {
    pub(super) sides: [Side; 2],
    /// How long one way takes, before what the two hosts add to it.
    pub(super) delay: Duration,
}

impl Pair {
    pub(super) fn new(from: SocketAddr, to: SocketAddr, delay: Duration) -> Self {
        Self {
            sides: [Side::new(from), Side::new(to)],
            delay,
        }
    }

    /// Whether nobody can tell any more that there was this connection.
    pub(super) fn is_over(&self) -> bool {
        self.sides.iter().all(|side| side.phase != Phase::Open)
    }

    /// Whether both sides are on one host.
    pub(super) fn is_local(&self) -> bool {
        self.sides[0].local.ip() == self.sides[1].local.ip()
    }
}

/// What a host knows of its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The side has an owner, or waits to be accepted.
    Open,
    /// The owner has closed the side. What the owner said before still goes out.
    Closed,
    /// The host knows nothing of the connection.
    Gone,
}

/// One side of a connection.
pub(super) struct Side {
    pub(super) local: SocketAddr,
    pub(super) phase: Phase,
    /// Why the side is of no use any more.
    pub(super) fault: Option<io::ErrorKind>,
    /// Whether closing the side resets the connection.
    pub(super) resets: bool,
    pub(super) outgoing: Outgoing,
    pub(super) inbox: Inbox,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Side {
    fn new(local: SocketAddr) -> Self {
        Self {
            local,
            phase: Phase::Open,
            fault: None,
            resets: false,
            outgoing: Outgoing::default(),
            inbox: Inbox::default(),
            reader: None,
            writer: None,
        }
    }

    /// Whether the side takes what arrives.
    pub(super) fn is_there(&self) -> bool {
        self.phase == Phase::Open && self.fault.is_none()
    }

    /// Ends both directions by an error. Gives those to be woken.
    pub(super) fn fail(&mut self, fault: io::ErrorKind) -> impl Iterator<Item = Waker> + use<> {
        self.fault = Some(self.fault.unwrap_or(fault));
        self.outgoing = Outgoing {
            held: self.outgoing.held,
            ..Outgoing::default()
        };
        let woken = [self.reader.take(), self.writer.take()];
        woken.into_iter().flatten()
    }
}

/// Consecutive bytes of one direction.
#[derive(Debug)]
pub(super) struct Part {
    /// Number of bytes of the direction before these.
    pub(super) begins: u64,
    pub(super) bytes: Bytes,
    /// Whether the direction ends after these bytes.
    pub(super) is_end: bool,
}

impl Part {
    /// The bytes from `from` to before `to` of this part. The end goes with the last byte.
    pub(super) fn piece(&self, from: usize, to: usize) -> Self {
        Self {
            begins: self.begins + from as u64,
            bytes: self.bytes.slice(from..to),
            is_end: self.is_end && to == self.bytes.len(),
        }
    }
}

/// Whether a direction's end has been asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    #[default]
    No,
    Asked,
    Sent,
}

/// Sending does not get through, and is tried again and again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stall {
    pub(super) since: Instant,
    pub(super) tries: u32,
}

/// What a side sends.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) unsent: BytesMut,
    /// Parts that did not get through, by the place where they begin.
    pub(super) again: BTreeMap<u64, Part>,
    /// Bytes that have been sent once at least.
    pub(super) sent: u64,
    /// Bytes that were written and not read by the other side.
    pub(super) held: usize,
    pub(super) end: End,
    pub(super) stall: Option<Stall>,
    /// Whether the side waits for its turn at the host's line.
    pub(super) waits: bool,
}

impl Outgoing {
    /// Whether there is something to send, and a chance that it gets through.
    pub(super) fn wants_turn(&self) -> bool {
        let has_more = !self.again.is_empty() || !self.unsent.is_empty() || self.end == End::Asked;
        has_more && self.stall.is_none()
    }

    /// Takes at most `most` bytes that are to be sent next; `None` if there is nothing to send.
    pub(super) fn take(&mut self, most: usize) -> Option<Part> {
        if let Some((_, part)) = self.again.pop_first() {
            if part.bytes.len() > most {
                let left = part.piece(most, part.bytes.len());
                self.again.insert(left.begins, left);
                return Some(part.piece(0, most));
            }
            return Some(part);
        }
        if self.unsent.is_empty() && self.end != End::Asked {
            return None;
        }
        let taken = self.unsent.len().min(most);
        let bytes = self.unsent.split_to(taken).freeze();
        let is_end = self.unsent.is_empty() && self.end == End::Asked;
        if is_end {
            self.end = End::Sent;
        }
        let begins = self.sent;
        self.sent += taken as u64;
        Some(Part {
            begins,
            bytes,
            is_end,
        })
    }
}

/// What has come to a side.
#[derive(Default)]
pub(super) struct Inbox {
    parts: VecDeque<Bytes>,
    /// Bytes that have come in order.
    arrived: u64,
    /// Parts that came before others that go before them.
    early: BTreeMap<u64, Part>,
    pub(super) is_ended: bool,
}

impl Inbox {
    /// Whether there is a byte to be read.
    pub(super) fn has_bytes(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Takes a part that has come. Gives whether there is something new to read.
    pub(super) fn take(&mut self, part: Part) -> bool {
        self.early.insert(part.begins, part);
        let mut is_new = false;
        while let Some(part) = self.early.remove(&self.arrived) {
            self.arrived += part.bytes.len() as u64;
            self.is_ended |= part.is_end;
            if !part.bytes.is_empty() {
                self.parts.push_back(part.bytes);
            }
            is_new = true;
            if self.is_ended {
                break;
            }
        }
        is_new
    }

    /// Moves bytes to `buffer`. Gives their number.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut read = 0;
        while read < buffer.len()
            && let Some(part) = self.parts.front_mut()
        {
            let taken = part.len().min(buffer.len() - read);
            buffer[read..read + taken].copy_from_slice(&part.split_to(taken));
            read += taken;
            if part.is_empty() {
                self.parts.pop_front();
            }
        }
        read
    }
}
