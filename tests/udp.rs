//! Datagrams of programs through a whole network of the shipped program, by three hops and back: SOCKS 5 UDP ASSOCIATE,
//! and datagrams inside the connection.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::dns::{KNOWN, dns_server};
use support::*;

const ANY: [u8; 5] = [1, 0, 0, 0, 0];

#[test]
fn datagrams_of_programs_cross_the_network_and_come_back() {
    let _alone = alone();
    let resolver = dns_server().to_string();
    let net = Testnet::start(&["--resolver", &resolver]);
    every_length_comes_back_by_a_port(&net);
    every_length_comes_back_inside_the_connection(&net);
    peers_see_one_port_and_strangers_are_not_heard(&net);
    programs_find_each_other_by_stun(&net);
    a_flood_harms_no_download(&net);
    the_port_hears_one_program(&net);
    a_python_program_sends_datagrams(&net);
    assert!(net.stop().success());
}

/// Sends back each datagram; one that says `who` is answered by the sender's address.
fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let who = from.to_string();
            let answer = match &buffer[..len] {
                b"who" => who.as_bytes(),
                bytes => bytes,
            };
            let _ = socket.send_to(answer, from);
        }
    });
    address
}

/// An association by a port: the connection that it lasts with, and a socket that speaks to the port.
struct Association {
    _connection: TcpStream,
    socket: UdpSocket,
}

impl Association {
    fn new(net: &Testnet) -> Self {
        let (connection, port) = associate(net, None);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(port).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Self {
            _connection: connection,
            socket,
        }
    }

    fn send(&self, to: &[u8], port: u16, bytes: &[u8]) {
        self.socket.send(&datagram(to, port, bytes)).unwrap();
    }

    fn receive(&self) -> (SocketAddr, Vec<u8>) {
        let mut buffer = vec![0; 65_536];
        let len = self.socket.recv(&mut buffer).unwrap();
        read(&buffer[..len])
    }
}

/// Asks for a port for datagrams. Gives the connection and the port.
fn associate(net: &Testnet, from: Option<u16>) -> (TcpStream, SocketAddr) {
    let mut stream = TcpStream::connect(net.socks()).unwrap();
    stream.write_all(&[5, 1, 0]).unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    let mut request = vec![5, 3, 0];
    request.extend(if from.is_some() { LOOPBACK } else { ANY });
    request.extend(from.unwrap_or(0).to_be_bytes());
    stream.write_all(&request).unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..4], [5, 0, 0, 1]);
    let ip = Ipv4Addr::new(reply[4], reply[5], reply[6], reply[7]);
    assert_eq!(
        ip,
        Ipv4Addr::LOCALHOST,
        "never an address that nobody can send to"
    );
    let port = u16::from_be_bytes([reply[8], reply[9]]);
    (stream, SocketAddr::new(ip.into(), port))
}

fn datagram(to: &[u8], port: u16, bytes: &[u8]) -> Vec<u8> {
    [&[0, 0, 0][..], to, &port.to_be_bytes(), bytes].concat()
}

fn read(datagram: &[u8]) -> (SocketAddr, Vec<u8>) {
    assert_eq!(datagram[..4], [0, 0, 0, 1]);
    let ip: [u8; 4] = datagram[4..8].try_into().unwrap();
    let port = u16::from_be_bytes([datagram[8], datagram[9]]);
    (
        SocketAddr::new(IpAddr::from(ip), port),
        datagram[10..].to_vec(),
    )
}

fn every_length_comes_back_by_a_port(net: &Testnet) {
    let (echo, app) = (echo(), Association::new(net));
    // With its header the longest has 65,507 bytes here.
    for (place, length) in [1, 0, 1_200, 1_472, 9_000, 65_497].into_iter().enumerate() {
        let bytes = content(place as u64, length);
        app.send(&LOOPBACK, echo.port(), &bytes);
        assert!(app.receive() == (echo, bytes), "{length}");
    }
    // Names are looked up at the exit, whose server alone knows this one.
    app.send(&name(KNOWN), echo.port(), b"by name");
    assert_eq!(app.receive(), (echo, b"by name".to_vec()));
}

