//! Lets one process at a time use a state directory.

use std::path::Path;

use super::StateError;
use crate::world::Disk;
use crate::world::disk::{Lock, Locked};

/// Holds a state directory's lock until this value is dropped or the process ends, however it ends. The system keeps
/// the lock; whether the file exists does not matter.
#[derive(Debug)]
pub struct StateLock {
    _lock: Lock,
}

impl StateLock {
    /// Takes the lock of the directory `dir`, which must exist. The call never waits.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another process has it.
    pub fn acquire(disk: &Disk, dir: &Path) -> Result<Self, StateError> {
        let path = dir.join("lock");
        match disk.lock(&path) {
            Ok(Locked::Held(lock)) => Ok(Self { _lock: lock }),
            Ok(Locked::Taken(holder)) => Err(StateError::InUse {
                path: dir.to_owned(),
                holder,
            }),
            Err(source) => Err(StateError::io("lock", &path, source)),
        }
    }
}
