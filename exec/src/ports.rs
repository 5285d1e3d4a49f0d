//! The node's ports, inside the namespace too: a program that is told to use the node's port finds it there.
//!
//! The inner process listens ([`make`]), and the outer one serves what it listens at ([`serve`]): each connection goes on,
//! byte for byte, over one to the node's port of the same address. The node is told for whom (`Request::Port`), so that
//! the streams of this namespace are kept apart from all others, and from each other as the programs ask for.
//!
//! One thing the node cannot do for them: its ports for datagrams (SOCKS 5 UDP ASSOCIATE) are not in the namespace. So
//! such a request is asked as one for datagrams inside the connection, and the port is one of the sockets that the inner
//! process has made.

use core::time::Duration;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use cepa_common::limits::ACCEPT_BACKOFF;
use cepa_common::sync::lock;
use cepa_common::world::sockets::SocketListener;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::datagrams::next_frame;
use crate::shared::Shared;
use crate::socks::{self, Failed, NO_ADDRESS, Request, Stream};
use crate::via::Via;

/// Connections of all ports that are served at once; further ones wait in the kernel's queues.
const MOST_CONNECTIONS: usize = 256;
/// Connections of one port that carry datagrams at once: the inner process cannot make a socket later.
pub(crate) const MOST_ASSOCIATIONS: usize = 32;
/// Bytes that are moved at once.
const PIECE: usize = 16 << 10;
/// A program of SOCKS 5 has said what it asks for within this time; the node ends others after 30 s itself.
const PATIENCE: Duration = Duration::from_secs(35);
/// The most bytes of a datagram with its head: a length of two bytes stands before it.
const LONGEST: usize = u16::MAX as usize;

/// A port of the node that the namespace has too.
#[derive(Debug)]
pub(crate) struct Port {
    /// Where the node lets programs in.
    pub(crate) via: Via,
    /// Listens in the namespace.
    pub(crate) listener: OwnedFd,
    /// Sockets of the namespace for datagrams, which have no port yet.
    pub(crate) datagrams: Vec<OwnedFd>,
}

/// Listens at `address` in the namespace that this process is in. Gives the sockets for datagrams too. `None` where the
/// namespace has no IPv6.
pub(crate) fn make(address: SocketAddr) -> io::Result<Option<(OwnedFd, Vec<OwnedFd>)>> {
    let listener = match TcpListener::bind(address) {
        Ok(listener) => listener,
        Err(_) if address.is_ipv6() => return Ok(None),
        Err(error) => return Err(error),
    };
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let datagrams: Result<Vec<_>, _> = (0..MOST_ASSOCIATIONS)
        .map(|_| socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None))
        .collect();
    Ok(Some((listener.into(), datagrams?)))
}

