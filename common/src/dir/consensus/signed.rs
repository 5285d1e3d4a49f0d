//! What more than half of the authorities say the network is (docs/protocol.md, 6.9 and 6.10).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::dir::network::{NetworkFile, Params, params};
use crate::dir::relay::{Flags, PolicySummary, RelayDescriptor, descriptor};
use crate::dir::signed::{
    AsSigner, AuthoritySignature, CLOCK_SKEW_SECS, Digest, DocError, Envelope, Kind, UnixSecs,
    envelope as document,
};
use crate::ids::{NetworkId, RelayId};
use crate::onion::Suite;

/// Largest consensus (bytes): 100,000 entries of 330 bytes.
pub const MAX_CONSENSUS_BYTES: usize = 32 * 1024 * 1024;
/// Entries in one consensus.
pub(in crate::dir) const MAX_ENTRIES: usize = 131_072;
/// Largest signature document (bytes).
const MAX_SIGNATURE_DOCUMENT_BYTES: usize = 512;
/// Longest validity: onion keys live no longer (seconds).
const MAX_VALIDITY_SECS: u64 = 14 * 86_400;

/// When a consensus is good; `valid_after < fresh_until <= valid_until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lifetime {
    /// Valid from then on.
    pub valid_after: UnixSecs,
    /// A newer one is expected from then on.
    pub fresh_until: UnixSecs,
    /// Not valid from then on.
    pub valid_until: UnixSecs,
}

impl Lifetime {
    /// How a consensus of these times stands at `now`, with so many seconds of grace (6.10.1).
    pub fn status(&self, now: UnixSecs, grace: u64) -> ConsensusStatus {
        if self.valid_after > now.saturating_add(CLOCK_SKEW_SECS) {
            ConsensusStatus::Early
        } else if now < self.fresh_until {
            ConsensusStatus::Fresh
        } else if now < self.valid_until {
            ConsensusStatus::Valid
        } else if now < self.valid_until.saturating_add(grace) {
            ConsensusStatus::Grace
        } else {
            ConsensusStatus::Expired
        }
    }

    pub(in crate::dir) fn validate(&self) -> Result<(), DocError> {
        let longest = self.valid_after.saturating_add(MAX_VALIDITY_SECS);
        let ordered = self.valid_after < self.fresh_until && self.fresh_until <= self.valid_until;
        if ordered && self.valid_until <= longest {
            Ok(())
        } else {
            Err(DocError::Content("times are not in order"))
        }
    }
}

/// How a consensus stands at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsensusStatus {
    /// Valid-after is ahead by more than clocks may differ: not to be used.
    Early,
    /// The newest there should be.
    Fresh,
    /// A newer one should exist.
    Valid,
    /// Past its validity, within the grace: clients use it when there is no other.
    Grace,
    /// Not to be used.
    Expired,
}

/// All that a client needs of one relay; the fields stand in the order of their encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who it is.
    pub identity: RelayId,
    /// Its link key when that is not the identity.
    link_key: Option<[u8; 32]>,
    /// Its key for circuit handshakes (X25519).
    pub onion_key: [u8; 32],
    /// The suite of layers made with that key.
    #[serde(with = "descriptor::suite_code")]
    pub suite: Suite,
    /// Where to dial it, the preferred first.
    pub addresses: Vec<SocketAddr>,
    /// How much of the traffic it should carry, relative to the others (KiB a second).
    pub weight: u32,
    /// What the authorities say of it.
    pub flags: Flags,
    /// Where it lets traffic out.
    pub policy: PolicySummary,
    /// Key of its family.
    pub family: Option<[u8; 32]>,
    /// Its name, for people.
    pub nickname: String,
    /// Version of its program.
    pub version: String,
}

impl Entry {
    /// The entry of a relay from its descriptor.
    pub fn new(descriptor: &RelayDescriptor, flags: Flags, weight: u32) -> Self {
        Self {
            identity: descriptor.identity,
            link_key: descriptor.key_cert.as_ref().map(|cert| cert.key),
            onion_key: descriptor.onion_key,
            suite: descriptor.suite,
            addresses: descriptor.addresses.clone(),
            weight,
            flags,
            policy: descriptor.policy.clone(),
            family: descriptor.family.as_ref().map(|family| family.key),
            nickname: descriptor.nickname.clone(),
            version: descriptor.version.clone(),
        }
    }

    /// The key that the relay proves on links.
    pub fn link_key(&self) -> [u8; 32] {
        self.link_key.unwrap_or(self.identity.0)
    }

    /// The link key as encoded: none when it is the identity.
    pub(in crate::dir) fn explicit_link_key(&self) -> Option<[u8; 32]> {
        self.link_key
    }

