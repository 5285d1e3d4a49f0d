//! A relay's consensuses on disk, so that after a restart it serves and extends at once (docs/protocol.md, 6.14.4).
//!
//! Each consensus is one record, `consensus-<network id>-<valid_after>`. Nothing that is read is trusted: it is
//! verified as if a stranger had sent it. A file that is lost or damaged costs a fetch.

use core::time::Duration;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cepa_common::dir::{
    Consensus, ConsensusStore, KnownNetwork, MAX_CONSENSUS_BYTES, SignedConsensus, UnixSecs,
};
use cepa_common::state::record;
use cepa_common::world::{Disk, blocking};

use super::DirectoryServer;
use crate::events::{DiskTrouble, RelayEvent, Reporter};

/// The kind of record that the files say they are.
const KIND: &str = "consensus";
/// The most files that are kept and looked at. The store holds no more either.
const MAX_FILES: usize = 320;
/// The most bytes that are kept.
const MAX_BYTES: usize = 256 << 20;
/// The least time between two writes: a network that votes every two seconds would wear the disk out.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// The files of the consensuses.
#[derive(Clone, Debug)]
pub struct ConsensusFiles {
    disk: Disk,
    directory: PathBuf,
    prefix: String,
    /// Hears what is wrong with the files.
    events: Reporter,
}

impl ConsensusFiles {
    /// The files of the network of `server` in `directory`, which must exist on `disk`.
    pub fn new(disk: &Disk, directory: &Path, server: &DirectoryServer) -> Self {
        Self {
            disk: disk.clone(),
            directory: directory.to_owned(),
            prefix: format!("consensus-{}-", server.network().network_id()),
            events: server.events().clone(),
        }
    }

    fn report(&self, trouble: DiskTrouble, reason: &dyn core::fmt::Display) {
        self.events.report(RelayEvent::disk(trouble, reason));
    }

    fn path(&self, valid_after: UnixSecs) -> PathBuf {
        self.directory.join(format!("{}{valid_after}", self.prefix))
    }

    /// The valid-afters of the files. Files of other networks and with other names are ignored.
    fn list(&self) -> BTreeSet<UnixSecs> {
        let entries = self.disk.list(&self.directory).unwrap_or_default();
        let times = entries.into_iter().filter_map(|entry| {
            let name = entry.name;
            let time = name.to_str()?.strip_prefix(&self.prefix)?.parse().ok()?;
            // "+5" parses too, but this program gives no such name.
            (self.path(time).file_name() == Some(&name)).then_some(time)
        });
        times.collect()
    }

    /// Gives `server` every consensus on disk that may still be used, oldest first.
    pub async fn load(&self, server: &Arc<DirectoryServer>) {
        let (files, server) = (self.clone(), Arc::clone(server));
        let load = move || files.load_blocking(&server);
        if let Err(error) = blocking::run(load).await {
            self.report(DiskTrouble::ConsensusLost, &error);
        }
    }

    fn load_blocking(&self, server: &DirectoryServer) {
        let times = self.list();
        let skipped = times.len().saturating_sub(MAX_FILES);
        for time in times.into_iter().skip(skipped) {
            let path = self.path(time);
            let body = match record::load(&self.disk, &path, KIND, MAX_CONSENSUS_BYTES) {
                Ok(Some((body, _))) => body,
                Ok(None) => continue,
                Err(error) => {
                    self.report(DiskTrouble::ConsensusLost, &error);
                    continue;
                }
            };
            match SignedConsensus::parse_and_verify(&body, &server.networks().for_document(&body)) {
                // The server refuses a consensus whose time is over; the next write removes its file.
                Ok(consensus) => drop(server.offer(consensus)),
                Err(error) => self.report(DiskTrouble::ConsensusInvalid, &error),
            }
        }
    }

