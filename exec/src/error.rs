//! Why a command did not run, with what to try.

use std::fmt;

/// Status of `cepa exec` where it failed itself, as of `env` and `timeout`.
pub const FAILED: u8 = 125;
/// Status where the command is there and cannot be run.
pub const NOT_RUN: u8 = 126;
/// Status where there is no such command.
pub const NOT_FOUND: u8 = 127;

/// What to do where this user may have no namespaces.
pub(crate) const USERNS_HINT: &str = "this system lets users have no namespaces with rights of their own. Ubuntu: put a \
    profile with `userns,` for this program into /etc/apparmor.d (docs/exec.md has one), or `sudo sysctl \
    kernel.apparmor_restrict_unprivileged_userns=0`. In a container: run it with rights to make namespaces. Or run \
    `cepa exec` as root";

/// The command did not run. The fields say why and what to try.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct ExecError {
    /// What failed, in a sentence without its full stop.
    pub what: String,
    /// What to try.
    pub hint: String,
    /// The status that the program ends with.
    pub code: u8,
}

impl ExecError {
    /// A failure of `cepa exec` itself.
    pub(crate) fn new(what: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self {
            what: what.to_string(),
            hint: hint.into(),
            code: FAILED,
        }
    }
}
