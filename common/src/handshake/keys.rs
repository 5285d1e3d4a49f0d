//! Onion keys. A relay publishes them together with the suite of its layers, and clients make handshakes to them.

use core::fmt;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use x25519_dalek::{PublicKey, StaticSecret};

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
    secret: StaticSecret,
}

impl OnionKeypair {
    /// Makes a fresh key.
    pub fn generate(suite: Suite, rng: &mut impl CryptoRng) -> Self {
        Self::from_static(suite, StaticSecret::random_from_rng(rng))
    }

    /// The key with the bytes that [`OnionKeypair::secret_bytes`] returned.
    pub fn from_bytes(suite: Suite, secret: &Secret<32>) -> Self {
        Self::from_static(suite, StaticSecret::from(*secret.expose()))
    }

    fn from_static(suite: Suite, secret: StaticSecret) -> Self {
        let key = PublicKey::from(&secret).to_bytes();
        Self {
            public: OnionPublicKey { suite, key },
            secret,
        }
    }

    /// The secret half, which the caller keeps on disk.
    pub fn secret_bytes(&self) -> Secret<32> {
        let mut bytes = Secret::zeroed();
        bytes.expose_mut().copy_from_slice(self.secret.as_bytes());
        bytes
    }

    /// The public half, which the relay publishes.
    pub fn public(&self) -> OnionPublicKey {
        self.public
    }

    pub(super) fn secret(&self) -> &StaticSecret {
        &self.secret
    }
}
