//! Sets of relays and of destinations, in the words that the owner's lists may use (docs/peers.md).

use core::fmt;
use core::str::FromStr;
use std::net::IpAddr;

use cepa_common::dir::Entry;
use cepa_common::ids::RelayId;
use cepa_common::stream::StreamHost;

use super::geoip::Country;

/// A word of the owner's lists cannot be read. The error says what the word should have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerSyntax {
    /// The text is not a set of peers.
    #[error(
        "{0:?} is no set of peers: write an identity (64 hexadecimal digits), an address, a range such as \
         192.0.2.0/24, family:KEY or country:xx"
    )]
    Peer(String),
    /// The text is not a destination.
    #[error(
        "{0:?} is no destination: write a name, .SUFFIX, an address, a range or *, and :PORT or :FROM-TO behind it \
         (IPv6 then in brackets)"
    )]
    Destination(String),
    /// A rule for destinations does not say what to do.
    #[error("{0:?}: write DESTINATION only|prefer|avoid PEER ...")]
    Rule(String),
}

/// A range of addresses: all those that share the leading bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    bits: u8,
}

impl AddressRange {
    /// Is the address in the range? An IPv4 address that is written as an IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let left = |width: u8| u32::from(width - self.bits);
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(ip)) => {
                let differ = first.to_bits() ^ ip.to_bits();
                differ.checked_shr(left(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(first), IpAddr::V6(ip)) => {
                let differ = first.to_bits() ^ ip.to_bits();
                differ.checked_shr(left(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let first: IpAddr = unbracketed(address).parse().ok()?;
        let width = if first.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            // Only digits are taken for a length: "+8" is refused, though `parse` would take it.
            Some(bits) if !bits.bytes().all(|b| b.is_ascii_digit()) => return None,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= width)?,
            None => width,
        };
        Some(Self { first, bits })
    }
}

fn unbracketed(text: &str) -> &str {
    text.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text)
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = if self.first.is_ipv4() { 32 } else { 128 };
        self.first.fmt(f)?;
        if self.bits == width {
            return Ok(());
        }
        write!(f, "/{}", self.bits)
    }
}

/// A set of relays that have something in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerSet {
    /// The relay with this identity.
    Identity(RelayId),
    /// The relays with an address in the range.
    Range(AddressRange),
    /// The relays of the family with this key.
    Family([u8; 32]),
    /// The relays with an address that the owner's GeoIP file puts into this country.
    Country(Country),
}

impl PeerSet {
    /// Is the relay in the set? `countries` are the countries of the relay's addresses.
    pub fn contains(&self, relay: &Entry, countries: &[Country]) -> bool {
        match self {
            Self::Identity(identity) => relay.identity == *identity,
            Self::Range(range) => relay.addresses.iter().any(|at| range.contains(at.ip())),
            Self::Family(key) => relay.family.as_ref() == Some(key),
            Self::Country(country) => countries.contains(country),
        }
    }
}

impl FromStr for PeerSet {
    type Err = PeerSyntax;

    fn from_str(text: &str) -> Result<Self, PeerSyntax> {
        let set = if let Some(key) = text.strip_prefix("family:") {
            RelayId::from_hex(key).map(|key| Self::Family(key.0))
        } else if let Some(code) = text.strip_prefix("country:") {
            Country::parse(code).map(Self::Country)
        } else if let Some(identity) = RelayId::from_hex(text) {
            Some(Self::Identity(identity))
        } else {
            AddressRange::parse(text).map(Self::Range)
        };
        set.ok_or_else(|| PeerSyntax::Peer(text.to_owned()))
    }
}

impl fmt::Display for PeerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(identity) => identity.fmt(f),
            Self::Range(range) => range.fmt(f),
            Self::Family(key) => write!(f, "family:{}", RelayId(*key)),
            Self::Country(country) => write!(f, "country:{country}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    Any,
    /// This name.
    Name(String),
    /// This name and all names below it.
    Suffix(String),
    Range(AddressRange),
}

/// A set of hosts and ports that streams may be meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationSet {
    hosts: Hosts,
    first_port: u16,
    last_port: u16,
    text: String,
}

impl DestinationSet {
    /// Is this destination in the set? A name is compared as the application wrote it, whatever address it has.
    pub fn contains(&self, host: &StreamHost, port: u16) -> bool {
        let hosts = match (&self.hosts, host) {
            (Hosts::Any, _) => true,
            (Hosts::Range(range), StreamHost::Ip(ip)) => range.contains(*ip),
            (Hosts::Name(name), StreamHost::Name(other)) => *name == plain(other),
            (Hosts::Suffix(name), StreamHost::Name(other)) => {
                let other = plain(other);
                let above = other.strip_suffix(name.as_str());
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
            _ => false,
        };
        hosts && (self.first_port..=self.last_port).contains(&port)
    }
}

/// A name in the form in which names are compared: in lower case, without the dot at its end.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    // A text that looks like an address and is none is a mistake, not a name.
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    !text.is_empty() && text.len() <= 253 && !numeric && text.bytes().all(allowed)
}

