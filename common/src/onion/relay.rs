//! A relay's two layers of a circuit: it opens what goes away from the client
//! and seals what goes towards it (docs/protocol.md, 4.6 to 4.9).
//!
//! The forward layer belongs to the task that reads the link the client is
//! behind; the backward layer to whoever writes towards the client. Nothing is
//! shared between them.

use super::cipher::Direction;
use super::error::LayerBroken;
use super::header::{first_slot, is_zero, parts, shorten, xor};
use super::keys::DirectionKeys;
use super::suite::Suite;
use crate::cell::{Body, HEADER_LEN, SLOT_LEN};

/// Whose an opened cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Opened {
    /// This hop's: the payload, behind the header, is messages.
    Ours,
    /// A later hop's, or the far end's of a splice: the body is ready to be sent on.
    Onward,
}

/// Opens the cells of one circuit that go away from the client.
pub struct RelayForward {
    /// `None` once anything failed: a layer is not used after that.
    state: Option<Direction>,
}

impl RelayForward {
    /// The layer of a circuit just made.
    pub fn new(suite: Suite, keys: DirectionKeys) -> Self {
        Self {
            state: Direction::new(suite, keys).ok(),
        }
    }

    #[cfg(test)]
    pub(crate) fn starting_at(suite: Suite, keys: DirectionKeys, counter: u64) -> Self {
        Self {
            state: Direction::starting_at(suite, keys, counter).ok(),
        }
    }

    /// Takes this hop's layer off `body`, in place.
    ///
    /// # Errors
    /// [`LayerBroken`] if the cell is not the next one that the client sealed,
    /// bit for bit; the layer is unusable from then on, and the circuit is to be
    /// destroyed both ways. `body` then holds anything.
    pub fn open(&mut self, body: &mut Body) -> Result<Opened, LayerBroken> {
        let direction = self.state.as_mut().ok_or(LayerBroken)?;
        let opened = peel(direction, body);
        if opened.is_err() {
            self.state = None;
        }
        opened
    }
}

/// protocol.md 4.6.
fn peel(direction: &mut Direction, body: &mut Body) -> Result<Opened, LayerBroken> {
    let (tag, rest, payload) = parts(body);
    direction.open(&first_slot(tag), rest, payload)?;
    let z = direction.stream();
    direction.advance()?;
    body.copy_within(SLOT_LEN..HEADER_LEN, 0);
    body[HEADER_LEN - SLOT_LEN..HEADER_LEN].fill(0);
    xor(&mut body[..HEADER_LEN], &z);
    Ok(if is_zero(&body[..SLOT_LEN]) {
        Opened::Ours
    } else {
        Opened::Onward
    })
}

/// Seals the cells of one circuit that go towards the client.
pub struct RelayBackward {
    /// `None` once anything failed: a layer is not used after that.
    state: Option<Direction>,
}

impl RelayBackward {
    /// The layer of a circuit just made.
    pub fn new(suite: Suite, keys: DirectionKeys) -> Self {
        Self {
            state: Direction::new(suite, keys).ok(),
        }
    }

    #[cfg(test)]
    pub(crate) fn starting_at(suite: Suite, keys: DirectionKeys, counter: u64) -> Self {
        Self {
            state: Direction::starting_at(suite, keys, counter).ok(),
        }
    }

    /// Seals a cell that this hop itself says. The caller has put the messages
    /// behind the header; the header is overwritten.
    ///
    /// # Errors
    /// [`LayerBroken`] if the layer is unusable.
    pub fn speak(&mut self, body: &mut Body) -> Result<(), LayerBroken> {
        // protocol.md 4.8: the marker is a zero slot, and zeros behind it.
        body[..HEADER_LEN].fill(0);
        self.seal(body)
    }

    /// Seals a cell that the next hop sent, to be passed towards the client.
    ///
    /// # Errors
    /// [`LayerBroken`] if the layer is unusable, or if the cell's first slot is
    /// zero: only a hop's own marker is, and with it the next hop would speak in
    /// this hop's name (protocol.md 4.9). The circuit is to be destroyed.
    pub fn wrap(&mut self, body: &mut Body) -> Result<(), LayerBroken> {
        if is_zero(&body[..SLOT_LEN]) {
            self.state = None;
            return Err(LayerBroken);
        }
        self.seal(body)
    }

    /// Seals, at a rendezvous point, a cell that came out of the joined
    /// circuit's [`RelayForward::open`] as [`Opened::Onward`]: its first slot is
    /// the far end's tag and stays where the marker would be; the slots behind
    /// it are replaced by zeros (protocol.md 4.20).
    ///
    /// # Errors
    /// As [`RelayBackward::wrap`].
    pub fn speak_joined(&mut self, body: &mut Body) -> Result<(), LayerBroken> {
        body[SLOT_LEN..HEADER_LEN].fill(0);
        self.wrap(body)
    }

    /// protocol.md 4.7, where the header in `body` is X.
    fn seal(&mut self, body: &mut Body) -> Result<(), LayerBroken> {
        let direction = self.state.as_mut().ok_or(LayerBroken)?;
        let sealed = cover(direction, body);
        if sealed.is_err() {
            self.state = None;
        }
        sealed
    }
}

fn cover(direction: &mut Direction, body: &mut Body) -> Result<(), LayerBroken> {
    let shortened = shorten(&body[..HEADER_LEN], &direction.stream());
    let (tag, rest, payload) = parts(body);
    rest.copy_from_slice(&shortened);
    tag.copy_from_slice(&direction.seal(rest, payload)?);
    direction.advance()
}
