//! The operator's rules about relays: which an authority does not take, and which it lists for the middle of paths only
//! (docs/config.md).

use std::net::{IpAddr, Ipv6Addr};

use cepa_common::dir::RelayDescriptor;
use cepa_common::ids::RelayId;

/// An item of a list is neither an identity nor a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither an identity (64 hex digits) nor an address or range (192.0.2.0/24, 2001:db8::/32)"
)]
pub struct OperatorListError(String);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Relay(RelayId),
    /// An address as IPv6 (IPv4 is mapped), and how many bits of it count.
    Range(u128, u32),
}

/// A list of relays, by identity or by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorList(Vec<Item>);

fn as_v6(ip: IpAddr) -> u128 {
    let v6 = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    u128::from(v6)
}

/// A number with the highest `bits` bits set.
fn mask(bits: u32) -> u128 {
    u128::MAX
        .checked_shl(Ipv6Addr::BITS - bits)
        .unwrap_or_default()
}

fn parse(text: &str) -> Option<Item> {
    if let Some(relay) = RelayId::from_hex(text) {
        return Some(Item::Relay(relay));
    }
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
        None => (text, None),
    };
    let ip: IpAddr = address.parse().ok()?;
    let (most, before) = if ip.is_ipv4() { (32, 96) } else { (128, 0) };
    let bits = bits.unwrap_or(most);
    // Bits of the address beyond the range would mean that the range is mistyped.
    let bits = (bits <= most).then_some(bits + before)?;
    (as_v6(ip) & !mask(bits) == 0 || bits == Ipv6Addr::BITS).then_some(Item::Range(as_v6(ip), bits))
}

impl OperatorList {
    /// Reads a list of identities (64 hex digits), addresses and ranges.
    ///
    /// # Errors
    /// [`OperatorListError`] names the first item that is none of these.
    pub fn parse<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<Self, OperatorListError> {
        let items = items
            .into_iter()
            .map(|text| parse(text).ok_or_else(|| OperatorListError(text.to_owned())));
        items.collect::<Result<_, _>>().map(Self)
    }

    /// Is the relay of this descriptor on the list, by its identity or any of its addresses?
    pub fn has(&self, relay: &RelayDescriptor) -> bool {
        self.0.iter().any(|item| match item {
            Item::Relay(id) => *id == relay.identity,
            Item::Range(range, bits) => relay
                .addresses
                .iter()
                .any(|address| (as_v6(address.ip()) ^ range) & mask(*bits) == 0),
        })
    }
}

/// The operator's rules about relays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorRules {
    /// Relays whose descriptors are refused.
    pub reject: OperatorList,
    /// Relays that get none of the flags Guard, Exit and HSDir.
    pub middle_only: OperatorList,
}

/// What the operator of an authority says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// The rules about relays.
    pub rules: OperatorRules,
    /// What may be downloaded to measure relays (MiB an hour). With zero, nothing is measured.
    pub mib_per_hour: u32,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use cepa_common::testkit::{descriptor_at, identity};

    use super::*;

    #[test]
    fn lists_match_identities_addresses_and_ranges() {
        let mut relay = descriptor_at(1, 0);
        relay.addresses = vec![
            ([192, 0, 2, 77], 9001).into(),
            "[2001:db8::7]:9001".parse().unwrap(),
        ];
        let has = |text: &str| OperatorList::parse([text]).unwrap().has(&relay);
        for hit in [
            &identity(1).to_string(),
            "192.0.2.77",
            "192.0.2.0/24",
            "0.0.0.0/0",
            "2001:db8::7",
            "2001:db8::/32",
            "::/0",
        ] {
            assert!(has(hit), "{hit}");
        }
        for miss in [
            &identity(2).to_string(),
            "192.0.2.78",
            "192.0.3.0/24",
            "2001:db9::/32",
        ] {
            assert!(!has(miss), "{miss}");
        }
        // An IPv4 range does not hold for IPv6 addresses.
        relay.addresses.remove(0);
        assert!(!OperatorList::parse(["0.0.0.0/0"]).unwrap().has(&relay));
        assert!(!OperatorList::default().has(&relay));
    }

    #[test]
    fn what_is_neither_is_named() {
        for bad in [
            "",
            "relay1",
            "192.0.2.0/33",
            "192.0.2.1/24",
            "::/129",
            "1.2.3.4/",
            "::1/x",
        ] {
            let error = OperatorList::parse(["::/0", bad]).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
    }
}
