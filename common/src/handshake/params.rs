//! The parameters that each side seals in the handshake (docs/protocol.md, 3.11 and 3.12).

use core::ops::RangeInclusive;

use super::PARAMS_LEN;
use super::error::ParamsError;

/// The only version of circuits so far.
pub const CIRCUIT_VERSION: u16 = 1;

const CIRCUIT_WINDOW_CELLS: RangeInclusive<u16> = 64..=16_384;
const MARK_INTERVAL_MIN_CELLS: u16 = 8;
const STREAM_WINDOW_BYTES: RangeInclusive<u32> = 16 * 1024..=16 * 1024 * 1024;

/// The client's parameters. The parameters hold only what every client of a version says alike (protocol.md 3.15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientParams {
    /// Lowest version of circuits that the client speaks.
    pub lowest: u16,
    /// Highest version of circuits that the client speaks.
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
    /// Does the client speak this version?
    pub fn speaks(&self, version: u16) -> bool {
        (self.lowest..=self.highest).contains(&version)
    }

    /// Writes the 16 bytes that are sealed; unused bytes are zero (protocol.md 3.11).
    pub fn encode(&self) -> [u8; PARAMS_LEN] {
        let mut bytes = [0; PARAMS_LEN];
        bytes[0..2].copy_from_slice(&self.lowest.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.highest.to_be_bytes());
        bytes
    }

    /// Reads the client's 16 bytes (protocol.md 3.11).
    ///
    /// # Errors
    /// [`ParamsError`] when a value is out of bounds or an unused byte is not zero.
    pub fn decode(bytes: &[u8; PARAMS_LEN]) -> Result<Self, ParamsError> {
        let [l0, l1, h0, h1, reserved @ ..] = *bytes;
        let params = Self {
            lowest: u16::from_be_bytes([l0, l1]),
            highest: u16::from_be_bytes([h0, h1]),
        };
        if reserved != [0; 12] {
            return Err(ParamsError::Reserved);
        }
        params.check()?;
        Ok(params)
    }

    pub(super) fn check(&self) -> Result<(), ParamsError> {
        if self.lowest == 0 || self.lowest > self.highest {
            return Err(ParamsError::Versions);
        }
        Ok(())
    }
}

/// The relay's parameters: the version that it chose and the bounds of the circuit's flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayParams {
    /// Version of circuits that both sides use from here on.
    pub version: u16,
    /// The most cells that may be unacknowledged in one direction: 64 to 16,384.
    pub circuit_window_cells: u16,
    /// Number of counted cells of which one carries a MARK: 8 to half of the window.
    pub mark_interval_cells: u16,
    /// Credit that a new stream starts with, in bytes: 16 KiB to 16 MiB.
    pub stream_window_bytes: u32,
}

impl RelayParams {
    /// Checks that the values are within the bounds of protocol.md 3.12.
    ///
    /// # Errors
    /// [`ParamsError`] names the first value that is not.
    pub fn check(&self) -> Result<(), ParamsError> {
        if self.version == 0 {
            return Err(ParamsError::Versions);
        }
        if !CIRCUIT_WINDOW_CELLS.contains(&self.circuit_window_cells) {
            return Err(ParamsError::CircuitWindow(self.circuit_window_cells));
        }
        let intervals = MARK_INTERVAL_MIN_CELLS..=self.circuit_window_cells / 2;
        if !intervals.contains(&self.mark_interval_cells) {
            return Err(ParamsError::MarkInterval(self.mark_interval_cells));
        }
        if !STREAM_WINDOW_BYTES.contains(&self.stream_window_bytes) {
            return Err(ParamsError::StreamWindow(self.stream_window_bytes));
        }
        Ok(())
    }

    /// Writes the 16 bytes that are sealed; unused bytes are zero (protocol.md 3.12).
    pub fn encode(&self) -> [u8; PARAMS_LEN] {
        let mut bytes = [0; PARAMS_LEN];
        bytes[0..2].copy_from_slice(&self.version.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.circuit_window_cells.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.mark_interval_cells.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.stream_window_bytes.to_be_bytes());
        bytes
    }

    /// Reads the relay's 16 bytes (protocol.md 3.12).
    ///
    /// # Errors
    /// [`ParamsError`] when a value is out of bounds or an unused byte is not zero.
    pub fn decode(bytes: &[u8; PARAMS_LEN]) -> Result<Self, ParamsError> {
        let [v0, v1, c0, c1, m0, m1, s0, s1, s2, s3, reserved @ ..] = *bytes;
        let params = Self {
            version: u16::from_be_bytes([v0, v1]),
            circuit_window_cells: u16::from_be_bytes([c0, c1]),
            mark_interval_cells: u16::from_be_bytes([m0, m1]),
            stream_window_bytes: u32::from_be_bytes([s0, s1, s2, s3]),
        };
        if reserved != [0; 6] {
            return Err(ParamsError::Reserved);
        }
        params.check()?;
        Ok(params)
    }
}
