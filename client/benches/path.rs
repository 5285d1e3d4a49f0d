//! Benchmarks of the choice of a path, by the number of relays: paths a second, and the tables of one consensus.

#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use cepa_client::path::{ExitTarget, PathRequest, PathSelector};
use cepa_common::dir::{Consensus, Entry, Flags};
use cepa_common::testkit::{authorities, consensus_of, network_named, web_descriptor};
use divan::Bencher;
use divan::counter::ItemsCount;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn main() {
    divan::main();
}

/// Numbers of relays.
const RELAYS: [u32; 3] = [1_000, 10_000, 20_000];

fn consensus(relays: u32) -> Arc<Consensus> {
    let network = network_named("bench", authorities(1), BTreeMap::new());
    let template = web_descriptor(1);
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
    consensus_of(&network, 1_000, entries.collect())
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
