//! What can go wrong with files, sorted by whose turn it is to act.

use std::io;
use std::path::{Path, PathBuf};

/// A file or directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Others than the owner can read or change the path or a parent of it.
    #[error("{} is not safe from other users of this machine: {source}", path.display())]
    Exposed {
        /// The path that was to be used.
        path: PathBuf,
        /// What is wrong, and with which part of the path.
        source: Box<fs_mistrust::Error>,
    },
    /// Another process works in this directory.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The state directory.
        path: PathBuf,
    },
    /// The bytes are not what was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// A newer version of the program wrote the file; this one leaves it alone.
    #[error("{} has format {found}, newer than format {known} which this program knows", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format in the file.
        found: u8,
        /// The newest format that this program reads.
        known: u8,
    },
    /// The file holds a key or a document of another kind.
    #[error("{} holds a {found}, not a {wanted}", path.display())]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The path rules could not be set up.
    #[error("cannot set up the rules for trusted paths")]
    Rules,
}

impl StateError {
    /// The operating system's `source`, met while trying `action` on `path`.
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// The complaint `source` about who can reach `path`.
    pub(super) fn exposed(path: &Path, source: fs_mistrust::Error) -> Self {
        Self::Exposed {
            path: path.to_owned(),
            source: Box::new(source),
        }
    }

    /// The file at `path` does not hold what was written, as `what` says.
    pub(super) fn damaged(path: &Path, what: &'static str) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            what,
        }
    }

    /// What its owner could try.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "check that the path exists, is writable and has room",
            Self::Exposed { .. } => {
                "take the write and read rights of others away (chmod go-rwx), or choose another directory"
            }
            Self::InUse { .. } => {
                "stop the other process, or give this one a state directory of its own"
            }
            Self::Damaged { .. } => {
                "restore the file from a backup, or move it away to start afresh"
            }
            Self::Newer { .. } => {
                "run the newer version of the program, or use another state directory"
            }
            Self::WrongKind { .. } => "check which file was put here",
            Self::Rules => "report this: it is a bug",
        }
    }
}