fn every_length_comes_back_inside_the_connection(net: &Testnet) {
    let echo = echo();
    let (mut stream, code) = socks5_command(net.socks(), 0xf2, &ANY, 0, None);
    assert_eq!(code, 0);
    for (place, length) in [1, 0, 1_200, 1_472, 9_000, 65_507].into_iter().enumerate() {
        let bytes = content(place as u64, length);
        let datagram = datagram(&LOOPBACK, echo.port(), &bytes);
        let framed = [&(datagram.len() as u16).to_be_bytes()[..], &datagram].concat();
        stream.write_all(&framed).unwrap();
        let mut len = [0; 2];
        stream.read_exact(&mut len).unwrap();
        let mut back = vec![0; usize::from(u16::from_be_bytes(len))];
        stream.read_exact(&mut back).unwrap();
        assert!(read(&back) == (echo, bytes), "{length}");
    }
    // The end of sending is the end of the association.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

fn peers_see_one_port_and_strangers_are_not_heard(net: &Testnet) {
    let (one, other, app) = (echo(), echo(), Association::new(net));
    let who = |peer: SocketAddr| {
        app.send(&LOOPBACK, peer.port(), b"who");
        let (from, bytes) = app.receive();
        assert_eq!(from, peer);
        String::from_utf8(bytes)
            .unwrap()
            .parse::<SocketAddr>()
            .unwrap()
    };
    let seen = who(one);
    assert_eq!(who(other), seen);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(b"listen to me", seen).unwrap();
    // What the stranger said would come before this.
    assert_eq!(who(one), seen);
}

/// A server of STUN (RFC 8489): answers a binding request with XOR-MAPPED-ADDRESS, and nothing else.
fn stun_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1_500];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let [0, 1, _, _, 0x21, 0x12, 0xa4, 0x42, transaction @ ..] = &buffer[..len] else {
                continue;
            };
            let SocketAddr::V4(from) = from else { continue };
            let masked = u32::from(*from.ip()) ^ STUN_COOKIE;
            let answer = [
                &[1, 1, 0, 12][..],
                &STUN_COOKIE.to_be_bytes(),
                &transaction[..12],
                &[0, 0x20, 0, 8, 0, 1],
                &(from.port() ^ 0x2112).to_be_bytes(),
                &masked.to_be_bytes(),
            ];
            socket.send_to(&answer.concat(), from).unwrap();
        }
    });
    address
}

const STUN_COOKIE: u32 = 0x2112_a442;

/// Where a server of STUN sees the association.
fn mapped(app: &Association, server: SocketAddr) -> SocketAddr {
    let request = [
        &[0, 1, 0, 0][..],
        &STUN_COOKIE.to_be_bytes(),
        b"transaction!",
    ]
    .concat();
    app.send(&LOOPBACK, server.port(), &request);
    let (from, answer) = app.receive();
    assert_eq!(from, server);
    assert_eq!((&answer[..2], &answer[8..20]), (&[1, 1][..], &request[8..]));
    let [0, 0x20, 0, 8, 0, 1, p0, p1, a, b, c, d] = answer[20..] else {
        panic!("no XOR-MAPPED-ADDRESS: {answer:?}");
    };
    let ip = Ipv4Addr::from(u32::from_be_bytes([a, b, c, d]) ^ STUN_COOKIE);
    let port = u16::from_be_bytes([p0, p1]) ^ 0x2112;
    SocketAddr::new(ip.into(), port)
}

