//! Onion layers: a stack of AEADs under a Sphinx-style header (docs/protocol.md, chapter 4).
//!
//! [`RelayForward`] opens and [`RelayBackward`] seals one layer at a relay;
//! [`ClientLayers`] is the client's side of all of them. [`EndToEnd`] is the
//! layer of two clients whose circuits are joined. A layer has one owner, who
//! passes cells through it in order; each call moves its counter by one cell,
//! and a layer that has once failed to open is unusable.

mod client_layers;
mod end_to_end;
mod keys;
mod layer;
mod relay_layer;
mod suite;

pub use client_layers::{ClientLayers, OpenFailed, TooManyHops};
pub use end_to_end::{EndToEnd, EndToEndKeys};
pub use keys::{DirectionKeys, HopKeys};
pub use layer::LayerBroken;
pub use relay_layer::{Opened, RelayBackward, RelayForward};
pub use suite::Suite;

#[cfg(test)]
mod tests;
