//! How much this relay takes on, and what it gives up when that was too much.
//!
//! Every bound on what strangers can have of a relay stands here: connections ([`LinkAdmission`]), directory
//! connections ([`ConnectionPlaces`]) and requests ([`DirectoryAdmission`]), CREATEs that wait ([`JobQueue`]), bytes
//! that links move in a second, and bytes that queues hold ([`Memory`]). Other rooms ask before they begin something;
//! this room knows none of them. [`Party`] says whose work is counted together.

mod bucket;
mod creates;
mod directory;
mod links;
mod memory;
mod party;
mod places;
mod victims;

use std::sync::Arc;

use cepa_common::net::limit::{RateLimit, Traffic};
use tokio::time::Instant;

pub(crate) use bucket::Bucket;
pub(crate) use creates::{Job, JobQueue};
pub(crate) use directory::DirectoryAdmission;
pub(crate) use links::{Comer, LinkAdmission, LinkPlace};
pub(crate) use memory::{Counts, Memory, keep_within_budget};
pub(crate) use party::{FarSide, Party, SharedPlaces};
pub(crate) use places::{Asker, ConnectionPlaces, Watch};

/// How much of the machine a relay may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory for queues.
    pub memory_bytes: u64,
    /// Connections that the relay accepts at once.
    pub connections: u32,
    /// What the relay's links may move in each direction (KiB a second); zero means no limit.
    pub bandwidth_kib: u32,
    /// Associations for datagrams that an exit has at once.
    pub udp_associations: u32,
}

impl Limits {
    /// Bytes of memory for queues, as this machine counts.
    pub(crate) fn memory_limit(&self) -> usize {
        usize::try_from(self.memory_bytes).unwrap_or(usize::MAX)
    }

    /// Associations for datagrams, as this machine counts.
    pub(crate) fn associations(&self) -> usize {
        usize::try_from(self.udp_associations).unwrap_or(usize::MAX)
    }
}

/// The bounds of one relay, made from its owner's [`Limits`] when it starts.
pub(crate) struct Admission {
    /// Bounds connections.
    pub(crate) links: LinkAdmission,
    /// Bounds the CREATEs that wait.
    pub(crate) creates: Arc<JobQueue>,
    /// Bounds what queues and buffers hold.
    pub(crate) memory: Arc<Memory>,
    /// Counts what all links together move, and bounds it.
    pub(crate) traffic: Arc<Traffic>,
}

impl Admission {
    /// The bounds that follow from `limits`; the bandwidth counts from `now` on.
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            links: LinkAdmission::new(limits.connections),
            creates: Arc::default(),
            memory: Memory::new(limits.memory_limit()),
            traffic: Traffic::new(RateLimit::new(limits.bandwidth_kib, now)),
        }
    }
}
