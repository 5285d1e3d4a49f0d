//! The client's ports: does one answer, is it Cepa that answers, and does it carry a stream out.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use cepa_common::cell::message::is_name;
use cepa_common::words::Count;

use rand::Rng;

use super::finding::Finding;
use super::holder;
use crate::config::{ListenAddress, Listener, ListenerKind};
use crate::control::{ClientStatus, ListenerStatus};

/// A port of this machine answers within this time.
const AT_ONCE: Duration = Duration::from_secs(5);
/// A stream is opened, or refused, within this time: a client gives up after 60 s.
const STREAM: Duration = Duration::from_secs(70);
/// The most of a page that is read (bytes).
const MOST_PAGE_BYTES: u64 = 8 << 10;
/// Asks for the page of a port.
const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// What the page of a Cepa port contains.
const PAGE_MARK: &str = "This is a Cepa proxy";
/// The name that means an exit's resolver (docs/front.md).
const RESOLVER: (&str, u16) = ("resolver.cepa.alt", 53);

/// SOCKS 5 (RFC 1928): CONNECT, UDP ASSOCIATE, and the two ways to come in.
const CONNECT: u8 = 1;
const ASSOCIATE: u8 = 3;
const NOBODY: u8 = 0;
const PASSWORD: u8 = 2;

/// Where programs reach the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// Its address.
    pub(super) address: ListenAddress,
    /// Does it take SOCKS and HTTP?
    pub(super) is_proxy: bool,
    /// Does it want a user and a password?
    pub(super) asks_who: bool,
}

impl Port {
    /// The port that the client names; `None` for an address that cannot be read.
    pub(super) fn of(listener: &ListenerStatus) -> Option<Self> {
        Some(Self {
            address: listener.address.parse().ok()?,
            is_proxy: listener.kind == ListenerStatus::PROXY,
            asks_who: listener.asks_who,
        })
    }

    /// Does the client answer questions for names here, on port 53 of this address?
    pub(super) fn answers_dns_at(&self, server: IpAddr) -> bool {
        let here = ListenAddress::Tcp(SocketAddr::new(server, 53));
        !self.is_proxy && self.address == here
    }

    fn check(&self) -> String {
        format!("port {}", self.address)
    }
}

impl From<&Listener> for Port {
    fn from(listener: &Listener) -> Self {
        Self {
            address: listener.address.clone(),
            is_proxy: listener.kind == ListenerKind::Proxy,
            asks_who: listener.credentials.is_some(),
        }
    }
}

/// A connection to a port.
enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    fn open(address: &ListenAddress) -> io::Result<Self> {
        let connection = match address {
            ListenAddress::Tcp(address) => {
                Self::Tcp(TcpStream::connect_timeout(&here(*address), AT_ONCE)?)
            }
            ListenAddress::Unix(path) => Self::Unix(UnixStream::connect(path)?),
        };
        connection.wait_for(AT_ONCE)?;
        Ok(connection)
    }

    /// Reads and writes take this long at most.
    fn wait_for(&self, time: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(time))?;
                stream.set_write_timeout(Some(time))
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(time))?;
                stream.set_write_timeout(Some(time))
            }
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a port that listens at `address` is reached from this machine.
fn here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Does the port of a client that runs, and is ready, do what it is for? Of one that does not run: who is there instead?
pub(super) fn check(port: &Port, runs: bool, is_ready: bool) -> Finding {
    let name = port.check();
    if !port.is_proxy && runs {
        return Finding::ok(
            &name,
            "the client listens there, and not for SOCKS or HTTP; it is not tried",
        );
    }
    if !runs {
        return nobody(port);
    }
    match greet(&port.address, port.asks_who) {
        Ok(Greeting::Welcome(_)) if !is_ready => Finding::ok(
            &name,
            "the port answers; what it carries is not tried before the client is ready",
        ),
        Ok(Greeting::Welcome(connection)) => {
            let said = ask(connection, CONNECT, RESOLVER.0, RESOLVER.1, STREAM);
            match said {
                Ok(0) => Finding::ok(&name, "a stream through the port reached an exit"),
                Ok(code) => Finding::fail(
                    &name,
                    format!("the port answers, and opened no stream: {}", words(code)),
                    advice(code),
                ),
                Err(error) => Finding::fail(
                    &name,
                    format!("the port answers, and said nothing of a stream: {error}"),
                    "`cepa status` and the client's log say more",
                ),
            }
        }
        Ok(Greeting::WhoAreYou) if port.asks_who => Finding::ok(
            &name,
            "the port answers and wants a user and a password, as its owner says; more is not tried",
        ),
        Ok(Greeting::WhoAreYou) => stranger(port),
        Err(error) => match is_cepa(&port.address) {
            true => Finding::fail(
                &name,
                format!("the port answers, and takes no SOCKS 5: {error}"),
                "start the client anew; if that is no help, report this: it is a bug",
            ),
            false if holder(port).is_some() => stranger(port),
            false => Finding::fail(
                &name,
                format!(
                    "the client says that it listens there, and no connection can be made: {error}"
                ),
                "start the client anew",
            ),
        },
    }
}

