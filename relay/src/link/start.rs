//! Starts the task of a link, and hands the CREATEs that come in on it to those who answer them.

use std::sync::Arc;

use cepa_common::cell::codec::CREATE_LEN;
use cepa_common::ids::{CircId, RelayId};
use cepa_common::net::establish::NewLink;
use cepa_common::net::limit::RateLimit;
use cepa_common::net::link_task;
use cepa_common::net::queue::LinkQueue;
use cepa_common::net::switch::{AcceptCircuits, CreateRefusal};
use cepa_common::net::tasks::Tasks;
use cepa_common::world::steady;

use crate::admission::{Job, JobQueue, Memory, Party};
use crate::params::ParamsInForce;

/// What every link of a relay runs with.
#[derive(Clone)]
pub(crate) struct LinkContext {
    /// Says how much may be queued for one circuit, and how many CREATEs of one link may wait.
    pub(crate) params: ParamsInForce,
    /// Counts what is queued for the link.
    pub(crate) memory: Arc<Memory>,
    /// Takes the CREATEs that come in.
    pub(crate) creates: Arc<JobQueue>,
    /// What all links together may move, if there is a limit.
    pub(crate) bandwidth: Option<Arc<RateLimit>>,
    /// Runs the link's task.
    pub(crate) tasks: Tasks,
}

impl LinkContext {
    /// Makes the queue of a new link.
    pub(super) fn queue(&self) -> Arc<LinkQueue> {
        let bound_cells = self.params.queue_bound_cells();
        let queue = Arc::new(LinkQueue::new(bound_cells, self.memory.budget()));
        self.memory.add_link(&queue);
        queue
    }

    /// Starts the task of a new link. `peer` is the relay that its far side has proven to be.
    pub(super) fn start(&self, link: NewLink, queue: Arc<LinkQueue>, peer: Option<RelayId>) {
        let acceptor = Acceptor {
            params: self.params.clone(),
            creates: self.creates.clone(),
            link: queue.clone(),
            party: Party::of(peer, link.peer_address.ip(), queue.serial()),
        };
        let bandwidth = self.bandwidth.clone();
        self.tasks.spawn(async move {
            let end = link_task::run(link, queue, acceptor, bandwidth).await;
            tracing::debug!(%end, "a link has ended");
        });
    }
}

/// Hands the CREATEs of one link to those who answer them.
struct Acceptor {
    params: ParamsInForce,
    creates: Arc<JobQueue>,
    link: Arc<LinkQueue>,
    party: Party,
}

impl AcceptCircuits for Acceptor {
    fn on_create(&mut self, circ: CircId, message: &[u8; CREATE_LEN]) -> Result<(), CreateRefusal> {
        let job = Job {
            link: self.link.clone(),
            party: self.party,
            circ,
            message: Box::new(*message),
            since: steady::now(),
        };
        let share = self.params.get().handshake_queue_per_link as usize;
        self.creates
            .submit(job, share)
            .map_err(CreateRefusal::Destroy)
    }
}
