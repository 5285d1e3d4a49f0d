//! Lets one process at a time use a state directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::StateError;

/// Holds a state directory's lock until this value is dropped or the process ends, however it ends. The system keeps
/// the lock; whether the file exists does not matter.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the lock of the directory `dir`, which must exist. The call never waits.
    pub fn acquire(dir: &Path) -> Result<Self, StateError> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StateError::io("open the lock file", &path, source))?;
        match file.try_lock() {
            Ok(()) => {
                // The process id is for people only: a full disk is no reason not to start.
                let _ = file
                    .set_len(0)
                    .and_then(|()| writeln!(file, "{}", std::process::id()));
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => Err(StateError::InUse {
                path: dir.to_owned(),
                holder: holder(&file),
            }),
            Err(TryLockError::Error(source)) => Err(StateError::io("lock", &path, source)),
        }
    }
}

/// The process that the lock file names; `None` if it names none.
fn holder(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