    /// Writes the consensuses of `store` that are not on disk, newest first, and removes the other files.
    fn sync(&self, store: &ConsensusStore, now: UnixSecs) {
        let mut wanted: Vec<&Arc<Consensus>> = store.valid(now).take(MAX_FILES).collect();
        let mut room = MAX_BYTES;
        wanted.retain(|consensus| {
            let fits = room.checked_sub(consensus.bytes().len());
            room = fits.unwrap_or(0);
            fits.is_some()
        });
        let there = self.list();
        let keep: BTreeSet<_> = wanted.iter().map(|c| c.lifetime().valid_after).collect();
        // Old files are removed first, which makes room on a full disk. The newest file stays until another is there,
        // valid or not: a clock that is wrong for a moment must not cost the relay that file.
        for time in there
            .difference(&keep)
            .filter(|time| Some(*time) != there.last())
        {
            if let Err(error) = self.disk.remove(&self.path(*time)) {
                tracing::debug!(%error, "an old consensus cannot be removed");
            }
        }
        for consensus in wanted {
            let time = consensus.lifetime().valid_after;
            if there.contains(&time) {
                continue;
            }
            let path = self.path(time);
            if let Err(error) = record::save(&self.disk, &path, KIND, consensus.bytes()) {
                self.report(DiskTrouble::ConsensusNotWritten, &error);
                return;
            }
        }
    }

    /// Keeps the files up to date with the consensuses of `server` for as long as it runs.
    pub async fn follow(self, server: Arc<DirectoryServer>) {
        let mut stores = server.subscribe();
        stores.mark_changed();
        while stores.changed().await.is_ok() {
            let store = Arc::clone(&stores.borrow_and_update());
            let (files, now) = (self.clone(), server.clock().now_secs());
            let write = move || files.sync(&store, now);
            if let Err(error) = blocking::run(write).await {
                self.report(DiskTrouble::ConsensusNotWritten, &error);
            }
            tokio::time::sleep(WRITE_EVERY).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::testkit::{self, body_of, lifetime_of, network};
    use cepa_common::world::Clock;

    use super::*;

    const NOW: UnixSecs = 1_000_000;

    fn server() -> Arc<DirectoryServer> {
        DirectoryServer::new(network(1), Clock::from_fn(|| NOW * 1_000), None)
    }

    fn consensus(valid_after: UnixSecs, valid_until: UnixSecs) -> Arc<Consensus> {
        let lifetime = lifetime_of(valid_after, 10, valid_until - valid_after);
        testkit::consensus(&network(1), &body_of(lifetime, Vec::new()))
    }

    /// What a future gives that need not wait.
    fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn a_directory_that_is_gone_is_told_once_and_not_for_each_consensus() {
        let directory = tempfile::tempdir().unwrap();
        let server = server();
        let files = ConsensusFiles::new(&Disk::Real, directory.path(), &server);
        let mut events = server.events().subscribe();
        drop(directory);
        for valid_after in [NOW - 30, NOW - 20] {
            server.offer(consensus(valid_after, NOW + 100)).unwrap();
            files.sync(&server.snapshot(), NOW);
        }
        let told = now_or_never(events.next()).unwrap().unwrap();
        assert!(
            matches!(
                told,
                RelayEvent::Disk {
                    trouble: DiskTrouble::ConsensusNotWritten,
                    ..
                }
            ),
            "{told}"
        );
        assert_eq!(now_or_never(events.next()), None);
    }

    #[test]
    fn what_is_valid_is_there_after_a_restart_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let before = server();
        let files = ConsensusFiles::new(&Disk::Real, directory.path(), &before);
        for valid_after in [NOW - 30, NOW - 20, NOW - 10] {
            before.offer(consensus(valid_after, NOW + 100)).unwrap();
            files.sync(&before.snapshot(), NOW);
        }
        std::fs::write(directory.path().join("something else"), "x").unwrap();
        assert_eq!(files.list().len(), 3);
        // If the newest file is damaged, nothing of it is believed, and the others are not affected.
        std::fs::write(files.path(NOW - 10), "soup").unwrap();
        let after = server();
        let mut events = after.events().subscribe();
        ConsensusFiles::new(&Disk::Real, directory.path(), &after).load_blocking(&after);
        let lost = now_or_never(events.next()).unwrap().unwrap();
        assert!(
            matches!(
                lost,
                RelayEvent::Disk {
                    trouble: DiskTrouble::ConsensusLost,
                    times: 1,
                    ..
                }
            ),
            "{lost}"
        );
        let store = after.snapshot();
        let times: Vec<_> = store.valid(NOW).map(|c| c.lifetime().valid_after).collect();
        assert_eq!(times, [NOW - 20, NOW - 30]);
        // Consensuses that have expired are removed, but not the newest while there is no better one.
        files.sync(&ConsensusStore::new(), NOW + 200);
        assert_eq!(files.list().into_iter().collect::<Vec<_>>(), [NOW - 10]);
        assert!(directory.path().join("something else").exists());
    }
}
