//! How fast the two ends of a circuit may send (docs/protocol.md, chapter 5).
//!
//! [`window`] counts cells and proves receipt by MARK and ACK; how large the
//! window is, a [`CongestionControl`] decides. Credit for each stream lives
//! with its stream, in [`crate::stream`]. Pure: `now` is an argument.

pub mod window;

use core::time::Duration;
use std::time::Instant;

/// Decides how many cells may be on their way.
///
/// The first network uses [`FixedWindow`]; an algorithm that follows the
/// round-trip time takes the same calls.
pub trait CongestionControl: Send {
    /// Cells that may be sent and not yet acknowledged.
    fn window_cells(&self) -> u32;

    /// `acked_cells` more cells are acknowledged; their mark took `rtt`.
    fn on_ack(&mut self, now: Instant, rtt: Duration, acked_cells: u32);
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

    fn on_ack(&mut self, _now: Instant, _rtt: Duration, _acked_cells: u32) {}
}
