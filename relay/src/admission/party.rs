//! Whose work is counted together, where many wait for the same bound.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use cepa_common::dir::Site;
use cepa_common::ids::RelayId;
use cepa_common::sync::lock;
use tokio::sync::Notify;

/// Links that belong to one peer, as far as this relay can tell. However many links a peer opens, it is one party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Party {
    /// All links of a relay of the consensus, by the key that it proved.
    Relay(RelayId),
    /// All links of anybody else from one IPv4 address or one /64 of IPv6.
    Site(Site),
    /// One link from loopback, by its serial number. Loopback is one's own machine, where a whole network has one
    /// address.
    Link(u64),
}

impl Party {
    /// The party of a link with this serial number, from `address`, whose far side has proven to be the relay `peer`.
    pub(crate) fn of(peer: Option<RelayId>, address: IpAddr, link: u64) -> Self {
        match peer {
            Some(relay) => Self::Relay(relay),
            None if address.to_canonical().is_loopback() => Self::Link(link),
            None => Self::Site(Site::of(address)),
        }
    }

    /// The relay, if the party is one.
    pub(crate) fn relay(self) -> Option<RelayId> {
        match self {
            Self::Relay(relay) => Some(relay),
            Self::Site(_) | Self::Link(_) => None,
        }
    }
}

/// The other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FarSide {
    /// Whose work on the link is counted together.
    pub(crate) party: Party,
    /// The link key that the other end has proven, if it showed one. A relay that no consensus listed when the link was
    /// accepted has one too, and counts as a client.
    pub(crate) link_key: Option<[u8; 32]>,
}

struct Holder {
    party: Party,
    evicted: Arc<Notify>,
}

#[derive(Default)]
struct Held {
    /// The places in the order in which they were taken.
    holders: Vec<(u64, Holder)>,
    next: u64,
}

/// A few places that all parties share. Where none is left, the party that holds most loses its newest.
pub(crate) struct SharedPlaces {
    most: usize,
    held: Arc<Mutex<Held>>,
}

/// One place; gives the place back when dropped.
pub(crate) struct SharedPlace {
    id: u64,
    held: Arc<Mutex<Held>>,
    evicted: Arc<Notify>,
}

impl SharedPlace {
    /// Waits until another party takes the place.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for SharedPlace {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.holders.retain(|(id, _)| *id != self.id);
    }
}

impl SharedPlaces {
    /// So many places, which should be few: each newcomer looks through all of them.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            held: Arc::default(),
        }
    }

    /// Takes a place, if there is one or another party holds more than this one would.
    pub(crate) fn take(&self, party: Party) -> Option<SharedPlace> {
        let mut held = lock(&self.held);
        if held.holders.len() >= self.most {
            let mut counts = HashMap::<Party, usize>::new();
            for (_, holder) in &held.holders {
                *counts.entry(holder.party).or_default() += 1;
            }
            let own = counts.get(&party).copied().unwrap_or_default();
            let (most, loser) = counts.into_iter().map(|(party, n)| (n, party)).max()?;
            if most <= own + 1 {
                return None;
            }
            let newest = held.holders.iter().rposition(|(_, h)| h.party == loser)?;
            let (_, evicted) = held.holders.remove(newest);
            evicted.evicted.notify_one();
        }
        let (id, evicted) = (held.next, Arc::<Notify>::default());
        held.next += 1;
        let holder = Holder {
            party,
            evicted: evicted.clone(),
        };
        held.holders.push((id, holder));
        drop(held);
        Some(SharedPlace {
            id,
            held: self.held.clone(),
            evicted,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use core::task::{Context, Poll, Waker};

    use super::*;

    fn of(address: &str) -> Party {
        Party::of(None, address.parse().unwrap(), 7)
    }

    #[test]
    fn links_of_one_peer_are_one_party() {
        let relay = RelayId([1; 32]);
        let address = "192.0.2.1".parse().unwrap();
        assert_eq!(Party::of(Some(relay), address, 1), Party::Relay(relay));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_eq!(of("2600::1"), of("2600::2"));
        assert_ne!(of("2600::1"), of("2600:0:0:1::1"));
        assert_eq!(of("127.0.0.1"), Party::Link(7));
        assert_eq!(of("::ffff:127.0.0.1"), Party::Link(7));
        assert_eq!(of("::1"), Party::Link(7));
    }

    #[test]
    fn who_holds_most_makes_room_for_whoever_holds_less() {
        let is_evicted = |place: &SharedPlace| {
            let mut context = Context::from_waker(Waker::noop());
            let evicted = core::pin::pin!(place.evicted()).poll(&mut context);
            matches!(evicted, Poll::Ready(()))
        };
        let places = SharedPlaces::new(4);
        let take = |address| places.take(of(address));
        let flood: Vec<_> = (0..9).filter_map(|_| take("192.0.2.1")).collect();
        assert_eq!(flood.len(), 4);
        let first = take("192.0.2.2").unwrap();
        assert!(is_evicted(&flood[3]) && !is_evicted(&flood[0]));
        let second = take("192.0.2.2").unwrap();
        assert!(is_evicted(&flood[2]));
        // Nobody holds more than this party would: it gains nothing by asking on, and takes nothing from others.
        assert!(take("192.0.2.2").is_none() && take("192.0.2.1").is_none());
        assert!(!is_evicted(&first) && !is_evicted(&second) && !is_evicted(&flood[0]));
        drop((flood, first, second));
        assert!(lock(&places.held).holders.is_empty());
    }
}
