//! How many connections this relay accepts at once, in all and from each site (S23).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use cepa_common::dir::Site;
use cepa_common::sync::lock;
use tokio::sync::Notify;

use crate::events::ConnectionBound;

/// Of all places, one in this many is kept for the addresses of authorities and relays: strangers cannot take it.
const KEPT_SHARE: u32 = 4;

/// Who a connection comes from, as far as its address says: nobody can open a connection from an address that is not
/// theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comer {
    /// The address is one of an authority, or of a relay of the newest consensus.
    Known,
    /// The address is any other.
    Stranger,
}

/// One connection that is open.
#[derive(Clone, Copy)]
struct Seat {
    address: IpAddr,
    comer: Comer,
}

#[derive(Default)]
struct State {
    /// Connections that may be open at once.
    most: u32,
    seats: HashMap<u64, Seat>,
    strangers: u32,
    by_site: HashMap<Site, u32>,
    /// Strangers that have not yet shown what they want, the oldest first.
    waiting: BTreeMap<u64, Arc<Notify>>,
    next: u64,
}

impl State {
    fn open(&self) -> u32 {
        u32::try_from(self.seats.len()).unwrap_or(u32::MAX)
    }

    /// Connections of strangers that may be open at once.
    fn for_strangers(&self) -> u32 {
        self.most - self.most / KEPT_SHARE
    }

    /// Gives the place of the stranger that has kept this relay waiting longest to somebody else. Returns `false` if no
    /// stranger does.
    fn evict(&mut self) -> bool {
        let Some((oldest, evicted)) = self.waiting.pop_first() else {
            return false;
        };
        evicted.notify_one();
        self.leave(oldest);
        true
    }

    fn leave(&mut self, id: u64) {
        self.waiting.remove(&id);
        let Some(seat) = self.seats.remove(&id) else {
            return;
        };
        if seat.comer == Comer::Stranger {
            self.strangers -= 1;
        }
        for (site, _) in Site::caps(seat.address, 0) {
            if let Some(count) = self.by_site.get_mut(&site) {
                *count -= 1;
                if *count == 0 {
                    self.by_site.remove(&site);
                }
            }
        }
    }
}

/// Counts the connections that are open, in all and by site.
#[derive(Clone)]
pub(crate) struct LinkAdmission {
    state: Arc<Mutex<State>>,
}

/// The place of one connection; gives the place back when dropped.
pub(crate) struct LinkPlace {
    id: u64,
    state: Arc<Mutex<State>>,
    evicted: Arc<Notify>,
}

impl LinkPlace {
    /// Waits until a newcomer takes the place, which happens only before [`LinkPlace::settle`].
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Keeps the place for as long as the connection lives, because its far side has shown what it wants; `comer` says
    /// who that is by the key that it proved.
    pub(crate) fn settle(&self, comer: Comer) {
        let mut state = lock(&self.state);
        state.waiting.remove(&self.id);
        if let Some(seat) = state.seats.get_mut(&self.id)
            && (seat.comer, comer) == (Comer::Stranger, Comer::Known)
        {
            seat.comer = comer;
            state.strangers -= 1;
        }
    }
}

impl Drop for LinkPlace {
    fn drop(&mut self) {
        lock(&self.state).leave(self.id);
    }
}

impl LinkAdmission {
    /// An admission of `connections` at once.
    pub(crate) fn new(connections: u32) -> Self {
        let admission = Self {
            state: Arc::default(),
        };
        admission.set(connections);
        admission
    }

    /// Lets `connections` be open at once from now on. Where more are open, those go that have not yet shown what they
    /// want; the others stay until they end, and nobody comes in before there are fewer.
    pub(crate) fn set(&self, connections: u32) {
        let mut state = lock(&self.state);
        state.most = connections;
        while (state.open() > state.most || state.strangers > state.for_strangers())
            && state.evict()
        {}
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        lock(&self.state).seats.len()
    }

