//! Writes whole files.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::StateError;
use crate::world::Disk;

/// The beginning of the name of a file that is not finished yet.
const TEMPORARY: &str = ".new-";

/// Writes `bytes` to `path` so that a reader, also one after a power cut, finds the old content or the new one and
/// nothing between (S38).
///
/// A temporary file in the same directory, with permission bits `mode`, is filled and synced, then renamed over `path`.
/// Then the directory is synced, because until then the rename itself can be lost. The call blocks on the disk: it
/// belongs on a thread that may block.
///
/// # Errors
/// [`StateError::Io`]. The old content is then still there, unless only the last step failed: in that case it is not
/// known which of the two a power cut would leave.
pub fn write_whole(disk: &Disk, path: &Path, bytes: &[u8], mode: u32) -> Result<(), StateError> {
    let temporary = fill_temporary(disk, path, bytes, mode)?;
    let renamed = disk.rename(temporary.path(), path);
    renamed.map_err(|source| StateError::io("replace", path, source))?;
    temporary.gone();
    sync_parent(disk, path)
}

/// Writes `bytes` to `path` whole if there is no such file, and never over a file that is there.
///
/// # Errors
/// [`StateError::Io`], with `AlreadyExists` if the file is there.
pub(super) fn write_new(
    disk: &Disk,
    path: &Path,
    bytes: &[u8],
    mode: u32,
) -> Result<(), StateError> {
    let temporary = fill_temporary(disk, path, bytes, mode)?;
    // A link refuses to replace a file, which a rename would do.
    let linked = disk.link(temporary.path(), path);
    linked.map_err(|source| StateError::io("create", path, source))?;
    drop(temporary);
    sync_parent(disk, path)
}

/// A file that is removed when this value is dropped, so that nothing half done stays after an error.
pub(super) struct Temporary<'a> {
    disk: &'a Disk,
    path: Option<PathBuf>,
}

impl<'a> Temporary<'a> {
    /// Takes charge of the file at `path`.
    pub(super) fn at(disk: &'a Disk, path: PathBuf) -> Self {
        let path = Some(path);
        Self { disk, path }
    }

    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Notes that the file has been renamed, so that there is nothing to remove.
    pub(super) fn gone(mut self) {
        self.path = None;
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // A file that cannot be removed now is removed when the directory is opened next.
            let _ = self.disk.remove(path);
        }
    }
}

/// Makes a synced temporary file beside `path` that holds `bytes`.
pub(super) fn fill_temporary<'a>(
    disk: &'a Disk,
    path: &Path,
    bytes: &[u8],
    mode: u32,
) -> Result<Temporary<'a>, StateError> {
    let dir = parent(path);
    let (mut file, temporary) = loop {
        let name = temporary_name(path);
        match disk.create(&name, mode) {
            Ok(file) => break (file, Temporary::at(disk, name)),
            // A dead process with the same process id left this file. The next name is another one.
            Err(taken) if taken.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => return Err(StateError::io("create a file in", dir, source)),
        }
    };
    let failed = |source| StateError::io("write", path, source);
    let mut rest = bytes;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(failed(ErrorKind::WriteZero.into())),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(again) if again.kind() == ErrorKind::Interrupted => {}
            Err(source) => return Err(failed(source)),
        }
    }
    file.sync().map_err(failed)?;
    Ok(temporary)
}

/// A name beside `path` that no other thread or living process uses.
pub(super) fn temporary_name(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    parent(path).join(format!("{TEMPORARY}{}-{number}", std::process::id()))
}

/// Is this the name of a file that a write of this program has not finished?
pub(super) fn is_temporary(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.starts_with(TEMPORARY))
}

/// Makes renames and removals beside `path` durable.
pub(super) fn sync_parent(disk: &Disk, path: &Path) -> Result<(), StateError> {
    let dir = parent(path);
    disk.sync_dir(dir)
        .map_err(|source| StateError::io("sync the directory", dir, source))
}

/// The directory that holds `path`; the working directory if `path` is only a name.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
