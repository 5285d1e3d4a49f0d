//! Benchmarks of the choice of a path, by the number of relays: paths a second, and the tables of one consensus.

#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use cepa_client::path::{ExitTarget, PathRequest, PathSelector};
use cepa_common::dir::{
    Authority, Consensus, ConsensusBody, Entry, ExitPolicy, Flags, Lifetime, NetworkDraft,
    RelayDescriptor, SignedConsensus,
};
use cepa_common::ids::RelayId;
use cepa_common::onion::Suite;
use divan::Bencher;
use divan::counter::ItemsCount;
use ed25519_dalek::SigningKey;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn main() {
    divan::main();
}

/// Numbers of relays. A consensus holds 20,000 relays at most.
const RELAYS: [u32; 3] = [1_000, 10_000, 20_000];

fn consensus(relays: u32) -> Arc<Consensus> {
    let key = SigningKey::from_bytes(&[1; 32]);
    let authority = Authority {
        name: "authority".to_owned(),
        identity: RelayId([1; 32]),
        signing_key: key.verifying_key().to_bytes(),
        addresses: vec![([20, 0, 0, 1], 1).into()],
    };
    let mut draft = NetworkDraft::new("bench", vec![authority], BTreeMap::new());
    draft.sign(&key).unwrap();
    let network = draft.finish().unwrap();
    let web = ExitPolicy::from_rules(["accept *:80", "accept *:443"]).unwrap();
    let template = RelayDescriptor {
        identity: RelayId([0; 32]),
        key_cert: None,
        onion_key: [1; 32],
        suite: Suite::ChaCha20Poly1305,
        addresses: Vec::new(),
        published: 1_000,
        bandwidth: 1_000,
        offers: Flags::NONE,
        policy: web.summary(),
        family: None,
        nickname: "relay".to_owned(),
        version: "0.1.0".to_owned(),
    };
    let entries = (0..relays).map(|n| {
        let mut descriptor = template.clone();
        descriptor.identity.0[..4].copy_from_slice(&n.to_be_bytes());
        let [_, _, high, low] = n.to_be_bytes();
        descriptor.addresses = vec![([20 + high, low, 1, 1], 9_000).into()];
        let flags = (Flags::VALID | Flags::RUNNING)
            .with_if(Flags::GUARD, n % 3 == 0)
            .with_if(Flags::EXIT, n % 5 == 0);
        Entry::new(&descriptor, flags, 1 + n * 7_919 % 10_000)
    });
    let body = ConsensusBody {
        lifetime: Lifetime {
            valid_after: 1_000,
            fresh_until: 2_000,
            valid_until: 3_000,
        },
        params: BTreeMap::new(),
        entries: entries.collect(),
    };
    let id = network.network_id();
    let mut signed = SignedConsensus::unsigned(&body, &id).unwrap();
    signed.sign(&id, &key).unwrap();
    SignedConsensus::parse_and_verify(&signed.to_bytes().unwrap(), &network).unwrap()
}

#[divan::bench(args = RELAYS, sample_size = 1_000)]
fn choose(bencher: Bencher<'_, '_>, relays: u32) {
    let selector = PathSelector::new(consensus(relays));
    let mut rng = StdRng::seed_from_u64(1);
    let request = PathRequest::new(ExitTarget::V4(443));
    bencher
        .counter(ItemsCount::new(1u32))
        .bench_local(|| selector.choose(&mut rng, &request));
}

#[divan::bench(args = RELAYS)]
fn prepare(bencher: Bencher<'_, '_>, relays: u32) {
    let consensus = consensus(relays);
    bencher
        .counter(ItemsCount::new(1u32))
        .bench(|| PathSelector::new(consensus.clone()));
}
