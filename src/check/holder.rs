//! Who listens on a TCP port of this machine, as the system says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// The state of a socket that listens, in the system's tables.
const LISTEN: &str = "0A";
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
    let table = match address {
        SocketAddr::V4(_) => ["/proc/net/tcp", "/proc/net/tcp6"],
        SocketAddr::V6(_) => ["/proc/net/tcp6", "/proc/net/tcp"],
    };
    let (uid, inode) = table.iter().find_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        listening(&text, address)
    })?;
    Some(Holder {
        uid,
        process: process(inode),
    })
}

/// User and inode of the socket that listens at `address`, in the text of one of the system's tables.
fn listening(table: &str, address: SocketAddr) -> Option<(u32, u64)> {
    let fits = |at: SocketAddr| {
        at.port() == address.port() && (at.ip() == address.ip() || at.ip().is_unspecified())
    };
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let at = words.next().and_then(socket_address)?;
        let state = words.nth(1)?;
        let uid = words.nth(3)?.parse().ok()?;
        let inode = words.nth(1)?.parse().ok()?;
        (state == LISTEN && fits(at)).then_some((uid, inode))
    })
}

/// An address as the system's tables write it: words of the machine's order in hexadecimal digits, a colon, the port.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = Vec::new();
    for at in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    let ip = match octets.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
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
    use proptest::prelude::*;

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

    #[test]
    fn the_tables_of_the_system() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:2486 00000000:0000 01 00000000:00000000 00:00000000 00000000  7  0 16 1 0 100 0 0 10 0\n\
            \x20  1: 0100007F:2486 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 1678 1 0 100\n";
        let found = listening(table, ([127, 0, 0, 1], 9_350).into());
        // The words are in this machine's order, which is the one of the text on a little-endian one.
        if cfg!(target_endian = "little") {
            assert_eq!(found, Some((1000, 1678)));
        }
        assert_eq!(listening(table, ([127, 0, 0, 1], 9_351).into()), None);
        assert_eq!(listening(table, ([127, 0, 0, 2], 9_350).into()), None);
    }

    proptest! {
        #[test]
        fn no_table_makes_the_reader_panic(table in "(\\PC{0,80}\n){0,4}", line in "[0-9A-F: ]{0,80}") {
            let address = ([127, 0, 0, 1], 9_350).into();
            let _ = listening(&table, address);
            let _ = listening(&format!("head\n{line}"), address);
        }
    }
}
