//! The layer between two clients whose circuits are joined at a rendezvous point (protocol.md 4.9).

use super::keys::{DirectionKeys, expand};
use super::layer::{Layer, LayerBroken};
use super::suite::Suite;
use crate::cell::{Body, HEADER_LEN, SLOT_LEN};
use crate::secret::Secret;

/// An AEAD key and a chain for one direction; there is no header stream.
pub struct EndToEndKeys {
    /// Key of the AEAD.
    pub aead: Secret<32>,
    /// What the next two are derived from.
    pub chain: Secret<32>,
}

/// One direction of the layer between the two ends.
///
/// Its tag takes the marker's place in the header, so that the rendezvous
/// point sees a first slot that is not zero. The ratchet is the hops' own,
/// whose header key is not used here.
pub struct EndToEnd(Option<Layer>);

impl EndToEnd {
    /// The layer under fresh keys, in the mandatory suite.
    pub fn new(suite: Suite, keys: EndToEndKeys) -> Self {
        let header = expand(&keys.chain, b"cepa end-to-end header, not used");
        let keys = DirectionKeys {
            aead: keys.aead,
            header,
            chain: keys.chain,
        };
        Self(Some(Layer::new(suite, keys)))
    }

    /// Seals the payload in `body`; returns the tag for the first slot.
    pub fn seal(&mut self, body: &mut Body) -> Result<[u8; SLOT_LEN], LayerBroken> {
        let layer = self.0.as_mut().ok_or(LayerBroken)?;
        let tag = layer.seal(&[], &mut body[HEADER_LEN..]);
        layer.advance();
        Ok(tag)
    }

    /// Opens the payload in `body` with the tag that stood in the first slot.
    pub fn open(&mut self, tag: &[u8; SLOT_LEN], body: &mut Body) -> Result<(), LayerBroken> {
        let layer = self.0.as_mut().ok_or(LayerBroken)?;
        if let Err(broken) = layer.open(tag, &[], &mut body[HEADER_LEN..]) {
            self.0 = None;
            return Err(broken);
        }
        layer.advance();
        Ok(())
    }
}
