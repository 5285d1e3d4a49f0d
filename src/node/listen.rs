//! Where applications connect: TCP ports, and Unix sockets that are gone when the node is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cepa_client::front::{FrontListener, Gate};
use cepa_common::state::{Trust, check_place, check_secret};
use cepa_common::world::sockets::{OWNER_ONLY, bind_unix};
use cepa_common::world::{Disk, Sockets};

use super::error::AppError;
use crate::config::{ListenAddress, Listener, ListenerKind};

/// A Unix socket that is removed when this value is dropped.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The socket may be gone already, with its directory.
        let _ = Disk::Real.remove(&self.0);
    }
}

/// A listener, where applications find it, and its file if it has one.
pub(super) struct Bound {
    pub(super) listener: FrontListener,
    pub(super) address: ListenAddress,
    pub(super) file: Option<SocketFile>,
}

/// The mode of a Unix socket that has a group named for it.
const GROUP_TOO: u32 = 0o660;

/// The most that a file of users may have (bytes).
const MOST_USERS_BYTES: u64 = 1 << 20;

/// Listens as `listener` says. `trust` says whether the directory of a Unix socket, and the file of who may come in, may
/// be open to others.
pub(super) async fn bind(listener: &Listener, trust: Trust) -> Result<Bound, AppError> {
    let gate = match &listener.credentials {
        Some(path) => Some(Arc::new(gate(path, trust)?)),
        None => None,
    };
    let mut bound = open(listener, trust).await?;
    if let Some(gate) = gate {
        bound.listener = bound.listener.behind(gate);
    }
    Ok(bound)
}

/// Reads the file of who may come in.
fn gate(path: &Path, trust: Trust) -> Result<Gate, AppError> {
    let text = Disk::Real.read_text(path, MOST_USERS_BYTES);
    let text = text.map_err(|source| AppError::Mismatch {
        what: format!("cannot read the file of users {}: {source}", path.display()),
        hint: "name a file with a line USER:PASSWORD for each user; docs/config.md says what it looks like",
    })?;
    check_secret(&Disk::Real, path, trust)?;
    Gate::parse(&text).map_err(|error| AppError::Mismatch {
        what: format!("{}: {error}", path.display()),
        hint: "docs/config.md says what a file of users looks like",
    })
}

/// The number of a group, which is named or has its number written.
fn group(text: &str) -> Result<u32, AppError> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let hint = "`group` of a listener is a name of a group of this machine (`getent group` lists them), or a number";
    let what = match pwd_grp::getgrnam(text) {
        Ok(Some(group)) => return Ok(group.gid),
        Ok(None) => format!("there is no group {text:?} on this machine"),
        Err(error) => format!("cannot look up the group {text:?}: {error}"),
    };
    Err(AppError::Mismatch { what, hint })
}

async fn open(listener: &Listener, trust: Trust) -> Result<Bound, AppError> {
    let refused = |what: String| AppError::Listen {
        address: listener.address.to_string(),
        source: std::io::Error::other(what),
    };
    match &listener.address {
        ListenAddress::Tcp(address) => {
            let io = |source| AppError::Listen {
                address: address.to_string(),
                source,
            };
            let bound = Sockets::Tcp.bind(*address).await.map_err(io)?;
            let address = bound.local_addr().map_err(io)?;
            let listener = match listener.kind {
                ListenerKind::Proxy => bound.into(),
                ListenerKind::Dns => {
                    let datagrams = Sockets::Tcp.bind_datagrams(address).map_err(io)?;
                    FrontListener::dns(bound, datagrams)
                }
                ListenerKind::Transparent => FrontListener::transparent(bound),
            };
            Ok(Bound {
                listener,
                address: ListenAddress::Tcp(address),
                file: None,
            })
        }
        ListenAddress::Unix(path) => {
            let parent = path.parent().filter(|parent| *parent != Path::new(""));
            let parent = parent.unwrap_or(Path::new("."));
            check_place(&Disk::Real, parent, trust)?;
            let group = listener.group.as_deref().map(group).transpose()?;
            // A group is named so that it may use the socket.
            let usual = group.map_or(OWNER_ONLY, |_| GROUP_TOO);
            let mode = listener.mode.map_or(usual, |mode| mode.0);
            let bound = bind_unix(path, mode, group).map_err(|error| refused(error.to_string()))?;
            Ok(Bound {
                listener: bound.into(),
                address: listener.address.clone(),
                file: Some(SocketFile(path.clone())),
            })
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::config::SocketMode;

    #[tokio::test]
    async fn a_socket_is_given_to_its_group_which_may_use_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let path = dir.path().join("port");
        let own = std::fs::metadata(dir.path()).unwrap();
        // Whoever is not root may give it to groups that he is in only.
        let other = if own.uid() == 0 {
            own.gid() + 1
        } else {
            own.gid()
        };
        for (group, mode, has_group, has_mode) in [
            (None, None, own.gid(), 0o600),
            (Some(other.to_string()), None, other, 0o660),
            (
                Some(other.to_string()),
                Some(SocketMode(0o620)),
                other,
                0o620,
            ),
        ] {
            let listener = Listener {
                mode,
                group,
                ..Listener::at(ListenAddress::Unix(path.clone()))
            };
            let _bound = bind(&listener, Trust::Everyone).await.unwrap();
            let found = std::fs::metadata(&path).unwrap();
            assert_eq!((found.gid(), found.mode() & 0o777), (has_group, has_mode));
        }
    }

    #[test]
    fn groups_are_found_by_name_and_by_number() {
        assert_eq!(group("1234").unwrap(), 1234);
        let own = rustix::process::getgid().as_raw();
        if let Ok(Some(known)) = pwd_grp::getgrgid(own) {
            assert_eq!(group(&known.name).unwrap(), own);
        }
        let error = group("no such group").unwrap_err();
        assert!(error.to_string().contains("there is no group"), "{error}");
    }
}
