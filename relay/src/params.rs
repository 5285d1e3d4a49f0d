//! The network's parameters in force, and the bounds that follow from them.

use std::sync::Arc;

use cepa_common::dir::Params;
use cepa_common::handshake::{CIRCUIT_VERSION, RelayParams};

use crate::directory::DirectoryServer;

/// Reads the parameters in force: those of the newest consensus, or of the network's file while there is none.
#[derive(Clone)]
pub(crate) struct ParamsInForce(Arc<DirectoryServer>);

impl ParamsInForce {
    /// Follows the consensuses of `directory`.
    pub(crate) fn new(directory: Arc<DirectoryServer>) -> Self {
        Self(directory)
    }

    /// The parameters as they are now.
    pub(crate) fn get(&self) -> Params {
        self.0.params()
    }

    /// What this relay answers clients about pacing.
    pub(crate) fn for_clients(&self) -> RelayParams {
        let params = self.get();
        let narrow = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let window = narrow(params.circuit_window_cells);
        RelayParams {
            circuit_window_cells: window,
            mark_interval_cells: narrow(params.mark_interval_cells).min(window / 2),
            stream_window_bytes: params.stream_window_bytes,
            version: CIRCUIT_VERSION,
        }
    }

    /// Cells that one circuit may have waiting in one direction: its window, and what no window counts.
    pub(crate) fn queue_bound_cells(&self) -> usize {
        let params = self.get();
        params.circuit_window_cells as usize + params.circuit_queue_cells as usize
    }
}