/// Two servers see one port, and two programs that have told each other theirs get through to each other (rule 5.37 of
/// docs/protocol.md): each hears the other once it has written to it, and not before.
fn programs_find_each_other_by_stun(net: &Testnet) {
    let servers = [stun_server(), stun_server()];
    let apps = [Association::new(net), Association::new(net)];
    let ports = [0, 1].map(|n| {
        let seen = servers.map(|server| mapped(&apps[n], server));
        assert_eq!(seen[0], seen[1]);
        seen[0]
    });
    assert_ne!(ports[0], ports[1]);
    let to = |n: usize, bytes: &[u8]| {
        let port = ports[1 - n];
        assert_eq!(port.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
        apps[n].send(&LOOPBACK, port.port(), bytes);
    };
    to(0, b"too early");
    // The server's answer says that what was sent before has left the exit.
    mapped(&apps[0], servers[0]);
    to(1, b"hello");
    assert_eq!(apps[0].receive(), (ports[1], b"hello".to_vec()));
    to(0, b"welcome");
    assert_eq!(apps[1].receive(), (ports[0], b"welcome".to_vec()));
}

/// Datagrams that are sent without end lose some of themselves, the others keep their order, and a download of 100 MB on
/// the same circuit comes whole.
fn a_flood_harms_no_download(net: &Testnet) {
    const BYTES: usize = 100_000_000;
    let (echo, server) = (echo(), http_server());
    let (mut flood, code) = socks5_command(net.socks(), 0xf2, &ANY, 0, None);
    assert_eq!(code, 0);
    let mut come = flood.try_clone().unwrap();
    let heard = std::thread::spawn(move || {
        let mut numbers = Vec::new();
        let mut len = [0; 2];
        while come.read_exact(&mut len).is_ok() {
            let mut back = vec![0; usize::from(u16::from_be_bytes(len))];
            come.read_exact(&mut back).unwrap();
            let (_, bytes) = read(&back);
            assert_eq!(bytes.len(), 1_200);
            numbers.push(u32::from_be_bytes(bytes[..4].try_into().unwrap()));
        }
        numbers
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, to) = (is_over.clone(), echo.port());
    let sending = std::thread::spawn(move || {
        let mut sent = 0_u32;
        while !over.load(Ordering::Relaxed) {
            let bytes = [&sent.to_be_bytes()[..], &[0; 1_196]].concat();
            let datagram = datagram(&LOOPBACK, to, &bytes);
            let framed = [&(datagram.len() as u16).to_be_bytes()[..], &datagram].concat();
            flood.write_all(&framed).unwrap();
            sent += 1;
        }
        flood.shutdown(std::net::Shutdown::Both).unwrap();
        sent
    });
    let (mut stream, code) = socks5(net.socks(), &LOOPBACK, server.port(), None);
    assert_eq!(code, 0);
    let request = format!("GET /11/{BYTES} HTTP/1.1\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    is_over.store(true, Ordering::Relaxed);
    let (sent, numbers) = (sending.join().unwrap(), heard.join().unwrap());
    let body = got.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(
        got[body..] == content(11, BYTES),
        "{} bytes",
        got.len() - body
    );
    assert!(numbers.is_sorted(), "what is not lost keeps its order");
    let (came, last) = (numbers.len(), numbers.last().copied().unwrap_or(0));
    assert!(came > 100 && came < sent as usize, "{came} of {sent}");
    // Those that were lost are older than others that came.
    assert!(last as usize > came + 100, "{came}, the last was {last}");
}

/// Only the first program that speaks to the port is heard there, or the port that the request has named; and nobody
/// after the connection.
fn the_port_hears_one_program(net: &Testnet) {
    let echo = echo();
    let (connection, port) = associate(net, None);
    let bind = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        socket
    };
    let (first, second) = (bind(), bind());
    // What is no datagram of SOCKS is nobody's: STUN, of which a web page can have as many sent as it likes.
    second
        .send_to(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], port)
        .unwrap();
    first
        .send_to(&datagram(&LOOPBACK, echo.port(), b"one"), port)
        .unwrap();
    let mut buffer = [0; 100];
    let (len, from) = first.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (from, read(&buffer[..len])),
        (port, (echo, b"one".to_vec()))
    );
    second
        .send_to(&datagram(&LOOPBACK, echo.port(), b"two"), port)
        .unwrap();
    first
        .send_to(&datagram(&LOOPBACK, echo.port(), b"three"), port)
        .unwrap();
    let len = first.recv(&mut buffer).unwrap();
    assert_eq!(read(&buffer[..len]).1, b"three");
    let named = bind();
    let (_other, there) = associate(net, Some(named.local_addr().unwrap().port()));
    first
        .send_to(&datagram(&LOOPBACK, echo.port(), b"no"), there)
        .unwrap();
    named
        .send_to(&datagram(&LOOPBACK, echo.port(), b"yes"), there)
        .unwrap();
    let len = named.recv(&mut buffer).unwrap();
    assert_eq!(read(&buffer[..len]).1, b"yes");
    // The kernel says that nobody listens once the connection has ended.
    drop(connection);
    first.connect(port).unwrap();
    first
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    until_ok("the port is closed", Duration::from_secs(30), || {
        let _ = first.send(b"x");
        let said = first.recv(&mut buffer);
        said.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

/// Checks with PySocks, where it is installed.
fn a_python_program_sends_datagrams(net: &Testnet) {
    let has_it = Command::new("python3")
        .args(["-c", "import socks"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_it {
        return;
    }
    let echo = echo();
    let program = format!(
        "import socket, socks\n\
         s = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.set_proxy(socks.SOCKS5, '127.0.0.1', {}, rdns=True)\n\
         s.settimeout(60)\n\
         s.sendto(b'ping', ('127.0.0.1', {}))\n\
         data, peer = s.recvfrom(100)\n\
         assert data == b'ping' and peer[1] == {}, (data, peer)\n",
        net.socks().port(),
        echo.port(),
        echo.port(),
    );
    let done = Command::new("python3")
        .args(["-c", &program])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
}
