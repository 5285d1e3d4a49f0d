//! Who may reach keys and state directories.

use std::path::Path;

use fs_mistrust::{Mistrust, Verifier};

use super::error::StateError;
use crate::world::Disk;

/// Who may reach the files and directories of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nobody but the owner and the system's administrator may reach them, nor the directories above them.
    OwnerOnly,
    /// Whoever can reach them may: for keys that are worth nothing, as those of a test network.
    Everyone,
}

/// Rights that only an owner may have.
const OTHERS_BITS: u32 = 0o077;

/// Checks that nobody else can read or change the file `path`, which the owner wrote.
pub fn check_secret(disk: &Disk, path: &Path, trust: Trust) -> Result<(), StateError> {
    check_file(disk, path, trust)
}

/// Checks that nobody else can look into the directory `path` or put files there.
pub fn check_private(disk: &Disk, path: &Path, trust: Trust) -> Result<(), StateError> {
    check_directory(disk, path, trust)
}

/// Checks who can reach the file `path`.
pub(super) fn check_file(disk: &Disk, path: &Path, trust: Trust) -> Result<(), StateError> {
    check(disk, path, trust, |verifier| verifier.require_file())
}

/// Checks who can reach the directory `path`.
pub(super) fn check_directory(disk: &Disk, path: &Path, trust: Trust) -> Result<(), StateError> {
    check(disk, path, trust, |verifier| verifier.require_directory())
}

/// Checks that nobody else can put files into the directory `path`, or into those above it, though others may look in.
pub fn check_place(disk: &Disk, path: &Path, trust: Trust) -> Result<(), StateError> {
    check(disk, path, trust, |verifier| {
        verifier.require_directory().permit_readable()
    })
}

fn check(
    disk: &Disk,
    path: &Path,
    trust: Trust,
    require: impl FnOnce(Verifier<'_>) -> Verifier<'_>,
) -> Result<(), StateError> {
    let checked = match disk {
        Disk::Real => require(mistrust(trust)?.verifier()).check(path),
        // A given disk has one user, so only the permission bits of the path itself can be wrong.
        Disk::Given(disk) => {
            let status = disk.status(path);
            let mode = status.map_err(|source| StateError::io("look at", path, source))?;
            match mode.mode & OTHERS_BITS {
                bad if bad != 0 && trust == Trust::OwnerOnly => {
                    let path = path.to_owned();
                    Err(fs_mistrust::Error::BadPermission(path, mode.mode, bad))
                }
                _ => Ok(()),
            }
        }
    };
    checked.map_err(|source| {
        let source = match source {
            // The library leaves out the bit by which a directory is for everybody.
            fs_mistrust::Error::BadPermission(at, mode, bad) => {
                let mode = disk.mode(&at).unwrap_or(mode);
                fs_mistrust::Error::BadPermission(at, mode, bad)
            }
            source => source,
        };
        StateError::exposed(path, source)
    })
}

/// The rules by which paths are trusted. Environment variables cannot switch the rules off: a service's environment is
/// not its owner's word.
fn mistrust(trust: Trust) -> Result<Mistrust, StateError> {
    match trust {
        Trust::OwnerOnly => Mistrust::builder()
            .ignore_environment()
            .build()
            .map_err(|_| StateError::Rules),
        Trust::Everyone => Ok(Mistrust::new_dangerously_trust_everyone()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_place_may_be_seen_by_others_and_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, is_taken) in [(0o700, true), (0o755, true), (0o777, false), (0o722, false)] {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let checked = check_place(&Disk::Real, dir.path(), Trust::OwnerOnly);
            assert_eq!(checked.is_ok(), is_taken, "{mode:o}: {checked:?}");
            check_place(&Disk::Real, dir.path(), Trust::Everyone).unwrap();
        }
    }

    #[test]
    fn a_directory_for_everybody_stays_so_and_a_missing_one_is_called_missing() {
        let dir = tempfile::tempdir().unwrap();
        let why = |path: &Path| {
            let checked = check_place(&Disk::Real, path, Trust::OwnerOnly);
            checked.unwrap_err().to_string()
        };
        let set = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.path(), mode).unwrap();
        };
        set(0o1777);
        let (said, shown) = (why(dir.path()), dir.path().display());
        assert!(!said.contains("chmod"), "{said}");
        let command = format!("mkdir -m 700 {shown}/cepa-$(id -u)");
        assert!(said.ends_with(&command), "{said}");
        // What is said helps.
        let own = dir.path().join("own");
        std::fs::create_dir(&own).unwrap();
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o700)).unwrap();
        check_place(&Disk::Real, &own, Trust::OwnerOnly).unwrap();
        set(0o777);
        assert!(
            why(dir.path()).ends_with(&format!("chmod o-w {shown}"))
                || why(dir.path()).contains("chmod go-w")
        );
        set(0o700);
        let missing = dir.path().join("none");
        assert_eq!(why(&missing), format!("{} is not there", missing.display()));
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(
            why(&file).contains("where a directory must be"),
            "{}",
            why(&file)
        );
    }
}
