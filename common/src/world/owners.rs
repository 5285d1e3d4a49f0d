//! Which user has a socket of this machine? Linux says it in `/proc/net`; other systems do not tell.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};

/// A protocol whose sockets the system lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The state of a TCP socket that listens.
pub const LISTENS: u8 = 0x0a;
/// The state of a TCP connection that both sides have closed, which no program has any more.
const TIME_WAIT: u8 = 0x06;

/// A socket, as a line of the system's tables has it. An address of IPv4 is one, also where a socket of IPv6 has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its own address. All zeros stand for all addresses of the machine.
    pub local: SocketAddr,
    /// Whom it is connected to; all zeros for nobody.
    pub remote: SocketAddr,
    /// What it does, in the kernel's numbers: [`LISTENS`].
    pub state: u8,
    /// The user who has made it.
    pub uid: u32,
    /// Number of its inode.
    pub inode: u64,
}

impl Listed {
    /// Reads a line of a table: `number: local remote state queues timer retransmits uid timeout inode`.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        Some(Self {
            local: address(words.next()?)?,
            remote: address(words.next()?)?,
            state: u8::from_str_radix(words.next()?, 16).ok()?,
            uid: words.nth(3)?.parse().ok()?,
            inode: words.nth(1)?.parse().ok()?,
        })
    }

    /// Can it send from `address`, or be reached there?
    pub fn is_at(&self, address: SocketAddr) -> bool {
        let (own, ip) = (self.local.ip(), address.ip().to_canonical());
        // A socket of IPv6 may hear and speak for IPv4 too, and never the other way round.
        let is_any = own.is_unspecified() && (own.is_ipv6() || ip.is_ipv4());
        self.local.port() == address.port() && (is_any || own == ip)
    }
}

