//! How fast the two ends of a circuit may send (docs/protocol.md, chapter 5).
//!
//! [`window`] counts cells and proves receipt by MARK and ACK. A [`CongestionControl`] decides how large the window is.
//! Each stream's credit lives with the stream, in [`crate::stream`]. This room is pure: `now` is an argument.

pub mod vegas;
pub mod window;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_precision_loss)]
mod sim;

use core::time::Duration;
use std::time::Instant;

/// Decides how many cells may be on their way.
///
/// Circuits use [`vegas::Vegas`]. Tests that count cells use [`FixedWindow`].
pub trait CongestionControl: Send {
    /// Cells that may be sent and not yet acknowledged.
    fn window_cells(&self) -> u32;

    /// Tells the controller that more cells are acknowledged.
    fn on_ack(&mut self, ack: Ack);
}

/// What an acknowledgement tells a [`CongestionControl`].
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// The time at which the ACK arrived.
    pub now: Instant,
    /// The time between the sending of the MARK and the arrival of its ACK.
    pub rtt: Duration,
    /// Number of cells that the ACK acknowledges.
    pub cells: u32,
    /// Whether the window has held the sender back since the ACK before. Only then can the window be too small.
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