    pub(in crate::dir) fn set_explicit_link_key(&mut self, key: Option<[u8; 32]>) {
        self.link_key = key;
    }

    fn validate(&self) -> Result<(), DocError> {
        if self.link_key == Some(self.identity.0) || !self.flags.is_known() {
            return Err(DocError::Content("link key or flags are not valid"));
        }
        descriptor::validate_addresses(&self.addresses)?;
        descriptor::validate_names(&self.nickname, &self.version)?;
        self.policy.validate()
    }
}

/// What is signed of a consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsensusBody {
    /// When it is good.
    pub lifetime: Lifetime,
    /// Parameters that more than half of the authorities voted for, by name.
    pub params: BTreeMap<String, u32>,
    /// The relays, by strictly increasing identity.
    pub entries: Vec<Entry>,
}

impl ConsensusBody {
    fn validate(&self) -> Result<(), DocError> {
        self.lifetime.validate()?;
        validate_params(&self.params)?;
        if self.entries.len() > MAX_ENTRIES {
            return Err(DocError::Content("too many entries"));
        }
        if self
            .entries
            .windows(2)
            .any(|pair| pair[0].identity >= pair[1].identity)
        {
            return Err(DocError::Content("entries are not in order"));
        }
        self.entries.iter().try_for_each(Entry::validate)
    }
}

/// Names and number of parameters (6.5); the order is the encoding's.
pub(in crate::dir) fn validate_params(pairs: &BTreeMap<String, u32>) -> Result<(), DocError> {
    if pairs.len() <= params::MAX_PARAMS && pairs.keys().all(|name| params::is_name(name)) {
        Ok(())
    } else {
        Err(DocError::Content("parameters are not valid"))
    }
}

/// A verified consensus, indexed; never changed, so everyone shares one.
#[derive(Debug)]
pub struct Consensus {
    body: ConsensusBody,
    params: Params,
    bytes: Bytes,
    digest: Digest,
    signers: Vec<[u8; 32]>,
    network: NetworkId,
    /// Places of the entries whose link key is not their identity, by that key.
    by_link_key: Box<[u32]>,
    /// Every address of every relay, sorted: half the size of a hash table, and made in a fraction of the time.
    addresses: Box<[SocketAddr]>,
}

impl Consensus {
    fn new(
        body: ConsensusBody,
        bytes: &[u8],
        digest: Digest,
        signers: Vec<[u8; 32]>,
        network: &NetworkFile,
    ) -> Self {
        // Voted values over those of network.toml over the defaults.
        let pairs = network.param_pairs().iter().chain(&body.params);
        let params = Params::from_pairs(pairs.map(|(name, value)| (name.as_str(), *value)));
        let entries = &body.entries;
        let mut by_link_key: Vec<u32> = (0u32..)
            .zip(entries)
            .filter_map(|(n, entry)| entry.link_key.map(|_| n))
            .collect();
        // Stable, so that of two relays with one link key the lower identity stands first (6.9.3).
        by_link_key.sort_by_key(|n| entries[*n as usize].link_key);
        let mut addresses: Vec<SocketAddr> = entries
            .iter()
            .flat_map(|entry| entry.addresses.iter().copied())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self {
            by_link_key: by_link_key.into(),
            addresses: addresses.into(),
            params,
            bytes: Bytes::copy_from_slice(bytes),
            digest,
            signers,
            network: network.network_id(),
            body,
        }
    }

    /// The document as received, signatures included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The document as received, shared: serving it to many costs one copy in memory.
    pub fn shared_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Its digest: the same whoever signed it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many authorities signed it; all that are counted have been verified.
    pub fn signature_count(&self) -> usize {
        self.signers.len()
    }

    /// The long-term signing keys of the authorities that signed it, in increasing order; all have been verified.
    pub fn signers(&self) -> &[[u8; 32]] {
        &self.signers
    }

    /// The newest revision of `network.toml` that the authorities hold (6.3.11); 0 when they name none.
    pub fn network_revision(&self) -> u32 {
        let named = self.body.params.get(params::NETWORK_REVISION);
        named.copied().unwrap_or(0)
    }

    pub(in crate::dir) fn body(&self) -> &ConsensusBody {
        &self.body
    }

    /// The network that it is of.
    pub fn network_id(&self) -> NetworkId {
        self.network
    }

    /// When it is good.
    pub fn lifetime(&self) -> Lifetime {
        self.body.lifetime
    }

    /// The effective network parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The relays, by increasing identity.
    pub fn entries(&self) -> &[Entry] {
        &self.body.entries
    }

