//! The state that all directory connections share.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cepa_common::dir::{
    AuthorityEntry, Consensus, ConsensusConflict, ConsensusStatus, ConsensusStore, Inserted,
    NetworkFile, Params, StoreError, WeightLoss,
};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::NetworkHandle;
use cepa_common::world::Clock;
use tokio::sync::watch;

use super::differences::Differences;
use super::padding::{Answer, Places};
use crate::admission::{Asker, ConnectionPlaces, DirectoryAdmission};
use crate::authority::{AuthorityHandle, Seat, Serve};
use crate::events::{RelayEvent, Reporter};

/// The consensuses that a relay holds and serves, and the authority that takes uploads, if the relay is one.
#[derive(Debug)]
pub struct DirectoryServer {
    network: NetworkHandle,
    clock: Clock,
    store: watch::Sender<Arc<ConsensusStore>>,
    authority: Option<AuthorityHandle>,
    /// The relay that serves, whom permits must name.
    own: Option<RelayId>,
    padding: Places,
    events: Reporter,
    pub(super) differences: Differences,
    pub(super) admission: DirectoryAdmission,
    pub(super) places: ConnectionPlaces,
    /// Bytes of consensuses and differences that were served: over circuits, and to who dialled.
    served: [AtomicU64; 2],
}

impl DirectoryServer {
    /// A server that holds no consensus yet. `authority` takes uploads, if there is one.
    pub fn new(
        network: impl Into<NetworkHandle>,
        clock: Clock,
        authority: Option<AuthorityHandle>,
    ) -> Arc<Self> {
        Self::build(network.into(), clock, authority, Reporter::default(), None)
    }

    /// A server like that of [`DirectoryServer::new`] that is part of the relay `own`, which authorities measure. Its
    /// rooms report to `events`.
    pub fn of_relay(
        network: impl Into<NetworkHandle>,
        clock: Clock,
        authority: Option<AuthorityHandle>,
        events: Reporter,
        own: RelayId,
    ) -> Arc<Self> {
        Self::build(network.into(), clock, authority, events, Some(own))
    }

    /// Counts the bytes of an answer to who asked for a consensus.
    pub(super) fn count_served(&self, asker: Asker, bytes: u64) {
        let place = usize::from(asker != Asker::Stream);
        self.served[place].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of consensuses and differences that were served since the start: over circuits, and to who dialled.
    pub(crate) fn served(&self) -> (u64, u64) {
        let [streams, others] = &self.served;
        (
            streams.load(Ordering::Relaxed),
            others.load(Ordering::Relaxed),
        )
    }

    fn build(
        network: NetworkHandle,
        clock: Clock,
        authority: Option<AuthorityHandle>,
        events: Reporter,
        own: Option<RelayId>,
    ) -> Arc<Self> {
        let store = watch::Sender::new(Arc::new(ConsensusStore::new()));
        Arc::new(Self {
            network,
            clock,
            store,
            authority,
            own,
            padding: Places::default(),
            events,
            differences: Differences::new(),
            admission: DirectoryAdmission::default(),
            places: ConnectionPlaces::default(),
            served: Default::default(),
        })
    }

    /// Takes a verified consensus into the store.
    ///
    /// # Errors
    /// [`StoreError`] if the consensus is not taken; what was held stays.
    pub fn offer(&self, consensus: Arc<Consensus>) -> Result<Inserted, StoreError> {
        let now = self.clock.now_secs();
        let is_fresh = consensus.status(now) == ConsensusStatus::Fresh;
        let mut result = Ok(Inserted::AlreadyHeld);
        let (mut conflict, mut loss) = (None, None);
        self.store.send_if_modified(|store| {
            let between =
                |newest| ConsensusConflict::between(newest, &consensus, &self.network.newest());
            conflict = store.newest().and_then(|newest| between(newest));
            loss = store
                .newest()
                .and_then(|newest| WeightLoss::between(newest, &consensus));
            let mut next = ConsensusStore::clone(store);
            result = next.insert(Arc::clone(&consensus), now);
            if result == Ok(Inserted::AlreadyHeld) {
                // The consensus is held and now has more signatures. Clients that know other authorities need them.
                next.refresh_signatures(consensus);
            }
            let is_taken = result.is_ok();
            if is_taken {
                *store = Arc::new(next);
            }
            result == Ok(Inserted::Newest)
        });
        if let Some(conflict) = conflict {
            self.events.report(RelayEvent::TwoConsensuses(conflict));
        }
        // Of what is read from the disk at a start, only the newest is news.
        let is_news = result == Ok(Inserted::Newest) && is_fresh;
        if let Some(loss) = loss.filter(|_| is_news) {
            self.events.report(RelayEvent::WeightLost(loss));
        }
        result
    }

    /// The seat of the authority whose consensuses this server serves.
    pub fn seat(self: &Arc<Self>) -> Seat {
        Seat {
            network: self.network.clone(),
            clock: self.clock.clone(),
            events: self.events.clone(),
            server: self.clone(),
        }
    }

    /// The consensuses held now.
    pub fn snapshot(&self) -> Arc<ConsensusStore> {
        Arc::clone(&self.store.borrow())
    }

    /// Follows the consensuses held. The receiver wakes when there is a newer one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ConsensusStore>> {
        self.store.subscribe()
    }

