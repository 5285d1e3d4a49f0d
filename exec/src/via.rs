//! The node's port, and whether it may be trusted with what a program sends.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use cepa_common::world::owners::{self, LISTENS, Listed, Transport};
use rustix::net::sockopt::socket_peercred;

use crate::error::ExecError;

/// Where the node lets programs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// A port of this machine.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// The text names no port of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write it like 127.0.0.1:9350, [::1]:9350 or unix:/path/of/the/socket")]
pub struct NotAPort;

impl FromStr for Via {
    type Err = NotAPort;

    fn from_str(text: &str) -> Result<Self, NotAPort> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match Path::new(path).is_absolute() {
                true => Ok(Self::Unix(path.into())),
                false => Err(NotAPort),
            };
        }
        let address = text.strip_prefix("socks5h://").unwrap_or(text);
        address.parse().map(Self::Tcp).map_err(|_| NotAPort)
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Via {
    /// Checks, before anything is sent, that whoever listens there may be trusted with it.
    ///
    /// # Errors
    /// [`ExecError`] with what to try.
    pub(crate) fn check_owner(&self) -> Result<(), ExecError> {
        let Self::Tcp(address) = self else {
            return Ok(());
        };
        if !address.ip().is_loopback() {
            return Err(ExecError::new(
                format!("{address} is no port of this machine alone"),
                "name a port on 127.0.0.1 or ::1, or a Unix socket: who listens elsewhere cannot be known",
            ));
        }
        match self.stranger() {
            Ok(None) => Ok(()),
            Ok(Some(owner)) => Err(self.strangers(owner)),
            Err(error) => Err(nobody_there(self, &error)),
        }
    }

    /// The user who listens at this port of TCP and must not: any user may take a port that is free, also while the
    /// node starts anew, and would see all that the command sends. So this is to be asked of each connection, once it
    /// stands: who listened before is of no use then. A socket that nobody has accepted yet does not tell. Of a Unix
    /// socket the connection says it, [`stranger_behind`].
    ///
    /// # Errors
    /// Nobody listens there.
    pub(crate) fn stranger(&self) -> io::Result<Option<u32>> {
        let Self::Tcp(address) = self else {
            return Ok(None);
        };
        let listens = |it: &Listed| it.state == LISTENS && it.is_at(*address);
        let owner = owners::sockets(Transport::Tcp).and_then(|mut all| all.find(listens));
        let owner = owner
            .ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?
            .uid;
        Ok((!is_trusted(owner)).then_some(owner))
    }

    /// The error where another user listens.
    pub(crate) fn strangers(&self, owner: u32) -> ExecError {
        ExecError::new(
            format!(
                "another user (uid {owner}) listens at {self}, and would see all that the command sends"
            ),
            "only this user, root and the user `cepa` are trusted with that: start a client of your own with `cepa proxy \
             --socks 127.0.0.1:PORT`, and name it with --via",
        )
    }
}

/// The user who listens at the other end of this connection to a Unix socket and must not: whoever may write to the
/// directory of a socket may put one of his own in its place.
///
/// # Errors
/// The system's error.
pub(crate) fn stranger_behind(stream: impl AsFd) -> io::Result<Option<u32>> {
    let owner = socket_peercred(stream)?.uid.as_raw();
    Ok((!is_trusted(owner)).then_some(owner))
}

/// May this user see what the command sends? This user, root, and the user of a client that the system has may.
fn is_trusted(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw() || uid == 0 || {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        Some(uid) == uid_of(&passwd, "cepa")
    }
}

/// The error where no node answers.
pub(crate) fn nobody_there(via: &Via, error: &io::Error) -> ExecError {
    ExecError::new(
        format!("no node answers at {via}: {error}"),
        "start one with `cepa proxy`, or name its port with --via",
    )
}

/// The number of a user in the text of `/etc/passwd`.
fn uid_of(passwd: &str, name: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name)
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_addresses_and_sockets() {
        let via = |text: &str| text.parse::<Via>();
        let at = Via::Tcp(([127, 0, 0, 1], 9350).into());
        assert_eq!(via("127.0.0.1:9350"), Ok(at.clone()));
        assert_eq!(via("socks5h://127.0.0.1:9350"), Ok(at));
        assert_eq!(
            via("unix:/run/cepa/port"),
            Ok(Via::Unix("/run/cepa/port".into()))
        );
        for bad in [
            "",
            "9350",
            "127.0.0.1",
            "localhost:9350",
            "unix:port",
            "http://127.0.0.1:1",
        ] {
            assert_eq!(via(bad), Err(NotAPort), "{bad}");
        }
        for text in ["[::1]:9350", "unix:/x"] {
            assert_eq!(via(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn users_have_numbers() {
        let passwd = "root:x:0:0::/root:/bin/sh\ncepa:x:990:990::/var/lib/cepa:/bin/false\n";
        assert_eq!(uid_of(passwd, "cepa"), Some(990));
        assert_eq!(uid_of(passwd, "cep"), None);
    }

    #[test]
    fn only_ports_of_this_machine_are_taken() {
        let error = Via::Tcp(([192, 0, 2, 1], 9350).into())
            .check_owner()
            .unwrap_err();
        assert!(error.what.contains("no port of this machine"), "{error}");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let via = Via::Tcp(listener.local_addr().unwrap());
        via.check_owner().unwrap();
        drop(listener);
        assert!(
            via.check_owner()
                .unwrap_err()
                .what
                .contains("no node answers")
        );
    }
}
