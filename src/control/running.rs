//! Which nodes run for this user: a directory of links to their state directories, so that `cepa status` finds a node
//! without being told where it is.
//!
//! The directory is `cepa` in `$XDG_RUNTIME_DIR`, or else `cepa/running` in the user's directory for state. Each node
//! has a symbolic link there that is named by its process. A node that was killed leaves its link behind; the link goes
//! with the next node that starts and with the next question.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Links of one process. A process has seldom more than one node, but all of a network in one process.
const MOST_PER_PROCESS: u32 = 1_024;

/// The directory of this user's links; `None` where the environment names no place for it.
pub(crate) fn directory() -> Option<PathBuf> {
    let var = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = || var("XDG_STATE_HOME").or_else(|| Some(var("HOME")?.join(".local/state")));
    match var("XDG_RUNTIME_DIR") {
        Some(dir) => Some(dir.join("cepa")),
        None => Some(state()?.join("cepa/running")),
    }
}

/// A link that says where this node's state directory is; it is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    link: PathBuf,
}

impl Running {
    /// Says in `directory` that a node runs with the state directory `dir`.
    ///
    /// # Errors
    /// The system said no. Then the node is found by its state directory alone.
    pub(super) fn tell(directory: &Path, dir: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        sweep(directory);
        let dir = std::fs::canonicalize(dir)?;
        let process = std::process::id();
        for number in 0..MOST_PER_PROCESS {
            let link = directory.join(format!("{process}-{number}"));
            match std::os::unix::fs::symlink(&dir, &link) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                done => return done.map(|()| Self { link }),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.link);
        // The directory goes with its last link, so that nothing is left behind; it stays while it has others.
        if let Some(directory) = self.link.parent() {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// The state directories of the nodes that run, in order and each once.
pub(crate) fn state_dirs(directory: &Path) -> Vec<PathBuf> {
    sweep(directory);
    let mut dirs: Vec<_> = links(directory)
        .filter_map(|link| std::fs::read_link(link).ok())
        .collect();
    dirs.sort();
    dirs.dedup();
    dirs
}

fn links(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// Removes the links of processes that are gone.
fn sweep(directory: &Path) {
    for link in links(directory) {
        let process = link.file_name().and_then(OsStr::to_str);
        let process = process.and_then(|name| name.split_once('-')?.0.parse::<u32>().ok());
        let is_there =
            process.is_none_or(|process| Path::new("/proc").join(process.to_string()).exists());
        if !is_there {
            let _ = std::fs::remove_file(link);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_while_they_run_and_leave_nothing_behind() {
        let kept = tempfile::tempdir().unwrap();
        let directory = kept.path().join("a/running");
        assert_eq!(state_dirs(&directory), Vec::<PathBuf>::new());
        let (one, two) = (kept.path().join("one"), kept.path().join("two"));
        for dir in [&one, &two] {
            std::fs::create_dir(dir).unwrap();
        }
        let first = Running::tell(&directory, &one).unwrap();
        let second = Running::tell(&directory, &two).unwrap();
        // No process has a number above the system's bound, 4194304: its link is of one that is gone.
        std::os::unix::fs::symlink(&one, directory.join("4194999-0")).unwrap();
        assert_eq!(state_dirs(&directory), [one.clone(), two.clone()]);
        assert!(!directory.join("4194999-0").is_symlink());
        drop(first);
        assert_eq!(state_dirs(&directory), [two]);
        drop(second);
        assert!(!directory.exists());
    }
}
