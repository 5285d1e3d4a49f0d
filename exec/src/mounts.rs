//! What the command sees of the file system: no socket by which a program outside could be asked to do what the
//! command must not, and its own configuration of names.
//!
//! A Unix socket that has a path crosses network namespaces. Programs outside would look names up for the command
//! (systemd-resolved, nscd, sssd), or open connections for it (docker, D-Bus, a shared ssh, a browser that runs).

use std::collections::BTreeSet;
use std::ffi::{CStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind,
    mount_change, move_mount, open_tree,
};

use crate::error::{ExecError, USERNS_HINT};

const RUN: &str = "/run";
const TMP: &str = "/tmp";
/// Directories that are full of sockets; those that are there get an empty one in their place.
const HIDDEN: [&str; 3] = [RUN, "/var/run", "/var/lib/sss/pipes"];
const RESOLV: &str = "/etc/resolv.conf";
const NSSWITCH: &str = "/etc/nsswitch.conf";
/// Where the command's own configuration is.
const OWN: &str = "/run/cepa";

/// The name server of the namespace. An answer may take a while, above all the first.
const RESOLV_CONF: &str =
    "# Written by cepa exec.\nnameserver 198.18.0.53\noptions timeout:15 attempts:2\n";

/// What the owner lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// These, with all that is in them, are as they are outside.
    pub paths: Vec<PathBuf>,
    /// `/tmp` is as it is outside.
    pub tmp: bool,
}

/// A path that is brought back over an empty directory.
struct Shared {
    path: PathBuf,
    tree: OwnedFd,
    is_dir: bool,
}

/// The paths of sockets that programs outside listen at, as far as the kernel names them. To be asked before the
/// process has a network namespace of its own.
pub(crate) fn listening() -> BTreeSet<PathBuf> {
    let table = fs::read(Path::new("/proc/net/unix")).unwrap_or_default();
    let paths = listening_in(&String::from_utf8_lossy(&table));
    let mut found = BTreeSet::new();
    for path in paths {
        if path.is_absolute() {
            found.insert(path);
        } else {
            // The kernel knows the path as it was given: in the working directory of whoever gave it.
            found.extend(working_dirs().into_iter().map(|dir| dir.join(&path)));
        }
    }
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts = Mount::all(&String::from_utf8_lossy(&mounts));
    let further: Vec<_> = found
        .iter()
        .flat_map(|path| further_ways(path, &mounts))
        .collect();
    found.extend(further);
    found
}

/// A mount, as `/proc/self/mountinfo` has it.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The file system.
    device: String,
    /// What of the file system is to be seen.
    root: PathBuf,
    /// Where it is to be seen.
    at: PathBuf,
}

impl Mount {
    /// The mounts in the text of the table.
    fn all(table: &str) -> Vec<Self> {
        let lines = table.lines().filter_map(|line| {
            // Number, parent, device, root, place, and more.
            let mut fields = line.split(' ').skip(2);
            Some(Self {
                device: fields.next()?.to_owned(),
                root: unescaped(fields.next()?),
                at: unescaped(fields.next()?),
            })
        });
        lines.collect()
    }
}

/// A path in which the kernel has written blanks and the like as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let code = more.get(..3).and_then(|digits| {
            let digits = core::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match code {
            Some(code) if *first == b'\\' => {
                bytes.push(code);
                rest = &more[3..];
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// The other paths of what is at `path`: a file system, or a part of one, may be mounted at several places.
fn further_ways(path: &Path, mounts: &[Mount]) -> Vec<PathBuf> {
    // Of mounts at one place the last is seen.
    let over = mounts.iter().filter(|mount| path.starts_with(&mount.at));
    let Some(own) = over.max_by_key(|mount| mount.at.as_os_str().len()) else {
        return Vec::new();
    };
    let Ok(within) = path.strip_prefix(&own.at) else {
        return Vec::new();
    };
    let within = own.root.join(within);
    let same = mounts.iter().filter(|mount| mount.device == own.device);
    let ways = same.filter_map(|mount| Some(mount.at.join(within.strip_prefix(&mount.root).ok()?)));
    ways.filter(|way| way != path).collect()
}

/// The paths in a table of Unix sockets, of those at which somebody hears: connections or datagrams.
fn listening_in(table: &str) -> Vec<PathBuf> {
    let lines = table.lines().skip(1);
    let paths = lines.filter_map(|line| {
        let fields: Vec<_> = line.splitn(8, ' ').collect();
        // Num RefCount Protocol Flags Type St Inode Path; the inode is filled up with blanks.
        let [_, _, _, flags, kind, _, rest @ ..] = fields.as_slice() else {
            return None;
        };
        let rest = rest.join(" ");
        let (_, path) = rest.trim_start().split_once(' ')?;
        let accepts = u32::from_str_radix(flags, 16).ok()? & 0x1_0000 != 0;
        let is_datagram = *kind == "0002";
        // An abstract socket belongs to its network namespace.
        let is_abstract = path.is_empty() || path.starts_with('@');
        ((accepts || is_datagram) && !is_abstract).then(|| PathBuf::from(path))
    });
    paths.collect()
}

/// The working directories of processes that this user may look at.
fn working_dirs() -> BTreeSet<PathBuf> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let dirs = processes.filter_map(|process| fs::read_link(process.path().join("cwd")).ok());
    dirs.filter(|dir| dir.is_absolute()).collect()
}

fn failed(what: &str, path: &Path, error: impl Into<io::Error>) -> ExecError {
    let error = error.into();
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => USERNS_HINT,
        _ => "look whether the kernel's log (dmesg) says more",
    };
    ExecError::new(format!("cannot {what} {}: {error}", path.display()), hint)
}

