//! The process that stays outside: it has the node, the stack and the signals, and ends with the command's status.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::child::{pass_on, told_status};
use crate::error::{ExecError, FAILED};
use crate::inner::{DONE, MAP, Orders, PORT, TUN};
use crate::mounts::Shares;
use crate::ports::{self, MOST_ASSOCIATIONS, Port};
use crate::shared::{Shared, new_user};
use crate::socks::{self, Failed};
use crate::via::{Via, nobody_there};
use crate::{drive, tun};

/// The other process says what it has to say within this time, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command, and by which node it has its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the node lets programs in.
    pub via: Via,
    /// The node's ports that the command finds at their own addresses.
    pub ports: Vec<Via>,
    /// What the command sees of hidden directories.
    pub shares: Shares,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

/// Runs the command, and gives its status as shells do. To be called on the main thread: the command ends when that
/// thread does.
///
/// # Errors
/// [`ExecError`]: this process failed before there was a command. What failed in the other process is said by that one,
/// which ends with 125, 126 or 127.
pub async fn run(options: Options) -> Result<u8, ExecError> {
    let user = new_user();
    options.via.check_owner()?;
    check_node(&options.via, &user).await?;
    tun::check()?;
    // They are heard from here on, so that none is lost between this process and the command.
    let mut signals = Signals::listen().map_err(|error| own("listen for signals", &error))?;
    let name = OsString::from_vec(new_user().to_vec());
    let listener = listen(&name).map_err(|error| own("make a socket", &error))?;
    let orders = Orders {
        socket: name,
        outer: std::process::id(),
        is_root: rustix::process::geteuid().is_root(),
        ports: options.ports.clone(),
        shares: options.shares,
        command: options.command,
    };
    let mut child = Command::new("/proc/self/exe")
        .arg0("cepa")
        .args(orders.to_args())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| own("start a process", &error))?;
    let Some(pid) = child.id() else {
        return ended(child.wait().await);
    };
    let inner = tokio::select! {
        inner = accept(&listener, pid) => inner?,
        status = child.wait() => return ended(status),
        () = tokio::time::sleep(PATIENCE) => return Err(own("wait for its process", &io::ErrorKind::TimedOut.into())),
    };
    drop(listener);
    let (tun, ports, mut inner) = match receive_namespace(inner, pid, options.ports) {
        Ok(received) => received,
        // The other process has said why.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return ended(child.wait().await);
        }
        Err(error) => return Err(own("get the interface of the namespace", &error)),
    };
    let shared = Arc::new(Shared::new(options.via, user));
    let network = drive::run(tun, shared.clone());
    let ports = ports::serve(shared.clone(), ports);
    // The word goes out when the network is polled first, at the latest: packets wait in the interface.
    let told = inner.write_all(&[DONE]);
    drop(inner);
    told.map_err(|error| own("start the command", &error))?;
    tokio::pin!(network, ports);
    let (mut has_network, mut has_ports) = (true, true);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            signal = signals.next() => pass_on(&child, signal),
            lost = &mut network, if has_network => {
                has_network = false;
                let Err(error) = lost;
                tracing::warn!(%error, "the interface of the namespace is gone");
            }
            () = &mut ports, if has_ports => has_ports = false,
        }
    };
    tracing::debug!(
        dropped = shared.look(|stack, _| stack.dropped()),
        "packets that went nowhere"
    );
    ended(status)
}

fn own(what: &str, error: &io::Error) -> ExecError {
    ExecError::new(
        format!("cannot {what}: {error}"),
        "check the limits of this account",
    )
}

async fn check_node(via: &Via, user: &[u8; 32]) -> Result<(), ExecError> {
    match socks::probe(via, user).await {
        Ok(()) => Ok(()),
        Err(Failed::Password) => Err(ExecError::new(
            format!("the port {via} asks for a user and a password"),
            "name a port of the node without `credentials` by --via",
        )),
        Err(Failed::Stranger(owner)) => Err(via.strangers(owner)),
        Err(Failed::Lost(error)) => Err(nobody_there(via, &error)),
        Err(error) => Err(nobody_there(via, &io::Error::other(error.to_string()))),
    }
}

