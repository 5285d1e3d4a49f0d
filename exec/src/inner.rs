//! The process that becomes the command: it enters namespaces of its own, hands the interface out, gives its rights up,
//! and executes the command in its own place.
//!
//! It is started by [`crate::run`], and has one thread: a process of several can enter no user namespace.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::CloneFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::error::{ExecError, NOT_FOUND, NOT_RUN, USERNS_HINT};
use crate::mounts::Shares;
use crate::ports::{self, MOST_ASSOCIATIONS};
use crate::via::Via;
use crate::{confine, mounts, tun};

/// The first argument by which the program knows that it is this process.
pub const INNER: &str = "__exec";

/// What the processes say to each other: a byte each.
pub(crate) const MAP: u8 = b'M';
pub(crate) const TUN: u8 = b'T';
pub(crate) const PORT: u8 = b'P';
pub(crate) const DONE: u8 = b'.';

/// Variables that lead programs to a proxy, which the namespace does not have. Each is read in both cases.
const PROXY_VARIABLES: [&str; 7] = [
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "socks_proxy",
    "rsync_proxy",
    "no_proxy",
];

/// What the outer process tells this one by its arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// The name at which the outer process listens (unix(7), an abstract socket).
    pub(crate) socket: OsString,
    /// The number of the outer process.
    pub(crate) outer: u32,
    /// Does the outer process write the maps of users?
    pub(crate) is_root: bool,
    /// The node's ports that the command finds.
    pub(crate) ports: Vec<Via>,
    pub(crate) shares: Shares,
    pub(crate) command: Vec<OsString>,
}

impl Orders {
    /// The orders as arguments.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec![
            INNER.into(),
            self.socket.clone(),
            self.outer.to_string().into(),
            self.is_root.to_string().into(),
            self.ports.len().to_string().into(),
        ];
        args.extend(self.ports.iter().map(|port| port.to_string().into()));
        args.extend([
            self.shares.tmp.to_string().into(),
            self.shares.paths.len().to_string().into(),
        ]);
        args.extend(self.shares.paths.iter().map(OsString::from));
        args.extend(self.command.iter().cloned());
        args
    }

    /// Reads the arguments behind [`INNER`].
    pub(crate) fn from_args(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        let socket = args.next()?;
        let mut word = || args.next()?.into_string().ok();
        let outer = word()?.parse().ok()?;
        let is_root = word()?.parse().ok()?;
        let count: usize = word()?.parse().ok()?;
        let ports: Option<Vec<Via>> = (0..count).map(|_| word()?.parse().ok()).collect();
        let tmp = word()?.parse().ok()?;
        let count: usize = word()?.parse().ok()?;
        let paths: Vec<PathBuf> = args.by_ref().take(count).map(PathBuf::from).collect();
        let command: Vec<_> = args.collect();
        (paths.len() == count && !command.is_empty()).then_some(Self {
            socket,
            outer,
            is_root,
            ports: ports?,
            shares: Shares { paths, tmp },
            command,
        })
    }
}

/// Becomes the command that the arguments behind [`INNER`] name. Returns only if that fails.
pub fn become_command(args: impl Iterator<Item = OsString>) -> ExecError {
    match Orders::from_args(args) {
        Some(orders) => match prepare(&orders) {
            Ok(()) => execute(&orders.command),
            Err(error) => error,
        },
        None => ExecError::new(
            format!("`{INNER}` is a word between parts of this program"),
            "use `cepa exec -- COMMAND`",
        ),
    }
}