/// An address as the system's tables write it: words of the machine's order in hexadecimal digits, a colon, the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |n: usize| {
        let word = u32::from_str_radix(ip.get(8 * n..8 * n + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            IpAddr::from(<[u8; 16]>::try_from(words.as_flattened()).ok()?)
        }
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// The sockets of a protocol, those of IPv4 first; of TCP those that listen stand before the others of each version.
/// `None` where the system does not tell.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn sockets(of: Transport) -> Option<impl Iterator<Item = Listed>> {
    let tables = match of {
        Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let [v4, v6] = tables.map(|path| File::open(path).ok());
    if v4.is_none() && v6.is_none() {
        return None;
    }
    let tables = [v4, v6].into_iter().flatten();
    let lines = tables.flat_map(|table| BufReader::new(table).lines().map_while(Result::ok));
    // What is no line of a socket is the head of a table.
    Some(lines.filter_map(|line| Listed::read(&line)))
}

/// The user who has the other end of a connection of this machine: `peer` is its address there, `local` the address
/// here. `None` where the system does not tell, or no program has that end any more. To be called where a thread may
/// block: the table of a busy machine is long.
pub fn of_peer(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    peer_in(sockets(Transport::Tcp)?, peer, local)
}

fn peer_in(
    mut all: impl Iterator<Item = Listed>,
    peer: SocketAddr,
    local: SocketAddr,
) -> Option<u32> {
    let plain = |of: SocketAddr| SocketAddr::new(of.ip().to_canonical(), of.port());
    let (peer, local) = (plain(peer), plain(local));
    let end = |it: &Listed| (it.local, it.remote) == (peer, local) && it.state != TIME_WAIT;
    all.find(end).map(|it| it.uid)
}

/// Those of `ports` from which `uid` alone can send datagrams as `ip`: there is such a socket, and none of another user.
/// Where several sockets have one port, nobody can tell which has sent. To be called where a thread may block.
pub fn ports_of(uid: u32, ip: IpAddr, ports: &[u16]) -> Vec<u16> {
    match sockets(Transport::Udp) {
        Some(all) => alone_in(all, uid, ip, ports),
        None => Vec::new(),
    }
}

fn alone_in(all: impl Iterator<Item = Listed>, uid: u32, ip: IpAddr, ports: &[u16]) -> Vec<u16> {
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for it in all {
        let port = it.local.port();
        if ports.contains(&port) && it.is_at(SocketAddr::new(ip, port)) {
            let these = if it.uid == uid { &mut own } else { &mut others };
            these.push(port);
        }
    }
    own.retain(|port| !others.contains(port));
    own
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_the_tables_are_read() {
        let line = "  0: 0100007F:2486 0200007F:0050 0A 00000000:00000001 00:00000000 00000000  1000        0 8571 1 0";
        let line6 = " 12: 0000000000000000FFFF00000100007F:2487 00000000000000000000000001000000:0000 07 0:0 00:0 0 7 0 9 1";
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(Listed::read(head), None);
        // The words are in this machine's order, which is the one of the text on a little-endian one.
        if cfg!(target_endian = "little") {
            let listed = Listed::read(line).unwrap();
            let expected = Listed {
                local: "127.0.0.1:9350".parse().unwrap(),
                remote: "127.0.0.2:80".parse().unwrap(),
                state: LISTENS,
                uid: 1000,
                inode: 8571,
            };
            assert_eq!(listed, expected);
            let listed = Listed::read(line6).unwrap();
            assert_eq!(listed.local, "127.0.0.1:9351".parse().unwrap());
            assert_eq!(listed.remote, "[::1]:0".parse().unwrap());
            assert_eq!((listed.state, listed.uid, listed.inode), (7, 7, 9));
        }
    }

    /// A socket of a user that is connected to nobody.
    fn socket(local: &str, uid: u32) -> Listed {
        Listed {
            local: local.parse().unwrap(),
            remote: "0.0.0.0:0".parse().unwrap(),
            state: 7,
            uid,
            inode: 0,
        }
    }

    #[test]
    fn a_port_that_two_users_have_is_nobodys() {
        let all = [
            socket("127.0.0.1:5", 1),
            socket("0.0.0.0:5", 2),
            socket("127.0.0.1:6", 1),
            socket("127.0.0.2:6", 2),
            socket("[::]:7", 1),
            socket("[::]:8", 2),
            socket("127.0.0.1:9", 1),
        ];
        let own = |uid, ports| alone_in(all.into_iter(), uid, [127, 0, 0, 1].into(), ports);
        assert_eq!(own(1, &[5, 6, 7, 8]), [6, 7]);
        assert_eq!(own(2, &[5, 6, 7, 8]), [8]);
    }

    #[test]
    fn an_end_that_nobody_has_any_more_is_nobodys() {
        let end = Listed {
            remote: "127.0.0.1:80".parse().unwrap(),
            ..socket("127.0.0.1:5", 3)
        };
        let (peer, local) = (end.local, end.remote);
        assert_eq!(peer_in([end].into_iter(), peer, local), Some(3));
        let over = Listed {
            state: TIME_WAIT,
            ..end
        };
        assert_eq!(peer_in([over].into_iter(), peer, local), None);
        assert_eq!(peer_in([end].into_iter(), local, peer), None);
    }

    #[test]
    fn a_socket_is_at_its_address_or_at_all() {
        let at = |local, address: &str| socket(local, 0).is_at(address.parse().unwrap());
        assert!(at("127.0.0.1:5", "127.0.0.1:5") && at("127.0.0.1:5", "[::ffff:127.0.0.1]:5"));
        assert!(at("0.0.0.0:5", "127.0.0.1:5") && at("[::]:5", "127.0.0.1:5"));
        assert!(!at("127.0.0.1:5", "127.0.0.1:6") && !at("127.0.0.2:5", "127.0.0.1:5"));
        assert!(!at("0.0.0.0:6", "127.0.0.1:5") && !at("0.0.0.0:5", "[::1]:5"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn sockets_of_this_process_are_its_users() {
        let uid = rustix::process::getuid().as_raw();
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(any) else {
                continue;
            };
            let local = listener.local_addr().unwrap();
            let stream = TcpStream::connect(local).unwrap();
            let peer = stream.local_addr().unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(of_peer(peer, local), Some(uid));
            assert_eq!(of_peer(peer, peer), None, "whom it is connected to counts");
            drop((stream, accepted));
            let socket = UdpSocket::bind(any).unwrap();
            let at = socket.local_addr().unwrap();
            assert_eq!(ports_of(uid, at.ip(), &[1, at.port()]), [at.port()]);
            assert_eq!(ports_of(uid + 1, at.ip(), &[at.port()]), [0; 0]);
            drop(socket);
            assert_eq!(ports_of(uid, at.ip(), &[at.port()]), [0; 0]);
        }
        // A port of all addresses is one of each.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(ports_of(uid, [127, 0, 0, 1].into(), &[port]), [port]);
    }

    proptest! {
        #[test]
        fn no_line_makes_the_reader_panic(any in "\\PC{0,120}", like in "[0-9A-F: ]{0,120}") {
            let _ = (Listed::read(&any), Listed::read(&like));
        }
    }
}
