//! How often one site may ask this relay's directory, and how many descriptors it may upload (S23).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use cepa_common::dir::{Params, Site};
use cepa_common::sync::lock;

/// Addresses that have a bucket of their own; further ones share a single bucket.
const MAX_ADDRESSES: usize = 16_384;
/// A minute, in the unit of the buckets.
const MINUTE_MS: u64 = 60_000;
/// Descriptors that one site may upload in a minute. A relay uploads a few in a day.
const UPLOADS_PER_MINUTE: u32 = 30;

/// Askers whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Group {
    /// One IPv4 address or subnet of IPv6.
    Site(Site),
    /// All who come by a circuit, and so have no address.
    Streams,
    /// All for whom the table has no room.
    Rest,
}

/// Buckets that hold what each asker may ask in one minute.
#[derive(Debug, Default)]
struct Buckets {
    /// When the bucket of each asker is full again (milliseconds since 1970).
    full_at: HashMap<Group, u64>,
}

impl Buckets {
    /// Whether this asker may ask once more, now; counts the request if it may.
    fn take(&mut self, mut group: Group, per_minute: u32, now_ms: u64) -> bool {
        let cost = MINUTE_MS.div_ceil(u64::from(per_minute)).max(1);
        // A rate of one in a millisecond or more is no bound.
        if u64::from(per_minute) >= MINUTE_MS {
            return true;
        }
        if !self.full_at.contains_key(&group) && self.full_at.len() >= MAX_ADDRESSES {
            // A time more than a minute ahead was noted before the clock was set back.
            let open = now_ms..=now_ms.saturating_add(MINUTE_MS);
            self.full_at.retain(|_, full_at| open.contains(full_at));
            if self.full_at.len() >= MAX_ADDRESSES {
                group = Group::Rest;
            }
        }
        let full_at = self.full_at.entry(group).or_insert(now_ms);
        let latest = now_ms.saturating_add(MINUTE_MS);
        let next = (*full_at).clamp(now_ms, latest).saturating_add(cost);
        if next > latest {
            return false;
        }
        *full_at = next;
        true
    }
}

#[derive(Debug, Default)]
struct State {
    requests: Buckets,
    uploads: Buckets,
}

/// Counts the requests and uploads of each site.
#[derive(Debug, Default)]
pub(crate) struct DirectoryAdmission {
    state: Mutex<State>,
}

impl DirectoryAdmission {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether this address may ask once more, now; counts the request if it may.
    pub(crate) fn may_ask(&self, address: IpAddr, params: &Params, now_ms: u64) -> bool {
        let group = Group::Site(Site::of(address));
        let per_minute = params.directory_requests_per_minute;
        self.state().requests.take(group, per_minute, now_ms)
    }

    /// Whether a descriptor may be uploaded from this address, now; counts the upload if it may. All streams, whose
    /// address is not known, count as one asker.
    pub(crate) fn may_upload(&self, address: Option<IpAddr>, now_ms: u64) -> bool {
        // Loopback is one's own machine, where a whole network has one address.
        if address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        let group = address.map_or(Group::Streams, |address| Group::Site(Site::of(address)));
        self.state().uploads.take(group, UPLOADS_PER_MINUTE, now_ms)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn params(requests: u32) -> Params {
        Params {
            directory_requests_per_minute: requests,
            ..Params::default()
        }
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let (admission, params) = (DirectoryAdmission::default(), params(6));
        let ask = |who: u32, now_ms| admission.may_ask(address(who), &params, now_ms);
        assert_eq!((0..10).filter(|_| ask(1, 1_000)).count(), 6);
        assert!(ask(2, 1_000));
        assert!(!ask(1, 10_999));
        assert!(ask(1, 11_000) && !ask(1, 11_000));
        // A clock that is set back leaves no bucket empty for ever.
        assert!(!ask(1, 0));
        assert!(ask(1, 60_000));
    }

    #[test]
    fn both_ends_of_the_range() {
        let admission = DirectoryAdmission::default();
        let ask = |requests, now_ms| admission.may_ask(address(1), &params(requests), now_ms);
        assert!(ask(1, 0) && !ask(1, 59_999) && ask(1, 60_000));
        assert!((0..1_000_000).all(|_| ask(1 << 20, 60_000)));
    }

    #[test]
    fn one_network_of_ipv6_is_one_asker_and_the_table_is_bounded() {
        let (admission, params) = (DirectoryAdmission::default(), params(1));
        let ask = |text: &str| admission.may_ask(text.parse().unwrap(), &params, 0);
        assert!(ask("2001:db8::1") && !ask("2001:db8::2") && ask("2001:db8:0:1::1"));
        for n in 0..40_000 {
            admission.may_ask(address(n), &params, 0);
        }
        assert!(admission.state().requests.full_at.len() <= MAX_ADDRESSES + 1);
        assert!(admission.may_ask(address(50_000), &params, 60_001));
    }

    #[test]
    fn one_site_uploads_a_few_descriptors_and_streams_count_as_one_site() {
        let admission = DirectoryAdmission::default();
        let uploads = |address: Option<&str>, now_ms| {
            let address = address.map(|address| address.parse().unwrap());
            (0..100)
                .filter(|_| admission.may_upload(address, now_ms))
                .count()
        };
        assert_eq!(uploads(Some("192.0.2.1"), 0), 30);
        assert_eq!(uploads(Some("2600::1"), 0), 30);
        assert_eq!(uploads(Some("2600::2"), 0), 0);
        assert_eq!(uploads(Some("2600::2"), 2_000), 1);
        assert_eq!(uploads(None, 0), 30);
        assert_eq!(uploads(Some("127.0.0.1"), 0), 100);
    }
}