fn prepare(orders: &Orders) -> Result<(), ExecError> {
    let name = SocketAddr::from_abstract_name(orders.socket.as_bytes());
    let outer = name.and_then(|name| UnixStream::connect_addr(&name));
    let mut outer = outer.map_err(|error| lost(&error))?;
    let cwd = std::env::current_dir().map_err(|error| {
        ExecError::new(
            format!("cannot tell the working directory: {error}"),
            "cd to another one",
        )
    })?;
    close_inherited(outer.as_fd())?;
    let sockets = mounts::listening();
    enter_namespaces(orders.is_root, &mut outer)?;
    let paths = orders.ports.iter().filter_map(|port| match port {
        Via::Tcp(_) => None,
        Via::Unix(path) => Some(path.as_path()),
    });
    let unix = mounts::prepare(&orders.shares, &sockets, paths)?;
    // The directory as it was lies below what hides it.
    std::env::set_current_dir(&cwd).map_err(|error| hidden_dir(&cwd, &error))?;
    settings();
    let interface = tun::create()?;
    hand_ports_out(&outer, &orders.ports, unix)?;
    send(&outer, TUN, &[interface.as_fd()]).map_err(|error| lost(&error))?;
    drop(interface);
    await_word(&mut outer)?;
    confine::confine(orders.is_root, orders.outer)
}

fn lost(error: &io::Error) -> ExecError {
    ExecError::new(
        format!("lost the process that has the network: {error}"),
        "it says why, if it was not killed",
    )
}

fn hidden_dir(cwd: &Path, error: &io::Error) -> ExecError {
    let share = match cwd.starts_with("/tmp") {
        true => "--share-tmp or ",
        false => "",
    };
    ExecError::new(
        format!(
            "the command does not see the working directory {}: {error}",
            cwd.display()
        ),
        format!(
            "cd to another one, or let it in by {share}--share {}",
            cwd.display()
        ),
    )
}

/// Waits until the outer process has done what it was asked.
fn await_word(outer: &mut UnixStream) -> Result<(), ExecError> {
    let mut word = [0];
    match outer.read_exact(&mut word) {
        Ok(()) if word == [DONE] => Ok(()),
        Ok(()) => Err(lost(&io::ErrorKind::InvalidData.into())),
        Err(error) => Err(lost(&error)),
    }
}

/// Closes what was inherited beside standard input, output and error: a directory leads around mounts, and a socket
/// around the namespace. Pipes and files stay.
fn close_inherited(kept: BorrowedFd<'_>) -> Result<(), ExecError> {
    for (fd, name) in ["standard input", "standard output", "standard error"]
        .iter()
        .enumerate()
    {
        if fs::metadata(format!("/proc/self/fd/{fd}")).is_ok_and(|found| found.is_dir()) {
            return Err(ExecError::new(
                format!(
                    "{name} is a directory, by which the command could reach what is hidden from it"
                ),
                "have it read or write something else",
            ));
        }
    }
    let open = fs::read_dir("/proc/self/fd").map_err(|error| {
        ExecError::new(format!("cannot list open files: {error}"), "mount /proc")
    })?;
    let open: Vec<i32> = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open {
        let stays = fd <= 2 || fd == kept.as_raw_fd() || {
            use std::os::unix::fs::FileTypeExt;
            let kind = fs::metadata(format!("/proc/self/fd/{fd}")).map(|found| found.file_type());
            kind.is_ok_and(|kind| kind.is_file() || kind.is_fifo())
        };
        if !stays {
            // The one by which the list was read has gone by itself.
            let _ = nix::unistd::close(fd);
        }
    }
    Ok(())
}

fn enter_namespaces(is_root: bool, outer: &mut UnixStream) -> Result<(), ExecError> {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC;
    nix::sched::unshare(flags).map_err(|error| {
        ExecError::new(
            format!(
                "cannot enter namespaces of its own: {}",
                io::Error::from(error)
            ),
            unshare_hint(),
        )
    })?;
    if is_root {
        outer.write_all(&[MAP]).map_err(|error| lost(&error))?;
        return await_word(outer);
    }
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|error| {
            ExecError::new(
                format!("cannot write /proc/self/{file}: {error}"),
                USERNS_HINT,
            )
        })
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{uid} {uid} 1"))?;
    write("gid_map", format!("{gid} {gid} 1"))
}

