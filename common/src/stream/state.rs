//! One stream: what was said on it in each direction, and what is still to be said.

use core::task::Waker;
use std::sync::Arc;

use super::buffer::ByteQueue;
use super::recent::Recent;
use crate::budget::Budget;
use crate::cell::message::{EndReason, Host, is_name};
use crate::ids::StreamId;

/// Names a stream to the end that holds it. Never reused, other than its id on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(pub(super) u64);

/// Where a stream goes, owned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A TCP address, the name resolved at the exit.
    Host(TargetHost, u16),
    /// The directory of the circuit's last relay.
    Directory,
}

/// The host of a [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetHost {
    /// A literal address.
    Ip(std::net::IpAddr),
    /// A name that satisfies [`is_name`].
    Name(String),
}

impl Target {
    /// A target from a host of the wire.
    pub fn from_wire(host: Host<'_>, port: u16) -> Self {
        let host = match host {
            Host::V4(octets) => TargetHost::Ip(octets.into()),
            Host::V6(octets) => TargetHost::Ip(octets.into()),
            Host::Name(name) => TargetHost::Name(name.to_owned()),
        };
        Self::Host(host, port)
    }

    /// A name and port; `None` if the name can't stand in a BEGIN.
    pub fn name(name: &str, port: u16) -> Option<Self> {
        (is_name(name) && port != 0).then(|| Self::Host(TargetHost::Name(name.to_owned()), port))
    }

    /// An address and port; `None` for port 0.
    pub fn address(address: std::net::SocketAddr) -> Option<Self> {
        (address.port() != 0).then(|| Self::Host(TargetHost::Ip(address.ip()), address.port()))
    }

    /// The TCP port, if this is a TCP address.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Host(_, port) => Some(*port),
            Self::Directory => None,
        }
    }
}

/// How a stream failed, for whoever reads or writes it. Never an end of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The other end gave the stream up.
    #[error("the stream was ended by the exit: {0:?}")]
    Ended(EndReason),
    /// The circuit under it is gone.
    #[error("the circuit under the stream is gone")]
    CircuitLost,
}

impl From<StreamError> for std::io::Error {
    fn from(error: StreamError) -> Self {
        use std::io::ErrorKind as Kind;
        let kind = match error {
            StreamError::CircuitLost | StreamError::Ended(EndReason::Reset | EndReason::Done) => {
                Kind::ConnectionReset
            }
            StreamError::Ended(EndReason::Refused) => Kind::ConnectionRefused,
            StreamError::Ended(EndReason::Unreachable) => Kind::HostUnreachable,
            StreamError::Ended(EndReason::Policy) => Kind::PermissionDenied,
            StreamError::Ended(EndReason::Unresolvable) => Kind::NotFound,
            StreamError::Ended(EndReason::Timeout) => Kind::TimedOut,
            StreamError::Ended(EndReason::Resource) => Kind::ResourceBusy,
        };
        Self::new(kind, error)
    }
}

/// What the circuit's other end has said of its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// More may come.
    Open,
    /// `END(Done)`: complete.
    Complete,
    /// Any other end.
    Failed(StreamError),
}

/// What this end will say, or has said, of its own direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// The application may still write.
    Open,
    /// The application is done; END follows when the buffer is empty.
    Ending(EndReason),
    /// END has been sent.
    Ended,
}

impl Sending {
    /// Has the application given the stream up?
    pub(super) fn is_given_up(self) -> bool {
        matches!(self, Self::Ending(reason) if reason != EndReason::Done)
    }
}

/// Has the stream been opened at both ends?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// BEGIN has yet to be sent (at a client).
    Begin,
    /// Waits for CONNECTED (at a client) or for the destination (at an exit).
    Waiting,
    /// CONNECTED has yet to be sent (at an exit).
    Connected,
    /// Open.
    Done,
}

/// A stream whose id this end has freed while grants for it, or word that its
/// reader gave up, may still be on their way: until the other end has
/// acknowledged the END.
#[derive(Debug)]
pub(super) struct Lingering {
    /// Bytes that the other end may still grant without breaking the credit's bound.
    pub(super) room: u32,
    /// The other end has given the stream up and says nothing more.
    pub(super) given_up: bool,
    /// The END is acknowledged with the counted cell of this number.
    pub(super) until: u64,
}

