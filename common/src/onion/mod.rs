//! Onion layers: a stack of standard AEADs under a Sphinx-style header
//! (docs/protocol.md, chapter 4).
//!
//! Called by the switch of a relay ([`RelayForward`], [`RelayBackward`]) and by
//! the circuits of a client ([`ClientLayers`], [`EndToEnd`]). Cells are worked
//! on where they are: nothing here allocates or copies for a cell. No messages
//! are known here and no circuit ids.
//!
//! A layer is neither `Clone` nor `Debug`. The counter moves inside the call;
//! after anything failed, the secrets are gone and every further call fails.

mod cipher;
mod client;
mod end_to_end;
mod error;
mod header;
mod keys;
mod relay;
mod suite;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

pub use client::{ClientLayers, Speaker};
pub use end_to_end::EndToEnd;
pub use error::{LayerBroken, OpenFailed, SealError, TooManyHops};
pub use keys::{DirectionKeys, EndKeys, HopKeys};
pub use relay::{Opened, RelayBackward, RelayForward};
pub use suite::Suite;