/// Listens at a name that is no file: nothing of it stays behind, whenever this process is killed. Others can read the
/// name and connect too, and are not listened to.
fn listen(name: &OsString) -> io::Result<UnixListener> {
    let address = SocketAddr::from_abstract_name(name.as_bytes())?;
    let listener = std::os::unix::net::UnixListener::bind_addr(&address)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Waits for the connection of the other process, and of nobody else.
async fn accept(
    listener: &UnixListener,
    pid: u32,
) -> Result<std::os::unix::net::UnixStream, ExecError> {
    loop {
        let accepted = listener.accept().await;
        let (stream, _) = accepted.map_err(|error| own("accept a connection", &error))?;
        let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
        if peer.and_then(|peer| u32::try_from(peer).ok()) == Some(pid) {
            let stream = stream.into_std();
            let blocking = stream.and_then(|stream| {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(stream)
            });
            return blocking.map_err(|error| own("accept a connection", &error));
        }
    }
}

/// The interface of a namespace, the ports that it has of the node's, and the other process.
type Namespace = (OwnedFd, Vec<Port>, std::os::unix::net::UnixStream);

/// Does what the other process asks for until it hands the interface over. Nothing else is to be done meanwhile. `ports`
/// are the node's, in the order in which the other process speaks of them.
fn receive_namespace(
    mut inner: std::os::unix::net::UnixStream,
    pid: u32,
    ports: Vec<Via>,
) -> io::Result<Namespace> {
    let mut asked = ports.into_iter();
    let mut made = Vec::new();
    loop {
        let mut word = [0];
        let mut room =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1 + MOST_ASSOCIATIONS))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(
            &inner,
            &mut [IoSliceMut::new(&mut word)],
            &mut control,
            flags,
        )?;
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let mut fds = fds.flatten();
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        match word {
            [MAP] => {
                write_maps(pid)?;
                inner.write_all(&[DONE])?;
            }
            // One that could not be made has none.
            [PORT] => {
                let via = asked.next().ok_or_else(invalid)?;
                let port = fds.next().map(|listener| Port {
                    via,
                    listener,
                    datagrams: fds.collect(),
                });
                made.extend(port);
            }
            [TUN] => {
                let tun = fds.next().ok_or_else(invalid)?;
                return Ok((tun, made, inner));
            }
            _ => return Err(invalid()),
        }
    }
}

/// Gives the user namespace of the other process all users and groups that this one has, as they are.
fn write_maps(pid: u32) -> io::Result<()> {
    for map in ["uid_map", "gid_map"] {
        let own = fs::read_to_string(format!("/proc/self/{map}"))?;
        fs::write(format!("/proc/{pid}/{map}"), same(&own))?;
    }
    Ok(())
}

/// A map that gives each number of `map`, by its number there, to itself.
fn same(map: &str) -> String {
    let lines = map.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (inside, count) = (fields.next()?, fields.nth(1)?);
        Some(format!("{inside} {inside} {count}\n"))
    });
    lines.collect()
}

/// The command's status, as shells tell it.
fn ended(status: io::Result<ExitStatus>) -> Result<u8, ExecError> {
    let status = status.map_err(|error| own("wait for the command", &error))?;
    Ok(told_status(status).unwrap_or(FAILED))
}

/// The signals that this process does not end by. Those of the terminal reach the command by themselves.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    others: [(tokio::signal::unix::Signal, Signal); 4],
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let one = |kind, number| Ok::<_, io::Error>((signal(kind)?, number));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            others: [
                one(SignalKind::terminate(), Signal::TERM)?,
                one(SignalKind::hangup(), Signal::HUP)?,
                one(SignalKind::user_defined1(), Signal::USR1)?,
                one(SignalKind::user_defined2(), Signal::USR2)?,
            ],
        })
    }

    /// The next signal that the command is to have.
    async fn next(&mut self) -> Signal {
        let [term, hup, usr1, usr2] = &mut self.others;
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.quit.recv() => {}
                _ = term.0.recv() => return term.1,
                _ = hup.0.recv() => return hup.1,
                _ = usr1.0.recv() => return usr1.1,
                _ = usr2.0.recv() => return usr2.1,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn all_users_are_mapped_to_themselves() {
        let whole = "         0          0 4294967295\n";
        assert_eq!(same(whole), "0 0 4294967295\n");
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(same(rootless), "0 0 1\n1 1 65536\n");
    }
}
