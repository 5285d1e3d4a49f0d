//! One stream: what was said on it in each direction, and what is still to be said.

use core::task::{Context, Poll, Waker};
use std::sync::Arc;

use super::buffer::ByteQueue;
use super::end::Opening;
use super::recent::Recent;
use super::table::Word;
use crate::budget::Budget;
use crate::cell::message::EndReason;
use crate::ids::StreamId;
use crate::limits::STREAM_BYTES;

/// How a stream failed, for whoever reads or writes it. A failure is never shown as an end of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The other end gave the stream up.
    #[error("the stream was ended by the exit: {0:?}")]
    Ended(EndReason),
    /// The circuit under the stream is gone.
    #[error("the circuit under the stream is gone")]
    CircuitLost,
    /// This end gave the stream up, because it held too much memory.
    #[error("the stream was ended as it held most of a memory that is full")]
    Memory,
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
            StreamError::Ended(EndReason::Resource) | StreamError::Memory => Kind::ResourceBusy,
        };
        Self::new(kind, error)
    }
}

/// What the other end has said about its own direction of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// More may come.
    Open,
    /// `END(Done)`: complete.
    Complete,
    /// Any other end.
    Failed(StreamError),
}

impl Received {
    /// The same, as the table of 5.8 has it.
    pub(super) fn word(self) -> Word {
        match self {
            Self::Open => Word::Nothing,
            Self::Complete => Word::Done,
            Self::Failed(_) => Word::GaveUp,
        }
    }
}

/// What this end has to say, or has said, about its own direction of the stream.
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

/// A stream whose id this end has freed, for as long as the other end's words from before it knew of the END may come:
/// grants for the stream, or word that its reader gave up.
#[derive(Debug)]
pub(super) struct Lingering {
    /// Bytes that the other end may still grant without breaking the credit's bound.
    pub(super) room: u32,
    /// What both ends have said.
    pub(super) said: Word,
    pub(super) heard: Word,
    /// The END is acknowledged with the counted cell of this number.
    pub(super) until: u64,
    /// Of a set whose other end has acknowledged the END: all that it said before that has a lower number than this.
    pub(super) last: Option<u64>,
}

/// The direction of a stream away from this end.
#[derive(Debug)]
pub(super) struct SendHalf {
    pub(super) state: Sending,
    /// Bytes written by the application and not yet packed.
    pub(super) buffer: ByteQueue,
    /// Bytes that this end may still send.
    pub(super) credit: u32,
    /// Since the last grant, the other end has been told that there are bytes and no credit.
    pub(super) said_blocked: bool,
    /// Which END has been sent. After `END(Done)` the stream may still be given up.
    pub(super) said: Word,
    /// Number of the counted cell that carried this end's END.
    pub(super) end_cell: u64,
    /// What the stream has said of late.
    pub(super) recent: Recent,
    /// The stream stands in the queue of those that have something to pack.
    pub(super) is_queued: bool,
    /// Whoever waits for room in the buffer.
    pub(super) writer: Option<Waker>,
}

impl SendHalf {
    fn new(window: u32, budget: &Arc<Budget>) -> Self {
        Self {
            state: Sending::Open,
            buffer: ByteQueue::new(budget),
            credit: window,
            said_blocked: false,
            said: Word::Nothing,
            end_cell: 0,
            recent: Recent::default(),
            is_queued: false,
            writer: None,
        }
    }

    /// Is there a message of this direction that the window allows to be packed now?
    fn has_work(&self) -> bool {
        let data = !self.buffer.is_empty() && self.credit > 0;
        data || self.is_blocked()
            || matches!(self.state, Sending::Ending(_)) && self.buffer.is_empty()
    }

    /// Is the other end to be told that there are bytes and no credit?
    pub(super) fn is_blocked(&self) -> bool {
        !self.buffer.is_empty() && self.credit == 0 && !self.said_blocked
    }
}

