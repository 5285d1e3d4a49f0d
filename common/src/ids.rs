//! Identifiers. Each is a type of its own with a fixed size, so that none can be taken for another and no comparison
//! can use the wrong length.

use core::fmt;
use core::num::{NonZeroU16, NonZeroU32};

use serde::{Deserialize, Serialize};

/// Number of a circuit on one link. The number zero belongs to the link itself.
///
/// The top bit says which side chose the number: the side that opened the TLS connection sets the bit
/// (docs/protocol.md, 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CircId(NonZeroU32);

impl CircId {
    /// The bit that the dialling side sets in the ids that it chooses.
    pub const DIALLER_BIT: u32 = 1 << 31;

    /// The id with the number `raw` on the wire; `None` for zero, which belongs to the link itself.
    pub fn new(raw: u32) -> Option<Self> {
        NonZeroU32::new(raw).map(Self)
    }

    /// The id's number on the wire.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// Was this id chosen by the side that opened the TLS connection?
    pub fn is_from_dialler(self) -> bool {
        self.get() & Self::DIALLER_BIT != 0
    }
}

/// Number of a stream on one circuit. The number zero belongs to the circuit itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(NonZeroU16);

impl StreamId {
    /// The id with the number `raw` on the wire; `None` for zero, which belongs to the circuit itself.
    pub fn new(raw: u16) -> Option<Self> {
        NonZeroU16::new(raw).map(Self)
    }

    /// The id's number on the wire.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// Number of an association for datagrams on one circuit. It is no stream's id: one of each may be alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssociationId(NonZeroU16);

impl AssociationId {
    /// The association with the number `raw` on the wire; `None` for zero, which belongs to the circuit itself.
    pub fn new(raw: u16) -> Option<Self> {
        NonZeroU16::new(raw).map(Self)
    }

    /// The association's number on the wire.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl From<StreamId> for AssociationId {
    /// The association whose number stands in a message's stream field.
    fn from(id: StreamId) -> Self {
        Self(id.0)
    }
}

impl From<AssociationId> for StreamId {
    /// What stands in the stream field of the association's messages.
    fn from(id: AssociationId) -> Self {
        Self(id.0)
    }
}

/// Position of a hop on a client's circuit, counted from 0 at the first relay.
///
/// Only the client knows the positions: no relay ever learns its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HopIndex(pub u8);

impl fmt::Display for HopIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hop {}", u16::from(self.0) + 1)
    }
}

/// A peer's identity: its Ed25519 public key (32 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelayId(pub [u8; 32]);

impl RelayId {
    /// Parses the 64 hexadecimal digits that [`fmt::Display`] writes.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayId({}…)", hex::encode(&self.0[..4]))
    }
}

/// Identifier of a network: SHA-256 of the signed part of the founding `network.toml` (32 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetworkId(pub [u8; 32]);

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkId({}…)", hex::encode(&self.0[..4]))
    }
}
