//! One end of a circuit: what moves cells between the link that the circuit begins on and the circuit's streams.
//!
//! Client and relay drive their ends in the same way; what differs between them is how a cell becomes readable and how
//! it is hidden. Each has its own [`Layers`] for that, and an [`EndDriver`] does the rest.

use std::sync::Arc;

use rand_core::CryptoRng;

use super::buffers;
use super::circuit_io::Streams;
use super::inbox::Inbox;
use super::queue::{LinkQueue, PushError};
use crate::cell::codec::{self, Cell};
use crate::cell::{Body, CELL_LEN, Payload};
use crate::ids::CircId;
use crate::stream::{LegId, Mux, StreamEnd};
use crate::world::{random, steady};

/// The layers of encryption of one circuit, at the end that speaks and listens on it.
pub trait Layers {
    /// Why the circuit ends.
    type End: From<PushError>;

    /// Opens a body that has arrived, in place. `Ok` says that the circuit's far end has spoken it, and that its
    /// payload is for the streams.
    ///
    /// # Errors
    /// The circuit ends: the body was changed on its way, or somebody spoke who may not.
    fn open(&mut self, body: &mut Body) -> Result<(), Self::End>;

    /// Seals a body for the circuit's far end, in place. The payload is there already; the header is overwritten.
    ///
    /// # Errors
    /// The circuit ends: a layer can't be used any more.
    fn seal(&mut self, body: &mut Body, rng: &mut impl CryptoRng) -> Result<(), Self::End>;
}

/// What one end of a circuit owns, and how it receives and sends. The circuit's task holds it.
pub struct EndDriver<L, E: StreamEnd> {
    /// The queue of the link that the circuit begins on.
    pub link: Arc<LinkQueue>,
    /// The circuit's id on that link.
    pub circ: CircId,
    /// What the link has received for this end.
    pub inbox: Arc<Inbox>,
    /// The streams that the circuit carries.
    pub streams: Arc<Streams<E>>,
    /// Which leg of these streams the circuit is.
    pub leg: LegId,
    /// Opens and seals the circuit's cells.
    pub layers: L,
}

/// Cells that were opened and have not been read yet.
#[must_use]
pub struct OpenedCells<'a, E> {
    cells: &'a [Cell],
    /// Why the circuit ends with the cell behind these.
    end: Option<E>,
}

impl<E> OpenedCells<'_, E> {
    /// Have all opened cells been read?
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Ends the circuit if a cell did not open. The caller calls this when the cells before that one have been read.
    ///
    /// # Errors
    /// What the layers said of that cell.
    pub fn finish(self) -> Result<(), E> {
        self.end.map_or(Ok(()), Err)
    }
}

impl<L: Layers, E: StreamEnd> EndDriver<L, E> {
    /// Waits until something has arrived or a stream may have something to send.
    pub async fn wait(&self) {
        tokio::select! {
            () = self.inbox.wait() => {}
            () = self.streams.wait(self.leg) => {}
        }
    }

    /// Opens whole cells in place, in order, up to the first that ends the circuit. No lock is held meanwhile.
    pub fn open<'a>(&mut self, cells: &'a mut [u8]) -> OpenedCells<'a, L::End> {
        let cells = cells.as_chunks_mut::<CELL_LEN>().0;
        let (mut opened, mut end) = (0, None);
        for cell in cells.iter_mut() {
            match self.layers.open(codec::body_mut(cell)) {
                Ok(()) => opened += 1,
                Err(error) => {
                    end = Some(error);
                    break;
                }
            }
        }
        OpenedCells {
            cells: &cells[..opened],
            end,
        }
    }

    /// Gives opened payloads to `read` one after the other, under one hold of the streams' lock, until `read` gives
    /// something. The payloads behind that one stay in `opened`.
    ///
    /// # Errors
    /// Whatever `read` fails with.
    pub fn read<T, V>(
        &self,
        opened: &mut OpenedCells<'_, L::End>,
        mut read: impl FnMut(&mut Mux<E>, &Payload) -> Result<Option<T>, V>,
    ) -> Result<Option<T>, V> {
        let mut mux = self.streams.mux();
        while let Some((cell, rest)) = opened.cells.split_first() {
            opened.cells = rest;
            let found = read(&mut mux, codec::payload(codec::body(cell)))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Packs, seals and queues all that the streams have to say and their windows allow.
    ///
    /// # Errors
    /// The circuit ends: a layer failed, the link is gone, or more is queued than the circuit's window accounts for.
    pub fn send(&mut self) -> Result<(), L::End> {
        let mut rng = random::rng();
        let mut batch = buffers::take();
        loop {
            let streams = &self.streams;
            let more = streams.fill(self.leg, steady::now(), &mut rng, self.circ, &mut batch);
            if !batch.is_empty() {
                for cell in batch.as_chunks_mut::<CELL_LEN>().0 {
                    self.layers.seal(codec::body_mut(cell), &mut rng)?;
                }
                match self.link.push_all(self.circ, &mut batch) {
                    // The link's table has ended the circuit, and has told the inbox why.
                    Err(PushError::Ended) => return Ok(()),
                    pushed => pushed?,
                }
            }
            if !more {
                buffers::give_back(batch);
                return Ok(());
            }
            buffers::prepare(&mut batch);
        }
    }
}

#[cfg(test)]
#[path = "circuit_end_tests.rs"]
mod tests;