    /// The relay with this identity.
    pub fn relay(&self, identity: &RelayId) -> Option<&Entry> {
        let entries = &self.body.entries;
        let place = entries.binary_search_by_key(identity, |entry| entry.identity);
        entries.get(place.ok()?)
    }

    /// The relay that proves this key on links; of two that claim it, the lower identity (6.9.3).
    pub fn by_link_key(&self, key: &[u8; 32]) -> Option<&Entry> {
        let entries = &self.body.entries;
        let certified = |n: &u32| entries.get(*n as usize);
        let first = self
            .by_link_key
            .partition_point(|n| certified(n).is_some_and(|entry| entry.link_key() < *key));
        let certified = self
            .by_link_key
            .get(first)
            .and_then(certified)
            .filter(|entry| entry.link_key() == *key);
        let plain = self
            .relay(&RelayId(*key))
            .filter(|entry| entry.link_key.is_none());
        match (certified, plain) {
            (Some(one), Some(other)) if other.identity < one.identity => Some(other),
            (one, other) => one.or(other),
        }
    }

    /// Is this an address and port of a relay? An exit refuses to dial those.
    pub fn is_relay_address(&self, address: SocketAddr) -> bool {
        self.addresses.binary_search(&address).is_ok()
    }

    /// How it stands at a time (6.10).
    pub fn status(&self, now: UnixSecs) -> ConsensusStatus {
        let grace = u64::from(self.params.consensus_grace_seconds);
        self.body.lifetime.status(now, grace)
    }

    /// May a client build paths from it (fresh, valid or in grace)?
    pub fn is_usable(&self, now: UnixSecs) -> bool {
        !matches!(
            self.status(now),
            ConsensusStatus::Early | ConsensusStatus::Expired
        )
    }
}

/// A consensus that gathers signatures; also where bytes become a [`Consensus`].
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
    /// [`DocError`], for anything that 6.1, 6.2 and 6.9 do not allow. Its times are for the caller to check.
    pub fn parse_and_verify(
        bytes: &[u8],
        network: &NetworkFile,
    ) -> Result<Arc<Consensus>, DocError> {
        let envelope = Envelope::parse(bytes, Kind::Consensus, MAX_CONSENSUS_BYTES)?;
        let keys = network.signing_keys();
        let verified = envelope.verify_majority(&network.network_id(), &keys)?;
        let body: ConsensusBody = document::decode(envelope.body)?;
        let signers = document::good_at(&verified, body.lifetime.valid_after, keys.len())?;
        body.validate()?;
        let digest = envelope.digest(&network.network_id());
        Ok(Arc::new(Consensus::new(
            body, bytes, digest, signers, network,
        )))
    }

    /// A consensus that nobody signed yet.
    ///
    /// # Errors
    /// [`DocError`] when a field breaks a rule of 6.9.
    pub fn unsigned(body: &ConsensusBody, network: &NetworkId) -> Result<Self, DocError> {
        body.validate()?;
        let bytes = document::encode(body)?;
        Ok(Self {
            digest: document::digest(Kind::Consensus, network, &bytes),
            valid_after: body.lifetime.valid_after,
            body: bytes,
            signatures: BTreeMap::new(),
        })
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many signed so far.
    pub fn signature_count(&self) -> usize {
        self.signatures.len()
    }

    /// Has the authority with this signing key signed?
    pub fn is_signed_by(&self, signing_key: &[u8; 32]) -> bool {
        self.signatures.contains_key(signing_key)
    }

    /// Signs as an authority; the result is for the others.
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
        let encoded = document::encode(&body)?;
        let bytes = document::sign_single(Kind::ConsensusSignature, network, &encoded, &key)?;
        Ok(ConsensusSignature {
            signer,
            body,
            bytes,
        })
    }

    /// Adds another authority's signature; `false` when it is of another consensus, or was there.
    ///
    /// # Errors
    /// [`DocError::BadSignature`].
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
        let bytes = document::assemble(Kind::Consensus, &self.body, &signatures)?;
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
    /// Verifies and decodes: that an authority sent it. Whether it fits a consensus, [`SignedConsensus::add`] says.
    ///
    /// # Errors
    /// [`DocError`], for anything that 6.1, 6.2 and 6.11 do not allow.
    pub fn parse_and_verify(bytes: &[u8], network: &NetworkFile) -> Result<Self, DocError> {
        let kind = Kind::ConsensusSignature;
        let envelope = Envelope::parse(bytes, kind, MAX_SIGNATURE_DOCUMENT_BYTES)?;
        let signer = envelope.verify_single(&network.network_id())?;
        network
            .authority_by_signing_key(&signer)
            .ok_or(DocError::UnknownSigner)?;
        let body: SignatureBody = document::decode(envelope.body)?;
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
#[path = "signed_tests.rs"]
mod tests;
