//! How bytes become a consensus, and how a consensus gathers the signatures that it needs (docs/protocol.md, 6.9 and
//! 6.11).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::body::ConsensusBody;
use super::verified::Consensus;
use crate::dir::network::NetworkFile;
use crate::dir::signed::{
    self, AsSigner, AuthoritySignature, Digest, DocError, Envelope, Kind, UnixSecs,
};
use crate::ids::NetworkId;

/// Size of the largest consensus, in bytes: 100,000 entries of 330 bytes.
pub const MAX_CONSENSUS_BYTES: usize = 32 * 1024 * 1024;
/// Size of the largest signature document, in bytes.
const MAX_SIGNATURE_DOCUMENT_BYTES: usize = 512;

/// A consensus that gathers signatures. Bytes also become a [`Consensus`] here.
#[derive(Clone, Debug)]
pub struct SignedConsensus {
    body: Vec<u8>,
    valid_after: UnixSecs,
    digest: Digest,
    signatures: BTreeMap<[u8; 32], AuthoritySignature>,
}

impl SignedConsensus {
    /// Verifies and decodes a consensus: its size, then its signatures, then its content (S24, S25).
    ///
    /// # Errors
    /// [`DocError`] for anything that 6.1, 6.2 and 6.9 do not allow. The caller checks the times.
    pub fn parse_and_verify(
        bytes: &[u8],
        network: &NetworkFile,
    ) -> Result<Arc<Consensus>, DocError> {
        let envelope = Envelope::parse(bytes, Kind::Consensus, MAX_CONSENSUS_BYTES)?;
        let keys = network.signing_keys();
        let verified = envelope.verify_majority(&network.network_id(), &keys)?;
        let body: ConsensusBody = signed::decode(envelope.body)?;
        let signers = signed::good_at(&verified, body.lifetime.valid_after, keys.len())?;
        body.validate()?;
        let digest = envelope.digest(&network.network_id());
        Ok(Arc::new(Consensus::new(
            body, bytes, digest, signers, network,
        )))
    }

    /// A consensus that nobody has signed yet.
    ///
    /// # Errors
    /// [`DocError`] if a field breaks a rule of 6.9.
    pub fn unsigned(body: &ConsensusBody, network: &NetworkId) -> Result<Self, DocError> {
        body.validate()?;
        let bytes = signed::encode(body)?;
        Ok(Self {
            digest: signed::digest(Kind::Consensus, network, &bytes),
            valid_after: body.lifetime.valid_after,
            body: bytes,
            signatures: BTreeMap::new(),
        })
    }

    /// Digest of the document.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Number of authorities that have signed so far.
    pub fn signature_count(&self) -> usize {
        self.signatures.len()
    }

    /// Has the authority with this signing key signed?
    pub fn is_signed_by(&self, signing_key: &[u8; 32]) -> bool {
        self.signatures.contains_key(signing_key)
    }

    /// Signs as an authority. The result is the signature for the other authorities.
    ///
    /// # Errors
    /// [`DocError`]; none is known to arise.
    pub fn sign(
        &mut self,
        network: &NetworkId,
        signer: &impl AsSigner,
    ) -> Result<ConsensusSignature, DocError> {
        let key = signer.as_signer();
        let signature = key.sign(Kind::Consensus, network, &self.body);
        let signer = key.authority();
        if !signature.is_good_at(self.valid_after) {
            return Err(DocError::KeyExpired);
        }
        self.signatures.insert(signer, signature);
        let body = SignatureBody {
            valid_after: self.valid_after,
            digest: self.digest,
            signature,
        };
        let encoded = signed::encode(&body)?;
        let bytes = signed::sign_single(Kind::ConsensusSignature, network, &encoded, &key)?;
        Ok(ConsensusSignature {
            signer,
            body,
            bytes,
        })
    }

    /// Adds another authority's signature. Returns `false` if it is of another consensus or was there already.
    ///
    /// # Errors
    /// [`DocError::BadSignature`] if the signature does not verify.
    pub fn add(
        &mut self,
        network: &NetworkId,
        signature: &ConsensusSignature,
    ) -> Result<bool, DocError> {
        let SignatureBody {
            valid_after,
            digest,
            signature: bytes,
        } = signature.body;
        if digest != self.digest || valid_after != self.valid_after {
            return Ok(false);
        }
        if !bytes.is_good_at(valid_after) {
            return Err(DocError::KeyExpired);
        }
        bytes.verify(&signature.signer, Kind::Consensus, network, &self.body)?;
        Ok(self.signatures.insert(signature.signer, bytes).is_none())
    }