/// Changes the file system of this process's own mount namespace. `sockets` are those of [`listening`]. At each of
/// `ports`, Unix sockets of the node, the command finds one that this process listens at, if there is a place for it.
pub(crate) fn prepare<'a>(
    shares: &Shares,
    sockets: &BTreeSet<PathBuf>,
    ports: impl Iterator<Item = &'a Path>,
) -> Result<Vec<Option<OwnedFd>>, ExecError> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags)
        .map_err(|error| failed("set apart the mounts below", Path::new("/"), error))?;
    let hidden = hidden_dirs(shares);
    if !fs::canonicalize(RUN).is_ok_and(|real| hidden.contains(&real)) {
        return Err(ExecError::new(
            format!("there is no directory {RUN} to put one of the command's own in the place of"),
            format!("make an empty one: `sudo mkdir {RUN}`"),
        ));
    }
    let is_hidden = |path: &Path| hidden.iter().any(|dir| path.starts_with(dir));
    let resolv = target_of(Path::new(RESOLV));
    let nsswitch = fs::read_to_string(NSSWITCH).ok();
    let ports: Vec<_> = ports.map(|path| fs::canonicalize(path).ok()).collect();
    let mut shared = Vec::new();
    for path in &shares.paths {
        let real = fs::canonicalize(path).map_err(|error| {
            ExecError::new(
                format!("cannot share {}: {error}", path.display()),
                "name a file or directory that there is",
            )
        })?;
        if is_hidden(&real) {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            let tree =
                open_tree(CWD, &real, flags).map_err(|error| failed("share", &real, error))?;
            shared.push(Shared {
                is_dir: real.is_dir(),
                path: real.clone(),
                tree,
            });
        }
    }
    for dir in &hidden {
        let is_tmp = fs::canonicalize(TMP).is_ok_and(|tmp| tmp == *dir);
        let (mode, flags): (&CStr, _) = match is_tmp {
            true => (
                c"mode=1777,size=50%",
                MountFlags::NOSUID | MountFlags::NODEV,
            ),
            false => (
                c"mode=0755,size=20%",
                MountFlags::NOSUID | MountFlags::NODEV,
            ),
        };
        mount("tmpfs", dir, "tmpfs", flags, mode).map_err(|error| failed("hide", dir, error))?;
    }
    furnish().map_err(|error| failed("furnish", Path::new(RUN), error))?;
    // They are made before a share may bring the directory back in which they are: that one is not ours to write.
    let own = |name, text: &str| {
        make_own(name, text).map_err(|error| failed("furnish", Path::new(OWN), error))
    };
    let own_resolv = own("resolv.conf", RESOLV_CONF)?;
    let nsswitch = nsswitch.as_deref().map(by_files_and_dns);
    let own_nsswitch = nsswitch
        .map(|text| own("nsswitch.conf", &text))
        .transpose()?;
    let own_ports: Result<Vec<_>, _> = (0..ports.len()).map(make_own_port).collect();
    let own_ports = own_ports.map_err(|error| failed("furnish", Path::new(OWN), error))?;
    for share in &shared {
        bring_back(share).map_err(|error| failed("share", &share.path, error))?;
    }
    let is_brought_back = |path: &Path| shared.iter().any(|share| path.starts_with(&share.path));
    let may_write = |path: &Path| is_hidden(path) && !is_brought_back(path);
    names(resolv, &own_resolv, own_nsswitch.as_ref(), &may_write)?;
    let real: Vec<_> = shares
        .paths
        .iter()
        .filter_map(|path| fs::canonicalize(path).ok())
        .collect();
    cover_sockets(sockets, &real)?;
    let listeners = ports.into_iter().zip(own_ports).map(|(port, own)| {
        // What is let in is as it is outside, and what is nowhere to be seen is not made elsewhere.
        let is_shared = |path: &Path| real.iter().any(|share| path.starts_with(share));
        let port = port.filter(|path| !is_shared(path) && (path.exists() || may_write(path)));
        let Some(port) = port else { return Ok(None) };
        put(&own.seen, &port).map_err(|error| failed("replace the socket", &port, error))?;
        Ok(Some(own.listener.into()))
    });
    listeners.collect()
}