/// What to do about namespaces, by what the system says of them.
fn unshare_hint() -> String {
    let says =
        |file: &str, value: &str| fs::read_to_string(file).is_ok_and(|text| text.trim() == value);
    if says("/proc/sys/user/max_user_namespaces", "0") {
        return "user namespaces are switched off: `sudo sysctl user.max_user_namespaces=10000` switches them on".to_owned();
    }
    if says("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return "user namespaces are for root alone: `sudo sysctl kernel.unprivileged_userns_clone=1` opens them, or run \
            `cepa exec` as root"
            .to_owned();
    }
    USERNS_HINT.to_owned()
}

/// Settings of the namespace that make programs behave; each is of use alone.
fn settings() {
    let gid = rustix::process::getegid().as_raw();
    // ping then asks, and is told that pings are prohibited.
    let _ = fs::write(
        "/proc/sys/net/ipv4/ping_group_range",
        format!("{gid} {gid}"),
    );
    // The system's last SYN is sent 31 s after its first, and its program gives up after 63 s, not 127 s.
    let _ = fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "5");
}

/// Listens at the node's ports, and hands out what the outer process serves them by: a word for each, in their order.
/// `unix` are those of the ports that are Unix sockets.
fn hand_ports_out(
    outer: &UnixStream,
    ports: &[Via],
    unix: Vec<Option<OwnedFd>>,
) -> Result<(), ExecError> {
    let mut unix = unix.into_iter();
    for port in ports {
        let made = match port {
            Via::Tcp(address) => ports::make(*address).map_err(|error| {
                ExecError::new(
                    format!("cannot listen at {port} in the namespace: {error}"),
                    "`--no-ports` leaves the client's ports out of it",
                )
            })?,
            Via::Unix(_) => unix.next().flatten().map(|listener| (listener, Vec::new())),
        };
        let fds = made.iter().flat_map(|(listener, datagrams)| {
            std::iter::once(listener.as_fd()).chain(datagrams.iter().map(AsFd::as_fd))
        });
        let fds: Vec<_> = fds.collect();
        send(outer, PORT, &fds).map_err(|error| lost(&error))?;
    }
    Ok(())
}

/// Says a word to the outer process, and hands files out with it.
fn send(outer: &UnixStream, word: u8, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1 + MOST_ASSOCIATIONS))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let sent = sendmsg(
        outer,
        &[IoSlice::new(&[word])],
        &mut control,
        SendFlags::empty(),
    )?;
    match sent {
        1 => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn execute(command: &[OsString]) -> ExecError {
    let Some((program, args)) = command.split_first() else {
        return ExecError::new("there is no command", "name one behind two dashes");
    };
    let mut command = Command::new(program);
    command.args(args);
    for name in PROXY_VARIABLES {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    let error = command.exec();
    let code = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_RUN,
    };
    ExecError {
        what: format!("cannot run {}: {error}", program.display()),
        hint: "write the command as you would without `cepa exec`; in the namespace /run and /tmp are empty".to_owned(),
        code,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_are_written() {
        let orders = Orders {
            socket: "0123456789abcdef".into(),
            outer: 4711,
            is_root: true,
            ports: vec![
                Via::Tcp(([127, 0, 0, 1], 9350).into()),
                Via::Unix("/run/cepa port".into()),
            ],
            shares: Shares {
                paths: vec!["/run/a".into(), "b c".into()],
                tmp: true,
            },
            command: vec!["sh".into(), "-c".into(), "true".into()],
        };
        let args = orders.to_args();
        assert_eq!(args[0], INNER);
        assert_eq!(Orders::from_args(args[1..].iter().cloned()), Some(orders));
        for len in 1..12 {
            assert_eq!(
                Orders::from_args(args[1..len].iter().cloned()),
                None,
                "{len}"
            );
        }
        let error = become_command(std::iter::empty());
        assert_eq!(error.code, 125);
    }
}
