//! The machine: streams, credit and window of one end of a circuit.

use core::task::{Context, Poll};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::leg::{Leg, LegId, Linking, MOST_LEGS};
use super::set::Set;
use super::state::{Lingering, Opening, Received, Sending, Stream};
use super::turns::Turns;
use super::{StreamError, StreamKey, Target};
use crate::budget::Budget;
use crate::cell::codec::CREATE_LEN;
use crate::cell::message::{EndReason, SECRET_LEN};
use crate::flow::CongestionControl;
use crate::flow::window::SendWindow;
use crate::ids::{RelayId, StreamId};
use crate::limits::{
    CREDIT_EXTRA, STREAM_SEND_BUFFER, STREAM_SEND_BUFFER_LEAST, STREAM_SEND_BUFFERS,
    STREAMS_PER_CIRCUIT,
};

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
    /// Make the circuit a leg of the set with this secret: [`Mux::begin_set`] if there is none, else
    /// [`Mux::take_leg`] here and [`Mux::join`] there.
    Link {
        /// The set's.
        secret: [u8; SECRET_LEN],
        /// The client's name for the leg.
        leg: LegId,
    },
}

/// At which end a leg comes to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinAs {
    /// At the client, which says LINK with the set's secret.
    Client([u8; SECRET_LEN]),
    /// At the relay, which was told the leg's name and answers LINKED.
    Relay(LegId),
}

/// What the far end of a leg owes a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owes {
    /// No stream is open: nobody would miss it.
    Nothing,
    /// Streams are open, and everything sent has been acknowledged or seen.
    Idle,
    /// Word of a stream that is being opened, or of what was sent: the destination may be slow, the leg may be gone.
    Answer,
    /// An acknowledgement, which the far end sends at once whatever its application does.
    Ack,
}

/// One end's side of the conversation.
pub struct Mux {
    pub(super) side: Side,
    /// The circuits under the streams.
    pub(super) legs: [Option<Box<Leg>>; MOST_LEGS],
    /// What legs carry together, once there is to be more than one.
    pub(super) set: Option<Box<Set>>,
    next_leg: u32,
    pub(super) stream_window: u32,
    budget: Arc<Budget>,
    pub(super) streams: FxHashMap<StreamKey, Stream>,
    pub(super) ids: FxHashMap<StreamId, StreamKey>,
    /// Freed ids for which grants may still arrive, until our END is acknowledged.
    pub(super) lingering: FxHashMap<StreamId, Lingering>,
    /// Streams with something to pack, in the order of their turns.
    pub(super) ready: Turns,
    /// Streams whose application has drained enough to grant more.
    pub(super) windows_due: VecDeque<StreamKey>,
    next_key: u64,
    next_id: u16,
    pub(super) lost: bool,
    /// By how much the streams' windows may still grow (bytes).
    pub(super) extra: u32,
    /// Cells that have been sent or read.
    pub(super) moved: u64,
    /// Counted cells of the first leg that the other end has acknowledged.
    pub(super) acknowledged: u64,
}

