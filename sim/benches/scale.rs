//! Benchmarks of how the directory grows: synthetic consensuses of several sizes, and what they cost (docs/scale.md has
//! the figures).
//!
//! `cargo bench -p cepa-sim --bench scale` prints a table in Markdown; sizes may be given as arguments. Times are
//! processor time of this process and medians of several rounds, so that other work on the machine changes them little.
//! Each size runs in a process of its own, so that its memory can be told from that of the others.
#![allow(clippy::disallowed_methods, reason = "a bench measures the real world")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cepa_client::path::{ExitTarget, PathRequest, PathSelector};
use cepa_common::dir::{
    Consensus, DescriptorCache, Entry, Flags, RelayDescriptor, SignedConsensus, SignedVote, Vote,
    VoteEntry, apply, diff,
};
use cepa_common::ids::RelayId;
use cepa_common::testkit::{authorities, identity, lifetime_of, network_named, signing_key};
use cepa_sim::population::{HOUR, Population, Publisher};
use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::time::{ClockId, clock_gettime};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const AUTHORITIES: u8 = 9;
/// The hours after which as many relays are down as at any later time.
const SETTLED: u64 = 24;

fn main() {
    let sizes: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    match std::env::var("CEPA_SCALE_ONE").as_deref() {
        Ok("vote") => return measure_vote(sizes[0]),
        Ok(_) => return measure(sizes[0]),
        Err(_) => {}
    }
    println!(
        "| relays | bytes | a relay | parse and verify, ms | memory, MiB | tables, ms | paths a second \
         | difference, bytes | made in, ms | applied in, ms | first day, MiB | later days, MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let sizes = if sizes.is_empty() {
        SIZES.to_vec()
    } else {
        sizes
    };
    for size in &sizes {
        measure_apart(*size, "consensus");
    }
    println!();
    println!(
        "| relays | vote, bytes | a relay | first verified in, ms | again, ms | memory, MiB |"
    );
    println!("|---|---|---|---|---|---|");
    for size in &sizes {
        measure_apart(*size, "vote");
    }
}

fn measure_apart(size: usize, what: &str) {
    let status = Command::new(std::env::current_exe().unwrap())
        .arg(size.to_string())
        .env("CEPA_SCALE_ONE", what)
        .status();
    assert!(status.unwrap().success(), "{size} relays");
}

/// Measures the vote that an authority sends to each other authority, and what it costs the receiver: with descriptors
/// that the receiver has never seen, and with descriptors that it has seen before.
fn measure_vote(relays: usize) {
    let network = network_named("scale", authorities(AUTHORITIES), BTreeMap::new());
    let mut population = Population::new(0, NOON, [7; 32]);
    let mut rng = StdRng::seed_from_u64(7);
    let signed = (0..relays).map(|n| {
        let key = SigningKey::from_bytes(&rng.random());
        let descriptor = RelayDescriptor {
            identity: RelayId(key.verifying_key().to_bytes()),
            bandwidth: 100 << rng.random_range(0..10),
            ..population.descriptor(n)
        };
        let signed = descriptor.sign(&network.network_id(), &key).unwrap();
        (descriptor.identity, signed.bytes().to_vec())
    });
    let signed: BTreeMap<RelayId, Vec<u8>> = signed.collect();
    let entries = signed.into_values().map(|descriptor| VoteEntry {
        descriptor,
        flags: Flags::VALID | Flags::RUNNING,
        measured: Some(rng.random_range(100..100_000)),
    });
    let vote = Vote {
        authority: identity(1),
        lifetime: lifetime_of(NOON, HOUR, 24 * HOUR),
        params: BTreeMap::new(),
        entries: entries.collect(),
        values: Vec::new(),
        shares: Vec::new(),
    };
    let bytes = vote
        .sign(&network, &signing_key(1))
        .unwrap()
        .bytes()
        .to_vec();
    drop(vote);
    let cache = DescriptorCache::default();
    let started = cpu_time();
    let held = SignedVote::parse_and_verify_cached(&bytes, &network, &cache).unwrap();
    let first = cpu_time().saturating_sub(started);
    let again = cpu_median(3, || {
        black_box(SignedVote::parse_and_verify_cached(&bytes, &network, &cache).unwrap());
    });
    drop(held);
    println!(
        "| {relays} | {} | {} | {:.0} | {:.1} |",
        bytes.len(),
        bytes.len() / relays,
        millis(first),
        millis(again),
    );
}

