//! The machine: streams, credit and window of one end of a circuit.

use core::task::{Context, Poll};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rand_core::CryptoRng;

use super::state::{Lingering, Opening, Received, Sending, Stream};
use super::{StreamError, StreamKey, Target, Violation};
use crate::budget::Budget;
use crate::cell::Payload;
use crate::cell::codec::{CREATE_LEN, DestroyReason};
use crate::cell::message::{
    EndReason, FlowMessage, Inward, MARK_LEN, Outward, Packer, StreamMessage, messages,
};
use crate::flow::CongestionControl;
use crate::flow::window::{ReceiveWindow, SendWindow};
use crate::ids::{RelayId, StreamId};
use crate::limits::{STREAM_SEND_BUFFER, STREAMS_PER_CIRCUIT};

/// Which end of the circuit this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that opens streams.
    Client,
    /// The end that connects them.
    Relay,
}

/// What both ends agreed on in the handshake.
pub struct MuxConfig {
    /// Which end this is.
    pub side: Side,
    /// Governs the window of what this end sends.
    pub control: Box<dyn CongestionControl>,
    /// Every so many counted cells carry a mark.
    pub mark_interval_cells: u32,
    /// Credit of a stream in each direction when it opens, and the most there can be.
    pub stream_window_bytes: u32,
    /// What the streams' buffers are charged to.
    pub budget: Arc<Budget>,
}

/// What a client asks of the relay that holds this end.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Extend the circuit: the only message of its payload, with no stream open.
    Extend {
        /// Identity of the next relay.
        relay: RelayId,
        /// The client's half of the handshake with it.
        message: Box<[u8; CREATE_LEN]>,
    },
    /// Connect a stream, then [`Mux::accept`] or [`Mux::refuse`] it.
    Begin(StreamKey, Target),
}

/// One end's side of the conversation.
pub struct Mux {
    side: Side,
    pub(super) send: SendWindow,
    receive: ReceiveWindow,
    stream_window: u32,
    budget: Arc<Budget>,
    pub(super) acks: VecDeque<[u8; MARK_LEN]>,
    pub(super) streams: HashMap<StreamKey, Stream>,
    ids: HashMap<StreamId, StreamKey>,
    /// Freed ids for which grants may still arrive, until our END is acknowledged.
    lingering: HashMap<StreamId, Lingering>,
    /// Streams with something to pack, in the order of their turns.
    pub(super) ready: VecDeque<StreamKey>,
    /// Cells that the stream whose turn it is has filled in it.
    pub(super) turn: u32,
    /// Streams whose application has drained enough to grant more.
    pub(super) windows_due: VecDeque<StreamKey>,
    next_key: u64,
    next_id: u16,
    lost: bool,
}

impl Mux {
    /// An end without streams.
    pub fn new(config: MuxConfig) -> Self {
        Self {
            side: config.side,
            send: SendWindow::new(config.control, config.mark_interval_cells),
            receive: ReceiveWindow::default(),
            stream_window: config.stream_window_bytes.max(1),
            budget: config.budget,
            acks: VecDeque::new(),
            streams: HashMap::new(),
            ids: HashMap::new(),
            lingering: HashMap::new(),
            ready: VecDeque::new(),
            turn: 0,
            windows_due: VecDeque::new(),
            next_key: 0,
            next_id: 1,
            lost: false,
        }
    }

    /// Streams whose id is in use.
    pub fn open_streams(&self) -> usize {
        self.ids.len()
    }

    /// Is a stream being opened that the other end has not answered yet (at a client)?
    pub fn is_opening(&self) -> bool {
        let opening = |stream: &Stream| {
            !stream.closed && matches!(stream.opening, Opening::Begin | Opening::Waiting)
        };
        self.side == Side::Client && self.streams.values().any(opening)
    }

    /// Can one more stream be opened?
    pub fn has_room(&self) -> bool {
        !self.lost && self.streams.len() < STREAMS_PER_CIRCUIT
    }

    /// The window of what this end sends.
    pub fn send_window(&self) -> &SendWindow {
        &self.send
    }

    // ---- the circuit's side -------------------------------------------------

