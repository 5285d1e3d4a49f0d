//! What can go wrong in a layer. Each of these errors but those of a caller ends the circuit.

use crate::ids::HopIndex;

/// The layer did not open, or was unusable because it had failed before.
///
/// There is one reason on purpose: whoever sees a relay's answer must not learn which check failed (S12). The circuit
/// is to be destroyed in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an onion layer is broken")]
pub struct LayerBroken;

/// A circuit has [`crate::cell::MAX_HOPS`] hops already. This is the caller's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a circuit has no room for another hop")]
pub struct TooManyHops;

/// Why a client's cell was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The circuit has no such hop. This is the caller's mistake.
    #[error("the circuit has no {0}")]
    NoSuchHop(HopIndex),
    /// A layer of this circuit broke before. The circuit is to be destroyed.
    #[error("an onion layer of this circuit is broken")]
    Broken,
}

impl From<LayerBroken> for SealError {
    fn from(LayerBroken: LayerBroken) -> Self {
        Self::Broken
    }
}

/// Why a cell that came towards the client did not open. The client tells this to nobody on the network; it says where
/// to look for the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenFailed {
    /// The seal of hop `far` does not fit, and that of the hop before it does.
    ///
    /// The cell was changed, lost, repeated or moved between the two, by either of them or on the way. In one case the
    /// change was made farther out than the error says (docs/protocol.md, 4.17): when somebody changed header slots
    /// that fell off before they reached the client. Such a change breaks the nearest seal that covered the slots.
    #[error("a cell was changed between {} and {}", name(*near), far)]
    Changed {
        /// The nearer hop; `None` stands for the client itself.
        near: Option<HopIndex>,
        /// The farther hop.
        far: HopIndex,
    },
    /// Every seal fits, but no hop says that it spoke, or a hop says so wrongly.
    #[error("every layer of a cell opened, but no hop spoke it")]
    NoMarker,
    /// Every hop's seal fits, but the seal of the far end of the splice does not.
    #[error("a cell's end-to-end seal does not fit")]
    FarEnd,
    /// A layer broke before, or the circuit has no layer.
    #[error("the onion layers of this circuit are unusable")]
    Broken,
}

fn name(hop: Option<HopIndex>) -> String {
    hop.map_or_else(|| "the client".to_owned(), |hop| hop.to_string())
}
