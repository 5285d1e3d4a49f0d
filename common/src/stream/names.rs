//! Names of legs and of streams, for the end that holds them.

/// Names a leg to the end that holds it; never used again by the same streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId(pub(super) u32);

impl LegId {
    /// The circuit that streams begin on.
    pub const FIRST: Self = Self(0);

    /// The leg that a LINK names.
    pub fn from_wire(number: u32) -> Self {
        Self(number)
    }

    /// The number that a LINK gives it.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Names a stream to the end that holds it. Never reused, other than its id on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(pub(super) u64);