/// A socket that this process listens at, as a mount that can be put anywhere, once.
struct OwnPort {
    listener: UnixListener,
    seen: OwnedFd,
}

/// Makes a socket that all programs of the namespace may use.
fn make_own_port(number: usize) -> io::Result<OwnPort> {
    let path = Path::new(OWN).join(format!("port-{number}"));
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    let seen = as_mount(&path)?;
    Ok(OwnPort { listener, seen })
}

/// The directories that the command sees empty ones in the place of.
fn hidden_dirs(shares: &Shares) -> BTreeSet<PathBuf> {
    let tmp = (!shares.tmp).then_some(TMP);
    real_dirs(HIDDEN.into_iter().chain(tmp).map(Path::new))
}

/// Those of `dirs` that are there; one that is a link, as where it leads.
fn real_dirs<'a>(dirs: impl Iterator<Item = &'a Path>) -> BTreeSet<PathBuf> {
    let real = dirs.filter_map(|dir| fs::canonicalize(dir).ok());
    real.filter(|dir| dir.is_dir() && dir != Path::new("/"))
        .collect()
}

/// Where a path leads, also if nothing is there.
fn target_of(path: &Path) -> Option<PathBuf> {
    if let Ok(real) = fs::canonicalize(path) {
        return Some(real);
    }
    let target = fs::read_link(path).ok()?;
    Some(path.parent()?.join(target))
}

/// What programs expect in the empty directories.
fn furnish() -> io::Result<()> {
    let make = |dir: &str, mode| {
        fs::DirBuilder::new().recursive(true).create(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))
    };
    make("/run/lock", 0o1777)?;
    make(OWN, 0o755)?;
    let user = rustix::process::getuid().as_raw();
    make("/run/user", 0o755)?;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(format!("/run/user/{user}"))
}

fn bring_back(share: &Shared) -> io::Result<()> {
    if let Some(parent) = share.path.parent() {
        fs::create_dir_all(parent)?;
    }
    match share.is_dir {
        true => fs::create_dir_all(&share.path)?,
        false if share.path.exists() => {}
        false => fs::write(&share.path, "")?,
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(&share.tree, "", CWD, &share.path, flags)?)
}

/// Has programs ask the name server of the namespace, and nobody else.
fn names(
    resolv: Option<PathBuf>,
    own_resolv: &OwnedFd,
    own_nsswitch: Option<&OwnedFd>,
    may_write: &impl Fn(&Path) -> bool,
) -> Result<(), ExecError> {
    let resolv = resolv.filter(|path| path.exists() || may_write(path));
    let Some(resolv) = resolv else {
        return Err(ExecError::new(
            format!("there is no {RESOLV} to put the name server of the namespace in the place of"),
            format!("make an empty one: `sudo touch {RESOLV}`"),
        ));
    };
    put(own_resolv, &resolv).map_err(|error| failed("replace", &resolv, error))?;
    let Some(own_nsswitch) = own_nsswitch else {
        return Ok(());
    };
    let path = Path::new(NSSWITCH);
    let real = target_of(path).unwrap_or_else(|| path.to_owned());
    put(own_nsswitch, &real).map_err(|error| failed("replace", &real, error))
}

/// Makes a file of the command's own that all users of the namespace may read, whatever the caller lets others do with
/// his. Gives it as a mount that can be put anywhere, once.
fn make_own(name: &str, text: &str) -> io::Result<OwnedFd> {
    let path = Path::new(OWN).join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    as_mount(&path)
}

/// What is at this path, as a mount that can be put anywhere, once.
fn as_mount(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

/// Puts a file of the command's own in the place of the one at `path`, which is made if there is none.
fn put(own: &OwnedFd, path: &Path) -> io::Result<()> {
    if !path.exists() {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, "")?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(own, "", CWD, path, flags)?)
}

/// The rules of name look-ups, with hosts by file and DNS alone.
fn by_files_and_dns(nsswitch: &str) -> String {
    let is_of = |line: &str, what: &str| {
        line.trim_start()
            .strip_prefix(what)
            .is_some_and(|rest| rest.trim_start().starts_with(':'))
    };
    let kept = nsswitch
        .lines()
        .filter(|line| !is_of(line, "hosts") && !is_of(line, "networks"));
    let kept: Vec<_> = kept
        .chain(["hosts: files dns", "networks: files", ""])
        .collect();
    kept.join("\n")
}

