//! What a relay says of itself when it starts (docs/protocol.md, 6.6).

use std::net::SocketAddr;

use cepa_common::dir::{FamilyMembership, Flags, RelayDescriptor, UnixSecs};
use cepa_common::handshake::OnionPublicKey;

use crate::options::{ExitOptions, RelayOptions, Settings};

/// What a relay says that it can carry until its bandwidth is measured (KiB a second).
const DEFAULT_BANDWIDTH_KIB: u32 = 10_000;

/// Flags that a relay is willing to have.
pub(crate) const OFFERS: Flags = Flags::GUARD.and(Flags::HSDIR);

/// The descriptor that a relay starts with. `onion` is its newest onion key, and `listening` the address that it
/// listens on.
pub(crate) fn own_descriptor(
    options: &RelayOptions,
    onion: OnionPublicKey,
    listening: SocketAddr,
    published: UnixSecs,
    family: Option<FamilyMembership>,
) -> RelayDescriptor {
    let identity = &options.identity;
    let exit = options.exit.as_ref();
    let (policy, udp) = exit.map(ExitOptions::summaries).unwrap_or_default();
    RelayDescriptor {
        identity: identity.identity(),
        key_cert: identity.key_cert(),
        onion_key: onion.key,
        suite: onion.suite,
        addresses: addresses(&options.advertised, listening),
        published,
        bandwidth: claim_kib(options.claim_kib, options.limits.bandwidth_kib),
        offers: OFFERS,
        policy,
        udp,
        family,
        nickname: options.nickname.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        contact: String::new(),
        away: None,
    }
}

/// Puts into a descriptor what the owner has changed. Returns whether anything is different.
pub(crate) fn change(held: &mut RelayDescriptor, settings: &Settings) -> bool {
    let (policy, udp) = match &settings.exit {
        Some(exit) => exit.summaries(),
        None => (held.policy.clone(), held.udp.clone()),
    };
    let next = RelayDescriptor {
        bandwidth: claim_kib(settings.claim_kib, settings.limits.bandwidth_kib),
        policy,
        udp,
        nickname: settings.nickname.clone(),
        ..held.clone()
    };
    let is_other = next != *held;
    *held = next;
    is_other
}

/// Where others reach a relay that listens at `listening`: there, or where its owner says. Port 0 stands for the port
/// that the relay listens on.
pub(crate) fn addresses(advertised: &[SocketAddr], listening: SocketAddr) -> Vec<SocketAddr> {
    let listed = |address: &SocketAddr| match address.port() {
        0 => SocketAddr::new(address.ip(), listening.port()),
        _ => *address,
    };
    match advertised {
        [] => vec![listening],
        some => some.iter().map(listed).collect(),
    }
}

/// What a relay says that it carries (KiB a second): what its owner says, or else what is usual, or its limit if that
/// is lower. A limit of zero is no limit.
fn claim_kib(claim: Option<u32>, limit: u32) -> u32 {
    let usual = match limit {
        0 => DEFAULT_BANDWIDTH_KIB,
        limit => limit.min(DEFAULT_BANDWIDTH_KIB),
    };
    claim.unwrap_or(usual)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::dir::ExitPolicy;

    use super::*;

    #[test]
    fn a_relay_says_where_it_listens_unless_its_owner_knows_better() {
        let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let listening = SocketAddr::from(([127, 0, 0, 1], 9001));
        assert_eq!(addresses(&[], listening), [listening]);
        assert_eq!(addresses(&[at(0), at(443)], listening), [at(9001), at(443)]);
    }

    #[test]
    fn datagrams_leave_by_their_own_policy_where_streams_do() {
        let policy = |text: &str| text.parse::<ExitPolicy>().unwrap();
        let summaries = |policy: &ExitPolicy, udp_policy: &ExitPolicy| {
            let options = ExitOptions {
                policy: policy.clone(),
                udp_policy: udp_policy.clone(),
                resolver: None,
            };
            options.summaries()
        };
        let (web, dns) = (policy("accept *:443"), policy("accept *6:53"));
        let (streams, datagrams) = summaries(&web, &dns);
        assert!(streams.allows_v4(443) && !streams.allows_port(53));
        assert!(datagrams.allows_v6(53) && !datagrams.allows_v4(53) && !datagrams.allows_port(443));
        let none = ExitPolicy::reject_all();
        assert!(summaries(&web, &none).1.is_reject_all());
        let (streams, datagrams) = summaries(&none, &dns);
        assert!(streams.is_reject_all() && datagrams.is_reject_all());
    }

    #[test]
    fn a_claim_is_the_owners_else_the_usual_within_the_limit() {
        assert_eq!(claim_kib(None, 0), DEFAULT_BANDWIDTH_KIB);
        assert_eq!(claim_kib(None, 500), 500);
        assert_eq!(claim_kib(None, 50_000), DEFAULT_BANDWIDTH_KIB);
        assert_eq!(claim_kib(Some(70_000), 500), 70_000);
    }
}
