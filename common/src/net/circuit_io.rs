//! Streams for applications, and the steps that both ends of a circuit share.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use rand_core::CryptoRng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};

use crate::cell::CELL_LEN;
use crate::cell::codec::{self, CircuitCommand};
use crate::cell::message::{EndReason, SECRET_LEN};
use crate::ids::CircId;
use crate::stream::{
    Acceptor, Leg, LegId, Mux, Opener, StreamEnd, StreamError, StreamKey, StreamTarget,
};
use crate::sync::lock;
use crate::world::steady;

/// Cells packed under one hold of the streams' lock.
const FILL_CELLS: usize = 128;

/// The streams of one circuit, or of two that carry them together. The circuits' tasks and those who read and write the
/// streams share them.
pub struct Streams<E: StreamEnd> {
    mux: Mutex<Mux<E>>,
    /// Where the legs' tasks wait. There are more seats than legs, so that the task of a lost leg still finds its own
    /// seat when the next leg sits down.
    seats: [Seat; 4],
    /// Where the search for a free seat begins.
    next_seat: AtomicUsize,
    discarded: watch::Sender<bool>,
}

/// Where the task of one leg waits.
#[derive(Default)]
struct Seat {
    /// The number of the leg plus one; 0 if the seat is free.
    leg: AtomicU64,
    notify: Notify,
}

impl Seat {
    fn is_of(&self, leg: LegId) -> bool {
        self.leg.load(Ordering::Relaxed) == u64::from(leg.number()) + 1
    }

    fn is_free(&self) -> bool {
        self.leg.load(Ordering::Relaxed) == 0
    }
}

impl<E: StreamEnd> Streams<E> {
    /// Shares `mux`.
    pub fn new(mux: Mux<E>) -> Arc<Self> {
        let streams = Self {
            mux: Mutex::new(mux),
            seats: Default::default(),
            next_seat: AtomicUsize::new(0),
            discarded: watch::Sender::new(false),
        };
        streams.seat_legs(&streams.mux());
        Arc::new(streams)
    }

    /// The machine itself. Callers hold it briefly, and call [`Streams::wake`] after a change that gives the circuit
    /// something to send.
    pub fn mux(&self) -> MutexGuard<'_, Mux<E>> {
        lock(&self.mux)
    }

    /// Wakes the circuit's task if there is something to send.
    pub fn wake(&self) {
        if self.mux().wants_fill() {
            self.notify();
        }
    }

    fn join_with(&self, join: impl FnOnce(&mut Mux<E>) -> Option<LegId>) -> Option<LegId> {
        let mut mux = self.mux();
        let id = join(&mut mux)?;
        self.seat_legs(&mux);
        Some(id)
    }

    /// A leg's circuit is gone ([`Mux::lose_leg`]).
    pub fn lose_leg(&self, leg: LegId) {
        let mut mux = self.mux();
        mux.lose_leg(leg);
        self.seat_legs(&mux);
    }

    /// Gives each new leg a seat. If a leg is gone, the tasks of all legs are woken, the task of that leg too, and that
    /// leg leaves its seat.
    fn seat_legs(&self, mux: &Mux<E>) {
        let is_gone = |seat: &&Seat| !seat.is_free() && !mux.leg_ids().any(|leg| seat.is_of(leg));
        if self.seats.iter().any(|seat| is_gone(&seat)) {
            self.notify();
        }
        for seat in self.seats.iter().filter(is_gone) {
            seat.leg.store(0, Ordering::Relaxed);
        }
        for leg in mux.leg_ids() {
            if self.seat(leg).is_some() {
                continue;
            }
            let from = self.next_seat.load(Ordering::Relaxed);
            let places = (from..from + self.seats.len()).map(|place| place % self.seats.len());
            if let Some(place) = places
                .into_iter()
                .find(|place| self.seats[*place].is_free())
            {
                let number = u64::from(leg.number()) + 1;
                self.seats[place].leg.store(number, Ordering::Relaxed);
                self.next_seat.store(place + 1, Ordering::Relaxed);
            }
        }
    }

    fn seat(&self, leg: LegId) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.is_of(leg))
    }

    /// Ends the circuit and drops what its streams hold, to save memory.
    pub fn discard(&self) {
        self.mux().discard();
        self.discarded.send_replace(true);
        self.notify();
    }

    /// Waits until the circuit has been ended to save memory.
    pub async fn discarded(&self) {
        let _ = self
            .discarded
            .subscribe()
            .wait_for(|discarded| *discarded)
            .await;
    }

    /// Wakes the circuit's task, or both legs' tasks.
    pub fn notify(&self) {
        for seat in self.seats.iter().filter(|seat| !seat.is_free()) {
            seat.notify.notify_one();
        }
    }

    /// Waits until there may be something to send on a leg, or the leg is lost.
    pub async fn wait(&self, leg: LegId) {
        if let Some(seat) = self.seat(leg) {
            seat.notify.notified().await;
        }
    }

    /// Packs up to 128 cells of circuit `circ`, a leg, into `cells`, to be sealed. Returns whether there may be more.
    pub fn fill(
        &self,
        leg: LegId,
        now: Instant,
        rng: &mut impl CryptoRng,
        circ: CircId,
        cells: &mut Vec<u8>,
    ) -> bool {
        let mut mux = self.mux();
        let more = fill(&mut mux, leg, now, rng, circ, cells);
        if mux.is_linking() {
            // What this leg does not send may be for the other leg to send.
            let other = mux.leg_ids().find(|other| *other != leg);
            if let Some(other) = other.filter(|other| mux.wants(*other))
                && let Some(seat) = self.seat(other)
            {
                seat.notify.notify_one();
            }
            // What was read on this leg may have been that the other leg is lost.
            self.seat_legs(&mux);
        }
        more
    }
}

