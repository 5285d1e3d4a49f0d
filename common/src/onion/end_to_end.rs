//! The layer between the two clients of a splice (docs/protocol.md, 4.18 to 4.21).
//!
//! Both circuits end at the rendezvous point, which reads neither. The tag of
//! this layer stands where the marker would be.

use super::cipher::{EndDirection, Slot};
use super::error::LayerBroken;
use super::header::is_zero;
use super::keys::EndKeys;
use super::suite::Suite;

/// Seals for, and opens from, the client at the far end of a splice.
pub struct EndToEnd {
    /// What this end says, and what it hears. `None` once anything failed.
    state: Option<(EndDirection, EndDirection)>,
}

impl EndToEnd {
    /// A layer of which no cell has been seen. The far end has `says` and `hears` the other way round.
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

    /// Seals a payload in place; the tag goes in the marker's place.
    pub(crate) fn seal(&mut self, payload: &mut [u8]) -> Result<Slot, LayerBroken> {
        let (says, _) = self.state.as_mut().ok_or(LayerBroken)?;
        let tag = says.seal(payload).and_then(|tag| {
            // One in 2^128. The rendezvous point would take the cell for its own.
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
