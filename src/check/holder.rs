//! Who listens on a TCP port of this machine, as the system says.

use std::net::SocketAddr;
use std::path::Path;

use cepa_common::world::owners::{self, LISTENS, Listed, Transport};

/// The most descriptors that are looked at in search of a socket.
const MOST_DESCRIPTORS: usize = 200_000;

/// Who listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// The user's number.
    pub(super) uid: u32,
    /// The process, with its name, where this user may see it.
    pub(super) process: Option<(u32, String)>,
}

impl Holder {
    /// The holder in words.
    pub(super) fn words(&self) -> String {
        let user = match self.uid == rustix::process::getuid().as_raw() {
            true => String::new(),
            false => format!(" of the user with number {}", self.uid),
        };
        match &self.process {
            Some((process, name)) => format!("{name} (process {process}){user}"),
            None => format!("a program{user}"),
        }
    }
}

/// Who listens at this address, or at all addresses on its port.
pub(super) fn of(address: SocketAddr) -> Option<Holder> {
    let listens = |it: &Listed| it.state == LISTENS && it.is_at(address);
    let socket = owners::sockets(Transport::Tcp)?.find(listens)?;
    Some(Holder {
        uid: socket.uid,
        process: process(socket.inode),
    })
}

/// The process that has the socket with this inode, with its name. Those of other users cannot be seen.
fn process(inode: u64) -> Option<(u32, String)> {
    let socket = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut left = MOST_DESCRIPTORS;
    for number in numbers {
        let dir = Path::new("/proc").join(number.to_string());
        let descriptors = std::fs::read_dir(dir.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        for descriptor in descriptors {
            left = left.checked_sub(1)?;
            let target = std::fs::read_link(descriptor.path());
            if target.is_ok_and(|target| target.as_os_str() == socket.as_str()) {
                let name = std::fs::read_to_string(dir.join("comm")).unwrap_or_default();
                return Some((number, name.trim().to_owned()));
            }
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_this_process_is_found_with_its_user_and_name() {
        for any in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(any) else {
                continue;
            };
            let address = listener.local_addr().unwrap();
            let asked = match address.ip().is_unspecified() {
                true => SocketAddr::from(([127, 0, 0, 1], address.port())),
                false => address,
            };
            let holder = of(asked).unwrap();
            assert_eq!(holder.uid, rustix::process::getuid().as_raw());
            assert_eq!(holder.process.as_ref().unwrap().0, std::process::id());
            assert!(
                holder
                    .words()
                    .ends_with(&format!("(process {})", std::process::id()))
            );
            drop(listener);
            assert_eq!(of(asked), None);
        }
    }
}
