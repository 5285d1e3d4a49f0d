//! The machine: streams, credit and window of one end of a circuit.

use core::task::{Context, Poll};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::end::{LegWords, Opening, StreamEnd};
use super::leg::{Leg, MOST_LEGS};
use super::names::LegId;
use super::set::Set;
use super::state::{Lingering, Received, Sending, Stream};
use super::turns::Turns;
use super::{StreamError, StreamKey};
use crate::budget::{Budget, Charge};
use crate::cell::message::EndReason;
use crate::flow::CongestionControl;
use crate::flow::window::SendWindow;
use crate::ids::StreamId;
use crate::limits::{
    CREDIT_EXTRA, STREAM_BYTES, STREAM_SEND_BUFFER, STREAM_SEND_BUFFER_LEAST, STREAM_SEND_BUFFERS,
    STREAMS_PER_CIRCUIT,
};

/// What the table takes for an id that lingers, in bytes.
const LINGERING_BYTES: usize = 2 * (size_of::<StreamId>() + size_of::<Lingering>());

/// What both ends agreed on in the handshake.
pub struct MuxConfig {
    /// Governs the window of what this end sends.
    pub control: Box<dyn CongestionControl>,
    /// One of this many counted cells carries a mark.
    pub mark_interval_cells: u32,
    /// Credit of a stream in each direction when it opens, and the most there can be.
    pub stream_window_bytes: u32,
    /// What the streams' buffers are charged to.
    pub budget: Arc<Budget>,
}

/// One end's side of the conversation.
pub struct Mux<E: StreamEnd> {
    /// What only an opener has, or only an acceptor.
    pub(super) end: E,
    /// The circuits under the streams.
    pub(super) legs: [Option<Box<Leg<E>>>; MOST_LEGS],
    /// What legs carry together, as soon as there is to be more than one leg.
    pub(super) set: Option<Box<Set>>,
    pub(super) next_leg: u32,
    /// Streams that there may be at once.
    most_streams: u32,
    /// How many streams and associations were refused for want of room since they were last counted.
    pub(super) refused: u32,
    pub(super) stream_window: u32,
    pub(super) budget: Arc<Budget>,
    /// What the tables of streams take.
    pub(super) charge: Charge,
    pub(super) streams: FxHashMap<StreamKey, Stream<E::Opening>>,
    pub(super) ids: FxHashMap<StreamId, StreamKey>,
    /// Freed ids for which grants may still arrive, until our END is acknowledged.
    pub(super) lingering: FxHashMap<StreamId, Lingering>,
    /// Streams with something to pack, in the order of their turns.
    pub(super) ready: Turns<StreamKey>,
    /// Streams whose application has drained enough to grant more.
    pub(super) windows_due: VecDeque<StreamKey>,
    pub(super) next_key: u64,
    pub(super) lost: bool,
    /// By how much the windows of all streams together may still grow (bytes).
    pub(super) extra: u32,
    /// Cells that have been sent or read.
    pub(super) moved: u64,
    /// Counted cells of the first leg that the other end has acknowledged.
    pub(super) acknowledged: u64,
}

impl<E: StreamEnd> Mux<E> {
    /// An end without streams.
    pub fn new(config: MuxConfig) -> Self {
        Self {
            end: E::default(),
            legs: [
                Some(Box::new(Leg::new(
                    LegId::FIRST,
                    SendWindow::new(config.control, config.mark_interval_cells),
                ))),
                None,
            ],
            set: None,
            next_leg: 1,
            most_streams: u32::MAX,
            refused: 0,
            stream_window: config.stream_window_bytes.max(1),
            charge: Charge::none(&config.budget),
            budget: config.budget,
            streams: FxHashMap::default(),
            ids: FxHashMap::default(),
            lingering: FxHashMap::default(),
            ready: Turns::default(),
            windows_due: VecDeque::new(),
            next_key: 0,
            lost: false,
            extra: CREDIT_EXTRA,
            moved: 0,
            acknowledged: 0,
        }
    }

    /// Number of streams whose id is in use.
    pub fn open_streams(&self) -> usize {
        self.ids.len()
    }

    /// Number of streams and associations in use.
    pub fn in_use(&self) -> usize {
        self.open_streams() + self.open_associations()
    }

    /// Can one more stream be opened?
    pub fn has_room(&self) -> bool {
        let most = STREAMS_PER_CIRCUIT.min(self.most_streams as usize);
        !self.lost && self.streams.len() < most
    }

    /// Takes no more than so many streams at once from now on, if they are fewer than [`STREAMS_PER_CIRCUIT`]. Those
    /// that there are go on.
    pub fn bound_streams(&mut self, most: u32) {
        self.most_streams = most;
    }

