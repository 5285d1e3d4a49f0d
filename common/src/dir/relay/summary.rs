//! The part of an exit policy that a consensus entry holds: the ports that the exit lets streams, or datagrams, out to.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::dir::signed::DocError;

/// The most ranges in one summary and IP version. A policy with more loses the last.
pub(in crate::dir) const MAX_RANGES: usize = 64;

/// What leaves an exit: each has a policy of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Streams, by TCP.
    Tcp,
    /// Datagrams, by UDP.
    Udp,
}

/// A version of IP, for which a [`PolicySummary`] has ports of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<IpAddr> for IpVersion {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Ports `low` to `high`, both included; `1 <= low <= high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    /// First port.
    pub low: u16,
    /// Last port.
    pub high: u16,
}

impl PortRange {
    /// The range from `low` to `high`; `None` if it is empty or begins at 0.
    pub fn new(low: u16, high: u16) -> Option<Self> {
        (low != 0 && low <= high).then_some(Self { low, high })
    }

    /// Is `port` in the range?
    pub fn contains(self, port: u16) -> bool {
        (self.low..=self.high).contains(&port)
    }
}

/// The ports that an exit lets one [`Transport`] out to on most public addresses, by IP version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PolicySummary {
    v4: Vec<PortRange>,
    v6: Vec<PortRange>,
}

impl PolicySummary {
    /// A summary of ranges, which come in any order. Ranges that touch are joined.
    pub fn new(v4: Vec<PortRange>, v6: Vec<PortRange>) -> Self {
        Self {
            v4: normalise(v4),
            v6: normalise(v6),
        }
    }

    /// The summary of a relay that lets nothing out.
    pub fn reject_all() -> Self {
        Self::default()
    }

    /// The ranges of ports for IPv4 addresses.
    pub fn v4(&self) -> &[PortRange] {
        &self.v4
    }

    /// The ranges of ports for IPv6 addresses.
    pub fn v6(&self) -> &[PortRange] {
        &self.v6
    }

    /// Does the exit let out to `port` of most IPv4 addresses?
    pub fn allows_v4(&self, port: u16) -> bool {
        covers(&self.v4, port)
    }

    /// Does the exit let out to `port` of most IPv6 addresses?
    pub fn allows_v6(&self, port: u16) -> bool {
        covers(&self.v6, port)
    }

    /// Does the exit let out to `port` of either IP version? This is asked for a name, which the exit resolves.
    pub fn allows_port(&self, port: u16) -> bool {
        self.allows_v4(port) || self.allows_v6(port)
    }

    /// Does the exit let out to `port` of most addresses of this version; without one, of either version?
    pub fn allows(&self, version: Option<IpVersion>, port: u16) -> bool {
        match version {
            Some(IpVersion::V4) => self.allows_v4(port),
            Some(IpVersion::V6) => self.allows_v6(port),
            None => self.allows_port(port),
        }
    }

    /// Does the relay let nothing out?
    pub fn is_reject_all(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Refuses ranges that are inverted, out of order, touching, of port 0, or too many (6.4).
    pub(in crate::dir) fn validate(&self) -> Result<(), DocError> {
        for ranges in [&self.v4, &self.v6] {
            let valid = ranges
                .iter()
                .all(|range| range.low != 0 && range.low <= range.high);
            let apart = ranges
                .windows(2)
                .all(|pair| u32::from(pair[0].high) + 1 < u32::from(pair[1].low));
            if !valid || !apart || ranges.len() > MAX_RANGES {
                return Err(DocError::Content("policy summary is not in normal form"));
            }
        }
        Ok(())
    }
}

fn covers(ranges: &[PortRange], port: u16) -> bool {
    let after = ranges.partition_point(|range| range.high < port);
    ranges.get(after).is_some_and(|range| range.contains(port))
}

fn normalise(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.retain(|range| PortRange::new(range.low, range.high).is_some());
    ranges.sort();
    let mut joined: Vec<PortRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if u32::from(range.low) <= u32::from(last.high) + 1 => {
                last.high = last.high.max(range.high);
            }
            _ => joined.push(range),
        }
    }
    joined.truncate(MAX_RANGES);
    joined
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_refusal() {
        let check = |pairs: &[(u16, u16)]| {
            let v4 = pairs
                .iter()
                .map(|(low, high)| PortRange {
                    low: *low,
                    high: *high,
                })
                .collect();
            PolicySummary { v4, v6: Vec::new() }.validate().is_ok()
        };
        assert!(check(&[]));
        assert!(check(&[(1, 65535)]));
        assert!(check(&[(80, 80), (443, 443)]));
        assert!(!check(&[(0, 1)]));
        assert!(!check(&[(1, 0)]));
        assert!(!check(&[(443, 443), (80, 80)]));
        assert!(!check(&[(80, 81), (82, 90)]));
        assert!(!check(&[(80, 80), (80, 80)]));
        let many: Vec<_> = (1..=65).map(|n| (n * 2, n * 2)).collect();
        assert!(!check(&many));
        assert_eq!(PortRange::new(1, 0), None);
        assert_eq!(PortRange::new(0, 1), None);
    }

    proptest! {
        #[test]
        fn normal_form_keeps_meaning(
            pairs in proptest::collection::vec((1u16..200, 0u16..20), 0..30),
            port in 0u16..230,
        ) {
            let ranges: Vec<_> =
                pairs.iter().map(|(low, more)| PortRange::new(*low, low + more).unwrap()).collect();
            let expected = ranges.iter().any(|range| range.contains(port));
            let summary = PolicySummary::new(Vec::new(), ranges);
            prop_assert!(summary.validate().is_ok());
            prop_assert_eq!(summary.allows_v6(port), expected);
            prop_assert!(!summary.allows_v4(port));
            prop_assert_eq!(summary.allows_port(port), expected);
            prop_assert_eq!(summary.allows(None, port), expected);
            prop_assert_eq!(summary.allows(Some(IpVersion::V6), port), expected);
            prop_assert!(!summary.allows(Some(IpVersion::V4), port));
        }
    }
}
