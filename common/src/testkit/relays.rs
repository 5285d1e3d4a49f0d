//! Relays' descriptions of themselves.

use std::sync::LazyLock;

use super::keys::{address, identity, link_key};
use crate::dir::{
    Entry, ExitPolicy, Flags, NetworkFile, PolicySummary, RelayDescriptor, SignedDescriptor,
    UnixSecs,
};
use crate::onion::Suite;

/// The descriptor of relay `n`, published at 1,000: a guard that lets all streams and datagrams out.
pub fn descriptor(n: u8) -> RelayDescriptor {
    descriptor_at(n, 1_000)
}

/// The descriptor of relay `n`, published at this time: a guard that lets all streams and datagrams out.
pub fn descriptor_at(n: u8, published: UnixSecs) -> RelayDescriptor {
    let all = ExitPolicy::from_rules(["accept *:*"]).unwrap().summary();
    RelayDescriptor {
        identity: identity(n),
        key_cert: None,
        onion_key: [n; 32],
        suite: Suite::ChaCha20Poly1305,
        addresses: vec![address(n)],
        published,
        bandwidth: 1_000,
        offers: Flags::GUARD,
        policy: all.clone(),
        udp: all,
        family: None,
        nickname: format!("relay{n}"),
        version: "0.1.0".to_owned(),
        contact: String::new(),
        away: None,
    }
}

/// The descriptor of relay `n`, which lets streams out to ports 80 and 443 of IPv4 addresses and offers nothing more.
pub fn web_descriptor(n: u8) -> RelayDescriptor {
    // The policy is made once, because its summary goes through all ports.
    static POLICY: LazyLock<PolicySummary> = LazyLock::new(|| {
        ExitPolicy::from_rules(["accept *4:80", "accept *4:443"])
            .unwrap()
            .summary()
    });
    RelayDescriptor {
        offers: Flags::NONE,
        policy: POLICY.clone(),
        udp: PolicySummary::reject_all(),
        ..descriptor(n)
    }
}

/// What a consensus says of the relay of [`web_descriptor`]`(n)`.
pub fn web_entry(n: u8, flags: Flags, weight: u32) -> Entry {
    Entry::new(&web_descriptor(n), flags, weight)
}

/// The descriptor of relay `n`, signed by its link key.
pub fn signed_descriptor(network: &NetworkFile, n: u8) -> SignedDescriptor {
    descriptor(n)
        .sign(&network.network_id(), &link_key(n))
        .unwrap()
}