    /// Cells that this end has sent or read since the beginning, on all legs.
    pub fn cells_moved(&self) -> u64 {
        self.moved
    }

    // ---- the circuit's side -------------------------------------------------

    /// Would [`Mux::fill`] have something to pack if the windows were open?
    pub fn wants_fill(&self) -> bool {
        !(self.windows_due.is_empty() && self.ready.is_empty())
            || self
                .legs()
                .any(|leg| leg.has_uncounted() || leg.has_datagrams())
    }

    /// The circuit is gone: every stream fails when the application has read what was received.
    pub fn lose(&mut self) {
        self.lost = true;
        self.ids.clear();
        self.lingering.clear();
        self.ready.clear();
        self.windows_due.clear();
        for leg in self.legs.iter_mut().flatten() {
            leg.acks.clear();
            leg.lose_datagrams();
        }
        if let Some(set) = &mut self.set {
            set.clear();
        }
        #[expect(
            clippy::iter_over_hash_type,
            reason = "its hash has no random state: the same streams are woken in the same order"
        )]
        for stream in self.streams.values_mut() {
            stream.closed = true;
            stream.send.buffer.clear();
            stream.send.state = Sending::Ended;
            if stream.receive.state == Received::Open {
                stream.receive.state = Received::Failed(StreamError::CircuitLost);
            }
            stream.wake();
        }
        self.streams.retain(|_, stream| !stream.released);
        self.account();
    }

    /// The circuit is gone: every stream fails, and what the streams still hold is dropped.
    pub fn discard(&mut self) {
        self.lose();
        self.streams
            .values_mut()
            .for_each(|stream| stream.receive.buffer.clear());
    }

    /// When the bytes that have waited longest in a stream's buffer began to wait.
    pub fn waiting_since(&self) -> Option<Instant> {
        let buffers = self
            .streams
            .values()
            .flat_map(|stream| [&stream.receive.buffer, &stream.send.buffer]);
        let of_set = self.set.as_ref().and_then(|set| set.waiting_since());
        let waiting = buffers.filter_map(|buffer| buffer.waiting_since());
        let of_datagrams = self.legs().filter_map(|leg| leg.datagrams.as_ref());
        let of_datagrams = of_datagrams.filter_map(|one| one.waiting_since());
        waiting.chain(of_set).chain(of_datagrams).min()
    }

    /// Bytes that the streams hold in buffers and tables, and what legs carry together.
    pub fn held_bytes(&self) -> usize {
        let of_streams = self.streams.values().map(Stream::held_bytes);
        let of_set = self.set.as_ref().map_or(0, |set| set.held_bytes());
        let of_datagrams = self.legs().filter_map(|leg| leg.datagrams.as_ref());
        let of_datagrams: usize = of_datagrams.map(|one| one.held_bytes()).sum();
        of_streams.sum::<usize>() + of_set + of_datagrams + self.lingering.len() * LINGERING_BYTES
    }

    /// Has the circuit been lost?
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    // ---- legs -------------------------------------------------------------------

    pub(super) fn legs(&self) -> impl Iterator<Item = &Leg<E>> {
        self.legs.iter().flatten().map(|leg| &**leg)
    }

    /// The leg with this id; `None` if it is no leg of these streams any more.
    pub(super) fn leg(&self, id: LegId) -> Option<&Leg<E>> {
        self.legs().find(|leg| leg.id == id)
    }

    pub(super) fn leg_mut(&mut self, id: LegId) -> Option<&mut Leg<E>> {
        let mut legs = self.legs.iter_mut().flatten();
        legs.find(|leg| leg.id == id).map(|leg| &mut **leg)
    }

    /// The ids of the legs that there are.
    pub fn leg_ids(&self) -> impl Iterator<Item = LegId> {
        self.legs().map(|leg| leg.id)
    }

    /// Is the leg still a leg of these streams?
    pub fn has_leg(&self, id: LegId) -> bool {
        self.leg(id).is_some()
    }

    /// The window of what this end sends on a leg.
    pub fn send_window(&self, id: LegId) -> Option<&SendWindow> {
        self.leg(id).map(|leg| &leg.send)
    }

    /// Does the other end know of the set, so that a second leg may come to it?
    pub fn is_linked(&self) -> bool {
        !self.lost && self.set.as_ref().is_some_and(|set| set.numbers_in)
    }

    /// Is the circuit a set of legs, or is it to become one?
    pub fn is_linking(&self) -> bool {
        self.set.is_some()
    }

    /// Has the set as many legs as it can have?
    pub fn is_complete(&self) -> bool {
        self.legs.iter().all(Option::is_some)
    }

    /// Takes the circuit out of a machine in which no stream and no association was ever begun, so that another [`Mux`] can [`Mux::join`]
    /// it.
    pub fn take_leg(&mut self) -> Option<Box<Leg<E>>> {
        let is_fresh = self.next_key == 0 && self.set.is_none() && !self.lost;
        let leg = self.legs[0]
            .take_if(|leg| is_fresh && leg.id == LegId::FIRST && leg.datagrams.is_none());
        self.lost |= leg.is_some();
        leg
    }

    /// Makes a leg, which has its name already, the second one. `None` when there is no room for it.
    pub(super) fn place(&mut self, mut leg: Box<Leg<E>>) -> Option<LegId> {
        if self.lost || !self.set.as_ref().is_some_and(|set| set.numbers_in) {
            return None;
        }
        let place = self.legs.iter_mut().find(|place| place.is_none())?;
        // An opener that has used up four thousand million names of legs gets no further leg.
        self.next_leg = leg.id.0.checked_add(1)?;
        leg.joined = true;
        let id = leg.id;
        *place = Some(leg);
        self.set
            .as_mut()
            .into_iter()
            .for_each(|set| set.on_joined());
        Some(id)
    }

    /// A leg's circuit is gone. What the leg had not delivered goes by the other leg; without another, all streams are
    /// lost.
    pub fn lose_leg(&mut self, id: LegId) {
        let Some(place) = self
            .legs
            .iter_mut()
            .find(|leg| leg.as_ref().is_some_and(|leg| leg.id == id))
        else {
            return;
        };
        if let Some(mut leg) = place.take() {
            leg.lose_datagrams();
        }
        // A second leg is linked only after the first, so nothing that was sent before the first was linked is still on
        // its way.
        let other = self.legs.iter_mut().flatten().find(|leg| leg.linked);
        match (other, &mut self.set) {
            (Some(other), Some(set)) if !self.lost => {
                other.words.on_other_lost(id);
                set.on_lost(id);
            }
            _ => self.lose(),
        }
    }

    // ---- the applications' side ---------------------------------------------

    /// Reads what has come. `Ok(0)` is the end of a stream that was completed; every other end is an error.
    pub fn poll_read(
        &mut self,
        key: StreamKey,
        cx: &mut Context<'_>,
        now: Instant,
        out: &mut [u8],
    ) -> Poll<Result<usize, StreamError>> {
        let Some(stream) = self.streams.get_mut(&key) else {
            return Poll::Ready(Err(StreamError::CircuitLost));
        };
        if stream.shed {
            return Poll::Ready(Err(StreamError::Memory));
        }
        if stream.receive.buffer.is_empty() {
            return stream.receive.poll_end(cx);
        }
        let read = stream.receive.buffer.pop(now, out);
        self.on_drained(key, read);
        Poll::Ready(Ok(read))
    }

    /// Reads like [`Mux::poll_read`], but the bytes stay to be read again until [`Mux::consume`] takes them.
    pub fn poll_peek(
        &mut self,
        key: StreamKey,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<Result<usize, StreamError>> {
        let Some(stream) = self.streams.get_mut(&key) else {
            return Poll::Ready(Err(StreamError::CircuitLost));
        };
        if stream.shed {
            return Poll::Ready(Err(StreamError::Memory));
        }
        if stream.receive.buffer.is_empty() {
            return stream.receive.poll_end(cx);
        }
        Poll::Ready(Ok(stream.receive.buffer.peek(out)))
    }

    /// Takes up to `bytes` bytes away that [`Mux::poll_peek`] has shown.
    pub fn consume(&mut self, key: StreamKey, now: Instant, bytes: usize) {
        if let Some(stream) = self.streams.get_mut(&key) {
            let read = stream.receive.buffer.advance(now, bytes);
            self.on_drained(key, read);
        }
    }

    /// The application has taken bytes. When there are enough of them, as many are granted again.
    fn on_drained(&mut self, key: StreamKey, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        // A stream never holds more than its window, which is a u32.
        stream.receive.drained += bytes as u32;
        let is_awaited = stream.receive.starved && stream.receive.buffer.is_empty();
        let due = is_awaited || stream.receive.drained >= self.stream_window / 2;
        if due
            && stream.receive.state == Received::Open
            && !stream.receive.is_window_due
            && !stream.closed
        {
            stream.receive.is_window_due = true;
            self.windows_due.push_back(key);
        }
    }

    /// Ready when the other end has given the stream up, or the circuit is gone: nobody at that end reads or writes any
    /// more.
    pub fn poll_given_up(&mut self, key: StreamKey, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = self.streams.get_mut(&key) else {
            return Poll::Ready(());
        };
        if stream.shed || matches!(stream.receive.state, Received::Failed(_)) {
            return Poll::Ready(());
        }
        stream.receive.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits until the stream takes bytes to send. Gives how many it takes.
    pub fn poll_room(
        &mut self,
        key: StreamKey,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, StreamError>> {
        let send_buffer = self.send_buffer();
        let Some(stream) = self.streams.get_mut(&key) else {
            return Poll::Ready(Err(StreamError::CircuitLost));
        };
        if stream.shed {
            return Poll::Ready(Err(StreamError::Memory));
        }
        if let Received::Failed(error) = stream.receive.state {
            return Poll::Ready(Err(error));
        }
        if stream.send.state != Sending::Open {
            return Poll::Ready(Err(StreamError::Ended(EndReason::Reset)));
        }
        let room = send_buffer.saturating_sub(stream.send.buffer.len());
        if room == 0 {
            stream.send.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(room))
    }

    /// Takes bytes to send for which [`Mux::poll_room`] has found room.
    pub fn push(&mut self, key: StreamKey, now: Instant, bytes: &[u8]) {
        if let Some(stream) = self.streams.get_mut(&key)
            && stream.send.state == Sending::Open
        {
            stream.send.buffer.push(now, bytes);
            self.enqueue(key);
        }
    }

    /// Takes bytes to send, as many as the stream's buffer has room for.
    pub fn poll_write(
        &mut self,
        key: StreamKey,
        cx: &mut Context<'_>,
        now: Instant,
        bytes: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        let room = match self.poll_room(key, cx) {
            Poll::Ready(Ok(room)) => room.min(bytes.len()),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending if bytes.is_empty() => 0,
            Poll::Pending => return Poll::Pending,
        };
        self.push(key, now, &bytes[..room]);
        Poll::Ready(Ok(room))
    }

    /// Has the other end given the stream up?
    pub fn is_given_up(&self, key: StreamKey) -> bool {
        let stream = self.streams.get(&key);
        stream.is_none_or(|stream| matches!(stream.receive.state, Received::Failed(_)))
    }

    /// The application has written all: END(Done) follows the last byte.
    pub fn shutdown(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(&key)
            && stream.send.state == Sending::Open
        {
            stream.send.state = Sending::Ending(EndReason::Done);
            self.enqueue(key);
        }
    }

    /// Gives a stream up: what is buffered to be sent is dropped and END says why.
    pub fn abort(&mut self, key: StreamKey, reason: EndReason) {
        if let Some(stream) = self.streams.get_mut(&key)
            && !stream.closed
        {
            stream.abort(reason);
            if stream.opening.give_up() {
                // The stream was never announced, so there is nobody to tell.
                let id = stream.id;
                stream.closed = true;
                self.ids.remove(&id);
            } else {
                self.enqueue(key);
            }
        }
    }

    /// The application lets go of a stream. A stream that is not complete in both directions is given up.
    pub fn release(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        stream.released = true;
        if stream.closed {
            self.streams.remove(&key);
            return self.account();
        }
        // Unread bytes mean that the application stopped listening: the sender must not take them for delivered.
        let unread = stream.receive.state == Received::Open || !stream.receive.buffer.is_empty();
        stream.receive.buffer.clear();
        if unread || stream.send.state == Sending::Open {
            self.abort(key, EndReason::Reset);
        }
        if self.streams.get(&key).is_some_and(|stream| stream.closed) {
            self.streams.remove(&key);
            self.account();
        }
    }

    // ---- inside ---------------------------------------------------------------

    /// Bytes that a stream may have waiting to be packed.
    pub(super) fn send_buffer(&self) -> usize {
        let share = STREAM_SEND_BUFFERS / self.ids.len().max(1);
        share.clamp(STREAM_SEND_BUFFER_LEAST, STREAM_SEND_BUFFER)
    }

    pub(super) fn insert(&mut self, id: StreamId, opening: E::Opening) -> StreamKey {
        let key = StreamKey(self.next_key);
        self.next_key += 1;
        self.ids.insert(id, key);
        self.streams.insert(
            key,
            Stream::new(id, opening, self.stream_window, &self.budget),
        );
        self.account();
        key
    }

    /// Charges what the tables take. The buffers charge their own memory.
    pub(super) fn account(&mut self) {
        let lingering = self.lingering.len() * LINGERING_BYTES;
        self.charge
            .set(self.streams.len() * STREAM_BYTES + lingering);
    }

    pub(super) fn enqueue(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(&key)
            && !stream.send.is_queued
            && !stream.closed
            && stream.has_work()
        {
            stream.send.is_queued = true;
            self.ready.add(key, &mut stream.send.recent);
        }
    }
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "leg_tests.rs"]
mod leg_tests;
