//! Benchmarks of how the directory grows: synthetic consensuses of several sizes, and what they cost (docs/scale.md has
//! the figures).
//!
//! `cargo bench -p cepa-client --bench scale` prints a table in Markdown; sizes may be given as arguments. Times are
//! processor time of this process and medians of several rounds, so that other work on the machine changes them little.
//! Each size runs in a process of its own, so that its memory can be told from that of the others.
#![allow(clippy::disallowed_methods, reason = "a bench measures the real world")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cepa_client::path::{ExitTarget, PathRequest, PathSelector};
use cepa_common::dir::{
    Consensus, ConsensusBody, DescriptorCache, Entry, ExitPolicy, Flags, Lifetime, NetworkFile,
    PolicySummary, RelayDescriptor, SignedConsensus, SignedVote, Vote, VoteEntry, apply, diff,
};
use cepa_common::ids::RelayId;
use cepa_common::onion::Suite;
use cepa_common::testkit::{
    self, authorities, body_of, consensus_bytes, identity, lifetime_of, network_named, params,
    signing_key,
};
use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::time::{ClockId, clock_gettime};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const AUTHORITIES: u8 = 9;
/// Percentage of the relays that leave in an hour. As many come.
const CHURN_PERCENT: usize = 1;

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
    let network = network();
    let mut rng = StdRng::seed_from_u64(7);
    let policies = policies();
    let signed = (0..relays).map(|n| {
        let key = SigningKey::from_bytes(&rng.random());
        let descriptor = RelayDescriptor {
            identity: RelayId(key.verifying_key().to_bytes()),
            bandwidth: 100 << rng.random_range(0..10),
            published: NOON,
            ..descriptor(n, &policies, &mut rng)
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
        lifetime: lifetime(NOON),
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
    let network = network();
    let mut rng = StdRng::seed_from_u64(7);
    let relays_now = entries(&mut rng, relays);
    let bytes = sign(&network, NOON, relays_now.clone());
    // The first parse loads the code and fills the allocator's arenas. Memory is counted from then on.
    let small = sign(&network, NOON, entries(&mut rng, 10));
    drop(SignedConsensus::parse_and_verify(&small, &network).unwrap());
    let before = resident_bytes();
    let consensus = SignedConsensus::parse_and_verify(&bytes, &network).unwrap();
    let memory = resident_bytes().saturating_sub(before);
    let parse = cpu_median(5, || {
        black_box(SignedConsensus::parse_and_verify(&bytes, &network).unwrap());
    });
    let tables = cpu_median(5, || {
        black_box(PathSelector::new(Arc::clone(&consensus)));
    });
    let paths = paths_per_second(&consensus, &mut rng);
    let later = sign(&network, NOON + 3_600, an_hour_later(&relays_now, &mut rng));
    let later = SignedConsensus::parse_and_verify(&later, &network).unwrap();
    let made = cpu_median(5, || {
        black_box(diff(&consensus, &later).unwrap());
    });
    let difference = diff(&consensus, &later).unwrap();
    let applied = cpu_median(5, || {
        black_box(apply(&consensus, &difference, &network).unwrap());
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

fn network() -> NetworkFile {
    network_named("scale", authorities(AUTHORITIES), BTreeMap::new())
}

/// Valid-after of the first consensus, in seconds since 1970.
const NOON: u64 = 1_800_000_000;

fn entries(rng: &mut StdRng, relays: usize) -> Vec<Entry> {
    let policies = policies();
    let mut entries: Vec<Entry> = (0..relays).map(|n| entry(n, &policies, rng)).collect();
    entries.sort_by_key(|entry| entry.identity);
    entries
}

/// The lifetime of a network that votes each hour.
fn lifetime(valid_after: u64) -> Lifetime {
    lifetime_of(valid_after, 3_600, 86_400)
}

/// Makes a consensus that all authorities have signed.
fn sign(network: &NetworkFile, valid_after: u64, entries: Vec<Entry>) -> Vec<u8> {
    let body = ConsensusBody {
        params: params(&[("circuit_window_cells", 600)]),
        ..body_of(lifetime(valid_after), entries)
    };
    let all: Vec<u8> = (1..=AUTHORITIES).collect();
    consensus_bytes(network, &body, &all)
}

/// Exit policies as they occur in networks. The first is that of relays that are no exits.
fn policies() -> Vec<PolicySummary> {
    const EXITS: [&str; 4] = [
        "accept *:*",
        "reject *:25, accept *:*",
        "accept *:80, accept *:443",
        "accept *:20-23, accept *:43, accept *:53, accept *:79-81, accept *:88, accept *:110, accept *:143, \
         accept *:194, accept *:220, accept *:389, accept *:443, accept *:464-465, accept *:531, accept *:993-995",
    ];
    let exits = EXITS.map(|text| text.parse::<ExitPolicy>().unwrap());
    let none = ExitPolicy::reject_all();
    [none]
        .iter()
        .chain(&exits)
        .map(ExitPolicy::summary)
        .collect()
}

/// What exits let datagrams out to unless their owners say otherwise, which few will.
fn datagrams() -> &'static PolicySummary {
    static SUMMARY: LazyLock<PolicySummary> = LazyLock::new(|| {
        const USUAL: &str = "accept *:53, accept *:123, accept *:443, reject *:1-1023, reject *:1900, \
            reject *:5353, reject *:11211, accept *:*";
        USUAL.parse::<ExitPolicy>().unwrap().summary()
    });
    &SUMMARY
}

/// A descriptor as they occur in networks: a third of the relays are exits of a few kinds, and half have IPv6.
fn descriptor(n: usize, policies: &[PolicySummary], rng: &mut StdRng) -> RelayDescriptor {
    let policy = match n % 3 {
        0 => &policies[rng.random_range(0..policies.len())],
        _ => &policies[0],
    };
    let v4 = Ipv4Addr::from(rng.random_range(0x0100_0000u32..0x0a00_0000));
    let mut addresses = vec![SocketAddr::from((v4, rng.random_range(1..u16::MAX)))];
    if n.is_multiple_of(2) {
        let low: [u16; 4] = rng.random();
        let ip = [
            0x2600,
            rng.random(),
            rng.random(),
            0,
            low[0],
            low[1],
            low[2],
            low[3],
        ];
        addresses.push(SocketAddr::from((ip, 9_001)));
    }
    RelayDescriptor {
        identity: RelayId(rng.random()),
        onion_key: rng.random(),
        suite: Suite::Aes256Gcm,
        addresses,
        policy: policy.clone(),
        udp: match policy.is_reject_all() {
            true => PolicySummary::reject_all(),
            false => datagrams().clone(),
        },
        nickname: format!("relay{n}"),
        ..testkit::web_descriptor(1)
    }
}

/// A relay's entry in a consensus. Weights are far apart.
fn entry(n: usize, policies: &[PolicySummary], rng: &mut StdRng) -> Entry {
    let descriptor = descriptor(n, policies, rng);
    let exit = if descriptor.policy.is_reject_all() {
        Flags::NONE
    } else {
        Flags::EXIT
    };
    let guard = if rng.random_ratio(4, 10) {
        Flags::GUARD | Flags::HSDIR
    } else {
        Flags::NONE
    };
    let flags = Flags::VALID | Flags::RUNNING | Flags::FAST | Flags::STABLE | exit | guard;
    let weight = 100u32 << rng.random_range(0..10);
    Entry::new(&descriptor, flags, weight)
}

/// What an hour changes: some relays leave, as many come, a tenth of the weights move, and onion keys that are a week
/// old are replaced.
fn an_hour_later(entries: &[Entry], rng: &mut StdRng) -> Vec<Entry> {
    let moved = entries.len() * CHURN_PERCENT / 100;
    let policies = policies();
    let mut later = entries.to_vec();
    for _ in 0..moved {
        let n = rng.random_range(0..later.len());
        later[n] = entry(rng.random_range(0..1 << 30), &policies, rng);
    }
    for entry in &mut later {
        if rng.random_ratio(1, 10) {
            entry.weight += rng.random_range(1..=entry.weight / 10 + 1);
        }
        if rng.random_ratio(1, 7 * 24) {
            entry.onion_key = rng.random();
        }
    }
    later.sort_by_key(|entry| entry.identity);
    later
}
