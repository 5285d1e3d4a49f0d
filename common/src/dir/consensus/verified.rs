//! A valid consensus: verified, indexed, and shared by all who look relays up in it (docs/protocol.md, 6.9).

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::body::{ConsensusBody, ConsensusStatus, Entry, Lifetime};
use crate::dir::network::{NetworkFile, Params, params};
use crate::dir::signed::{Digest, UnixSecs};
use crate::ids::{NetworkId, RelayId};

/// A verified and indexed consensus. A consensus never changes, so everyone shares one.
#[derive(Debug)]
pub struct Consensus {
    body: ConsensusBody,
    params: Params,
    bytes: Bytes,
    digest: Digest,
    signers: Vec<[u8; 32]>,
    network: NetworkId,
    /// Places of the entries whose link key is not their identity, sorted by that key.
    by_link_key: Box<[u32]>,
    /// Every address of every relay, sorted. A sorted list has half the size of a hash table and is made in a fraction
    /// of the time.
    addresses: Box<[SocketAddr]>,
}

impl Consensus {
    pub(super) fn new(
        body: ConsensusBody,
        bytes: &[u8],
        digest: Digest,
        signers: Vec<[u8; 32]>,
        network: &NetworkFile,
    ) -> Self {
        // Voted values replace those of network.toml, which replace the defaults.
        let pairs = network.param_pairs().iter().chain(&body.params);
        let params = Params::from_pairs(pairs.map(|(name, value)| (name.as_str(), *value)));
        let entries = &body.entries;
        let mut by_link_key: Vec<u32> = (0u32..)
            .zip(entries)
            .filter_map(|(n, entry)| entry.explicit_link_key().map(|_| n))
            .collect();
        // The sort is stable, so that of two relays with one link key the lower identity stands first (6.9.3).
        by_link_key.sort_by_key(|n| entries[*n as usize].explicit_link_key());
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

    /// Digest of the consensus, which is the same whoever signed it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Number of authorities that signed the consensus. All signatures that are counted have been verified.
    pub fn signature_count(&self) -> usize {
        self.signers.len()
    }

    /// The long-term signing keys of the authorities that signed the consensus, in increasing order. All signatures
    /// have been verified.
    pub fn signers(&self) -> &[[u8; 32]] {
        &self.signers
    }

    /// The newest revision of `network.toml` that the authorities hold (6.3.11); 0 if they name none.
    pub fn network_revision(&self) -> u32 {
        let named = self.body.params.get(params::NETWORK_REVISION);
        named.copied().unwrap_or(0)
    }

    pub(super) fn body(&self) -> &ConsensusBody {
        &self.body
    }

    /// The network that the consensus is for.
    pub fn network_id(&self) -> NetworkId {
        self.network
    }

    /// Times of the consensus.
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

    /// The relay that proves this key on links; of two relays that claim the key, the one with the lower identity
    /// (6.9.3).
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
            .filter(|entry| entry.explicit_link_key().is_none());
        match (certified, plain) {
            (Some(one), Some(other)) if other.identity < one.identity => Some(other),
            (one, other) => one.or(other),
        }
    }

    /// Is this an address and port of a relay? An exit refuses to dial those.
    pub fn is_relay_address(&self, address: SocketAddr) -> bool {
        self.addresses.binary_search(&address).is_ok()
    }

    /// Is this an IP address of a relay?
    pub fn is_relay_ip(&self, ip: IpAddr) -> bool {
        // Addresses are in order of IP address, then port.
        let first = self
            .addresses
            .partition_point(|address| *address < SocketAddr::new(ip, 0));
        self.addresses
            .get(first)
            .is_some_and(|address| address.ip() == ip)
    }

    /// Status of the consensus at a time (6.10).
    pub fn status(&self, now: UnixSecs) -> ConsensusStatus {
        let grace = u64::from(self.params.consensus_grace_seconds);
        self.body.lifetime.status(now, grace)
    }

    /// May a client build paths from the consensus, because it is fresh, valid or in grace?
    pub fn is_usable(&self, now: UnixSecs) -> bool {
        !matches!(
            self.status(now),
            ConsensusStatus::Early | ConsensusStatus::Expired
        )
    }
}
