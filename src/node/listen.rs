//! Where applications connect: TCP ports, and Unix sockets that are gone when the node is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cepa_client::front::{FrontListener, Gate};
use cepa_common::state::{Trust, check_place, check_secret};
use cepa_common::world::sockets::{OWNER_ONLY, bind_unix};
use cepa_common::world::{Disk, Sockets};

use super::error::AppError;
use crate::config::{ListenAddress, Listener};

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
            Ok(Bound {
                listener: bound.into(),
                address: ListenAddress::Tcp(address),
                file: None,
            })
        }
        ListenAddress::Unix(path) => {
            let parent = path.parent().filter(|parent| *parent != Path::new(""));
            let parent = parent.unwrap_or(Path::new("."));
            check_place(&Disk::Real, parent, trust)?;
            let mode = listener.mode.map_or(OWNER_ONLY, |mode| mode.0);
            let bound = bind_unix(path, mode).map_err(|error| refused(error.to_string()))?;
            Ok(Bound {
                listener: bound.into(),
                address: listener.address.clone(),
                file: Some(SocketFile(path.clone())),
            })
        }
    }
}