impl Mux {
    /// An end without streams.
    pub fn new(config: MuxConfig) -> Self {
        Self {
            side: config.side,
            legs: [
                Some(Box::new(Leg::new(
                    LegId::FIRST,
                    SendWindow::new(config.control, config.mark_interval_cells),
                ))),
                None,
            ],
            set: None,
            next_leg: 1,
            stream_window: config.stream_window_bytes.max(1),
            budget: config.budget,
            streams: FxHashMap::default(),
            ids: FxHashMap::default(),
            lingering: FxHashMap::default(),
            ready: Turns::default(),
            windows_due: VecDeque::new(),
            next_key: 0,
            next_id: 1,
            lost: false,
            extra: CREDIT_EXTRA,
            moved: 0,
            acknowledged: 0,
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

    /// Cells that this end has sent or read since the beginning, on all legs.
    pub fn cells_moved(&self) -> u64 {
        self.moved
    }

    // ---- the circuit's side -------------------------------------------------

    /// Would [`Mux::fill`] have something to pack, were the windows open?
    pub fn wants_fill(&self) -> bool {
        !(self.windows_due.is_empty() && self.ready.is_empty())
            || self.legs().any(Leg::has_uncounted)
    }

    /// The circuit is gone: every stream fails, after what has been received is read.
    pub fn lose(&mut self) {
        self.lost = true;
        self.ids.clear();
        self.ready.clear();
        self.windows_due.clear();
        for leg in self.legs.iter_mut().flatten() {
            leg.acks.clear();
        }
        if let Some(set) = &mut self.set {
            set.clear();
        }
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
        let of_set = self.set.as_ref().and_then(|set| set.waiting_since());
        let waiting = buffers.filter_map(|buffer| buffer.waiting_since());
        waiting.chain(of_set).min()
    }

    /// Has the circuit been lost?
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    // ---- legs -------------------------------------------------------------------

    pub(super) fn legs(&self) -> impl Iterator<Item = &Leg> {
        self.legs.iter().flatten().map(|leg| &**leg)
    }

    /// The leg with this id, while it is one.
    pub(super) fn leg(&self, id: LegId) -> Option<&Leg> {
        self.legs().find(|leg| leg.id == id)
    }

    pub(super) fn leg_mut(&mut self, id: LegId) -> Option<&mut Leg> {
        let mut legs = self.legs.iter_mut().flatten();
        legs.find(|leg| leg.id == id).map(|leg| &mut **leg)
    }

    /// The legs that there are.
    pub fn leg_ids(&self) -> impl Iterator<Item = LegId> {
        self.legs().map(|leg| leg.id)
    }

    /// Is the leg still one of these streams'?
    pub fn has_leg(&self, id: LegId) -> bool {
        self.leg(id).is_some()
    }

    /// The window of what this end sends on a leg.
    pub fn send_window(&self, id: LegId) -> Option<&SendWindow> {
        self.leg(id).map(|leg| &leg.send)
    }

    /// Makes the circuit the first leg of a set with this secret (at a client). `false` when it is one already, or gone.
    pub fn link(&mut self, secret: [u8; SECRET_LEN]) -> bool {
        let is_first = self.side == Side::Client && self.set.is_none() && !self.lost;
        if is_first && let Some(leg) = self.leg_mut(LegId::FIRST) {
            leg.say = Some(Linking::Link(secret));
            self.set = Some(Box::new(Set::new(&self.budget)));
            return true;
        }
        false
    }

    /// Does the other end know of the set, so that a second leg may come to it (at a client)?
    pub fn is_linked(&self) -> bool {
        !self.lost && self.set.as_ref().is_some_and(|set| set.numbers_in)
    }

    /// Is it, or is it to be, a set of legs?
    pub fn is_linking(&self) -> bool {
        self.set.is_some()
    }

    /// Has it as many legs as can be?
    pub fn is_complete(&self) -> bool {
        self.legs.iter().all(Option::is_some)
    }

    /// A client has made the circuit the first leg of a set (at a relay).
    pub fn begin_set(&mut self) {
        let mut set = Box::new(Set::new(&self.budget));
        set.numbers_in = true;
        self.set = Some(set);
        if let Some(leg) = self.leg_mut(LegId::FIRST) {
            leg.say = Some(Linking::Linked);
        }
    }

    /// Takes the circuit from under streams of which none was ever begun, for another [`Mux`] to [`Mux::join`] it.
    pub fn take_leg(&mut self) -> Option<Box<Leg>> {
        let is_fresh = self.next_key == 0 && self.set.is_none() && !self.lost;
        let leg = self.legs[0].take_if(|leg| is_fresh && leg.id == LegId::FIRST);
        self.lost |= leg.is_some();
        leg
    }

    /// Adds a second leg. A client says LINK on it with the set's secret, a relay answers LINKED. `None` when there is
    /// no room for it.
    pub fn join(&mut self, mut leg: Box<Leg>, as_whom: JoinAs) -> Option<LegId> {
        if self.lost || !self.set.as_ref().is_some_and(|set| set.numbers_in) {
            return None;
        }
        let place = self.legs.iter_mut().find(|place| place.is_none())?;
        (leg.id, leg.say) = match as_whom {
            JoinAs::Client(secret) => (LegId(self.next_leg), Some(Linking::Link(secret))),
            JoinAs::Relay(id) if id.0 >= self.next_leg => (id, Some(Linking::Linked)),
            JoinAs::Relay(_) => return None,
        };
        // A client that has used up four thousand million legs has none any more.
        self.next_leg = leg.id.0.checked_add(1)?;
        leg.joined = true;
        let id = leg.id;
        *place = Some(leg);
        Some(id)
    }

    /// A leg's circuit is gone. What it had not delivered goes by the other one; without another, all is lost.
    pub fn lose_leg(&mut self, id: LegId) {
        let Some(place) = self
            .legs
            .iter_mut()
            .find(|leg| leg.as_ref().is_some_and(|leg| leg.id == id))
        else {
            return;
        };
        *place = None;
        // A second leg is linked only after the first was, so that nothing from before it is on its way any more.
        let is_client = self.side == Side::Client;
        let other = self.legs.iter_mut().flatten().find(|leg| leg.linked);
        match (other, &mut self.set) {
            (Some(other), Some(set)) if !self.lost => {
                other.unlink = is_client.then_some(id);
                set.on_lost(id);
            }
            _ => self.lose(),
        }
    }

    /// Does a leg bring nothing though something is due on it (at a client)?
    pub fn owes(&self, id: LegId) -> Owes {
        let Some(leg) = self.leg(id) else {
            return Owes::Nothing;
        };
        let unseen = |set: &Set| set.has_gap() || set.is_unseen(id);
        if leg.send.awaits_ack() {
            Owes::Ack
        } else if leg.say.is_some() || leg.joined && !leg.linked {
            Owes::Answer
        } else if let Some(set) = self.set.as_ref().filter(|set| set.numbers_out) {
            match (unseen(set), self.open_streams()) {
                (true, _) => Owes::Answer,
                (false, 0) => Owes::Nothing,
                (false, _) => Owes::Idle,
            }
        } else if self.is_opening() {
            Owes::Answer
        } else if self.open_streams() > 0 {
            Owes::Idle
        } else {
            Owes::Nothing
        }
    }

    /// Asks the far end of a leg whether it is there (at a client), if it is a leg of a set. `false`: open a stream
    /// to its directory and see.
    pub fn ask(&mut self, id: LegId) -> bool {
        let is_set = self.set.as_ref().is_some_and(|set| set.numbers_out);
        if let Some(leg) = self.leg_mut(id).filter(|leg| is_set && leg.linked) {
            leg.ask = true;
            return true;
        }
        false
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
        now: Instant,
        out: &mut [u8],
    ) -> Poll<Result<usize, StreamError>> {
        let Some(stream) = self.streams.get_mut(&key) else {
            return Poll::Ready(Err(StreamError::CircuitLost));
        };
        if !stream.rx.is_empty() {
            let read = stream.rx.pop(now, out);
            // A stream never holds more than its window, which is a u32.
            stream.rx_drained += read as u32;
            let is_awaited = stream.starved && stream.rx.is_empty();
            let due = is_awaited || stream.rx_drained >= self.stream_window / 2;
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
        now: Instant,
        bytes: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        let send_buffer = self.send_buffer();
        let Some(stream) = self.streams.get_mut(&key) else {
            return Poll::Ready(Err(StreamError::CircuitLost));
        };
        if let Received::Failed(error) = stream.received {
            return Poll::Ready(Err(error));
        }
        if stream.sending != Sending::Open {
            return Poll::Ready(Err(StreamError::Ended(EndReason::Reset)));
        }
        let room = send_buffer.saturating_sub(stream.tx.len()).min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            stream.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        stream.tx.push(now, &bytes[..room]);
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

    /// Bytes that a stream may have waiting to be packed.
    pub(super) fn send_buffer(&self) -> usize {
        let share = STREAM_SEND_BUFFERS / self.ids.len().max(1);
        share.clamp(STREAM_SEND_BUFFER_LEAST, STREAM_SEND_BUFFER)
    }

    pub(super) fn insert(&mut self, id: StreamId, target: Target, opening: Opening) -> StreamKey {
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
            self.ready.add(key, &mut stream.recent);
        }
    }
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "leg_tests.rs"]
mod leg_tests;
