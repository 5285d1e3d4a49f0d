//! The socket itself: where it is, and who listens on it.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use cepa_common::world::sockets::{OWNER_ONLY, UNIX_PATH_BYTES, UnixBindError, bind_unix};
use tokio::net::UnixListener;

/// Name of the socket in the state directory.
pub(super) const SOCKET: &str = "control.sock";

/// There is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The system has no room for the socket's path.
    #[error(
        "the path of the control socket {} has {} bytes, and the system takes {UNIX_PATH_BYTES} at most; choose a \
         shorter state directory",
        path.display(),
        path.as_os_str().len()
    )]
    TooLong {
        /// Path of the socket.
        path: PathBuf,
    },
    /// Something that is no control socket is in its place.
    #[error("{} is in the way of the control socket and is none itself; move it away", .0.display())]
    InTheWay(PathBuf),
    /// The system refused to listen.
    #[error("cannot listen on the control socket {}: {source}", path.display())]
    Io {
        /// Path of the socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The socket's path in the state directory `dir`, if the system has room for it.
pub(super) fn socket_path(dir: &Path) -> Result<PathBuf, ControlError> {
    let path = dir.join(SOCKET);
    match path.as_os_str().as_bytes().len() <= UNIX_PATH_BYTES {
        true => Ok(path),
        false => Err(ControlError::TooLong { path }),
    }
}

/// A socket that is listened on. The socket is gone when this value is dropped.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens in the state directory `dir`, which the caller has locked: a socket that was left there is nobody's.
    pub(super) fn listen(dir: &Path) -> Result<Self, ControlError> {
        let path = socket_path(dir)?;
        let io = |source| ControlError::Io {
            path: path.clone(),
            source,
        };
        let found = std::fs::symlink_metadata(&path);
        if found.is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(&path).map_err(io)?;
        }
        let listener = bind_unix(&path, OWNER_ONLY, None).map_err(|error| match error {
            UnixBindError::TooLong(_) => ControlError::TooLong { path: path.clone() },
            UnixBindError::InTheWay => ControlError::InTheWay(path.clone()),
            UnixBindError::InUse => io(io::ErrorKind::AddrInUse.into()),
            UnixBindError::Io(source) | UnixBindError::Group(source) => io(source),
        })?;
        Ok(Self { listener, path })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The socket may be gone already, with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn only_the_owner_may_open_it_and_it_goes_with_who_listens() {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::listen(dir.path()).unwrap();
        let socket = dir.path().join(SOCKET);
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(control);
        assert!(!socket.exists(), "left behind");
    }

    #[tokio::test]
    async fn stale_sockets_are_replaced_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
        drop(Control::listen(dir.path()).unwrap());
        std::fs::write(dir.path().join(SOCKET), "mine").unwrap();
        let refused = Control::listen(dir.path());
        assert!(matches!(refused, Err(ControlError::InTheWay(_))));
        assert!(dir.path().join(SOCKET).exists());
    }

    #[tokio::test]
    async fn a_path_that_the_system_has_no_room_for_is_said_to_be_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let room = UNIX_PATH_BYTES - SOCKET.len() - 2 - dir.path().as_os_str().len();
        let fits = dir.path().join("x".repeat(room));
        let long = dir.path().join("x".repeat(room + 1));
        for path in [&fits, &long] {
            std::fs::create_dir(path).unwrap();
        }
        drop(Control::listen(&fits).unwrap());
        let refused = Control::listen(&long).unwrap_err().to_string();
        assert!(refused.contains("108 bytes"), "{refused}");
    }
}
