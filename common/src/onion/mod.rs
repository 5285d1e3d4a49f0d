//! Onion layers: a stack of standard AEADs under a header in the manner of Sphinx (docs/protocol.md, chapter 4).
//!
//! A relay's table of circuits calls [`RelayForward`] and [`RelayBackward`]; the circuits of a client call
//! [`ClientLayers`] and [`EndToEnd`]. Cells are changed in place: nothing in this room allocates or copies for a cell.
//! The room knows no messages and no circuit ids.
//!
//! A layer is neither `Clone` nor `Debug`. The layer's counter moves inside the call. After any failure the secrets are
//! erased and every further call fails.

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
