//! A client's links: one to each relay at which it begins circuits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use cepa_common::dir::Entry;
use cepa_common::ids::{NetworkId, RelayId};
use cepa_common::limits::QUEUE_SLACK_CELLS;
use cepa_common::net::establish::{self, EstablishError};
use cepa_common::net::link_task;
use cepa_common::net::queue::LinkQueue;
use cepa_common::net::switch::AcceptNone;
use cepa_common::net::tasks::Tasks;
use cepa_common::net::tls::Tls;
use cepa_common::sync::lock;
use cepa_common::world::World;

use super::memory::MemoryLimit;
use cepa_common::net::skew::ClockSkew;

#[derive(Default)]
struct Held {
    links: HashMap<RelayId, Arc<LinkQueue>>,
    /// The dials that are under way, at most one to a relay. Whoever waits for a dial uses the link that comes of it.
    dialling: HashMap<RelayId, Arc<tokio::sync::Mutex<()>>>,
}

pub(crate) struct GuardLinks {
    network: NetworkId,
    tls: Tls,
    world: World,
    tasks: Tasks,
    /// What the client's queues are charged to.
    memory: Arc<MemoryLimit>,
    held: Mutex<Held>,
    skew: ClockSkew,
}

impl GuardLinks {
    /// No links yet. What waits for them is charged to `memory`.
    pub(crate) fn new(
        network: NetworkId,
        tls: Tls,
        world: World,
        tasks: Tasks,
        memory: Arc<MemoryLimit>,
    ) -> Self {
        Self {
            network,
            tls,
            world,
            tasks,
            memory,
            held: Mutex::default(),
            skew: ClockSkew::default(),
        }
    }

    /// The world that the client lives in.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// What the client's queues, circuits and streams are charged to.
    pub(crate) fn memory(&self) -> &Arc<MemoryLimit> {
        &self.memory
    }

    /// What relays have said about the time when links to them were made. The handle hears of later links too.
    pub(crate) fn skew(&self) -> &ClockSkew {
        &self.skew
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }

    fn find(&self, relay: RelayId) -> Option<Arc<LinkQueue>> {
        let mut held = self.held();
        held.links.retain(|_, queue| !queue.is_closed());
        held.links.get(&relay).cloned()
    }

    /// New circuits get new links from now on. Circuits on the links that there are stay on them.
    pub(crate) fn forget_all(&self) {
        self.held().links.clear();
    }

    /// New circuits do not begin on this link from now on.
    pub(crate) fn forget(&self, relay: &RelayId, link: &Arc<LinkQueue>) {
        let mut held = self.held();
        let is_held = |held: &Arc<LinkQueue>| Arc::ptr_eq(held, link);
        if held.links.get(relay).is_some_and(is_held) {
            held.links.remove(relay);
        }
    }

    /// Finds a link to `relay`, or dials one. `window_cells` is the largest window of a circuit, which bounds the
    /// link's queue. Says with the link whether it was there already.
    pub(crate) async fn link_to(
        &self,
        relay: &Entry,
        window_cells: usize,
    ) -> Result<(Arc<LinkQueue>, bool), EstablishError> {
        if let Some(queue) = self.find(relay.identity) {
            return Ok((queue, true));
        }
        let turn = self
            .held()
            .dialling
            .entry(relay.identity)
            .or_default()
            .clone();
        let _turn = turn.lock().await;
        if let Some(queue) = self.find(relay.identity) {
            return Ok((queue, true));
        }
        // Zero stands for no time: a client does not tell relays what its clock says.
        let (key, none) = (relay.link_key(), 0);
        let link = establish::dial_link(&relay.addresses, key, &self.tls, self.network, none).await;
        self.held().dialling.remove(&relay.identity);
        let link = link?;
        self.skew.observe(
            relay.identity,
            self.world.clock.now_secs(),
            link.hello.time_unix_sec,
        );
        let queue = Arc::new(LinkQueue::new(
            window_cells + QUEUE_SLACK_CELLS,
            self.memory.budget(),
        ));
        self.held().links.insert(relay.identity, queue.clone());
        let own = queue.clone();
        self.tasks.spawn(async move {
            let end = link_task::run(link, own, AcceptNone, None).await;
            tracing::debug!(%end, "a link has ended");
        });
        Ok((queue, false))
    }
}
