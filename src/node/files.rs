//! What of a node lies on disk: the network's file, and the names of keys and rooms in its state directory.

use std::path::Path;

use cepa_common::dir::{MAX_NETWORK_FILE_BYTES, NetworkFile};
use cepa_common::ids::RelayId;
use cepa_common::state::{KeyKind, StateDir, Trust};
use cepa_common::world::{Disk, random};
use ed25519_dalek::SigningKey;

use super::error::AppError;

/// Where a relay keeps directory documents, in its state directory.
pub(super) const DIRECTORY_ROOM: &str = "directory";
/// Where a client keeps what it has learnt, in its state directory.
pub(super) const CLIENT_ROOM: &str = "client";
/// The name of a relay's identity among the keys of its state directory.
pub const IDENTITY_KEY: &str = "identity";

/// The network that the file at `path` describes.
pub fn read_network(path: &Path) -> Result<NetworkFile, AppError> {
    let text = Disk::Real.read_text(path, MAX_NETWORK_FILE_BYTES as u64 + 1);
    let text = text.map_err(|source| AppError::NetworkUnreadable {
        path: path.to_owned(),
        source,
    })?;
    NetworkFile::parse(&text).map_err(|error| AppError::NetworkInvalid {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Makes the identity of a new relay in the state directory `state`.
pub fn new_relay(state: &Path, trust: Trust) -> Result<RelayId, AppError> {
    let state = StateDir::open(&Disk::Real, state, trust)?;
    let secret = state.load_or_create_key(IDENTITY_KEY, KeyKind::Identity, &mut random::rng())?;
    Ok(RelayId(
        SigningKey::from_bytes(secret.expose())
            .verifying_key()
            .to_bytes(),
    ))
}
