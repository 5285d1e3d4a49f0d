//! Starts the task of a link, and hands the CREATEs that come in on it to those who answer them.

use std::sync::Arc;

use cepa_common::cell::codec::CREATE_LEN;
use cepa_common::ids::{CircId, RelayId};
use cepa_common::net::establish::NewLink;
use cepa_common::net::limit::Traffic;
use cepa_common::net::link_task;
use cepa_common::net::queue::LinkQueue;
use cepa_common::net::switch::{AcceptCircuits, CreateRefusal};
use cepa_common::net::tasks::Tasks;
use cepa_common::world::steady;

use crate::admission::{FarSide, Job, JobQueue, Memory, Party};
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
    /// What all links together move, and may move.
    pub(crate) traffic: Arc<Traffic>,
    /// Runs the link's task.
    pub(crate) tasks: Tasks,
}

impl LinkContext {
    /// Starts the task of a new link, and gives the link's queue. `peer` is the relay that its far side has proven to
    /// be. `register` hears of the queue before the task starts.
    pub(super) fn start(
        &self,
        link: NewLink,
        peer: Option<RelayId>,
        register: impl FnOnce(&Arc<LinkQueue>),
    ) -> Arc<LinkQueue> {
        let serial = LinkQueue::next_serial();
        let party = Party::of(peer, link.peer_address.ip(), serial);
        let (bound_cells, budget) = (self.params.queue_bound_cells(), self.memory.of(party));
        let queue = Arc::new(LinkQueue::with_serial(serial, bound_cells, &budget));
        self.memory.add_link(party, &queue);
        register(&queue);
        let acceptor = Acceptor {
            params: self.params.clone(),
            creates: self.creates.clone(),
            link: queue.clone(),
            far_side: FarSide {
                party,
                link_key: link.peer_key,
            },
        };
        let traffic = self.traffic.clone();
        let own = queue.clone();
        self.tasks.spawn(async move {
            let end = link_task::run(link, own, acceptor, Some(traffic)).await;
            tracing::debug!(%end, "a link has ended");
        });
        queue
    }
}

/// Hands the CREATEs of one link to those who answer them.
struct Acceptor {
    params: ParamsInForce,
    creates: Arc<JobQueue>,
    link: Arc<LinkQueue>,
    far_side: FarSide,
}

impl AcceptCircuits for Acceptor {
    fn on_create(&mut self, circ: CircId, message: &[u8; CREATE_LEN]) -> Result<(), CreateRefusal> {
        let job = Job {
            link: self.link.clone(),
            far_side: self.far_side,
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
