//! Secrets of a layer.

use hkdf::Hkdf;
use sha2::Sha256;

use crate::secret::Secret;

/// The three independent secrets of one direction at one hop (protocol.md 4.1).
pub struct DirectionKeys {
    /// Key of the AEAD.
    pub aead: Secret<32>,
    /// Key of the header stream.
    pub header: Secret<32>,
    /// What the next three are derived from.
    pub chain: Secret<32>,
}

impl DirectionKeys {
    /// Splits `aead || header || chain`, 96 bytes of key material.
    pub fn split(material: &Secret<96>) -> Self {
        let mut keys = Self {
            aead: Secret::zeroed(),
            header: Secret::zeroed(),
            chain: Secret::zeroed(),
        };
        let (aead, rest) = material.expose().split_at(32);
        let (header, chain) = rest.split_at(32);
        keys.aead.expose_mut().copy_from_slice(aead);
        keys.header.expose_mut().copy_from_slice(header);
        keys.chain.expose_mut().copy_from_slice(chain);
        keys
    }

    /// The secrets of the next 2^16 cells (protocol.md 4.4).
    pub(super) fn ratchet(chain: &Secret<32>) -> Self {
        Self::split(&expand(chain, b"cepa ratchet"))
    }
}

/// `HKDF-Expand(key, label, N)` with SHA-256.
pub(super) fn expand<const N: usize>(key: &Secret<32>, label: &[u8]) -> Secret<N> {
    let mut out = Secret::zeroed();
    let expanded = Hkdf::<Sha256>::from_prk(key.expose())
        .map(|hkdf| hkdf.expand(label, out.expose_mut()).is_ok());
    // A key of 32 bytes and an output of at most 255 of them are what HKDF asks for.
    assert!(matches!(expanded, Ok(true)), "HKDF-Expand of {N} bytes");
    out
}

/// Both directions at one hop, as a handshake yields them.
pub struct HopKeys {
    /// Away from the client.
    pub forward: DirectionKeys,
    /// Towards the client.
    pub backward: DirectionKeys,
}