/// No client runs that should listen there.
fn nobody(port: &Port) -> Finding {
    let name = port.check();
    let is_there = Connection::open(&port.address).is_ok();
    if !is_there {
        let hint = "start a client; programs that are told of this port fail until then";
        return Finding::fail(&name, "nobody listens there", hint);
    }
    if !port.is_proxy {
        let who = holder(port).map_or_else(|| "a program".to_owned(), |holder| holder.words());
        return Finding::warn(
            &name,
            format!(
                "{who} listens there, and no client answers that could say whether it is its port"
            ),
            "start the client, and check again",
        );
    }
    if is_cepa(&port.address) {
        let who = holder(port).map_or_else(|| "a program".to_owned(), |holder| holder.words());
        return Finding::fail(
            &name,
            format!("another Cepa client answers there: {who}"),
            "name its directory with --state DIR if it is yours; what other users run is theirs, and your client needs \
             a port of its own (--socks 127.0.0.1:9351)",
        );
    }
    stranger(port)
}

/// What answers there is not Cepa.
fn stranger(port: &Port) -> Finding {
    let who = holder(port).map_or_else(|| "a program".to_owned(), |holder| holder.words());
    if is_silent(&port.address) {
        return Finding::fail(
            &port.check(),
            format!("{who} listens there and gives no answer"),
            "if that is your client, end it and start it anew; else stop it, or give the client another port (--socks \
             127.0.0.1:9351)",
        );
    }
    Finding::fail(
        &port.check(),
        format!("what answers there is not Cepa but {who}"),
        "stop that program, or give the client another port (--socks 127.0.0.1:9351) and tell your programs of it",
    )
}

fn holder(port: &Port) -> Option<holder::Holder> {
    match port.address {
        ListenAddress::Tcp(address) => holder::of(here(address)),
        ListenAddress::Unix(_) => None,
    }
}

/// Can a destination that the user named be reached through this port?
pub(super) fn destination(to: &str, port: Option<&Port>) -> Finding {
    let name = format!("to {to}");
    let split = to
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let Some((host, number)) = split else {
        return Finding::fail(
            &name,
            "this is not a host and a port",
            "write it as example.org:443",
        );
    };
    let Some(port) = port else {
        let hint = "give the client a port that asks for no user, such as a Unix socket";
        return Finding::warn(
            &name,
            "it is not tried, as every port of the client asks for a user",
            hint,
        );
    };
    let said = greet(&port.address, false).and_then(|greeting| match greeting {
        Greeting::Welcome(connection) => ask(connection, CONNECT, host, number, STREAM),
        Greeting::WhoAreYou => Err(io::ErrorKind::PermissionDenied.into()),
    });
    match said {
        Ok(0) => Finding::ok(&name, "it is reached"),
        Ok(code) => Finding::fail(
            &name,
            format!("it is not reached: {}", words(code)),
            advice(code),
        ),
        Err(error) => Finding::fail(
            &name,
            format!("it is not reached: {error}"),
            "`cepa status` says more",
        ),
    }
}

/// Do the ports take datagrams, and do exits carry them?
pub(super) fn datagrams(ports: &[Port], status: &ClientStatus) -> Finding {
    const BESIDE: &str = "what programs send by UDP (QUIC, calls, games) goes beside Cepa";
    const OFF: &str = "run such programs by `cepa exec`, or switch UDP off in them (Firefox: network.http.http3.enable, \
                       media.peerconnection.enabled)";
    let takes = |port: &&Port| {
        let tcp = matches!(port.address, ListenAddress::Tcp(_));
        port.is_proxy && tcp && !port.asks_who && takes_datagrams(&port.address).unwrap_or(false)
    };
    let taking: Vec<String> = ports
        .iter()
        .filter(takes)
        .map(|port| port.address.to_string())
        .collect();
    if taking.is_empty() {
        return Finding::warn(
            "datagrams",
            format!("no port takes datagrams: {BESIDE}"),
            OFF,
        );
    }
    let taking = taking.join(", ");
    match (status.datagram_exits, status.exits) {
        (_, 0) => Finding::ok(
            "datagrams",
            format!("programs may hand datagrams to {taking}"),
        ),
        (0, _) => Finding::warn(
            "datagrams",
            format!("{taking} takes datagrams, and no exit of the network carries any"),
            OFF,
        ),
        (some, all) => Finding::ok(
            "datagrams",
            format!(
                "programs may hand datagrams to {taking}; {some} of {} carry them",
                Count(all, "exit")
            ),
        ),
    }
}