fn measure(relays: usize) {
    let (mut population, publisher) = network(relays);
    let network = publisher.network();
    // A relay that is down is not listed, so there are a few more than are asked for.
    population.advance(NOON + SETTLED * HOUR);
    let at = |hour: u64| NOON + hour * HOUR;
    let bytes = publisher.sign(at(SETTLED), entries(&population)).unwrap();
    // The first parse loads the code and fills the allocator's arenas. Memory is counted from then on.
    let small = entries(&Population::new(10, NOON, [8; 32]));
    let small = publisher.sign(NOON, small).unwrap();
    drop(SignedConsensus::parse_and_verify(&small, network).unwrap());
    let before = resident_bytes();
    let consensus = SignedConsensus::parse_and_verify(&bytes, network).unwrap();
    let memory = resident_bytes().saturating_sub(before);
    let parse = cpu_median(5, || {
        black_box(SignedConsensus::parse_and_verify(&bytes, network).unwrap());
    });
    let tables = cpu_median(5, || {
        black_box(PathSelector::new(Arc::clone(&consensus)));
    });
    let paths = paths_per_second(&consensus, &mut StdRng::seed_from_u64(7));
    population.advance(at(SETTLED + 1));
    let later = publisher.publish(at(SETTLED + 1), entries(&population));
    let later = later.unwrap();
    let made = cpu_median(5, || {
        black_box(diff(&consensus, &later).unwrap());
    });
    let difference = diff(&consensus, &later).unwrap();
    let applied = cpu_median(5, || {
        black_box(apply(&consensus, &difference, network).unwrap());
    });
    let day = 24 * difference.len();
    println!(
        "| {relays} | {} | {} | {:.1} | {:.1} | {:.2} | {paths:.0} | {} ({:.1} %) | {:.1} | {:.1} | {:.1} | {:.1} |",
        bytes.len(),
        bytes.len() / relays,
        millis(parse),
        mib(memory),
        millis(tables),
        difference.len(),
        100.0 * f64::from(u32::try_from(difference.len()).unwrap())
            / f64::from(u32::try_from(bytes.len()).unwrap()),
        millis(made),
        millis(applied),
        mib(bytes.len() + day),
        mib(day),
    );
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn paths_per_second(consensus: &Arc<Consensus>, rng: &mut StdRng) -> f64 {
    const PATHS: u32 = 20_000;
    let selector = PathSelector::new(Arc::clone(consensus));
    let taken = cpu_median(3, || {
        for _ in 0..PATHS {
            black_box(
                selector
                    .choose(rng, &PathRequest::new(ExitTarget::V4(443)))
                    .unwrap(),
            );
        }
    });
    f64::from(PATHS) / taken.as_secs_f64()
}

/// The processor time of a call: the median of `rounds` rounds.
fn cpu_median(rounds: usize, mut call: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let before = cpu_time();
            call();
            cpu_time().saturating_sub(before)
        })
        .collect();
    times.sort_unstable();
    times[rounds / 2]
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        now.tv_sec.cast_unsigned(),
        u32::try_from(now.tv_nsec).unwrap(),
    )
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

fn mib(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes / 1_024).unwrap()) / 1_024.0
}

/// Relays as they occur in networks, and the authorities that list them.
fn network(relays: usize) -> (Population, Publisher) {
    let publisher = Publisher::new(AUTHORITIES, [7; 32]).unwrap();
    (Population::new(relays, NOON, [7; 32]), publisher)
}

fn entries(population: &Population) -> Vec<Entry> {
    let listed = population.listed().into_iter();
    listed.map(|(_, entry)| entry.clone()).collect()
}

/// Valid-after of the first consensus, in seconds since 1970.
const NOON: u64 = 1_800_000_000;
