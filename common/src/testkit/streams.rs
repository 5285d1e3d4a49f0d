//! The streams of a circuit.

use std::sync::Arc;

use crate::budget::Budget;
use crate::flow::FixedWindow;
use crate::stream::{Mux, MuxConfig, StreamEnd};

/// One end of a circuit: 64 cells may be on their way, every eighth is marked, and a stream has a first credit of 64
/// KiB. What the streams hold is charged to `budget`.
pub fn mux<E: StreamEnd>(budget: &Arc<Budget>) -> Mux<E> {
    Mux::new(MuxConfig {
        control: Box::new(FixedWindow(64)),
        mark_interval_cells: 8,
        stream_window_bytes: 1 << 16,
        budget: budget.clone(),
    })
}
