//! The network as it is known now, shared by all rooms of a process, and kept on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::dir::{
    KnownNetwork, MAX_NETWORK_FILE_BYTES, MAX_REVISIONS, NetworkFile, NetworkFileError, Revisions,
    UnixSecs,
};
use crate::ids::NetworkId;
use crate::state::{StateError, record};
use crate::world::Disk;

/// The revisions of the network that this process holds. Clones share them. The network's id never changes.
#[derive(Clone, Debug)]
pub struct NetworkHandle(Arc<watch::Sender<Arc<Revisions>>>);

impl NetworkHandle {
    /// A handle on these revisions.
    pub fn new(revisions: Revisions) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(revisions))))
    }

    /// The revisions held now.
    pub fn revisions(&self) -> Arc<Revisions> {
        Arc::clone(&self.0.borrow())
    }

    /// The newest revision. This revision says whom to ask, and what the parameters are.
    pub fn newest(&self) -> Arc<NetworkFile> {
        Arc::clone(self.0.borrow().newest())
    }

    /// The revision that counts for documents of this valid-after.
    pub fn at(&self, valid_after: UnixSecs) -> Arc<NetworkFile> {
        Arc::clone(self.0.borrow().at(valid_after))
    }

    /// The network's id.
    pub fn network_id(&self) -> NetworkId {
        self.0.borrow().network_id()
    }

    /// Wakes when there is a newer revision.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Revisions>> {
        self.0.subscribe()
    }

    /// Takes a later revision for all who share the handle. Returns `false` for a revision that is held, or older.
    ///
    /// # Errors
    /// [`NetworkFileError`], as for [`Revisions::insert`].
    pub fn offer(&self, next: NetworkFile) -> Result<bool, NetworkFileError> {
        let mut taken = Ok(false);
        self.0.send_if_modified(|held| {
            let mut revisions = Revisions::clone(held);
            taken = revisions.insert(next);
            let is_new = taken == Ok(true);
            if is_new {
                *held = Arc::new(revisions);
            }
            is_new
        });
        taken
    }
}

impl From<NetworkFile> for NetworkHandle {
    fn from(file: NetworkFile) -> Self {
        Self::new(Revisions::new(file))
    }
}

impl From<Arc<NetworkFile>> for NetworkHandle {
    fn from(file: Arc<NetworkFile>) -> Self {
        Self::new(Revisions::new(file))
    }
}

impl KnownNetwork for NetworkHandle {
    fn for_document(&self, bytes: &[u8]) -> Arc<NetworkFile> {
        Arc::clone(self.0.borrow().for_document(bytes))
    }
}

/// Kind of the record on disk.
const RECORD: &str = "network";

/// The record of the revisions of one network in a state directory.
#[derive(Clone, Debug)]
pub struct RevisionStore {
    disk: Disk,
    path: PathBuf,
}

impl RevisionStore {
    /// The record `network-<id>` in `directory` on `disk`.
    pub fn new(disk: &Disk, directory: &Path, network: &NetworkId) -> Self {
        Self {
            disk: disk.clone(),
            path: directory.join(format!("network-{network}")),
        }
    }

    /// Makes a handle of the file that a person gave and of all that an earlier run learnt. The call blocks on the
    /// disk.
    ///
    /// A record that cannot be read is passed over with a warning: the given file is enough to begin with.
    pub fn open(disk: &Disk, directory: Option<&Path>, given: NetworkFile) -> NetworkHandle {
        let id = given.network_id();
        let stored = directory.map(|directory| Self::new(disk, directory, &id).load());
        let stored = match stored.transpose() {
            Ok(stored) => stored.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "revisions of the network on disk cannot be used");
                Vec::new()
            }
        };
        let is_newer = stored.iter().map(NetworkFile::revision).max() > Some(given.revision());
        let revisions = Revisions::restore(given, stored);
        if is_newer {
            let revision = revisions.newest().revision();
            tracing::info!(
                revision,
                "the network goes on with a later revision of its file"
            );
        }
        NetworkHandle::new(revisions)
    }

    /// Loads the revisions on disk, each of them verified by its own authorities.
    ///
    /// # Errors
    /// [`StateError`] if the disk cannot be read.
    pub fn load(&self) -> Result<Vec<NetworkFile>, StateError> {
        let cap = MAX_REVISIONS * (MAX_NETWORK_FILE_BYTES + 8) + 8;
        let Some((body, _)) = record::load(&self.disk, &self.path, RECORD, cap)? else {
            return Ok(Vec::new());
        };
        let texts: Vec<String> = postcard::from_bytes(&body).unwrap_or_default();
        let parsed = texts
            .iter()
            .filter_map(|text| NetworkFile::parse(text).ok());
        Ok(parsed.collect())
    }

    /// Writes all revisions that are held.
    ///
    /// # Errors
    /// [`StateError`] if the disk cannot be written.
    pub fn save(&self, revisions: &Revisions) -> Result<(), StateError> {
        let texts: Vec<String> = revisions
            .iter()
            .filter_map(|file| file.to_toml().ok())
            .collect();
        record::save(
            &self.disk,
            &self.path,
            RECORD,
            &postcard::to_allocvec(&texts).unwrap_or_default(),
        )
    }
}