    /// The document with the signatures gathered so far.
    ///
    /// # Errors
    /// [`DocError::TooLarge`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocError> {
        let signatures: Vec<_> = self.signatures.iter().map(|(k, s)| (*k, *s)).collect();
        let bytes = signed::assemble(Kind::Consensus, &self.body, &signatures)?;
        if bytes.len() > MAX_CONSENSUS_BYTES {
            return Err(DocError::TooLarge {
                size: bytes.len(),
                cap: MAX_CONSENSUS_BYTES,
            });
        }
        Ok(bytes)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SignatureBody {
    valid_after: UnixSecs,
    digest: Digest,
    signature: AuthoritySignature,
}

/// One authority's signature of a consensus, on its way to the others (6.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusSignature {
    signer: [u8; 32],
    body: SignatureBody,
    bytes: Vec<u8>,
}

impl ConsensusSignature {
    /// Verifies that an authority sent the signature, and decodes it. [`SignedConsensus::add`] says whether it fits a
    /// consensus.
    ///
    /// # Errors
    /// [`DocError`] for anything that 6.1, 6.2 and 6.11 do not allow.
    pub fn parse_and_verify(bytes: &[u8], network: &NetworkFile) -> Result<Self, DocError> {
        let kind = Kind::ConsensusSignature;
        let envelope = Envelope::parse(bytes, kind, MAX_SIGNATURE_DOCUMENT_BYTES)?;
        let signer = envelope.verify_single(&network.network_id())?;
        network
            .authority_by_signing_key(&signer)
            .ok_or(DocError::UnknownSigner)?;
        let body: SignatureBody = signed::decode(envelope.body)?;
        envelope.require_good_at(body.valid_after)?;
        Ok(Self {
            signer,
            body,
            bytes: bytes.to_vec(),
        })
    }

    /// The signing key of the authority.
    pub fn signer(&self) -> [u8; 32] {
        self.signer
    }

    /// Valid-after of the consensus signed.
    pub fn valid_after(&self) -> UnixSecs {
        self.body.valid_after
    }

    /// Digest of the consensus signed.
    pub fn digest(&self) -> Digest {
        self.body.digest
    }

    /// The document.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::dir::signed::Signature;
    use crate::testkit::{self, network, signing_key};

    #[test]
    fn signatures_gather() {
        let network = network(3);
        let id = network.network_id();
        let mut ours =
            SignedConsensus::unsigned(&testkit::consensus_body(1_000, &[1, 2, 3]), &id).unwrap();
        let mut theirs = ours.clone();
        ours.sign(&id, &signing_key(1)).unwrap();
        let detached = theirs.sign(&id, &signing_key(2)).unwrap();
        let detached = ConsensusSignature::parse_and_verify(detached.bytes(), &network).unwrap();
        assert_eq!(detached.digest(), ours.digest());
        assert_eq!(ours.add(&id, &detached), Ok(true));
        assert_eq!(ours.add(&id, &detached), Ok(false));
        assert_eq!(ours.signature_count(), 2);
        assert!(SignedConsensus::parse_and_verify(&ours.to_bytes().unwrap(), &network).is_ok());
        let mut other =
            SignedConsensus::unsigned(&testkit::consensus_body(1_002, &[1]), &id).unwrap();
        assert_eq!(other.add(&id, &detached), Ok(false));
        let stranger = theirs.sign(&id, &signing_key(9)).unwrap();
        let refused = ConsensusSignature::parse_and_verify(stranger.bytes(), &network);
        assert_eq!(refused, Err(DocError::UnknownSigner));
        // The authority vouches for a signature that does not verify.
        let mut lying = detached.clone();
        lying.body.signature = Signature::sign(&signing_key(2), Kind::Vote, &id, b"").into();
        assert_eq!(ours.add(&id, &lying), Err(DocError::BadSignature));
    }
}
