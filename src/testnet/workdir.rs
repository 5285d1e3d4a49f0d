//! The directory of a local network: temporary and removed, or named and kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cepa_common::state::StateLock;
use cepa_common::world::Disk;
use tempfile::TempDir;

use crate::node::AppError;
use crate::terminal::CliError;
use crate::terminal::output::note;

/// The directory, while the network runs.
pub struct Workdir {
    path: PathBuf,
    /// The temporary directory, which is removed with all its content when it is dropped.
    temporary: Option<TempDir>,
    /// The lock that keeps a second network out of a named directory.
    _lock: Option<StateLock>,
}

/// The log of a network of one process, in its directory `dir`.
pub(super) fn log_in(dir: &Path) -> PathBuf {
    dir.join("testnet.log")
}

/// Checks that files of the network, which are text, can name the directory.
fn in_utf8(path: &Path) -> Result<(), CliError> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(CliError::usage(
            format!(
                "the path {} is not UTF-8, and the network's files must name it",
                path.display()
            ),
            "name another directory with --dir",
        )),
    }
}

impl Workdir {
    /// Opens the directory `named`, which is made if it is missing and cleared of a network that ran there before.
    /// Without a name a temporary directory is made.
    pub fn open(named: Option<PathBuf>) -> Result<Self, CliError> {
        let Some(named) = named else {
            return Self::temporary();
        };
        let failed = |action: &str, error: io::Error| {
            CliError::failed(
                format!("cannot {action} {}: {error}", named.display()),
                "choose another directory with --dir",
            )
        };
        in_utf8(&named)?;
        fs::create_dir_all(&named).map_err(|error| failed("create", error))?;
        // Processes and people elsewhere on the machine read the paths.
        let path = fs::canonicalize(&named).map_err(|error| failed("find", error))?;
        in_utf8(&path)?;
        let strangers = fs::read_dir(&path).map_err(|error| failed("read", error))?.next().is_some()
            // The log and the lock are the first things that a network leaves.
            && !log_in(&path).exists()
            && !path.join("lock").exists();
        if strangers {
            return Err(CliError::usage(
                format!("{} is not empty and no network's directory", path.display()),
                "choose another directory with --dir",
            ));
        }
        let lock = StateLock::acquire(&Disk::Real, &path).map_err(AppError::from)?;
        clear(&path).map_err(|error| failed("clear", error))?;
        Ok(Self {
            path,
            temporary: None,
            _lock: Some(lock),
        })
    }

    fn temporary() -> Result<Self, CliError> {
        Self::temporary_in(&std::env::temp_dir())
    }

    /// Makes a temporary directory in `parent`.
    fn temporary_in(parent: &Path) -> Result<Self, CliError> {
        in_utf8(parent)?;
        let temporary = tempfile::Builder::new()
            .prefix("cepa-testnet-")
            .tempdir_in(parent)
            .map_err(|error| {
                CliError::failed(
                    format!("cannot create a temporary directory: {error}"),
                    "name a directory with --dir",
                )
            })?;
        Ok(Self {
            path: temporary.path().to_owned(),
            temporary: Some(temporary),
            _lock: None,
        })
    }

    /// The absolute path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log of this process.
    pub fn log(&self) -> PathBuf {
        log_in(&self.path)
    }

    /// Removes the directory if it is temporary.
    pub fn close(self) {
        if let Some(temporary) = self.temporary
            && let Err(error) = temporary.close()
        {
            note(&format!("cannot remove {}: {error}", self.path.display()));
        }
    }
}

/// Removes what a network before left in `dir`, and nothing else.
fn clear(dir: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    gone(fs::remove_dir_all(dir.join("nodes")))?;
    gone(fs::remove_file(dir.join("network.toml")))?;
    gone(fs::remove_file(dir.join("testnet.json")))?;
    gone(fs::remove_file(log_in(dir)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_temporary_directory_goes_and_a_named_one_stays() {
        let temporary = Workdir::open(None).unwrap();
        let path = temporary.path().to_owned();
        fs::write(path.join("x"), "x").unwrap();
        temporary.close();
        assert!(!path.exists());

        let parent = tempfile::tempdir().unwrap();
        let named = parent.path().join("net");
        let workdir = Workdir::open(Some(named.clone())).unwrap();
        fs::write(workdir.path().join("network.toml"), "x").unwrap();
        workdir.close();
        assert!(named.join("network.toml").exists());
    }

    #[test]
    fn a_directory_is_used_again_but_never_a_strangers() {
        let parent = tempfile::tempdir().unwrap();
        let named = parent.path().to_owned();
        fs::write(named.join("thesis.tex"), "x").unwrap();
        let odd = named.join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
        let error = Workdir::open(Some(odd.clone())).err().unwrap();
        assert!(
            error.what.contains("not UTF-8") && !odd.exists(),
            "{}",
            error.what
        );
        // The directory for temporary files may have such a name too.
        fs::create_dir(&odd).unwrap();
        let error = Workdir::temporary_in(&odd).err().unwrap();
        assert!(error.what.contains("not UTF-8"), "{}", error.what);
        assert_eq!(fs::read_dir(&odd).unwrap().count(), 0);
        assert!(Workdir::open(Some(named.clone())).is_err());

        let ours = named.join("net");
        let first = Workdir::open(Some(ours.clone())).unwrap();
        fs::create_dir(ours.join("nodes")).unwrap();
        fs::write(first.log(), "x").unwrap();
        let busy = Workdir::open(Some(ours.clone())).err().unwrap();
        assert!(busy.what.contains("in use"), "{}", busy.what);
        first.close();
        let again = Workdir::open(Some(ours.clone())).unwrap();
        assert!(!ours.join("nodes").exists());
        again.close();
    }
}
