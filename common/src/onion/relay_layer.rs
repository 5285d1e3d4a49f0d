//! A relay's side of a layer (protocol.md 4.5 and 4.7).

use super::keys::DirectionKeys;
use super::layer::{Layer, LayerBroken, REST_LEN, xor};
use super::suite::Suite;
use crate::cell::{Body, HEADER_LEN, SLOT_LEN};

/// What a relay finds when a cell has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The cell is for this hop: its payload is a run of messages.
    Ours,
    /// The cell is for a later hop; the body is ready to be sent on.
    Onward,
}

/// Splits a body into first slot, rest and payload.
fn split(body: &mut Body) -> (&mut [u8; SLOT_LEN], &mut [u8; REST_LEN], &mut [u8]) {
    let Some((tag, rest)) = body.split_first_chunk_mut() else {
        unreachable!("a body begins with a slot")
    };
    let Some((rest, payload)) = rest.split_first_chunk_mut() else {
        unreachable!("a body begins with a header")
    };
    (tag, rest, payload)
}

/// Opens what comes from the client's side.
///
/// The layer is dropped when a cell does not open, so that nothing can be
/// opened with it afterwards.
pub struct RelayForward(Option<Layer>);

impl RelayForward {
    /// The layer under fresh keys.
    pub fn new(suite: Suite, keys: DirectionKeys) -> Self {
        Self(Some(Layer::new(suite, keys)))
    }

    /// Opens one cell's body in place. No counter moves unless it opens (S3).
    pub fn open(&mut self, body: &mut Body) -> Result<Opened, LayerBroken> {
        let layer = self.0.as_mut().ok_or(LayerBroken)?;
        let (tag, rest, payload) = split(body);
        if let Err(broken) = layer.open(tag, rest, payload) {
            self.0 = None;
            return Err(broken);
        }
        let mut header = layer.header_stream();
        layer.advance();
        xor(&mut header[..REST_LEN], rest);
        let ours = header[..SLOT_LEN] == [0; SLOT_LEN];
        body[..HEADER_LEN].copy_from_slice(&header);
        Ok(if ours { Opened::Ours } else { Opened::Onward })
    }
}

/// Seals what goes to the client's side.
pub struct RelayBackward(Layer);

impl RelayBackward {
    /// The layer under fresh keys.
    pub fn new(suite: Suite, keys: DirectionKeys) -> Self {
        Self(Layer::new(suite, keys))
    }

    /// Seals a payload of this hop's own; the header is written.
    ///
    /// It can't fail; the result has the shape of its siblings'.
    pub fn speak(&mut self, body: &mut Body) -> Result<(), LayerBroken> {
        body[..HEADER_LEN].fill(0);
        self.wrap(body)
    }

    /// Seals a cell that came from the next hop.
    ///
    /// It can't fail; the result has the shape of its siblings'.
    pub fn wrap(&mut self, body: &mut Body) -> Result<(), LayerBroken> {
        let mut header = self.0.header_stream();
        xor(&mut header, &body[..HEADER_LEN]);
        let (tag, rest, payload) = split(body);
        rest.copy_from_slice(&header[..REST_LEN]);
        *tag = self.0.seal(rest, payload);
        self.0.advance();
        Ok(())
    }

    /// Speaks, on the circuit joined to it, a cell that a rendezvous point has
    /// opened and whose first slot, an end-to-end tag, is not zero (protocol.md 4.9).
    pub fn speak_joined(&mut self, body: &mut Body) -> Result<(), LayerBroken> {
        body[SLOT_LEN..HEADER_LEN].fill(0);
        self.wrap(body)
    }
}
