//! Which relays may not be together in one path: relays of one family, and relays in one /16 (IPv4) or /32 (IPv6).

use std::collections::HashMap;
use std::net::IpAddr;

use cepa_common::dir::{Consensus, Entry};

/// The families and networks of a consensus's relays as small numbers, so that a comparison takes a few instructions.
#[derive(Debug)]
pub(super) struct Apart {
    /// For each relay: its family (0 for none), and where its networks end in `nets`.
    relays: Vec<(u32, u32)>,
    nets: Vec<u64>,
    subnet_rule: bool,
}

impl Apart {
    pub(super) fn new(consensus: &Consensus) -> Self {
        let mut families: HashMap<[u8; 32], u32> = HashMap::new();
        let mut apart = Self {
            relays: Vec::with_capacity(consensus.entries().len()),
            nets: Vec::new(),
            subnet_rule: consensus.params().subnet_rule != 0,
        };
        for entry in consensus.entries() {
            let next = u32::try_from(families.len() + 1).unwrap_or(u32::MAX);
            let family = entry
                .family
                .map_or(0, |family| *families.entry(family).or_insert(next));
            apart.nets.extend(nets(entry));
            let end = u32::try_from(apart.nets.len()).unwrap_or(u32::MAX);
            apart.relays.push((family, end));
        }
        apart
    }

    pub(super) fn share_family(&self, one: usize, other: usize) -> bool {
        let family = self.relays[one].0;
        family != 0 && family == self.relays[other].0
    }

    pub(super) fn share_subnet(&self, one: usize, other: usize) -> bool {
        self.subnet_rule
            && self
                .nets_of(one)
                .iter()
                .any(|net| self.nets_of(other).contains(net))
    }

    fn nets_of(&self, n: usize) -> &[u64] {
        let start = n.checked_sub(1).map_or(0, |before| self.relays[before].1);
        &self.nets[start as usize..self.relays[n].1 as usize]
    }
}

/// The networks of a relay's addresses, each as a number: IP version and the leading 16 bits (IPv4) or 32 bits (IPv6).
pub(crate) fn nets(entry: &Entry) -> impl Iterator<Item = u64> {
    entry.addresses.iter().map(|address| match address.ip() {
        IpAddr::V4(ip) => 4 << 32 | u64::from(ip.to_bits() >> 16),
        IpAddr::V6(ip) => 6 << 32 | (ip.to_bits() >> 96) as u64,
    })
}