/// One stream's two directions.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) target: Target,
    pub(super) opening: Opening,
    pub(super) received: Received,
    pub(super) sending: Sending,
    /// Bytes received and not yet read by the application.
    pub(super) rx: ByteQueue,
    /// Bytes that the other end may still send.
    pub(super) rx_credit: u32,
    /// Bytes read by the application and not yet granted again.
    pub(super) rx_drained: u32,
    /// What this end lets be on its way or unread at once (bytes).
    pub(super) rx_window: u32,
    /// The other end has bytes and no credit.
    pub(super) starved: bool,
    /// How often the other end may say so yet.
    pub(super) may_starve: u32,
    /// The other end has been told that there are bytes and no credit, since it granted any.
    pub(super) said_blocked: bool,
    /// Bytes written by the application and not yet packed.
    pub(super) tx: ByteQueue,
    /// Bytes that this end may still send.
    pub(super) tx_credit: u32,
    /// `END(Done)` has been sent; the stream may still be given up after it.
    pub(super) said_done: bool,
    /// Number of the counted cell that carried this end's END.
    pub(super) end_cell: u64,
    /// What it has said of late.
    pub(super) recent: Recent,
    /// Stands in the queue of streams that have something to pack.
    pub(super) queued: bool,
    /// Stands in the queue of streams whose credit is to be granted.
    pub(super) window_due: bool,
    /// Its application has let go of it.
    pub(super) released: bool,
    /// Its id has been freed.
    pub(super) closed: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) opener: Option<Waker>,
}

impl Stream {
    pub(super) fn new(
        id: StreamId,
        target: Target,
        opening: Opening,
        window: u32,
        budget: &Arc<Budget>,
    ) -> Self {
        Self {
            id,
            target,
            opening,
            received: Received::Open,
            sending: Sending::Open,
            rx: ByteQueue::new(budget),
            rx_credit: window,
            rx_drained: 0,
            rx_window: window,
            starved: false,
            may_starve: 1,
            said_blocked: false,
            tx: ByteQueue::new(budget),
            tx_credit: window,
            said_done: false,
            end_cell: 0,
            recent: Recent::default(),
            queued: false,
            window_due: false,
            released: false,
            closed: false,
            reader: None,
            writer: None,
            opener: None,
        }
    }

    /// Is there a message that the window allows to be packed now?
    pub(super) fn has_work(&self) -> bool {
        match self.opening {
            Opening::Begin | Opening::Connected => true,
            Opening::Waiting | Opening::Done => {
                let data = !self.tx.is_empty() && self.tx_credit > 0;
                data || self.is_blocked()
                    || matches!(self.sending, Sending::Ending(_)) && self.tx.is_empty()
            }
        }
    }

    /// Is there credit to grant? Nothing may follow word that this end has given the stream up.
    pub(super) fn may_grant(&self) -> bool {
        let silent = self.closed || self.released || self.sending.is_given_up();
        let has = self.rx_drained > 0 || self.starved && self.rx.is_empty();
        !silent && self.received == Received::Open && has
    }

    /// Is the other end to be told that there are bytes and no credit?
    pub(super) fn is_blocked(&self) -> bool {
        !self.tx.is_empty() && self.tx_credit == 0 && !self.said_blocked
    }

    /// Doubles the window, up to `most` and by what is left of `extra`, if it is what holds the other end back, as the
    /// application has read all that came. Gives by how much.
    pub(super) fn grow_window(&mut self, most: u32, extra: &mut u32) -> u32 {
        if !core::mem::take(&mut self.starved) || !self.rx.is_empty() {
            return 0;
        }
        let more = self.rx_window.min(most - self.rx_window).min(*extra);
        self.rx_window += more;
        *extra -= more;
        more
    }

    /// Have both ends said END?
    pub(super) fn is_over(&self) -> bool {
        self.sending == Sending::Ended && self.received != Received::Open
    }

    /// Gives this end's direction up: what is buffered will not be sent.
    pub(super) fn abort(&mut self, reason: EndReason) {
        self.tx.clear();
        let complete_only = self.said_done && self.received == Received::Open;
        if !self.sending.is_given_up() && (self.sending != Sending::Ended || complete_only) {
            self.sending = Sending::Ending(reason);
        }
    }

    pub(super) fn wake(&mut self) {
        let waiting = [self.reader.take(), self.writer.take(), self.opener.take()];
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}
