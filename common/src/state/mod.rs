//! Files and keys on disk: what a node's files are, on the disk that its [`World`](crate::world::World) has.
//!
//! Callers are the rooms of relay and client that have something to keep across a restart: keys, the newest consensus,
//! what an authority has already signed. Nothing here knows what the bytes mean.
//!
//! * [`StateDir`] is a directory that only its owner reaches, locked against a second process;
//! * [`write_whole`] writes a file in full or not at all, also if the power fails;
//! * [`key`] has secret keys in a small file with a version and a checksum;
//! * [`record`] has documents with a checksum, a version and the generation before.
//!
//! Three things are absent on purpose: caching, async, and any repair of a file that a newer version wrote.

#[cfg(test)]
mod crash_tests;
mod error;
mod file;
pub mod key;
mod lock;
pub mod record;
#[cfg(test)]
mod tests;
mod trust;

use std::path::{Path, PathBuf};

pub use error::StateError;
pub use file::write_whole;
pub use key::{KeyKind, create_key, erase_key, load_key, load_or_create_key, save_key};
pub use lock::StateLock;
use rand_core::CryptoRng;
use trust::check_directory;
pub use trust::{Trust, check_place, check_private, check_secret};

use crate::secret::Secret;
use crate::world::Disk;
use crate::world::disk::EntryKind;

/// A state directory, which only its owner reaches, and only one process at a time.
#[derive(Debug)]
pub struct StateDir {
    disk: Disk,
    path: PathBuf,
    trust: Trust,
    /// The lock is held for as long as the directory is in use. The system releases it when the process dies.
    _lock: StateLock,
}

impl StateDir {
    /// Opens `path`, creates it (mode 0700) if it is missing, checks who can reach it, and takes its lock.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::Simulated`] if `disk` is real and the process is not.
    pub fn open(disk: &Disk, path: &Path, trust: Trust) -> Result<Self, StateError> {
        make_private_dir(disk, path, trust)?;
        let lock = StateLock::acquire(disk, path)?;
        // Nobody else writes here now, so unfinished files will stay unfinished.
        remove_leftovers(disk, path);
        Ok(Self {
            disk: disk.clone(),
            path: path.to_owned(),
            trust,
            _lock: lock,
        })
    }

    /// The disk that the directory is on.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the permissions of the directory's files are checked.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// The secret `keys/NAME` of this directory. If there is none yet, a secret is drawn from `rng` and written.
    pub fn load_or_create_key(
        &self,
        name: &str,
        kind: KeyKind,
        rng: &mut impl CryptoRng,
    ) -> Result<Secret<32>, StateError> {
        load_or_create_key(&self.disk, &self.room("keys")?, name, kind, self.trust, rng)
    }

    /// The secret `keys/NAME` of this directory, which must be there.
    pub fn load_key(&self, name: &str, kind: KeyKind) -> Result<Secret<32>, StateError> {
        let path = self.room("keys")?.join(name);
        load_key(&self.disk, &path, kind, self.trust)
    }

    /// The path of a directory for the documents of one room. The directory is created if it is missing.
    pub fn room(&self, name: &str) -> Result<PathBuf, StateError> {
        let room = self.path.join(name);
        make_private_dir(&self.disk, &room, self.trust)?;
        Ok(room)
    }
}

/// Removes the files that dead writers have left unfinished in `dir` and its rooms.
fn remove_leftovers(disk: &Disk, dir: &Path) {
    for (path, kind) in entries(disk, dir) {
        match kind {
            EntryKind::Directory => entries(disk, &path)
                .into_iter()
                .for_each(|(path, kind)| remove_leftover(disk, &path, kind)),
            EntryKind::File | EntryKind::Other => remove_leftover(disk, &path, kind),
        }
    }
}

fn entries(disk: &Disk, dir: &Path) -> Vec<(PathBuf, EntryKind)> {
    let entries = disk.list(dir).unwrap_or_default().into_iter();
    let entries = entries.map(|entry| (dir.join(entry.name), entry.kind));
    entries.collect()
}

fn remove_leftover(disk: &Disk, path: &Path, kind: EntryKind) {
    // Links are not followed and directories not removed, because this program did not make them.
    if kind == EntryKind::File && path.file_name().is_some_and(file::is_temporary) {
        match disk.remove(path) {
            Ok(()) => tracing::debug!(file = %path.display(), "removed an unfinished file"),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot remove an unfinished file");
            }
        }
    }
}

/// Creates `path` with mode 0700 if it is missing, then checks it as `trust` says.
pub fn make_private_dir(disk: &Disk, path: &Path, trust: Trust) -> Result<(), StateError> {
    let above = path.ancestors();
    let missing: Vec<_> = above.take_while(|dir| !disk.exists(dir)).collect();
    disk.create_dirs(path, 0o700)
        .map_err(|source| StateError::io("create the directory", path, source))?;
    // A file is lost in a power cut if its directory's name is lost, so that name is synced too.
    for made in missing {
        if !made.as_os_str().is_empty() {
            file::sync_parent(disk, made)?;
        }
    }
    check_directory(disk, path, trust)
}
