//! Files and keys on disk. No other room of this crate touches a file system.
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
mod disk;
mod error;
mod file;
pub mod key;
mod lock;
pub mod record;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
mod trust;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub use error::StateError;
pub use file::write_whole;
pub use key::{KeyKind, create_key, erase_key, load_key, load_or_create_key, save_key};
pub use lock::StateLock;
use rand_core::CryptoRng;
pub use trust::Trust;
use trust::mistrust;

use crate::secret::Secret;

/// A state directory, which only its owner reaches, and only one process at a time.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    trust: Trust,
    /// The lock is held for as long as the directory is in use. The system releases it when the process dies.
    _lock: StateLock,
}

impl StateDir {
    /// Opens `path`, creates it (mode 0700) if it is missing, checks who can reach it, and takes its lock.
    pub fn open(path: &Path, trust: Trust) -> Result<Self, StateError> {
        make_private_dir(path, trust)?;
        let lock = StateLock::acquire(path)?;
        // Nobody else writes here now, so unfinished files will stay unfinished.
        remove_leftovers(path);
        Ok(Self {
            path: path.to_owned(),
            trust,
            _lock: lock,
        })
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the permissions of its files are checked.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// The secret `keys/NAME` of this directory. If there is none yet, it is drawn from `rng` and written.
    pub fn load_or_create_key(
        &self,
        name: &str,
        kind: KeyKind,
        rng: &mut impl CryptoRng,
    ) -> Result<Secret<32>, StateError> {
        load_or_create_key(&self.room("keys")?, name, kind, self.trust, rng)
    }

    /// The secret `keys/NAME` of this directory, which must be there.
    pub fn load_key(&self, name: &str, kind: KeyKind) -> Result<Secret<32>, StateError> {
        load_key(&self.room("keys")?.join(name), kind, self.trust)
    }

    /// The path of a directory for the documents of one room. It is created if it is missing.
    pub fn room(&self, name: &str) -> Result<PathBuf, StateError> {
        let room = self.path.join(name);
        make_private_dir(&room, self.trust)?;
        Ok(room)
    }
}

/// Removes the files that dead writers have left unfinished in `dir` and its rooms.
fn remove_leftovers(dir: &Path) {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries(dir) {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => entries(&entry.path()).for_each(|e| remove_leftover(&e)),
            _ => remove_leftover(&entry),
        }
    }
}

fn remove_leftover(entry: &std::fs::DirEntry) {
    // Links are not followed and directories not removed, because this program did not make them.
    let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
    if is_file && file::is_temporary(&entry.file_name()) {
        let path = entry.path();
        match std::fs::remove_file(&path) {
            Ok(()) => tracing::debug!(file = %path.display(), "removed an unfinished file"),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot remove an unfinished file");
            }
        }
    }
}

/// Creates `path` with mode 0700 if it is missing, then checks it as `trust` says.
pub fn make_private_dir(path: &Path, trust: Trust) -> Result<(), StateError> {
    let missing: Vec<_> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StateError::io("create the directory", path, source))?;
    // A file is lost in a power cut if its directory's name is lost, so that name is synced too.
    for made in missing {
        if !made.as_os_str().is_empty() {
            file::sync_parent(&disk::RealDisk, made)?;
        }
    }
    mistrust(trust)?
        .verifier()
        .require_directory()
        .check(path)
        .map_err(|source| StateError::exposed(path, source))
}
