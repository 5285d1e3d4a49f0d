//! Writes what a simulation came to.

use std::path::Path;

use crate::terminal::CliError;

/// Writes `text` to the file that the user has named.
pub(super) fn write(path: &Path, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text).map_err(|error| {
        CliError::failed(
            format!("cannot write {}: {error}", path.display()),
            "name a file in a directory that you may write to",
        )
    })
}
