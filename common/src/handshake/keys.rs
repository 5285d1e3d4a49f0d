//! Onion keys. A relay publishes them together with the suite of its layers, and clients make handshakes to them.

use core::fmt;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use super::error::HandshakeError;
use super::x25519::SecretKey;
use crate::onion::Suite;
use crate::secret::Secret;

/// A relay's onion key as its descriptor names it. The suite changes only with the key (protocol.md 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OnionPublicKey {
    /// Suite of the layers whose keys come from handshakes to this key.
    pub suite: Suite,
    /// The X25519 public key (B in docs/protocol.md), which is its own id.
    pub key: [u8; 32],
}

impl fmt::Debug for OnionPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "OnionPublicKey({}, {}…)",
            self.suite.name(),
            hex::encode(&self.key[..4])
        )
    }
}

/// A relay's onion key with its secret. The type is neither `Clone` nor `Debug`, and the secret is erased on drop.
pub struct OnionKeypair {
    public: OnionPublicKey,
    secret: SecretKey,
}

impl OnionKeypair {
    /// Makes a fresh key.
    ///
    /// # Errors
    /// [`HandshakeError::Library`] if the cryptographic library fails.
    pub fn generate(suite: Suite, rng: &mut impl CryptoRng) -> Result<Self, HandshakeError> {
        Ok(Self::new(suite, SecretKey::draw(rng)?))
    }

    /// The key of a secret that its owner keeps on disk. Any 32 bytes are one.
    ///
    /// # Errors
    /// [`HandshakeError::Library`] if the cryptographic library fails.
    pub fn from_bytes(suite: Suite, secret: &Secret<32>) -> Result<Self, HandshakeError> {
        Ok(Self::new(suite, SecretKey::from_bytes(secret)?))
    }

    fn new(suite: Suite, secret: SecretKey) -> Self {
        let key = *secret.point();
        Self {
            public: OnionPublicKey { suite, key },
            secret,
        }
    }

    /// The public half, which the relay publishes.
    pub fn public(&self) -> OnionPublicKey {
        self.public
    }

    pub(super) fn secret(&self) -> &SecretKey {
        &self.secret
    }
}
