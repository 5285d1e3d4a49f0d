//! What kind a document is, and the digest that names it (docs/protocol.md, 6.1 and 6.2).

use core::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::NetworkId;

/// The version of `network.toml`, of its signed part and of its network id.
pub(in crate::dir) const NETWORK_VERSION: u8 = 1;

/// The kind of a document, or of a signature inside a document. The kind is the document's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The signed part of `network.toml`.
    Network = 1,
    /// A relay's description of itself.
    Descriptor = 2,
    /// An authority's vote.
    Vote = 3,
    /// What the authorities agreed on.
    Consensus = 4,
    /// One authority's signature of a consensus, on its own.
    ConsensusSignature = 5,
    /// A relay identity's certificate of its link key.
    KeyCert = 6,
    /// A family key's signature that a relay belongs to the family.
    Family = 7,
    /// Authorities' signatures that they hold a vote.
    Endorsement = 8,
    /// What makes a newer consensus of an older one.
    Difference = 9,
    /// An authority's certificate of a key that signs for it.
    AuthorityKeyCert = 10,
    /// An authority's word that it measures a relay.
    Permit = 11,
}

impl Kind {
    /// The version of this kind's body, which the envelope names and the signature covers (6.1.1).
    pub const fn version(self) -> u8 {
        match self {
            Self::Descriptor | Self::Vote | Self::Consensus | Self::Difference => 2,
            Self::Network => NETWORK_VERSION,
            Self::ConsensusSignature
            | Self::KeyCert
            | Self::Family
            | Self::Endorsement
            | Self::AuthorityKeyCert
            | Self::Permit => 1,
        }
    }
}

/// SHA-256 of what is signed: prefix, kind, version, network id and body (32 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Parses the 64 hexadecimal digits that [`fmt::Display`] writes.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({}…)", hex::encode(&self.0[..4]))
    }
}

/// What a signature covers and a digest hashes (6.2): 5 + 1 + 1 + 32 bytes before the body.
pub(super) fn signed_bytes(kind: Kind, network: &NetworkId, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(39 + body.len());
    bytes.extend_from_slice(b"cepa ");
    bytes.push(kind as u8);
    bytes.push(kind.version());
    bytes.extend_from_slice(&network.0);
    bytes.extend_from_slice(body);
    bytes
}

/// The digest of a document of `kind` with this body (6.2). The digest does not cover the signatures.
pub(in crate::dir) fn digest(kind: Kind, network: &NetworkId, body: &[u8]) -> Digest {
    Digest(Sha256::digest(signed_bytes(kind, network, body)).into())
}
