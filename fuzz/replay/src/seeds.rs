//! The samples that the corpora start from: good ones for each parser, and broken ones. `cargo run -p cepa-fuzz-targets
//! --example seeds` writes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use cepa_common::dir::{
    AuthorityEntry, Consensus, ConsensusBody, Entry, Flags, Lifetime, NetworkFile, RelayDescriptor,
    local_network_params,
};
use cepa_common::ids::RelayId;
use cepa_common::testkit;
use ed25519_dalek::SigningKey;

mod cells;
mod dns;
mod documents;
mod front;
mod owner;
mod packets;
mod payloads;

/// One sample: its target, its name, its bytes.
pub type Seed = (&'static str, &'static str, Vec<u8>);

/// When the relay published itself and the first consensus began, in seconds since 1970.
const BEGAN: u64 = 1_800_000_000;

/// The key that signs votes and consensuses of [`network`].
pub fn authority_key() -> SigningKey {
    testkit::signing_key(1)
}

/// The key of the only relay, whose public half is its identity. The relay is the authority's too.
pub fn relay_key() -> SigningKey {
    testkit::link_key(1)
}

fn relay_id() -> RelayId {
    testkit::identity(1)
}

/// The network that the documents belong to. The network has one authority.
///
/// # Panics
/// If the rules for networks have changed, so that this network is no longer valid.
pub fn network() -> NetworkFile {
    let authority = AuthorityEntry {
        name: "authority".to_owned(),
        ..testkit::authority(1)
    };
    testkit::network_named("fuzz", vec![authority], local_network_params())
}

fn descriptor() -> RelayDescriptor {
    RelayDescriptor {
        nickname: "relay".to_owned(),
        ..testkit::descriptor_at(1, BEGAN)
    }
}

fn lifetime() -> Lifetime {
    testkit::lifetime_of(BEGAN, 3_600, 10_800)
}

/// All samples.
pub fn all() -> Vec<Seed> {
    [
        front::front(),
        front::socks_udp(),
        cells::cells(),
        payloads::payloads(),
        payloads::datagrams(),
        dns::dns(),
        packets::packets(),
        documents::documents(),
        documents::key_files(),
        owner::owner(),
    ]
    .concat()
}

/// A signed consensus of `relays` relays, `later` seconds after the first.
pub fn consensus_of(network: &NetworkFile, later: u64, relays: u8) -> Arc<Consensus> {
    let first = lifetime();
    let entry = |n: u8| {
        let mut entry = Entry::new(
            &descriptor(),
            Flags::GUARD,
            5 + u32::from(n) * u32::from(relays),
        );
        entry.identity = RelayId([n; 32]);
        entry.version = format!("0.{}.{relays}", n / 2);
        entry
    };
    let body = ConsensusBody {
        lifetime: Lifetime {
            valid_after: first.valid_after + later,
            ..first
        },
        params: BTreeMap::from([
            (format!("of_{relays}"), u32::from(relays)),
            ("same".to_owned(), 1),
        ]),
        entries: (1..=relays).map(entry).collect(),
        values: Vec::new(),
    };
    testkit::consensus(network, &body)
}

/// Removes the zeros at the end, which the targets add.
fn trimmed(bytes: &[u8]) -> Vec<u8> {
    let len = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    bytes[..len].to_vec()
}
