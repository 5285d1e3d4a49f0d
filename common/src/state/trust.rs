//! Who may reach keys and state directories.

use fs_mistrust::Mistrust;

use super::error::StateError;

/// Whether the rights on files and directories are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nobody but the owner and the system's administrator may reach them, parents included.
    OwnerOnly,
    /// Whoever can reach them may: for keys that are worth nothing, as those of a test network.
    Everyone,
}

/// The rules by which paths are trusted. Environment variables cannot switch
/// them off: a service's environment is not its owner's word.
pub(super) fn mistrust(trust: Trust) -> Result<Mistrust, StateError> {
    match trust {
        Trust::OwnerOnly => Mistrust::builder()
            .ignore_environment()
            .build()
            .map_err(|_| StateError::Rules),
        Trust::Everyone => Ok(Mistrust::new_dangerously_trust_everyone()),
    }
}
