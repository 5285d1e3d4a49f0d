//! The newest consensus on disk, so that a restart takes no older one and needs no network to begin.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cepa_common::dir::{
    Consensus, Digest, KnownNetwork, MAX_CONSENSUS_BYTES, NetworkFile, SignedConsensus, UnixSecs,
};
use cepa_common::log_pace::LogPace;
use cepa_common::net::directory::NetworkHandle;
use cepa_common::state::{StateError, record};
use cepa_common::sync::lock;
use cepa_common::world::{Disk, blocking, steady};

/// The kinds of records that the files say they are.
const CONSENSUS: &str = "consensus";
const MARK: &str = "newest consensus";
const MARK_LEN: usize = 8 + 32;

/// The newest consensus that was ever taken. No older one is taken, and no other one of the same time (6.10.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) valid_after: UnixSecs,
    pub(super) digest: Digest,
}

impl Mark {
    pub(super) fn of(consensus: &Consensus) -> Self {
        Self {
            valid_after: consensus.lifetime().valid_after,
            digest: consensus.digest(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        [&self.valid_after.to_be_bytes()[..], &self.digest.0].concat()
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let (time, digest) = body.split_first_chunk::<8>()?;
        Some(Self {
            valid_after: UnixSecs::from_be_bytes(*time),
            digest: Digest(digest.try_into().ok()?),
        })
    }
}

/// Two records in a directory. The records' names hold the network's id, so that networks do not mix.
///
/// The mark is apart from the consensus, so that the client still knows what was newest if the consensus is damaged, or
/// is put back from a backup of one file. A backup of the whole directory takes both back; then only the sources show
/// what is newest.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    disk: Disk,
    consensus: PathBuf,
    mark: PathBuf,
    /// Paces the log lines about writes that failed.
    failed: Arc<Mutex<LogPace>>,
}

impl Cache {
    pub(super) fn new(disk: &Disk, directory: &Path, network: &NetworkFile) -> Self {
        let id = network.network_id();
        Self {
            disk: disk.clone(),
            consensus: directory.join(format!("consensus-{id}")),
            mark: directory.join(format!("newest-{id}")),
            failed: Arc::default(),
        }
    }

    /// Loads the consensus on disk, and the mark. A damaged record counts as none, because it proves nothing (S38).
    pub(super) async fn load(
        &self,
        network: &NetworkHandle,
    ) -> (Option<Arc<Consensus>>, Option<Mark>) {
        let (cache, network) = (self.clone(), network.clone());
        let load = move || cache.load_blocking(&network);
        blocking::run(load).await.unwrap_or_default()
    }

    fn load_blocking(&self, network: &NetworkHandle) -> (Option<Arc<Consensus>>, Option<Mark>) {
        let mark = self.read(&self.mark, MARK, MARK_LEN);
        let mark = mark.and_then(|body| Mark::decode(&body));
        let consensus = self.read(&self.consensus, CONSENSUS, MAX_CONSENSUS_BYTES);
        let consensus = consensus.and_then(|bytes| {
            SignedConsensus::parse_and_verify(&bytes, &network.for_document(&bytes))
                .inspect_err(|error| tracing::warn!(%error, "consensus on disk is not valid"))
                .ok()
        });
        let Some(held) = consensus else {
            return (None, mark);
        };
        let own = Mark::of(&held);
        match mark {
            Some(mark) if own.valid_after < mark.valid_after => {
                tracing::warn!(
                    file = %self.consensus.display(), held = own.valid_after, seen = mark.valid_after,
                    "the consensus on disk is older than one that was taken before; it is not used"
                );
                (None, Some(mark))
            }
            Some(mark) if own.valid_after == mark.valid_after => (Some(held), Some(mark)),
            // The consensus is written first, so a crash may leave an older mark.
            _ => (Some(held), Some(own)),
        }
    }

    /// Writes a consensus that was verified (never other bytes, S24), and then the mark.
    pub(super) async fn store(&self, consensus: &Arc<Consensus>) {
        let (cache, consensus) = (self.clone(), Arc::clone(consensus));
        let write = move || {
            let (disk, mark) = (&cache.disk, Mark::of(&consensus).encode());
            record::save(disk, &cache.consensus, CONSENSUS, consensus.bytes())?;
            record::save(disk, &cache.mark, MARK, &mark)
        };
        match blocking::run(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.not_written(&error),
            Err(error) => self.not_written(&error),
        }
    }

    /// Says that a consensus is not on disk. A full disk does not fill the log.
    fn not_written(&self, error: &dyn core::fmt::Display) {
        if let Some(times) = lock(&self.failed).count(1, steady::now()) {
            tracing::warn!(%error, times, "consensus cannot be written to disk");
        }
    }

    fn read(&self, path: &Path, kind: &'static str, max_len: usize) -> Option<Vec<u8>> {
        match record::load(&self.disk, path, kind, max_len) {
            Ok(found) => found.map(|(body, _)| body),
            Err(error @ StateError::Newer { .. }) => {
                tracing::warn!(%error, "a newer program's file is left alone");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "a file of the directory is lost; a new consensus will be fetched");
                None
            }
        }
    }
}
