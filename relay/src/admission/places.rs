//! Places for directory connections (docs/protocol.md, 6.12.6; S23).
//!
//! Votes must get through whatever strangers do. So authorities, relays, strangers and streams each have places of
//! their own, and where a class is full, the connection that has stood still longest gives way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cepa_common::dir::Site;
use cepa_common::ids::RelayId;
use cepa_common::sync::lock;
use cepa_common::world::steady;
use tokio::sync::Notify;

/// Connections of one authority at once. An authority passes on the votes of each other authority, by a few connections
/// for each.
const PER_AUTHORITY: u32 = 64;
/// Connections of one relay at once.
const PER_RELAY: u32 = 8;
/// One site may have at most one in this many of the strangers' places, and never fewer than [`PER_RELAY`].
const SITE_SHARE: u32 = 8;
/// A connection on which nothing moved for this time may lose its place to a newcomer (milliseconds).
const STILL_MS: u64 = 1_000;

/// Who holds a directory connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Asker {
    /// An authority, by the key that it proved.
    Authority(RelayId),
    /// A relay of the consensus, by the key that it proved.
    Relay(RelayId),
    /// Anybody else, by address.
    Stranger(IpAddr),
    /// Anybody, by a circuit.
    Stream,
}

/// Askers whose connections are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    Authorities,
    Relays,
    Strangers,
    Streams,
}

impl Asker {
    fn class(self) -> Class {
        match self {
            Self::Authority(_) => Class::Authorities,
            Self::Relay(_) => Class::Relays,
            Self::Stranger(_) => Class::Strangers,
            Self::Stream => Class::Streams,
        }
    }

    /// The askers that this one is counted together with: all addresses of one site count as one.
    fn group(self) -> Group {
        match self {
            Self::Authority(id) | Self::Relay(id) => Group::Peer(id),
            Self::Stranger(address) => Group::Site(Site::of(address)),
            Self::Stream => Group::Streams,
        }
    }

