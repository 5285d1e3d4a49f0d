//! Targets for what a client's owner and the disk hand over: the client's own state, lists and files from elsewhere.

use std::net::IpAddr;
use std::path::Path;

use cepa_client::guard::{BiasLedger, GuardSet};
use cepa_client::path::{DestinationRule, DestinationSet, GeoIp, PeerSet};
use cepa_common::dir::AuthorityCert;
use cepa_common::ids::NetworkId;
use cepa_common::stream::StreamHost;

use crate::documents::the_network;

/// The network of the guards in the samples.
pub(crate) const GUARDS_OF: NetworkId = NetworkId([7; 32]);

/// Reads the guards' state. A state that is accepted is written and read again without a change.
pub(crate) fn guards(data: &[u8]) -> bool {
    let Ok(set) = GuardSet::from_state(data, GUARDS_OF) else {
        return false;
    };
    let written = set.to_state();
    let again = GuardSet::from_state(&written, GUARDS_OF).map(|set| set.to_state());
    assert_eq!(again, Ok(written));
    true
}

/// Reads the counts of each guard's circuits. Counts that are accepted are written and read again without a change.
pub(crate) fn bias(data: &[u8]) -> bool {
    let Some(ledger) = BiasLedger::from_state(data) else {
        return false;
    };
    let written = ledger.to_state();
    let again = BiasLedger::from_state(&written).map(|ledger| ledger.to_state());
    assert_eq!(again, Some(written));
    true
}

/// Reads an item of the owner's lists: of relays, of destinations, or a rule. An item that is accepted must mean the
/// same when it is written again.
pub(crate) fn peers(data: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(data) else {
        return false;
    };
    let peer = text.parse::<PeerSet>();
    if let Ok(peer) = &peer {
        assert_eq!(peer.to_string().parse().as_ref(), Ok(peer));
    }
    let destination = text.parse::<DestinationSet>();
    if let Ok(set) = &destination {
        assert_eq!(set.to_string().parse().as_ref(), Ok(set));
        let hosts = [
            StreamHost::Name("www.example.org".to_owned()),
            StreamHost::Ip([192, 0, 2, 1].into()),
            StreamHost::Ip(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])),
        ];
        for host in hosts {
            let _ = set.contains(&host, 443);
        }
    }
    let rule = text.parse::<DestinationRule>();
    if let Ok(rule) = &rule {
        assert!(!rule.destinations.is_empty());
    }
    peer.is_ok() || destination.is_ok() || rule.is_ok()
}

/// Reads the certificate of an authority's voting key, which is carried from where the long-term key is kept.
pub(crate) fn authority_cert(data: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(data) else {
        return false;
    };
    let id = the_network().network_id();
    let Ok(cert) = AuthorityCert::parse(text, &id) else {
        return false;
    };
    assert_eq!(AuthorityCert::parse(&cert.to_text(), &id), Ok(cert));
    true
}

/// Reads a GeoIP file. A file that is accepted is asked for addresses of every kind.
pub(crate) fn geoip(data: &[u8]) -> bool {
    let Ok(geoip) = GeoIp::from_bytes(data.to_vec(), Path::new("fuzz")) else {
        return false;
    };
    let mut found = false;
    for ip in [[192, 0, 2, 1], [20, 3, 255, 1], [0; 4], [255; 4]] {
        found |= geoip.country(ip.into()).is_some();
    }
    for ip in [[0; 8], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0xffff; 8]] {
        found |= geoip.country(IpAddr::from(ip)).is_some();
    }
    found
}
