//! What can go wrong in a layer. Each of these ends the circuit.

use crate::ids::HopIndex;

/// The layer did not open, or was unusable already because it once had not.
///
/// There is one reason, on purpose: whoever sees a relay's answer must not
/// learn which check failed (S12). The circuit is to be destroyed, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an onion layer is broken")]
pub struct LayerBroken;

/// A circuit has [`crate::cell::MAX_HOPS`] hops already. The caller's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a circuit has no room for another hop")]
pub struct TooManyHops;

/// Why a client's cell was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The circuit has no such hop. The caller's mistake.
    #[error("the circuit has no {0}")]
    NoSuchHop(HopIndex),
    /// A layer of this circuit broke before; the circuit is to be destroyed.
    #[error("an onion layer of this circuit is broken")]
    Broken,
}

impl From<LayerBroken> for SealError {
    fn from(LayerBroken: LayerBroken) -> Self {
        Self::Broken
    }
}

/// Why a cell that came towards the client did not open. Never told to anybody
/// on the network; it says where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenFailed {
    /// The seal of `between.1` does not fit; that of the hop before it does.
    ///
    /// The cell was changed, lost, repeated or moved between the two hops
    /// (`None` stands for the client itself), by either of them or on the way.
    /// One case shows too near (docs/protocol.md, 4.17): a change, farther out,
    /// of header slots that fell off before they reached the client. It breaks
    /// the nearest seal that had covered them.
    #[error("a cell was changed between {} and {}", name(between.0), between.1)]
    Changed {
        /// The nearer end (`None`: the client) and the farther.
        between: (Option<HopIndex>, HopIndex),
    },
    /// Every seal fits, but no hop says that it spoke, or it says so wrongly.
    #[error("every layer of a cell opened, but no hop spoke it")]
    NoMarker,
    /// Every hop's seal fits, but not that of the far end of the splice.
    #[error("a cell's end-to-end seal does not fit")]
    FarEnd,
    /// A layer broke before, or there is none.
    #[error("the onion layers of this circuit are unusable")]
    Broken,
}

fn name(hop: Option<HopIndex>) -> String {
    hop.map_or_else(|| "the client".to_owned(), |hop| hop.to_string())
}
