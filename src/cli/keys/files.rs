//! The files of `cepa keys`: how they are read, and what is said of those that cannot be.

use std::io::Read;
use std::path::Path;

use cepa_common::dir::{KeyFileError, LinkCertificate, MAX_KEY_FILE_BYTES, NetworkFile};
use cepa_common::ids::RelayId;
use cepa_common::state::StateError;
use ed25519_dalek::SigningKey;

use crate::node::AppError;
use crate::terminal::CliError;

/// The public half of a key.
pub(super) fn public(secret: &cepa_common::secret::Secret<32>) -> RelayId {
    let key = SigningKey::from_bytes(secret.expose());
    RelayId(key.verifying_key().to_bytes())
}

/// The command's error for a state file's error, with its hint.
pub(super) fn state_error(error: StateError) -> CliError {
    AppError::from(error).into()
}

/// The text of the file at `path`, which `cepa keys` wrote.
pub(super) fn read(path: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| {
            let limit = MAX_KEY_FILE_BYTES as u64 + 1;
            file.take(limit).read_to_string(&mut text)
        })
        .map_err(|error| {
            let what = format!("cannot read {}: {error}", path.display());
            CliError::failed(
                what,
                "name the file that `cepa keys certify` or `cepa keys join` wrote",
            )
        })?;
    Ok(text)
}

/// The error for a file that `cepa keys` wrote and that cannot be used.
pub(super) fn bad_file(path: &Path, error: &KeyFileError) -> CliError {
    let hint = match error {
        KeyFileError::OtherNetwork(_) => {
            "name its network with --network, or make it anew for this one"
        }
        KeyFileError::Format(_) => "use the newer program that wrote it",
        _ => "make it anew with `cepa keys certify` or `cepa keys join`, and copy it whole",
    };
    CliError::failed(format!("{}: {error}", path.display()), hint)
}

/// The certificate of a link key in the file at `path`.
pub(super) fn certificate(path: &Path, network: &NetworkFile) -> Result<LinkCertificate, CliError> {
    LinkCertificate::parse(&read(path)?, &network.network_id())
        .map_err(|error| bad_file(path, &error))
}
