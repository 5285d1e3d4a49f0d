//! Circuits through relays that the caller names, instead of a path that the client chooses.
//!
//! For tools and measurements alone: such a circuit has no guard, keeps no rule of choosing paths, and is no part of
//! the pool, so no stream of an application ever gets on it.

use std::sync::Arc;

use cepa_common::dir::Entry;
use cepa_common::ids::RelayId;

use crate::circuit::Circuit;
use crate::circuit::build::BuildError;
use crate::client::Client;

/// Why there is no circuit through the relays that were named.
#[derive(Debug, thiserror::Error)]
pub enum ByHandError {
    /// No consensus is held that may be used.
    #[error("the client has no usable consensus yet")]
    NoConsensus,
    /// The consensus does not list a relay.
    #[error("the consensus does not list {0}")]
    Unlisted(RelayId),
    /// It was not built.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl Client {
    /// Builds a circuit through exactly these relays, first to last. [`Circuit::open`] opens streams on it,
    /// [`Circuit::close`] ends it.
    ///
    /// # Errors
    /// [`ByHandError`].
    pub async fn circuit(&self, path: &[RelayId]) -> Result<Arc<Circuit>, ByHandError> {
        let consensus = self.consensus().ok_or(ByHandError::NoConsensus)?;
        let entry = |relay: &RelayId| {
            let mut entries = consensus.entries().iter();
            let entry = entries.find(|entry| entry.identity == *relay).cloned();
            entry.ok_or(ByHandError::Unlisted(*relay))
        };
        let hops: Vec<Entry> = path.iter().map(entry).collect::<Result<_, _>>()?;
        Ok(self.circuits().build_path(&hops).await?)
    }
}
