//! Samples of documents that relays and authorities sign, and of the files that name their keys.

use std::collections::BTreeMap;

use cepa_common::dir::{
    AuthorityCert, ConsensusBody, Endorsement, Entry, EquivocationProof, FamilyFile,
    FamilyMembership, Flags, KeyCert, LinkCertificate, NetworkDraft, NetworkFile, Permit,
    RandomShare, RandomValue, RelayDescriptor, SignedConsensus, Signer, Vote, VoteEntry, diff,
    local_network_params,
};
use cepa_common::ids::{NetworkId, RelayId};
use ed25519_dalek::SigningKey;

use super::{
    Seed, authority_key, consensus_of, descriptor, lifetime, network, relay_id, relay_key,
};

/// The next revision of the network.
fn revision() -> String {
    let mut draft = NetworkDraft::revise(&network(), 1_900_000_000);
    let signed = draft.sign(&authority_key());
    signed.and_then(|()| draft.to_toml()).unwrap_or_default()
}

/// The authority's signer with a key that the authority certified.
fn certified() -> Signer {
    let key = SigningKey::from_bytes(&[3; 32]);
    let public = key.verifying_key().to_bytes();
    let id = network().network_id();
    let cert = AuthorityCert::issue(&authority_key(), &id, public, u64::MAX);
    let signer = cert.and_then(|cert| Signer::certified(key, cert));
    signer.unwrap_or_else(|_| authority_key().into())
}

fn endorsements(network: &NetworkFile, vote: &Vote) -> Vec<Seed> {
    let mut other = vote.clone();
    other.entries.clear();
    let endorse = |vote: &Vote| {
        let vote = vote.sign(network, &authority_key()).ok()?;
        Endorsement::of_vote(&vote, network, &authority_key()).ok()
    };
    let (Some(one), Some(other)) = (endorse(vote), endorse(&other)) else {
        return Vec::new();
    };
    let bytes = one.to_bytes().unwrap_or_default();
    // The body stands behind the header of six bytes and before the only signature of 100 bytes.
    let end = bytes.len().saturating_sub(100);
    let body = bytes.get(6..end).unwrap_or_default().to_vec();
    let proof = EquivocationProof::new(&one, &other);
    let proof = EquivocationProof::to_bytes(&proof).unwrap_or_default();
    let half = proof.get(..proof.len() / 2).unwrap_or_default().to_vec();
    vec![
        (
            "endorsement",
            "short",
            body.get(..40).unwrap_or_default().to_vec(),
        ),
        ("endorsement", "good", body),
        ("proof", "half", half),
        ("proof", "good", proof),
    ]
}

fn permits() -> Vec<Seed> {
    let mut permit = Permit {
        relay: relay_id(),
        made: 1_900_000_000,
        bytes: 65_536,
        nonce: [5; 16],
    };
    let good = postcard::to_allocvec(&permit).unwrap_or_default();
    permit.bytes = u32::MAX;
    let huge = postcard::to_allocvec(&permit).unwrap_or_default();
    let short = good.get(..30).unwrap_or_default().to_vec();
    vec![
        ("permit", "short", short),
        ("permit", "huge", huge),
        ("permit", "good", good),
    ]
}