    /// Reads a payload that a client received from the circuit's last hop.
    /// TRUNCATED is the caller's to act on.
    pub fn on_inward(
        &mut self,
        now: Instant,
        payload: &Payload,
    ) -> Result<Option<DestroyReason>, Violation> {
        let (mut counted, mut marks, mut truncated) = (false, 0, None);
        for message in messages::<Inward<'_>>(payload) {
            match message? {
                Inward::Connected(id) => {
                    counted = true;
                    self.on_connected(id)?;
                }
                Inward::Stream(id, message) => counted |= self.on_stream(id, message)?,
                Inward::Flow(message) => marks += self.on_flow(now, message)?,
                Inward::Truncated(reason) => truncated = Some(reason),
            }
        }
        self.receive.on_cell(counted, marks)?;
        Ok(truncated)
    }

    /// Reads a payload that a relay received from the circuit's client.
    pub fn on_outward(
        &mut self,
        now: Instant,
        payload: &Payload,
    ) -> Result<Vec<Request>, Violation> {
        let (mut counted, mut marks, mut others) = (false, 0, false);
        let mut requests = Vec::new();
        for message in messages::<Outward<'_>>(payload) {
            match message? {
                Outward::Extend { relay, message } => {
                    counted = true;
                    if others || !requests.is_empty() || !self.ids.is_empty() {
                        return Err(Violation::Extend);
                    }
                    requests.push(Request::Extend {
                        relay,
                        message: Box::new(*message),
                    });
                    continue;
                }
                Outward::Begin { stream, host, port } => {
                    counted = true;
                    requests.extend(self.on_begin(stream, Target::from_wire(host, port))?);
                }
                Outward::BeginDir(stream) => {
                    counted = true;
                    requests.extend(self.on_begin(stream, Target::Directory)?);
                }
                Outward::Stream(id, message) => counted |= self.on_stream(id, message)?,
                Outward::Flow(message) => marks += self.on_flow(now, message)?,
            }
            others = true;
            if matches!(requests.first(), Some(Request::Extend { .. })) {
                return Err(Violation::Extend);
            }
        }
        self.receive.on_cell(counted, marks)?;
        Ok(requests)
    }

    /// Packs the next payload, if there is anything to say that may be said now.
    pub fn fill(&mut self, now: Instant, rng: &mut impl CryptoRng, payload: &mut Payload) -> bool {
        if self.lost {
            return false;
        }
        let mut packer = Packer::new(payload);
        self.pack_uncounted(&mut packer);
        self.drop_idle();
        if !self.ready.is_empty() && self.send.is_open() {
            let mark = self.send.is_mark_due().then(|| {
                let mut bytes = [0; MARK_LEN];
                rng.fill_bytes(&mut bytes);
                bytes
            });
            if let Some(bytes) = mark {
                let _ = packer.flow(&FlowMessage::Mark(bytes));
            }
            self.pack_streams(&mut packer);
            self.send.on_sent(now, mark);
        }
        packer.finish()
    }

    /// Would [`Mux::fill`] have something to pack, were the window open?
    pub fn wants_fill(&self) -> bool {
        !(self.acks.is_empty() && self.windows_due.is_empty() && self.ready.is_empty())
    }

    /// The circuit is gone: every stream fails, after what has been received is read.
    pub fn lose(&mut self) {
        self.lost = true;
        self.ids.clear();
        self.ready.clear();
        self.acks.clear();
        self.windows_due.clear();
        for stream in self.streams.values_mut() {
            stream.closed = true;
            stream.tx.clear();
            stream.sending = Sending::Ended;
            if stream.received == Received::Open {
                stream.received = Received::Failed(StreamError::CircuitLost);
            }
            stream.wake();
        }
        self.streams.retain(|_, stream| !stream.released);
    }

    /// The circuit is gone, and what its streams still hold with it.
    pub fn discard(&mut self) {
        self.lose();
        self.streams
            .values_mut()
            .for_each(|stream| stream.rx.clear());
    }

    /// Since when the bytes wait that have waited longest in a stream's buffer.
    pub fn waiting_since(&self) -> Option<Instant> {
        let buffers = self
            .streams
            .values()
            .flat_map(|stream| [&stream.rx, &stream.tx]);
        buffers.filter_map(|buffer| buffer.waiting_since()).min()
    }

    /// Has the circuit been lost?
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    // ---- the applications' side ---------------------------------------------

    /// Opens a stream (at a client). Data may be written at once: it travels
    /// with the BEGIN. `None` when the circuit is gone or full.
    pub fn open(&mut self, target: Target) -> Option<StreamKey> {
        if self.side != Side::Client || !self.has_room() {
            return None;
        }
        let id = self.free_id()?;
        let key = self.insert(id, target, Opening::Begin);
        self.enqueue(key);
        Some(key)
    }

    /// The destination of a stream has answered (at a relay).
    pub fn accept(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(&key)
            && stream.opening == Opening::Waiting
            && !stream.closed
        {
            stream.opening = Opening::Connected;
            self.enqueue(key);
        }
    }

    /// The destination of a stream can't be had (at a relay), or the stream
    /// is no longer wanted. Lets go of it too.
    pub fn refuse(&mut self, key: StreamKey, reason: EndReason) {
        self.abort(key, reason);
        self.release(key);
    }

    /// Waits until the stream is open at the exit (at a client).
    pub fn poll_open(
        &mut self,
        key: StreamKey,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        let Some(stream) = self.streams.get_mut(&key) else {
            return Poll::Ready(Err(StreamError::CircuitLost));
        };
        match (stream.opening, stream.received) {
            (Opening::Done, _) => Poll::Ready(Ok(())),
            (_, Received::Failed(error)) => Poll::Ready(Err(error)),
            _ => {
                stream.opener = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Reads what has come. `Ok(0)` is the end of a stream that was completed;
    /// every other end is an error.
    pub fn poll_read(
        &mut self,
        key: StreamKey,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<Result<usize, StreamError>> {
        let Some(stream) = self.streams.get_mut(&key) else {
            return Poll::Ready(Err(StreamError::CircuitLost));
        };
        if !stream.rx.is_empty() {
            let read = stream.rx.pop(out);
            // A stream never holds more than its window, which is a u32.
            stream.rx_drained += read as u32;
            let due = stream.rx_drained >= self.stream_window / 2;
            if due && stream.received == Received::Open && !stream.window_due && !stream.closed {
                stream.window_due = true;
                self.windows_due.push_back(key);
            }
            return Poll::Ready(Ok(read));
        }
        match stream.received {
            Received::Complete => Poll::Ready(Ok(0)),
            Received::Failed(error) => Poll::Ready(Err(error)),
            Received::Open => {
                stream.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Takes bytes to send, as many as the stream's buffer has room for.
    pub fn poll_write(
        &mut self,
        key: StreamKey,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        let Some(stream) = self.streams.get_mut(&key) else {
            return Poll::Ready(Err(StreamError::CircuitLost));
        };
        if let Received::Failed(error) = stream.received {
            return Poll::Ready(Err(error));
        }
        if stream.sending != Sending::Open {
            return Poll::Ready(Err(StreamError::Ended(EndReason::Reset)));
        }
        let room = STREAM_SEND_BUFFER
            .saturating_sub(stream.tx.len())
            .min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            stream.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        stream.tx.push(&bytes[..room]);
        self.enqueue(key);
        Poll::Ready(Ok(room))
    }

    /// The application has written all: END(Done) follows the last byte.
    pub fn shutdown(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(&key)
            && stream.sending == Sending::Open
        {
            stream.sending = Sending::Ending(EndReason::Done);
            self.enqueue(key);
        }
    }

    /// Gives a stream up: what is buffered to be sent is dropped and END says why.
    pub fn abort(&mut self, key: StreamKey, reason: EndReason) {
        if let Some(stream) = self.streams.get_mut(&key)
            && !stream.closed
        {
            stream.abort(reason);
            if stream.opening == Opening::Begin {
                // Never announced, so there is nobody to tell.
                let id = stream.id;
                stream.closed = true;
                self.ids.remove(&id);
            } else {
                stream.opening = match stream.opening {
                    Opening::Connected => Opening::Waiting,
                    other => other,
                };
                self.enqueue(key);
            }
        }
    }

    /// The application lets go of a stream. One that is not complete in both
    /// directions is given up.
    pub fn release(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        stream.released = true;
        if stream.closed {
            self.streams.remove(&key);
            return;
        }
        // Unread bytes mean that the application stopped listening: the
        // sender must not take them for delivered.
        let unread = stream.received == Received::Open || !stream.rx.is_empty();
        stream.rx.clear();
        if unread || stream.sending == Sending::Open {
            self.abort(key, EndReason::Reset);
        }
        if self.streams.get(&key).is_some_and(|stream| stream.closed) {
            self.streams.remove(&key);
        }
    }

    // ---- inside ---------------------------------------------------------------

    fn insert(&mut self, id: StreamId, target: Target, opening: Opening) -> StreamKey {
        let key = StreamKey(self.next_key);
        self.next_key += 1;
        self.ids.insert(id, key);
        self.streams.insert(
            key,
            Stream::new(id, target, opening, self.stream_window, &self.budget),
        );
        key
    }

    fn free_id(&mut self) -> Option<StreamId> {
        (0..=u16::MAX).find_map(|_| {
            let id = StreamId::new(self.next_id);
            self.next_id = self.next_id.wrapping_add(1);
            id.filter(|id| !self.ids.contains_key(id) && !self.lingering.contains_key(id))
        })
    }

    pub(super) fn enqueue(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(&key)
            && !stream.queued
            && !stream.closed
            && stream.has_work()
        {
            stream.queued = true;
            self.ready.push_back(key);
        }
    }

    fn stream_mut(&mut self, id: StreamId) -> Result<(StreamKey, &mut Stream), Violation> {
        let key = *self.ids.get(&id).ok_or(Violation::NoSuchStream)?;
        self.streams
            .get_mut(&key)
            .map(|s| (key, s))
            .ok_or(Violation::NoSuchStream)
    }

    fn on_begin(&mut self, id: StreamId, target: Target) -> Result<Option<Request>, Violation> {
        if self.ids.contains_key(&id) {
            return Err(Violation::OutOfOrder);
        }
        // Its grants came before, in order.
        self.lingering.remove(&id);
        let full = !self.has_room();
        if self.streams.len() >= 2 * STREAMS_PER_CIRCUIT {
            return Err(Violation::Credit);
        }
        let key = self.insert(id, target.clone(), Opening::Waiting);
        if full {
            self.refuse(key, EndReason::Resource);
            return Ok(None);
        }
        Ok(Some(Request::Begin(key, target)))
    }

    fn on_connected(&mut self, id: StreamId) -> Result<(), Violation> {
        let (_, stream) = self.stream_mut(id)?;
        if stream.opening != Opening::Waiting || stream.received != Received::Open {
            return Err(Violation::OutOfOrder);
        }
        stream.opening = Opening::Done;
        stream.wake();
        Ok(())
    }

    /// Returns whether the window counts the message.
    fn on_stream(&mut self, id: StreamId, message: StreamMessage<'_>) -> Result<bool, Violation> {
        if let Some(past) = self.lingering.get_mut(&id) {
            return on_lingering(past, message);
        }
        let (side, window) = (self.side, self.stream_window);
        let (key, stream) = self.stream_mut(id)?;
        match (stream.received, message) {
            (Received::Open, _) | (Received::Complete, StreamMessage::Window(_)) => {}
            // Complete, and then given up: its application listens no more.
            (Received::Complete, StreamMessage::End(reason)) if reason != EndReason::Done => {}
            _ => return Err(Violation::OutOfOrder),
        }
        match message {
            StreamMessage::Data(data) => {
                // Only an exit takes data before the stream is open.
                if side == Side::Client && stream.opening != Opening::Done {
                    return Err(Violation::OutOfOrder);
                }
                let len = u32::try_from(data.len()).map_err(|_| Violation::Credit)?;
                stream.rx_credit = stream.rx_credit.checked_sub(len).ok_or(Violation::Credit)?;
                // What was on its way when this end gave up is dropped, and not granted again.
                if !stream.released && !stream.sending.is_given_up() {
                    stream.rx.push(data);
                }
                if let Some(waker) = stream.reader.take() {
                    waker.wake();
                }
                Ok(true)
            }
            StreamMessage::Window(bytes) => {
                let credit = stream.tx_credit.checked_add(bytes);
                stream.tx_credit = credit.filter(|c| *c <= window).ok_or(Violation::Credit)?;
                self.enqueue(key);
                Ok(false)
            }
            StreamMessage::End(reason) => {
                if reason == EndReason::Done {
                    if side == Side::Client && stream.opening != Opening::Done {
                        return Err(Violation::OutOfOrder);
                    }
                    stream.received = Received::Complete;
                } else {
                    stream.received = Received::Failed(StreamError::Ended(reason));
                    stream.abort(EndReason::Reset);
                }
                if stream.said_done && stream.sending.is_given_up() {
                    // Both ends have said END: nobody waits for another.
                    stream.sending = Sending::Ended;
                }
                stream.wake();
                self.enqueue(key);
                self.close_if_over(key);
                Ok(true)
            }
        }
    }

    /// Returns how many marks the message is.
    fn on_flow(&mut self, now: Instant, message: FlowMessage) -> Result<usize, Violation> {
        match message {
            FlowMessage::Mark(bytes) => {
                self.acks.push_back(bytes);
                Ok(1)
            }
            FlowMessage::Ack(bytes) => {
                self.send.on_ack(now, &bytes)?;
                let read = self.send.acknowledged();
                self.lingering.retain(|_, past| past.until > read);
                Ok(0)
            }
        }
    }

    pub(super) fn close_if_over(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        if !stream.closed && stream.is_over() {
            stream.closed = true;
            let (id, released) = (stream.id, stream.released);
            let past = Lingering {
                room: self.stream_window - stream.tx_credit,
                until: stream.end_cell,
                given_up: matches!(stream.received, Received::Failed(_)),
            };
            self.ids.remove(&id);
            if past.until > self.send.acknowledged() {
                self.lingering.insert(id, past);
            }
            if released {
                self.streams.remove(&key);
            }
        }
    }
}

/// A message on an id that this end has freed: what the other end said before
/// it read our END, and nothing else.
fn on_lingering(past: &mut Lingering, message: StreamMessage<'_>) -> Result<bool, Violation> {
    match message {
        StreamMessage::Window(bytes) => {
            past.room = past.room.checked_sub(bytes).ok_or(Violation::Credit)?;
            Ok(false)
        }
        StreamMessage::End(reason) if reason != EndReason::Done && !past.given_up => {
            past.given_up = true;
            past.room = 0;
            Ok(true)
        }
        StreamMessage::End(_) | StreamMessage::Data(_) => Err(Violation::OutOfOrder),
    }
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;
