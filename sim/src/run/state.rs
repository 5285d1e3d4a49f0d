//! What the director of a run knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use cepa_common::world::NodeLife;
use cepa_common::world::memory::MemoryNetwork;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Duration;

use crate::load::Job;
use crate::node::NodeError;
use crate::plan::{Act, NodePlan};
use crate::site::Site;

/// When every run begins: 2030-03-17, 17:46:40 UTC (milliseconds since 1970).
pub(crate) const BEGAN_UNIX_MS: u64 = 1_900_000_000_000;
/// A node that ended has neither task nor socket after this time.
pub(super) const GONE: Duration = Duration::from_secs(120);
/// A node that is stopped in good order has ended within this time.
pub(super) const STOPPED: Duration = Duration::from_secs(60);
/// A node that could not start is started again after this time, as a service manager would.
pub(super) const AGAIN: Duration = Duration::from_secs(10);

/// What is done to one node at the moment, beside its being up or down.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    Silence,
    Delay,
    Loss,
    Slow,
    Drift,
    FullDisk,
    Names,
    Sockets,
    Dribble,
    Hostile,
}

/// The lives of what hostile owners do beside their nodes are numbered from here.
pub(super) const BESIDE: u32 = 1 << 24;

/// One life of a node, while the node runs.
pub(super) struct Life {
    pub(super) life: NodeLife,
    pub(super) task: JoinHandle<Result<(), NodeError>>,
    pub(super) stop: Option<oneshot::Sender<()>>,
    pub(super) jobs: mpsc::Sender<Job>,
}

/// A life that is over.
pub(super) struct Past {
    pub(super) life: NodeLife,
    pub(super) since: Duration,
    /// Is the life still ending in good order?
    pub(super) task: Option<JoinHandle<Result<(), NodeError>>>,
}

pub(super) struct Host {
    pub(super) plan: NodePlan,
    pub(super) lives: u32,
    pub(super) life: Option<Life>,
    /// Number of faults that hold the node down.
    pub(super) holds: u32,
    pub(super) start_at: Option<Duration>,
    pub(super) past: Vec<Past>,
    /// What the node's owner does to others beside the node.
    pub(super) beside: Option<JoinHandle<()>>,
}

pub(super) struct Director {
    pub(super) site: Arc<Site>,
    pub(super) network: MemoryNetwork,
    pub(super) hosts: BTreeMap<u32, Host>,
    /// The faults that hold on a node, by kind; the last one counts.
    pub(super) effects: BTreeMap<(u32, Effect), Vec<(usize, Act)>>,
    pub(super) partitions: BTreeMap<usize, u64>,
    /// Is the network left alone now, so that whatever fails has no excuse?
    pub(super) is_calm: bool,
    /// Are all nodes being stopped?
    pub(super) is_ending: bool,
}
