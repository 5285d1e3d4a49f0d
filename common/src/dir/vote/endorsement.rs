//! Authorities' signatures that they hold a vote: the chain of signatures by which they agree (docs/protocol.md, 6.22).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::SignedVote;
use crate::dir::network::NetworkFile;
use crate::dir::signed::{
    self, AsSigner, AuthoritySignature, Digest, DocError, Envelope, Kind, UnixSecs,
};
use crate::ids::{NetworkId, RelayId};

/// Size of the largest endorsement, in bytes: as many signatures as a document can have, each of up to 200 bytes.
pub const MAX_ENDORSEMENT_BYTES: usize = 16 * 1024;

/// What the signatures cover. The fields are in the order of their encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Claim {
    valid_after: UnixSecs,
    author: RelayId,
    digest: Digest,
}

/// An endorsement whose signatures are not verified yet. The signatures claim to be those of authorities, the author's
/// among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedEndorsement(Endorsement);

impl UnverifiedEndorsement {
    /// Takes an endorsement apart and checks everything that costs no public-key work.
    ///
    /// # Errors
    /// [`DocError`] for anything that 6.1 and 6.22.1 do not allow.
    pub fn parse(bytes: &[u8], network: &NetworkFile) -> Result<Self, DocError> {
        let envelope = Envelope::parse(bytes, Kind::Endorsement, MAX_ENDORSEMENT_BYTES)?;
        let claim: Claim = signed::decode(envelope.body)?;
        envelope.require_good_at(claim.valid_after)?;
        let author_key = author_key(network, &claim.author)?;
        let mut signatures = BTreeMap::new();
        for (signer, signature) in &envelope.signatures {
            network
                .authority_by_signing_key(signer)
                .ok_or(DocError::UnknownSigner)?;
            signatures.insert(*signer, *signature);
        }
        if !signatures.contains_key(&author_key) {
            return Err(DocError::Content("the author does not endorse it"));
        }
        Ok(Self(Endorsement {
            claim,
            body: envelope.body.to_vec(),
            author_key,
            signatures,
        }))
    }

    /// The endorsement as it would be if it verifies. The caller may look at it but not act on it.
    pub fn unverified(&self) -> &Endorsement {
        &self.0
    }

    /// Verifies every signature, the author's first, so that a stranger's garbage costs one verification.
    ///
    /// # Errors
    /// [`DocError::BadSignature`] if a signature does not verify.
    pub fn verify(self, network: &NetworkFile) -> Result<Endorsement, DocError> {
        let endorsement = self.0;
        let id = network.network_id();
        let author_first = endorsement
            .signatures
            .get_key_value(&endorsement.author_key);
        for (signer, signature) in author_first.into_iter().chain(&endorsement.signatures) {
            signature.verify(signer, Kind::Endorsement, &id, &endorsement.body)?;
        }
        Ok(endorsement)
    }
}

fn author_key(network: &NetworkFile, author: &RelayId) -> Result<[u8; 32], DocError> {
    let known = network.authorities().iter().find(|a| a.identity == *author);
    Ok(known.ok_or(DocError::UnknownSigner)?.signing_key)
}

/// Signatures of the author and of other authorities, which say that the vote with this digest is the author's for this
/// valid-after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endorsement {
    claim: Claim,
    body: Vec<u8>,
    author_key: [u8; 32],
    signatures: BTreeMap<[u8; 32], AuthoritySignature>,
}

impl Endorsement {
    /// The author's own endorsement of its vote.
    ///
    /// # Errors
    /// [`DocError`] if `key` is not the signing key of the vote's author.
    pub fn of_vote(
        vote: &SignedVote,
        network: &NetworkFile,
        key: &impl AsSigner,
    ) -> Result<Self, DocError> {
        let claim = Claim {
            valid_after: vote.vote().lifetime.valid_after,
            author: vote.vote().authority,
            digest: vote.digest(),
        };
        let mut endorsement = Self {
            claim,
            body: signed::encode(&claim)?,
            author_key: author_key(network, &claim.author)?,
            signatures: BTreeMap::new(),
        };
        endorsement.endorse(&network.network_id(), key);
        if endorsement.is_signed_by(&endorsement.author_key) {
            Ok(endorsement)
        } else {
            Err(DocError::UnknownSigner)
        }
    }

    /// Verifies and decodes an endorsement.
    ///
    /// # Errors
    /// [`DocError`], for anything that 6.1, 6.2 and 6.22.1 do not allow.
    pub fn parse_and_verify(bytes: &[u8], network: &NetworkFile) -> Result<Self, DocError> {
        UnverifiedEndorsement::parse(bytes, network)?.verify(network)
    }

    /// Adds a signature by `key`.
    pub fn endorse(&mut self, network: &NetworkId, key: &impl AsSigner) {
        let signer = key.as_signer();
        let signature = signer.sign(Kind::Endorsement, network, &self.body);
        self.signatures.insert(signer.authority(), signature);
    }

    /// Adds the signatures of another endorsement of the same vote.
    pub fn merge(&mut self, other: &Self) {
        if self.claim == other.claim {
            let news = other.signatures.iter().map(|(k, s)| (*k, *s));
            self.signatures.extend(news);
        }
    }

    /// The endorsement with only the author's signature, which is what convicts.
    pub fn only_author(&self) -> Self {
        let mut alone = self.clone();
        alone
            .signatures
            .retain(|signer, _| *signer == self.author_key);
        alone
    }

