//! Names of legs and of streams, for the end that holds them.

/// The name of a leg at the end that holds it. The same streams never use the name again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId(pub(super) u32);

impl LegId {
    /// The circuit that streams begin on.
    pub const FIRST: Self = Self(0);

    /// The leg that a LINK names.
    pub fn from_wire(number: u32) -> Self {
        Self(number)
    }

    /// The number that a LINK gives the leg.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// The name of a stream at the end that holds it. Unlike the stream's id on the wire, the name is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(pub(super) u64);

/// The name of an association at the end that holds it. The name is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssociationKey {
    pub(super) leg: LegId,
    pub(super) key: u64,
}

impl AssociationKey {
    /// The leg that the association belongs to.
    pub fn leg(self) -> LegId {
        self.leg
    }
}
