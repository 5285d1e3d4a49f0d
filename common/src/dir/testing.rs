//! Networks, relays and keys for the tests of this room.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ed25519_dalek::SigningKey;

use super::*;
use crate::ids::RelayId;
use crate::onion::Suite;

pub(crate) fn signing_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[100 + n; 32])
}

pub(crate) fn link_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub(crate) fn identity(n: u8) -> RelayId {
    RelayId(link_key(n).verifying_key().to_bytes())
}

pub(crate) fn draft(authorities: u8) -> NetworkDraft {
    let list: Vec<_> = (1..=authorities)
        .map(|n| Authority {
            name: format!("authority {n}"),
            identity: identity(n),
            signing_key: signing_key(n).verifying_key().to_bytes(),
            addresses: vec![([127, 0, 0, 1], 5000 + u16::from(n)).into()],
        })
        .collect();
    NetworkDraft::new("test", list, local_network_params())
}

pub(crate) fn network(authorities: u8) -> NetworkFile {
    let mut draft = draft(authorities);
    for n in 1..=authorities {
        draft.sign(&signing_key(n)).unwrap();
    }
    draft.finish().unwrap()
}

pub(crate) fn descriptor(n: u8) -> RelayDescriptor {
    RelayDescriptor {
        identity: identity(n),
        key_cert: None,
        onion_key: [n; 32],
        suite: Suite::ChaCha20Poly1305,
        addresses: vec![([127, 0, 0, 1], 6000 + u16::from(n)).into()],
        published: 1_000,
        bandwidth: 1_000,
        offers: Flags::GUARD,
        policy: ExitPolicy::from_rules(["accept *:*"]).unwrap().summary(),
        family: None,
        nickname: format!("relay{n}"),
        version: "0.1.0".to_owned(),
    }
}

pub(crate) fn consensus_body(valid_after: UnixSecs, relays: &[u8]) -> ConsensusBody {
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

pub(crate) fn lifetime(valid_after: UnixSecs) -> Lifetime {
    Lifetime {
        valid_after,
        fresh_until: valid_after + 2,
        valid_until: valid_after + 600,
    }
}

pub(crate) fn consensus(network: &NetworkFile, body: &ConsensusBody) -> std::sync::Arc<Consensus> {
    let id = network.network_id();
    let mut signed = SignedConsensus::unsigned(body, &id).unwrap();
    for n in 1..=u8::try_from(network.authorities().len()).unwrap() {
        signed.sign(&id, &signing_key(n)).unwrap();
    }
    SignedConsensus::parse_and_verify(&signed.to_bytes().unwrap(), network).unwrap()
}

pub(crate) fn vote(network: &NetworkFile, authority: u8, relays: &[u8]) -> Vote {
    let mut relays: Vec<_> = relays.iter().map(|n| descriptor_of(network, *n)).collect();
    relays.sort_by_key(|signed| signed.descriptor().identity);
    let entries = relays.iter().map(vote_entry).collect();
    Vote {
        authority: identity(authority),
        lifetime: lifetime(1_000),
        params: [].into(),
        entries,
    }
}

pub(crate) fn descriptor_of(network: &NetworkFile, n: u8) -> SignedDescriptor {
    descriptor(n)
        .sign(&network.network_id(), &link_key(n))
        .unwrap()
}

pub(crate) fn vote_entry(signed: &SignedDescriptor) -> VoteEntry {
    VoteEntry {
        descriptor: signed.bytes().to_vec(),
        flags: Flags::VALID | Flags::RUNNING | Flags::EXIT,
        measured: None,
    }
}