/// Who a port lets in.
enum Greeting {
    /// This connection may ask.
    Welcome(Connection),
    /// Users with a password alone.
    WhoAreYou,
}

/// Comes in by SOCKS 5: as a user of its own, whose streams share no circuit with others, or where the port has users,
/// as nobody.
fn greet(address: &ListenAddress, asks_who: bool) -> io::Result<Greeting> {
    let mut connection = Connection::open(address)?;
    let method = if asks_who { NOBODY } else { PASSWORD };
    connection.write_all(&[5, 1, method])?;
    let mut chosen = [0; 2];
    connection.read_exact(&mut chosen)?;
    match chosen {
        [5, NOBODY] if asks_who => return Ok(Greeting::Welcome(connection)),
        [5, PASSWORD] if !asks_who => {}
        [5, 0xff] => return Ok(Greeting::WhoAreYou),
        _ => return Err(io::Error::other("what came back is not SOCKS")),
    }
    let user = format!(
        "cepa-check-{:016x}",
        cepa_common::world::random::rng().next_u64()
    );
    let mut login = vec![1, u8::try_from(user.len()).unwrap_or(u8::MAX)];
    login.extend(user.as_bytes());
    login.extend([1, b'x']);
    connection.write_all(&login)?;
    connection.read_exact(&mut chosen)?;
    match chosen {
        [1, 0] => Ok(Greeting::Welcome(connection)),
        _ => Ok(Greeting::WhoAreYou),
    }
}

/// Asks for a stream to `host`, or for an association; gives the reply's code.
fn ask(
    mut connection: Connection,
    command: u8,
    host: &str,
    port: u16,
    limit: Duration,
) -> io::Result<u8> {
    let mut request = vec![5, command, 0];
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse() {
        Ok(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend(ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend(ip.octets());
        }
        Err(_) if is_name(host) => {
            request.extend([3, u8::try_from(host.len()).unwrap_or(u8::MAX)]);
            request.extend(host.as_bytes());
        }
        Err(_) => return Err(io::Error::other("the host is no name and no address")),
    }
    request.extend(port.to_be_bytes());
    connection.write_all(&request)?;
    connection.wait_for(limit)?;
    let mut reply = [0; 2];
    connection.read_exact(&mut reply)?;
    match reply {
        [5, code] => Ok(code),
        _ => Err(io::Error::other("what came back is not SOCKS")),
    }
}

/// Does the port answer UDP ASSOCIATE? The association ends with the connection; no datagram is sent.
fn takes_datagrams(address: &ListenAddress) -> io::Result<bool> {
    match greet(address, false)? {
        Greeting::Welcome(connection) => {
            Ok(ask(connection, ASSOCIATE, "0.0.0.0", 0, AT_ONCE)? == 0)
        }
        Greeting::WhoAreYou => Ok(false),
    }
}

/// Is the page there that a Cepa port shows to whoever takes it for a web server?
fn is_cepa(address: &ListenAddress) -> bool {
    let page = || -> io::Result<String> {
        let mut connection = Connection::open(address)?;
        connection.write_all(PAGE)?;
        let mut page = Vec::new();
        // What has come before an error may be enough.
        let _ = connection.take(MOST_PAGE_BYTES).read_to_end(&mut page);
        Ok(String::from_utf8_lossy(&page).into_owned())
    };
    page().is_ok_and(|page| page.contains(PAGE_MARK))
}

/// Does whoever listens there let a question wait without a word?
fn is_silent(address: &ListenAddress) -> bool {
    let said = Connection::open(address).and_then(|mut connection| {
        // What speaks first has spoken, and what waits for a question has one that ends.
        connection.write_all(PAGE)?;
        connection.read(&mut [0])
    });
    said.is_err_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        )
    })
}

/// What a SOCKS reply means (docs/front.md).
fn words(code: u8) -> &'static str {
    match code {
        2 => "no exit lets out to there, or it is an address that is not passed on",
        3 => "the client has no circuit, or no consensus that may be used",
        4 => "the exit does not find it",
        5 => "it refused the connection",
        6 => "there was no answer in time",
        7 => "the port does not take this command",
        _ => "it failed, or the port has as many connections as it may have",
    }
}

fn advice(code: u8) -> &'static str {
    match code {
        2 => {
            "`cepa consensus` shows what exits let out; docs/front.md says which addresses are refused"
        }
        3 => "`cepa status` says what the client waits for",
        4 | 5 => "is the host right, and does it run?",
        6 => "try again: another exit will be tried",
        _ => "`cepa status` and the client's log say more",
    }
}

/// Is there a file at the path of a Unix socket, and what is its mode?
pub(super) fn unix_path(port: &Port) -> Option<&Path> {
    match &port.address {
        ListenAddress::Unix(path) => Some(path),
        ListenAddress::Tcp(_) => None,
    }
}
