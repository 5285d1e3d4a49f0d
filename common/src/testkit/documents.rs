//! Consensuses and votes that list relays by their numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::keys::{identity, signing_key};
use super::relays::{descriptor, signed_descriptor};
use crate::dir::{
    Consensus, ConsensusBody, Entry, Flags, Lifetime, NetworkFile, SignedConsensus,
    SignedDescriptor, UnixSecs, Vote, VoteEntry,
};

/// A lifetime of two seconds fresh and ten minutes valid from `valid_after` on.
pub fn lifetime(valid_after: UnixSecs) -> Lifetime {
    lifetime_of(valid_after, 2, 600)
}

/// A lifetime of this many seconds fresh and valid from `valid_after` on.
pub fn lifetime_of(valid_after: UnixSecs, fresh: u64, valid: u64) -> Lifetime {
    Lifetime {
        valid_after,
        fresh_until: valid_after + fresh,
        valid_until: valid_after + valid,
    }
}

/// The body of a consensus of this time and these relays; all relays run and are exits of weight 100.
pub fn consensus_body(valid_after: UnixSecs, relays: &[u8]) -> ConsensusBody {
    let flags = Flags::VALID | Flags::RUNNING | Flags::EXIT;
    let entries = relays
        .iter()
        .map(|n| Entry::new(&descriptor(*n), flags, 100));
    ConsensusBody {
        params: [("circuit_window_cells".to_owned(), 700)].into(),
        ..body_of(lifetime(valid_after), entries.collect())
    }
}

/// The body of a consensus of these entries, in the order of a consensus and without parameters.
pub fn body_of(lifetime: Lifetime, mut entries: Vec<Entry>) -> ConsensusBody {
    entries.sort_by_key(|entry| entry.identity);
    ConsensusBody {
        lifetime,
        params: BTreeMap::new(),
        entries,
        values: Vec::new(),
    }
}

/// The consensus with this body, signed by all authorities.
pub fn consensus(network: &NetworkFile, body: &ConsensusBody) -> Arc<Consensus> {
    signed_by(network, body, &everyone(network))
}

/// A consensus of these entries, ten seconds fresh and a minute valid, signed by all authorities.
pub fn consensus_of(
    network: &NetworkFile,
    valid_after: UnixSecs,
    entries: Vec<Entry>,
) -> Arc<Consensus> {
    consensus_signed(network, valid_after, entries, &everyone(network))
}

/// A consensus of these entries, ten seconds fresh and a minute valid, signed by the authorities of these numbers.
pub fn consensus_signed(
    network: &NetworkFile,
    valid_after: UnixSecs,
    entries: Vec<Entry>,
    signers: &[u8],
) -> Arc<Consensus> {
    let body = body_of(lifetime_of(valid_after, 10, 60), entries);
    signed_by(network, &body, signers)
}

/// The bytes of the consensus with this body, signed by the authorities of these numbers; nobody has verified the
/// bytes.
pub fn consensus_bytes(network: &NetworkFile, body: &ConsensusBody, signers: &[u8]) -> Vec<u8> {
    let id = network.network_id();
    let mut signed = SignedConsensus::unsigned(body, &id).unwrap();
    for n in signers {
        signed.sign(&id, &signing_key(*n)).unwrap();
    }
    signed.to_bytes().unwrap()
}

/// The numbers of all authorities of a network, whose authorities are numbered from 1 on.
fn everyone(network: &NetworkFile) -> Vec<u8> {
    (1..=u8::try_from(network.authorities().len()).unwrap()).collect()
}

fn signed_by(network: &NetworkFile, body: &ConsensusBody, signers: &[u8]) -> Arc<Consensus> {
    let bytes = consensus_bytes(network, body, signers);
    SignedConsensus::parse_and_verify(&bytes, network).unwrap()
}

/// The vote of this authority for these relays, with a valid-after of 1,000.
pub fn vote(network: &NetworkFile, authority: u8, relays: &[u8]) -> Vote {
    let mut relays: Vec<_> = relays
        .iter()
        .map(|n| signed_descriptor(network, *n))
        .collect();
    relays.sort_by_key(|signed| signed.descriptor().identity);
    let entries = relays.iter().map(vote_entry).collect();
    Vote {
        authority: identity(authority),
        lifetime: lifetime(1_000),
        params: BTreeMap::new(),
        entries,
        values: Vec::new(),
        shares: Vec::new(),
    }
}

/// The entry in a vote of a relay that runs and is an exit, and that nobody measured.
pub fn vote_entry(signed: &SignedDescriptor) -> VoteEntry {
    VoteEntry {
        descriptor: signed.bytes().to_vec(),
        flags: Flags::VALID | Flags::RUNNING | Flags::EXIT,
        measured: None,
    }
}
