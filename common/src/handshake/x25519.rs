//! The classical half of the handshake (docs/protocol.md, 3.3; RFC 7748): X25519 by the library that computes ML-KEM,
//! whose assembly takes half the time of portable code.

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use rand_core::CryptoRng;

use super::POINT_LEN;
use super::error::HandshakeError;
use crate::secret::Secret;

/// A secret key with its point. The library erases the secret when the key is dropped.
pub(super) struct SecretKey {
    key: PrivateKey,
    point: [u8; POINT_LEN],
}

impl SecretKey {
    /// Draws a fresh key.
    ///
    /// # Errors
    /// [`HandshakeError::Library`] if the cryptographic library fails.
    pub(super) fn draw(rng: &mut impl CryptoRng) -> Result<Self, HandshakeError> {
        let mut bytes = Secret::zeroed();
        rng.fill_bytes(bytes.expose_mut());
        Self::from_bytes(&bytes)
    }

    /// The key of 32 bytes, of which any are a key (RFC 7748, 5).
    ///
    /// # Errors
    /// [`HandshakeError::Library`] if the cryptographic library fails.
    pub(super) fn from_bytes(bytes: &Secret<32>) -> Result<Self, HandshakeError> {
        let library = |_| HandshakeError::Library;
        let key = PrivateKey::from_private_key(&X25519, bytes.expose())
            .map_err(|_| HandshakeError::Library)?;
        let public = key.compute_public_key().map_err(library)?;
        let point = public.as_ref().try_into();
        let point = point.map_err(|_| HandshakeError::Library)?;
        Ok(Self { key, point })
    }

    /// The public half.
    pub(super) fn point(&self) -> &[u8; POINT_LEN] {
        &self.point
    }

    /// Computes the secret that this key shares with the owner of `point`.
    ///
    /// # Errors
    /// [`HandshakeError::BadPoint`] if the secret is zero, as it is for points of small order (protocol.md 3.3).
    pub(super) fn agree(&self, point: &[u8; POINT_LEN]) -> Result<Secret<32>, HandshakeError> {
        let point = UnparsedPublicKey::new(&X25519, point);
        agreement::agree(&self.key, point, HandshakeError::BadPoint, |shared| {
            let mut secret = Secret::zeroed();
            let shared = <&[u8; 32]>::try_from(shared).map_err(|_| HandshakeError::Library)?;
            secret.expose_mut().copy_from_slice(shared);
            Ok(secret)
        })
    }
}