fn fill<E: StreamEnd>(
    mux: &mut Mux<E>,
    leg: LegId,
    now: Instant,
    rng: &mut impl CryptoRng,
    circ: CircId,
    cells: &mut Vec<u8>,
) -> bool {
    for _ in 0..FILL_CELLS {
        let at = cells.len();
        cells.resize(at + CELL_LEN, 0);
        let Some(cell) = cells[at..].as_mut_array::<CELL_LEN>() else {
            return false;
        };
        codec::write_circuit_head(cell, circ, CircuitCommand::Relay);
        if !mux.fill(leg, now, rng, codec::payload_mut(codec::body_mut(cell))) {
            cells.truncate(at);
            return false;
        }
    }
    true
}

impl Streams<Opener> {
    /// Opens a stream. The caller writes to it at once: the first bytes travel with BEGIN. `None` when the circuit is
    /// gone or full.
    pub fn open(self: &Arc<Self>, target: StreamTarget) -> Option<StreamIo<Opener>> {
        let key = self.mux().open(target)?;
        // The circuit is woken by the first write, or by whoever waits for the stream to open, so that early data
        // shares the first cell.
        Some(StreamIo {
            streams: self.clone(),
            key,
        })
    }

    /// Adds a second leg to the set with this secret; see [`Mux::join`].
    pub fn join(&self, leg: Box<Leg<Opener>>, secret: [u8; SECRET_LEN]) -> Option<LegId> {
        self.join_with(|mux| mux.join(leg, secret))
    }
}

impl Streams<Acceptor> {
    /// Takes hold of a stream that the opener has begun.
    pub fn hold(self: &Arc<Self>, key: StreamKey) -> StreamIo<Acceptor> {
        StreamIo {
            streams: self.clone(),
            key,
        }
    }

    /// Adds a second leg, which the opener has given this name; see [`Mux::join`].
    pub fn join(&self, leg: Box<Leg<Acceptor>>, id: LegId) -> Option<LegId> {
        self.join_with(|mux| mux.join(leg, id))
    }
}

/// One stream, for whoever reads and writes it.
///
/// Reading ends with `Ok(0)` only where the other end has completed its direction; every other end is an error.
/// `shutdown` completes this direction. Dropping a stream that is not complete gives the stream up.
pub struct StreamIo<E: StreamEnd> {
    streams: Arc<Streams<E>>,
    key: StreamKey,
}

impl StreamIo<Opener> {
    /// Waits until the far end has connected the stream.
    pub async fn opened(&self) -> Result<(), StreamError> {
        self.streams.notify();
        std::future::poll_fn(|cx| self.streams.mux().poll_open(self.key, cx)).await
    }
}

impl StreamIo<Acceptor> {
    /// Tells the opener that the stream is connected.
    pub fn accept(&self) {
        self.streams.mux().accept(self.key);
        self.streams.wake();
    }
}

impl<E: StreamEnd> StreamIo<E> {
    /// The streams that this one belongs to.
    pub fn circuit(&self) -> &Arc<Streams<E>> {
        &self.streams
    }

    /// Ready when the other end has given the stream up, or the circuit is gone.
    pub fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.streams.mux().poll_given_up(self.key, cx)
    }

    /// Waits until the other end has given the stream up, or the circuit is gone.
    pub async fn given_up(&self) {
        std::future::poll_fn(|cx| self.poll_given_up(cx)).await;
    }

    /// Reads, but the bytes stay to be read again until [`StreamIo::consume`] takes them. So no copy of the bytes is
    /// kept while the receiver takes nothing.
    pub fn poll_peek(&self, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let peeked = self.streams.mux().poll_peek(self.key, cx, out);
        peeked.map_err(Into::into)
    }

    /// Takes bytes that [`StreamIo::poll_peek`] has shown.
    pub fn consume(&self, bytes: usize) {
        let mut mux = self.streams.mux();
        mux.consume(self.key, steady::now(), bytes);
        let wake = mux.wants_fill();
        drop(mux);
        if wake {
            self.streams.notify();
        }
    }

    /// Waits until the stream takes bytes to send. Gives how many it takes.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.streams
            .mux()
            .poll_room(self.key, cx)
            .map_err(Into::into)
    }

    /// Sends bytes for which [`StreamIo::poll_room`] has found room.
    pub fn push(&self, bytes: &[u8]) {
        self.streams.mux().push(self.key, steady::now(), bytes);
        self.streams.notify();
    }

    /// Completes this direction.
    pub fn finish(&self) {
        self.streams.mux().shutdown(self.key);
        self.streams.notify();
    }

    /// Gives the stream up, for this reason.
    pub fn abort(self, reason: EndReason) {
        self.streams.mux().abort(self.key, reason);
    }
}

impl<E: StreamEnd> Drop for StreamIo<E> {
    fn drop(&mut self) {
        self.streams.mux().release(self.key);
        self.streams.notify();
    }
}

impl<E: StreamEnd> AsyncRead for StreamIo<E> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut mux = self.streams.mux();
        let read = ready!(mux.poll_read(self.key, cx, steady::now(), out.initialize_unfilled()))?;
        let wake = mux.wants_fill();
        drop(mux);
        if wake {
            self.streams.notify();
        }
        out.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<E: StreamEnd> AsyncWrite for StreamIo<E> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = self
            .streams
            .mux()
            .poll_write(self.key, cx, steady::now(), bytes);
        self.streams.notify();
        wrote.map_err(Into::into)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[path = "circuit_io_tests.rs"]
mod tests;
