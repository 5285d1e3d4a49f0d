//! What one authority says about the relays that it knows (docs/protocol.md, 6.7).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::dir::consensus::{Lifetime, RandomShare, RandomValue, random};
use crate::dir::network::{NetworkFile, params};
use crate::dir::relay::{DescriptorCache, Flags, MAX_ENTRIES, SignedDescriptor};
use crate::dir::signed::{self, AsSigner, Digest, DocError, Envelope, Kind};
use crate::ids::RelayId;

/// Size of the largest vote, in bytes.
pub const MAX_VOTE_BYTES: usize = 64 * 1024 * 1024;

/// One relay in a vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteEntry {
    /// The relay's whole signed descriptor, so that no authority can put words into a relay's mouth.
    pub descriptor: Vec<u8>,
    /// The flags that the authority votes for.
    pub flags: Flags,
    /// What the relay carries by the authority's measurements (KiB a second); `None` if there are too few.
    pub measured: Option<u32>,
}

/// What one authority says for one valid-after. The fields are in the order of their encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Identity of the authority.
    pub authority: RelayId,
    /// The times that the consensus will have.
    pub lifetime: Lifetime,
    /// The parameters that the authority votes for, by name.
    pub params: BTreeMap<String, u32>,
    /// The relays, by strictly increasing identity.
    pub entries: Vec<VoteEntry>,
    /// Random values of the newest periods, by strictly increasing period; at most two.
    pub values: Vec<RandomValue>,
    /// What authorities commit to for the next period's random value, by strictly increasing authority.
    pub shares: Vec<RandomShare>,
}

impl Vote {
    /// Encodes and signs the vote.
    ///
    /// # Errors
    /// [`DocError`] when the vote breaks a rule of 6.7 or the key is not this authority's.
    pub fn sign(
        &self,
        network: &NetworkFile,
        signer: &impl AsSigner,
    ) -> Result<SignedVote, DocError> {
        let body = signed::encode(self)?;
        let bytes = signed::sign_single(Kind::Vote, &network.network_id(), &body, signer)?;
        SignedVote::parse_and_verify(&bytes, network)
    }

    /// Signs the vote as [`Vote::sign`] does, and spares the work of verifying descriptors that `cache` knows.
    ///
    /// # Errors
    /// As of [`Vote::sign`].
    pub fn sign_cached(
        &self,
        network: &NetworkFile,
        signer: &impl AsSigner,
        cache: &DescriptorCache,
    ) -> Result<SignedVote, DocError> {
        let body = signed::encode(self)?;
        let bytes = signed::sign_single(Kind::Vote, &network.network_id(), &body, signer)?;
        SignedVote::parse_and_verify_cached(&bytes, network, cache)
    }
}

/// A verified vote, whose descriptors are verified too.
#[derive(Clone, Debug)]
pub struct SignedVote {
    vote: Vote,
    descriptors: Vec<Arc<SignedDescriptor>>,
    bytes: Bytes,
    digest: Digest,
}

impl SignedVote {
    /// Verifies and decodes a vote and every descriptor in it.
    ///
    /// # Errors
    /// [`DocError`], for anything that 6.1, 6.2, 6.6 and 6.7 do not allow.
    pub fn parse_and_verify(bytes: &[u8], network: &NetworkFile) -> Result<Self, DocError> {
        Self::parse_and_verify_cached(bytes, network, &DescriptorCache::default())
    }

    /// The digest of a vote of which nothing is verified yet, to decide whether the vote is worth the work.
    ///
    /// # Errors
    /// [`DocError`] for anything that 6.1 does not allow.
    pub fn digest_of(bytes: &[u8], network: &NetworkFile) -> Result<Digest, DocError> {
        let envelope = Envelope::parse(bytes, Kind::Vote, MAX_VOTE_BYTES)?;
        Ok(envelope.digest(&network.network_id()))
    }