/// Puts `/dev/null` over each socket that can still be reached, and over its neighbours: a program may bind a socket
/// under one name and keep it under another, as ssh does. `sockets` are by all the ways that lead to them.
fn cover_sockets(sockets: &BTreeSet<PathBuf>, shared: &[PathBuf]) -> Result<(), ExecError> {
    let dirs: BTreeSet<_> = sockets
        .iter()
        .filter_map(|path| path.parent())
        .filter_map(|dir| fs::canonicalize(dir).ok())
        .collect();
    for dir in dirs {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let names = sockets
            .iter()
            .filter(|path| path.parent() == Some(dir.as_path()));
        // A directory may let nobody list it, and lead to its files all the same.
        let paths: BTreeSet<_> = entries
            .map(|entry| entry.path())
            .chain(names.cloned())
            .collect();
        for path in paths {
            let is_socket =
                fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket());
            if !is_socket || shared.iter().any(|share| path.starts_with(share)) {
                continue;
            }
            match mount_bind("/dev/null", &path) {
                // It has gone meanwhile.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("hide the socket", &path, error)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_hear_are_found_in_the_kernels_table() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 16450 /run/a\n\
            0000000000000000: 00000003 00000000 00000000 0001 03   450 /run/connected\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 18450 /run/log\n\
            0000000000000000: 00000002 00000000 00010000 0005 01  8450 with a blank\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 16451 @abstract\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 16452\n";
        let found = listening_in(table);
        assert_eq!(
            found,
            ["/run/a", "/run/log", "with a blank"].map(PathBuf::from)
        );
        assert_eq!(listening_in(""), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_directory_that_is_a_link_is_hidden_where_it_leads() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let real = fs::canonicalize(dir.path()).unwrap().join("real");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink("real", at("link")).unwrap();
        std::os::unix::fs::symlink("/", at("whole")).unwrap();
        let all = ["link", "real", "none", "whole"].map(at);
        let found = real_dirs(all.iter().map(PathBuf::as_path));
        assert_eq!(found, BTreeSet::from([real]));
    }

    #[test]
    fn a_file_system_may_be_seen_at_several_places() {
        let table = "21 1 0:20 / / rw - ext4 /dev/a rw\n\
            22 21 0:21 / /run rw - tmpfs tmpfs rw\n\
            23 21 0:21 / /srv/a\\040jail/run rw shared:1 - tmpfs tmpfs rw\n\
            24 21 0:21 /user/1000 /mnt rw - tmpfs tmpfs rw\n\
            25 21 0:20 /home /data rw - ext4 /dev/a rw\n";
        let mounts = Mount::all(table);
        assert_eq!(mounts.len(), 5);
        let ways = |path: &str| further_ways(Path::new(path), &mounts);
        assert_eq!(
            ways("/run/user/1000/bus"),
            ["/srv/a jail/run/user/1000/bus", "/mnt/bus"].map(PathBuf::from)
        );
        assert_eq!(
            ways("/mnt/bus"),
            ["/run/user/1000/bus", "/srv/a jail/run/user/1000/bus"].map(PathBuf::from)
        );
        assert_eq!(ways("/home/x/s"), ["/data/x/s"].map(PathBuf::from));
        assert_eq!(ways("/data/x/s"), ["/home/x/s"].map(PathBuf::from));
        assert_eq!(ways("/var/s"), Vec::<PathBuf>::new());
        assert_eq!(Mount::all("x\n\n21 1 0:20\n"), []);
        assert_eq!(unescaped("a\\01"), PathBuf::from("a\\01"));
    }

    #[test]
    fn a_socket_of_a_relative_path_is_found_by_its_working_directory() {
        let dirs = working_dirs();
        let own = std::env::current_dir().unwrap();
        assert!(dirs.contains(&own));
    }

    #[test]
    fn hosts_are_looked_up_by_file_and_dns_alone() {
        let text = "passwd: files systemd\nhosts:  mymachines resolve [!UNAVAIL=return] dns\n networks : x\n# hosts: x\n";
        let made = by_files_and_dns(text);
        let wanted = "passwd: files systemd\n# hosts: x\nhosts: files dns\nnetworks: files\n";
        assert_eq!(made, wanted);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("resolv.conf");
        std::os::unix::fs::symlink("../run/x/stub", &link).unwrap();
        assert_eq!(target_of(&link), Some(dir.path().join("../run/x/stub")));
        assert_eq!(target_of(&dir.path().join("none")), None);
    }
}
