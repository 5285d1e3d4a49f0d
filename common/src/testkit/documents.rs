//! Consensuses and votes that list relays by their numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::keys::{identity, signing_key};
use super::relays::{descriptor, signed_descriptor};
use crate::dir::{
    Consensus, ConsensusBody, Entry, Flags, Lifetime, NetworkFile, SignedConsensus,
    SignedDescriptor, UnixSecs, Vote, VoteEntry,
};

/// Two seconds fresh and ten minutes valid from `valid_after` on.
pub fn lifetime(valid_after: UnixSecs) -> Lifetime {
    Lifetime {
        valid_after,
        fresh_until: valid_after + 2,
        valid_until: valid_after + 600,
    }
}

/// What a consensus of this time and these relays says; all of them run and are exits of weight 100.
pub fn consensus_body(valid_after: UnixSecs, relays: &[u8]) -> ConsensusBody {
    let flags = Flags::VALID | Flags::RUNNING | Flags::EXIT;
    let mut entries: Vec<_> = relays
        .iter()
        .map(|n| Entry::new(&descriptor(*n), flags, 100))
        .collect();
    entries.sort_by_key(|entry| entry.identity);
    ConsensusBody {
        lifetime: lifetime(valid_after),
        params: [("circuit_window_cells".to_owned(), 700)].into(),
        entries,
    }
}

/// The consensus that says this, signed by all authorities.
pub fn consensus(network: &NetworkFile, body: &ConsensusBody) -> Arc<Consensus> {
    let all: Vec<_> = (1..=u8::try_from(network.authorities().len()).unwrap()).collect();
    signed_by(network, body, &all)
}

/// A consensus of these entries, ten seconds fresh and a minute valid, signed by all authorities.
pub fn consensus_of(
    network: &NetworkFile,
    valid_after: UnixSecs,
    entries: Vec<Entry>,
) -> Arc<Consensus> {
    let all: Vec<_> = (1..=u8::try_from(network.authorities().len()).unwrap()).collect();
    consensus_signed(network, valid_after, entries, &all)
}

/// A consensus of these entries, ten seconds fresh and a minute valid, signed by the authorities of these numbers.
pub fn consensus_signed(
    network: &NetworkFile,
    valid_after: UnixSecs,
    mut entries: Vec<Entry>,
    signers: &[u8],
) -> Arc<Consensus> {
    entries.sort_by_key(|entry| entry.identity);
    let lifetime = Lifetime {
        valid_after,
        fresh_until: valid_after + 10,
        valid_until: valid_after + 60,
    };
    let body = ConsensusBody {
        lifetime,
        params: BTreeMap::new(),
        entries,
    };
    signed_by(network, &body, signers)
}

fn signed_by(network: &NetworkFile, body: &ConsensusBody, signers: &[u8]) -> Arc<Consensus> {
    let id = network.network_id();
    let mut signed = SignedConsensus::unsigned(body, &id).unwrap();
    for n in signers {
        signed.sign(&id, &signing_key(*n)).unwrap();
    }
    SignedConsensus::parse_and_verify(&signed.to_bytes().unwrap(), network).unwrap()
}

/// The vote of this authority for these relays, valid after 1,000.
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
    }
}

/// What a vote says of a relay that runs and is an exit, and that nobody measured.
pub fn vote_entry(signed: &SignedDescriptor) -> VoteEntry {
    VoteEntry {
        descriptor: signed.bytes().to_vec(),
        flags: Flags::VALID | Flags::RUNNING | Flags::EXIT,
        measured: None,
    }
}
