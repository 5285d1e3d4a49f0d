//! How many relays each site has, and how many it may have (docs/protocol.md, 6.13.1 and 6.13.3).

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use cepa_common::dir::{RelayDescriptor, Site};

/// The distinct IP addresses of a relay.
pub(super) fn ips(descriptor: &RelayDescriptor) -> BTreeSet<IpAddr> {
    descriptor.addresses.iter().map(SocketAddr::ip).collect()
}

/// The sites of a relay, each with the number of relays that it may have if the narrowest may have `cap`.
pub(super) fn sites(descriptor: &RelayDescriptor, cap: u32) -> BTreeSet<(Site, u32)> {
    ips(descriptor)
        .into_iter()
        .flat_map(|ip| Site::caps(ip, cap))
        .collect()
}

/// The number of relays at each site.
#[derive(Debug, Default)]
pub(super) struct Crowding(HashMap<Site, u32>);

impl Crowding {
    /// Counts a relay at all its sites.
    pub(super) fn add(&mut self, descriptor: &RelayDescriptor) {
        for (site, _) in sites(descriptor, 0) {
            *self.0.entry(site).or_default() += 1;
        }
    }

    /// Counts a relay no longer.
    pub(super) fn remove(&mut self, descriptor: &RelayDescriptor) {
        for (site, _) in sites(descriptor, 0) {
            if let Some(count) = self.0.get_mut(&site) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.0.remove(&site);
                }
            }
        }
    }

    /// The number of relays at a site.
    pub(super) fn at(&self, site: Site) -> u32 {
        self.0.get(&site).copied().unwrap_or(0)
    }

    /// Counts a relay if none of its sites is full, and says whether it did.
    pub(super) fn fit(&mut self, descriptor: &RelayDescriptor, cap: u32) -> bool {
        let fits = sites(descriptor, cap)
            .into_iter()
            .all(|(site, cap)| self.at(site) < cap);
        if fits {
            self.add(descriptor);
        }
        fits
    }

    /// The number of sites that have a relay.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
