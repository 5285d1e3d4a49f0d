//! A node's port that does by itself what the network would: so whatever else is on the wire is a leak.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cepa_common::sync::lock;

/// Answers a request for a page.
pub(crate) const HTTP: u16 = 80;
/// Says what it hears.
pub(crate) const ECHO: u16 = 7;
/// Says hello, then resets.
pub(crate) const RESET: u16 = 8;
/// Says hello, and notes how the other side ends.
pub(crate) const WATCH: u16 = 9;
/// Ports below this one are answered by their own number as the reply of SOCKS.
const REPLIES: u16 = 7;

/// The command by which a program's own connection to the port is passed on.
const PORT: u8 = 0xf3;

/// The address of every name.
pub(crate) const NAMED: [u8; 4] = [10, 77, 0, 9];

/// What the stub carries beside connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Udp {
    /// Datagrams come back as from where they went.
    Echoed,
    /// The same, but each association is lost behind its first datagram.
    Lost,
    Refused,
}

/// What was asked for, in order: `192.0.2.1:80`, or the name of a query.
pub(crate) type Asked = Arc<Mutex<Vec<String>>>;

trait Connection: Read + Write + Send {
    fn end(&self);
    fn reset(&self);
}

impl Connection for std::net::TcpStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }

    fn reset(&self) {
        rustix::net::sockopt::set_socket_linger(self, Some(std::time::Duration::ZERO)).unwrap();
    }
}

impl Connection for std::os::unix::net::UnixStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }

    fn reset(&self) {}
}

/// Listens at a Unix socket that everybody may use.
pub(crate) fn at_path(path: &Path) -> Asked {
    let listener = UnixListener::bind(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let asked = Asked::default();
    let kept = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let asked = asked.clone();
            std::thread::spawn(move || serve(stream, &asked, Udp::Refused));
        }
    });
    kept
}

/// Listens at a port of loopback.
pub(crate) fn at_port(udp: Udp) -> (std::net::SocketAddr, Asked) {
    at(TcpListener::bind("127.0.0.1:0").unwrap(), udp)
}

/// Listens.
pub(crate) fn at(listener: TcpListener, udp: Udp) -> (std::net::SocketAddr, Asked) {
    let asked = Asked::default();
    let kept = (listener.local_addr().unwrap(), asked.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let asked = asked.clone();
            std::thread::spawn(move || serve(stream, &asked, udp));
        }
    });
    kept
}

fn read<const N: usize>(stream: &mut impl Read) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn read_counted(stream: &mut impl Read) -> Option<Vec<u8>> {
    let [len] = read(stream)?;
    let mut bytes = vec![0; len.into()];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn reply(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// The greeting of a program, with or without a user.
fn greet(stream: &mut impl Connection, asked: &Asked) -> Option<()> {
    assert_eq!(read(stream)?, [5]);
    let offered = read_counted(stream)?;
    let method = offered.into_iter().max()?;
    stream.write_all(&[5, method]).ok()?;
    if method == 2 {
        assert_eq!(read(stream)?, [1]);
        let user = String::from_utf8(read_counted(stream)?).unwrap();
        lock(asked).push(format!("user {user}"));
        read_counted(stream)?;
        stream.write_all(&[1, 0]).ok()?;
    }
    Some(())
}

/// The command, the host and the port of a request.
fn read_request(stream: &mut impl Connection) -> Option<(u8, String, u16)> {
    let [5, command, 0, kind] = read(stream)? else {
        panic!("no request of SOCKS 5")
    };
    let host = match kind {
        1 => std::net::Ipv4Addr::from(read::<4>(stream)?).to_string(),
        4 => std::net::Ipv6Addr::from(read::<16>(stream)?).to_string(),
        _ => String::from_utf8(read_counted(stream)?).unwrap(),
    };
    Some((command, host, u16::from_be_bytes(read(stream)?)))
}

fn serve(mut stream: impl Connection, asked: &Asked, udp: Udp) -> Option<()> {
    assert_eq!(read(&mut stream)?, [5, 1, 2]);
    stream.write_all(&[5, 2]).ok()?;
    assert_eq!(read(&mut stream)?, [1]);
    assert_eq!(read_counted(&mut stream)?.len(), 32, "a user of its own");
    read_counted(&mut stream)?;
    stream.write_all(&[1, 0]).ok()?;
    let mut request = read_request(&mut stream)?;
    if request.0 == PORT {
        lock(asked).push("port".to_owned());
        stream.write_all(&reply(0)).ok()?;
        greet(&mut stream, asked)?;
        request = read_request(&mut stream)?;
    }
    let (command, host, port) = request;
    if command == 0xf2 && udp != Udp::Refused {
        assert_eq!((host.as_str(), port), ("0.0.0.0", 0));
        lock(asked).push("datagrams".to_owned());
        stream.write_all(&reply(0)).ok()?;
        loop {
            let len = read::<2>(&mut stream)?;
            let mut frame = vec![0; u16::from_be_bytes(len).into()];
            stream.read_exact(&mut frame).ok()?;
            assert_eq!(frame[..3], [0; 3]);
            stream.write_all(&[&len[..], &frame].concat()).ok()?;
            if udp == Udp::Lost {
                return Some(());
            }
        }
    }
    if command != 1 {
        return stream.write_all(&reply(7)).ok();
    }
    if host == "resolver.cepa.alt" && port == 53 {
        stream.write_all(&reply(0)).ok()?;
        return names(&mut stream, asked);
    }
    lock(asked).push(format!("{host}:{port}"));
    if port < REPLIES {
        return stream.write_all(&reply(port as u8)).ok();
    }
    stream.write_all(&reply(0)).ok()?;
    match port {
        HTTP => {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.extend(read::<1>(&mut stream)?);
            }
            stream
                .write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\npage\n",
                )
                .ok()?;
        }
        RESET => {
            stream.write_all(b"hello").ok()?;
            // It goes when the program has answered.
            read::<1>(&mut stream)?;
            stream.reset();
            return Some(());
        }
        WATCH => {
            stream.write_all(b"hello").ok()?;
            let ended = stream.read_to_end(&mut Vec::new());
            let how =
                ended.map_or_else(|error| format!("{:?}", error.kind()), |_| "end".to_owned());
            lock(asked).push(how);
        }
        ECHO => {
            let mut piece = [0; 16_384];
            while let len @ 1.. = stream.read(&mut piece).ok()? {
                stream.write_all(&piece[..len]).ok()?;
            }
        }
        _ => {}
    }
    stream.end();
    // Any other port has nothing to say. The other side ends when it has read to the end.
    stream.read_to_end(&mut Vec::new()).ok()?;
    Some(())
}

/// Answers queries for addresses of IPv4 by [`NAMED`], and all others by no record.
fn names(stream: &mut impl Connection, asked: &Asked) -> Option<()> {
    loop {
        let len = u16::from_be_bytes(read(stream)?);
        let mut query = vec![0; len.into()];
        stream.read_exact(&mut query).ok()?;
        let mut labels = Vec::new();
        let mut at = 12;
        while query[at] != 0 {
            let end = at + 1 + usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
            at = end;
        }
        let end = at + 5;
        let has_answer = query[at + 1..at + 3] == [0, 1];
        lock(asked).push(labels.join("."));
        let mut answer = query[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
        answer.extend(&query[12..end]);
        if has_answer {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(NAMED);
        }
        stream
            .write_all(&(answer.len() as u16).to_be_bytes())
            .ok()?;
        stream.write_all(&answer).ok()?;
    }
}