impl FromStr for DestinationSet {
    type Err = PeerSyntax;

    fn from_str(text: &str) -> Result<Self, PeerSyntax> {
        let parse = || {
            let bare_v6 = !text.starts_with('[') && text.matches(':').count() > 1;
            // Colons within brackets belong to the address.
            let ports_at = text
                .rfind(':')
                .filter(|at| !bare_v6 && text.rfind(']').is_none_or(|end| end < *at));
            let (host, ports) = match ports_at.and_then(|at| text.split_at_checked(at)) {
                Some((host, ports)) => (host, ports.strip_prefix(':')),
                None => (text, None),
            };
            let (first_port, last_port) = match ports {
                None => (0, u16::MAX),
                Some(ports) => {
                    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                    (first.parse().ok()?, last.parse().ok()?)
                }
            };
            let hosts = if host == "*" {
                Hosts::Any
            } else if let Some(range) = AddressRange::parse(host) {
                Hosts::Range(range)
            } else if let Some(suffix) = host.strip_prefix('.').filter(|name| is_name(name)) {
                Hosts::Suffix(plain(suffix))
            } else {
                Hosts::Name(plain(Some(host).filter(|name| is_name(name))?))
            };
            Some(Self {
                hosts,
                first_port,
                last_port,
                text: text.to_owned(),
            })
            .filter(|set| set.first_port <= set.last_port)
        };
        parse().ok_or_else(|| PeerSyntax::Destination(text.to_owned()))
    }
}

impl fmt::Display for DestinationSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_readers_panic(text in "[0-9a-f:./*\\[\\], -]{0,40}|\\PC{0,40}") {
            let _ = text.parse::<PeerSet>();
            if let Ok(set) = text.parse::<DestinationSet>() {
                set.contains(&StreamHost::Name("example.com".to_owned()), 443);
                set.contains(&StreamHost::Ip([192, 0, 2, 1].into()), 443);
            }
            let _ = text.parse::<super::super::DestinationRule>();
        }
    }

    #[test]
    fn peers_are_read_as_they_are_written() {
        let key = "ab".repeat(32);
        for good in [
            key.clone(),
            "192.0.2.7".to_owned(),
            "192.0.2.0/24".to_owned(),
            "2001:db8::/32".to_owned(),
            format!("family:{key}"),
            "country:de".to_owned(),
        ] {
            assert_eq!(good.parse::<PeerSet>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "abc",
            "192.0.2.0/33",
            "192.0.2.0/+8",
            "2001:db8::/129",
            "family:12",
            "country:deu",
            "country:d1",
            "de",
            "192.0.2.0/",
            "192.0.2/8",
        ] {
            assert_eq!(
                bad.parse::<PeerSet>(),
                Err(PeerSyntax::Peer(bad.to_owned()))
            );
        }
    }

    #[test]
    fn ranges_hold_what_shares_their_bits() {
        let holds = |range: &str, ip: &str| {
            let range = AddressRange::parse(range).unwrap();
            range.contains(ip.parse().unwrap())
        };
        assert!(holds("192.0.2.0/24", "192.0.2.255"));
        assert!(holds("192.0.2.0/24", "::ffff:192.0.2.1"));
        assert!(!holds("192.0.2.0/24", "192.0.3.0"));
        assert!(holds("0.0.0.0/0", "203.0.113.1"));
        assert!(!holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("::/0", "2001:db8::1"));
        assert!(holds("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!holds("2001:db8::1", "2001:db8::2"));
    }

    #[test]
    fn destinations_are_hosts_and_ports() {
        let holds = |set: &str, host: &str, port| {
            let host = match host.parse() {
                Ok(ip) => StreamHost::Ip(ip),
                Err(_) => StreamHost::Name(host.to_owned()),
            };
            set.parse::<DestinationSet>().unwrap().contains(&host, port)
        };
        assert!(holds("example.com", "Example.COM.", 80));
        assert!(!holds("example.com", "www.example.com", 80));
        assert!(holds(".example.com", "www.example.com", 80));
        assert!(holds(".example.com", "example.com", 80));
        assert!(!holds(".example.com", "badexample.com", 80));
        assert!(holds("example.com:443", "example.com", 443));
        assert!(!holds("example.com:443", "example.com", 80));
        assert!(holds("*:1-1023", "192.0.2.1", 1023));
        assert!(!holds("*:1-1023", "192.0.2.1", 1024));
        assert!(holds("192.0.2.0/24:80", "192.0.2.9", 80));
        assert!(holds("2001:db8::/32", "2001:db8::9", 80));
        assert!(holds("[2001:db8::]/32:22", "2001:db8::9", 22));
        assert!(!holds("[2001:db8::]/32:22", "2001:db8::9", 23));
        assert!(!holds("192.0.2.0/24", "example.com", 80));
        for bad in [
            "",
            ":80",
            "x:",
            "x:y",
            "a b",
            "x:9-1",
            "192.0.2.0/33",
            "1.2.3",
            ".",
        ] {
            assert!(bad.parse::<DestinationSet>().is_err(), "{bad}");
        }
    }
}
