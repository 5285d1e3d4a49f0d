//! Links to other relays: found by identity, dialled when there is none, reused.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use cepa_common::dir::{Consensus, ConsensusStatus, ConsensusStore};
use cepa_common::ids::{NetworkId, RelayId};
use cepa_common::net::establish::{self, Accepted, EstablishError, NewLink};
use cepa_common::net::queue::LinkQueue;
use cepa_common::net::tls::Tls;
use cepa_common::sync::lock;
use cepa_common::world::sockets::SocketStream;

use super::LinkContext;
use crate::admission::{Party, SharedPlaces};
use crate::directory::DirectoryServer;

/// EXTENDs that wait at once for a consensus that lists their target. A party that fills the places makes room.
const MAX_WAITING: usize = 64;

/// Why there is no link to a relay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkToError {
    /// No valid consensus lists the relay.
    #[error("no valid consensus lists the relay")]
    Unknown,
    /// The relay could not be dialled.
    #[error(transparent)]
    Dial(#[from] EstablishError),
}

struct Held {
    queue: Arc<LinkQueue>,
    dialled: bool,
}

#[derive(Default)]
struct Peers {
    held: HashMap<RelayId, Vec<Held>>,
    /// The dials that are under way, at most one to a relay. Whoever waits for a dial uses the link that comes of it.
    dialling: HashMap<RelayId, Arc<tokio::sync::Mutex<()>>>,
}

/// The links to other relays.
pub(crate) struct PeerLinks {
    own: RelayId,
    network: NetworkId,
    tls: Tls,
    directory: Arc<DirectoryServer>,
    context: LinkContext,
    peers: Mutex<Peers>,
    /// Those who wait for a consensus that lists their target.
    waiting: SharedPlaces,
}

impl PeerLinks {
    /// The links of the relay `own`: none yet. `directory` knows the addresses of others; links run with `context`.
    pub(crate) fn new(
        own: RelayId,
        tls: Tls,
        directory: Arc<DirectoryServer>,
        context: LinkContext,
    ) -> Self {
        Self {
            own,
            network: directory.network().network_id(),
            tls,
            directory,
            context,
            peers: Mutex::default(),
            waiting: SharedPlaces::new(MAX_WAITING),
        }
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        lock(&self.peers)
    }

    /// A link whose far side has proven to be `relay` (S18).
    fn find(&self, relay: RelayId) -> Option<Arc<LinkQueue>> {
        let mut peers = self.peers();
        let held = peers.held.get_mut(&relay)?;
        held.retain(|link| !link.queue.is_closed());
        // If both relays have dialled each other, both use the link that the lower identity dialled.
        let prefer_ours = self.own < relay;
        let best = held
            .iter()
            .find(|link| link.dialled == prefer_ours)
            .or(held.first());
        let best = best.map(|link| link.queue.clone());
        if held.is_empty() {
            peers.held.remove(&relay);
        }
        best
    }

    /// Looks up the link key and the addresses of a relay. A client may hold a newer consensus than this relay does. So
    /// while this relay's newest is not fresh, a few callers at a time wait for the next one, until their deadline.
    async fn target(&self, relay: RelayId, party: Party) -> Option<([u8; 32], Vec<SocketAddr>)> {
        let clock = self.directory.clock();
        let mut follow = self.directory.subscribe();
        let find = |store: &ConsensusStore| store.extend_target(relay, clock.now_secs());
        let mut place = None;
        loop {
            let store = Arc::clone(&follow.borrow_and_update());
            if let Some(found) = find(&store) {
                return Some(found);
            }
            let is_fresh =
                |newest: &Arc<Consensus>| newest.status(clock.now_secs()) == ConsensusStatus::Fresh;
            if store.newest().is_some_and(is_fresh) {
                return None;
            }
            if place.is_none() {
                place = Some(self.waiting.take(party)?);
            }
            tokio::select! {
                changed = follow.changed() => changed.ok()?,
                () = place.as_ref()?.evicted() => return None,
            }
        }
    }

    /// Finds or dials a link to `relay`, whose address the consensus names, for `party`.
    ///
    /// # Errors
    /// [`LinkToError`].
    pub(crate) async fn link_to(
        &self,
        relay: RelayId,
        party: Party,
    ) -> Result<Arc<LinkQueue>, LinkToError> {
        if let Some(queue) = self.find(relay) {
            return Ok(queue);
        }
        let (key, addresses) = self
            .target(relay, party)
            .await
            .ok_or(LinkToError::Unknown)?;
        let turn = self.peers().dialling.entry(relay).or_default().clone();
        let _turn = turn.lock().await;
        if let Some(queue) = self.find(relay) {
            return Ok(queue);
        }
        let link = self.dial(relay, key, &addresses).await;
        self.peers().dialling.remove(&relay);
        Ok(link?)
    }

    /// Dials `relay` at the first of these addresses that answers, whatever links there are.
    ///
    /// # Errors
    /// No address answers by the link key `key`.
    pub(crate) async fn dial(
        &self,
        relay: RelayId,
        key: [u8; 32],
        addresses: &[SocketAddr],
    ) -> Result<Arc<LinkQueue>, EstablishError> {
        let now = self.directory.clock().now_secs();
        let link = establish::dial_link(addresses, key, &self.tls, self.network, now).await?;
        Ok(self.start(link, Some(relay)))
    }

    /// Finds out what a connection that came in is.
    pub(super) async fn accept(&self, tcp: SocketStream) -> Result<Accepted, EstablishError> {
        let now = self.directory.clock().now_secs();
        establish::accept(tcp, &self.tls, self.network, now).await
    }

    /// Starts a link that came in, and says whether its far side has proven to be a relay.
    pub(super) fn take(&self, link: NewLink) -> (Arc<LinkQueue>, bool) {
        let peer = link.peer_key.and_then(|key| self.identity_of(&key));
        (self.start(link, peer), peer.is_some())
    }

    /// Starts the task of a new link, and keeps the link for reuse if its far side has proven to be the relay `peer`.
    fn start(&self, link: NewLink, peer: Option<RelayId>) -> Arc<LinkQueue> {
        let dialled = link.dialled;
        self.context.start(link, peer, |queue| {
            if let Some(peer) = peer {
                self.register(peer, queue.clone(), dialled);
            }
        })
    }

    /// The relay whose link key this is by some consensus that is valid now (protocol.md 1.3).
    pub(crate) fn identity_of(&self, key: &[u8; 32]) -> Option<RelayId> {
        let now = self.directory.clock().now_secs();
        self.directory.snapshot().identity_of_link_key(key, now)
    }

    fn register(&self, relay: RelayId, queue: Arc<LinkQueue>, dialled: bool) {
        let mut peers = self.peers();
        let held = peers.held.entry(relay).or_default();
        // Who comes and goes leaves nothing behind, also where nobody looks for its links.
        held.retain(|link| !link.queue.is_closed());
        held.push(Held { queue, dialled });
    }
}
