//! The newest consensus on disk, so that a restart takes no older one and needs no network to begin.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cepa_common::dir::{
    Consensus, KnownNetwork, MAX_CONSENSUS_BYTES, NetworkFile, NetworkHandle, SignedConsensus,
    write_whole,
};

/// One file in a directory; its name holds the network's id, so that networks do not mix.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    path: PathBuf,
}

impl Cache {
    pub(super) fn new(directory: &Path, network: &NetworkFile) -> Self {
        Self {
            path: directory.join(format!("consensus-{}", network.network_id())),
        }
    }

    /// The consensus on disk. A damaged file reads as none: it proves nothing (S38).
    pub(super) async fn load(&self, network: &NetworkHandle) -> Option<Arc<Consensus>> {
        let (path, network) = (self.path.clone(), network.clone());
        let load = move || match read_capped(&path) {
            Ok(bytes) => SignedConsensus::parse_and_verify(&bytes, &network.for_document(&bytes))
                .inspect_err(|error| tracing::warn!(%error, "consensus on disk is not valid"))
                .ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, "consensus on disk cannot be read");
                None
            }
        };
        tokio::task::spawn_blocking(load).await.ok().flatten()
    }

    /// Writes a consensus that was verified (S24: never other bytes).
    pub(super) async fn store(&self, consensus: &Arc<Consensus>) {
        let (path, consensus) = (self.path.clone(), Arc::clone(consensus));
        let write = move || write_whole(&path, consensus.bytes());
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "consensus cannot be written to disk"),
            Err(error) => tracing::warn!(%error, "writing the consensus failed"),
        }
    }
}

fn read_capped(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let cap = u64::try_from(MAX_CONSENSUS_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(cap)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
