//! Who may reach the client's files and sockets.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cepa_common::state::{StateError, Trust, check_place, check_private, check_secret};
use cepa_common::world::Disk;

use super::finding::Finding;
use super::port::{Port, unix_path};
use crate::config::Config;

/// Looks at the state directory, at files of users that the configuration names, and at Unix sockets.
pub(super) fn check(dir: &Path, config: Option<&Config>, ports: &[Port]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if dir.is_dir() {
        let checked = check_private(&Disk::Real, dir, Trust::OwnerOnly);
        findings.extend(told(
            "the state directory holds the guards and what is known of the network",
            checked,
        ));
    }
    for path in users(config) {
        let checked = check_secret(&Disk::Real, &path, Trust::OwnerOnly);
        findings.extend(told("the file of users holds their passwords", checked));
    }
    for path in ports.iter().filter_map(unix_path) {
        findings.extend(socket(path));
    }
    if findings.is_empty() {
        let what = match dir.is_dir() {
            true => format!(
                "nobody else can reach the client's files in {}",
                dir.display()
            ),
            false => format!("there is no state directory {} yet", dir.display()),
        };
        findings.push(Finding::ok("files", what));
    }
    findings
}

/// Files of users that the configuration names.
fn users(config: Option<&Config>) -> Vec<PathBuf> {
    let client = config.and_then(|config| config.client.as_ref());
    let listeners = client.into_iter().flat_map(|client| client.ports());
    let mut paths: Vec<PathBuf> = listeners
        .filter_map(|(_, listener)| listener.credentials)
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

fn told(why: &str, checked: Result<(), StateError>) -> Option<Finding> {
    let error = checked.err()?;
    let says = format!("{why}, and {error}");
    Some(Finding::warn("files", says, error.hint()))
}

/// Who may use the Unix socket at `path`?
fn socket(path: &Path) -> Option<Finding> {
    let mode = std::fs::symlink_metadata(path).ok()?.permissions().mode();
    let parent = path.parent().unwrap_or(Path::new("/"));
    if let Err(error) = check_place(&Disk::Real, parent, Trust::OwnerOnly) {
        let says = format!(
            "others could put a socket of theirs in the place of {}: {error}",
            path.display()
        );
        return Some(Finding::warn("files", says, error.hint()));
    }
    (mode & 0o002 != 0).then(|| {
        Finding::warn(
            "files",
            format!(
                "every user of this machine may use {} in this client's name",
                path.display()
            ),
            "set `mode` of the listener to \"0600\" or \"0660\" if that is not wanted",
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::super::finding::Verdict;
    use super::*;
    use crate::config::ListenAddress;

    #[test]
    fn what_others_can_reach_is_said() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("state");
        let results = |ports: &[Port]| -> Vec<Verdict> {
            check(&dir, None, ports)
                .iter()
                .map(|finding| finding.result)
                .collect()
        };
        assert_eq!(results(&[]), [Verdict::Ok], "there is no directory yet");
        std::fs::create_dir(&dir).unwrap();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for (bits, expected) in [
            (0o700, Verdict::Ok),
            (0o750, Verdict::Warn),
            (0o755, Verdict::Warn),
        ] {
            mode(&dir, bits);
            assert_eq!(results(&[]), [expected], "{bits:o}");
        }
        mode(&dir, 0o700);
        let socket = place.path().join("port");
        let _listener = UnixListener::bind(&socket).unwrap();
        let port = [Port {
            address: ListenAddress::Unix(socket.clone()),
            is_proxy: true,
            asks_who: false,
        }];
        for (bits, expected) in [
            (0o600, Verdict::Ok),
            (0o660, Verdict::Ok),
            (0o666, Verdict::Warn),
        ] {
            mode(&socket, bits);
            assert_eq!(results(&port), [expected], "{bits:o}");
        }
        mode(place.path(), 0o777);
        mode(&socket, 0o600);
        assert_eq!(results(&port).last(), Some(&Verdict::Warn));
    }
}
