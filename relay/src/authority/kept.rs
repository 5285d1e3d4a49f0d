//! What an authority keeps on disk about relays: their histories, their measurements, and the descriptors of those that
//! answered (docs/protocol.md, 6.13.1 and 6.17.1).

use std::sync::Arc;

use cepa_common::dir::SignedDescriptor;
use cepa_common::ids::NetworkId;
use serde::{Deserialize, Serialize};

use super::history::History;
use super::measure::Scheduler;

/// The version of what is kept.
const VERSION: u8 = 2;

/// The record on disk. The fields are in the order of their encoding.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    version: u8,
    history: History,
    scheduler: Scheduler,
    /// Whole descriptors of the relays that answered, or that answered an earlier run and were not dialled since.
    descriptors: Vec<Vec<u8>>,
}

/// What an earlier run knew.
pub(super) struct Remembered {
    pub(super) history: History,
    pub(super) scheduler: Scheduler,
    pub(super) descriptors: Vec<Arc<SignedDescriptor>>,
}

impl Kept {
    /// The record of this knowledge.
    pub(super) fn new(history: &History, scheduler: &Scheduler, descriptors: Vec<Vec<u8>>) -> Self {
        Self {
            version: VERSION,
            history: history.clone(),
            scheduler: scheduler.clone(),
            descriptors,
        }
    }

    /// The record as it stands on disk.
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }
}

impl Remembered {
    /// Reads a record and verifies its descriptors; those that do not verify are left out. `None` if this version did
    /// not write the record.
    pub(super) fn decode(bytes: &[u8], network: &NetworkId) -> Option<Self> {
        let kept: Kept = postcard::from_bytes(bytes).ok()?;
        if kept.version != VERSION {
            return None;
        }
        let verified = |bytes: &Vec<u8>| SignedDescriptor::parse_and_verify(bytes, network).ok();
        Some(Self {
            history: kept.history.after_restart(),
            scheduler: kept.scheduler.after_restart(),
            descriptors: kept
                .descriptors
                .iter()
                .filter_map(verified)
                .map(Arc::new)
                .collect(),
        })
    }
}