/// Serves these ports for as long as the command runs.
pub(crate) async fn serve(shared: Arc<Shared>, ports: Vec<Port>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut tasks = JoinSet::new();
    for port in ports {
        let via = port.via.clone();
        match Open::new(port) {
            Ok(open) => {
                tasks.spawn(listen(shared.clone(), places.clone(), Arc::new(open)));
            }
            Err(error) => tracing::warn!(%via, %error, "the command does not find this port"),
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// A port that is listened at.
struct Open {
    via: Via,
    listener: Listener,
    datagrams: Mutex<Vec<OwnedFd>>,
}

enum Listener {
    Tcp(SocketListener),
    Unix(UnixListener),
}

impl Open {
    fn new(port: Port) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&port.listener, true)?;
        let listener = match port.via {
            Via::Tcp(_) => {
                let listener = tokio::net::TcpListener::from_std(port.listener.into())?;
                Listener::Tcp(listener.into())
            }
            Via::Unix(_) => Listener::Unix(UnixListener::from_std(port.listener.into())?),
        };
        Ok(Self {
            via: port.via,
            listener,
            datagrams: Mutex::new(port.datagrams),
        })
    }

    async fn accept(&self) -> io::Result<Stream> {
        match &self.listener {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.tune()?;
                Ok(Stream::Tcp(stream))
            }
            Listener::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

async fn listen(shared: Arc<Shared>, places: Arc<Semaphore>, open: Arc<Open>) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match open.accept().await {
            Ok(mut program) => {
                let (shared, open) = (shared.clone(), open.clone());
                tasks.spawn(async move {
                    if let Err(failed) = pass_on(&shared, &open, &mut program).await {
                        tracing::debug!(%failed, "a connection to a port of the client broke");
                        // What broke off must not look as if it were complete.
                        program.reset_when_dropped();
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "no connection to a port of the client");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// What a program's first words ask for.
enum Asked {
    /// What the node does by itself, once it has heard the rest.
    Rest,
    /// A port for datagrams; the program may have named where it will send from.
    Datagrams(Option<SocketAddr>),
}

async fn pass_on(shared: &Shared, open: &Open, program: &mut Stream) -> Result<(), Failed> {
    let mut node = shared.open_at(&open.via, Request::Port).await?;
    let led = tokio::time::timeout(PATIENCE, lead(program, &mut node));
    match led.await.map_err(|_| Failed::Timeout)?? {
        Asked::Rest => {
            let copied = copy_bidirectional_with_sizes(program, &mut node, PIECE, PIECE).await;
            if copied.is_err() {
                node.reset_when_dropped();
            }
            copied?;
        }
        Asked::Datagrams(from) => associate(open, program, &mut node, from).await?,
    }
    Ok(())
}

/// Passes a program's first words on, and the node's answers to them, until it is clear what the program asks for. What
/// stands behind that is left where it is. Other words than those of SOCKS 5 are the node's alone to judge.
async fn lead(program: &mut Stream, node: &mut Stream) -> io::Result<Asked> {
    let mut words = Words::new(program);
    // Who ends without a word has nothing to ask.
    if !words.read(1).await? || words.said != [5] {
        return words.to(node).await;
    }
    words.read_counted().await?;
    let [_, method] = answered(&mut words, node).await?;
    match method {
        0 => {}
        2 => {
            // The version, the user, the password.
            words.must_read(1).await?;
            words.read_counted().await?;
            words.read_counted().await?;
            let [_, status] = answered(&mut words, node).await?;
            if status != 0 {
                return Ok(Asked::Rest);
            }
        }
        _ => return Ok(Asked::Rest),
    }
    words.must_read(4).await?;
    let &[5, 3, 0, kind] = words.said.as_slice() else {
        return words.to(node).await;
    };
    // A Unix socket has no datagrams beside it, and the node says so.
    if matches!(words.program, Stream::Unix(_)) {
        return words.to(node).await;
    }
    match kind {
        1 => words.must_read(4 + 2).await?,
        4 => words.must_read(16 + 2).await?,
        3 => {
            words.read_counted().await?;
            words.must_read(2).await?;
        }
        _ => return words.to(node).await,
    }
    let from = socks::read_address(words.said.get(3..).unwrap_or_default());
    Ok(Asked::Datagrams(from.map(|(from, _)| from)))
}

/// Passes a whole message on to the node, and its answer of two bytes back.
async fn answered(words: &mut Words<'_>, node: &mut Stream) -> io::Result<[u8; 2]> {
    node.write_all(&words.said).await?;
    words.said.clear();
    let mut answer = [0; 2];
    node.read_exact(&mut answer).await?;
    words.program.write_all(&answer).await?;
    Ok(answer)
}

/// What a program has said that was not passed on yet: a message of SOCKS 5 at most, 513 bytes.
struct Words<'a> {
    program: &'a mut Stream,
    said: Vec<u8>,
}

impl<'a> Words<'a> {
    fn new(program: &'a mut Stream) -> Self {
        Self {
            program,
            said: Vec::new(),
        }
    }

    /// Reads so many bytes more. `false` if there is nothing more to come.
    async fn read(&mut self, len: usize) -> io::Result<bool> {
        let begun = self.said.len();
        self.said.resize(begun + len, 0);
        match self.program.read_exact(&mut self.said[begun..]).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.said.truncate(begun);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn must_read(&mut self, len: usize) -> io::Result<()> {
        match self.read(len).await? {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Reads a byte, and as many more as it says.
    async fn read_counted(&mut self) -> io::Result<()> {
        self.must_read(1).await?;
        let count = self.said.last().copied().unwrap_or_default();
        self.must_read(count.into()).await
    }

    /// Passes on what was said; the node says the rest.
    async fn to(self, node: &mut Stream) -> io::Result<Asked> {
        node.write_all(&self.said).await?;
        Ok(Asked::Rest)
    }
}

/// Gives a program a port for datagrams in the namespace, and carries what comes there, for as long as its connection
/// lasts.
async fn associate(
    open: &Open,
    program: &mut Stream,
    node: &mut Stream,
    from: Option<SocketAddr>,
) -> Result<(), Failed> {
    let Some(socket) = lock(&open.datagrams).pop() else {
        tracing::debug!("as many programs as may have a port for datagrams");
        return refuse(program, 1).await;
    };
    let socket = UdpSocket::from(socket);
    match bind(&socket, program) {
        Ok(()) => {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            let carried = carry(&socket, program, node, from).await;
            let_go(open, socket.into_std()?);
            carried
        }
        // A socket that cannot be bound is of no use to others either.
        Err(error) => {
            tracing::debug!(%error, "no port for a program's datagrams");
            refuse(program, 1).await
        }
    }
}

/// Gives the socket a port of its own, at the address that the program has connected to.
fn bind(socket: &UdpSocket, program: &Stream) -> io::Result<()> {
    let Stream::Tcp(stream) = program else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let at = SocketAddr::new(stream.local_addr()?.ip(), 0);
    rustix::io::ioctl_fionbio(socket, true)?;
    Ok(rustix::net::bind(socket, &at)?)
}

/// Keeps the socket for another program: it loses its port, and what has come there. (Linux takes a port that nobody has
/// named away from a socket whose connection is dissolved, connect(2), and has it be bound anew.)
fn let_go(open: &Open, socket: UdpSocket) {
    if rustix::net::connect_unspec(&socket).is_err() {
        return;
    }
    let mut bytes = [0];
    while socket.recv(&mut bytes).is_ok() {}
    lock(&open.datagrams).push(socket.into());
}

async fn refuse(program: &mut Stream, code: u8) -> Result<(), Failed> {
    program
        .write_all(&[&[5, code, 0], &NO_ADDRESS[..]].concat())
        .await?;
    Ok(program.shutdown().await?)
}

async fn carry(
    socket: &tokio::net::UdpSocket,
    program: &mut Stream,
    node: &mut Stream,
    from: Option<SocketAddr>,
) -> Result<(), Failed> {
    let asking = Request::Datagrams.to_bytes();
    node.write_all(&asking).await?;
    let code = socks::read_reply(node).await?;
    if code != 0 {
        return refuse(program, code).await;
    }
    let bound = socks::address(socket.local_addr()?);
    program
        .write_all(&[&[5, 0, 0], &bound[..]].concat())
        .await?;
    let own = socket.local_addr()?.ip();
    // The only port of the program that is heard: the one that it has named, else the first that sends what can be one.
    let named = from.filter(|from| from.ip().to_canonical() == own);
    let heard = AtomicU16::new(named.map_or(0, |from| from.port()));
    let (mut from_node, mut to_node) = tokio::io::split(node);
    let outward = async {
        let mut datagram = vec![0; LONGEST];
        loop {
            let (len, sender) = socket.recv_from(&mut datagram).await?;
            let datagram = &datagram[..len];
            let port = heard.load(Ordering::Relaxed);
            let is_heard = sender.ip().to_canonical() == own && [0, sender.port()].contains(&port);
            if !is_heard || !is_datagram(datagram) {
                continue;
            }
            heard.store(sender.port(), Ordering::Relaxed);
            let Ok(length) = u16::try_from(len) else {
                continue;
            };
            let framed = [&length.to_be_bytes()[..], datagram].concat();
            to_node.write_all(&framed).await?;
        }
    };
    let inward = async {
        while let Some(frame) = next_frame(&mut from_node).await {
            let port = heard.load(Ordering::Relaxed);
            if port != 0 {
                // What the program's socket does not take is lost.
                let _ = socket.try_send_to(&frame, SocketAddr::new(own, port));
            }
        }
        Ok(())
    };
    let lasts = async {
        let mut idle = [0; 512];
        // What else the program says on its connection means nothing.
        while program.read(&mut idle).await? > 0 {}
        Ok(())
    };
    let ended: io::Result<()> = tokio::select! {
        ended = outward => ended,
        ended = inward => ended,
        ended = lasts => ended,
    };
    Ok(ended?)
}

/// Can this be a datagram as SOCKS writes it (RFC 1928, 7), and no part of one? The node reads the rest.
fn is_datagram(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0, 0, 1 | 3 | 4, ..])
}