    /// Takes a place for a connection from `address`, of whose narrowest site `per_address` may be open at once.
    ///
    /// Where strangers have all places that they may have, the stranger that has kept this relay waiting longest gives
    /// way: whoever opens connections and says nothing keeps nobody out.
    ///
    /// # Errors
    /// The bound that has been reached.
    pub(crate) fn admit(
        &self,
        address: IpAddr,
        per_address: u32,
        comer: Comer,
    ) -> Result<LinkPlace, ConnectionBound> {
        let mut state = lock(&self.state);
        let is_full = |(site, cap)| {
            let held = state.by_site.get(&site).copied().unwrap_or_default();
            held >= cap
        };
        // Loopback is one's own machine, where a whole network has one address.
        if Site::caps(address, per_address).any(is_full) && !address.is_loopback() {
            return Err(ConnectionBound::Address);
        }
        let is_full = state.open() >= state.most;
        let no_place = match comer {
            Comer::Known => is_full,
            Comer::Stranger => is_full || state.strangers >= state.for_strangers(),
        };
        if no_place && !state.evict() {
            return Err(ConnectionBound::All);
        }
        let id = state.next;
        state.next += 1;
        let evicted: Arc<Notify> = Arc::default();
        if comer == Comer::Stranger {
            state.strangers += 1;
            state.waiting.insert(id, evicted.clone());
        }
        state.seats.insert(id, Seat { address, comer });
        for (site, _) in Site::caps(address, per_address) {
            *state.by_site.entry(site).or_default() += 1;
        }
        Ok(LinkPlace {
            id,
            state: self.state.clone(),
            evicted,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    use Comer::{Known, Stranger};

    #[test]
    fn all_together_and_each_address_are_bounded() {
        let admission = LinkAdmission::new(3);
        let admit = |n| {
            let place = admission.admit(address(n), 2, Known);
            place.inspect(|place| place.settle(Known))
        };
        let first = admit(1).unwrap();
        let _second = admit(1).unwrap();
        assert_eq!(admit(1).err(), Some(ConnectionBound::Address));
        let _third = admit(2).unwrap();
        assert_eq!(admit(3).err(), Some(ConnectionBound::All));
        drop(first);
        assert!(admit(1).is_ok());
    }

    #[test]
    fn strangers_leave_places_to_known_addresses() {
        let admission = LinkAdmission::new(8);
        let settled = |n, comer| {
            let place = admission.admit(address(n), 9, comer);
            place.inspect(|place| place.settle(comer))
        };
        let mut strangers: Vec<_> = (0..6).map(|n| settled(n, Stranger).unwrap()).collect();
        assert_eq!(settled(7, Stranger).err(), Some(ConnectionBound::All));
        let _known = [settled(8, Known).unwrap(), settled(9, Known).unwrap()];
        assert_eq!(settled(10, Known).err(), Some(ConnectionBound::All));
        // A stranger that proves to be a relay does not count as a stranger any more.
        strangers.pop();
        let relay = admission.admit(address(11), 9, Stranger).unwrap();
        relay.settle(Known);
        drop(relay);
        assert!(settled(12, Stranger).is_ok());
    }

    #[test]
    fn who_says_nothing_keeps_nobody_out() {
        let admission = LinkAdmission::new(8);
        let is_evicted = |place: &LinkPlace| {
            use core::task::{Context, Poll, Waker};
            let mut context = Context::from_waker(Waker::noop());
            let evicted = core::pin::pin!(place.evicted()).poll(&mut context);
            matches!(evicted, Poll::Ready(()))
        };
        let silent: Vec<_> = (0..6)
            .map(|n| admission.admit(address(n), 9, Stranger).unwrap())
            .collect();
        silent[0].settle(Stranger);
        let newcomer = admission.admit(address(6), 9, Stranger).unwrap();
        assert!(is_evicted(&silent[1]) && !is_evicted(&silent[0]) && !is_evicted(&silent[2]));
        newcomer.settle(Stranger);
        // An evicted place is given back once.
        drop(silent);
        assert_eq!(lock(&admission.state).strangers, 1);
        drop(newcomer);
        assert!(lock(&admission.state).by_site.is_empty());
    }

    #[test]
    fn a_subnet_of_ipv6_counts_as_one_and_a_block_as_eight() {
        let admission = LinkAdmission::new(1_000);
        let mut places = Vec::new();
        let mut admit = |text: String| {
            let place = admission.admit(text.parse().unwrap(), 2, Stranger);
            let is_in = place.is_ok();
            places.extend(place);
            is_in
        };
        assert_eq!((1..=9).filter(|n| admit(format!("2600::{n}"))).count(), 2);
        let subnets = (1..=99).filter(|n| admit(format!("2600:0:0:{n}::1")));
        assert_eq!(subnets.count(), 14);
        assert!(admit("2600:0:1::1".to_owned()));
        drop(places);
        assert!(lock(&admission.state).by_site.is_empty());
    }

    #[test]
    fn fewer_places_end_nothing_that_is_in_use() {
        let admission = LinkAdmission::new(8);
        let known = |n| {
            let place = admission.admit(address(n), 9, Known).unwrap();
            place.settle(Known);
            place
        };
        let mut settled: Vec<_> = (0..4).map(known).collect();
        let silent = admission.admit(address(5), 9, Stranger).unwrap();
        admission.set(3);
        let mut context = core::task::Context::from_waker(core::task::Waker::noop());
        let evicted = core::pin::pin!(silent.evicted()).poll(&mut context);
        assert!(evicted.is_ready(), "it has said nothing yet");
        assert_eq!(lock(&admission.state).open(), 4, "the others stay");
        for _ in 0..2 {
            let more = admission.admit(address(6), 9, Known);
            assert_eq!(more.err(), Some(ConnectionBound::All));
            settled.pop();
        }
        settled.push(known(6));
        let more = admission.admit(address(7), 9, Known);
        assert_eq!(more.err(), Some(ConnectionBound::All));
        admission.set(4);
        assert!(admission.admit(address(7), 9, Known).is_ok());
    }

    #[test]
    fn places_leave_nothing_behind() {
        let admission = LinkAdmission::new(8);
        for n in 0..100 {
            drop(admission.admit(address(n), 1, Stranger).unwrap());
            // A connection that is not admitted leaves nothing behind either.
            assert_eq!(
                admission.admit(address(n), 0, Stranger).err(),
                Some(ConnectionBound::Address)
            );
        }
        let state = lock(&admission.state);
        assert!(state.by_site.is_empty() && state.seats.is_empty() && state.waiting.is_empty());
        assert_eq!(state.strangers, 0);
    }

    #[test]
    fn ones_own_machine_has_no_bound_of_its_own() {
        let admission = LinkAdmission::new(3);
        let loopback: IpAddr = [127, 0, 0, 1].into();
        let places: Vec<_> = (0..3)
            .map(|_| {
                let place = admission.admit(loopback, 1, Known);
                place.inspect(|place| place.settle(Known))
            })
            .collect();
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(
            admission.admit(loopback, 1, Known).err(),
            Some(ConnectionBound::All)
        );
    }
}
