//! The sealed parameters of a handshake: 16 bytes each way, always (protocol.md 3.6).

use crate::cell::wire::{Reader, UnexpectedEnd, all_zero};
use crate::flow::window::MIN_MARK_INTERVAL;

/// Length of the parameters before they are sealed.
pub(super) const PARAMS_LEN: usize = 16;
/// The one version of the circuit protocol.
pub(super) const CIRCUIT_VERSION: u16 = 1;

/// Parameters out of their bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// Bytes that should be zero are not, or the bytes are too few.
    #[error("malformed handshake parameters")]
    Malformed,
    /// No version in common.
    #[error("no common version of the circuit protocol")]
    Version,
    /// The window is not in 64..=16384 cells.
    #[error("circuit window of {0} cells is out of bounds")]
    CircuitWindow(u16),
    /// The interval of marks is not in 8..=half the window.
    #[error("mark interval of {0} cells is out of bounds")]
    MarkInterval(u16),
    /// The window is not in 16 KiB..=16 MiB.
    #[error("stream window of {0} bytes is out of bounds")]
    StreamWindow(u32),
}

impl From<UnexpectedEnd> for ParamsError {
    fn from(_: UnexpectedEnd) -> Self {
        Self::Malformed
    }
}

/// What a client says: only what every client of its version says alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientParams {
    /// Lowest version of the circuit protocol that it speaks.
    pub lowest: u16,
    /// Highest version of the circuit protocol that it speaks.
    pub highest: u16,
}

impl Default for ClientParams {
    fn default() -> Self {
        Self {
            lowest: CIRCUIT_VERSION,
            highest: CIRCUIT_VERSION,
        }
    }
}

impl ClientParams {
    /// Writes the 16 bytes.
    pub fn encode(&self) -> [u8; PARAMS_LEN] {
        let mut bytes = [0; PARAMS_LEN];
        bytes[..2].copy_from_slice(&self.lowest.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.highest.to_be_bytes());
        bytes
    }

    /// Reads the 16 bytes and picks the version.
    pub fn decode(bytes: &[u8; PARAMS_LEN]) -> Result<Self, ParamsError> {
        let mut reader = Reader::new(bytes);
        let params = Self {
            lowest: reader.u16()?,
            highest: reader.u16()?,
        };
        if !all_zero(reader.rest()) {
            return Err(ParamsError::Malformed);
        }
        if (params.lowest..=params.highest).contains(&CIRCUIT_VERSION) {
            Ok(params)
        } else {
            Err(ParamsError::Version)
        }
    }
}

/// What a relay says: how the two ends will pace each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayParams {
    /// Version of the circuit protocol that both will speak.
    pub version: u16,
    /// Cells that either end may have sent and not acknowledged, to begin with.
    pub circuit_window_cells: u16,
    /// Every so many counted cells carry a MARK.
    pub mark_interval_cells: u16,
    /// Credit of a stream in each direction when it opens.
    pub stream_window_bytes: u32,
}

impl Default for RelayParams {
    fn default() -> Self {
        Self {
            version: CIRCUIT_VERSION,
            circuit_window_cells: 512,
            mark_interval_cells: 32,
            stream_window_bytes: 1 << 20,
        }
    }
}

impl RelayParams {
    /// Writes the 16 bytes.
    pub fn encode(&self) -> [u8; PARAMS_LEN] {
        let mut bytes = [0; PARAMS_LEN];
        bytes[..2].copy_from_slice(&self.version.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.circuit_window_cells.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.mark_interval_cells.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.stream_window_bytes.to_be_bytes());
        bytes
    }

    /// Reads the 16 bytes and checks every bound.
    pub fn decode(bytes: &[u8; PARAMS_LEN]) -> Result<Self, ParamsError> {
        let mut reader = Reader::new(bytes);
        let params = Self {
            version: reader.u16()?,
            circuit_window_cells: reader.u16()?,
            mark_interval_cells: reader.u16()?,
            stream_window_bytes: reader.u32()?,
        };
        if !all_zero(reader.rest()) {
            return Err(ParamsError::Malformed);
        }
        params.check()?;
        Ok(params)
    }

    /// Checks every bound.
    pub fn check(&self) -> Result<(), ParamsError> {
        let window = self.circuit_window_cells;
        if self.version != CIRCUIT_VERSION {
            return Err(ParamsError::Version);
        }
        if !(64..=16_384).contains(&window) {
            return Err(ParamsError::CircuitWindow(window));
        }
        let interval = u32::from(self.mark_interval_cells);
        if !(MIN_MARK_INTERVAL..=u32::from(window) / 2).contains(&interval) {
            return Err(ParamsError::MarkInterval(self.mark_interval_cells));
        }
        if !(16 << 10..=16 << 20).contains(&self.stream_window_bytes) {
            return Err(ParamsError::StreamWindow(self.stream_window_bytes));
        }
        Ok(())
    }
}
