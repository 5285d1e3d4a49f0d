//! What can go wrong with files, sorted by who has to act.

use std::io;
use std::path::{Path, PathBuf};

use crate::world::disk::NoRealDisk;

/// A file or directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as an infinitive such as "open".
        action: &'static str,
        /// The file or directory with which it was tried.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Others than the owner can read or change the path or a parent of it.
    #[error("{} is not safe from other users of this machine: {}", path.display(), remedy(source))]
    Exposed {
        /// The path that was to be used.
        path: PathBuf,
        /// What is wrong, and with which part of the path.
        source: Box<fs_mistrust::Error>,
    },
    /// There is no such file or directory, or it is not of the kind that it must be.
    #[error("{} {what}", path.display())]
    BadPlace {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Another process uses this state directory.
    #[error("{} is in use by another process{}", path.display(), named(*holder))]
    InUse {
        /// The state directory.
        path: PathBuf,
        /// Id of the other process, if it has written it down.
        holder: Option<u32>,
    },
    /// The bytes are not those that were written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// A newer version of the program wrote the file. This version leaves the file alone.
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
        /// The kind that the file holds.
        found: String,
        /// The kind that was asked for.
        wanted: &'static str,
    },
    /// A simulated process has asked for a file of this machine.
    #[error("{} is on a real disk, which a simulated process must not touch", path.display())]
    Simulated {
        /// The file or directory.
        path: PathBuf,
    },
    /// The path rules could not be set up.
    #[error("cannot set up the rules for trusted paths")]
    Rules,
}

impl StateError {
    /// The error `source` of the operating system, met while trying `action` on `path`.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if NoRealDisk::is(&source) {
            let path = path.to_owned();
            return Self::Simulated { path };
        }
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// The error `source` of a look at who can reach `path`. Not every such error says that others can.
    pub(super) fn exposed(path: &Path, source: fs_mistrust::Error) -> Self {
        match source {
            fs_mistrust::Error::NotFound(path) => Self::BadPlace {
                path,
                what: "is not there",
            },
            fs_mistrust::Error::BadType(path) => Self::BadPlace {
                path,
                what: "is a file where a directory must be, or a directory where a file must be",
            },
            fs_mistrust::Error::CouldNotInspect(path, source) => {
                let source = io::Error::new(source.kind(), source.to_string());
                Self::io("look at", &path, source)
            }
            source => Self::Exposed {
                path: path.to_owned(),
                source: Box::new(source),
            },
        }
    }

    /// The error that the file at `path` does not hold what was written; `what` says why.
    pub(super) fn damaged(path: &Path, what: &'static str) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            what,
        }
    }

    /// What the owner of the file could try.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "check that the path exists, is writable and has room",
            Self::Exposed { .. } => {
                "do as said, choose another directory, or set check_permissions = false under [state] on a machine \
                 that is yours alone"
            }
            Self::BadPlace { .. } => {
                "make the directory, as with mkdir -m 700 and its path, or name another place"
            }
            Self::InUse { .. } => {
                "stop the other process, or give this one a state directory of its own"
            }
            Self::Damaged { .. } => {
                "restore the file from a backup; or move it away to start afresh, where a new key means a new identity"
            }
            Self::Newer { .. } => {
                "run the newer version of the program, or use another state directory"
            }
            Self::WrongKind { .. } => "check which file was put here",
            Self::Simulated { .. } => "give the simulated node a disk in memory",
            Self::Rules => "report this: it is a bug",
        }
    }
}

/// The text " (process N)", or nothing if the process is not known.
fn named(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// Says what is wrong with which part of the path, and which command puts it right.
fn remedy(source: &fs_mistrust::Error) -> String {
    match source {
        // A directory for everybody, as /tmp. It must stay so.
        fs_mistrust::Error::BadPermission(path, mode, bad)
            if mode & 0o1000 != 0 && bad & 0o002 != 0 =>
        {
            let shown = path.display();
            format!(
                "everybody may write to {shown}, as is meant (mode {:04o}); use a directory of your own: \
                 mkdir -m 700 {shown}/cepa-$(id -u)",
                mode & 0o7777
            )
        }
        fs_mistrust::Error::BadPermission(path, mode, bad) => {
            let rights: String = [(0o444, 'r'), (0o222, 'w'), (0o111, 'x')]
                .into_iter()
                .filter_map(|(bits, letter)| (bad & bits != 0).then_some(letter))
                .collect();
            let who: String = [(0o070, 'g'), (0o007, 'o')]
                .into_iter()
                .filter_map(|(bits, letter)| (bad & bits != 0).then_some(letter))
                .collect();
            let shown = path.display();
            format!(
                "{shown} has mode {:04o}; run: chmod {who}-{rights} {shown}",
                mode & 0o7777
            )
        }
        fs_mistrust::Error::BadOwner(path, uid) => format!(
            "{0} belongs to user {uid}; run: chown \"$(id -u)\" {0}",
            path.display()
        ),
        other => other.to_string(),
    }
}