    /// The parameters in force: those of the newest consensus, or else those of the network's file.
    pub(crate) fn params(&self) -> Params {
        let store = self.snapshot();
        let newest = store.newest().map(|newest| newest.params().clone());
        newest.unwrap_or_else(|| self.network.newest().params())
    }

    /// The newest revision of the network's file.
    pub fn network(&self) -> Arc<NetworkFile> {
        self.network.newest()
    }

    /// All revisions of the network's file that are held.
    pub fn networks(&self) -> &NetworkHandle {
        &self.network
    }

    /// Who asks on a connection from `address`, whose far side has proven `key`.
    pub(crate) fn asker(&self, key: Option<[u8; 32]>, address: IpAddr) -> Asker {
        let Some(key) = key else {
            return Asker::Stranger(address);
        };
        let now = self.clock.now_secs();
        let revisions = self.network.revisions();
        let mut authorities = revisions.authorities(now).into_iter();
        if let Some(authority) = authorities.find(|authority| authority.identity.0 == key) {
            return Asker::Authority(authority.identity);
        }
        let relay = self.snapshot().identity_of_link_key(&key, now);
        relay.map_or(Asker::Stranger(address), Asker::Relay)
    }

    /// Whether `address` is one of an authority, or of a relay of the newest consensus.
    pub(crate) fn knows(&self, address: IpAddr) -> bool {
        let of_authority = |authority: &AuthorityEntry| {
            let mut addresses = authority.addresses.iter();
            addresses.any(|there| there.ip() == address)
        };
        let newest = self.network.newest();
        newest.authorities().iter().any(of_authority)
            || self
                .snapshot()
                .newest()
                .is_some_and(|newest| newest.is_relay_ip(address))
    }

    /// Where the rooms around the directory report to.
    pub(crate) fn events(&self) -> &Reporter {
        &self.events
    }

    /// The time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn authority(&self) -> Option<&AuthorityHandle> {
        self.authority.as_ref()
    }

    /// Answers an authority's permit with padding.
    pub(super) fn pad(&self, permit: &[u8]) -> Answer {
        let time = self.clock.now_secs();
        let network = self.network.at(time);
        self.padding.answer(permit, self.own, &network, time)
    }
}

impl Serve for DirectoryServer {
    fn serve(&self, consensus: Arc<Consensus>) -> Result<(), StoreError> {
        self.offer(consensus).map(drop)
    }

    fn newest(&self) -> Option<Arc<Consensus>> {
        self.snapshot().newest().cloned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::dir::Flags;
    use cepa_common::testkit::{consensus_of, network, virtual_clock, web_entry};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fresh_consensus_that_lost_much_weight_is_told_once_and_served() {
        const NOW: u64 = 1_900_000_000;
        let (network, events) = (network(3), Reporter::default());
        let mut told = events.subscribe();
        let clock = virtual_clock(NOW * 1_000);
        let handle = NetworkHandle::from(network.clone());
        let server = DirectoryServer::build(handle, clock, None, events.clone(), None);
        let offer = |valid_after, relays: &[u8]| {
            let run = Flags::VALID | Flags::RUNNING;
            let entries = relays.iter().map(|n| web_entry(*n, run, 10)).collect();
            server
                .offer(consensus_of(&network, valid_after, entries))
                .unwrap()
        };
        // What a start reads from the disk is old, and was told of when it was new.
        offer(NOW - 30, &[1, 2, 3, 4]);
        offer(NOW - 20, &[1]);
        offer(NOW - 10, &[1, 2, 3]);
        assert_eq!(offer(NOW, &[1]), Inserted::Newest);
        assert_eq!(offer(NOW, &[1]), Inserted::AlreadyHeld);
        let newest = server.snapshot().newest().unwrap().clone();
        assert_eq!(newest.entries().len(), 1);
        drop((server, events));
        let mut lost = Vec::new();
        while let Some(event) = told.next().await {
            if let RelayEvent::WeightLost(loss) = event {
                lost.push((loss.valid_after, loss.relays_before, loss.relays_after));
            }
        }
        assert_eq!(lost, [(NOW, 3, 1)]);
    }
}