    /// Does what [`SignedVote::parse_and_verify`] does, and verifies no descriptor anew that `cache` knows.
    ///
    /// # Errors
    /// As of [`SignedVote::parse_and_verify`].
    pub fn parse_and_verify_cached(
        bytes: &[u8],
        network: &NetworkFile,
        cache: &DescriptorCache,
    ) -> Result<Self, DocError> {
        let id = network.network_id();
        let envelope = Envelope::parse(bytes, Kind::Vote, MAX_VOTE_BYTES)?;
        let signer = envelope.verify_single(&id)?;
        let author = network
            .authority_by_signing_key(&signer)
            .ok_or(DocError::UnknownSigner)?;
        let vote: Vote = signed::decode(envelope.body)?;
        if vote.authority != author.identity {
            return Err(DocError::UnknownSigner);
        }
        envelope.require_good_at(vote.lifetime.valid_after)?;
        vote.lifetime.validate()?;
        params::validate(&vote.params)?;
        random::validate_values(&vote.values)?;
        random::validate_shares(&vote.shares)?;
        if vote.entries.len() > MAX_ENTRIES {
            return Err(DocError::Content("too many entries"));
        }
        let mut descriptors: Vec<Arc<SignedDescriptor>> = Vec::new();
        for entry in &vote.entries {
            let descriptor = cache.parse_and_verify(&entry.descriptor, &id)?;
            let last = descriptors.last().map(|last| last.descriptor().identity);
            if last >= Some(descriptor.descriptor().identity) || !entry.flags.is_known() {
                return Err(DocError::Content(
                    "entries are not in order or have unknown flags",
                ));
            }
            descriptors.push(descriptor);
        }
        let digest = envelope.digest(&id);
        Ok(Self {
            vote,
            descriptors,
            bytes: Bytes::copy_from_slice(bytes),
            digest,
        })
    }

    /// What the authority says.
    pub fn vote(&self) -> &Vote {
        &self.vote
    }

    /// Each entry with its descriptor, by increasing identity.
    pub fn entries(&self) -> impl Iterator<Item = (&VoteEntry, &Arc<SignedDescriptor>)> {
        self.vote.entries.iter().zip(&self.descriptors)
    }

    /// The document as received.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The document as received, shared.
    pub fn shared_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Digest of the document.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::testkit::{self, network, signing_key};

    #[test]
    fn round_trip_and_refusals() {
        let network = network(3);
        let vote = testkit::vote(&network, 1, &[1, 2, 3]);
        let signed = vote.sign(&network, &signing_key(1)).unwrap();
        assert_eq!(signed.vote(), &vote);
        let again = SignedVote::parse_and_verify(signed.bytes(), &network).unwrap();
        assert_eq!(again.digest(), signed.digest());
        assert_eq!(again.entries().count(), 3);

        let sign = |vote: &Vote| vote.sign(&network, &signing_key(1)).map(drop);
        assert_eq!(
            vote.sign(&network, &signing_key(9)).map(drop),
            Err(DocError::UnknownSigner)
        );
        assert_eq!(
            vote.sign(&network, &signing_key(2)).map(drop),
            Err(DocError::UnknownSigner)
        );
        let mut edited = vote.clone();
        edited.entries.swap(0, 1);
        assert!(matches!(sign(&edited), Err(DocError::Content(_))));
        let mut edited = vote.clone();
        edited.entries[1] = edited.entries[0].clone();
        assert!(matches!(sign(&edited), Err(DocError::Content(_))));
        let mut edited = vote.clone();
        edited.entries[0].descriptor[20] ^= 1;
        assert_eq!(sign(&edited), Err(DocError::BadSignature));
        let mut edited = vote.clone();
        edited.lifetime.fresh_until = 0;
        assert!(matches!(sign(&edited), Err(DocError::Content(_))));
        let mut edited = vote;
        edited.params.insert(String::new(), 0);
        assert!(matches!(sign(&edited), Err(DocError::Content(_))));
        let huge = vec![0; MAX_VOTE_BYTES + 1];
        let refused = SignedVote::parse_and_verify(&huge, &network).map(drop);
        assert!(matches!(refused, Err(DocError::TooLarge { .. })));
    }
}
