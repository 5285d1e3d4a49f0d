//! A relay's two layers of a circuit: it opens what goes away from the client and seals what goes towards the client
//! (docs/protocol.md, 4.6 to 4.9).
//!
//! The forward layer belongs to the task that reads the link on the client's side. The backward layer belongs to
//! whoever writes towards the client. The two layers share nothing.

use super::cipher::Direction;
use super::error::LayerBroken;
use super::header::{first_slot, is_zero, parts, shorten, xor};
use super::keys::DirectionKeys;
use super::suite::Suite;
use crate::cell::{Body, HEADER_LEN, SLOT_LEN};

/// Whom an opened cell is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Opened {
    /// The cell is for this hop: the payload behind the header is messages.
    Ours,
    /// The cell is for a later hop, or for the far end of a splice: the body is ready to be sent on.
    Onward,
}

/// Opens the cells of one circuit that go away from the client.
pub struct RelayForward {
    /// `None` after any failure: a layer that failed is not used again.
    state: Option<Direction>,
}

impl RelayForward {
    /// The forward layer of a circuit that was just made.
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
    /// [`LayerBroken`] if the cell is not, bit for bit, the next one that the client sealed. The layer is unusable from
    /// then on, and the caller destroys the circuit in both directions. The content of `body` is then undefined.
    pub fn open(&mut self, body: &mut Body) -> Result<Opened, LayerBroken> {
        let direction = self.state.as_mut().ok_or(LayerBroken)?;
        let opened = peel(direction, body);
        if opened.is_err() {
            self.state = None;
        }
        opened
    }
}

/// Opens as protocol.md 4.6 says.
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
    /// `None` after any failure: a layer that failed is not used again.
    state: Option<Direction>,
}

impl RelayBackward {
    /// The backward layer of a circuit that was just made.
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

    /// Seals a cell that this hop itself speaks. The caller has put the messages behind the header; the header is
    /// overwritten.
    ///
    /// # Errors
    /// [`LayerBroken`] if the layer is unusable.
    pub fn speak(&mut self, body: &mut Body) -> Result<(), LayerBroken> {
        // The marker is a zero slot, with zeros behind it (protocol.md 4.8).
        body[..HEADER_LEN].fill(0);
        self.seal(body)
    }

    /// Seals a cell that the next hop sent and that is passed towards the client.
    ///
    /// # Errors
    /// [`LayerBroken`] if the layer is unusable, or if the cell's first slot is zero. Only a hop's own marker may be
    /// zero: with a zero slot the next hop would speak in this hop's name (protocol.md 4.9). The caller then destroys
    /// the circuit.
    pub fn wrap(&mut self, body: &mut Body) -> Result<(), LayerBroken> {
        if is_zero(&body[..SLOT_LEN]) {
            self.state = None;
            return Err(LayerBroken);
        }
        self.seal(body)
    }

    /// Seals, at a rendezvous point, a cell that came out of [`RelayForward::open`] of the joined circuit as
    /// [`Opened::Onward`]. The first slot of such a cell is the far end's tag and stays where the marker would be. The
    /// slots behind it are replaced by zeros (protocol.md 4.20).
    ///
    /// # Errors
    /// [`LayerBroken`] if the layer is unusable, or if the cell's first slot is zero.
    pub fn speak_joined(&mut self, body: &mut Body) -> Result<(), LayerBroken> {
        body[SLOT_LEN..HEADER_LEN].fill(0);
        self.wrap(body)
    }

    /// Seals as protocol.md 4.7 says, where the header in `body` is X.
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
