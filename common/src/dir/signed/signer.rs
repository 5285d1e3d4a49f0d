//! Whoever signs as an authority: its long-term key, or a key that the long-term key certified for a time
//! (docs/protocol.md, 6.1.9).
//!
//! The long-term key, which `network.toml` names, can then stay off line: a thief of the machine gets only a key that
//! expires.

use core::fmt;

use ed25519_dalek::SigningKey;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::digest::Kind;
use super::error::DocError;
use super::signature::{ALGORITHM_ED25519, Half, Signature};
use super::time::UnixSecs;
use crate::ids::NetworkId;

/// The algorithm byte of an Ed25519 signature by a certified key.
pub(super) const ALGORITHM_CERTIFIED: u8 = 2;
/// Length of a certified signature in bytes: key, not-after, certificate and signature.
const CERTIFIED_BYTES: usize = 32 + 8 + 64 + 64;

/// An authority's certificate: until a time, a key may sign for the authority. The long-term key signs the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorityCert {
    authority: [u8; 32],
    key: [u8; 32],
    not_after: UnixSecs,
    signature: Signature,
}

impl AuthorityCert {
    /// Certifies `key` for documents of `network` with a valid-after before `not_after`.
    ///
    /// # Errors
    /// [`DocError::Content`] if `key` is the long-term key itself: each key has one use.
    pub fn issue(
        long_term: &SigningKey,
        network: &NetworkId,
        key: [u8; 32],
        not_after: UnixSecs,
    ) -> Result<Self, DocError> {
        let authority = long_term.verifying_key().to_bytes();
        let body = cert_body(&authority, &key, not_after);
        let signature = Signature::sign(long_term, Kind::AuthorityKeyCert, network, &body);
        let cert = Self {
            authority,
            key,
            not_after,
            signature,
        };
        cert.verify(network)?;
        Ok(cert)
    }

    /// Makes a certificate from its parts and verifies it.
    ///
    /// # Errors
    /// [`DocError`] if the certificate is not valid.
    pub fn from_parts(
        authority: [u8; 32],
        key: [u8; 32],
        not_after: UnixSecs,
        signature: [u8; 64],
        network: &NetworkId,
    ) -> Result<Self, DocError> {
        let cert = Self {
            authority,
            key,
            not_after,
            signature: Signature(signature),
        };
        cert.verify(network)?;
        Ok(cert)
    }

    fn verify(&self, network: &NetworkId) -> Result<(), DocError> {
        if self.key == self.authority {
            return Err(DocError::Content("a key does not certify itself"));
        }
        let body = cert_body(&self.authority, &self.key, self.not_after);
        self.signature
            .verify(&self.authority, Kind::AuthorityKeyCert, network, &body)
    }

    /// The authority's long-term key.
    pub fn authority(&self) -> [u8; 32] {
        self.authority
    }

    /// The key that is certified.
    pub fn key(&self) -> [u8; 32] {
        self.key
    }

    /// The time at which the key expires: it signs nothing with this valid-after or a later one.
    pub fn not_after(&self) -> UnixSecs {
        self.not_after
    }

    /// The long-term key's signature (64 bytes).
    pub fn signature(&self) -> [u8; 64] {
        self.signature.0
    }
}

/// What a certificate's signature covers: the long-term key, the key, and the time (72 bytes).
fn cert_body(authority: &[u8; 32], key: &[u8; 32], not_after: UnixSecs) -> Vec<u8> {
    [&authority[..], &key[..], &not_after.to_be_bytes()].concat()
}

/// Signs for an authority, with its long-term key or with a certified one.
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
    cert: Option<AuthorityCert>,
}

impl Signer {
    /// Signs with `key`, as `cert` allows.
    ///
    /// # Errors
    /// [`DocError::UnknownSigner`] when the certificate is of another key.
    pub fn certified(key: SigningKey, cert: AuthorityCert) -> Result<Self, DocError> {
        if key.verifying_key().to_bytes() != cert.key {
            return Err(DocError::UnknownSigner);
        }
        Ok(Self {
            key,
            cert: Some(cert),
        })
    }

    /// The authority's long-term key, as `network.toml` names it.
    pub fn authority(&self) -> [u8; 32] {
        self.cert.map_or_else(
            || self.key.verifying_key().to_bytes(),
            |cert| cert.authority,
        )
    }

    /// The key that signs: the certified one, or the long-term one itself.
    pub fn key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// When the certified key expires; `None` for the long-term key, which does not expire.
    pub fn not_after(&self) -> Option<UnixSecs> {
        self.cert.map(|cert| cert.not_after)
    }

    /// Signs `body` as a thing of `kind` in `network`.
    pub fn sign(&self, kind: Kind, network: &NetworkId, body: &[u8]) -> AuthoritySignature {
        let signature = Signature::sign(&self.key, kind, network, body);
        match self.cert {
            None => AuthoritySignature::Plain(signature),
            Some(cert) => AuthoritySignature::Certified {
                key: cert.key,
                not_after: cert.not_after,
                cert: cert.signature,
                signature,
            },
        }
    }
}

/// Debug output never shows the secret.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = hex::encode(&self.authority()[..4]);
        write!(f, "Signer({authority}…, until {:?})", self.not_after())
    }
}

impl From<SigningKey> for Signer {
    fn from(key: SigningKey) -> Self {
        Self { key, cert: None }
    }
}

/// What can sign as an authority: a [`Signer`], or a plain long-term key.
pub trait AsSigner {
    /// This key as a signer.
    fn as_signer(&self) -> Signer;
}

