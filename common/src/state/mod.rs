//! Files and keys on disk: the one place of this crate that touches a file system.
//!
//! Callers are the rooms of relay and client that must survive a restart: keys,
//! the newest consensus, what an authority has already signed. Nothing here
//! knows what the bytes mean.
//!
//! * [`StateDir`]: a directory that only its owner reaches, locked against a second process;
//! * [`write_whole`]: a file is there in full or not at all, also after a power cut;
//! * [`key`]: secret keys in a small file with a version and a checksum;
//! * [`record`]: documents with a checksum, a version and the generation before.
//!
//! Absent on purpose: caching, async, and any repair of a file that a newer
//! version wrote.

mod error;
mod file;
pub mod key;
mod lock;
pub mod record;
#[cfg(test)]
mod tests;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fs_mistrust::Mistrust;

pub use error::StateError;
pub use file::write_whole;
pub use key::{KeyKind, load_key, load_or_create_key};
pub use lock::StateLock;

/// A state directory: reached by its owner alone, and by one process at a time.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Held for as long as the directory is in use; the system lets go of it when the process dies.
    _lock: StateLock,
}

impl StateDir {
    /// Opens `path`, creates it (mode 0700) where it is missing, checks who can
    /// reach it and takes its lock.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        make_private_dir(path)?;
        let lock = StateLock::acquire(path)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the keys, mode 0700, created where it is missing.
    pub fn keys(&self) -> Result<PathBuf, StateError> {
        let keys = self.path.join("keys");
        make_private_dir(&keys)?;
        Ok(keys)
    }

    /// A directory of its own for the documents of one room, created where it is missing.
    pub fn room(&self, name: &str) -> Result<PathBuf, StateError> {
        let room = self.path.join(name);
        make_private_dir(&room)?;
        Ok(room)
    }
}

/// Creates `path` with mode 0700 where it is missing, then checks that nobody
/// but its owner and the system's administrator can read or change it, its
/// parents included.
pub fn make_private_dir(path: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StateError::io("create the directory", path, source))?;
    mistrust()?
        .verifier()
        .require_directory()
        .check(path)
        .map_err(|source| StateError::exposed(path, source))
}

/// The rules by which paths are trusted. Environment variables cannot switch
/// them off: a service's environment is not its owner's word.
fn mistrust() -> Result<Mistrust, StateError> {
    Mistrust::builder()
        .ignore_environment()
        .build()
        .map_err(|_| StateError::Rules)
}
