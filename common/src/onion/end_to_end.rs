//! The layer between the two clients of a splice (docs/protocol.md, 4.18 to 4.21).
//!
//! The circuits of both clients end at the rendezvous point, which can read neither. The tag of this layer stands where
//! the marker would be.

use super::cipher::{EndDirection, Slot};
use super::error::LayerBroken;
use super::header::is_zero;
use super::keys::EndKeys;
use super::suite::Suite;

/// Seals for the client at the far end of a splice, and opens what that client sealed.
pub struct EndToEnd {
    /// The direction that this end seals and the direction that it opens. `None` after any failure.
    state: Option<(EndDirection, EndDirection)>,
}

impl EndToEnd {
    /// A layer before its first cell. The far end has `says` and `hears` exchanged.
    pub fn new(suite: Suite, says: EndKeys, hears: EndKeys) -> Self {
        Self::starting_at(suite, says, hears, 0)
    }

    pub(crate) fn starting_at(suite: Suite, says: EndKeys, hears: EndKeys, counter: u64) -> Self {
        let both = EndDirection::starting_at(suite, says, counter)
            .and_then(|says| Ok((says, EndDirection::starting_at(suite, hears, counter)?)));
        Self { state: both.ok() }
    }

    /// Is the layer still usable?
    pub(crate) fn is_usable(&self) -> bool {
        self.state.is_some()
    }

    /// Seals a payload in place. The caller puts the tag where the marker would be.
    pub(crate) fn seal(&mut self, payload: &mut [u8]) -> Result<Slot, LayerBroken> {
        let (says, _) = self.state.as_mut().ok_or(LayerBroken)?;
        let tag = says.seal(payload).and_then(|tag| {
            // A tag is zero once in 2^128. The rendezvous point would then take the cell for its own (protocol.md
            // 4.19).
            if is_zero(&tag) {
                Err(LayerBroken)
            } else {
                Ok(tag)
            }
        });
        if tag.is_err() {
            self.state = None;
        }
        tag
    }

    /// Opens a payload in place.
    pub(crate) fn open(&mut self, tag: &Slot, payload: &mut [u8]) -> Result<(), LayerBroken> {
        let (_, hears) = self.state.as_mut().ok_or(LayerBroken)?;
        let opened = hears.open(tag, payload);
        if opened.is_err() {
            self.state = None;
        }
        opened
    }
}
