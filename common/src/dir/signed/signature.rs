//! An Ed25519 signature, bound to a kind of document and to a network (docs/protocol.md, 6.2).

use core::fmt;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::digest::{Kind, signed_bytes};
use super::error::DocError;
use crate::ids::NetworkId;

/// The algorithm byte of an Ed25519 signature.
pub(super) const ALGORITHM_ED25519: u8 = 1;

/// An Ed25519 signature inside a body: the algorithm byte 1 and 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub(in crate::dir) [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({}…)", hex::encode(&self.0[..4]))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (low, high) = self.0.split_at(32);
        (ALGORITHM_ED25519, Half::of(low), Half::of(high)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (algorithm, low, high) = <(u8, Half, Half)>::deserialize(deserializer)?;
        if algorithm != ALGORITHM_ED25519 {
            return Err(serde::de::Error::custom("unknown signature algorithm"));
        }
        Ok(Self::of(&low, &high))
    }
}

/// Half a signature. Serde supports arrays of up to 32 elements only.
#[derive(Serialize, Deserialize)]
pub(super) struct Half([u8; 32]);

impl Half {
    fn of(slice: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(slice);
        Self(bytes)
    }
}

impl Signature {
    pub(super) fn of(low: &Half, high: &Half) -> Self {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&low.0);
        bytes[32..].copy_from_slice(&high.0);
        Self(bytes)
    }

    /// Signs `body` as a thing of `kind` in `network`.
    pub fn sign(key: &SigningKey, kind: Kind, network: &NetworkId, body: &[u8]) -> Self {
        Self(key.sign(&signed_bytes(kind, network, body)).to_bytes())
    }

    /// Checks the signature by `signer` of `body` as a thing of `kind` in `network`.
    ///
    /// # Errors
    /// [`DocError::BadSignature`], also for a `signer` that is no key or a weak one.
    pub fn verify(
        &self,
        signer: &[u8; 32],
        kind: Kind,
        network: &NetworkId,
        body: &[u8],
    ) -> Result<(), DocError> {
        let message = signed_bytes(kind, network, body);
        let key = VerifyingKey::from_bytes(signer).map_err(|_| DocError::BadSignature)?;
        let signature = ed25519_dalek::Signature::from_bytes(&self.0);
        // The check is strict, because a weak key would make one signature fit many documents.
        key.verify_strict(&message, &signature)
            .map_err(|_| DocError::BadSignature)
    }
}