pub(super) fn documents() -> Vec<Seed> {
    let network = network();
    let text = network.to_toml().unwrap_or_default();
    let mut seeds = vec![
        (
            "network",
            "unsigned",
            text.replace("signature", "comment").into_bytes(),
        ),
        ("network", "good", text.into_bytes()),
        ("network", "good_revision", revision().into_bytes()),
        ("policy", "good_all", b"accept *:*".to_vec()),
        (
            "policy",
            "good_some",
            b"reject 10.0.0.0/8:*, accept *6:80-443\naccept *:22".to_vec(),
        ),
        (
            "policy",
            "good_lists",
            b"reject *:22,chat, accept *4:80,443,8000-8999\nreduced".to_vec(),
        ),
        ("policy", "broken", b"accept 1.2.3.4/33:0-99999".to_vec()),
    ];
    seeds.extend(permits());
    let descriptor = descriptor();
    let body = |bytes: Result<Vec<u8>, postcard::Error>| bytes.unwrap_or_default();
    let encoded = body(postcard::to_allocvec(&descriptor));
    seeds.push(("descriptor", "short", encoded[..40].to_vec()));
    seeds.push(("descriptor", "trailing", [&encoded[..], &[0]].concat()));
    seeds.push(("descriptor", "good", encoded));
    let params: BTreeMap<_, _> = local_network_params();
    if let Ok(signed) = descriptor.sign(&network.network_id(), &relay_key()) {
        let vote = Vote {
            authority: relay_id(),
            lifetime: lifetime(),
            params: params.clone(),
            entries: vec![VoteEntry {
                descriptor: signed.bytes().to_vec(),
                flags: Flags::GUARD,
                measured: Some(5),
            }],
            values: random_values(),
            shares: vec![RandomShare {
                authority: relay_id(),
                commit: [3; 32],
                reveal: Some([4; 32]),
            }],
        };
        seeds.push(("vote", "good", body(postcard::to_allocvec(&vote))));
        seeds.push(("envelope", "good_descriptor", signed.bytes().to_vec()));
        seeds.extend(endorsements(&network, &vote));
        if let Ok(vote) = vote.sign(&network, &authority_key()) {
            seeds.push(("envelope", "good_vote", vote.bytes().to_vec()));
        }
        if let Ok(vote) = vote.sign(&network, &certified()) {
            seeds.push(("envelope", "good_vote_certified", vote.bytes().to_vec()));
        }
    }
    let consensus = ConsensusBody {
        lifetime: lifetime(),
        params,
        entries: vec![Entry::new(&descriptor, Flags::GUARD, 5)],
        values: random_values(),
    };
    seeds.push(("consensus", "good", body(postcard::to_allocvec(&consensus))));
    if let Ok(mut consensus) = SignedConsensus::unsigned(&consensus, &network.network_id()) {
        if let Ok(signature) = consensus.sign(&network.network_id(), &authority_key()) {
            let bytes = signature.bytes().to_vec();
            // The body stands behind the header of six bytes and before the only signature of 100 bytes.
            let end = bytes.len().saturating_sub(100);
            let inner = bytes.get(6..end).unwrap_or_default().to_vec();
            seeds.push(("consensus_signature", "good", inner));
            seeds.push(("envelope", "good_consensus_signature", bytes));
        }
        if let Ok(bytes) = consensus.to_bytes() {
            seeds.push(("envelope", "good_consensus", bytes));
        }
        if let Ok(signature) = consensus.sign(&network.network_id(), &certified()) {
            let bytes = signature.bytes().to_vec();
            // The body stands behind the header of six bytes and before the only signature of 204 bytes.
            let end = bytes.len().saturating_sub(204);
            let inner = bytes.get(6..end).unwrap_or_default().to_vec();
            seeds.push(("consensus_signature", "good_certified", inner));
            seeds.push(("envelope", "good_consensus_signature_certified", bytes));
        }
    }
    let other = |later, relays| consensus_of(&network, later, relays);
    let old = other(0, 2);
    for (name, newer) in [("good_more", other(1, 3)), ("good_less", other(2, 1))] {
        let bytes = diff(&old, &newer).unwrap_or_default();
        let mut wrong = bytes.clone();
        // A bit of the lifetime is changed: the result decodes, and nobody signed it.
        if let Some(byte) = wrong.get_mut(38) {
            *byte ^= 1;
        }
        seeds.push(("difference", name, bytes));
        seeds.push(("difference", "wrong", wrong));
    }
    seeds.push(("envelope", "endless", vec![2, 1, 0xff, 0xff, 0xff, 0xff, 0]));
    seeds
}

/// A certificate of the relay for another key, its membership in a family, and a descriptor that has both.
pub(super) fn key_files() -> Vec<Seed> {
    let id = network().network_id();
    let (identity, family) = (authority_key(), SigningKey::from_bytes(&[9; 32]));
    let relay = RelayId(identity.verifying_key().to_bytes());
    let certificate = LinkCertificate {
        identity: relay,
        made: 1_800_000_000,
        cert: KeyCert::new(&identity, &id, relay_id().0, 1_807_776_000),
    };
    let membership = FamilyFile {
        identity: relay,
        membership: FamilyMembership::new(&family, &id, &relay),
    };
    let both = RelayDescriptor {
        identity: relay,
        key_cert: Some(certificate.cert.clone()),
        family: Some(membership.membership.clone()),
        ..descriptor()
    };
    let both = postcard::to_allocvec(&both).unwrap_or_default();
    vec![
        (
            "key_file",
            "good_certificate",
            certificate.to_toml(&id).into_bytes(),
        ),
        (
            "key_file",
            "good_membership",
            membership.to_toml(&id).into_bytes(),
        ),
        (
            "key_file",
            "of_another_network",
            certificate.to_toml(&NetworkId([1; 32])).into_bytes(),
        ),
        ("descriptor", "good_certified_in_a_family", both),
    ]
}

/// The random values of two periods.
fn random_values() -> Vec<RandomValue> {
    let value = |period| RandomValue {
        period,
        value: [7; 32],
    };
    vec![value(8), value(9)]
}
