//! The secrets that a handshake yields for a hop (docs/protocol.md, 3.9).
//!
//! Each direction has three independent secrets, so that no key is ever used by two algorithms. None of these types can
//! be shown, cloned or compared (S36).

use crate::secret::Secret;

/// The secrets of one direction at one hop.
pub struct DirectionKeys {
    /// Key of the suite's AEAD.
    pub aead: Secret<32>,
    /// Key of the suite's header stream.
    pub header: Secret<32>,
    /// Secret from which the ratchet derives the next three secrets.
    pub chain: Secret<32>,
}

/// The secrets of one hop.
pub struct HopKeys {
    /// Secrets for cells that go away from the client.
    pub forward: DirectionKeys,
    /// Secrets for cells that come towards the client.
    pub backward: DirectionKeys,
}

/// The secrets of one direction between the two ends of a splice, which has no header stream.
pub struct EndKeys {
    /// Key of the suite's AEAD.
    pub aead: Secret<32>,
    /// Secret from which the ratchet derives the next two secrets.
    pub chain: Secret<32>,
}
