//! Onion keys: what a relay publishes, with the suite of its layers, for clients to aim at.

use core::fmt;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::onion::Suite;
use crate::secret::Secret;

/// A relay's onion key as its descriptor names it. The suite changes only with the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OnionPublicKey {
    /// Suite of the layers that are keyed by it.
    pub suite: Suite,
    /// The X25519 public key (B in docs/protocol.md); also its own id.
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

/// A relay's onion key with its secret. Neither `Clone` nor `Debug`; erased on drop.
pub struct OnionKeypair {
    public: OnionPublicKey,
    secret: StaticSecret,
}

impl OnionKeypair {
    /// A fresh key.
    pub fn generate(suite: Suite, rng: &mut impl CryptoRng) -> Self {
        Self::from_static(suite, StaticSecret::random_from_rng(rng))
    }

    /// A key from the bytes that [`OnionKeypair::secret_bytes`] gave.
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

    /// The secret half, to be kept on disk.
    pub fn secret_bytes(&self) -> Secret<32> {
        let mut bytes = Secret::zeroed();
        bytes.expose_mut().copy_from_slice(self.secret.as_bytes());
        bytes
    }

    /// The half to be published.
    pub fn public(&self) -> OnionPublicKey {
        self.public
    }

    pub(super) fn secret(&self) -> &StaticSecret {
        &self.secret
    }
}
