//! How fast the two ends of a circuit may send (docs/protocol.md, chapter 5).
//!
//! [`window`] counts cells and proves receipt by MARK and ACK; how large the
//! window is, a [`CongestionControl`] decides. Credit for each stream lives
//! with its stream, in [`crate::stream`]. Pure: `now` is an argument.

pub mod vegas;
pub mod window;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_precision_loss)]
mod sim;

use core::time::Duration;
use std::time::Instant;

/// Decides how many cells may be on their way.
///
/// Circuits use [`vegas::Vegas`]; [`FixedWindow`] is what tests count with.
pub trait CongestionControl: Send {
    /// Cells that may be sent and not yet acknowledged.
    fn window_cells(&self) -> u32;

    /// More cells are acknowledged.
    fn on_ack(&mut self, ack: Ack);
}

/// What an acknowledgement tells a [`CongestionControl`].
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// The time.
    pub now: Instant,
    /// From sending the mark to its ACK.
    pub rtt: Duration,
    /// Cells acknowledged by it.
    pub cells: u32,
    /// Whether the window held the sender back since the ACK before: only then is it too small.
    pub was_full: bool,
}

/// A window that never moves.
#[derive(Clone, Copy, Debug)]
pub struct FixedWindow(
    /// Cells that may be sent and not yet acknowledged.
    pub u32,
);

impl CongestionControl for FixedWindow {
    fn window_cells(&self) -> u32 {
        self.0
    }

    fn on_ack(&mut self, _ack: Ack) {}
}