    /// How many connections this asker may hold, if its class has `bound` places; `None` if there is no bound but that
    /// of the class.
    fn cap(self, bound: u32) -> Option<u32> {
        match self {
            Self::Authority(_) => Some(PER_AUTHORITY),
            Self::Relay(_) => Some(PER_RELAY),
            // Loopback is one's own machine, where a whole network has one address.
            Self::Stranger(address) if address.is_loopback() => None,
            Self::Stranger(_) => Some((bound / SITE_SHARE).max(PER_RELAY)),
            Self::Stream => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Group {
    Peer(RelayId),
    Site(Site),
    Streams,
}

/// One connection.
#[derive(Debug)]
struct Held {
    class: Class,
    group: Group,
    watch: Arc<Watch>,
    evicted: Arc<Notify>,
}

/// When bytes last moved on a connection.
#[derive(Debug)]
pub(crate) struct Watch {
    began: Instant,
    /// Milliseconds from `began` to the last move.
    moved_ms: AtomicU64,
}

impl Watch {
    fn now_ms(&self) -> u64 {
        u64::try_from(steady::since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes that bytes move now.
    pub(crate) fn moved(&self) {
        self.moved_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// For how long nothing has moved (milliseconds).
    fn still_ms(&self) -> u64 {
        let moved_ms = self.moved_ms.load(Ordering::Relaxed);
        self.now_ms().saturating_sub(moved_ms)
    }
}

#[derive(Debug, Default)]
struct Table {
    held: HashMap<u64, Held>,
    by_group: HashMap<Group, u32>,
    by_class: HashMap<Class, u32>,
    next: u64,
}

impl Table {
    fn leave(&mut self, id: u64) {
        let Some(held) = self.held.remove(&id) else {
            return;
        };
        if let Some(count) = self.by_group.get_mut(&held.group) {
            *count -= 1;
            if *count == 0 {
                self.by_group.remove(&held.group);
            }
        }
        if let Some(count) = self.by_class.get_mut(&held.class) {
            *count -= 1;
        }
    }

    /// Takes the place of the connection that has stood still longest among `those`, and says whether there was one.
    fn evict(&mut self, those: impl Fn(&Held) -> bool) -> bool {
        let still = self
            .held
            .iter()
            .filter(|(_, held)| those(held))
            .map(|(id, held)| (held.watch.still_ms(), *id))
            .filter(|(still_ms, _)| *still_ms >= STILL_MS);
        // Of several that stood still equally long, the oldest goes: the order of the table says nothing.
        let Some((_, id)) = still.max_by_key(|(still_ms, id)| (*still_ms, u64::MAX - id)) else {
            return false;
        };
        if let Some(held) = self.held.get(&id) {
            held.evicted.notify_one();
        }
        self.leave(id);
        true
    }
}

/// All directory connections of this relay.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionPlaces(Arc<Mutex<Table>>);

/// The place of one directory connection; gives the place back when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPlace {
    id: u64,
    table: Arc<Mutex<Table>>,
    watch: Arc<Watch>,
    evicted: Arc<Notify>,
}

impl ConnectionPlace {
    /// Where to note that bytes move on the connection.
    pub(crate) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    /// Waits until a newcomer takes the place.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        lock(&self.table).leave(self.id);
    }
}

impl ConnectionPlaces {
    /// Takes a place for a connection, and says whether that connection is served documents. `bound` is the number of
    /// connections of strangers, and of streams, and of relays, that are served at once.
    ///
    /// Beyond the bound connections are told to come again later; at twice the bound there is no place.
    pub(crate) fn take(&self, asker: Asker, bound: u32) -> Option<(ConnectionPlace, bool)> {
        let mut table = lock(&self.0);
        let (class, group) = (asker.class(), asker.group());
        let in_group = table.by_group.get(&group).copied().unwrap_or(0);
        if asker.cap(bound).is_some_and(|cap| in_group >= cap)
            && !table.evict(|held| held.group == group)
        {
            return None;
        }
        let in_class = table.by_class.get(&class).copied().unwrap_or(0);
        let mut is_served = class == Class::Authorities || in_class < bound;
        if !is_served {
            is_served = table.evict(|held| held.class == class);
        }
        if !is_served && in_class >= bound.saturating_mul(2) {
            return None;
        }
        let watch = Arc::new(Watch {
            began: steady::now(),
            moved_ms: AtomicU64::new(0),
        });
        let evicted: Arc<Notify> = Arc::default();
        let id = table.next;
        table.next += 1;
        *table.by_group.entry(group).or_default() += 1;
        *table.by_class.entry(class).or_default() += 1;
        table.held.insert(
            id,
            Held {
                class,
                group,
                watch: Arc::clone(&watch),
                evicted: Arc::clone(&evicted),
            },
        );
        drop(table);
        let place = ConnectionPlace {
            id,
            table: Arc::clone(&self.0),
            watch,
            evicted,
        };
        Some((place, is_served))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use core::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;

    fn stranger(n: u32) -> Asker {
        Asker::Stranger(IpAddr::V4(n.into()))
    }

    fn is_evicted(place: &ConnectionPlace) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(
            core::pin::pin!(place.evicted()).poll(&mut context),
            Poll::Ready(())
        )
    }

    async fn pass(ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_longest_gives_way() {
        let places = ConnectionPlaces::default();
        let take = |n| places.take(stranger(n), 2);
        let (first, _) = take(1).unwrap();
        pass(10).await;
        let (second, is_served) = take(2).unwrap();
        assert!(is_served);
        // Nobody has stood still for long: the newcomer is told to come again, and beyond twice the bound there is no
        // place.
        let (third, is_served) = take(3).unwrap();
        assert!(!is_served);
        let (fourth, is_served) = take(4).unwrap();
        assert!(!is_served && take(5).is_none());
        drop((third, fourth));
        pass(STILL_MS).await;
        first.watch().moved();
        let (fifth, is_served) = take(6).unwrap();
        assert!(is_served && is_evicted(&second) && !is_evicted(&first));
        drop((first, second, fifth));
        let table = lock(&places.0);
        assert!(table.held.is_empty() && table.by_group.is_empty());
        assert!(table.by_class.values().all(|count| *count == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn classes_do_not_disturb_each_other() {
        let places = ConnectionPlaces::default();
        let mut held = Vec::new();
        let mut take = |asker| {
            let taken = places.take(asker, 8);
            let is_served = taken.as_ref().is_some_and(|(_, is_served)| *is_served);
            held.extend(taken);
            is_served
        };
        assert_eq!((0..99).filter(|n| take(stranger(*n))).count(), 8);
        assert_eq!((0..99).filter(|_| take(Asker::Stream)).count(), 8);
        let relay = |n| Asker::Relay(RelayId([n; 32]));
        assert_eq!((0..99).filter(|_| take(relay(1))).count(), 8);
        assert!(!take(relay(2)));
        for n in 100..131 {
            let authority = Asker::Authority(RelayId([n; 32]));
            let taken = (0..99).filter(|_| take(authority)).count();
            assert_eq!(taken, PER_AUTHORITY as usize);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_site_has_a_share() {
        let places = ConnectionPlaces::default();
        let mut held = Vec::new();
        let mut take = |text: &str| {
            let taken = places.take(Asker::Stranger(text.parse().unwrap()), 400);
            let is_served = taken.as_ref().is_some_and(|(_, is_served)| *is_served);
            held.extend(taken);
            is_served
        };
        assert_eq!((0..99).filter(|_| take("2600::1")).count(), 50);
        assert!(!take("2600::2") && take("192.0.2.1"));
        assert_eq!((0..99).filter(|_| take("127.0.0.1")).count(), 99);
        // A connection that stands still gives way to others of its site.
        pass(STILL_MS).await;
        assert!(take("2600::2"));
    }
}