/// The direction of a stream towards this end.
#[derive(Debug)]
pub(super) struct ReceiveHalf {
    pub(super) state: Received,
    /// Bytes received and not yet read by the application.
    pub(super) buffer: ByteQueue,
    /// Bytes that the other end may still send.
    pub(super) credit: u32,
    /// Bytes read by the application and not yet granted again.
    pub(super) drained: u32,
    /// What this end lets be on its way or unread at once (bytes).
    pub(super) window: u32,
    /// The other end has bytes and no credit.
    pub(super) starved: bool,
    /// How often the other end may still say that it has bytes and no credit.
    pub(super) may_starve: u32,
    /// The stream stands in the queue of those whose credit is to be granted.
    pub(super) is_window_due: bool,
    /// Whoever waits for bytes.
    pub(super) reader: Option<Waker>,
}

impl ReceiveHalf {
    fn new(window: u32, budget: &Arc<Budget>) -> Self {
        Self {
            state: Received::Open,
            buffer: ByteQueue::new(budget),
            credit: window,
            drained: 0,
            window,
            starved: false,
            may_starve: 1,
            is_window_due: false,
            reader: None,
        }
    }

    /// What a reader gets when there are no bytes: the end, an error, or a wait for more.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        match self.state {
            Received::Complete => Poll::Ready(Ok(0)),
            Received::Failed(error) => Poll::Ready(Err(error)),
            Received::Open => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Doubles the window, up to `most` and by no more than what is left of `extra`, if the window holds the other end
    /// back, which is so if the application has read all that came. Returns by how much the window has grown.
    pub(super) fn grow_window(&mut self, most: u32, extra: &mut u32) -> u32 {
        if !core::mem::take(&mut self.starved) || !self.buffer.is_empty() {
            return 0;
        }
        let more = self.window.min(most - self.window).min(*extra);
        self.window += more;
        *extra -= more;
        more
    }
}

/// One stream: how far its opening has come, and its two directions.
#[derive(Debug)]
pub(super) struct Stream<O> {
    pub(super) id: StreamId,
    pub(super) opening: O,
    pub(super) send: SendHalf,
    pub(super) receive: ReceiveHalf,
    /// The application has dropped the stream.
    pub(super) released: bool,
    /// The stream's id has been freed.
    pub(super) closed: bool,
    /// This end has ended the stream to save memory.
    pub(super) shed: bool,
}

impl<O: Opening> Stream<O> {
    pub(super) fn new(id: StreamId, opening: O, window: u32, budget: &Arc<Budget>) -> Self {
        Self {
            id,
            opening,
            send: SendHalf::new(window, budget),
            receive: ReceiveHalf::new(window, budget),
            released: false,
            closed: false,
            shed: false,
        }
    }

    /// Bytes that the stream takes, those of its buffers included.
    pub(super) fn held_bytes(&self) -> usize {
        STREAM_BYTES + self.send.buffer.held_bytes() + self.receive.buffer.held_bytes()
    }

    /// Is there a message that the window allows to be packed now?
    pub(super) fn has_work(&self) -> bool {
        self.opening.is_due() || self.send.has_work()
    }

    /// Is there credit to grant? After this end has said that it gives the stream up, it may say nothing more.
    pub(super) fn may_grant(&self) -> bool {
        let gives_up = self.send.state.is_given_up() || self.send.said == Word::GaveUp;
        let silent = self.closed || self.released || self.shed || gives_up;
        let receive = &self.receive;
        let has = receive.drained > 0 || receive.starved && receive.buffer.is_empty();
        !silent && receive.state == Received::Open && has
    }

    /// Have both ends said END?
    pub(super) fn is_over(&self) -> bool {
        self.send.state == Sending::Ended && self.receive.state != Received::Open
    }

    /// Gives up this end's direction: bytes that are still buffered will not be sent.
    pub(super) fn abort(&mut self, reason: EndReason) {
        let send = &mut self.send;
        send.buffer.clear();
        let complete_only = send.said == Word::Done && self.receive.state == Received::Open;
        if !send.state.is_given_up() && (send.state != Sending::Ended || complete_only) {
            send.state = Sending::Ending(reason);
        }
    }

    /// Wakes whoever waits for anything of the stream.
    pub(super) fn wake(&mut self) {
        let waiting = [self.receive.reader.take(), self.send.writer.take()];
        waiting.into_iter().flatten().for_each(Waker::wake);
        self.opening.wake();
    }
}
