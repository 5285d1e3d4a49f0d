//! Writing a file whole.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::StateError;

/// Writes `bytes` to `path` so that a reader, also one after a power cut, finds
/// the old content or the new one and nothing between (S38).
///
/// A temporary file in the same directory, with permission bits `mode`, is
/// filled and synced, then renamed over `path`; then the directory is synced,
/// because until then the rename itself can be lost. This blocks on the disk:
/// call it from a thread that may.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StateError> {
    let dir = parent(path);
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(dir)
        .map_err(|source| StateError::io("create a file in", dir, source))?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(|source| StateError::io("write", path, source))?;
    file.persist(path)
        .map_err(|failed| StateError::io("replace", path, failed.error))?;
    sync_dir(dir)
}

/// Makes renames and removals in `dir` last.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StateError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| StateError::io("sync the directory", dir, source))
}

/// The directory that holds `path`; the working directory for a bare name.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