impl AsSigner for Signer {
    fn as_signer(&self) -> Signer {
        self.clone()
    }
}

impl AsSigner for SigningKey {
    fn as_signer(&self) -> Signer {
        self.clone().into()
    }
}

/// A signature of an authority, by either kind of key. (A body holds it as an algorithm byte and a blob.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthoritySignature {
    /// A signature by the signer itself (algorithm 1).
    Plain(Signature),
    /// A signature by a key that the signer certified (algorithm 2).
    Certified {
        /// The key that signed.
        key: [u8; 32],
        /// The time at which the key expires: it signs nothing with this valid-after or a later one.
        not_after: UnixSecs,
        /// The signer's signature of the certificate.
        cert: Signature,
        /// The key's signature of the document.
        signature: Signature,
    },
}

impl From<Signature> for AuthoritySignature {
    fn from(signature: Signature) -> Self {
        Self::Plain(signature)
    }
}

impl AuthoritySignature {
    /// Checks the signature by the authority `signer` of `body` as a thing of `kind` in `network`, and its certificate.
    /// [`Self::is_good_at`] says whether the key was still good.
    ///
    /// # Errors
    /// [`DocError::BadSignature`] if the signature or the certificate does not verify.
    pub fn verify(
        &self,
        signer: &[u8; 32],
        kind: Kind,
        network: &NetworkId,
        body: &[u8],
    ) -> Result<(), DocError> {
        match self {
            Self::Plain(signature) => signature.verify(signer, kind, network, body),
            Self::Certified {
                key,
                not_after,
                cert,
                signature,
            } => {
                AuthorityCert::from_parts(*signer, *key, *not_after, cert.0, network)
                    .map_err(|_| DocError::BadSignature)?;
                signature.verify(key, kind, network, body)
            }
        }
    }

    /// May the key sign documents of this valid-after?
    pub fn is_good_at(&self, valid_after: UnixSecs) -> bool {
        self.not_after()
            .is_none_or(|not_after| valid_after < not_after)
    }

    /// When the certified key expires; `None` for the long-term key.
    pub fn not_after(&self) -> Option<UnixSecs> {
        match self {
            Self::Plain(_) => None,
            Self::Certified { not_after, .. } => Some(*not_after),
        }
    }

    /// The algorithm byte and the bytes of the signature, as the envelope has them (6.1.9).
    pub(super) fn to_blob(self) -> (u8, Vec<u8>) {
        match self {
            Self::Plain(signature) => (ALGORITHM_ED25519, signature.0.to_vec()),
            Self::Certified {
                key,
                not_after,
                cert,
                signature,
            } => {
                let time = not_after.to_be_bytes();
                let blob = [&key[..], &time, &cert.0, &signature.0].concat();
                (ALGORITHM_CERTIFIED, blob)
            }
        }
    }

    /// Reads the signature from a blob of the envelope; `None` if `kind` does not have this algorithm.
    pub(super) fn from_blob(
        kind: Kind,
        algorithm: u8,
        blob: &[u8],
    ) -> Result<Option<Self>, DocError> {
        match algorithm {
            ALGORITHM_ED25519 => {
                let bytes = blob.try_into().map_err(|_| DocError::SignatureList)?;
                Ok(Some(Self::Plain(Signature(bytes))))
            }
            // A relay's own certificate is in its descriptor.
            ALGORITHM_CERTIFIED if kind != Kind::Descriptor => {
                let bytes: &[u8; CERTIFIED_BYTES] =
                    blob.try_into().map_err(|_| DocError::SignatureList)?;
                Ok(Some(Self::from_certified(bytes)))
            }
            _ => Ok(None),
        }
    }

    fn from_certified(bytes: &[u8; CERTIFIED_BYTES]) -> Self {
        let (mut key, mut time) = ([0; 32], [0; 8]);
        let (mut cert, mut signature) = ([0; 64], [0; 64]);
        key.copy_from_slice(&bytes[..32]);
        time.copy_from_slice(&bytes[32..40]);
        cert.copy_from_slice(&bytes[40..104]);
        signature.copy_from_slice(&bytes[104..]);
        Self::Certified {
            key,
            not_after: u64::from_be_bytes(time),
            cert: Signature(cert),
            signature: Signature(signature),
        }
    }
}

impl Serialize for AuthoritySignature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (algorithm, blob) = self.to_blob();
        let mut tuple = serializer.serialize_tuple(1 + blob.len())?;
        tuple.serialize_element(&algorithm)?;
        for byte in &blob {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for AuthoritySignature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(1 + CERTIFIED_BYTES, BlobVisitor)
    }
}

struct BlobVisitor;

impl<'de> Visitor<'de> for BlobVisitor {
    type Value = AuthoritySignature;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an authority's signature")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let short = || A::Error::custom("signature is cut short");
        let algorithm: u8 = seq.next_element()?.ok_or_else(short)?;
        match algorithm {
            ALGORITHM_ED25519 => {
                let low: Half = seq.next_element()?.ok_or_else(short)?;
                let high: Half = seq.next_element()?.ok_or_else(short)?;
                Ok(Signature::of(&low, &high).into())
            }
            ALGORITHM_CERTIFIED => {
                let mut bytes = [0; CERTIFIED_BYTES];
                for byte in &mut bytes {
                    *byte = seq.next_element()?.ok_or_else(short)?;
                }
                Ok(AuthoritySignature::from_certified(&bytes))
            }
            _ => Err(A::Error::custom("unknown signature algorithm")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "signer_tests.rs"]
mod tests;
