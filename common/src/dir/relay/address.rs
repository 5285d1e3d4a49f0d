//! What kind of address an IP address is, in every encoding that hides one address inside another (S31).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether an address may be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressClass {
    /// Anybody can reach the address.
    Public,
    /// The address is private, loopback, link-local, shared or reserved. Such an address may be dialled only if a local
    /// network allows it.
    Private,
    /// The address is unspecified, broadcast, multicast, or an IPv4 address inside an IPv6 one. Such an address may
    /// never be dialled.
    Never,
}

/// The class of an address.
///
/// IPv6 addresses that hold an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo) are refused whatever they hold: a
/// rule that names the IPv4 address would not match them.
pub fn classify(address: IpAddr) -> AddressClass {
    match address {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    let [a, b, c, d] = address.octets();
    match (a, b, c) {
        _ if address.is_unspecified() || address.is_broadcast() || address.is_multicast() => {
            AddressClass::Never
        }
        // Private, loopback, link-local, carrier NAT, this network, class E.
        (10 | 127 | 0 | 240..=255, ..) | (172, 16..=31, _) | (192, 168, _) | (169, 254, _) => {
            AddressClass::Private
        }
        (100, 64..=127, _) => AddressClass::Private,
        // Protocol assignments (but its two anycast addresses), documentation, 6to4 relays, benchmarks.
        (192, 0, 0) if d != 9 && d != 10 => AddressClass::Private,
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) | (192, 88, 99) => AddressClass::Private,
        (198, 18 | 19, _) => AddressClass::Private,
        _ => AddressClass::Public,
    }
}

fn classify_v6(address: Ipv6Addr) -> AddressClass {
    if address == Ipv6Addr::LOCALHOST {
        return AddressClass::Private;
    }
    let segments = address.segments();
    match segments {
        _ if address.is_multicast() => AddressClass::Never,
        // Unspecified, compatible, mapped and translated (::ffff:0:0:0/96) IPv4.
        [0, 0, 0, 0, ..] => AddressClass::Never,
        // NAT64, well-known and local; Teredo; 6to4.
        [0x64, 0xff9b, ..] | [0x2001, 0, ..] | [0x2002, ..] => AddressClass::Never,
        // ISATAP: an IPv4 address as the interface.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => AddressClass::Never,
        // Unique local, link-local and site-local; discard; ORCHID; benchmarks; documentation.
        [0xfc00..=0xfdff | 0xfe80..=0xfeff, ..] | [0x100, 0, 0, 0, ..] => AddressClass::Private,
        [0x2001, 0x2 | 0x10..=0x2f | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => AddressClass::Private,
        // Public addresses are in 2000::/3 only.
        [0x2000..=0x3fff, ..] => AddressClass::Public,
        _ => AddressClass::Private,
    }
}

/// May `address` be dialled, if `allow_private` says whether private addresses may? Port 0 may never be dialled, which
/// other programs have got wrong.
pub fn is_dialable(address: SocketAddr, allow_private: bool) -> bool {
    address.port() != 0
        && match classify(address.ip()) {
            AddressClass::Public => true,
            AddressClass::Private => allow_private,
            AddressClass::Never => false,
        }
}

/// Where an address is, for bounds on what one owner may hold: whoever has one address of an IPv6 subnet has all of
/// them (RFC 4291, 2.5.1), and most sites have a block of 65,536 subnets (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// One IPv4 address.
    V4(u32),
    /// One subnet of IPv6: the upper 64 bits of the address.
    Subnet(u64),
    /// One block of IPv6 subnets: the upper 48 bits of the address.
    Block(u64),
}

/// What a block of IPv6 subnets may hold, as a multiple of what one subnet may hold.
const SUBNETS_OF_A_BLOCK: u32 = 8;

impl Site {
    /// The narrowest site of an address: the IPv4 address itself, or the /64 of an IPv6 address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::Subnet((v6.to_bits() >> 64) as u64),
        }
    }

    /// The sites of an address, each with what it may hold if the narrowest may hold `cap`.
    pub fn caps(address: IpAddr, cap: u32) -> impl Iterator<Item = (Self, u32)> {
        let narrowest = Self::of(address);
        let block = match narrowest {
            Self::Subnet(subnet) => {
                let cap = cap.saturating_mul(SUBNETS_OF_A_BLOCK);
                Some((Self::Block(subnet >> 16), cap))
            }
            Self::V4(_) | Self::Block(_) => None,
        };
        std::iter::once((narrowest, cap)).chain(block)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sites_of_one_owner() {
        let of = |text: &str| Site::of(text.parse().unwrap());
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_eq!(of("2600::1"), of("2600::ffff:0:0:1"));
        assert_ne!(of("2600::1"), of("2600:0:0:1::1"));
        let caps = |text: &str| Site::caps(text.parse().unwrap(), 2).collect::<Vec<_>>();
        assert_eq!(caps("192.0.2.1"), [(of("192.0.2.1"), 2)]);
        assert_eq!(caps("2600::1").len(), 2);
        assert_eq!(caps("2600::1")[1], caps("2600:0:0:ffff::1")[1]);
        assert_ne!(caps("2600::1")[1], caps("2600:0:1::1")[1]);
        assert_eq!(caps("2600::1")[1].1, 16);
    }

    #[test]
    fn table_of_classes() {
        let never = "0.0.0.0 255.255.255.255 224.0.0.1 239.1.2.3 :: ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::8.8.8.8 \
            ::ffff:0:8.8.8.8 64:ff9b::7f00:1 64:ff9b:1::1 2002:7f00:1:: 2002:808:808::1 2001:0:1:2::3 ff02::1 \
            2600::5efe:7f00:1";
        let private = "127.0.0.1 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 \
            100.127.255.255 0.1.2.3 192.0.0.1 192.0.2.1 198.18.0.1 203.0.113.9 250.0.0.1 ::1 fe80::1 fec0::1 \
            fc00::1 fd12::1 100::1 2001:db8::1 3fff:1::1 4000::1 5f00::1";
        let public = "8.8.8.8 172.32.0.1 100.128.0.1 100.63.0.1 192.0.0.9 11.0.0.1 2600::1 2a00:1450::1 2001:470::1";
        for (class, list) in [
            (AddressClass::Never, never),
            (AddressClass::Private, private),
            (AddressClass::Public, public),
        ] {
            for text in list.split_whitespace() {
                assert_eq!(classify(text.parse().unwrap()), class, "{text}");
            }
        }
    }

    #[test]
    fn dialable() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(is_dialable(at("8.8.8.8:53"), false));
        assert!(!is_dialable(at("8.8.8.8:0"), true));
        assert!(!is_dialable(at("127.0.0.1:1"), false));
        assert!(is_dialable(at("127.0.0.1:1"), true));
        assert!(!is_dialable(at("0.0.0.0:1"), true));
        assert!(!is_dialable(at("[::ffff:127.0.0.1]:1"), true));
    }
}
