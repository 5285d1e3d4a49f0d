//! How many directory connections this relay answers at once, and how often one address may ask (S23).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use cepa_common::dir::Params;
use cepa_common::sync::lock;

/// Addresses that have a bucket of their own; further ones share a single bucket.
const MAX_ADDRESSES: usize = 16_384;
/// A minute, in the unit of the buckets.
const MINUTE_MS: u64 = 60_000;

/// A group of askers whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asker {
    /// One IPv4 address.
    V4(u32),
    /// One network of IPv6, which is a /64.
    V6(u64),
    /// All for whom the table has no room.
    Rest,
}

impl Asker {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    connections: u32,
    /// When the bucket of each asker is full again (milliseconds since 1970). A bucket holds the requests of one
    /// minute.
    full_at: HashMap<Asker, u64>,
}

/// Counts directory connections, and the requests of each address.
#[derive(Debug, Default)]
pub(crate) struct DirectoryAdmission {
    state: Mutex<State>,
}

/// The place of one directory connection; gives the place back when dropped.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a DirectoryAdmission);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.connections = state.connections.saturating_sub(1);
    }
}

impl DirectoryAdmission {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes a place for a connection, and says whether that connection is served documents.
    ///
    /// Beyond the bound connections are told to come again later; at twice the bound there is no place.
    pub(crate) fn connect(&self, params: &Params) -> Option<(Place<'_>, bool)> {
        let mut state = self.state();
        let bound = params.directory_connections;
        if state.connections >= bound.saturating_mul(2) {
            return None;
        }
        state.connections += 1;
        Some((Place(self), state.connections <= bound))
    }

    /// Whether this address may ask once more, now; counts the request if it may.
    pub(crate) fn may_ask(&self, address: IpAddr, params: &Params, now_ms: u64) -> bool {
        let cost = MINUTE_MS
            .div_ceil(u64::from(params.directory_requests_per_minute))
            .max(1);
        // A rate above one in a millisecond is none.
        if u64::from(params.directory_requests_per_minute) >= MINUTE_MS {
            return true;
        }
        let mut state = self.state();
        let mut asker = Asker::of(address);
        if !state.full_at.contains_key(&asker) && state.full_at.len() >= MAX_ADDRESSES {
            // A time further off than a minute is of a clock that was set back since.
            let open = now_ms..=now_ms.saturating_add(MINUTE_MS);
            state.full_at.retain(|_, full_at| open.contains(full_at));
            if state.full_at.len() >= MAX_ADDRESSES {
                asker = Asker::Rest;
            }
        }
        let full_at = state.full_at.entry(asker).or_insert(now_ms);
        let latest = now_ms.saturating_add(MINUTE_MS);
        let next = (*full_at).clamp(now_ms, latest).saturating_add(cost);
        if next > latest {
            return false;
        }
        *full_at = next;
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn params(connections: u32, requests: u32) -> Params {
        Params {
            directory_connections: connections,
            directory_requests_per_minute: requests,
            ..Params::default()
        }
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let (admission, params) = (DirectoryAdmission::default(), params(1, 6));
        let ask = |who: u32, now_ms| admission.may_ask(address(who), &params, now_ms);
        assert_eq!((0..10).filter(|_| ask(1, 1_000)).count(), 6);
        assert!(ask(2, 1_000));
        assert!(!ask(1, 10_999));
        assert!(ask(1, 11_000) && !ask(1, 11_000));
        // A clock that is set back empties nothing for ever.
        assert!(!ask(1, 0));
        assert!(ask(1, 60_000));
    }

    #[test]
    fn both_ends_of_the_range() {
        let admission = DirectoryAdmission::default();
        let ask = |requests, now_ms| admission.may_ask(address(1), &params(1, requests), now_ms);
        assert!(ask(1, 0) && !ask(1, 59_999) && ask(1, 60_000));
        assert!((0..1_000_000).all(|_| ask(1 << 20, 60_000)));
    }

    #[test]
    fn one_network_of_ipv6_is_one_asker_and_the_table_is_bounded() {
        let (admission, params) = (DirectoryAdmission::default(), params(1, 1));
        let ask = |text: &str| admission.may_ask(text.parse().unwrap(), &params, 0);
        assert!(ask("2001:db8::1") && !ask("2001:db8::2") && ask("2001:db8:0:1::1"));
        for n in 0..40_000 {
            admission.may_ask(address(n), &params, 0);
        }
        assert!(admission.state().full_at.len() <= MAX_ADDRESSES + 1);
        assert!(admission.may_ask(address(50_000), &params, 60_001));
    }

    #[test]
    fn places_come_back() {
        let (admission, params) = (DirectoryAdmission::default(), params(1, 1));
        let (first, served) = admission.connect(&params).unwrap();
        let (second, busy) = admission.connect(&params).unwrap();
        assert!(served && !busy && admission.connect(&params).is_none());
        drop((first, second));
        assert!(admission.connect(&params).unwrap().1);
    }
}
