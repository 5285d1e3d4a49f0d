//! What every directory connection shares.

use std::sync::Arc;

use cepa_common::dir::{Clock, Consensus, ConsensusStore, Inserted, NetworkFile, StoreError};
use tokio::sync::watch;

use crate::authority::AuthorityHandle;

/// The consensuses that a relay holds and serves, and the authority that takes uploads, if it is one.
#[derive(Debug)]
pub struct DirectoryServer {
    network: Arc<NetworkFile>,
    clock: Clock,
    store: watch::Sender<Arc<ConsensusStore>>,
    authority: Option<AuthorityHandle>,
}

impl DirectoryServer {
    /// A server that holds no consensus yet. `authority` takes uploads.
    pub fn new(
        network: Arc<NetworkFile>,
        clock: Clock,
        authority: Option<AuthorityHandle>,
    ) -> Arc<Self> {
        let store = watch::Sender::new(Arc::new(ConsensusStore::new()));
        Arc::new(Self {
            network,
            clock,
            store,
            authority,
        })
    }

    /// Takes a verified consensus into the store.
    ///
    /// # Errors
    /// [`StoreError`]; what was held stays.
    pub fn offer(&self, consensus: Arc<Consensus>) -> Result<Inserted, StoreError> {
        let now = self.clock.now_secs();
        let mut result = Ok(Inserted::AlreadyHeld);
        self.store.send_if_modified(|store| {
            let mut next = ConsensusStore::clone(store);
            result = next.insert(Arc::clone(&consensus), now);
            if result == Ok(Inserted::AlreadyHeld) {
                // The same with more signatures: clients that know other authorities need them.
                next.refresh_signatures(consensus);
            }
            let is_taken = result.is_ok();
            if is_taken {
                *store = Arc::new(next);
            }
            result == Ok(Inserted::Newest)
        });
        if let Err(StoreError::Conflict { held, offered }) = &result {
            tracing::error!(%held, %offered, "two consensuses for one time: the authorities are broken or hostile");
        }
        result
    }

    /// The consensuses held now.
    pub fn snapshot(&self) -> Arc<ConsensusStore> {
        Arc::clone(&self.store.borrow())
    }

    /// Follows the consensuses held; wakes when there is a newer one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ConsensusStore>> {
        self.store.subscribe()
    }

    /// The network.
    pub fn network(&self) -> &Arc<NetworkFile> {
        &self.network
    }

    /// The time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn authority(&self) -> Option<&AuthorityHandle> {
        self.authority.as_ref()
    }
}