    /// Author of the vote.
    pub fn author(&self) -> RelayId {
        self.claim.author
    }

    /// Valid-after of the consensus that the vote is for.
    pub fn valid_after(&self) -> UnixSecs {
        self.claim.valid_after
    }

    /// Digest of the vote.
    pub fn digest(&self) -> Digest {
        self.claim.digest
    }

    /// Signing keys of the authorities that endorse the vote.
    pub fn signers(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.signatures.keys()
    }

    /// Does the authority with this signing key endorse the vote?
    pub fn is_signed_by(&self, signing_key: &[u8; 32]) -> bool {
        self.signatures.contains_key(signing_key)
    }

    /// Number of authorities that endorse the vote.
    pub fn count(&self) -> usize {
        self.signatures.len()
    }

    /// The document.
    ///
    /// # Errors
    /// [`DocError`]; none is known to arise.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocError> {
        let signatures: Vec<_> = self.signatures.iter().map(|(k, s)| (*k, *s)).collect();
        signed::assemble(Kind::Endorsement, &self.body, &signatures)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testkit::{self, identity, network, signing_key};

    fn by(author: u8, signers: &[u8]) -> Endorsement {
        let network = network(3);
        let vote = testkit::vote(&network, author, &[1]);
        let vote = vote.sign(&network, &signing_key(author)).unwrap();
        let mut made = Endorsement::of_vote(&vote, &network, &signing_key(author)).unwrap();
        for n in signers {
            made.endorse(&network.network_id(), &signing_key(*n));
        }
        made
    }

    fn parse(bytes: &[u8]) -> Result<Endorsement, DocError> {
        Endorsement::parse_and_verify(bytes, &network(3))
    }

    #[test]
    fn layout_and_round_trip() {
        let made = by(1, &[3]);
        let bytes = made.to_bytes().unwrap();
        // The bytes are kind, version, length; the valid-after 1,000 takes two bytes of LEB128.
        assert_eq!(&bytes[..8], &[8, 1, 0, 0, 0, 66, 0xe8, 0x07]);
        assert_eq!(bytes[8..40], identity(1).0);
        assert_eq!(bytes[40..72], made.digest().0);
        assert_eq!(bytes[72], 2);
        assert_eq!(bytes.len(), 73 + 2 * 99);
        let back = parse(&bytes).unwrap();
        assert_eq!(back, made);
        assert_eq!((back.count(), back.author()), (2, identity(1)));
        assert_eq!(back.only_author(), by(1, &[]));
        let mut merged = by(1, &[2]);
        merged.merge(&made);
        assert_eq!(merged.count(), 3);
        merged.merge(&by(2, &[]));
        assert_eq!(merged.count(), 3);
    }

    #[test]
    fn every_refusal() {
        // The author's signature is missing.
        let mut headless = by(1, &[2]);
        headless
            .signatures
            .remove(&signing_key(1).verifying_key().to_bytes());
        assert!(matches!(
            parse(&headless.to_bytes().unwrap()),
            Err(DocError::Content(_))
        ));
        // A stranger's signature is there.
        assert_eq!(
            parse(&by(1, &[9]).to_bytes().unwrap()),
            Err(DocError::UnknownSigner)
        );
        // Any one of the signatures is broken.
        for at in [100, 200] {
            let mut bytes = by(1, &[2]).to_bytes().unwrap();
            let at = at + 20;
            bytes[at] ^= 1;
            assert!(parse(&bytes).is_err(), "{at}");
        }
        // The author is no authority, or the key is another author's.
        let network = network(3);
        let vote = testkit::vote(&network, 1, &[1]);
        let vote = vote.sign(&network, &signing_key(1)).unwrap();
        assert_eq!(
            Endorsement::of_vote(&vote, &network, &signing_key(2)),
            Err(DocError::UnknownSigner)
        );
        let claim = Claim {
            valid_after: 1_000,
            author: identity(9),
            digest: Digest([0; 32]),
        };
        let body = signed::encode(&claim).unwrap();
        let id = network.network_id();
        let bytes = signed::sign_single(Kind::Endorsement, &id, &body, &signing_key(9)).unwrap();
        assert_eq!(parse(&bytes), Err(DocError::UnknownSigner));
        // In turn, nobody signed, the document is too large, and bytes follow its end.
        let bytes =
            signed::assemble::<AuthoritySignature>(Kind::Endorsement, &by(1, &[]).body, &[])
                .unwrap();
        assert!(parse(&bytes).is_err());
        let huge = vec![8; MAX_ENDORSEMENT_BYTES + 1];
        assert!(matches!(parse(&huge), Err(DocError::TooLarge { .. })));
        let mut bytes = by(1, &[]).to_bytes().unwrap();
        bytes.push(0);
        assert_eq!(parse(&bytes), Err(DocError::Trailing));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_flip_of_a_bit_goes_unnoticed(at in 0usize..271, bit in 0u8..8) {
            let mut bytes = by(1, &[2]).to_bytes().unwrap();
            prop_assert_eq!(bytes.len(), 271);
            bytes[at] ^= 1 << bit;
            match parse(&bytes) {
                Err(_) => {}
                // An unknown algorithm is passed over, its signature with it.
                Ok(left) => prop_assert_eq!(left.count(), 1),
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
